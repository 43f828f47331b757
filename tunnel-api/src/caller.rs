use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use ipnet::{IpNet, Ipv4Net};

/// Who is calling, and over which connection. Every backend method takes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose tunnels the call is about.
    pub owner: Owner,
    /// By which of the owner's credentials; `None` where none are asked for. A tunnel remembers the one it was opened by, so
    /// that it can be closed when that is revoked.
    pub credential: Option<CredentialId>,
    /// Where the call came from; `None` for a caller in this process, whose dial-ins are then pinned to loopback.
    pub peer_addr: Option<SocketAddr>,
    /// Where it arrived; tells which of this host's addresses the caller can reach. `None` for a caller in this process.
    pub local_addr: Option<SocketAddr>,
    /// Whether nobody between could read the call. Then the agent is to dial in encrypted, too, where the wire can be.
    pub encrypted: bool,
}

impl Caller {
    /// A caller in this process.
    pub fn embedded() -> Self {
        Self { owner: Owner::local(), credential: None, peer_addr: None, local_addr: None, encrypted: false }
    }

    /// A caller that came over a connection, before anything is known about who it is.
    pub fn connected(addrs: ConnectionAddrs) -> Self {
        Self {
            peer_addr: Some(addrs.peer),
            local_addr: Some(addrs.local),
            encrypted: addrs.encrypted,
            ..Self::embedded()
        }
    }

    /// Where the call came from, with v4-mapped addresses as v4.
    pub fn peer_ip(&self) -> Option<IpAddr> {
        self.peer_addr.map(|addr| canonical_ip(addr.ip()))
    }
}

/// Whose a tunnel is. Owners see, look up and close their own tunnels only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(String);

impl Owner {
    /// Everybody, as long as no credentials are configured.
    pub fn local() -> Self {
        Self("local".to_owned())
    }

    /// The owner of that name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names one of an owner's credentials in logs and records. No secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CredentialId(String);

impl CredentialId {
    /// What the process itself goes by, where others need credentials.
    pub const PROCESS: &str = "process";

    /// The credential of that name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The connection a request came over. Whoever accepts connections for the RPC puts it into the request's
/// extensions; `TunnelService` makes the [`Caller`] of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionAddrs {
    /// The far end.
    pub peer: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
    /// Whether nobody between could read it: by TLS that ends here, or at a proxy of ours.
    pub encrypted: bool,
}

/// One form for one address: v4-mapped v6 is v4, so that a dual-stack listener and a v4 one see the same peer.
pub fn canonical_ip(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// The same for a network: one of v4-mapped addresses is a v4 network, or else it would name nobody as it stands, or somebody
/// else than it seems to.
pub fn canonical_network(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    let v4 = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    v4.and_then(|(v4, prefix)| Ipv4Net::new(v4, prefix).ok()).map_or(network, IpNet::V4)
}
