use std::{io, net::SocketAddr, time::Duration};

use tokio::net::{TcpStream, lookup_host};
use tunnel_api::TunnelUri;

use super::DialError;
use crate::sockets;

/// Connects to a tunnel URI's host and port: to the first of its addresses that answers, each within [`ONE_ADDRESS`].
pub(super) async fn connect(uri: &TunnelUri) -> Result<TcpStream, DialError> {
    let host = uri.host();
    let addrs: Vec<SocketAddr> = match host.ip() {
        Some(ip) => vec![SocketAddr::new(ip, uri.port())],
        None => lookup_host((host.to_string(), uri.port())).await.map_err(DialError::Failed)?.collect(),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for addr in addrs {
        match sockets::connect(addr, ONE_ADDRESS).await {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(match last.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => DialError::Refused(last),
        io::ErrorKind::TimedOut => DialError::Silent(last),
        _ => DialError::Failed(last),
    })
}

/// A server that is there answers within this even on a bad path; one that is not should not hold up the next attempt.
const ONE_ADDRESS: Duration = Duration::from_secs(4);
