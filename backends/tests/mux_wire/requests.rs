//! What an agent asks for, apart from who it is.

use std::time::Duration;

use tunnel_backends::{
    testing::{connect, keep, say, soon},
    tunnels::Tunnels,
};

use crate::{
    frames::Frames,
    knock::Knock,
    mux::{Mux, open, until_sessions},
};

#[test]
fn a_request_without_the_upgrade_is_told_what_to_ask_for() {
    keep(&Mux::default(), async |rig| {
        let (_stage, tunnel) = open(rig).await;
        let knock = Knock::at(&tunnel.uri);
        let requests = [
            knock.clone().without("upgrade"),
            knock.clone().without("connection"),
            knock.clone().with("upgrade", "websocket"),
            knock.clone().with("connection", "keep-alive"),
        ];
        for knock in requests {
            let (answer, _socket) = knock.ask(&tunnel).await;
            assert_eq!((answer.status, answer.header("upgrade")), (426, Some("ptth")), "{knock:?}: {answer:?}");
        }
    });
}

#[test]
fn a_request_that_cannot_be_met_is_refused() {
    keep(&Mux::default(), async |rig| {
        let (_stage, tunnel) = open(rig).await;
        let knock = Knock::at(&tunnel.uri);
        let long_name = format!("agent={}", "a".repeat(65));
        let refused = [
            knock.clone().method("POST"),
            knock.clone().method("CONNECTIVITY"),
            knock.clone().version("HTTP/1.0"),
            knock.clone().with("alpn", "http%2F1.1"),
            knock.clone().with("alpn", ""),
            knock.clone().query("agent="),
            knock.clone().query("agent=a%20b"),
            knock.clone().query(&long_name),
            knock.clone().query("resets=0"),
            knock.clone().query("resets=1000001"),
            knock.clone().query("resets=-1"),
            knock.clone().query("resets=many"),
            knock.clone().query("agent=a&resets="),
            knock.clone().target("/.well-known/ptth/t-other/"),
            knock.clone().target("/.well-known/ptth/tcp%3A%2F%2F192.0.2.1%3A80/"),
        ];
        for knock in refused {
            let (answer, _socket) = knock.ask(&tunnel).await;
            assert_eq!(answer.status, 400, "{knock:?}: {answer:?}");
        }
    });
}

#[test]
fn a_request_may_say_more_than_we_understand() {
    keep(&Mux::default(), async |rig| {
        let (_stage, tunnel) = open(rig).await;
        let knock = Knock::at(&tunnel.uri);
        let origin = tunnel.address.to_string().replace(':', "%3A").replace('/', "%2F");
        let taken = [
            knock.clone().without("alpn"),
            knock.clone().with("alpn", "h3, h2, http%2F1.1"),
            knock.clone().with("upgrade", "websocket, PTTH"),
            knock.clone().query("agent=a.B_9-&resets=1000000&colour=blue&flag"),
            knock.clone().target("/.well-known/ptth/"),
            knock.clone().target(&format!("/.well-known/ptth/{origin}/")),
            knock.clone().target(&format!("/.well-known/ptth/https%3A%2F%2Fother.example,{origin}/")),
        ];
        for knock in taken {
            let (answer, _socket) = knock.ask(&tunnel).await;
            let said = (answer.status, answer.header("upgrade"), answer.header("alpn"));
            assert_eq!(said, (101, Some("ptth"), Some("h2")), "{knock:?}: {answer:?}");
        }
    });
}

/// However it is cut up, or glued together: nothing that came with the request is lost.
#[test]
fn an_agent_may_begin_before_it_is_answered() {
    keep(&Mux::default(), async |rig| {
        let (stage, tunnel) = open(rig).await;
        let mut agent = Frames::dial_without_waiting(&tunnel).await;
        until_sessions(&stage, &tunnel, 1).await;
        let mut client = connect(&tunnel.address).await;
        say(&mut client, b"early").await;
        let stream = agent.client().await;
        assert_eq!(agent.hear_exactly(stream, 5).await, b"early");
    });
}

#[test]
fn a_session_too_many_is_told_to_come_again() {
    keep(&Mux { max_sessions: 2, ..Mux::default() }, async |rig| {
        let (stage, tunnel) = open(rig).await;
        let named = |name: &str| Knock::at(&tunnel.uri).query(&format!("agent={name}"));
        let first = Frames::dial_with(&tunnel, &named("one"), &[]).await;
        // One that has yet to show that it speaks HTTP/2 counts too.
        let _silent = named("two").enter(&tunnel).await;
        let (answer, _socket) = named("three").ask(&tunnel).await;
        assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")), "{answer:?}");
        // Who takes over from itself is not one more.
        let again = Frames::dial_with(&tunnel, &named("one"), &[]).await;
        until_sessions(&stage, &tunnel, 1).await;
        assert_eq!(named("three").ask(&tunnel).await.0.status, 429);
        // There is room again when one has left.
        drop((first, again));
        until_sessions(&stage, &tunnel, 0).await;
        let (answer, _socket) = named("three").ask(&tunnel).await;
        assert_eq!(answer.status, 101, "{answer:?}");
    });
}

#[test]
fn a_server_that_drains_tells_agents_to_come_again() {
    let tunnels = Tunnels::new();
    let mux = Mux { tunnels: Some(tunnels.clone()), ..Mux::default() };
    keep(&mux, async |rig| {
        let (_stage, tunnel) = open(rig).await;
        let mut agent = Frames::dial(&tunnel).await;
        let mut client = connect(&tunnel.address).await;
        say(&mut client, b"!").await;
        let stream = agent.client().await;
        let draining = tokio::spawn(async move { tunnels.drain(Duration::from_secs(5)).await });
        // As long as that client is served, the tunnel is there.
        let answer = loop {
            let (answer, _socket) = Knock::at(&tunnel.uri).ask(&tunnel).await;
            if answer.status != 101 {
                break answer;
            }
        };
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
        let wrong = Knock::at(&tunnel.uri).for_agent_of(tunnel.id.as_str(), "wrong");
        assert_eq!(wrong.ask(&tunnel).await.0.status, 401);
        // And it is served to its end, after which nothing is left.
        agent.say(&crate::frames::Frame::taken(stream)).await;
        agent.say(&crate::frames::Frame::last_data(stream, b"done")).await;
        let heard = tunnel_backends::testing::client::hear_exactly(&mut client, 4).await;
        assert_eq!(heard, b"done");
        drop(client);
        assert!(agent.rest().await.iter().any(|frame| frame.stream == stream));
        soon("the drain to end", draining).await.unwrap();
    });
}
