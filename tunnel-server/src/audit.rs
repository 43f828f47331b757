//! The audit log: one line for each open, close, refusal and revocation, at level info and target `audit`
//! (docs/operating.md has its fields). Closes are told where tunnels leave the table, in `tunnel-backends`.
//!
//! Never in it: tunnel URIs, tickets, tokens, and whatever else a caller can choose freely. What a caller can do at any rate,
//! which is to be refused, is summed up beyond a rate (`flood`).

mod backend;
mod door;
mod flood;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tracing::info;
use tunnel_api::{Caller, CredentialId, OpenTunnel, OpenedTunnel, Owner, TunnelError};

use self::flood::{Flood, Like, Who};
use crate::metrics::Calls;

pub(crate) use backend::Audited;

/// Writes the audit log of one server, and counts what it writes.
#[derive(Debug)]
pub(crate) struct Audit {
    calls: Calls,
    flood: Flood,
}

impl Audit {
    pub(crate) fn new(calls: Calls) -> Arc<Self> {
        Arc::new(Self { calls, flood: Flood::default() })
    }

    /// Sums up what was too much to be written, as long as it is polled.
    pub(crate) async fn follow(self: Arc<Self>) {
        self.flood.follow().await;
    }

    /// Sums up what has not been yet.
    pub(crate) fn close(&self) {
        self.flood.sum_up();
    }

    fn opened(&self, caller: &Caller, request: &OpenTunnel, opened: &OpenedTunnel, took: Duration) {
        self.calls.opened("ok", took);
        info!(
            target: "audit",
            event = "open",
            tunnel.id = %opened.id,
            tunnel.name = request.name.as_ref().map(display),
            tunnel.address = %opened.address,
            owner = %caller.owner,
            credential = caller.credential.as_ref().map(display),
            peer.addr = caller.peer_addr.map(display),
            "tunnel opened"
        );
    }

    fn not_opened(&self, caller: &Caller, error: &TunnelError, took: Duration) {
        self.calls.opened(error.reason(), took);
        self.refused("OpenTunnel", caller, error);
    }

    /// A call of somebody whom we know. (Whom we do not know is told by the door: [`nobody`](Self::nobody).)
    fn refused(&self, what: &'static str, caller: &Caller, error: &TunnelError) {
        if matches!(error, TunnelError::Unauthenticated { .. }) {
            return;
        }
        let reason = error.reason();
        self.calls.refused(what, reason);
        let who = match (&caller.credential, caller.peer_addr) {
            (None, Some(peer)) => Who::at(peer),
            _ => Who::Owner(caller.owner.clone()),
        };
        if self.flood.lets_through(Like { who, what, reason }) {
            info!(
                target: "audit",
                event = "refusal",
                what,
                reason,
                owner = %caller.owner,
                credential = caller.credential.as_ref().map(display),
                peer.addr = caller.peer_addr.map(display),
                "refused"
            );
        }
    }

    /// Somebody whom we do not know, or who shows credentials that are no good: at the RPC, or dialling in.
    pub(crate) fn nobody(&self, what: &'static str, reason: &'static str, peer: Option<SocketAddr>) {
        self.calls.refused(what, reason);
        if self.flood.lets_through(Like { who: peer.map_or(Who::Others, Who::at), what, reason }) {
            info!(target: "audit", event = "refusal", what, reason, peer.addr = peer.map(display), "refused");
        }
    }

    /// A credential is no more (none: tunnels from before anybody was asked for one), and with it this many tunnels closed.
    pub(crate) fn revoked(&self, owner: &Owner, credential: Option<&CredentialId>, tunnels: usize) {
        info!(
            target: "audit",
            event = "revocation",
            %owner,
            credential = credential.map(display),
            tunnels,
            "credential revoked"
        );
    }
}
