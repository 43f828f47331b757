use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{extract::connect_info::Connected, serve::IncomingStream};
use futures_util::Stream;
use tokio::sync::{mpsc, watch};
use tunnel_api::{PublicAddress, TunnelId};

use crate::{
    AgentState, Peer, Requests, TunnelStream,
    forward::Straight,
    held::Held,
    stream::{Offered, OfferedConnection},
};

/// The clients of a tunnel, one after the other.
///
/// Behind it a task keeps the tunnel dialled, comes back to the same address when the connection or the server was away, and
/// does each client's handshake, so that no client holds up another. `accept` does nothing but take the next one.
///
/// Dropping it stops taking clients; the streams it gave out go on, and when the last one has ended the tunnel is closed. (A
/// named tunnel is not closed but left: its address stays ours until its time is up.) [`close`](Self::close) ends it all.
pub struct TunnelListener {
    pub(crate) held: Held,
    offers: mpsc::Receiver<Offered>,
    pub(crate) straight: Straight,
}

impl TunnelListener {
    pub(crate) fn new(held: Held, offers: mpsc::Receiver<Offered>, straight: Straight) -> Self {
        Self { held, offers, straight }
    }

    /// What lists and events call the tunnel. One that a server had forgotten is opened again under another id.
    pub fn id(&self) -> &TunnelId {
        self.held.id()
    }

    /// The public address, to be advertised.
    pub fn address(&self) -> &PublicAddress {
        self.held.address()
    }

    /// The next client. Fails only when the tunnel is closed for good. Cancel-safe.
    pub async fn accept(&mut self) -> io::Result<TunnelStream> {
        loop {
            // One that has gone meanwhile is nobody's business.
            if let Ok(stream) = self.offered().await.ok_or_else(closed)?.accept() {
                return Ok(stream);
            }
        }
    }

    /// The next client, which has yet to be taken.
    pub(crate) async fn offered(&mut self) -> Option<OfferedConnection> {
        loop {
            if let Some(connection) = self.offers.recv().await?.connection() {
                return Some(connection);
            }
        }
    }

    /// Follows how the tunnel stands.
    pub fn state(&self) -> watch::Receiver<AgentState> {
        self.held.state()
    }

    /// Follows the requests of the tunnel's clients, where the server sees them: those of [`Tunnel::http`](crate::Tunnel::http). There
    /// is one reader; asking again takes them from the one before.
    pub fn requests(&self) -> Requests {
        self.held.requests()
    }

    /// Resolves when the tunnel is closed for good.
    pub async fn closed(&self) {
        self.held.closed().await;
    }

    /// Leaves a named tunnel to whoever opens it next, and closes any other. Clients that are being
    /// [forwarded](Self::forward_to) are reset; streams that were accepted go on, and it returns when they have ended and what was
    /// said on them has arrived. Then the program may exit.
    pub async fn leave(self) {
        drop(self.offers);
        self.held.leave().await;
    }

    /// Closes the tunnel, a named one too, and aborts its streams. When it returns, the address is free.
    pub async fn close(self) {
        self.held.close().await;
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the tunnel is closed")
}

/// For axum. A tunnel that is closed for good has no more clients, and `accept` may not fail: it waits for ever.
impl axum::serve::Listener for TunnelListener {
    type Io = TunnelStream;
    type Addr = Peer;

    async fn accept(&mut self) -> (TunnelStream, Peer) {
        match TunnelListener::accept(self).await {
            Ok(stream) => {
                let peer = Peer { client_addr: stream.client_addr() };
                (stream, peer)
            }
            Err(_) => std::future::pending().await,
        }
    }

    /// The public address, where it is an IP address and not a name.
    fn local_addr(&self) -> io::Result<Peer> {
        let ip = self.address().host().ip().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Peer { client_addr: SocketAddr::new(ip, self.address().port()) })
    }
}

impl Connected<IncomingStream<'_, TunnelListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TunnelListener>) -> Self {
        *stream.remote_addr()
    }
}

/// For tonic's `serve_with_incoming`. Ends when the tunnel is closed for good.
impl Stream for TunnelListener {
    type Item = io::Result<TunnelStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Some(offered) = ready!(self.offers.poll_recv(cx)) else { return Poll::Ready(None) };
            if let Some(Ok(stream)) = offered.connection().map(OfferedConnection::accept) {
                return Poll::Ready(Some(Ok(stream)));
            }
        }
    }
}

impl std::fmt::Debug for TunnelListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunnelListener")
            .field("address", self.address())
            .field("state", &*self.state().borrow())
            .finish_non_exhaustive()
    }
}
