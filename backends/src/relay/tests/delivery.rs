//! Bytes arrive, whole and both ways, and ends arrive after them.

use std::sync::atomic::Ordering;

use tokio::io::AsyncWriteExt;

use super::{
    BOTH, PATIENT,
    far_ends::{finish_after, hear, hear_exactly, relayed, say},
    limited, limited_in_parallel,
};
use crate::relay::{RelayEnd, Side};

const K: usize = 1024;
const SIZES: [usize; 6] = [0, 1, 64 * K - 1, 64 * K, 64 * K + 1, 5 * K * K + 7];

#[test]
fn every_byte_arrives_both_ways_at_once_and_is_counted() {
    limited_in_parallel(async {
        for (to_agent, to_client) in SIZES.into_iter().zip(SIZES.into_iter().rev()).chain(SIZES.map(|n| (n, n))) {
            let relayed = relayed(Side::Client, PATIENT).await;
            let (mut from_agent, mut client) = relayed.one.into_split();
            let (mut from_client, mut agent) = relayed.other.into_split();

            // Dropping a half that writes is its shutdown.
            let client = tokio::spawn(async move { say(&mut client, Side::Client, to_agent).await });
            let agent = tokio::spawn(async move { say(&mut agent, Side::Agent, to_client).await });
            let at_client = tokio::spawn(async move { hear(&mut from_agent, Side::Agent).await });
            let at_agent = hear(&mut from_client, Side::Client).await;

            assert_eq!(at_agent, finish_after(to_agent));
            assert_eq!(at_client.await.expect("no panic"), finish_after(to_client));
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Finished);
            assert_eq!(
                (relayed.progress.to_agent(), relayed.progress.to_client()),
                (to_agent as u64, to_client as u64)
            );
            client.await.expect("no panic").expect("all was said");
            agent.await.expect("no panic").expect("all was said");
        }
    });
}

#[test]
fn a_side_that_half_closes_still_gets_its_answer() {
    limited(async {
        for side in BOTH {
            let mut relayed = relayed(side, PATIENT).await;
            say(&mut relayed.one, side, 7).await.expect("a question");
            relayed.one.shutdown().await.expect("its end");
            assert_eq!(hear(&mut relayed.other, side).await, finish_after(7), "of the {side:?}");

            say(&mut relayed.other, side.other(), 100 * K).await.expect("an answer");
            assert!(hear_exactly(&mut relayed.one, side.other(), 100 * K).await.expect("the answer"), "intact");

            relayed.other.shutdown().await.expect("its end");
            assert_eq!(hear(&mut relayed.one, side.other()).await, finish_after(0), "nothing after the answer");
            assert_eq!(relayed.end.await.expect("no panic"), RelayEnd::Finished);
        }
    });
}

#[test]
fn either_side_may_speak_first() {
    limited(async {
        for side in BOTH {
            let mut relayed = relayed(side, PATIENT).await;
            say(&mut relayed.one, side, 9).await.expect("a greeting");
            assert!(hear_exactly(&mut relayed.other, side, 9).await.expect("the greeting"), "intact");
        }
    });
}

#[test]
fn an_idle_relay_holds_no_buffer() {
    limited(async {
        let mut relayed = relayed(Side::Client, PATIENT).await;
        for _ in 0..3 {
            say(&mut relayed.one, Side::Client, 100 * K).await.expect("bytes");
            assert!(hear_exactly(&mut relayed.other, Side::Client, 100 * K).await.expect("bytes"), "intact");
            say(&mut relayed.other, Side::Agent, 1).await.expect("a byte");
            assert!(hear_exactly(&mut relayed.one, Side::Agent, 1).await.expect("a byte"), "intact");
        }

        // Both directions fell idle between their turns, and no read brought a buffer before there was something to read.
        for near in [&relayed.near_one, &relayed.near_other] {
            assert_eq!(near.reads_unasked.load(Ordering::Relaxed), 0);
        }
    });
}

#[test]
fn an_end_alone_is_passed_on() {
    limited(async {
        for side in BOTH {
            let mut relayed = relayed(side, PATIENT).await;
            relayed.one.shutdown().await.expect("its end");
            assert_eq!(hear(&mut relayed.other, side).await, finish_after(0));
        }
    });
}
