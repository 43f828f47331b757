//! What happens to tunnels, told to whoever watches. Bounded: a watcher that is too slow loses events and is told so.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::broadcast;
use tunnel_api::{Owner, TunnelEvent, TunnelId, TunnelName, What};

/// The one stream of events of a table of tunnels.
#[derive(Debug, Clone)]
pub(crate) struct Events(broadcast::Sender<Arc<Told>>);

/// An event and what a watcher's filter asks about.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) about: Arc<Identity>,
    pub(crate) event: TunnelEvent,
}

/// Who a tunnel is.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) id: TunnelId,
    pub(crate) owner: Owner,
    pub(crate) name: Option<TunnelName>,
    pub(crate) backend: Arc<str>,
}

/// The events of one tunnel, for its parts to add to.
#[derive(Debug, Clone)]
pub(crate) struct TunnelNews {
    events: Events,
    about: Arc<Identity>,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(HELD))
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<Told>> {
        self.0.subscribe()
    }

    pub(crate) fn of(&self, about: Arc<Identity>) -> TunnelNews {
        TunnelNews { events: self.clone(), about }
    }
}

impl TunnelNews {
    /// Tells it to whoever watches; where nobody does, `what` is not even made.
    pub(crate) fn tell(&self, what: impl FnOnce() -> What) {
        if self.events.0.receiver_count() == 0 {
            return;
        }
        let event = TunnelEvent { time: SystemTime::now(), tunnel: Some(self.about.id.clone()), what: what() };
        // Fails when the last watcher has just left.
        let _ = self.events.0.send(Arc::new(Told { about: self.about.clone(), event }));
    }

    pub(crate) fn id(&self) -> &TunnelId {
        &self.about.id
    }

    pub(crate) fn about(&self) -> &Arc<Identity> {
        &self.about
    }
}

/// How far a watcher may fall behind. An event is about 200 bytes and is held once for all watchers.
const HELD: usize = 4096;
