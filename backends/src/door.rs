//! The one port. Everything that is not a tunnel's own data port comes in here: it reads a bounded prefix, tells the
//! protocols apart, and hands the connection on with the prefix put back. HTTP/1.1 and HTTP/2 today; the RPC comes in as an
//! opaque service, so that this crate knows nothing of it.

mod first;
mod forwarded;
mod lobby;

use std::{
    convert::Infallible,
    error::Error,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
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
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::util::BoxCloneSyncService;
use tunnel_api::ConnectionAddrs;

use self::{
    first::{FirstUnit, Protocol, read_first_unit},
    forwarded::origin,
    lobby::{Lobby, Seat},
};
use crate::{
    acceptor::Acceptor,
    meters::{DoorRefused, Meters},
    replay::Replay,
    sockets,
};

/// What answers HTTP at the door. Requests carry [`ConnectionAddrs`] and [`Arrival`] in their extensions.
pub type HttpService = BoxCloneSyncService<Request<Incoming>, Response<HttpBody>, Infallible>;

/// The bodies of its answers.
pub type HttpBody = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// When a connection's first request, or a later request, began: at the accept of the connection, or when it had come.
#[derive(Debug, Clone, Copy)]
pub struct Arrival(pub Instant);

/// The door's limits. Each is a config key.
#[derive(Debug, Clone)]
pub struct DoorTerms {
    /// From accept to the first complete unit of the connection's protocol (a request head, or HTTP/2's preface and
    /// SETTINGS). One limit for all of it, so that dribbling bytes gains nothing.
    pub first_unit: Duration,
    /// How many connections may be in that state. One more, and the one that has waited longest is closed, of the source
    /// that has the most. Each costs a descriptor and at most 16 KiB.
    pub waiting: usize,
    /// How many of them may come from one source: a v4 address, or a v6 /64. One more, and the oldest of that source is
    /// closed. Loopback and `trusted_proxies` are not held to it: many parties come from there.
    pub waiting_per_source: usize,
    /// Proxies in front of us, which say in `X-Forwarded-For` for whom they ask.
    pub trusted_proxies: Arc<[IpNet]>,
    /// How long a connection without a request is kept.
    pub idle: Duration,
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
            lobby: Lobby::new(terms.waiting, terms.waiting_per_source, terms.trusted_proxies.clone()),
            terms,
            http,
            stop: stop.clone(),
            cut: cut.clone(),
        });
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
        let (hall, cut) = (hall.clone(), hall.cut.clone());
        tasks.spawn(async move { cut.run_until_cancelled(receive(socket, peer, arrival, seat, hall)).await });
    }
}

/// From accept to the first complete unit; then the seat in the lobby is free again.
async fn receive(mut socket: TcpStream, peer: SocketAddr, arrival: Arrival, seat: Seat, hall: Arc<Hall>) {
    let Ok(local) = socket.local_addr() else { return };
    let waits = hall.terms.meters.waits_at_the_door();
    let first = tokio::select! {
        biased;
        () = hall.stop.cancelled() => return sockets::reset(socket),
        () = seat.evicted() => Err(DoorRefused::Evicted),
        first = timeout(hall.terms.first_unit, read_first_unit(&mut socket)) => first.map_err(|_| DoorRefused::Timeout),
    };
    drop((seat, waits));
    let addrs = ConnectionAddrs { peer, local: sockets::canonical(local), encrypted: false };
    match first {
        Ok(Ok(FirstUnit { protocol, bytes })) => {
            hall.serve(protocol, Replay::new(bytes.freeze(), socket), addrs, arrival).await;
        }
        Ok(Err(refusal)) => {
            hall.terms.meters.door_refused(refusal.counted_as());
            tracing::debug!(peer.addr = %peer, error = %refusal, "connection refused at the door");
        }
        Err(why) => {
            hall.terms.meters.door_refused(why);
            sockets::reset(socket);
        }
    }
}

impl Hall {
    async fn serve(&self, protocol: Protocol, io: Replay, addrs: ConnectionAddrs, arrival: Arrival) {
        let asked = Arc::new(AtomicBool::new(false));
        let service = Introduce {
            inner: TowerToHyperService::new(self.http.clone()),
            addrs,
            arrival,
            trusted_proxies: self.terms.trusted_proxies.clone(),
            asked: asked.clone(),
        };
        let ended = match protocol {
            Protocol::Http1 => self.serve_http1(io, service).await,
            Protocol::Http2 => self.serve_http2(io, service, &asked).await,
        };
        if let Err(error) = ended {
            tracing::debug!(peer.addr = %addrs.peer, %error, "connection ended");
        }
    }

    async fn serve_http1(&self, io: Replay, service: Introduce) -> hyper::Result<()> {
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.terms.idle)
            // `printf 'GET …' | nc` has finished when it has asked, and still wants its answer.
            .half_close(true)
            .max_buf_size(LONGEST_HEAD)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = self.stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    }

    async fn serve_http2(&self, io: Replay, service: Introduce, asked: &AtomicBool) -> hyper::Result<()> {
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            // tonic leaves hyper's defaults behind when it takes its own; these are ours, for small requests.
            .max_concurrent_streams(100)
            .max_header_list_size(LONGEST_HEAD as u32)
            .initial_stream_window_size(64 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .max_send_buf_size(64 * 1024)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .serve_connection(TokioIo::new(io), service);
        let mut connection = std::pin::pin!(connection);
        let was_idle = tokio::select! {
            ended = connection.as_mut() => return ended,
            () = self.stop.cancelled() => false,
            () = idle_without_request(self.terms.idle, asked) => true,
        };
        connection.as_mut().graceful_shutdown();
        if !was_idle {
            return connection.await;
        }
        // It waits for the peer to acknowledge, and nobody says that this one ever will.
        match timeout(GOODBYE, connection.as_mut()).await {
            Ok(ended) => ended,
            // A request crossed our goodbye: it is answered.
            Err(_) if asked.load(Ordering::Relaxed) => connection.await,
            Err(_) => Ok(()),
        }
    }
}

/// Resolves if a connection has had no request at the end of `idle`.
async fn idle_without_request(idle: Duration, asked: &AtomicBool) {
    sleep(idle).await;
    if asked.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

/// Tells the service whose request it is, and marks what is secret in it before anybody can print it.
struct Introduce {
    inner: TowerToHyperService<HttpService>,
    addrs: ConnectionAddrs,
    arrival: Arrival,
    trusted_proxies: Arc<[IpNet]>,
    asked: Arc<AtomicBool>,
}

impl Service<Request<Incoming>> for Introduce {
    type Response = Response<HttpBody>;
    type Error = Infallible;
    type Future = <TowerToHyperService<HttpService> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let is_first = !self.asked.swap(true, Ordering::Relaxed);
        for name in [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE] {
            if let header::Entry::Occupied(mut values) = request.headers_mut().entry(name) {
                values.iter_mut().for_each(|value| value.set_sensitive(true));
            }
        }
        let peer = origin(request.headers(), self.addrs.peer, &self.trusted_proxies);
        request.extensions_mut().insert(ConnectionAddrs { peer, ..self.addrs });
        request.extensions_mut().insert(if is_first { self.arrival } else { Arrival(Instant::now()) });
        self.inner.call(request)
    }
}

/// Of a request head, in bytes.
const LONGEST_HEAD: usize = 16 * 1024;

/// For a peer that made no request to take in that it may go.
const GOODBYE: Duration = Duration::from_secs(2);

/// An HTTP/2 peer that vanished is noticed after twice this.
const PING: Duration = Duration::from_secs(15);
