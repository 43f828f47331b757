//! The one port. Everything that is not a tunnel's own data port comes in here: it reads a bounded prefix, tells the
//! protocols apart, and hands the connection on with the prefix put back. HTTP/1.1 and HTTP/2, plain or in TLS, and TLS that is
//! a tunnel's own; the RPC comes in as an opaque service, so that this crate knows nothing of it.
//!
//! A connection is accepted and takes a seat in the lobby (`accept`), shows what it is (`meet`: a ClientHello (`client_hello`),
//! the first unit (`first`) of HTTP), and is either passed through (`passthrough`) to a tunnel's agent or served (`serve`): its
//! requests are introduced (`introduce`) to the service one by one. What it may ask is paced (`pace`), what it is doing is known
//! (`stay`), and it is ended as it should be (`lent`).

mod accept;
mod alert;
mod client_hello;
mod encryption;
mod first;
mod forwarded;
mod introduce;
mod lengths;
mod lent;
mod lobby;
mod meet;
mod pace;
mod passthrough;
mod room;
mod serve;
mod service;
mod stay;

use std::{error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use ipnet::IpNet;
use tokio::{
    net::TcpListener,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tunnel_api::Host;

use self::accept::{Hall, accept};
use crate::{acceptor::Acceptor, meters::Meters, names::Names, tls::ServerTls};

pub use encryption::Encryption;
pub(crate) use introduce::Introduced;
pub(crate) use lent::connection_of;
pub use lent::taken_over;
pub use lobby::Newcomer;
pub(crate) use service::Answering;
pub use service::HttpService;

/// The bodies of its answers.
pub type HttpBody = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// When a connection's first request, or a later request, began: at the accept of the connection, or when it had come.
#[derive(Debug, Clone, Copy)]
pub struct Arrival(pub Instant);

/// The certificate that the peer has shown, in DER. It is verified: somebody in `client_ca` vouches for it, and the peer has its
/// key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate(pub Arc<[u8]>);

/// The server name that a client has named in TLS; none where it came without one, or with one that is no host's. In the
/// extensions of each request that came by TLS which ended here, and of no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerName(pub Option<Host>);

/// A proxy of ours, by which a request came. In the extensions of such requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proxy(pub SocketAddr);

/// The door's limits. Each is a config key.
#[derive(Debug, Clone)]
pub struct DoorTerms {
    /// From accept to the first complete unit of the connection's protocol (a request head, or HTTP/2's preface and
    /// SETTINGS), a TLS handshake included. One limit for all of it, so that dribbling bytes gains nothing.
    pub first_unit: Duration,
    /// How many connections may be there none of whose requests has been accepted yet. One more, and the one that has waited
    /// longest is closed, of the source that has the most. Each costs a descriptor and 16 KiB; if it makes a hundred requests
    /// at once, with heads and messages as long as may be, some 4 MiB.
    pub waiting: usize,
    /// How many of them may come from one source: a v4 address, or a v6 /64. One more, and the oldest of that source is
    /// closed. Loopback and `trusted_proxies` are not held to it: many parties come from there.
    pub waiting_per_source: usize,
    /// Proxies in front of us, which say in `X-Forwarded-For` for whom they ask.
    pub trusted_proxies: Arc<[IpNet]>,
    /// How long a connection is kept none of whose requests is accepted.
    pub idle: Duration,
    /// How long a connection of HTTP/1.1 is kept between requests.
    pub keep_alive: Duration,
    /// How long a web client's connection of HTTP/2 is kept while it has no request.
    pub keep_alive_http2: Duration,
    /// How many connections of web clients may be there that are between requests. One more, and the one that has been so for
    /// longest is closed in order, of the source that has the most. Each costs a descriptor and some 30 KiB.
    pub kept_alive: usize,
    /// How many of them may be from one source, counted like those that wait.
    pub kept_alive_per_source: usize,
    /// How long a client of HTTP/1.1 may take nothing of its answer, before its connection is reset.
    pub unread: Duration,
    /// For those who come by TLS; there is none without.
    pub tls: Option<Arc<ServerTls>>,
    /// Who must.
    pub encryption: Encryption,
    /// The host names that belong to tunnels, where there are any: clients of TLS are told apart by them.
    pub names: Option<Arc<Names>>,
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
            keep_alive: Duration::from_secs(60),
            keep_alive_http2: Duration::from_secs(5 * 60),
            kept_alive: 4096,
            kept_alive_per_source: 256,
            unread: Duration::from_secs(30 * 60),
            tls: None,
            names: None,
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
        let hall = Hall::new(terms, http, stop.clone(), cut.clone());
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
