use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Forwarding;
use crate::stream::OfferedConnection;

/// Where a listener's clients go while they are forwarded: from whoever dialled in for them, and without a turn in the
/// listener's queue.
#[derive(Clone, Default)]
pub(crate) struct Straight(Arc<Mutex<Option<Arc<Forwarder>>>>);

impl Straight {
    /// Whoever forwards them, if anybody does.
    pub(crate) fn forwarder(&self) -> Option<Arc<Forwarder>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// They go there until this is dropped.
    pub(super) fn lead_to(&self, forwarder: Arc<Forwarder>) -> Leading<'_> {
        self.replace(Some(forwarder));
        Leading(self)
    }

    fn replace(&self, forwarder: Option<Arc<Forwarder>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = forwarder;
    }
}

pub(super) struct Leading<'s>(&'s Straight);

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        self.0.replace(None);
    }
}

/// Serves clients in tasks of their own.
pub(crate) struct Forwarder {
    forwarding: Forwarding,
    hang_up: CancellationToken,
    clients: TaskTracker,
}

impl Forwarder {
    pub(super) fn new(forwarding: Forwarding, hang_up: CancellationToken) -> Self {
        Self { forwarding, hang_up, clients: TaskTracker::new() }
    }

    pub(crate) fn take(self: &Arc<Self>, client: OfferedConnection) {
        let this = self.clone();
        self.clients.spawn(async move { this.forwarding.serve(client, &this.hang_up).await });
    }

    /// Resolves when no client is being served.
    pub(super) async fn served_all(&self) {
        self.clients.close();
        self.clients.wait().await;
    }
}
