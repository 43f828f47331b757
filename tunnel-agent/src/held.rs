//! A tunnel that is held open, whoever takes what comes through it.

use std::sync::Arc;

use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tunnel_api::{OpenedTunnel, PublicAddress, TunnelBackend, TunnelId, tls::ClientTls};
use tunnel_backends::carrier::{DialError, dialler_for};

use crate::{
    Requests, Tunnel,
    keeper::{Dialling, Keeper, Stop},
    requests::Feed,
    stream::Taker,
};

/// A tunnel and its keeper. Dropping it takes no more clients; those that were given out go on.
pub(crate) struct Held {
    id: TunnelId,
    address: PublicAddress,
    state: watch::Receiver<AgentState>,
    stop: Stop,
    /// Aborts what is being forwarded or answered.
    pub(crate) hang_up: CancellationToken,
    feed: Arc<Feed>,
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

impl Held {
    pub(crate) fn start(
        backend: Arc<dyn TunnelBackend>,
        tls: ClientTls,
        tunnel: Tunnel,
        opened: OpenedTunnel,
        taker: Taker,
        hang_up: CancellationToken,
    ) -> Result<Self, DialError> {
        let dialler = dialler_for(&opened.uri, &tls)?;
        let (id, address) = (opened.id.clone(), opened.address.clone());
        let (state_in, state) = watch::channel(AgentState::Dialling);
        let stop = Stop { leave: CancellationToken::new(), close: CancellationToken::new() };
        let feed = Arc::<Feed>::default();
        let keeper = Keeper::new(
            backend,
            Dialling { tls, dialler: dialler.into() },
            tunnel,
            opened,
            taker,
            state_in,
            feed.clone(),
            stop.clone(),
        );
        let keeper = tokio::spawn(keeper.run());
        let leave = stop.leave.clone().drop_guard();
        Ok(Self { id, address, state, stop, hang_up, feed, keeper, _leave: leave })
    }

    pub(crate) fn id(&self) -> &TunnelId {
        &self.id
    }

    pub(crate) fn address(&self) -> &PublicAddress {
        &self.address
    }

    pub(crate) fn state(&self) -> watch::Receiver<AgentState> {
        self.state.clone()
    }

    pub(crate) fn requests(&self) -> Requests {
        self.feed.reader()
    }

    pub(crate) async fn closed(&self) {
        // The keeper's end is as good as its word.
        let _ = self.state.clone().wait_for(|state| state.is_final()).await;
    }

    pub(crate) async fn leave(self) {
        self.hang_up.cancel();
        self.stop.leave.cancel();
        // A keeper that panicked has nothing left to wait for.
        let _ = self.keeper.await;
    }

    pub(crate) async fn close(self) {
        self.stop.close.cancel();
        // A keeper that panicked has nothing left to close.
        let _ = self.keeper.await;
    }
}
