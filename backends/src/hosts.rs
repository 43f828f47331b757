//! Which host goes into the URIs we give out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tunnel_api::{Caller, Host, TunnelError};

/// One side's host: as configured, or as far as we can tell.
#[derive(Debug, Clone)]
pub struct Advertised {
    /// The config key that sets it, for messages.
    pub key: &'static str,
    /// What the operator configured.
    pub configured: Option<Host>,
    /// Where our listeners are bound.
    pub bound: IpAddr,
}

impl Advertised {
    /// The host to give to this caller: the configured one; else the bound one; else, where that is a wildcard, the one
    /// at which the call arrived. Never a wildcard, and never loopback to a caller from elsewhere.
    pub fn host(&self, caller: &Caller) -> Result<Host, TunnelError> {
        let host = match &self.configured {
            Some(host) => host.clone(),
            None if !self.bound.is_unspecified() => self.bound.into(),
            None => caller.local_addr.map_or(self.loopback(), |addr| addr.ip()).into(),
        };
        match caller.peer_ip() {
            Some(peer) if host.is_loopback() && !peer.is_loopback() => Err(TunnelError::NotAllowed {
                why: format!(
                    "this server would give out {host}, which you cannot reach from {peer}; \
                     the operator has to set `{}` (and `listen`, if it is bound to loopback)",
                    self.key
                ),
            }),
            _ => Ok(host),
        }
    }

    fn loopback(&self) -> IpAddr {
        match self.bound {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tunnel_api::ConnectionAddrs;

    use super::*;

    fn caller(peer: &str, local: &str) -> Caller {
        let (peer, local) = (peer.parse().unwrap(), local.parse().unwrap());
        Caller::connected(ConnectionAddrs { peer, local, encrypted: false })
    }

    fn host(configured: Option<&str>, bound: &str, caller: &Caller) -> Result<String, String> {
        let configured = configured.map(|host| host.parse().unwrap());
        let advertised = Advertised { key: "advertise.agents", configured, bound: bound.parse().unwrap() };
        advertised.host(caller).map(|host| host.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_host_is_one_the_caller_can_reach() {
        let lan = caller("192.0.2.9:1", "192.0.2.1:8010");
        let mapped = caller("[::ffff:192.0.2.9]:1", "[::ffff:192.0.2.1]:8010");
        let own = caller("127.0.0.1:1", "127.0.0.1:8010");
        for (configured, bound, caller, expected) in [
            (Some("t.example"), "0.0.0.0", &lan, "t.example"),
            (None, "0.0.0.0", &lan, "192.0.2.1"),
            (None, "::", &mapped, "192.0.2.1"),
            (None, "192.0.2.1", &own, "192.0.2.1"),
            (None, "127.0.0.1", &own, "127.0.0.1"),
            (None, "0.0.0.0", &Caller::embedded(), "127.0.0.1"),
            (None, "::", &Caller::embedded(), "[::1]"),
        ] {
            assert_eq!(host(configured, bound, caller).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn loopback_is_not_given_to_a_caller_from_elsewhere() {
        let lan = caller("192.0.2.9:1", "192.0.2.1:8010");
        for (configured, bound) in [(None, "127.0.0.1"), (Some("localhost"), "0.0.0.0")] {
            let error = host(configured, bound, &lan).unwrap_err();
            assert!(error.contains("advertise.agents"), "{error}");
        }
    }
}
