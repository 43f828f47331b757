//! A server by hand with one tunnel, and one agent that has dialled in.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;
use tunnel_agent::Agent;
use tunnel_api::{
    Caller, Carry, OpenTunnel, OpenedTunnel, PublicAddress, TunnelBackend, TunnelError, TunnelEvent, TunnelEvents,
    TunnelInfo, TunnelState, TunnelUri, WatchFilter, What,
};

/// The server, as an agent's backend.
pub(crate) struct Server {
    uri: TunnelUri,
    /// What was asked for, last.
    asked: Mutex<Option<OpenTunnel>>,
    /// Each watch that asks for requests.
    watches: mpsc::UnboundedSender<mpsc::UnboundedSender<What>>,
}

/// What the server has of the agent.
pub(crate) struct Rig {
    pub(crate) agent: Agent,
    pub(crate) server: Arc<Server>,
    pub(crate) watched: mpsc::UnboundedReceiver<mpsc::UnboundedSender<What>>,
    listener: TcpListener,
}

/// The agent's connection.
pub(crate) struct Session {
    requests: SendRequest<Bytes>,
    _connection: AbortOnDropHandle<()>,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("ptth://t-1:secret@{}/.well-known/ptth/t-1/", listener.local_addr().unwrap());
        let (watches, watched) = mpsc::unbounded_channel();
        let server = Arc::new(Server { uri: uri.parse().unwrap(), asked: Mutex::default(), watches });
        Self { agent: Agent::embedded(server.clone()), server, watched, listener }
    }

    /// Takes the agent's connection.
    pub(crate) async fn session(&self) -> Session {
        soon("a dial-in", async {
            let (mut socket, _) = self.listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(socket.read_u8().await.unwrap());
            }
            let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: ptth\r\nalpn: h2\r\n\r\n";
            socket.write_all(switch.as_bytes()).await.unwrap();
            let mut settings = h2::client::Builder::new();
            let handshake = settings.initial_connection_window_size(1 << 30).handshake(socket).await;
            let (requests, connection) = handshake.unwrap();
            let mut requests = requests.ready().await.unwrap();
            let connection = AbortOnDropHandle::new(tokio::spawn(async move {
                // It ends as the test ends it.
                let _ = connection.await;
            }));
            while !requests.is_extended_connect_protocol_enabled() {
                // The agent's settings are the first that it says; what comes back after a request comes after them.
                let (answer, _) =
                    requests.send_request(Request::connect("settings:1").body(()).unwrap(), true).unwrap();
                assert_eq!(answer.await.unwrap().status(), 400, "to a connection from nowhere");
                requests = requests.ready().await.unwrap();
            }
            Session { requests, _connection: connection }
        })
        .await
    }
}

impl Session {
    pub(crate) fn send(&mut self, head: Request<()>, ends: bool) -> (ResponseFuture, SendStream<Bytes>) {
        self.requests.send_request(head, ends).unwrap()
    }

    /// Asks, and gives the answer's head and all that follows.
    pub(crate) async fn ask(&mut self, head: Request<()>, body: &'static str) -> (Response<()>, Heard) {
        let (answer, mut say) = self.send(head, body.is_empty());
        if !body.is_empty() {
            say_all(&mut say, body.into()).await;
            say.send_data(Bytes::new(), true).unwrap();
        }
        let (head, body) = soon("an answer", answer).await.unwrap().into_parts();
        (Response::from_parts(head, ()), heard(body).await)
    }

    /// As [`ask`](Self::ask), for the text of what is whole.
    pub(crate) async fn get(&mut self, path: &str) -> (u16, String) {
        let (head, heard) = self.ask(get(path), "").await;
        (head.status().as_u16(), heard.text())
    }
}

/// What came after an answer's head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) bytes: Vec<u8>,
    /// How it ended: with trailers or without, or by an abort.
    pub(crate) end: Result<Option<HeaderMap>, Option<Reason>>,
}

impl Heard {
    pub(crate) fn text(self) -> String {
        assert!(self.end.is_ok(), "cut short: {:?}", self.end);
        String::from_utf8(self.bytes).unwrap()
    }
}

pub(crate) async fn heard(mut body: RecvStream) -> Heard {
    let mut bytes = Vec::new();
    let hear = async {
        while let Some(data) = body.data().await {
            let data = data.map_err(|error| error.reason())?;
            bytes.extend_from_slice(&data);
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        body.trailers().await.map_err(|error| error.reason())
    };
    let end = soon("the end of an answer", hear).await;
    Heard { bytes, end }
}

pub(crate) fn get(path: &str) -> Request<()> {
    from_client(Request::get(format!("http://blog.localhost{path}"))).body(()).unwrap()
}

pub(crate) fn post(path: &str) -> Request<()> {
    from_client(Request::post(format!("http://blog.localhost{path}"))).body(()).unwrap()
}

fn from_client(request: http::request::Builder) -> http::request::Builder {
    request.header("forwarded", "for=\"192.0.2.1:2\";by=\"192.0.2.3:80\"")
}

pub(crate) async fn say_all(say: &mut SendStream<Bytes>, mut bytes: Bytes) {
    while !bytes.is_empty() {
        say.reserve_capacity(bytes.len());
        let room = std::future::poll_fn(|cx| say.poll_capacity(cx)).await.unwrap().unwrap();
        say.send_data(bytes.split_to(room.min(bytes.len())), false).unwrap();
    }
}

/// Fails if it takes too long.
pub(crate) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), work).await.unwrap_or_else(|_| panic!("{what} did not come"))
}

impl Server {
    pub(crate) fn asked(&self) -> OpenTunnel {
        self.asked.lock().unwrap().clone().expect("nothing was opened")
    }
}

#[async_trait]
impl TunnelBackend for Server {
    async fn open_tunnel(&self, _: &Caller, request: OpenTunnel) -> Result<OpenedTunnel, TunnelError> {
        let carry = request.carry.unwrap_or(Carry::Requests);
        *self.asked.lock().unwrap() = Some(request);
        Ok(OpenedTunnel {
            id: "t-1".parse().unwrap(),
            uri: self.uri.clone(),
            address: PublicAddress::web(false, "blog.localhost".parse().unwrap(), 8010),
            dial_by: SystemTime::now() + Duration::from_secs(60),
            dial_from: Vec::new(),
            connections: 64,
            client_allow: Vec::new(),
            client_deny: Vec::new(),
            carry,
        })
    }

    async fn get_tunnel_address(&self, _: &Caller, _: &TunnelUri) -> Result<PublicAddress, TunnelError> {
        Err(TunnelError::NotFound)
    }

    async fn close_tunnel(&self, _: &Caller, _: &tunnel_api::TunnelRef) -> Result<(), TunnelError> {
        Ok(())
    }

    async fn watch_tunnels(&self, _: &Caller, filter: &WatchFilter) -> Result<TunnelEvents, TunnelError> {
        let (tell, told) = mpsc::unbounded_channel();
        let news =
            stream::unfold(told, async |mut told: mpsc::UnboundedReceiver<What>| Some((told.recv().await?, told)));
        let news: BoxStream<'static, What> = if filter.requests {
            // Fails where the test does not care.
            let _ = self.watches.send(tell);
            news.boxed()
        } else {
            stream::pending().boxed()
        };
        let event = |what| Ok(TunnelEvent { time: SystemTime::now(), tunnel: Some("t-1".parse().unwrap()), what });
        Ok(stream::iter([What::Present(Box::new(info())), What::Ready]).chain(news).map(event).boxed())
    }
}

fn info() -> TunnelInfo {
    TunnelInfo {
        id: "t-1".parse().unwrap(),
        name: None,
        addresses: Vec::new(),
        backend: "by-hand".to_owned(),
        state: TunnelState::Waiting,
        sessions: 0,
        streams: 0,
        bytes_to_agent: 0,
        bytes_to_client: 0,
        strangers: 0,
        refused_clients: 0,
        open_time: SystemTime::now(),
        expire_time: None,
        labels: tunnel_api::Labels::default(),
    }
}
