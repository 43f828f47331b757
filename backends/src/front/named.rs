//! Clients that come by a host name, at the door that all tunnels share: web clients, whose requests name the host, and clients of
//! TLS, who name it when they begin. This claims the name and says what the address is; the door finds the tunnel by it.

use std::{net::IpAddr, sync::Arc};

use async_trait::async_trait;
use tunnel_api::{AddressRequest, Caller, Owner, PublicAddress, TunnelError};

use crate::{
    front::Front,
    lease::Lease,
    names::{Names, Spoken},
    uplink::Uplink,
};

/// Where the fronts of names are that the backends of a server share.
#[derive(Debug, Clone)]
pub struct NamedFronts {
    /// Where the names come from.
    pub names: Arc<Names>,
    /// The port that clients connect to.
    pub port: u16,
    /// Whether web clients come by TLS.
    pub is_encrypted: bool,
}

impl NamedFronts {
    /// One for web clients, and one for clients that speak TLS with the agent.
    ///
    /// So many clients of each name may wait for an agent.
    pub fn fronts(&self, waiting_clients: usize) -> impl Iterator<Item = Arc<dyn Front>> {
        [Spoken::Http, Spoken::Tls].into_iter().map(move |spoken| {
            let Self { names, port, is_encrypted } = self.clone();
            let front = NamedFront { names, spoken, port, is_encrypted, waiting_clients };
            Arc::new(front) as Arc<dyn Front>
        })
    }
}

/// Gives each tunnel a host name of its own.
#[derive(Debug)]
pub struct NamedFront {
    /// Where the names come from.
    pub names: Arc<Names>,
    /// What clients speak.
    pub spoken: Spoken,
    /// The port that clients connect to.
    pub port: u16,
    /// Whether web clients come by TLS.
    pub is_encrypted: bool,
    /// How many clients of one tunnel may wait for an agent. The others wait where nobody has been accepted yet.
    pub waiting_clients: usize,
}

impl NamedFront {
    fn scheme(&self) -> &'static str {
        match (self.spoken, self.is_encrypted) {
            (Spoken::Tls, _) => "tls",
            (Spoken::Http, true) => "https",
            (Spoken::Http, false) => "http",
        }
    }

    /// Never a name of this host's own to a caller from elsewhere, whose clients could not reach it.
    fn check_reach(&self, peer: Option<IpAddr>, host: &tunnel_api::Host) -> Result<(), TunnelError> {
        match peer {
            Some(peer) if host.is_loopback() && !peer.is_loopback() => Err(TunnelError::NotAllowed {
                why: format!(
                    "this server would give out {host}, which leads nobody but itself here; the operator has to set \
                     `names.domain` to a domain whose names lead to this server"
                ),
            }),
            _ => Ok(()),
        }
    }

    fn address(&self, host: tunnel_api::Host) -> PublicAddress {
        match self.spoken {
            Spoken::Tls => PublicAddress::tls(host, self.port),
            Spoken::Http => PublicAddress::web(self.is_encrypted, host, self.port),
        }
    }
}

#[async_trait]
impl Front for NamedFront {
    fn schemes(&self) -> &'static [&'static str] {
        match self.spoken {
            Spoken::Http => &["http", "https"],
            Spoken::Tls => &["tls"],
        }
    }

    /// `http` is whatever web clients speak here, and a name without dots is one in the domain.
    fn canonical(&self, mut wanted: AddressRequest) -> AddressRequest {
        if wanted.scheme.as_deref() == Some("http") {
            wanted.scheme = Some(self.scheme().to_owned());
        }
        wanted.host = wanted.host.map(|host| self.names.in_full(&host));
        wanted
    }

    async fn publish(
        &self,
        caller: &Caller,
        wanted: &AddressRequest,
        uplink: Uplink,
    ) -> Result<(PublicAddress, Lease), TunnelError> {
        if wanted.scheme.as_deref() == Some("https") && !self.is_encrypted {
            let why = "this server has no certificate, so it has no https; ask for http";
            return Err(TunnelError::invalid("address", why));
        }
        if let Some(port) = wanted.port.filter(|port| *port != self.port) {
            let why = format!("names are at port {} here, not {port}; leave the port empty", self.port);
            return Err(TunnelError::invalid("address", why));
        }
        let lease = self.names.claim(wanted.host.as_ref(), &caller.owner, self.spoken, uplink, self.waiting_clients)?;
        self.check_reach(caller.peer_ip(), lease.host())?;
        Ok((self.address(lease.host().clone()), Lease::holding(lease)))
    }

    async fn publish_again(
        &self,
        owner: &Owner,
        address: &PublicAddress,
        uplink: Uplink,
    ) -> Result<Lease, TunnelError> {
        Ok(Lease::holding(self.names.claim(Some(address.host()), owner, self.spoken, uplink, self.waiting_clients)?))
    }
}
