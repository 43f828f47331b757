//! How fast a relay goes, by a clock that jumps.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    BOTH, HOUR, PATIENT, limited_with_paused_clock,
    scripted::{Past, Say, Script},
};
use crate::relay::{Bucket, Pace, Progress, RelayEnd, RelayTimes, Side, relay};

const KIB: u64 = 1024;
const MS: Duration = Duration::from_millis(1);

#[test]
fn bytes_go_as_fast_as_the_pace_and_no_faster() {
    limited_with_paused_clock(async {
        for side in BOTH {
            let took = Talk::of(side, 10_000 * KIB).at(&rate(1000 * KIB)).await.took;
            // The first read needs no waiting, and the last one is not waited for.
            assert!(took > Duration::from_millis(9800) && took <= Duration::from_millis(10_010), "{side:?}: {took:?}");
        }
    });
}

#[test]
fn each_direction_has_a_pace_of_its_own() {
    limited_with_paused_clock(async {
        let slow = Pace { to_agent: vec![Arc::new(Bucket::new(Some(KIB)))], to_client: Vec::new() };
        assert_eq!(Talk::of(Side::Agent, 1000 * KIB).at(&slow).await.took, Duration::ZERO);
        assert!(Talk::of(Side::Client, 10 * KIB).at(&slow).await.took > Duration::from_secs(8));
    });
}

#[test]
fn after_a_silence_a_quarter_second_comes_at_once_and_no_more() {
    limited_with_paused_clock(async {
        let pace = rate(400 * KIB);
        sleep(HOUR).await;
        assert_eq!(Talk::of(Side::Client, 100 * KIB).at(&pace).await.took, Duration::ZERO);
        sleep(HOUR).await;
        assert!(Talk::of(Side::Client, 400 * KIB).at(&pace).await.took > Duration::from_millis(500));
    });
}

#[test]
fn streams_that_share_a_pace_share_it_evenly() {
    limited_with_paused_clock(async {
        let pace = rate(1000 * KIB);
        let times = join_all((0..10).map(|_| Talk::of(Side::Agent, 1000 * KIB).at(&pace))).await;
        for talk in times {
            let took = talk.took;
            assert!(took > Duration::from_secs(9) && took < Duration::from_millis(10_100), "{took:?}");
        }
    });
}

#[test]
fn a_few_bytes_do_not_wait_for_the_many() {
    limited_with_paused_clock(async {
        let pace = rate(1000 * KIB);
        let bulk = join_all((0..8).map(|_| Talk::of(Side::Agent, 10_000 * KIB).at(&pace)));
        let few = async {
            sleep(Duration::from_secs(5)).await;
            Talk::of(Side::Agent, 100).at(&pace).await.took
        };
        tokio::pin!(bulk);
        let took = tokio::select! {
            took = few => took,
            _ = &mut bulk => panic!("80 MB at 1 MB/s have gone through in 5 s"),
        };
        // At the most one read of each of them: 8 × 64 KiB; and its own end takes a turn too.
        assert!(took < Duration::from_millis(1100), "{took:?}");
    });
}

/// Whoever has many streams gets no more of what all owners share.
#[test]
fn owners_share_what_is_everybodys_evenly() {
    limited_with_paused_clock(async {
        let everybody = Arc::new(Bucket::new(Some(1000 * KIB)));
        let owner = || {
            let buckets = vec![Arc::new(Bucket::new(None)), everybody.clone()];
            Pace { to_agent: buckets.clone(), to_client: buckets }
        };
        let (greedy, modest) = (owner(), owner());
        let crowd = join_all((0..20).map(|_| Talk::of(Side::Agent, 1000 * KIB).at(&greedy)));
        let one = Talk::of(Side::Agent, 1000 * KIB);
        tokio::pin!(crowd);
        let took = tokio::select! {
            talk = one.at(&modest) => talk.took,
            _ = &mut crowd => panic!("the crowd was done first"),
        };
        // Half of the rate, not a twenty-first of it.
        assert!(took < Duration::from_millis(2200), "{took:?}");
    });
}

#[test]
fn waiting_for_its_turn_is_no_standing_still() {
    limited_with_paused_clock(async {
        let times = RelayTimes { half_closed: MS, unread: MS, linger: MS };
        let talk = Talk { times, ..Talk::of(Side::Client, 20 * KIB) }.at(&rate(KIB)).await;
        assert_eq!(talk.end, RelayEnd::Finished);
        assert!(talk.took > Duration::from_secs(18), "{:?}", talk.took);
    });
}

/// And it does not keep its place in the queue.
#[test]
fn an_abort_is_noticed_and_passed_on_by_who_waits_for_its_turn() {
    limited_with_paused_clock(async {
        let linger = Duration::from_secs(5);
        let times = RelayTimes { linger, ..PATIENT };
        for side in BOTH {
            let pace = rate(KIB);
            let script =
                Script { aborts_after: Some(MS), ..Script::says([Say::Bytes(1000 * KIB as usize), Say::Silence]) };
            let talk = Talk { script, times, ..Talk::of(side, 0) }.at(&pace).await;
            assert_eq!(talk.end, RelayEnd::Aborted(side));
            assert!(talk.took <= linger + Duration::from_secs(1), "{:?}", talk.took);
            assert!(talk.other.lock().unwrap().aborted.is_some());
            let next = Talk::of(side, 100).at(&pace).await;
            assert!(next.took < Duration::from_secs(2), "{:?}", next.took);
        }
    });
}

/// Its other direction is not polled any more while last bytes leave, and must not hold a turn meanwhile.
#[test]
fn who_passes_an_abort_on_holds_up_nobody() {
    limited_with_paused_clock(async {
        let pace = rate(KIB);
        // The client's next bytes wait for their turn when the agent aborts, and what it was told before does not leave.
        let client = Script { sent_waits: vec![HOUR], ..Script::says([Say::Bytes(100 * KIB as usize), Say::Silence]) };
        let agent = Script::says([Say::Wait(Duration::from_millis(2500)), Say::Abort]);
        let (progress, cancel) = (Progress::default(), CancellationToken::new());
        let ((client, _), (agent, _)) = (client.end(), agent.end());
        let aborting = relay(client, agent, &progress, &pace, &PATIENT, &cancel);
        tokio::pin!(aborting);
        assert!(timeout(Duration::from_secs(10), &mut aborting).await.is_err());
        let next = tokio::select! {
            next = Talk::of(Side::Client, 100).at(&pace) => next,
            _ = aborting => panic!("nothing was to leave for an hour"),
        };
        assert!(next.took < Duration::from_secs(3), "{:?}", next.took);
    });
}

#[test]
fn a_cancel_is_heeded_by_who_waits_for_its_turn() {
    limited_with_paused_clock(async {
        let pace = rate(1);
        let talk = Talk { cancel_after: Duration::from_secs(60), ..Talk::of(Side::Agent, 100 * KIB) }.at(&pace).await;
        assert_eq!((talk.end, talk.took), (RelayEnd::Cancelled, Duration::from_secs(60)));
    });
}

#[test]
fn a_pace_that_is_raised_or_lifted_counts_for_who_waits_already() {
    limited_with_paused_clock(async {
        for faster in [None, Some(1000 * KIB)] {
            let bucket = Arc::new(Bucket::new(Some(KIB)));
            let pace = Pace { to_agent: vec![bucket.clone()], to_client: Vec::new() };
            let talk = Talk::of(Side::Client, 100 * KIB);
            let running = talk.at(&pace);
            tokio::pin!(running);
            assert!(timeout(Duration::from_secs(10), &mut running).await.is_err());
            bucket.set_rate(faster);
            assert!(running.await.took < Duration::from_secs(12));
        }
    });
}

#[test]
fn a_slow_read_is_a_small_one() {
    assert_eq!(
        [1, 8 * KIB, 64 * KIB, 1000 * KIB].map(|rate| Bucket::new(Some(rate)).most()),
        [1024, 2048, 16_384, 65_536]
    );
}

/// So many bytes a second each way.
fn rate(rate: u64) -> Pace {
    let bucket = || vec![Arc::new(Bucket::new(Some(rate)))];
    Pace { to_agent: bucket(), to_client: bucket() }
}

/// One side says something, and the other nothing.
struct Talk {
    side: Side,
    script: Script,
    times: RelayTimes,
    cancel_after: Duration,
}

struct Ended {
    end: RelayEnd,
    took: Duration,
    /// The side that said nothing.
    other: Arc<Mutex<Past>>,
}

impl Talk {
    fn of(side: Side, bytes: u64) -> Self {
        let script = Script::says([Say::Bytes(bytes as usize), Say::Finish]);
        Self { side, script, times: PATIENT, cancel_after: 1000 * HOUR }
    }

    async fn at(self, pace: &Pace) -> Ended {
        let quiet = if matches!(self.script.says.last(), Some(Say::Finish)) { Say::Finish } else { Say::Silence };
        let ((speaker, _), (listener, other)) = (self.script.end(), Script::says([quiet]).end());
        let (client, agent) = if self.side == Side::Client { (speaker, listener) } else { (listener, speaker) };
        let (progress, cancel, start) = (Progress::default(), CancellationToken::new(), Instant::now());
        let running = relay(client, agent, &progress, pace, &self.times, &cancel);
        tokio::pin!(running);
        let end = match timeout(self.cancel_after, &mut running).await {
            Ok(end) => end,
            Err(_) => {
                cancel.cancel();
                running.await
            }
        };
        Ended { end, took: start.elapsed(), other }
    }
}
