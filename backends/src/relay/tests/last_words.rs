//! A side that has finished and reads no more has not aborted: what it said arrives, with a clean end.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use tokio::{io::AsyncWriteExt, net::TcpStream, time::sleep};

use super::{
    BOTH, HOUR, PATIENT,
    far_ends::{
        MUCH, finish_after, hear, relayed, relayed_reading_after_a_failed_write, relayed_through_small_sockets,
        reset_after, say, say_for_ever, say_until, sent,
    },
    limited, limited_in_parallel,
};
use crate::relay::{RelayEnd, RelayTimes, Side};

/// Less than what any socket takes in at once.
const ANSWER: usize = 30_000;

#[test]
fn an_answer_survives_the_reset_of_a_late_upload() {
    limited(async {
        for side in BOTH {
            let mut relayed = relayed(side, PATIENT).await;
            answer_and_close_with_unread_input(relayed.one, side, &mut relayed.other, ANSWER).await;
            say_until(&mut relayed.other, side.other(), relayed.near_one.write_failed.notified()).await;

            assert_eq!(hear(&mut relayed.other, side).await, finish_after(ANSWER));
            relayed.other.shutdown().await.expect("an upload's end");
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Finished);
        }
    });
}

/// The write fails before the relay has read any of the answer or its end.
#[test]
fn an_answer_that_is_unread_when_the_upload_is_reset_still_arrives() {
    limited(async {
        for side in BOTH {
            let mut relayed = relayed_reading_after_a_failed_write(side, PATIENT).await;
            answer_and_close_with_unread_input(relayed.one, side, &mut relayed.other, ANSWER).await;
            say_until(&mut relayed.other, side.other(), relayed.near_one.write_failed.notified()).await;

            assert_eq!(hear(&mut relayed.other, side).await, finish_after(ANSWER));
            relayed.other.shutdown().await.expect("an upload's end");
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Finished);
        }
    });
}

#[test]
fn an_answer_arrives_while_its_reader_is_still_uploading() {
    limited_in_parallel(async {
        for side in BOTH.repeat(5) {
            let mut relayed = relayed(side, PATIENT).await;
            answer_and_close_with_unread_input(relayed.one, side, &mut relayed.other, ANSWER).await;

            let (mut answer, mut upload) = relayed.other.into_split();
            let uploading = tokio::spawn(async move {
                let mut said = 0;
                while said < 20_000_000 {
                    said += upload.write(&[7; 64 * 1024]).await?;
                }
                std::io::Result::Ok(said)
            });
            assert_eq!(hear(&mut answer, side).await, finish_after(ANSWER));
            uploading.await.expect("no panic").expect("somebody takes all of the upload");
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Finished);
        }
    });
}

/// The relay holds much of the answer, and has not read its end, when it learns that its source takes no more.
#[test]
fn an_answer_that_is_read_late_survives_the_reset_of_the_upload() {
    limited(async {
        for side in BOTH {
            let mut relayed = relayed_through_small_sockets(side, PATIENT).await;
            answer_and_close_with_unread_input(relayed.one, side, &mut relayed.other, MUCH).await;
            say_until(&mut relayed.other, side.other(), relayed.near_one.write_failed.notified()).await;

            assert_eq!(hear(&mut relayed.other, side).await, finish_after(MUCH));
            relayed.other.shutdown().await.expect("an upload's end");
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Finished);
        }
    });
}

/// The relay looks for aborts while it holds bytes that nobody takes; this is none.
#[test]
fn an_answer_that_is_read_after_linger_survives_a_close_with_unread_input() {
    const LINGER: Duration = Duration::from_millis(50);
    limited(async {
        for side in BOTH {
            let mut relayed =
                relayed_through_small_sockets(side, RelayTimes { half_closed: HOUR, unread: HOUR, linger: LINGER })
                    .await;
            answer_and_close_with_unread_input(relayed.one, side, &mut relayed.other, MUCH).await;
            sleep(5 * LINGER).await;

            assert_eq!(hear(&mut relayed.other, side).await, finish_after(MUCH));
            relayed.other.shutdown().await.expect("an upload's end");
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Finished);
        }
    });
}

/// An ordinary close: everything was read, then an end, and what comes later is reset.
#[test]
fn an_answer_survives_an_ordinary_close_in_the_middle_of_the_upload() {
    limited(async {
        for side in BOTH {
            let mut relayed = relayed(side, PATIENT).await;
            say(&mut relayed.one, side, ANSWER).await.expect("an answer");
            drop(relayed.one);
            say_until(&mut relayed.other, side.other(), relayed.near_one.write_failed.notified()).await;

            assert_eq!(hear(&mut relayed.other, side).await, finish_after(ANSWER));
            relayed.other.shutdown().await.expect("an upload's end");
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Finished);
        }
    });
}

/// Without an end before it, a close with unread input is an abort like any other: what was said arrives, then a reset.
#[test]
fn an_answer_without_an_end_is_an_abort() {
    limited(async {
        for side in BOTH {
            let mut relayed = relayed(side, PATIENT).await;
            say(&mut relayed.other, side.other(), 1).await.expect("a question");
            relayed.one.readable().await.expect("unread input");
            say(&mut relayed.one, side, ANSWER).await.expect("an answer");
            drop(relayed.one);
            assert_eq!(hear(&mut relayed.other, side).await, reset_after(ANSWER));
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Aborted(side));
        }
    });
}

#[test]
fn an_endless_uploader_is_let_go_when_it_has_had_time_to_listen() {
    limited_in_parallel(async {
        for side in BOTH {
            let mut relayed = relayed(side, PATIENT).await;
            answer_and_close_with_unread_input(relayed.one, side, &mut relayed.other, ANSWER).await;
            let start = Instant::now();
            say_until(&mut relayed.other, side.other(), relayed.near_one.write_failed.notified()).await;
            assert_eq!(hear(&mut relayed.other, side).await, finish_after(ANSWER));

            let error = say_for_ever(&mut relayed.other, side.other()).await;
            let kind = error.kind();
            assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "let go by {error}");
            assert!(start.elapsed() >= Duration::from_millis(250), "let go after {:?}", start.elapsed());
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Finished);
        }
    });
}

/// Whatever it says is thrown away, which must not keep everybody busy until it is let go.
#[test]
fn who_talks_on_is_heard_slowly_when_it_has_been_told_all() {
    const LINGER: Duration = Duration::from_secs(1);
    const MIB: usize = 1024 * 1024;
    limited_in_parallel(async {
        // A client may be in the middle of an upload whose answer came early; what a service says goes to nobody.
        for (side, freely_and_in_sockets) in [(Side::Agent, 100 * MIB), (Side::Client, 60 * MIB)] {
            let times = RelayTimes { half_closed: HOUR, unread: HOUR, linger: LINGER };
            let mut relayed = relayed(side, times).await;
            drop(relayed.one);
            assert_eq!(hear(&mut relayed.other, side).await, finish_after(0));

            let start = Instant::now();
            let (mut said, piece) = (0, [7; 64 * 1024]);
            while let Ok(some) = relayed.other.write(&piece).await {
                said += some;
            }
            let slowly = start.elapsed().as_millis() as usize / 10 * piece.len();
            assert!(said < freely_and_in_sockets + slowly, "{said} bytes in {:?}", start.elapsed());
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Finished);
        }
    });
}

/// It uploads without end and never reads the answer, so its direction moves for ever and the answer's does not.
#[test]
fn an_endless_uploader_that_does_not_read_is_stalled() {
    limited_in_parallel(async {
        for side in BOTH {
            let times = RelayTimes {
                half_closed: Duration::from_millis(500),
                unread: Duration::from_millis(500),
                linger: HOUR,
            };
            let mut relayed = relayed_through_small_sockets(side, times).await;
            answer_and_close_with_unread_input(relayed.one, side, &mut relayed.other, MUCH).await;

            let error = say_for_ever(&mut relayed.other, side.other()).await;
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Stalled);
        }
    });
}

/// It closes for good after its question: nobody is there for the answer, which is no abort.
#[test]
fn a_side_that_asks_and_goes_away_has_finished() {
    limited(async {
        for side in BOTH {
            let mut relayed = relayed(side, PATIENT).await;
            say(&mut relayed.one, side, 7).await.expect("a question");
            drop(relayed.one);
            assert_eq!(hear(&mut relayed.other, side).await, finish_after(7));
            say_until(&mut relayed.other, side.other(), relayed.near_one.write_failed.notified()).await;
            relayed.other.shutdown().await.expect("an answer's end");
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Finished);
        }
    });
}

/// Asked by `other`, it answers, finishes, and closes without having read all that came: its kernel then sends a reset.
async fn answer_and_close_with_unread_input(mut one: TcpStream, side: Side, other: &mut TcpStream, answer: usize) {
    say(other, side.other(), 1000).await.expect("an upload");
    one.readable().await.expect("unread input");
    say(&mut one, side, answer).await.expect("an answer");
    sent(&mut one).await;
    one.shutdown().await.expect("its end");
}
