use std::{io, time::Duration};

use tokio::net::TcpStream;
use tunnel_api::TunnelUri;

use super::DialError;
use crate::sockets;

/// Connects to a tunnel URI's host and port.
pub(super) async fn connect(uri: &TunnelUri) -> Result<TcpStream, DialError> {
    let host = uri.host();
    // An address is written without the brackets that it has in a URI.
    let host = host.ip().map_or_else(|| host.to_string(), |ip| ip.to_string());
    sockets::connect_to(&host, uri.port(), ATTEMPT).await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => DialError::Refused(error),
        io::ErrorKind::TimedOut => DialError::Silent(error),
        _ => DialError::Failed(error),
    })
}

/// A server that is there answers within this even on a bad path; one that is not should not hold up the next attempt.
const ATTEMPT: Duration = Duration::from_secs(4);
