//! An abort stays an abort: the other side sees a reset, never an end, after the bytes that were said before.

use std::{io::ErrorKind, time::Duration};

use tokio::io::AsyncWriteExt;

use super::{
    BOTH, HOUR, PATIENT,
    far_ends::{
        Heard, MUCH, error_on, finish_after, hear, relayed, relayed_reading_after_a_failed_write,
        relayed_through_small_sockets, reset_after, say, say_until, sent,
    },
    limited,
};
use crate::{
    relay::{RelayEnd, RelayTimes},
    sockets::reset,
};

#[test]
fn an_abort_is_a_reset_for_the_other_side() {
    limited(async {
        for side in BOTH {
            let mut relayed = relayed(side, PATIENT).await;
            reset(relayed.one);
            assert_eq!(hear(&mut relayed.other, side).await, reset_after(0));
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Aborted(side));
        }
    });
}

#[test]
fn an_abort_by_a_side_that_still_gets_its_answer_is_a_reset_for_the_other() {
    limited(async {
        for side in BOTH {
            let mut relayed = relayed(side, PATIENT).await;
            relayed.other.shutdown().await.expect("its end");
            assert_eq!(hear(&mut relayed.one, side.other()).await, finish_after(0));

            reset(relayed.one);
            assert_eq!(hear(&mut relayed.other, side).await, reset_after(0));
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Aborted(side));
        }
    });
}

#[test]
fn what_was_said_just_before_an_abort_arrives_before_the_reset() {
    limited(async {
        for side in BOTH {
            let mut relayed = relayed(side, PATIENT).await;
            say(&mut relayed.one, side, 30_000).await.expect("last words");
            sent(&mut relayed.one).await;
            reset(relayed.one);
            assert_eq!(hear(&mut relayed.other, side).await, reset_after(30_000));
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Aborted(side));
        }
    });
}

/// The bytes lie in the relay's socket when it hears of the abort: a reset at once would destroy them.
#[test]
fn what_was_said_before_an_abort_arrives_at_a_reader_that_starts_late() {
    const SAID: usize = 600_000;
    limited(async {
        for side in BOTH {
            let mut relayed = relayed(side, PATIENT).await;
            say(&mut relayed.one, side, SAID).await.expect("last words");
            relayed.near_other.taken.subscribe().wait_for(|taken| *taken == SAID).await.expect("a relay");
            reset(relayed.one);
            relayed.near_one.aborting.notified().await;

            assert_eq!(hear(&mut relayed.other, side).await, reset_after(SAID));
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Aborted(side));
        }
    });
}

/// Here the relay holds bytes itself, and more lie behind them unread.
#[test]
fn what_is_held_at_an_abort_arrives_at_a_reader_that_starts_late() {
    limited(async {
        for side in BOTH {
            let mut relayed = relayed_through_small_sockets(side, PATIENT).await;
            say(&mut relayed.one, side, MUCH).await.expect("last words");
            relayed.near_other.blocked.notified().await;
            sent(&mut relayed.one).await;
            reset(relayed.one);

            assert_eq!(hear(&mut relayed.other, side).await, reset_after(MUCH));
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Aborted(side));
        }
    });
}

/// The write takes the socket's error with it, and the next read gives a clean end: not to be believed.
#[test]
fn a_reset_that_a_write_meets_first_is_still_an_abort() {
    limited(async {
        for side in BOTH {
            let mut relayed = relayed_reading_after_a_failed_write(side, PATIENT).await;
            reset(relayed.one);
            say_until(&mut relayed.other, side.other(), relayed.near_one.write_failed.notified()).await;
            assert_eq!(hear(&mut relayed.other, side).await, reset_after(0));
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Aborted(side));
        }
    });
}

#[test]
fn what_was_said_before_a_reset_that_a_write_meets_first_still_arrives() {
    limited(async {
        for side in BOTH {
            let mut relayed = relayed_reading_after_a_failed_write(side, PATIENT).await;
            say(&mut relayed.one, side, 30_000).await.expect("last words");
            sent(&mut relayed.one).await;
            reset(relayed.one);
            say_until(&mut relayed.other, side.other(), relayed.near_one.write_failed.notified()).await;
            assert_eq!(hear(&mut relayed.other, side).await, reset_after(30_000));
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Aborted(side));
        }
    });
}

/// Whichever of the relay's calls meets it.
#[test]
fn a_reset_in_the_middle_of_a_download_is_an_abort() {
    limited(async {
        for side in BOTH.repeat(10) {
            let mut relayed = relayed(side, PATIENT).await;
            say_until(&mut relayed.other, side.other(), relayed.near_one.blocked.notified()).await;
            reset(relayed.one);
            assert_eq!(hear(&mut relayed.other, side).await, reset_after(0));
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Aborted(side));
        }
    });
}

/// The last bytes wait in the kernel for a reader that never reads.
#[test]
fn an_abort_is_passed_on_after_linger_to_a_side_that_does_not_read() {
    limited(async {
        for side in BOTH {
            let mut relayed = relayed(side, QUICK).await;
            say(&mut relayed.one, side, 600_000).await.expect("last words");
            relayed.near_other.taken.subscribe().wait_for(|taken| *taken == 600_000).await.expect("a relay");
            reset(relayed.one);
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Aborted(side));
            assert_cut_short(&hear(&mut relayed.other, side).await);
        }
    });
}

/// Here the relay holds bytes itself, and has no reason to read where the error is.
#[test]
fn an_abort_is_passed_on_after_linger_to_a_side_that_does_not_take_what_is_held() {
    limited(async {
        for side in BOTH {
            let mut relayed = relayed_through_small_sockets(side, QUICK).await;
            say(&mut relayed.one, side, MUCH).await.expect("last words");
            relayed.near_other.blocked.notified().await;
            reset(relayed.one);
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Aborted(side));
            assert_cut_short(&hear(&mut relayed.other, side).await);
        }
    });
}

#[test]
fn cancelled_both_see_a_reset_at_once() {
    limited(async {
        for side in BOTH {
            let mut relayed = relayed(side, PATIENT).await;
            relayed.cancel.cancel();
            assert_eq!(hear(&mut relayed.one, side.other()).await, reset_after(0));
            assert_eq!(hear(&mut relayed.other, side).await, reset_after(0));
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Cancelled);
        }
    });
}

#[test]
fn cancelled_with_all_buffers_full_both_see_a_reset_at_once() {
    limited(async {
        for side in BOTH {
            let mut relayed = relayed(side, PATIENT).await;
            say_until(&mut relayed.one, side, relayed.near_other.blocked.notified()).await;
            relayed.cancel.cancel();
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Cancelled);
            assert_eq!(hear(&mut relayed.one, side.other()).await, reset_after(0));
            assert_cut_short(&hear(&mut relayed.other, side).await);
        }
    });
}

#[test]
fn half_closed_and_silent_is_stalled_and_both_see_a_reset() {
    limited(async {
        for side in BOTH {
            let times = RelayTimes {
                half_closed: Duration::from_millis(300),
                unread: Duration::from_millis(300),
                linger: HOUR,
            };
            let mut relayed = relayed(side, times).await;
            relayed.one.shutdown().await.expect("its end");
            assert_eq!(hear(&mut relayed.other, side).await, finish_after(0));

            assert_eq!(hear(&mut relayed.one, side.other()).await, reset_after(0));
            // It has read an end already, so the kernel calls the reset by another name.
            assert_eq!(error_on(&relayed.other).await, Some(ErrorKind::BrokenPipe));
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Stalled);
        }
    });
}

#[test]
fn a_stopped_reader_is_stalled_and_both_see_a_reset() {
    limited(async {
        for side in BOTH {
            let times = RelayTimes {
                half_closed: Duration::from_millis(300),
                unread: Duration::from_millis(300),
                linger: HOUR,
            };
            let mut relayed = relayed(side, times).await;
            say_until(&mut relayed.one, side, relayed.near_one.aborting.notified()).await;
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Stalled);
            assert_eq!(hear(&mut relayed.one, side.other()).await, reset_after(0));
            assert_cut_short(&hear(&mut relayed.other, side).await);
        }
    });
}

const QUICK: RelayTimes = RelayTimes { half_closed: HOUR, unread: HOUR, linger: Duration::from_millis(200) };

/// Some of it came, and then a reset.
#[track_caller]
fn assert_cut_short(heard: &Heard) {
    assert!(heard.bytes > 0, "{heard:?}");
    assert_eq!(*heard, reset_after(heard.bytes));
}
