//! What is broken off on one side is broken off on the other.

use std::time::Duration;

use http_body::Body;
use tunnel_api::{StreamEnd, TunnelRef};
use tunnel_backends::{
    composed::Times,
    relay::RelayTimes,
    testing::{Setup, pattern, soon},
    uplink::NoAnswer,
};

use crate::{
    agent::Agent,
    client::{answer, asked, get, next, rest},
    frames::{CANCEL, Frame, Frames, INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM, RST_STREAM},
    site::{Site, keep, keep_with},
};

/// For hyper some of these would be ends.
#[test]
fn an_agent_that_resets_in_the_middle_has_aborted() {
    keep(async |site: Site| {
        let mut agent = Frames::dial(&site.tunnel).await;
        for code in [NO_ERROR, CANCEL, INTERNAL_ERROR, REFUSED_STREAM, 0xdead] {
            let asking = site.ask(get("/"));
            let stream = agent.client().await;
            agent.say(&Frame::taken(stream)).await;
            agent.say(&Frame::data(stream, b"so far")).await;
            agent.say(&Frame::reset(stream, code)).await;
            let mut answered = answer(asking).await;
            let (bytes, _, end) = rest(answered.body_mut()).await;
            assert_eq!(
                (&*bytes, end.is_err(), answered.body().end()),
                (&b"so far"[..], true, Some(StreamEnd::AbortedByAgent))
            );
            // Not a second time.
            assert!(next(answered.body_mut()).await.is_none());
            drop(answered);
            site.until_streams(0).await;
        }
    });
}

#[test]
fn an_agent_that_resets_before_it_answers_has_aborted() {
    keep(async |site: Site| {
        let mut agent = Frames::dial(&site.tunnel).await;
        for code in [NO_ERROR, CANCEL, INTERNAL_ERROR, 0xdead] {
            let asking = site.ask(get("/"));
            let stream = agent.client().await;
            agent.say(&Frame::reset(stream, code)).await;
            assert_eq!(asked(asking).await.unwrap_err(), NoAnswer::Aborted, "{code}");
            site.until_streams(0).await;
        }
    });
}

#[test]
fn an_agent_that_is_lost_has_aborted() {
    keep(async |site: Site| {
        for how in [Frames::reset, drop] {
            let mut agent = Frames::dial(&site.tunnel).await;
            let [before, amid] = [site.ask(get("/")), site.ask(get("/"))];
            let streams = [agent.client().await, agent.client().await];
            agent.say(&Frame::taken(streams[1])).await;
            agent.say(&Frame::taken(streams[0])).await;
            agent.say(&Frame::data(streams[0], b"so far")).await;
            let mut answers = [answer(before).await, answer(amid).await];
            let unanswered = site.ask(get("/"));
            agent.client().await;
            how(agent);
            assert_eq!(asked(unanswered).await.unwrap_err(), NoAnswer::AgentLost);
            for answered in &mut answers {
                let (_, _, end) = rest(answered.body_mut()).await;
                assert!(end.is_err());
                assert_eq!(answered.body().end(), Some(StreamEnd::AbortedByAgent));
            }
            drop(answers);
            site.until_streams(0).await;
        }
    });
}

/// The second is how hyper shows a client's RST_STREAM.
#[test]
fn a_client_that_breaks_off_is_an_abort_to_the_agent() {
    keep(async |site: Site| {
        let mut agent = Frames::dial(&site.tunnel).await;
        for how in [crate::client::Mouth::fail, drop] {
            let (mouth, asking) = site.post("/");
            let stream = agent.client().await;
            mouth.say("so far");
            agent.hear_exactly(stream, 6).await;
            how(mouth);
            assert_eq!(asked(asking).await.unwrap_err(), NoAnswer::ClientAborted);
            until_aborted(&mut agent, stream).await;
            site.until_streams(0).await;
        }
    });
}

#[test]
fn what_was_said_before_an_abort_is_heard_before_it() {
    keep(async |site: Site| {
        let mut agent = Frames::dial(&site.tunnel).await;
        for round in 0..20 {
            let (mouth, asking) = site.post("/");
            let stream = agent.client().await;
            let bytes = pattern(round, 60_000);
            mouth.say(bytes.clone());
            drop(mouth);
            assert_eq!(asked(asking).await.unwrap_err(), NoAnswer::ClientAborted);
            assert!(agent.hear_exactly(stream, bytes.len()).await == bytes);
            until_aborted(&mut agent, stream).await;
        }
    });
}

#[test]
fn a_client_that_breaks_off_after_the_answers_head_is_an_abort_to_the_agent() {
    keep(async |site: Site| {
        let mut agent = Frames::dial(&site.tunnel).await;
        for how in [crate::client::Mouth::fail, drop] {
            let (mouth, asking) = site.post("/");
            let stream = agent.client().await;
            agent.say(&Frame::taken(stream)).await;
            let mut answered = answer(asking).await;
            how(mouth);
            until_aborted(&mut agent, stream).await;
            let (_, _, end) = rest(answered.body_mut()).await;
            assert_eq!((end.is_err(), answered.body().end()), (true, Some(StreamEnd::AbortedByClient)));
            site.until_streams(0).await;
        }
    });
}

/// It does not look complete to the agent.
#[test]
fn a_client_that_breaks_off_after_a_whole_answer_is_an_abort_to_the_agent() {
    keep(async |site: Site| {
        let mut agent = Frames::dial(&site.tunnel).await;
        let (mouth, asking) = site.post("/");
        let stream = agent.client().await;
        agent.say(&Frame::declined(stream, 200)).await;
        drop(answer(asking).await);
        drop(mouth);
        until_aborted(&mut agent, stream).await;
        site.until_streams(0).await;
    });
}

#[test]
fn a_client_that_goes_before_the_answer_is_an_abort_to_the_agent() {
    keep(async |site: Site| {
        let mut agent = Frames::dial(&site.tunnel).await;
        let (_mouth, asking) = site.post("/");
        let stream = agent.client().await;
        asking.abort();
        until_aborted(&mut agent, stream).await;
        site.until_streams(0).await;
    });
}

#[test]
fn an_answer_that_is_dropped_is_an_abort_to_the_agent() {
    keep(async |site: Site| {
        let mut agent = Frames::dial(&site.tunnel).await;
        let (mouth, asking) = site.post("/");
        let stream = agent.client().await;
        agent.say(&Frame::taken(stream)).await;
        agent.say(&Frame::data(stream, b"unheard")).await;
        drop(answer(asking).await);
        until_aborted(&mut agent, stream).await;
        mouth.until_unheard().await;
        site.until_streams(0).await;
    });
}

/// The agent has said all it had to say: nothing is left to be aborted.
#[test]
fn a_whole_answer_that_nobody_hears_costs_no_reset() {
    keep(async |site: Site| {
        let mut agent = Frames::dial(&site.tunnel).await;
        let asking = site.ask(get("/"));
        let stream = agent.client().await;
        agent.say(&Frame::taken(stream)).await;
        agent.say(&Frame::last_data(stream, b"unheard")).await;
        let mut answered = answer(asking).await;
        // It has come with this at the latest.
        let first = next(answered.body_mut()).await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "unheard");
        drop(answered);
        site.until_streams(0).await;
        let asking = site.ask(get("/"));
        let heard = soon("another request", agent.next()).await.expect("a session");
        assert_eq!(heard.stream, stream + 2, "{heard:?}");
        asking.abort();
    });
}

/// One that was answered is not waited for so long.
#[test]
fn an_agent_that_never_takes_what_is_said_is_given_up() {
    let long = Duration::from_secs(600);
    for (is_answered, unread, half_closed) in [(false, SHORT, long), (true, long, SHORT)] {
        let relay = RelayTimes { unread, half_closed, ..RelayTimes::default() };
        let setup = move || Setup::timed(Times { relay, ..Times::default() });
        keep_with(setup, "local", async |site: Site| {
            let mut agent = Frames::dial(&site.tunnel).await;
            let (mouth, asking) = site.post("/");
            let stream = agent.client().await;
            mouth.say(pattern(1, 200_000));
            agent.hear_exactly(stream, 65_535).await;
            if is_answered {
                agent.say(&Frame::declined(stream, 200)).await;
                drop(answer(asking).await);
            } else {
                assert_eq!(asked(asking).await.unwrap_err(), NoAnswer::Stalled);
            }
            until_aborted(&mut agent, stream).await;
            mouth.until_unheard().await;
            site.until_streams(0).await;
        });
    }
}

#[test]
fn a_tunnel_that_is_closed_aborts_its_requests() {
    keep(async |site: Site| {
        let mut agent = Agent::dial(&site).await;
        let (_mouth, unanswered) = site.post("/");
        let _at_agent = agent.next().await;
        let (_mouth, amid) = site.post("/");
        let mut at_agent = agent.next().await;
        let _says = at_agent.answer(200).unwrap();
        let mut answered = answer(amid).await;
        assert!(!answered.body().is_end_stream());
        site.stage.close(TunnelRef::Id(site.tunnel.id.clone())).await.unwrap();
        assert_eq!(asked(unanswered).await.unwrap_err(), NoAnswer::TunnelClosed);
        let (_, _, end) = rest(answered.body_mut()).await;
        assert_eq!((end.is_err(), answered.body().end()), (true, Some(StreamEnd::TunnelClosed)));
        assert!(at_agent.hear_all().await.is_err());
    });
}

const SHORT: Duration = Duration::from_millis(100);

/// Returns when the client has aborted: what the agent hears next of it is that, and no end.
pub(crate) async fn until_aborted(agent: &mut Frames, stream: u32) {
    let next = agent.pick("an abort", |frame| frame.stream == stream).await;
    assert_eq!((next.kind, &*next.payload), (RST_STREAM, &CANCEL.to_be_bytes()[..]), "{next:?}");
}
