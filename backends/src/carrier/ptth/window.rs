//! How much may be on its way to us on each stream: enough to fill the path together with the others that fill it, and not more than the
//! session's budget.

use std::time::Duration;

use tokio::time::Instant;

use super::limits::{BUDGET, FIRST_WINDOW, LEAST_WINDOW, MOST_WINDOW, SHARED_WINDOW};

/// The receive window of every stream of a session. HTTP/2 has one for all of them, which can be changed for all at once.
#[derive(Debug)]
pub(super) struct Window {
    /// What the peer has been told.
    told: u32,
    /// What would fill the path, as far as we know.
    measured: u32,
    /// Of what comes, how much is one stream's that says much: others fill the path with it.
    share: f64,
    /// Bytes a second, the most we have seen.
    best: f64,
    /// The shortest round trip: the path's own, while others also wait in queues behind what is on its way.
    shortest: Duration,
    /// When it is worth looking again.
    next_look: Instant,
    pause: Duration,
}

impl Window {
    pub(super) fn new() -> Self {
        Self {
            told: FIRST_WINDOW,
            measured: FIRST_WINDOW,
            share: 1.0,
            best: 0.0,
            shortest: Duration::MAX,
            next_look: Instant::now(),
            pause: FIRST_PAUSE,
        }
    }

    /// The first round trip, with nothing on its way: what a fair path of that length holds, so that long ones need fewer
    /// steps. (Where that is too much, the budget still holds.)
    pub(super) fn guess(&mut self, round_trip: Duration) {
        self.shortest = round_trip;
        let held = (FAIR_PATH * round_trip.as_secs_f64()) as u32;
        self.measured = held.clamp(FIRST_WINDOW, MOST_WINDOW);
    }

    /// Whether a round trip should be measured, now that so many bytes have come since the last one: only where the window
    /// could be what holds them up.
    pub(super) fn wants_a_look(&self, bytes: u64, now: Instant) -> bool {
        bytes >= u64::from(self.told / 2) && now >= self.next_look
    }

    /// This came within a round trip. If it fills the window, and faster than ever, a larger one would bring more;
    /// where a larger one brought nothing, the path is full, and more would only wait in queues.
    pub(super) fn measure(&mut self, brought: Brought, round_trip: Duration, now: Instant) {
        let Brought { bytes, of_one } = brought;
        let bandwidth = bytes as f64 / round_trip.as_secs_f64().max(1e-6);
        self.shortest = self.shortest.min(round_trip);
        let fills = bytes >= u64::from(self.told) * 2 / 3;
        let says_enough = bytes >= u64::from(self.told.min(FIRST_WINDOW) / 2);
        let moved = if says_enough { of_one.min(bytes) as f64 / bytes as f64 - self.share } else { 0.0 };
        // A bit at a time: which stream was followed is chance.
        self.share += moved / 2.0;
        if fills && bandwidth > self.best * BETTER {
            self.best = bandwidth;
            // Of what the path holds: twice, because the peer hears of room only when half of it is free, and twice to find out
            // whether there is more. What waited in a queue would only wait in a longer one.
            let held = bandwidth * self.shortest.as_secs_f64();
            self.measured = ((held * 4.0) as u32).clamp(self.measured, MOST_WINDOW);
            self.look_again_at(now);
        } else if moved.abs() > OTHERS_CAME {
            self.look_again_at(now);
        } else if fills {
            self.next_look = now + self.pause;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        } else {
            // Nobody needed more this time. The next one may.
            self.next_look = now + FIRST_PAUSE;
        }
    }

    fn look_again_at(&mut self, next: Instant) {
        self.pause = FIRST_PAUSE;
        self.next_look = next;
    }

    /// What the peer should be told now that so many streams are open, if it is something else than it knows: what fills the path together
    /// with those that say as much, and within the budget whatever they say. Sizes are powers of two, and one that was shrunk grows
    /// again only when twice as much is due: clients come and go without a word to the peer.
    pub(super) fn due(&self, streams: usize) -> Option<u32> {
        let streams = u32::try_from(streams.max(1)).unwrap_or(u32::MAX);
        let most = floor_power(BUDGET / streams).max(LEAST_WINDOW);
        if most < self.told {
            return Some(most);
        }
        let fills = (f64::from(self.measured) * self.share) as u32;
        if fills < self.told / 2 && self.told > SHARED_WINDOW {
            return Some(self.told / 2);
        }
        let wanted = floor_power(fills).min(floor_power(BUDGET / streams.saturating_mul(2)));
        (wanted > self.told).then_some(wanted)
    }

    pub(super) fn tell(&mut self, size: u32) {
        self.told = size;
    }
}

/// What a round trip brought.
#[derive(Debug, Clone, Copy)]
pub(super) struct Brought {
    pub(super) bytes: u64,
    /// Of one of the streams.
    pub(super) of_one: u64,
}

fn floor_power(size: u32) -> u32 {
    1 << size.max(1).ilog2()
}

/// In bytes a second.
const FAIR_PATH: f64 = 20e6;

/// Less is noise.
const BETTER: f64 = 1.1;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How far a stream's share is from what it was, where that is more than chance: others have begun, or ended.
const OTHERS_CAME: f64 = 0.2;

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes come as fast as windows and path let them, to so many streams of those that are open.
    fn go_on(window: &mut Window, path: f64, round_trip: Duration, busy: u32, streams: usize) {
        for _ in 0..30 {
            let holds = path * round_trip.as_secs_f64();
            let bytes = (f64::from(window.told) * f64::from(busy)).min(holds) as u64;
            window.measure(Brought { bytes, of_one: bytes / u64::from(busy) }, round_trip, Instant::now());
            if let Some(size) = window.due(streams) {
                window.tell(size);
            }
        }
    }

    fn after_rounds(path: f64, round_trip: Duration, streams: usize) -> u32 {
        let mut window = Window::new();
        go_on(&mut window, path, round_trip, 1, streams);
        window.told
    }

    #[tokio::test]
    async fn it_grows_until_the_path_is_full_and_no_further() {
        let round_trip = Duration::from_millis(100);
        let filled = after_rounds(50e6, round_trip, 1);
        assert!((2 * 5_000_000..=16 * 1024 * 1024).contains(&filled), "{filled}");
        assert_eq!(after_rounds(1e5, round_trip, 1), FIRST_WINDOW);
        assert_eq!(after_rounds(1e12, round_trip, 1), MOST_WINDOW);
    }

    #[tokio::test]
    async fn a_modest_beginning_does_not_make_it_slow_to_grow() {
        let round_trip = Duration::from_millis(100);
        let mut window = Window::new();
        let mut now = Instant::now();
        for _ in 0..50 {
            window.measure(Brought { bytes: 1000, of_one: 1000 }, round_trip, now);
            now += round_trip;
        }
        assert!(window.wants_a_look(u64::from(FIRST_WINDOW), now));
    }

    #[tokio::test]
    async fn all_streams_together_stay_within_the_budget() {
        for streams in [1, 4, 5, 64, 1024, 1025, 4096] {
            let told = after_rounds(1e12, Duration::from_millis(100), streams);
            assert!(told as usize * streams <= BUDGET as usize, "{told} each for {streams}");
            assert!(told >= if streams <= 1024 { 64 * 1024 } else { LEAST_WINDOW }, "{told} each for {streams}");
        }
    }

    #[tokio::test]
    async fn streams_that_fill_the_path_together_have_a_share_of_it_each() {
        let (path, round_trip) = (20e6, Duration::from_millis(100));
        let mut window = Window::new();
        let mut told = Vec::new();
        for busy in [1, 8, 1] {
            go_on(&mut window, path, round_trip, busy, 8);
            told.push(window.told);
        }
        let held = (path * round_trip.as_secs_f64()) as u32;
        assert!(told[1] * 8 >= 2 * held && told[1] * 2 <= told[0], "{told:?}");
        assert_eq!(told[2], told[0]);
    }

    #[tokio::test]
    async fn however_many_share_a_short_path_each_gets_a_few_frames() {
        let mut window = Window::new();
        for busy in [1, 100] {
            go_on(&mut window, 1e9, Duration::from_millis(1), busy, 100);
        }
        assert_eq!(window.told, SHARED_WINDOW);
    }

    /// A frame is counted when it begins, and its bytes as they come.
    #[tokio::test]
    async fn a_frame_that_has_only_begun_makes_no_share_larger_than_all() {
        let (mut window, round_trip) = (Window::new(), Duration::from_millis(100));
        for _ in 0..30 {
            let bytes = u64::from(window.told);
            window.measure(Brought { bytes, of_one: 3 * bytes }, round_trip, Instant::now());
            if let Some(size) = window.due(1) {
                window.tell(size);
            }
        }
        assert_eq!(window.told, MOST_WINDOW);
    }

    #[tokio::test]
    async fn coming_and_going_at_a_limit_changes_nothing() {
        let mut window = Window::new();
        window.measured = MOST_WINDOW;
        window.tell(window.due(16).unwrap());
        let told = window.due(33).expect("less for more");
        window.tell(told);
        assert_eq!(window.due(32), None);
        assert!(window.due(8).is_some_and(|size| size > told));
    }
}
