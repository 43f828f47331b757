//! What becomes of a client whom an agent does not take.

use std::{io::ErrorKind, time::Duration};

use tokio::{net::TcpStream, time::Instant};
use tunnel_api::OpenedTunnel;
use tunnel_backends::{
    composed::Times,
    testing::{
        Heard, Rig, Setup, Stage,
        client::{hear_exactly, say_all},
        connect, hear, keep, pattern, say,
    },
};

use crate::{
    frames::{CANCEL, FIRST_STREAM, Frame, Frames, INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM},
    mux::{Mux, open, open_with, until_sessions, until_streams},
};

#[test]
fn a_refusal_resets_that_client_alone() {
    keep(&Mux::default(), async |rig| {
        let mut two = Two::come(rig).await;
        for (round, status) in (0..).zip([502, 400, 404, 500, 301]) {
            let (mut client, stream) = two.client().await;
            let mut elsewhere = connect(&two.tunnel.address).await;
            let elsewhere_stream = two.second.client().await;
            assert_eq!(elsewhere_stream, FIRST_STREAM + 2 * round, "somebody else came to the second");
            let (mut beside, beside_stream) = two.client().await;
            two.first.say(&Frame::declined(stream, status)).await;
            assert_eq!(hear(&mut client).await, Heard::reset_after(&[]), "{status}");
            two.first.serve(beside_stream, &mut beside).await;
            two.second.serve(elsewhere_stream, &mut elsewhere).await;
            drop((beside, elsewhere));
            two.quiet().await;
        }
    });
}

#[test]
fn a_client_that_was_left_untouched_goes_to_another_session_with_all_it_said() {
    keep(&Mux::default(), async |rig| {
        let mut two = Two::come(rig).await;
        for leave in UNTOUCHED {
            let (mut client, stream) = two.client().await;
            let words = pattern(7, 10_000);
            say_all(&mut client, &words).await;
            assert!(two.first.hear(stream).await == words);
            two.first.say(&leave(stream)).await;
            let again = two.second.client().await;
            assert!(two.second.hear(again).await == words, "other bytes than were said");
            two.second.serve(again, &mut client).await;
            two.quiet().await;
        }
    });
}

/// What it says meanwhile is not lost, and comes once.
#[test]
fn a_client_that_goes_on_talking_is_handed_on_too() {
    keep(&Mux::default(), async |rig| {
        let mut two = Two::come(rig).await;
        let (mut client, stream) = two.client().await;
        say(&mut client, b"one ").await;
        assert_eq!(two.first.hear_exactly(stream, 4).await, b"one ");
        two.first.say(&Frame::reset(stream, REFUSED_STREAM)).await;
        let again = two.second.client().await;
        assert_eq!(two.second.hear_exactly(again, 4).await, b"one ");
        say(&mut client, b"two ").await;
        assert_eq!(two.second.hear_exactly(again, 4).await, b"two ");
        two.second.say(&Frame::taken(again)).await;
        say_all(&mut client, b"three").await;
        assert_eq!(two.second.hear(again).await, b"three");
    });
}

#[test]
fn a_client_that_nobody_else_can_take_waits_for_another_session() {
    keep(&Mux::default(), async |rig| {
        for leave in UNTOUCHED {
            let (stage, tunnel) = open(rig).await;
            let mut first = Frames::dial(&tunnel).await;
            until_sessions(&stage, &tunnel, 1).await;
            let mut client = connect(&tunnel.address).await;
            let stream = first.client().await;
            say(&mut client, b"anybody?").await;
            first.hear_exactly(stream, 8).await;
            first.say(&leave(stream)).await;
            let mut second = Frames::dial(&tunnel).await;
            let again = second.client().await;
            assert_eq!(second.hear_exactly(again, 8).await, b"anybody?");
            second.serve(again, &mut client).await;
        }
    });
}

#[test]
fn a_client_that_is_left_untouched_for_too_long_is_reset() {
    keep(&Mux::default(), async |rig| {
        let client_wait = Duration::from_millis(300);
        let (stage, tunnel) = open_with(rig, Setup::timed(Times { client_wait, ..Times::default() })).await;
        let mut agent = Frames::dial(&tunnel).await;
        until_sessions(&stage, &tunnel, 1).await;
        for leave in UNTOUCHED {
            let since = Instant::now();
            let mut client = connect(&tunnel.address).await;
            let stream = agent.client().await;
            agent.say(&leave(stream)).await;
            assert_eq!(hear(&mut client).await, Heard::reset_after(&[]));
            let waited = since.elapsed();
            assert!((client_wait..client_wait + Duration::from_secs(2)).contains(&waited), "{waited:?}");
            until_streams(&stage, &tunnel, 0).await;
        }
    });
}

/// The session that left it is not asked again, however many others do the same.
#[test]
fn a_client_is_offered_to_each_session_once() {
    keep(&Mux::default(), async |rig| {
        let mut two = Two::come(rig).await;
        let mut third = Frames::dial(&two.tunnel).await;
        until_sessions(&two.stage, &two.tunnel, 3).await;
        let (mut client, stream) = two.client().await;
        two.first.say(&Frame::declined(stream, 503)).await;
        let again = two.second.client().await;
        two.second.say(&Frame::reset(again, REFUSED_STREAM)).await;
        let at_last = third.client().await;
        third.serve(at_last, &mut client).await;
    });
}

/// Nobody knows what such an agent did with it.
#[test]
fn a_client_that_was_reset_is_not_handed_on() {
    keep(&Mux::default(), async |rig| {
        let mut two = Two::come(rig).await;
        for code in [NO_ERROR, INTERNAL_ERROR, CANCEL, 11, 0xdead] {
            let (mut client, stream) = two.client().await;
            say(&mut client, b"once").await;
            two.first.hear_exactly(stream, 4).await;
            two.first.say(&Frame::reset(stream, code)).await;
            assert_eq!(hear(&mut client).await, Heard::reset_after(&[]), "code {code}");
            two.quiet().await;
        }
        two.nobody_came_to_the_second().await;
    });
}

#[test]
fn a_client_that_was_taken_is_not_handed_on() {
    keep(&Mux::default(), async |rig| {
        let mut two = Two::come(rig).await;
        let (mut client, stream) = two.client().await;
        two.first.say(&Frame::taken(stream)).await;
        two.first.say(&Frame::data(stream, b"so far")).await;
        assert_eq!(hear_exactly(&mut client, 6).await, b"so far");
        two.first.say(&Frame::reset(stream, REFUSED_STREAM)).await;
        assert_eq!(hear(&mut client).await.end, Err(ErrorKind::ConnectionReset));
        two.nobody_came_to_the_second().await;
    });
}

#[test]
fn a_client_whose_session_broke_is_not_handed_on() {
    keep(&Mux::default(), async |rig| {
        // With a goodbye that counts the client among those that were looked at, or without a word.
        for goodbye in [None, Some(NO_ERROR), Some(INTERNAL_ERROR)] {
            let mut two = Two::come(rig).await;
            let (mut client, stream) = two.client().await;
            say(&mut client, b"once").await;
            two.first.hear_exactly(stream, 4).await;
            if let Some(code) = goodbye {
                two.first.say(&Frame::goodbye(stream, code)).await;
            }
            two.first.hang_up().await;
            assert_eq!(hear(&mut client).await, Heard::reset_after(&[]), "goodbye: {goodbye:?}");
            two.nobody_came_to_the_second().await;
        }
    });
}

#[test]
fn a_client_above_a_goodbyes_last_stream_goes_to_another_session() {
    keep(&Mux::default(), async |rig| {
        let mut two = Two::come(rig).await;
        let (mut client, stream) = two.client().await;
        say_all(&mut client, b"all I said").await;
        two.first.hear(stream).await;
        two.first.say(&Frame::goodbye(0, NO_ERROR)).await;
        let again = two.second.client().await;
        assert_eq!(two.second.hear(again).await, b"all I said");
        two.second.serve(again, &mut client).await;
    });
}

/// Two sessions of one tunnel. When neither has a stream, the next client goes to the first.
struct Two {
    stage: Stage,
    tunnel: OpenedTunnel,
    first: Frames,
    second: Frames,
}

impl Two {
    async fn come(rig: &dyn Rig) -> Self {
        let (stage, tunnel) = open(rig).await;
        let first = Frames::dial(&tunnel).await;
        until_sessions(&stage, &tunnel, 1).await;
        let second = Frames::dial(&tunnel).await;
        until_sessions(&stage, &tunnel, 2).await;
        Self { stage, tunnel, first, second }
    }

    /// A client that goes to the first.
    async fn client(&mut self) -> (TcpStream, u32) {
        let client = connect(&self.tunnel.address).await;
        (client, self.first.client().await)
    }

    async fn quiet(&self) {
        until_streams(&self.stage, &self.tunnel, 0).await;
    }

    /// The next client is the first that the second session ever sees.
    async fn nobody_came_to_the_second(self) {
        let Self { stage, tunnel, first, mut second } = self;
        drop(first);
        until_sessions(&stage, &tunnel, 1).await;
        let _client = connect(&tunnel.address).await;
        assert_eq!(second.client().await, FIRST_STREAM, "somebody came to the second session");
    }
}

/// How an agent says that it did nothing with a client.
const UNTOUCHED: [fn(u32) -> Frame; 2] =
    [|stream| Frame::declined(stream, 503), |stream| Frame::reset(stream, REFUSED_STREAM)];
