//! The agent's half: connect (by TLS where the URI says `ptths`), ask for the upgrade, and be HTTP/2's server.

use std::{
    future::poll_fn,
    io,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use h2::{
    RecvStream,
    server::{Connection, SendResponse},
};
use http::{
    Method, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONNECTION, FORWARDED, HOST, RETRY_AFTER, UPGRADE},
};
use http_body_util::Empty;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::AbortOnDropHandle,
};
use tracing::Instrument;
use tunnel_api::{TunnelUri, tls::ClientTls};

use super::{
    H2, PTTH, Patience,
    answer::RequestOffer,
    forwarded::addresses,
    inbox::{SharedInbox, Streams},
    limits::{self, LAST_STREAM, MOST_STREAMS, RESETS_A_SECOND},
    outgoing::{Gathering, MOST_HELP},
    parting::Farewell,
    pulse::{Pulse, SetWindow},
    stream::{Chunk, H2Stream},
    wire::Wire,
};
use crate::{
    carrier::{
        Answer, ClientsPerDialIn, ConnectionOffer, Declined, DialError, Dialler, Incoming, Offer, connect::connect,
    },
    link::Link,
    relay::BoxDuplex,
    replay::Replay,
};

/// Dials `ptth://` and `ptths://` tunnels.
#[derive(Debug, Default)]
pub struct PtthDialler {
    /// What our sessions call themselves: a name that is free belonged to one that was lost, and the next one takes it over,
    /// so that the server need not find out by itself.
    free_names: Arc<Mutex<Vec<String>>>,
    /// How long the server may be silent.
    pub patience: Patience,
    /// Whom to trust on `ptths`, and what to show.
    tls: ClientTls,
}

#[async_trait]
impl Dialler for PtthDialler {
    async fn dial(&self, uri: &TunnelUri) -> Result<Box<dyn Incoming>, DialError> {
        let name = SessionName::take(&self.free_names);
        let socket = connect(uri).await?;
        // One limit for all that the server says before it speaks HTTP/2.
        let silent = || io::Error::new(io::ErrorKind::TimedOut, "no answer to the request");
        let come_in = async { upgrade(self.link(socket, uri).await?, uri, &name).await };
        let io = timeout(ANSWER, come_in).await.map_err(|_| DialError::Silent(silent()))??;
        let wire = Wire::to_caller(io);
        let (heard, gathering, farewell) = (wire.heard(), wire.gathering(), wire.farewell());
        let handshake = timeout(ANSWER, limits::answerer().handshake::<_, Chunk>(wire)).await;
        let mut connection = handshake.map_err(|_| DialError::Silent(silent()))?.map_err(|error| lost(&error))?;
        // They are there until they are taken.
        let pings = connection.ping_pong().expect("the connection's pings");
        let pulse = Pulse::new(pings, heard, self.patience);
        Ok(Box::new(Session::start(connection, gathering, farewell, pulse, name)))
    }

    fn clients(&self) -> ClientsPerDialIn {
        ClientsPerDialIn::Many
    }
}

impl PtthDialler {
    /// One that trusts so.
    pub fn new(tls: ClientTls) -> Self {
        Self { tls, ..Self::default() }
    }

    async fn link(&self, socket: TcpStream, uri: &TunnelUri) -> Result<Link, DialError> {
        // A name that was opened in clear before has a URI that says so; its ticket is as secret as any.
        if uri.scheme() == PTTH && !self.tls.is_demanded() {
            return Ok(Link::Plain(socket));
        }
        Ok(Link::tls(self.tls.connect(Replay::new(Bytes::new(), socket), uri.host(), b"http/1.1").await?))
    }
}

/// The name of one of our sessions. It is free again when the session is lost.
#[derive(Debug)]
struct SessionName {
    name: String,
    free_names: Option<Arc<Mutex<Vec<String>>>>,
}

impl SessionName {
    fn take(free_names: &Arc<Mutex<Vec<String>>>) -> Self {
        let free = free_names.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let name = free.unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
        Self { name, free_names: Some(free_names.clone()) }
    }

    /// Nobody takes it over: its session ends by itself.
    fn retire(&mut self) {
        self.free_names = None;
    }
}

impl Drop for SessionName {
    fn drop(&mut self) {
        if let Some(names) = &self.free_names {
            names.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut self.name));
        }
    }
}

async fn upgrade(link: Link, uri: &TunnelUri, name: &SessionName) -> Result<Replay, DialError> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(link)).await.map_err(|error| refused(&error))?;
    let connection = AbortOnDropHandle::new(tokio::spawn(connection.with_upgrades()));
    let response = sender.send_request(request(uri, name)?).await.map_err(|error| refused(&error))?;
    match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => {}
        StatusCode::UNAUTHORIZED => return Err(DialError::UnknownTunnel),
        status @ (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => {
            let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            let after = Duration::from_secs(seconds.unwrap_or(1)).min(LONGEST_RETRY_AFTER);
            return Err(DialError::Busy { why: status.to_string(), after });
        }
        status => return Err(DialError::Protocol(format!("it answered {status}"))),
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(|error| refused(&error))?;
    drop(connection);
    taken_back(upgraded)
}

/// The connection itself, with what has come on it since.
fn taken_back(upgraded: Upgraded) -> Result<Replay, DialError> {
    let parts = upgraded.downcast::<TokioIo<Link>>();
    // It is of the kind that was given.
    let parts = parts.map_err(|_| DialError::Protocol("the upgraded connection is another one".to_owned()))?;
    Ok(Replay::new(parts.read_buf, parts.io.into_inner()))
}

fn request(uri: &TunnelUri, name: &SessionName) -> Result<Request<Empty<Bytes>>, DialError> {
    let (id, ticket) = uri.credentials().unwrap_or_default();
    let credentials = BASE64_STANDARD.encode(format!("{id}:{ticket}"));
    let target = uri.target();
    let separator = if target.contains('?') { '&' } else { '?' };
    Request::builder()
        .method(Method::GET)
        .uri(format!("{target}{separator}agent={}&resets={RESETS_A_SECOND}", name.name))
        .header(HOST, format!("{}:{}", uri.host(), uri.port()))
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, PTTH)
        .header("alpn", H2)
        .header(AUTHORIZATION, format!("Basic {credentials}"))
        .body(Empty::new())
        .map_err(|error| DialError::Failed(io::Error::new(io::ErrorKind::InvalidInput, error)))
}

fn refused(error: &hyper::Error) -> DialError {
    DialError::Refused(io::Error::other(error.to_string()))
}

fn lost(error: &h2::Error) -> DialError {
    DialError::Refused(io::Error::other(error.to_string()))
}

/// A session with the server. A task of its own drives it, so that nothing stops when the application takes no clients.
struct Session {
    offers: mpsc::Receiver<Offer>,
    ended: oneshot::Receiver<Result<(), DialError>>,
    /// Dropped when nobody wants more clients: the driver then says goodbye, and ends with the last stream.
    leave: DropGuard,
    driver: JoinHandle<()>,
}

impl Session {
    fn start(
        connection: Connection<Wire, Chunk>,
        gathering: Arc<Gathering>,
        farewell: Farewell,
        pulse: Pulse,
        name: SessionName,
    ) -> Self {
        let (offers_in, offers) = mpsc::channel(BACKLOG);
        let (ended_in, ended) = oneshot::channel();
        let leave = CancellationToken::new();
        // On the heap: a future that has what it is called on has room for it twice, and sessions are idle for days.
        let driver = Box::new(Driver {
            connection,
            gathering,
            farewell,
            pulse,
            name,
            streams: Arc::default(),
            offers: Some(offers_in),
            ended: Some(ended_in),
            lets_others_go_first: false,
        });
        let driver = tokio::spawn(driver.run(leave.clone()).in_current_span());
        Self { offers, ended, leave: leave.drop_guard(), driver }
    }
}

#[async_trait]
impl Incoming for Session {
    async fn next(&mut self) -> Result<Option<Offer>, DialError> {
        if let Some(offer) = self.offers.recv().await {
            return Ok(Some(offer));
        }
        match (&mut self.ended).await {
            Ok(ended) => ended.map(|()| None),
            // The driver panicked.
            Err(_) => Err(DialError::Failed(io::Error::other("the session's task is gone"))),
        }
    }

    fn next_there(&mut self) -> Option<Offer> {
        self.offers.try_recv().ok()
    }

    async fn part(self: Box<Self>) {
        let Self { offers, leave, driver, .. } = *self;
        drop((offers, leave));
        // One that panicked has nothing left to say.
        let _ = driver.await;
    }
}

struct Driver {
    connection: Connection<Wire, Chunk>,
    pulse: Pulse,
    name: SessionName,
    streams: Arc<Streams>,
    /// Gone when no more clients are wanted; before that `ended` has been told.
    offers: Option<mpsc::Sender<Offer>>,
    ended: Option<oneshot::Sender<Result<(), DialError>>>,
    /// What all say goes out together.
    gathering: Arc<Gathering>,
    farewell: Farewell,
    /// Others who were ready are having their turn first.
    lets_others_go_first: bool,
}

impl SetWindow for Connection<Wire, Chunk> {
    fn set_window(&mut self, size: u32) -> Result<(), h2::Error> {
        self.set_initial_window_size(size)
    }
}

impl Driver {
    async fn run(mut self: Box<Self>, leave: CancellationToken) {
        let ended = tokio::select! {
            biased;
            ended = poll_fn(|cx| self.poll(cx)) => Some(ended),
            () = leave.cancelled() => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                self.say_goodbye();
                poll_fn(|cx| self.poll(cx)).await
            }
        };
        tracing::debug!(?ended, "session ended");
        self.tell(ended);
    }

    /// No more clients; the streams there are go on.
    fn say_goodbye(&mut self) {
        self.tell(Ok(()));
        self.offers = None;
        self.name.retire();
        self.farewell.say();
        self.connection.graceful_shutdown();
    }

    fn tell(&mut self, ended: Result<(), DialError>) {
        if let Some(teller) = self.ended.take() {
            // Nobody may want to know.
            let _ = teller.send(ended);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        // Whoever says something wakes us, and we would be the next to run: one write for each answer. What all have to say who are
        // ready goes out in one.
        self.lets_others_go_first = !self.lets_others_go_first;
        if self.lets_others_go_first {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.gathering.begin();
        let mut ended = self.poll_connection(cx);
        if self.gathering.end() && ended.is_pending() {
            ended = self.poll_connection(cx);
        }
        for _ in 0..MOST_HELP {
            if ended.is_ready() || !self.gathering.help_if_stuck() {
                break;
            }
            ended = self.poll_connection(cx);
        }
        if ended.is_ready() {
            return ended;
        }
        self.pulse.poll(cx, &mut self.connection, &self.streams).map(|_silent| {
            Err(DialError::Silent(io::Error::new(io::ErrorKind::TimedOut, "the server has fallen silent")))
        })
    }

    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        loop {
            match ready!(self.connection.poll_accept(cx)) {
                Some(Ok((request, respond))) => self.offer(request, respond),
                Some(Err(error)) => return Poll::Ready(Err(lost(&error))),
                None => return Poll::Ready(Ok(())),
            }
        }
    }

    fn offer(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Chunk>) {
        if respond.stream_id().as_u32() >= LAST_STREAM && self.offers.is_some() {
            // The next session takes over before the ids of this one are used up.
            self.say_goodbye();
        }
        let is_connection =
            request.method() == Method::CONNECT && request.extensions().get::<h2::ext::Protocol>().is_none();
        let offer = if is_connection {
            let addrs = request.headers().get(FORWARDED).and_then(|value| addresses(value.to_str().ok()?));
            let Some((client_addr, public_addr)) = addrs else {
                return answer_without_body(&mut respond, StatusCode::BAD_REQUEST);
            };
            let inbox = self.streams.inbox(Some(request.into_body()));
            let client = Client { respond, inbox, streams: self.streams.clone() };
            Offer::Connection(ConnectionOffer::new(client_addr, public_addr, client))
        } else {
            Offer::Request(RequestOffer::new(request, respond, self.streams.clone()))
        };
        if let Some(offers) = &self.offers {
            // Where it is full, or nobody takes clients any more, the offer is dropped, which leaves it to another agent.
            let _ = offers.try_send(offer);
        }
    }
}

/// A client that waits for our answer.
struct Client {
    respond: SendResponse<Chunk>,
    inbox: SharedInbox,
    streams: Arc<Streams>,
}

impl Answer for Client {
    fn accept(mut self: Box<Self>) -> io::Result<BoxDuplex> {
        let accepted = self.respond.send_response(Response::new(()), false);
        let send = accepted.map_err(|error| io::Error::new(io::ErrorKind::ConnectionReset, error))?;
        Ok(Box::new(H2Stream::new(send, self.inbox, self.streams)))
    }

    fn decline(mut self: Box<Self>, why: Declined) {
        let status = match why {
            Declined::Untouched => StatusCode::SERVICE_UNAVAILABLE,
            Declined::Refused => StatusCode::BAD_GATEWAY,
        };
        answer_without_body(&mut self.respond, status);
    }
}

pub(super) fn answer_without_body(respond: &mut SendResponse<Chunk>, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    // Fails on a stream that is dead already.
    let _ = respond.send_response(response, true);
}

/// For the server's answer to the request, and for the first of HTTP/2 after it.
const ANSWER: Duration = Duration::from_secs(5);

/// However long the server wants us to wait.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Clients that the application has not taken yet: as many as a session holds, so that none is declined that the server could
/// give to nobody else.
const BACKLOG: usize = MOST_STREAMS as usize;
