//! How a client comes to an agent.

use std::time::Duration;

use tokio::{io::AsyncWriteExt, time::timeout};
use tunnel_backends::testing::{Heard, connect, hear, keep, pattern, say, soon};

use crate::{
    agent::Agent,
    frames::{DATA, Frame, Frames},
    mux::{Mux, open},
};

#[test]
fn a_client_is_a_connect_request_that_names_it() {
    keep(&Mux::default(), async |rig| {
        let (_stage, tunnel) = open(rig).await;
        let mut agent = Agent::dial(&tunnel).await;
        let client = connect(&tunnel.address).await;
        let expected = format!("for=\"{}\";by=\"{}\"", client.local_addr().unwrap(), client.peer_addr().unwrap());
        let asked = agent.client().await.request;
        assert_eq!(asked.method(), http::Method::CONNECT);
        assert_eq!(asked.uri().authority().map(ToString::to_string), Some(tunnel.address.authority()));
        assert_eq!((asked.uri().scheme_str(), asked.uri().path()), (None, ""));
        let headers: Vec<_> = asked.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(headers, [("forwarded", expected.as_bytes())]);
    });
}

#[test]
fn a_clients_first_bytes_come_before_the_agent_has_answered() {
    keep(&Mux::default(), async |rig| {
        let (_stage, tunnel) = open(rig).await;
        let mut agent = Frames::dial(&tunnel).await;
        let mut client = connect(&tunnel.address).await;
        let stream = agent.client().await;
        for words in ["first", "second"] {
            say(&mut client, words.as_bytes()).await;
            assert_eq!(agent.hear_exactly(stream, words.len()).await, words.as_bytes());
        }
        client.shutdown().await.unwrap();
        assert_eq!(agent.hear(stream).await, b"", "and so does its end");
        agent.say(&Frame::taken(stream)).await;
        agent.say(&Frame::last_data(stream, b"answer")).await;
        assert_eq!(hear(&mut client).await, Heard::finished_after(b"answer"));
    });
}

#[test]
fn before_the_agent_has_answered_16_kib_of_a_client_come_and_then_all() {
    keep(&Mux::default(), async |rig| {
        let (_stage, tunnel) = open(rig).await;
        let mut agent = Frames::dial(&tunnel).await;
        let mut client = connect(&tunnel.address).await;
        let words = pattern(1, 60_000);
        say(&mut client, &words).await;
        let stream = agent.client().await;
        let mut heard = agent.hear_exactly(stream, EARLY).await;
        // Absence has no event: this is a wait for what must not come.
        let more = timeout(Duration::from_millis(50), agent.pick("more", |frame| frame.kind == DATA)).await;
        assert!(more.is_err(), "{more:?}");
        agent.say(&Frame::taken(stream)).await;
        heard.extend(agent.hear_exactly(stream, words.len() - EARLY).await);
        assert!(heard == words, "other bytes than were said");
    });
}

/// An agent whose answer is long in coming has not said that it wants the client's bytes.
#[test]
fn an_agent_may_answer_with_bytes_and_an_end_at_once() {
    keep(&Mux::default(), async |rig| {
        let (_stage, tunnel) = open(rig).await;
        let mut agent = Frames::dial(&tunnel).await;
        let mut client = connect(&tunnel.address).await;
        let stream = agent.client().await;
        agent.say(&Frame::taken(stream)).await;
        agent.say(&Frame::data(stream, b"220 ")).await;
        agent.say(&Frame::last_data(stream, b"welcome")).await;
        assert_eq!(hear(&mut client).await, Heard::finished_after(b"220 welcome"));
        say(&mut client, b"bye").await;
        client.shutdown().await.unwrap();
        assert_eq!(soon("the client's words", agent.hear(stream)).await, b"bye");
    });
}

#[test]
fn any_status_of_success_takes_the_client() {
    keep(&Mux::default(), async |rig| {
        let (_stage, tunnel) = open(rig).await;
        let mut agent = Frames::dial(&tunnel).await;
        for status in [200, 201, 204, 299] {
            let mut client = connect(&tunnel.address).await;
            let stream = agent.client().await;
            // What is not final takes nobody yet (RFC 9110, 15.2).
            agent.say(&Frame::answer(stream, 103, 0)).await;
            agent.say(&Frame::answer(stream, status, 0)).await;
            agent.say(&Frame::last_data(stream, b"taken")).await;
            assert_eq!(hear(&mut client).await, Heard::finished_after(b"taken"), "{status}");
        }
    });
}

const EARLY: usize = 16 * 1024;
