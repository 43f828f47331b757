use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{extract::connect_info::Connected, serve::IncomingStream};
use futures_util::Stream;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tunnel_api::{OpenedTunnel, PublicAddress, TunnelBackend, TunnelId, tls::ClientTls};
use tunnel_backends::carrier::{DialError, dialler_for};

use crate::{
    Peer, Tunnel, TunnelStream,
    keeper::{Dialling, Keeper, Stop},
    stream::Offered,
};

/// The clients of a tunnel, one after the other.
///
/// Behind it a task keeps the tunnel dialled, comes back to the same address when the connection or the server was away, and
/// does each client's handshake, so that no client holds up another. `accept` does nothing but take the next one.
///
/// Dropping it stops taking clients; the streams it gave out go on, and when the last one has ended the tunnel is closed. (A
/// named tunnel is not closed but left: its address stays ours until its time is up.) [`close`](Self::close) ends it all.
pub struct TunnelListener {
    id: TunnelId,
    address: PublicAddress,
    streams: mpsc::Receiver<Offered>,
    state: watch::Receiver<AgentState>,
    stop: Stop,
    /// Aborts what is being forwarded.
    pub(crate) hang_up: CancellationToken,
    keeper: JoinHandle<()>,
    _leave: DropGuard,
}

/// How the tunnel stands, seen from the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AgentState {
    /// Dialling in; clients wait at the server.
    Dialling,
    /// Dialled in: clients come through.
    Online,
    /// The tunnel was closed by somebody else, or by us.
    Closed,
    /// The server refuses our credentials, or they no longer grant the tunnel; what was open is closed. Trying again would
    /// not help.
    Refused,
}

impl AgentState {
    /// Whether it will stay so.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Closed | Self::Refused)
    }
}

impl TunnelListener {
    pub(crate) fn start(
        backend: Arc<dyn TunnelBackend>,
        tls: ClientTls,
        tunnel: Tunnel,
        opened: OpenedTunnel,
    ) -> Result<Self, DialError> {
        let dialler = dialler_for(&opened.uri, &tls)?;
        let (id, address) = (opened.id.clone(), opened.address.clone());
        let (streams_in, streams) = mpsc::channel(1);
        let (state_in, state) = watch::channel(AgentState::Dialling);
        let stop = Stop { leave: CancellationToken::new(), close: CancellationToken::new() };
        let keeper = Keeper::new(
            backend,
            Dialling { tls, dialler: dialler.into() },
            tunnel,
            opened,
            streams_in,
            state_in,
            stop.clone(),
        );
        let keeper = tokio::spawn(keeper.run());
        let leave = stop.leave.clone().drop_guard();
        Ok(Self { id, address, streams, state, stop, hang_up: CancellationToken::new(), keeper, _leave: leave })
    }

    /// What lists and events call the tunnel. One that a server had forgotten is opened again under another id.
    pub fn id(&self) -> &TunnelId {
        &self.id
    }

    /// The public address, to be advertised.
    pub fn address(&self) -> &PublicAddress {
        &self.address
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
    pub(crate) async fn offered(&mut self) -> Option<Offered> {
        self.streams.recv().await
    }

    /// Follows how the tunnel stands.
    pub fn state(&self) -> watch::Receiver<AgentState> {
        self.state.clone()
    }

    /// Resolves when the tunnel is closed for good.
    pub async fn closed(&self) {
        // The keeper's end is as good as its word.
        let _ = self.state.clone().wait_for(|state| state.is_final()).await;
    }

    /// Leaves a named tunnel to whoever opens it next, and closes any other. Clients that are being
    /// [forwarded](Self::forward_to) are reset; streams that were accepted go on, and it returns when they have ended.
    pub async fn leave(self) {
        self.hang_up.cancel();
        self.stop.leave.cancel();
        drop(self.streams);
        // A keeper that panicked has nothing left to wait for.
        let _ = self.keeper.await;
    }

    /// Closes the tunnel, a named one too, and aborts its streams. When it returns, the address is free.
    pub async fn close(self) {
        self.stop.close.cancel();
        // A keeper that panicked has nothing left to close.
        let _ = self.keeper.await;
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
        let ip = self.address.host().ip().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Peer { client_addr: SocketAddr::new(ip, self.address.port()) })
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
            match ready!(self.streams.poll_recv(cx)).map(Offered::accept) {
                Some(Ok(stream)) => return Poll::Ready(Some(Ok(stream))),
                Some(Err(_)) => {}
                None => return Poll::Ready(None),
            }
        }
    }
}

impl std::fmt::Debug for TunnelListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunnelListener")
            .field("address", &self.address)
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}
