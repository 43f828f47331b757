//! Accepts and does nothing else: every accept loop of the server is one of these.

use std::{future::poll_fn, io, net::SocketAddr, time::Duration};

use tokio::net::{TcpListener, TcpStream};

use crate::sockets;

/// A listener whose `accept` never fails. What concerns a single connection is skipped; running out of descriptors or
/// memory is waited out, and said once.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    /// Where all that it accepts have come, unless it listens at all addresses.
    only_at: Option<SocketAddr>,
    pause: Duration,
}

impl Acceptor {
    /// Accepts from this listener.
    pub fn new(listener: TcpListener) -> Self {
        let only_at = listener.local_addr().ok().filter(|at| !at.ip().is_unspecified());
        Self { listener, only_at, pause: Duration::ZERO }
    }

    /// The next connection and where it comes from, in canonical form. Cancel-safe: a connection is returned or stays in
    /// the backlog.
    pub async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match poll_fn(|cx| self.listener.poll_accept(cx)).await {
                Ok((socket, peer)) => {
                    self.pause = Duration::ZERO;
                    return (socket, sockets::canonical(peer));
                }
                Err(error) if concerns_one_connection(&error) => {}
                // On the heap: there is a listener for each tunnel, and hardly ever such an error.
                Err(error) => Box::pin(self.back_off(error)).await,
            }
        }
    }

    /// Where this one of its connections came to, in canonical form.
    pub fn local_addr_of(&self, accepted: &TcpStream) -> io::Result<SocketAddr> {
        self.only_at.map_or_else(|| accepted.local_addr(), Ok).map(sockets::canonical)
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    async fn back_off(&mut self, error: io::Error) {
        if self.pause.is_zero() {
            let listener = self.listener.local_addr().ok();
            tracing::warn!(listen.addr = listener.map(tracing::field::display), %error, "cannot accept; trying on (raise the limit on open files if this comes back)");
        }
        self.pause = (self.pause * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        tokio::time::sleep(self.pause).await;
    }
}

/// The peer gave up, or its network did, between its SYN and our accept (accept(2), "error handling").
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkDown,
        NetworkUnreachable, PermissionDenied, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | PermissionDenied
            | TimedOut
    )
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    #[tokio::test]
    async fn a_connection_came_to_the_address_that_was_dialled() {
        for listens_at in ["127.0.0.2".parse().unwrap(), IpAddr::V4(Ipv4Addr::UNSPECIFIED), sockets::all_addresses()] {
            let mut acceptor = Acceptor::new(sockets::listen((listens_at, 0).into()).unwrap());
            let mut at: SocketAddr = "127.0.0.2:0".parse().unwrap();
            at.set_port(acceptor.local_addr().unwrap().port());
            let _dialled = TcpStream::connect(at).await.unwrap();
            let (accepted, _) = acceptor.accept().await;
            assert_eq!(acceptor.local_addr_of(&accepted).unwrap(), at, "listening at {listens_at}");
        }
    }
}
