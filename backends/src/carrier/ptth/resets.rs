use std::{
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::limits::{self, RESETS_SAVED};

/// How often streams of a session may be reset. HTTP/2 libraries end connections whose peer resets streams too often ("rapid
/// reset"): Node's after 1,000 in a row and then 33 a second. Clients must not be able to do that to an agent, so resets take
/// turns, and one that waits keeps its stream's place.
#[derive(Debug)]
pub(super) struct Resets {
    interval: Duration,
    /// When the next turn is, if none had been saved up.
    next: Mutex<Instant>,
}

/// A reset's turn, for which it waits.
#[derive(Debug, Default)]
pub(super) struct Turn(Option<Pin<Box<Sleep>>>);

impl Resets {
    /// So many a second, as far as we can remember them.
    pub(super) fn new(a_second: u32) -> Self {
        let interval = Duration::from_secs(1) / a_second.clamp(1, limits::RESETS_A_SECOND);
        Self { interval, next: Mutex::new(long_ago(interval)) }
    }

    pub(super) fn poll_turn(&self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<()> {
        turn.0.get_or_insert_with(|| Box::pin(sleep_until(self.reserve()))).as_mut().poll(cx)
    }

    fn reserve(&self) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = (*next).max(long_ago(self.interval));
        *next = turn + self.interval;
        turn
    }
}

/// From when on turns may have been saved up. (A clock that has just begun has no long ago.)
fn long_ago(interval: Duration) -> Instant {
    let now = Instant::now();
    now.checked_sub(interval * RESETS_SAVED).unwrap_or(now)
}

/// For agents that do not say how many they bear.
pub(super) const RESETS_A_SECOND: u32 = 25;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn take(resets: &Resets) {
        let mut turn = Turn::default();
        poll_fn(|cx| resets.poll_turn(cx, &mut turn)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_as_were_saved_go_at_once_and_the_rest_take_turns() {
        let resets = Resets::new(25);
        let start = Instant::now();
        for _ in 0..500 {
            take(&resets).await;
        }
        assert!(start.elapsed() < Duration::from_millis(50), "{:?}", start.elapsed());
        for _ in 0..50 {
            take(&resets).await;
        }
        assert!((1900..2100).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_reset_faster_than_can_be_remembered() {
        let resets = Resets::new(1_000_000);
        let start = Instant::now();
        for _ in 0..RESETS_SAVED + 4000 {
            take(&resets).await;
        }
        assert!((1900..2100).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    }
}
