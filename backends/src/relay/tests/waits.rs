//! How long the relay waits, to the millisecond, by a clock that jumps; and ends that TCP does not have.

use std::{io::ErrorKind, time::Duration};

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    HOUR, limited_with_paused_clock,
    scripted::{Say, Script, Take},
};
use crate::relay::{Pace, Progress, RelayEnd, RelayTimes, Side, relay};

const LINGER: Duration = Duration::from_secs(5);
const HALF_CLOSED: Duration = Duration::from_secs(300);
const UNREAD: Duration = Duration::from_secs(1800);
const TIMES: RelayTimes = RelayTimes { half_closed: HALF_CLOSED, unread: UNREAD, linger: LINGER };
const MS: Duration = Duration::from_millis(1);

#[test]
fn half_closed_and_silent_is_stalled_after_just_that_time() {
    limited_with_paused_clock(async {
        for [client, agent] in either_way(Script::says([Say::Finish]), Script::says([Say::Silence])) {
            assert_eq!(
                run(client, agent).await,
                Ended { end: RelayEnd::Stalled, after: HALF_CLOSED, aborted: [true, true] }
            );
        }
    });
}

#[test]
fn a_stopped_reader_is_stalled_after_just_that_time() {
    limited_with_paused_clock(async {
        let speaker = Script::says([Say::Bytes(1), Say::Silence]);
        let deaf = Script::says([Say::Silence]).takes([Take::Never]);
        for [client, agent] in either_way(speaker, deaf) {
            assert_eq!(
                run(client, agent).await,
                Ended { end: RelayEnd::Stalled, after: UNREAD, aborted: [true, true] }
            );
        }
    });
}

#[test]
fn the_time_of_a_stopped_reader_counts_from_its_last_byte() {
    limited_with_paused_clock(async {
        let speaker = Script::says([Say::Bytes(100), Say::Silence]);
        let stops = [Take::UpTo(10), Take::Wait(UNREAD / 3), Take::UpTo(10), Take::Never];
        for [client, agent] in either_way(speaker, Script::says([Say::Silence]).takes(stops)) {
            let after = UNREAD / 3 + UNREAD;
            assert_eq!(run(client, agent).await, Ended { end: RelayEnd::Stalled, after, aborted: [true, true] });
        }
    });
}

#[test]
fn the_time_of_a_stopped_reader_counts_from_its_own_end() {
    limited_with_paused_clock(async {
        let speaker = Script::says([Say::Bytes(1), Say::Silence]);
        let stops = Script::says([Say::Wait(UNREAD / 2), Say::Finish]).takes([Take::Never]);
        for [client, agent] in either_way(speaker, stops) {
            let after = UNREAD / 2 + UNREAD;
            assert_eq!(run(client, agent).await, Ended { end: RelayEnd::Stalled, after, aborted: [true, true] });
        }
    });
}

#[test]
fn a_slow_reader_is_not_stalled() {
    limited_with_paused_clock(async {
        let speaker = Script::says([Say::Bytes(100), Say::Finish]);
        let slow = [Take::Wait(UNREAD - MS), Take::UpTo(1)].repeat(100);
        for [client, agent] in either_way(speaker, Script::says([Say::Finish]).takes(slow)) {
            let after = 100 * (UNREAD - MS);
            assert_eq!(run(client, agent).await, Ended { end: RelayEnd::Finished, after, aborted: [false, false] });
        }
    });
}

#[test]
fn half_closed_with_a_slow_speaker_is_not_stalled() {
    limited_with_paused_clock(async {
        let mut says = [Say::Wait(HALF_CLOSED - MS), Say::Bytes(1)].repeat(100);
        says.push(Say::Finish);
        for [client, agent] in either_way(Script::says([Say::Finish]), Script::says(says)) {
            let after = 100 * (HALF_CLOSED - MS);
            assert_eq!(run(client, agent).await, Ended { end: RelayEnd::Finished, after, aborted: [false, false] });
        }
    });
}

#[test]
fn a_reader_that_stops_while_half_closed_has_the_time_of_a_stopped_reader_and_then_that_of_silence() {
    limited_with_paused_clock(async {
        let stops = Script::says([Say::Finish]).takes([Take::Wait(UNREAD - MS), Take::UpTo(100), Take::Never]);
        for [client, agent] in either_way(stops, Script::says([Say::Bytes(100), Say::Silence])) {
            let after = UNREAD - MS + HALF_CLOSED;
            assert_eq!(run(client, agent).await, Ended { end: RelayEnd::Stalled, after, aborted: [true, true] });
        }
    });
}

#[test]
fn open_both_ways_and_silent_is_not_stalled() {
    limited_with_paused_clock(async {
        let silent = Script::says([Say::Bytes(1), Say::Wait(100 * UNREAD), Say::Finish]);
        let after = 100 * UNREAD;
        let ended = run(silent.clone(), silent).await;
        assert_eq!(ended, Ended { end: RelayEnd::Finished, after, aborted: [false, false] });
    });
}

#[test]
fn the_last_words_before_an_abort_get_linger_and_no_longer() {
    limited_with_paused_clock(async {
        let aborts = Script::says([Say::Bytes(10), Say::Wait(MS), Say::Abort]);
        let never_sent = Script { sent_waits: vec![HOUR], ..Script::says([Say::Silence]) };
        for (side, [client, agent]) in sides(either_way(aborts, never_sent)) {
            let after = MS + LINGER;
            assert_eq!(run(client, agent).await, Ended { end: RelayEnd::Aborted(side), after, aborted: [true, true] });
        }
    });
}

#[test]
fn an_abort_is_passed_on_as_soon_as_the_last_words_are_sent() {
    limited_with_paused_clock(async {
        let aborts = Script::says([Say::Bytes(10), Say::Abort]);
        let slowly_sent = Script { sent_waits: vec![3 * MS], ..Script::says([Say::Silence]) };
        for (side, [client, agent]) in sides(either_way(aborts, slowly_sent)) {
            assert_eq!(
                run(client, agent).await,
                Ended { end: RelayEnd::Aborted(side), after: 3 * MS, aborted: [true, true] }
            );
        }
    });
}

/// Its abort is met by a write, and its last words have nobody who takes them.
#[test]
fn a_reset_that_a_write_meets_gets_linger_once() {
    limited_with_paused_clock(async {
        let resets = Script::says([Say::Bytes(10), Say::Finish]).takes([Take::Fail(ErrorKind::ConnectionReset)]);
        let deaf = Script { sent_waits: vec![HOUR], ..Script::says([Say::Wait(MS), Say::Bytes(1), Say::Silence]) };
        for (side, [client, agent]) in sides(either_way(resets, deaf.takes([Take::Never]))) {
            let after = MS + LINGER;
            assert_eq!(run(client, agent).await, Ended { end: RelayEnd::Aborted(side), after, aborted: [true, true] });
        }
    });
}

/// Its last words are held for a side that takes nothing, so nobody reads that it has aborted.
#[test]
fn an_abort_behind_bytes_that_nobody_takes_is_passed_on_within_linger() {
    limited_with_paused_clock(async {
        // Noticed at the first look after it, and there is one every `linger` of silence.
        for (aborts_after, after) in
            [(MS, LINGER), (LINGER - MS, LINGER), (LINGER + MS, 2 * LINGER), (7 * LINGER + MS, 8 * LINGER)]
        {
            let aborts = Script { aborts_after: Some(aborts_after), ..Script::says([Say::Bytes(10), Say::Abort]) };
            let deaf = Script::says([Say::Silence]).takes([Take::Never]);
            for (side, [client, agent]) in sides(either_way(aborts, deaf)) {
                assert_eq!(
                    run(client, agent).await,
                    Ended { end: RelayEnd::Aborted(side), after, aborted: [true, true] }
                );
            }
        }
    });
}

#[test]
fn an_abort_behind_bytes_that_are_taken_slowly_is_passed_on_after_them() {
    limited_with_paused_clock(async {
        let aborts = Script { aborts_after: Some(MS), ..Script::says([Say::Bytes(10), Say::Abort]) };
        let slow = Script::says([Say::Silence]).takes([Take::Wait(LINGER - MS), Take::UpTo(1)].repeat(10));
        for (side, [client, agent]) in sides(either_way(aborts, slow)) {
            let after = 10 * (LINGER - MS);
            assert_eq!(run(client, agent).await, Ended { end: RelayEnd::Aborted(side), after, aborted: [true, true] });
        }
    });
}

/// It may have finished behind its bytes, and what comes after both ends looks like an abort.
#[test]
fn an_end_that_was_told_of_an_end_is_not_asked_whether_it_has_aborted() {
    limited_with_paused_clock(async {
        let aborts = Script { aborts_after: Some(MS), ..Script::says([Say::Bytes(10), Say::Finish]) };
        let late = Script::says([Say::Finish]).takes([Take::Wait(UNREAD - MS)]);
        for [client, agent] in either_way(aborts, late) {
            let after = UNREAD - MS;
            assert_eq!(run(client, agent).await, Ended { end: RelayEnd::Finished, after, aborted: [false, false] });
        }
    });
}

/// No time at all must not become a busy wait: the test would hang.
#[test]
fn without_linger_a_stopped_reader_is_still_stalled() {
    limited_with_paused_clock(async {
        let times =
            RelayTimes { half_closed: Duration::from_secs(1), unread: Duration::from_secs(1), linger: Duration::ZERO };
        let speaker = Script::says([Say::Bytes(1), Say::Silence]);
        let deaf = Script::says([Say::Silence]).takes([Take::Never]);
        let ended = run_until(speaker, deaf, times, HOUR).await;
        assert_eq!(ended, Ended { end: RelayEnd::Stalled, after: times.unread, aborted: [true, true] });
    });
}

#[test]
fn an_end_after_a_failed_write_is_not_believed() {
    limited_with_paused_clock(async {
        let resets = Script::says([Say::Wait(2 * MS), Say::Bytes(10), Say::Finish])
            .takes([Take::Fail(ErrorKind::ConnectionReset)]);
        let speaker = Script::says([Say::Wait(MS), Say::Bytes(1), Say::Silence]);
        for (side, [client, agent]) in sides(either_way(resets, speaker)) {
            assert_eq!(
                run(client, agent).await,
                Ended { end: RelayEnd::Aborted(side), after: 2 * MS, aborted: [true, true] }
            );
        }
    });
}

#[test]
fn a_sink_that_takes_nothing_and_calls_it_success_is_broken() {
    limited_with_paused_clock(async {
        let broken = Script::says([Say::Wait(MS), Say::Finish]).takes([Take::Nothing]);
        for (side, [client, agent]) in sides(either_way(broken, Script::says([Say::Bytes(1), Say::Silence]))) {
            assert_eq!(
                run(client, agent).await,
                Ended { end: RelayEnd::Aborted(side), after: MS, aborted: [true, true] }
            );
        }
    });
}

#[test]
fn an_endless_uploader_is_let_go_after_just_linger() {
    limited_with_paused_clock(async {
        let answers = Script::says([Say::Bytes(10), Say::Finish]).takes([Take::Fail(ErrorKind::BrokenPipe)]);
        let endless = Script::says([Say::Wait(MS), Say::Bytes(1)].repeat(10_000));
        for [client, agent] in either_way(answers, endless) {
            let after = MS + LINGER;
            assert_eq!(run(client, agent).await, Ended { end: RelayEnd::Finished, after, aborted: [false, false] });
        }
    });
}

/// Once it has been told all, its abort costs nobody anything.
#[test]
fn an_uploader_that_aborts_after_its_answer_is_a_finish() {
    limited_with_paused_clock(async {
        let answers = Script::says([Say::Bytes(10), Say::Finish]).takes([Take::Fail(ErrorKind::BrokenPipe)]);
        let uploader = Script::says([Say::Bytes(1), Say::Wait(MS), Say::Abort]);
        for [client, agent] in either_way(answers, uploader) {
            assert_eq!(run(client, agent).await, Ended { end: RelayEnd::Finished, after: MS, aborted: [false, false] });
        }
    });
}

#[test]
fn cancelled_while_last_words_linger_is_at_once() {
    limited_with_paused_clock(async {
        let aborts = Script::says([Say::Bytes(10), Say::Abort]);
        let never_sent = Script { sent_waits: vec![HOUR], ..Script::says([Say::Silence]) };
        for [client, agent] in either_way(aborts, never_sent) {
            let ended = run_until(client, agent, TIMES, LINGER - MS).await;
            assert_eq!(ended, Ended { end: RelayEnd::Cancelled, after: LINGER - MS, aborted: [true, true] });
        }
    });
}

#[derive(Debug, PartialEq, Eq)]
struct Ended {
    end: RelayEnd,
    after: Duration,
    /// Client and agent.
    aborted: [bool; 2],
}

async fn run(client: Script, agent: Script) -> Ended {
    run_until(client, agent, TIMES, 1000 * HOUR).await
}

/// Relays between the two, and cancels it then.
async fn run_until(client: Script, agent: Script, times: RelayTimes, cancel_after: Duration) -> Ended {
    let ((client, client_past), (agent, agent_past)) = (client.end(), agent.end());
    let (progress, pace) = (Progress::default(), Pace::default());
    let (cancel, start) = (CancellationToken::new(), Instant::now());
    let relay = relay(client, agent, &progress, &pace, &times, &cancel);
    tokio::pin!(relay);
    let end = match timeout(cancel_after, &mut relay).await {
        Ok(end) => end,
        Err(_) => {
            cancel.cancel();
            relay.await
        }
    };
    let aborted = [client_past, agent_past].map(|past| past.lock().expect("no panic").aborted.is_some());
    Ended { end, after: start.elapsed(), aborted }
}

/// Client and agent are these two, then the other way round.
fn either_way(one: Script, other: Script) -> [[Script; 2]; 2] {
    [[one.clone(), other.clone()], [other, one]]
}

/// With the side that `one` is on.
fn sides(ways: [[Script; 2]; 2]) -> impl Iterator<Item = (Side, [Script; 2])> {
    super::BOTH.into_iter().zip(ways)
}
