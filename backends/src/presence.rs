//! Whether anybody is there to serve a tunnel, and until when it lasts if nobody is.

use std::{
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{sync::Notify, time::Instant};
use tunnel_api::TunnelState;

/// How long a tunnel lives without agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lifetime {
    /// Before the first one.
    pub(crate) dial_within: Duration,
    /// After the last one; `None` if it closes with it.
    pub(crate) grace: Option<Duration>,
}

/// Whether anybody is there to serve the tunnel: a session, or a stream that is still running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Presence {
    pub(crate) online: bool,
    /// Somebody has been there.
    pub(crate) was_dialled: bool,
    /// While nobody is there: when the tunnel closes. `None` for now.
    pub(crate) expiry: Option<Expiry>,
    lifetime: Lifetime,
}

/// A moment, on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expiry {
    pub(crate) time: SystemTime,
    pub(crate) deadline: Instant,
}

/// A tunnel's presence as it is now, for those who wait for it to change. Half of a watch channel: that has room for crowds, and of
/// these there is one for each tunnel.
#[derive(Debug)]
pub(crate) struct Watched {
    now: Mutex<Presence>,
    changed: Notify,
}

impl Watched {
    pub(crate) fn new(presence: Presence) -> Self {
        Self { now: Mutex::new(presence), changed: Notify::new() }
    }

    pub(crate) fn now(&self) -> Presence {
        *self.lock()
    }

    /// Says whether it is another one then.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Presence)) -> bool {
        let mut now = self.lock();
        let before = *now;
        change(&mut now);
        let is_another = *now != before;
        drop(now);
        if is_another {
            self.changed.notify_waiters();
        }
        is_another
    }

    /// Waits until it is as it is wanted.
    pub(crate) async fn until(&self, is_wanted: impl Fn(&Presence) -> bool) {
        loop {
            // From here on no change is missed.
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if is_wanted(&self.now()) {
                return;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Presence> {
        // Nothing panics while it is held.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Presence {
    /// Nobody has come yet.
    pub(crate) fn new(lifetime: Lifetime) -> Self {
        let expiry = Some(Expiry::after(lifetime.dial_within));
        Self { online: false, was_dialled: false, expiry, lifetime }
    }

    /// The server was started anew: its agents have been there, and are away.
    pub(crate) fn resume(&mut self) {
        self.was_dialled = true;
        self.leave();
    }

    /// Somebody came where nobody was.
    pub(crate) fn arrive(&mut self) {
        (self.online, self.was_dialled, self.expiry) = (true, true, None);
    }

    /// The last one has gone.
    pub(crate) fn leave(&mut self) {
        (self.online, self.expiry) = (false, self.lifetime.grace.map(Expiry::after));
    }

    /// The owner has shown up: its time starts anew.
    pub(crate) fn touch(&mut self) {
        if !self.online {
            let patience = if self.was_dialled { self.lifetime.grace } else { Some(self.lifetime.dial_within) };
            self.expiry = patience.map(Expiry::after);
        }
    }

    pub(crate) fn state(&self) -> TunnelState {
        match (self.online, self.was_dialled) {
            (true, _) => TunnelState::Online,
            (false, false) => TunnelState::Waiting,
            (false, true) => TunnelState::Offline,
        }
    }

    /// When the tunnel closes if nobody is there from now on.
    pub(crate) fn would_expire(&self) -> SystemTime {
        let patience = self.lifetime.grace.unwrap_or(self.lifetime.dial_within);
        self.expiry.map_or_else(|| SystemTime::now() + patience, |expiry| expiry.time)
    }
}

impl Expiry {
    fn after(patience: Duration) -> Self {
        Self { time: SystemTime::now() + patience, deadline: Instant::now() + patience }
    }
}
