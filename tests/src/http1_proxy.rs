//! Proxies in front of the server that speak HTTP/1.1 to it, as many do, and pass upgrades.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, Version, header};
use http_body_util::{BodyExt, Empty, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tokio_util::task::AbortOnDropHandle;
use tunnel_api::tls::{certificates, private_key, provider};

use crate::certificates::Certificates;

/// A proxy; it ends when this is dropped.
#[derive(Debug)]
pub struct Http1Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _task: Option<AbortOnDropHandle<()>>,
    listener: Option<TcpListener>,
}

/// What it makes of those who begin by HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http2 {
    /// It hangs up.
    HangUp,
    /// It says by HTTP/1.1 that this is none.
    Refuse,
    /// It speaks it with them, and HTTP/1.1 with the server.
    Translate,
    /// It lets it through, as everything else.
    Pass,
}

#[derive(Debug)]
struct Shared {
    http2: watch::Sender<Http2>,
    target: watch::Sender<Option<SocketAddr>>,
    began_by_http2: AtomicUsize,
    open: watch::Sender<usize>,
}

impl Http1Proxy {
    /// It has an address, and does not answer there yet.
    ///
    /// # Panics
    /// If there is no port for it.
    pub async fn new(http2: Http2) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            http2: watch::Sender::new(http2),
            target: watch::Sender::new(None),
            began_by_http2: AtomicUsize::new(0),
            open: watch::Sender::new(0),
        });
        Self { addr, shared, _task: None, listener: Some(listener) }
    }

    /// From now on it answers for the server there.
    ///
    /// # Panics
    /// If it does already.
    pub fn serve(&mut self, target: SocketAddr) {
        self.serve_by(target, None);
    }

    /// The same by TLS, where it offers HTTP/2 if it translates it.
    ///
    /// # Panics
    /// If it does already, or if the certificate is no good.
    pub fn serve_by_tls(&mut self, target: SocketAddr, of: &Certificates) {
        let chain = certificates(&of.path("server.pem")).expect("a certificate");
        let key = private_key(&of.path("server.key.pem")).expect("a key");
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a pair");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        if *self.shared.http2.borrow() == Http2::Translate {
            config.alpn_protocols.insert(0, b"h2".to_vec());
        }
        self.serve_by(target, Some(TlsAcceptor::from(Arc::new(config))));
    }

    fn serve_by(&mut self, target: SocketAddr, tls: Option<TlsAcceptor>) {
        let listener = self.listener.take().expect("it does not serve yet");
        self.shared.target.send_replace(Some(target));
        self._task = Some(AbortOnDropHandle::new(tokio::spawn(accept(listener, self.shared.clone(), tls))));
    }

    /// Where it is.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// All its connections are cut, and it treats new ones so.
    pub fn becomes(&self, http2: Http2) {
        self.shared.http2.send_replace(http2);
    }

    /// How many connections have begun by HTTP/2 so far.
    pub fn began_by_http2(&self) -> usize {
        self.shared.began_by_http2.load(Ordering::Relaxed)
    }

    /// Waits until it has so many connections.
    ///
    /// # Panics
    /// If it is gone.
    pub async fn has_connections(&self, count: usize) {
        self.shared.open.subscribe().wait_for(|open| *open == count).await.expect("it is there");
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tls: Option<TlsAcceptor>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let (shared, tls) = (shared.clone(), tls.clone());
        connections.spawn(async move {
            let open = Open::new(shared.clone());
            let mut http2 = shared.http2.subscribe();
            http2.mark_unchanged();
            tokio::select! {
                biased;
                _ = http2.changed() => {}
                _ = converse(socket, &shared, tls) => {}
            }
            drop(open);
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Counted as long as it is there.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: Arc<Shared>) -> Self {
        shared.open.send_modify(|open| *open += 1);
        Self(shared)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

async fn converse(socket: TcpStream, shared: &Shared, tls: Option<TlsAcceptor>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    match tls {
        Some(tls) => converse_over(tls.accept(socket).await?, shared).await,
        None => converse_over(socket, shared).await,
    }
}

async fn converse_over<IO>(mut io: IO, shared: &Shared) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let target = shared.target.borrow().expect("it serves");
    let mut first = [0; 3];
    io.read_exact(&mut first).await?;
    let is_http2 = first == *b"PRI";
    if is_http2 {
        shared.began_by_http2.fetch_add(1, Ordering::Relaxed);
    }
    let http2 = *shared.http2.borrow();
    let mut io = Begun { first: Bytes::copy_from_slice(&first), io };
    let service = service_fn(move |request| forward(request, target));
    match (http2, is_http2) {
        (Http2::Pass, _) => {
            let mut server = connect(target).await?;
            copy_bidirectional(&mut io, &mut server).await.map(drop)
        }
        (Http2::HangUp, true) => Ok(()),
        (Http2::Refuse, true) => {
            io.read_exact(&mut [0; 18]).await?;
            io.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await?;
            io.shutdown().await?;
            io.read_to_end(&mut Vec::new()).await.map(drop)
        }
        (Http2::Translate, true) => {
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            server.serve_connection(TokioIo::new(io), service).await.map_err(io::Error::other)
        }
        (_, false) => {
            let server = hyper::server::conn::http1::Builder::new();
            server.serve_connection(TokioIo::new(io), service).with_upgrades().await.map_err(io::Error::other)
        }
    }
}

async fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(target).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

async fn forward(request: Request<Incoming>, target: SocketAddr) -> Result<Answer, Infallible> {
    let empty = || Empty::new().map_err(|never: Infallible| match never {}).boxed();
    Ok(try_forward(request, target).await.unwrap_or_else(|_| {
        let mut response = Response::new(empty());
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    }))
}

async fn try_forward(mut request: Request<Incoming>, target: SocketAddr) -> anyhow::Result<Answer> {
    let io = TokioIo::new(connect(target).await?);
    let (mut server, connection) = hyper::client::conn::http1::handshake(io).await?;
    tokio::spawn(connection.with_upgrades());
    let path = request.uri().path_and_query().cloned().ok_or_else(|| anyhow::anyhow!("no path"))?;
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    if !headers.contains_key(header::HOST) {
        headers.insert(header::HOST, target.to_string().parse()?);
    }
    if !headers.contains_key(header::UPGRADE) {
        headers.remove(header::CONNECTION);
    }
    headers.remove(header::TE);
    let near = request.headers().contains_key(header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let mut response = server.send_request(request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let (near, far) = (near.ok_or_else(|| anyhow::anyhow!("unasked"))?, hyper::upgrade::on(&mut response));
        tokio::spawn(async move {
            let (near, far) = (near.await?, far.await?);
            copy_bidirectional(&mut TokioIo::new(near), &mut TokioIo::new(far)).await?;
            anyhow::Ok(())
        });
    } else {
        response.headers_mut().remove(header::CONNECTION);
        response.headers_mut().remove(header::TRANSFER_ENCODING);
    }
    *response.version_mut() = Version::HTTP_11;
    Ok(response.map(BodyExt::boxed))
}

/// A connection of which the first bytes have been read already.
struct Begun<IO> {
    first: Bytes,
    io: IO,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Begun<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let some = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first.split_to(some));
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Begun<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
