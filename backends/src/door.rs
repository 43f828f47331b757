//! The one port. Everything that is not a tunnel's own data port comes in here: it reads a bounded prefix, tells the
//! protocols apart, and hands the connection on with the prefix put back. HTTP/1.1 and HTTP/2 today, plain or in TLS; the RPC
//! comes in as an opaque service, so that this crate knows nothing of it.

mod encryption;
mod first;
mod forwarded;
mod lobby;
mod pace;

use std::{
    convert::Infallible,
    error::Error,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Either, Ready, ready},
};
use http::{
    Request, Response,
    header::{self, AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION},
};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::{body::Incoming, service::Service};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use ipnet::IpNet;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::util::BoxCloneSyncService;
use tunnel_api::ConnectionAddrs;

use self::{
    encryption::Plain,
    first::{FirstUnit, Protocol, Refusal, read_first_unit},
    forwarded::origin,
    lobby::{Lobby, Outstayed, Seat},
    pace::{Pace, Paced, REQUEST},
};
use crate::{
    acceptor::Acceptor,
    link::Link,
    meters::{DoorRefused, Meters},
    replay::Replay,
    sockets,
    tls::ServerTls,
};

pub use encryption::Encryption;
pub use lobby::Newcomer;

/// What answers HTTP at the door. Requests carry [`ConnectionAddrs`], [`Arrival`] and a [`Newcomer`] in their extensions, and a
/// [`PeerCertificate`] where the peer has shown one. It says of requests that it lets through that they are
/// [accepted](Newcomer::accept); a connection none of whose requests ever is counts as waiting, and goes.
pub type HttpService = BoxCloneSyncService<Request<Incoming>, Response<HttpBody>, Infallible>;

/// The bodies of its answers.
pub type HttpBody = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// When a connection's first request, or a later request, began: at the accept of the connection, or when it had come.
#[derive(Debug, Clone, Copy)]
pub struct Arrival(pub Instant);

/// The certificate that the peer has shown, in DER. It is verified: somebody in `client_ca` vouches for it, and the peer has its
/// key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate(pub Arc<[u8]>);

/// The door's limits. Each is a config key.
#[derive(Debug, Clone)]
pub struct DoorTerms {
    /// From accept to the first complete unit of the connection's protocol (a request head, or HTTP/2's preface and
    /// SETTINGS), a TLS handshake included. One limit for all of it, so that dribbling bytes gains nothing.
    pub first_unit: Duration,
    /// How many connections may be there none of whose requests has been accepted yet. One more, and the one that has waited
    /// longest is closed, of the source that has the most. Each costs a descriptor and 16 KiB; if it makes a hundred requests
    /// at once, with heads and messages as long as may be, some 2 MiB.
    pub waiting: usize,
    /// How many of them may come from one source: a v4 address, or a v6 /64. One more, and the oldest of that source is
    /// closed. Loopback and `trusted_proxies` are not held to it: many parties come from there.
    pub waiting_per_source: usize,
    /// Proxies in front of us, which say in `X-Forwarded-For` for whom they ask.
    pub trusted_proxies: Arc<[IpNet]>,
    /// How long a connection is kept none of whose requests is accepted.
    pub idle: Duration,
    /// For those who come by TLS; there is none without.
    pub tls: Option<Arc<ServerTls>>,
    /// Who must.
    pub encryption: Encryption,
    /// Where it is counted what waits and what is refused.
    pub meters: Arc<Meters>,
}

impl Default for DoorTerms {
    fn default() -> Self {
        Self {
            first_unit: Duration::from_secs(5),
            waiting: 1024,
            waiting_per_source: 64,
            trusted_proxies: Arc::default(),
            idle: Duration::from_secs(60),
            tls: None,
            encryption: Encryption::default(),
            meters: Arc::default(),
        }
    }
}

/// The one port, open.
#[derive(Debug)]
pub struct Door {
    addr: SocketAddr,
    stop: CancellationToken,
    cut: CancellationToken,
    tasks: TaskTracker,
}

impl Door {
    /// Serves what connects to `listener` until the door is closed.
    pub fn open(listener: TcpListener, terms: DoorTerms, http: HttpService) -> io::Result<Self> {
        let acceptor = Acceptor::new(listener);
        let addr = acceptor.local_addr()?;
        let (stop, cut, tasks) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let hall = Arc::new(Hall {
            lobby: Lobby::new(
                terms.waiting,
                terms.waiting_per_source,
                terms.trusted_proxies.clone(),
                terms.meters.clone(),
            ),
            terms,
            http,
            stop: stop.clone(),
            cut: cut.clone(),
        });
        if let Some(tls) = hall.terms.tls.clone() {
            let stop = stop.clone();
            tasks.spawn(async move { stop.run_until_cancelled(tls.watch()).await });
        }
        tasks.spawn(accept(acceptor, hall, tasks.clone()));
        Ok(Self { addr, stop, cut, tasks })
    }

    /// Where it is.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Accepts nothing more, lets requests under way be answered for as long as `patience`, and hangs up.
    pub async fn close(self, patience: Duration) {
        self.stop.cancel();
        self.tasks.close();
        if timeout(patience, self.tasks.wait()).await.is_err() {
            tracing::debug!(connections = self.tasks.len(), "connections cut off");
            self.cut.cancel();
            self.tasks.wait().await;
        }
    }
}

/// What all connections share.
struct Hall {
    lobby: Arc<Lobby>,
    terms: DoorTerms,
    http: HttpService,
    /// No new requests.
    stop: CancellationToken,
    /// Nothing any more.
    cut: CancellationToken,
}

async fn accept(mut acceptor: Acceptor, hall: Arc<Hall>, tasks: TaskTracker) {
    loop {
        let (socket, peer) = tokio::select! {
            biased;
            () = hall.stop.cancelled() => return,
            accepted = acceptor.accept() => accepted,
        };
        let arrival = Arrival(Instant::now());
        let seat = hall.lobby.enter(peer.ip());
        let was_full = seat.was_anothers();
        let (hall, cut) = (hall.clone(), hall.cut.clone());
        tasks.spawn(async move { cut.run_until_cancelled(receive(socket, peer, arrival, seat, hall)).await });
        if was_full {
            // Let whoever had the seat hang up, or a crowd takes up more descriptors than there are seats.
            tokio::task::yield_now().await;
        }
    }
}

/// The seat in the lobby is kept until a request is accepted.
async fn receive(socket: TcpStream, peer: SocketAddr, arrival: Arrival, seat: Seat, hall: Arc<Hall>) {
    let Ok(local) = socket.local_addr() else { return };
    // Whoever does not get so far is reset, however it ends.
    let _ = sockets::reset_unless_finished(&socket);
    let met = tokio::select! {
        biased;
        () = hall.stop.cancelled() => return,
        () = seat.evicted() => Err(DoorRefused::Evicted),
        met = timeout(hall.terms.first_unit, hall.meet(socket, peer)) => met.map_err(|_| DoorRefused::Timeout),
    };
    match met {
        Ok(Ok(guest)) => hall.serve(guest, peer, sockets::canonical(local), arrival, seat).await,
        Ok(Err(error)) => {
            hall.terms.meters.door_refused(error.counted_as());
            let cause = std::error::Error::source(&error);
            tracing::debug!(peer.addr = %peer, %error, cause, "connection refused at the door");
        }
        Err(why) => hall.terms.meters.door_refused(why),
    }
}

/// A connection that has shown what it is.
struct Guest {
    first: FirstUnit,
    link: Link,
    plain: Option<Plain>,
    certificate: Option<PeerCertificate>,
}

impl Hall {
    async fn meet(&self, socket: TcpStream, peer: SocketAddr) -> Result<Guest, Refusal> {
        // Not one byte is held for a connection that says nothing.
        let mut first = [0];
        if socket.peek(&mut first).await? == 0 {
            let _ = finish(&socket);
            return Err(Refusal::Ended);
        }
        let (mut link, plain, certificate) = match (first[0], &self.terms.tls) {
            (HANDSHAKE, Some(tls)) => {
                let stream = match tls.accept(socket).await {
                    Ok(stream) => stream,
                    Err((error, socket)) => {
                        say_goodbye(socket).await;
                        return Err(Refusal::Handshake(error));
                    }
                };
                let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let certificate = shown.map(|der| PeerCertificate(Arc::from(der.as_ref())));
                (Link::tls(stream), None, certificate)
            }
            (HANDSHAKE, None) => return Err(refuse_tls(socket).await),
            _ => (Link::Plain(socket), Some(self.terms.encryption.of_plain(peer.ip())), None),
        };
        let first = read_first_unit(&mut link).await;
        finish(link.socket())?;
        Ok(Guest { first: first?, link, plain, certificate })
    }

    async fn serve(&self, guest: Guest, peer: SocketAddr, local: SocketAddr, arrival: Arrival, seat: Seat) {
        // `printf 'GET …' | nc` has finished when it has asked, and still wants its answer. Not so a gRPC-Web caller, whose watch
        // would otherwise go on until something happens that it could be told.
        let half_closes = !guest.first.is_grpc_web();
        let Guest { first: FirstUnit { protocol, bytes }, link, plain, certificate } = guest;
        let encrypted = matches!(plain, None | Some(Plain::Encrypted));
        if plain == Some(Plain::Refused) {
            self.terms.meters.door_refused(DoorRefused::Plain);
            tracing::debug!(peer.addr = %peer, "plain connection refused: it is not from tls_terminated_by");
        }
        let pace = Pace::new(seat.newcomer().clone());
        let service = Introduce {
            inner: TowerToHyperService::new(self.http.clone()),
            addrs: ConnectionAddrs { peer, local, encrypted },
            arrival,
            certificate,
            trusted_proxies: self.terms.trusted_proxies.clone(),
            is_refused: plain == Some(Plain::Refused),
            newcomer: seat.newcomer().clone(),
            asked: AtomicBool::new(false),
            pace: None,
        };
        let io = Replay::new(bytes.freeze(), link);
        let ended = match protocol {
            Protocol::Http1 => {
                let service = Introduce { pace: Some(Mutex::new(pace)), ..service };
                self.serve_http1(io, half_closes, service, &seat).await
            }
            Protocol::Http2 => self.serve_http2(Paced::new(io, pace), service, &seat).await,
        };
        if let Err(error) = ended {
            tracing::debug!(peer.addr = %peer, %error, "connection ended");
        }
    }

    async fn serve_http1(&self, io: Replay, half_closes: bool, service: Introduce, seat: &Seat) -> hyper::Result<()> {
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.terms.idle)
            .half_close(half_closes)
            .max_buf_size(LONGEST_HEAD)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let outstayed = tokio::select! {
            ended = connection.as_mut() => return ended,
            () = self.stop.cancelled() => None,
            why = seat.outstayed(self.terms.idle) => Some(why),
        };
        connection.as_mut().graceful_shutdown();
        self.leave(connection, outstayed, seat).await
    }

    async fn serve_http2(&self, io: Paced, service: Introduce, seat: &Seat) -> hyper::Result<()> {
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            // tonic leaves hyper's defaults behind when it takes its own; these are ours, for small requests.
            .max_concurrent_streams(100)
            .max_header_list_size(LONGEST_HEAD as u32)
            .initial_stream_window_size(64 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .max_send_buf_size(64 * 1024)
            // Requests that are reset before we have looked at them: more than a client that gives up calls has at once.
            .max_pending_accept_reset_streams(100)
            // Requests that break the rules, over a connection's whole life.
            .max_local_error_reset_streams(1024)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .serve_connection(TokioIo::new(io), service);
        let mut connection = std::pin::pin!(connection);
        let outstayed = tokio::select! {
            ended = connection.as_mut() => return ended,
            () = self.stop.cancelled() => None,
            why = seat.outstayed(self.terms.idle) => Some(why),
        };
        connection.as_mut().graceful_shutdown();
        self.leave(connection, outstayed, seat).await
    }

    /// Drives a connection that has been told to end.
    async fn leave(
        &self,
        mut connection: Pin<&mut impl Future<Output = hyper::Result<()>>>,
        outstayed: Option<Outstayed>,
        seat: &Seat,
    ) -> hyper::Result<()> {
        match outstayed {
            None => connection.await,
            // Its place is wanted now: it is told if it listens, and that is all.
            Some(Outstayed::Evicted) => {
                self.terms.meters.door_refused(DoorRefused::Evicted);
                connection.now_or_never().unwrap_or(Ok(()))
            }
            // It waits for the peer to acknowledge, and nobody says that this one ever will.
            Some(Outstayed::Idle) => match timeout(GOODBYE, connection.as_mut()).await {
                // A request crossed our goodbye: it is answered.
                Err(_) if seat.newcomer().is_accepted() => connection.await,
                ended => {
                    self.terms.meters.door_refused(DoorRefused::Timeout);
                    ended.unwrap_or(Ok(()))
                }
            },
        }
    }
}

/// It is closed in order from now on.
fn finish(socket: &TcpStream) -> io::Result<()> {
    SockRef::from(socket).set_linger(None)
}

/// Closes what the peer may still be talking on, so that it hears why: closing with something unread would take back what was said
/// last. (The caller bounds the time.)
async fn say_goodbye(mut socket: TcpStream) {
    let _ = finish(&socket);
    let _ = socket.shutdown().await;
    let mut unheard = [0; 1024];
    for _ in 0..MOST_UNHEARD {
        if !matches!(socket.read(&mut unheard).await, Ok(some) if some > 0) {
            return;
        }
    }
}

/// Tells a client that hopes for TLS that there is none, in TLS.
async fn refuse_tls(mut socket: TcpStream) -> Refusal {
    let _ = finish(&socket);
    // Closing with something unread would take the answer back.
    let _ = socket.read(&mut [0; 2048]).await;
    let _ = socket.write_all(&HANDSHAKE_FAILURE).await;
    let _ = socket.shutdown().await;
    Refusal::NoTls
}

/// Tells the service whose request it is, and marks what is secret in it before anybody can print it.
struct Introduce {
    inner: TowerToHyperService<HttpService>,
    addrs: ConnectionAddrs,
    arrival: Arrival,
    trusted_proxies: Arc<[IpNet]>,
    certificate: Option<PeerCertificate>,
    /// It had to be encrypted, and is not: nothing else about it matters.
    is_refused: bool,
    newcomer: Newcomer,
    asked: AtomicBool,
    /// Where requests are what is counted.
    pace: Option<Mutex<Pace>>,
}

impl Service<Request<Incoming>> for Introduce {
    type Response = Response<HttpBody>;
    type Error = Infallible;
    type Future = Either<
        Ready<Result<Self::Response, Infallible>>,
        Either<
            <TowerToHyperService<HttpService> as Service<Request<Incoming>>>::Future,
            BoxFuture<'static, Result<Self::Response, Infallible>>,
        >,
    >;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let is_first = !self.asked.swap(true, Ordering::Relaxed);
        for name in [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE] {
            if let header::Entry::Occupied(mut values) = request.headers_mut().entry(name) {
                values.iter_mut().for_each(|value| value.set_sensitive(true));
            }
        }
        if self.is_refused {
            return Either::Left(ready(Ok(encryption::refusal(&request))));
        }
        let peer = origin(request.headers(), self.addrs.peer, &self.trusted_proxies);
        request.extensions_mut().insert(ConnectionAddrs { peer, ..self.addrs });
        request.extensions_mut().insert(if is_first { self.arrival } else { Arrival(Instant::now()) });
        request.extensions_mut().insert(self.newcomer.clone());
        if let Some(certificate) = &self.certificate {
            request.extensions_mut().insert(certificate.clone());
        }
        let pace = self.pace.as_ref().map(|pace| pace.lock().unwrap_or_else(PoisonError::into_inner));
        Either::Right(match pace.and_then(|mut pace| pace.count(REQUEST)) {
            None => Either::Left(self.inner.call(request)),
            Some(until) => {
                let inner = self.inner.clone();
                Either::Right(async move { sleep_until(until).then(|()| inner.call(request)).await }.boxed())
            }
        })
    }
}

/// By which a TLS record with a ClientHello begins (RFC 8446, 5.1). No HTTP does.
const HANDSHAKE: u8 = 0x16;

/// TLS: a fatal alert (RFC 8446, 6).
const HANDSHAKE_FAILURE: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 40];

/// Of a request head, in bytes.
const LONGEST_HEAD: usize = 16 * 1024;

/// What a peer may go on saying after its handshake has failed, in kilobytes.
const MOST_UNHEARD: usize = 16;

/// For a peer that made no request to take in that it may go.
const GOODBYE: Duration = Duration::from_secs(2);

/// An HTTP/2 peer that vanished is noticed after twice this.
const PING: Duration = Duration::from_secs(15);
