//! Web services behind tunnels, by each way there is, and web clients as plain as can be.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use axum::{Router, body::Body};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http2, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt;
use tunnel_api::rpc::v1::{Carry, OpenTunnelRequest, OpenTunnelResponse};
use tunnel_backends::{
    relay::BoxDuplex,
    testing::{AgentStream, Serving, TestAgent},
};
use tunnel_server::Running;

use crate::{client::at, server::rpc};

/// How requests come to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As requests: the agent is a stock HTTP/2 server.
    Requests,
    /// On connections, of which one dial-in carries many.
    Connections,
    /// On connections, one a dial-in.
    Tcp,
}

impl Way {
    /// What opens a tunnel of this kind.
    pub fn request(self, address: &str) -> OpenTunnelRequest {
        let (backend, carry, connections) = match self {
            Self::Requests => ("mux", Carry::Requests, 0),
            Self::Connections => ("mux", Carry::Connections, 0),
            Self::Tcp => ("tcp", Carry::Connections, 8),
        };
        OpenTunnelRequest {
            backend: backend.to_owned(),
            address: address.to_owned(),
            carry: carry.into(),
            connections,
            proxy_protocol: self == Self::Tcp,
            ..OpenTunnelRequest::default()
        }
    }
}

/// A web service behind a tunnel. Dropping it is a crash of its agent.
pub struct Site {
    /// As it was opened.
    pub opened: OpenTunnelResponse,
    /// Its host name.
    pub host: String,
    connections: Arc<AtomicUsize>,
    _agent: SiteAgent,
}

impl Site {
    /// How many connections its origin has had.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

enum SiteAgent {
    Requests { _task: AbortOnDropHandle<()> },
    Connections { _serving: Serving },
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Site").field("host", &self.host).finish_non_exhaustive()
    }
}

/// Opens a tunnel at this address and serves it with `app`.
///
/// # Panics
/// If there is none to be had.
pub async fn site(server: &Running, way: Way, address: &str, app: Router) -> Site {
    let opened = rpc(server).await.open_tunnel(way.request(address)).await.expect("a tunnel").into_inner();
    serve(way, opened, app).await
}

/// Serves a tunnel that is open.
///
/// # Panics
/// If its agent is not let in.
pub async fn serve(way: Way, opened: OpenTunnelResponse, app: Router) -> Site {
    let connections = Arc::new(AtomicUsize::new(0));
    let agent = match way {
        Way::Requests => {
            connections.fetch_add(1, Ordering::Relaxed);
            serve_requests(&opened.uri, app, true).await
        }
        Way::Connections | Way::Tcp => {
            let (agent, connections) =
                (TestAgent::dial(&opened.uri.parse().expect("a tunnel URI"), 4), connections.clone());
            let serving = agent.serve(move |stream| {
                connections.fetch_add(1, Ordering::Relaxed);
                serve_http1(stream, app.clone())
            });
            SiteAgent::Connections { _serving: serving }
        }
    };
    let host = host_of(&opened.address).to_owned();
    Site { opened, host, connections, _agent: agent }
}

/// A site whose agent takes requests, and nothing that is none.
///
/// # Panics
/// If there is none to be had.
pub async fn site_without_protocols(server: &Running, address: &str, app: Router) -> Site {
    let opened = rpc(server).await.open_tunnel(Way::Requests.request(address)).await.expect("a tunnel").into_inner();
    let agent = serve_requests(&opened.uri, app, false).await;
    let host = host_of(&opened.address).to_owned();
    Site { opened, host, connections: Arc::default(), _agent: agent }
}

async fn serve_requests(uri: &str, app: Router, takes_protocols: bool) -> SiteAgent {
    let socket = dial_in(uri).await.expect("the agent is let in");
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    if takes_protocols {
        builder.enable_connect_protocol();
    }
    let app = service_fn(move |request: Request<Incoming>| {
        let app = app.clone();
        async move { app.oneshot(request.map(Body::new)).await }
    });
    let serving = builder.serve_connection(TokioIo::new(socket), app);
    SiteAgent::Requests { _task: AbortOnDropHandle::new(tokio::spawn(async move { drop(serving.await) })) }
}

/// The host of an address such as `http://blog.localhost:8010/`.
pub fn host_of(address: &str) -> &str {
    let authority = address.split('/').nth(2).unwrap_or_default();
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

async fn serve_http1(stream: AgentStream, app: Router) {
    // It hears of a client that goes while it works.
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(Client(Some(stream))), TowerToHyperService::new(app));
    let _ = connection.with_upgrades().await;
}

/// A client's stream that has finished when it is shut down, and is aborted otherwise.
struct Client(Option<AgentStream>);

impl Client {
    fn io(&mut self) -> io::Result<Pin<&mut BoxDuplex>> {
        self.0.as_mut().map(|stream| Pin::new(&mut stream.io)).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for Client {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.0.is_none() {
            return Poll::Ready(Ok(()));
        }
        self.io()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Client {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.io()?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.is_some() {
            ready!(self.io()?.poll_shutdown(cx))?;
        }
        if let Some(stream) = self.0.take() {
            stream.close();
        }
        Poll::Ready(Ok(()))
    }
}

/// A stock agent's half of PTTH, up to where it is an HTTP/2 server.
///
/// # Errors
/// If it is not let in.
pub async fn dial_in(uri: &str) -> io::Result<TcpStream> {
    let malformed = || io::Error::other(format!("no answer to a dial-in at {uri}"));
    let (credentials, rest) =
        uri.strip_prefix("ptth://").and_then(|rest| rest.split_once('@')).ok_or_else(malformed)?;
    let (authority, path) = rest.split_once('/').ok_or_else(malformed)?;
    let mut socket = TcpStream::connect(at(&format!("tcp://{authority}"))).await?;
    let basic = BASE64_STANDARD.encode(credentials);
    let request = format!(
        "GET /{path} HTTP/1.1\r\nhost: {authority}\r\nconnection: upgrade\r\nupgrade: ptth\r\nalpn: h2\r\n\
         authorization: Basic {basic}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    let head = hear_head(&mut socket).await?;
    if head.starts_with("HTTP/1.1 101 ") { Ok(socket) } else { Err(io::Error::other(head)) }
}

/// An answer's head, and not a byte more.
///
/// # Errors
/// If it does not come.
pub async fn hear_head(socket: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await?);
    }
    String::from_utf8(head).map_err(io::Error::other)
}

/// A client's connection that says this.
///
/// # Errors
/// If there is none.
pub async fn say(server: &Running, words: &str) -> io::Result<TcpStream> {
    let mut socket = TcpStream::connect(server.addr()).await?;
    socket.write_all(words.as_bytes()).await?;
    Ok(socket)
}

/// What is answered to this, to the end of the connection.
///
/// # Errors
/// If it is reset.
pub async fn answer_to(server: &Running, words: &str) -> io::Result<String> {
    let mut socket = say(server, words).await?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A GET of this host's, on a connection of its own.
pub fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
}

/// One answer of a length that it says, on a connection that goes on.
///
/// # Errors
/// If there is none.
pub async fn hear_answer(socket: &mut TcpStream) -> io::Result<(String, String)> {
    let head = hear_head(socket).await?;
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")).and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    socket.read_exact(&mut body).await?;
    Ok((head, String::from_utf8_lossy(&body).into_owned()))
}

/// A client that speaks HTTP/2.
pub struct Http2 {
    sender: http2::SendRequest<BoxedBody>,
    _connections: JoinSet<()>,
}

/// What an HTTP/2 client says.
pub type BoxedBody = http_body_util::combinators::UnsyncBoxBody<Bytes, io::Error>;

impl std::fmt::Debug for Http2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http2").finish_non_exhaustive()
    }
}

impl Http2 {
    /// Connects.
    ///
    /// # Panics
    /// If it cannot.
    pub async fn connect(addr: SocketAddr) -> Self {
        let socket = TcpStream::connect(addr).await.expect("a connection");
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.expect("an HTTP/2 handshake");
        let mut connections = JoinSet::new();
        connections.spawn(async move { drop(connection.await) });
        Self { sender, _connections: connections }
    }

    /// Asks.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn ask(&mut self, request: Request<BoxedBody>) -> hyper::Result<Response<Incoming>> {
        self.sender.send_request(request).await
    }

    /// A GET; the answer's status and body.
    ///
    /// # Panics
    /// If there is none.
    pub async fn get(&mut self, url: &str) -> (u16, String) {
        let request = Request::builder().method(Method::GET).uri(url).body(body("")).expect("a request");
        let answer = self.ask(request).await.expect("an answer");
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("a whole answer").to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }
}

/// A body that is known.
pub fn body(text: &'static str) -> BoxedBody {
    Full::new(Bytes::from_static(text.as_bytes())).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// How long clients wait for an agent, on every backend.
pub fn client_wait(config: &mut tunnel_server::Config, wait: std::time::Duration) {
    for backend in config.backends.values_mut() {
        match backend {
            tunnel_server::config::Backend::Tcp(tcp) => tcp.client_wait = wait,
            tunnel_server::config::Backend::Mux(mux) => mux.client_wait = wait,
            _ => {}
        }
    }
}
