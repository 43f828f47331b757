//! What the kit runs on: a fresh backend for each promise, and what is asked of it.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::{Range, RangeInclusive},
    sync::{Arc, Mutex, PoisonError},
};

use tunnel_api::{
    Caller, OpenTunnel, OpenedTunnel, Owner, Page, PublicAddress, TunnelBackend, TunnelError, TunnelInfo, TunnelName,
    TunnelRef, TunnelUri, WatchFilter,
};

use super::Watch;
use crate::{
    composed::Times,
    ports::{Choice, PortPool, PortRange},
    quotas::Quotas,
    sockets,
};

/// What a carrier brings to the kit.
pub trait Rig {
    /// A fresh backend on loopback. It is called on a tokio runtime; what it spawns there ends with the backend.
    fn backend(&self, setup: Setup) -> Arc<dyn TunnelBackend>;

    /// Whether one dial-in carries many clients.
    fn carries_many(&self) -> bool {
        false
    }
}

/// How the backend of one promise is to be.
#[derive(Debug, Clone)]
pub struct Setup {
    /// How long things last.
    pub times: Times,
    /// Where the ports of public addresses come from.
    pub public_ports: Arc<PortPool>,
    /// Where the ports that agents dial come from, if the carrier has one for each tunnel.
    pub dial_in_ports: Arc<PortPool>,
    /// Who may have how much.
    pub quotas: Arc<Quotas>,
}

impl Default for Setup {
    fn default() -> Self {
        let pool = || PortPool::new(PortRange::Between(free_ports(32)), BTreeSet::new());
        Self { times: Times::default(), public_ports: pool(), dial_in_ports: pool(), quotas: Quotas::unlimited() }
    }
}

impl Setup {
    /// With these limits.
    pub fn held_to(quotas: Arc<Quotas>) -> Self {
        Self { quotas, ..Self::default() }
    }

    /// With these times.
    pub fn timed(times: Times) -> Self {
        Self { times, ..Self::default() }
    }
}

/// A backend and one who calls it.
#[derive(Clone)]
pub struct Stage {
    /// The backend.
    pub backend: Arc<dyn TunnelBackend>,
    /// Who calls.
    pub caller: Caller,
}

impl Stage {
    /// With the default times.
    pub fn new(rig: &dyn Rig) -> Self {
        Self::with(rig, Setup::default())
    }

    /// As set up.
    pub fn with(rig: &dyn Rig, setup: Setup) -> Self {
        Self { backend: rig.backend(setup), caller: Caller::embedded() }
    }

    /// The same backend, called by another owner.
    pub fn called_by(&self, owner: &str) -> Self {
        Self { backend: self.backend.clone(), caller: Caller { owner: Owner::new(owner), ..self.caller.clone() } }
    }

    /// Opens a tunnel for agents of which `connections` may wait at once.
    pub async fn open(&self, connections: u32) -> OpenedTunnel {
        self.try_open(request(connections)).await.expect("a tunnel")
    }

    /// Opens a tunnel with that name.
    pub async fn open_named(&self, name: &str) -> OpenedTunnel {
        self.try_open(named(name)).await.expect("a named tunnel")
    }

    /// Opens a tunnel, or does not.
    pub async fn try_open(&self, request: OpenTunnel) -> Result<OpenedTunnel, TunnelError> {
        self.backend.open_tunnel(&self.caller, request).await
    }

    /// `GetTunnelAddress`.
    pub async fn address(&self, uri: &TunnelUri) -> Result<PublicAddress, TunnelError> {
        self.backend.get_tunnel_address(&self.caller, uri).await
    }

    /// `CloseTunnel`.
    pub async fn close(&self, tunnel: TunnelRef) -> Result<(), TunnelError> {
        self.backend.close_tunnel(&self.caller, &tunnel).await
    }

    /// All of the caller's tunnels.
    pub async fn list(&self) -> Vec<TunnelInfo> {
        let page = Page { after: None, limit: Page::MAX };
        self.backend.list_tunnels(&self.caller, &page).await.expect("a list of tunnels")
    }

    /// How this tunnel stands.
    pub async fn info(&self, tunnel: &OpenedTunnel) -> Option<TunnelInfo> {
        self.list().await.into_iter().find(|info| info.id == tunnel.id)
    }

    /// Watches all of the caller's tunnels; what is open now has been heard.
    pub async fn watch(&self) -> Watch {
        let mut watch = self.watch_from_the_present_on(WatchFilter::default()).await;
        watch.ready().await;
        watch
    }

    /// Watches; what is open now comes first.
    pub async fn watch_from_the_present_on(&self, filter: WatchFilter) -> Watch {
        Watch::new(self.backend.watch_tunnels(&self.caller, &filter).await.expect("a watch"))
    }
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage").field("caller", &self.caller).finish_non_exhaustive()
    }
}

/// A tunnel that the carrier's dialler can serve.
pub fn request(connections: u32) -> OpenTunnel {
    OpenTunnel { connections: Some(connections), proxy_protocol: true, ..OpenTunnel::default() }
}

/// The same with a name.
pub fn named(name: &str) -> OpenTunnel {
    OpenTunnel { name: Some(tunnel_name(name)), ..request(WAITING) }
}

/// A name.
pub fn tunnel_name(name: &str) -> TunnelName {
    name.parse().expect("a tunnel's name")
}

/// How many dial-ins an agent of the kit keeps waiting where it does not matter.
pub const WAITING: u32 = 4;

/// So many neighbouring ports that are free, from between those that a server uses by default and those that the kernel
/// gives away. Calls in one process get different ones in turn: a test that looks whether a port is free again must not
/// meet another test there.
pub fn free_ports(count: u16) -> RangeInclusive<u16> {
    // The first port that has not been given out. Tests that run at the same time in another process most likely began
    // elsewhere. When it comes round, whoever had a port is long done with it.
    static NEXT: Mutex<Option<u16>> = Mutex::new(None);
    for _ in PORTS {
        let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = next.unwrap_or_else(|| rand::random_range(PORTS));
        let first = if wanted + count > PORTS.end { PORTS.start } else { wanted };
        *next = Some(first + count);
        drop(next);
        let ports = first..=first + (count - 1);
        if ports.clone().all(is_free) {
            return ports;
        }
    }
    panic!("no {count} neighbouring ports of {PORTS:?} are free");
}

const PORTS: Range<u16> = 28_000..32_700;

/// Whether somebody could listen there.
pub fn is_free(port: u16) -> bool {
    sockets::listen(SocketAddr::new(LOOPBACK, port)).is_ok()
}

/// Whether no port of this pool is held by a tunnel, or listened on.
pub fn all_free(pool: &Arc<PortPool>, ports: &RangeInclusive<u16>) -> bool {
    ports.clone().all(|port| pool.listen(LOOPBACK, Choice::Exactly(port), &Owner::local()).is_ok())
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
