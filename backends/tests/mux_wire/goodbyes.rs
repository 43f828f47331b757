//! Agents that leave: GOAWAY.

use tokio::net::TcpStream;
use tunnel_backends::testing::{
    Heard,
    client::{hear_exactly, say_all},
    connect, hear, keep, say,
};

use crate::{
    frames::{CANCEL, FIRST_STREAM, Frame, Frames, INTERNAL_ERROR, NO_ERROR},
    mux::{Mux, open, until_sessions, until_streams},
};

#[test]
fn streams_go_on_after_a_goodbye_and_the_server_hangs_up_after_the_last() {
    keep(&Mux::default(), async |rig| {
        let (stage, tunnel) = open(rig).await;
        let mut leaving = Frames::dial(&tunnel).await;
        until_sessions(&stage, &tunnel, 1).await;
        let mut clients = Vec::new();
        for _ in 0..2 {
            let client = connect(&tunnel.address).await;
            let stream = leaving.client().await;
            leaving.say(&Frame::taken(stream)).await;
            clients.push((client, stream));
        }
        let last = clients[1].1;
        leaving.say(&Frame::goodbye(last, NO_ERROR)).await;
        until_sessions(&stage, &tunnel, 0).await;

        let mut staying = Frames::dial(&tunnel).await;
        let mut late = connect(&tunnel.address).await;
        let late_stream = staying.client().await;
        staying.serve(late_stream, &mut late).await;
        for (mut client, stream) in clients {
            exchange(&mut client, &mut leaving, stream).await;
            leaving.say(&Frame::last_data(stream, b"bye")).await;
            assert_eq!(hear(&mut client).await, Heard::finished_after(b"bye"));
            say_all(&mut client, b"bye").await;
            assert_eq!(leaving.hear(stream).await, b"bye");
        }
        let rest = leaving.rest().await;
        assert!(rest.iter().all(|frame| frame.stream == 0), "{rest:?}");
    });
}

/// As Go's and the `h2` crate's servers do: first they want no new streams, then they say which was the last.
#[test]
fn a_goodbye_may_come_in_two_steps() {
    keep(&Mux::default(), async |rig| {
        let (stage, tunnel) = open(rig).await;
        let mut leaving = Frames::dial(&tunnel).await;
        until_sessions(&stage, &tunnel, 1).await;
        let (mut kept, mut left) = (connect(&tunnel.address).await, connect(&tunnel.address).await);
        let [kept_stream, left_stream] = both(&mut leaving, &mut kept, &mut left).await;
        leaving.say(&Frame::goodbye((1 << 31) - 1, NO_ERROR)).await;
        until_sessions(&stage, &tunnel, 0).await;
        let mut staying = Frames::dial(&tunnel).await;
        until_sessions(&stage, &tunnel, 1).await;
        leaving.say(&Frame::goodbye(kept_stream.min(left_stream), NO_ERROR)).await;
        let (mut kept, mut left) = if kept_stream < left_stream { (kept, left) } else { (left, kept) };
        let again = staying.client().await;
        staying.serve(again, &mut left).await;
        leaving.serve(kept_stream.min(left_stream), &mut kept).await;
    });
}

#[test]
fn an_idle_session_that_says_goodbye_is_closed_at_once() {
    keep(&Mux::default(), async |rig| {
        let (stage, tunnel) = open(rig).await;
        for code in [NO_ERROR, INTERNAL_ERROR] {
            let mut agent = Frames::dial(&tunnel).await;
            until_sessions(&stage, &tunnel, 1).await;
            agent.say(&Frame::goodbye(0, code)).await;
            assert!(agent.rest().await.len() <= 1, "more than the server's own goodbye");
            until_sessions(&stage, &tunnel, 0).await;
        }
    });
}

/// A stream that is reset is over, too.
#[test]
fn a_session_that_said_goodbye_ends_with_its_last_client_however_that_ends() {
    keep(&Mux::default(), async |rig| {
        let (stage, tunnel) = open(rig).await;
        let mut agent = Frames::dial(&tunnel).await;
        until_sessions(&stage, &tunnel, 1).await;
        let client = connect(&tunnel.address).await;
        let stream = agent.client().await;
        agent.say(&Frame::taken(stream)).await;
        agent.say(&Frame::goodbye(FIRST_STREAM, NO_ERROR)).await;
        until_sessions(&stage, &tunnel, 0).await;
        tunnel_backends::sockets::reset(client);
        assert_eq!(agent.until_reset(stream).await, CANCEL);
        agent.rest().await;
        until_streams(&stage, &tunnel, 0).await;
    });
}

async fn both(agent: &mut Frames, one: &mut TcpStream, other: &mut TcpStream) -> [u32; 2] {
    let mut streams = [0; 2];
    for client in [&b"one"[..], b"two"].into_iter().zip([one, other]) {
        say(client.1, client.0).await;
    }
    for _ in 0..2 {
        let stream = agent.client().await;
        let who = agent.hear_exactly(stream, 3).await;
        streams[usize::from(who == b"two")] = stream;
    }
    streams
}

async fn exchange(client: &mut TcpStream, agent: &mut Frames, stream: u32) {
    say(client, b"question").await;
    assert_eq!(agent.hear_exactly(stream, 8).await, b"question");
    agent.say(&Frame::data(stream, b"answer")).await;
    assert_eq!(hear_exactly(client, 6).await, b"answer");
}
