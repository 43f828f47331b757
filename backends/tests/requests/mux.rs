//! Where agents come in.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tunnel_api::OpenedTunnel;

/// Where the agents of this tunnel come in.
pub(crate) fn door(tunnel: &OpenedTunnel) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), tunnel.uri.port())
}
