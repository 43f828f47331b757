use std::{
    collections::HashMap,
    mem,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ipnet::IpNet;
use tokio::{sync::Notify, time::sleep};
use tracing::info;
use tunnel_api::Owner;
use tunnel_backends::sockets;

/// Lets the first few of many like refusals into the log, and sums up the others, so that nobody can fill a disk by being
/// refused: at most [`LINES`] for each of [`KINDS`] kinds in a [`WINDOW`], and a line that sums each of them up. That is 39 lines
/// a second, some 10 KB/s, whatever comes from however many places.
#[derive(Debug, Default)]
pub(super) struct Flood {
    /// How many of each kind have come since the window began, which is when the first one did.
    window: Mutex<HashMap<Like, u64>>,
    begun: Notify,
}

/// Refusals that are like each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Like {
    pub(super) who: Who,
    pub(super) what: &'static str,
    pub(super) reason: &'static str,
}

/// Who is refused, as far as one party can be told from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Who {
    Owner(Owner),
    Network(IpNet),
    /// Anybody.
    Others,
}

impl Who {
    pub(super) fn at(peer: SocketAddr) -> Self {
        Self::Network(sockets::network_of(peer.ip()))
    }
}

impl Flood {
    /// Whether this one is written.
    pub(super) fn lets_through(&self, like: Like) -> bool {
        let mut window = self.lock();
        if window.is_empty() {
            self.begun.notify_one();
        }
        let is_known = window.contains_key(&like);
        if !is_known && window.len() >= KINDS {
            *window.entry(Like { who: Who::Others, ..like }).or_default() += 1;
            return false;
        }
        let count = window.entry(like).or_default();
        *count += 1;
        *count <= LINES
    }

    /// Closes each window when it is over.
    pub(super) async fn follow(&self) {
        loop {
            self.begun.notified().await;
            sleep(WINDOW).await;
            self.sum_up();
        }
    }

    /// Closes the window.
    pub(super) fn sum_up(&self) {
        let over = mem::take(&mut *self.lock());
        for (Like { who, what, reason }, count) in over {
            let (owner, network, written) = match who {
                Who::Owner(owner) => (Some(owner), None, LINES),
                Who::Network(network) => (None, Some(network), LINES),
                Who::Others => (None, None, 0),
            };
            let more = count.saturating_sub(written);
            if more > 0 {
                info!(
                    target: "audit",
                    event = "refusal",
                    what,
                    reason,
                    owner = owner.map(display),
                    peer.network = network.map(display),
                    more,
                    "more like these refused"
                );
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Like, u64>> {
        // Nothing panics while it is held.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const WINDOW: Duration = Duration::from_secs(10);
const LINES: u64 = 5;
/// Beside them there is one for others for each call and reason.
const KINDS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn from(network: u8, reason: &'static str) -> Like {
        Like { who: Who::at(([192, 0, 2, network], 1).into()), what: "OpenTunnel", reason }
    }

    fn written(flood: &Flood, like: &Like, count: usize) -> usize {
        (0..count).filter(|_| flood.lets_through(like.clone())).count()
    }

    #[test]
    fn of_many_like_refusals_a_few_are_written_and_of_others_as_many() {
        let flood = Flood::default();
        assert_eq!(written(&flood, &from(1, "NOT_FOUND"), 500), 5);
        assert_eq!(written(&flood, &from(1, "INVALID"), 3), 3);
        assert_eq!(written(&flood, &from(2, "NOT_FOUND"), 500), 5);
        flood.sum_up();
        assert_eq!(written(&flood, &from(1, "NOT_FOUND"), 500), 5);
    }

    #[test]
    fn who_comes_from_everywhere_fills_neither_the_log_nor_memory() {
        let flood = Flood::default();
        let all: usize = (0..=255).map(|network| written(&flood, &from(network, "NOT_FOUND"), 100)).sum();
        assert_eq!((all, flood.lock().len()), (KINDS * 5, KINDS + 1));
    }
}
