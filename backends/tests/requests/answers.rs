//! What is answered is what the client is answered.

use bytes::Bytes;
use http::{Method, Response};
use http_body::Body;
use http_body_util::Empty;
use tunnel_backends::testing::pattern;

use crate::{
    agent::{Agent, head, say},
    client::{answer, get, headers, next, request, rest, whole},
    frames::{END_HEADERS, END_STREAM, Frame, Frames, HEADERS, NO_ERROR},
    site::{Site, keep},
};

/// Such answers say how long a body would be that does not come.
#[test]
fn an_answer_that_has_no_body_is_whole() {
    keep(async |site: Site| {
        let mut agent = Agent::dial(&site).await;
        for (method, status) in [(Method::HEAD, 200), (Method::GET, 204), (Method::GET, 304), (Method::HEAD, 404)] {
            let asking = site.ask(request(method.clone(), "/", Empty::new()));
            let mut at_agent = agent.next().await;
            let mut says = head(status);
            says.headers_mut().extend(headers("content-length", "5"));
            at_agent.respond.send_response(says, true).unwrap();
            let mut answered = answer(asking).await;
            assert_eq!(
                (answered.status().as_u16(), &answered.headers()["content-length"]),
                (status, &"5".parse().unwrap())
            );
            assert!(answered.body().is_end_stream(), "{method} {status}");
            assert_eq!(whole(answered.body_mut()).await, b"");
            drop(answered);
            site.until_streams(0).await;
        }
    });
}

/// As libraries say it that do not know when they begin that there is no body.
#[test]
fn a_head_answer_that_ends_later_is_whole() {
    keep(async |site: Site| {
        let mut agent = Frames::dial(&site.tunnel).await;
        let asking = site.ask(request(Method::HEAD, "/", Empty::new()));
        let stream = agent.client().await;
        agent.say(&with_length(stream, 200, "5")).await;
        agent.say(&Frame::last_data(stream, b"")).await;
        assert_eq!(whole(answer(asking).await.body_mut()).await, b"");
    });
}

#[test]
fn an_answer_shorter_than_it_said_is_no_whole_one() {
    keep(async |site: Site| {
        let mut agent = Frames::dial(&site.tunnel).await;
        let asking = site.ask(get("/"));
        let stream = agent.client().await;
        agent.say(&with_length(stream, 200, "5")).await;
        agent.say(&Frame::last_data(stream, b"four")).await;
        let (_, _, end) = rest(answer(asking).await.body_mut()).await;
        assert!(end.is_err());
        site.until_streams(0).await;
    });
}

#[test]
fn informational_answers_are_not_the_answer() {
    keep(async |site: Site| {
        let mut agent = Frames::dial(&site.tunnel).await;
        let asking = site.ask(get("/"));
        let stream = agent.client().await;
        for status in [100, 103, 102, 200] {
            agent.say(&Frame::answer(stream, status, 0)).await;
        }
        agent.say(&Frame::last_data(stream, b"at last")).await;
        let mut answered = answer(asking).await;
        assert_eq!((answered.status().as_u16(), &*whole(answered.body_mut()).await), (200, &b"at last"[..]));
    });
}

/// To a client's request it is the origin's own word, and not the agent's about itself.
#[test]
fn an_unavailable_origin_is_heard() {
    keep(async |site: Site| {
        let mut first = Agent::dial(&site).await;
        site.until_sessions(1).await;
        let _second = Agent::dial(&site).await.echo();
        site.until_sessions(2).await;
        let asking = site.ask(get("/"));
        first.next().await.serve(503, b"later").await;
        let mut answered = answer(asking).await;
        assert_eq!((answered.status().as_u16(), &*whole(answered.body_mut()).await), (503, &b"later"[..]));
    });
}

#[test]
fn an_answer_that_comes_bit_by_bit_is_heard_bit_by_bit() {
    keep(async |site: Site| {
        let mut agent = Agent::dial(&site).await;
        let asking = site.ask(get("/events"));
        let mut says = agent.next().await.answer(200).unwrap();
        let mut answered = answer(asking).await;
        for event in [&b"data: 1\n\n"[..], b"data: 2\n\n"] {
            says.send_data(event.into(), false).unwrap();
            assert_eq!(next(answered.body_mut()).await.unwrap().unwrap().into_data().unwrap(), event);
        }
    });
}

/// RFC 9113, 8.1: it has said all, and wants to hear no more.
#[test]
fn an_early_answer_is_whole_though_the_agent_wants_to_hear_no_more() {
    keep(async |site: Site| {
        let mut agent = Agent::dial(&site).await;
        let bytes = pattern(3, 100_000);
        let (mouth, asking) = site.post("/");
        mouth.say("as much as is heard");
        let mut at_agent = agent.next().await;
        at_agent.hear_exactly(19).await;
        let mut says = at_agent.answer(413).unwrap();
        say(&mut says, Bytes::from(bytes.clone())).await.unwrap();
        says.send_data(Bytes::new(), true).unwrap();
        // Nobody listens to a stream that is finished: the crate then says NO_ERROR.
        drop((says, at_agent));
        let mut answered = answer(asking).await;
        mouth.until_unheard().await;
        assert_eq!(answered.status(), 413);
        assert!(whole(answered.body_mut()).await == bytes, "another answer");
        drop(answered);
        site.until_streams(0).await;
    });
}

/// As a stock agent does that answers without listening.
#[test]
fn a_whole_answer_and_a_reset_in_one_go_are_a_whole_answer() {
    keep(async |site: Site| {
        let mut agent = Frames::dial(&site.tunnel).await;
        let (mouth, asking) = site.post("/");
        let stream = agent.client().await;
        agent.say(&Frame::answer(stream, 200, 0)).await;
        agent.say(&Frame::last_data(stream, b"enough")).await;
        agent.say(&Frame::reset(stream, NO_ERROR)).await;
        mouth.until_unheard().await;
        let mut answered = answer(asking).await;
        assert_eq!(whole(answered.body_mut()).await, b"enough");
        drop(answered);
        site.until_streams(0).await;
    });
}

/// One that has answered may still want to hear the rest.
#[test]
fn what_a_client_says_goes_on_after_the_answer_has_ended() {
    keep(async |site: Site| {
        let mut agent = Agent::dial(&site).await;
        let (mouth, asking) = site.post("/");
        let mut at_agent = agent.next().await;
        at_agent.respond.send_response(Response::new(()), true).unwrap();
        let answered = answer(asking).await;
        assert!(answered.body().is_end_stream());
        drop(answered);
        mouth.say("and more");
        mouth.finish();
        assert_eq!(at_agent.hear_all().await.unwrap(), b"and more");
        site.until_streams(0).await;
    });
}

/// `:status` and `content-length` as literals that are not indexed (RFC 7541, 6.2.2).
fn with_length(stream: u32, status: u16, length: &str) -> Frame {
    let number = [&[0x08, 3][..], status.to_string().as_bytes()].concat();
    let length = [&[0x0f, 0x0d, length.len() as u8][..], length.as_bytes()].concat();
    let frame = Frame::new(HEADERS, END_HEADERS, stream, &[number, length].concat());
    assert!(frame.flags & END_STREAM == 0);
    frame
}
