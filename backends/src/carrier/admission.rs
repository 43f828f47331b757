use std::{
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

use ipnet::IpNet;
use tunnel_api::{Caller, Host, PublicAddress, TunnelError, TunnelId, TunnelUri};

use crate::{lease::Lease, registry::DialIn, uplink::Uplink};

/// A way for agents to dial in.
pub trait Carrier: Send + Sync + 'static {
    /// Lets the agents of a tunnel dial in until the lease is dropped, and says where. Sessions of those that are let in
    /// [`join`](Uplink::join) the uplink, from which they get their streams. Called once a tunnel; when it returns, an agent
    /// can dial.
    ///
    /// When the uplink [retires](Uplink::retired) no more agents are wanted: what listens for this tunnel alone closes.
    fn admit(
        &self,
        caller: &Caller,
        admission: Admission<'_>,
        uplink: Uplink,
    ) -> Result<(TunnelUri, Lease), TunnelError>;

    /// Whether the wire itself tells a tunnel's agents from strangers. Where it does not, only the caller's own address may
    /// dial in unless the request says otherwise.
    fn knows_its_agents(&self) -> bool {
        false
    }

    /// Whether the wire is HTTP itself, so that clients' requests can be sent as such.
    fn carries_requests(&self) -> bool {
        false
    }

    /// Whether one dial-in carries many clients, and each one's address: then how many dial-ins may wait, and whether the
    /// address goes before the bytes, makes no difference.
    fn carries_many(&self) -> bool {
        false
    }
}

/// Who may dial in, and how.
#[derive(Debug, Clone)]
pub struct Admission<'a> {
    /// The tunnel.
    pub id: &'a TunnelId,
    /// Networks that may.
    pub dial_from: DialFrom,
    /// How many dial-ins may wait at once, where each carries one client.
    pub connections: u32,
    /// The tunnel is for one connection: one dial-in is let in, ever.
    pub single_use: bool,
    /// Whether the client's address goes before its bytes, where the wire has no other place for it.
    pub proxy_protocol: bool,
    /// Where the tunnel's clients come.
    pub address: &'a PublicAddress,
    /// Where its agents dial.
    pub dial_in: WhereTo<'a>,
}

/// Where the agents of a tunnel are to dial.
#[derive(Debug, Clone, Copy)]
pub enum WhereTo<'a> {
    /// Wherever is best.
    Anywhere,
    /// Where they dialled before the server was started, as far as that is the tunnel's own; if that cannot be had, it is an
    /// error.
    AsBefore(&'a DialIn),
    /// At the same host.
    Nearby(&'a DialIn),
}

impl WhereTo<'_> {
    /// The host they know.
    pub(crate) fn host(&self) -> Option<&Host> {
        match self {
            Self::Anywhere => None,
            Self::AsBefore(before) | Self::Nearby(before) => Some(&before.host),
        }
    }
}

/// The networks that may dial in to a tunnel. All clones are the same, and follow when it is changed.
#[derive(Debug, Clone)]
pub struct DialFrom(Arc<RwLock<Vec<IpNet>>>);

impl DialFrom {
    /// These networks.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(Arc::new(RwLock::new(networks)))
    }

    /// Whether an agent at this address is let in.
    pub fn admits(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.read().unwrap_or_else(PoisonError::into_inner).iter().any(|network| network.contains(&ip))
    }

    /// What they are now.
    pub fn networks(&self) -> Vec<IpNet> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on these instead.
    pub fn replace(&self, networks: Vec<IpNet>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = networks;
    }
}
