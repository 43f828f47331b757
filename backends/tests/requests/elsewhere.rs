//! A request that an agent has left untouched.

use std::time::Duration;

use http::{HeaderMap, Method};
use http_body_util::Full;
use tokio::time::Instant;
use tunnel_backends::{
    composed::Times,
    testing::{Setup, pattern},
    uplink::{NoAnswer, NoStream},
};

use crate::{
    agent::Agent,
    client::{answer, asked, get, headers, request, whole},
    frames::{Frame, Frames, NO_ERROR, REFUSED_STREAM},
    site::{Site, keep, keep_with},
};

/// How an agent leaves a request to others.
const UNTOUCHED: [fn(u32) -> Frame; 2] =
    [|stream| Frame::reset(stream, REFUSED_STREAM), |_| Frame::goodbye(0, NO_ERROR)];

/// The agent of a request that it leaves, and the next one.
async fn two(site: &Site) -> (Frames, Agent) {
    let first = Frames::dial(&site.tunnel).await;
    site.until_sessions(1).await;
    let second = Agent::dial(site).await;
    site.until_sessions(2).await;
    (first, second)
}

#[test]
fn a_request_that_was_left_untouched_goes_to_another_session_with_all_it_said() {
    keep(async |site: Site| {
        for leave in UNTOUCHED {
            let (mut first, mut second) = two(&site).await;
            let bytes = pattern(5, 16 * 1024);
            let (mouth, asking) = site.post("/");
            let stream = first.client().await;
            for piece in bytes.chunks(1000) {
                mouth.say(piece.to_vec());
            }
            assert!(first.hear_exactly(stream, bytes.len()).await == bytes);
            first.say(&leave(stream)).await;
            let mut again = second.next().await;
            assert!(again.hear_exactly(bytes.len()).await == bytes, "other bytes than were said");
            mouth.say("more");
            assert_eq!(again.hear_exactly(4).await, b"more");
            mouth.finish();
            again.hear_all().await.unwrap();
            again.serve(200, b"served").await;
            assert_eq!(whole(answer(asking).await.body_mut()).await, b"served");
            site.until_streams(0).await;
            drop((first, second));
            site.until_sessions(0).await;
        }
    });
}

#[test]
fn a_request_that_had_said_all_says_all_again() {
    keep(async |site: Site| {
        for trailers in [HeaderMap::new(), headers("x-sum", "7")] {
            let (mut first, mut second) = two(&site).await;
            let (mouth, asking) = site.post("/");
            let stream = first.client().await;
            mouth.say("all");
            let has_trailers = !trailers.is_empty();
            if has_trailers {
                mouth.trailers(trailers.clone());
            }
            mouth.finish();
            first.pick("the request's end", |frame| frame.stream == stream && frame.is_last()).await;
            first.say(&Frame::reset(stream, REFUSED_STREAM)).await;
            let mut again = second.next().await;
            assert_eq!(again.hear_all().await.unwrap(), b"all");
            assert_eq!(again.trailers().await.unwrap_or_default(), trailers);
            again.serve(200, b"").await;
            assert_eq!(answer(asking).await.status(), 200);
            drop((first, second));
            site.until_sessions(0).await;
        }
    });
}

#[test]
fn a_request_without_a_body_goes_to_another_session() {
    keep(async |site: Site| {
        let (mut first, mut second) = two(&site).await;
        let asking = site.ask(get("/again"));
        let stream = first.client().await;
        first.say(&Frame::reset(stream, REFUSED_STREAM)).await;
        let again = second.next().await;
        assert_eq!((again.head.uri().path(), again.hears.is_end_stream()), ("/again", true));
        again.serve(200, b"served").await;
        assert_eq!(whole(answer(asking).await.body_mut()).await, b"served");
    });
}

/// So much is not kept.
#[test]
fn a_request_that_has_said_too_much_is_not_asked_again() {
    keep(async |site: Site| {
        let (mut first, _second) = two(&site).await;
        let asking = site.ask(request(Method::POST, "/", Full::from(pattern(5, 16 * 1024 + 1))));
        let stream = first.client().await;
        assert_eq!(first.hear(stream).await.len(), 16 * 1024 + 1);
        first.say(&Frame::reset(stream, REFUSED_STREAM)).await;
        assert_eq!(asked(asking).await.unwrap_err(), NoAnswer::Aborted);
        site.until_streams(0).await;
    });
}

/// Each piece may hold on to more than itself.
#[test]
fn a_request_that_was_said_in_very_many_pieces_is_not_asked_again() {
    keep(async |site: Site| {
        let (mut first, _second) = two(&site).await;
        let (mouth, asking) = site.post("/");
        let stream = first.client().await;
        for _ in 0..100 {
            mouth.say("x");
        }
        assert_eq!(first.hear_exactly(stream, 100).await.len(), 100);
        first.say(&Frame::reset(stream, REFUSED_STREAM)).await;
        assert_eq!(asked(asking).await.unwrap_err(), NoAnswer::Aborted);
    });
}

#[test]
fn a_request_that_was_answered_is_not_asked_again() {
    keep(async |site: Site| {
        let (mut first, _second) = two(&site).await;
        let asking = site.ask(get("/"));
        let stream = first.client().await;
        first.say(&Frame::taken(stream)).await;
        let mut answered = answer(asking).await;
        first.say(&Frame::reset(stream, REFUSED_STREAM)).await;
        assert!(crate::client::rest(answered.body_mut()).await.2.is_err());
        site.until_streams(0).await;
    });
}

#[test]
fn a_request_that_nobody_else_can_take_waits_for_another_session() {
    keep(async |site: Site| {
        let mut first = Frames::dial(&site.tunnel).await;
        let (mouth, asking) = site.post("/");
        let stream = first.client().await;
        first.say(&Frame::reset(stream, REFUSED_STREAM)).await;
        mouth.say("anybody?");
        let mut second = Agent::dial(&site).await;
        let mut again = second.next().await;
        assert_eq!(again.hear_exactly(8).await, b"anybody?");
        again.serve(200, b"here").await;
        assert_eq!(answer(asking).await.status(), 200);
    });
}

#[test]
fn a_request_that_is_left_untouched_for_too_long_finds_nobody() {
    let client_wait = Duration::from_millis(300);
    let setup = || Setup::timed(Times { client_wait, ..Times::default() });
    keep_with(setup, "local", async |site: Site| {
        let since = Instant::now();
        let mut agent = Frames::dial(&site.tunnel).await;
        let asking = site.ask(get("/"));
        let stream = agent.client().await;
        agent.say(&Frame::reset(stream, REFUSED_STREAM)).await;
        assert_eq!(asked(asking).await.unwrap_err(), NoAnswer::NoStream(NoStream::NoAgent));
        assert!(since.elapsed() >= client_wait);
        site.until_streams(0).await;
    });
}

#[test]
fn a_request_to_a_tunnel_without_an_agent_waits_and_finds_nobody() {
    let client_wait = Duration::from_millis(100);
    let setup = || Setup::timed(Times { client_wait, ..Times::default() });
    keep_with(setup, "local", async |site: Site| {
        assert_eq!(asked(site.ask(get("/"))).await.unwrap_err(), NoAnswer::NoStream(NoStream::NoAgent));
    });
}
