//! Who is let in. Whoever is not learns nothing, not even whether there is such a tunnel.

use std::time::Duration;

use tokio::time::Instant;
use tunnel_api::{OpenTunnel, OpenedTunnel, TunnelRef};
use tunnel_backends::testing::{Stage, keep, rig::request};

use crate::{
    knock::Knock,
    mux::{Mux, dialled_from, open},
};

#[test]
fn all_bad_credentials_get_the_same_answer() {
    keep(&Mux::default(), async |rig| {
        let stage = Stage::new(rig);
        let cases = bad_credentials(&stage).await;
        assert!(!cases.is_empty());
        let tunnel = stage.open(1).await;
        let (expected, _socket) = Knock::at(&tunnel.uri).without("authorization").ask(&tunnel).await;
        assert_eq!((expected.status, expected.header("www-authenticate")), (401, Some("Basic realm=\"tunnel\"")));
        for (what, knock) in cases {
            let (answer, _socket) = knock.ask(&tunnel).await;
            assert_eq!(answer, expected, "{what}");
        }
    });
}

/// An answer that came later, or with an end, would tell one from another too.
#[test]
fn bad_credentials_are_answered_at_once_and_the_connection_goes_on() {
    keep(&Mux::default(), async |rig| {
        let stage = Stage::new(rig);
        let cases = bad_credentials(&stage).await;
        let tunnel = stage.open(1).await;
        let (_, mut socket) = Knock::at(&tunnel.uri).without("authorization").ask(&tunnel).await;
        let since = Instant::now();
        for (what, knock) in &cases {
            assert_eq!(knock.ask_on(&mut socket).await.status, 401, "{what}");
        }
        assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
        // And whoever then has the right ones is let in.
        assert_eq!(Knock::at(&tunnel.uri).ask_on(&mut socket).await.status, 101);
    });
}

#[test]
fn an_agent_from_elsewhere_is_counted_as_a_stranger() {
    keep(&Mux::default(), async |rig| {
        let stage = Stage::new(rig);
        let tunnel = stage.try_open(dialled_from("192.0.2.0/24")).await.unwrap();
        for count in 1..=3 {
            assert_eq!(Knock::at(&tunnel.uri).ask(&tunnel).await.0.status, 401);
            assert_eq!(stage.info(&tunnel).await.map(|info| (info.strangers, info.sessions)), Some((count, 0)));
        }
        // A wrong ticket is nobody's.
        let wrong = Knock::at(&tunnel.uri).for_agent_of(tunnel.id.as_str(), "wrong");
        assert_eq!(wrong.ask(&tunnel).await.0.status, 401);
        assert_eq!(stage.info(&tunnel).await.map(|info| info.strangers), Some(3));
    });
}

/// What is wrong apart from the credentials is said of any request alike.
#[test]
fn no_other_answer_tells_a_right_ticket_from_a_wrong_one() {
    keep(&Mux::default(), async |rig| {
        let (_stage, tunnel) = open(rig).await;
        let right = Knock::at(&tunnel.uri);
        let requests: [(&str, Knock); 6] = [
            ("no upgrade", right.clone().without("upgrade")),
            ("no connection header", right.clone().without("connection")),
            ("POST", right.clone().method("POST")),
            ("another ALPN", right.clone().with("alpn", "http%2F1.1")),
            ("a bad name", right.clone().query("agent=%20")),
            ("bad resets", right.clone().query("resets=0")),
        ];
        for (what, knock) in requests {
            let (answer, _socket) = knock.ask(&tunnel).await;
            assert!([400, 426].contains(&answer.status), "{what}: {answer:?}");
            let wrong = knock.clone().for_agent_of(tunnel.id.as_str(), "wrong");
            assert_eq!(wrong.ask(&tunnel).await.0, answer, "{what}, wrong ticket");
            assert_eq!(knock.without("authorization").ask(&tunnel).await.0, answer, "{what}, no ticket");
        }
        let other_path = right.target("/.well-known/ptth/t-other/").for_agent_of(tunnel.id.as_str(), "wrong");
        assert_eq!(other_path.ask(&tunnel).await.0.status, 401, "another path with a wrong ticket");
    });
}

#[test]
fn credentials_may_be_spelt_as_http_allows() {
    keep(&Mux::default(), async |rig| {
        let (_stage, tunnel) = open(rig).await;
        let knock = Knock::at(&tunnel.uri);
        let basic = knock.header("authorization").replace("Basic", "bAsIC");
        for knock in [knock.clone().with("authorization", &basic), knock.with("connection", "keep-alive, Upgrade")] {
            let (answer, _socket) = knock.ask(&tunnel).await;
            assert_eq!(answer.status, 101, "{knock:?}: {answer:?}");
        }
    });
}

/// Each is a request that is right but for its credentials.
async fn bad_credentials(stage: &Stage) -> Vec<(&'static str, Knock)> {
    let (tunnel, other) = (stage.open(1).await, stage.open(1).await);
    let knock = Knock::at(&tunnel.uri);
    let id = tunnel.id.as_str();
    let (_, ticket) = tunnel.uri.credentials().expect("a ticket");
    let (_, other_ticket) = other.uri.credentials().expect("another ticket");
    let named = |what, value: &str| (what, knock.clone().with("authorization", value));
    vec![
        ("none", knock.clone().without("authorization")),
        named("not Basic", &format!("Bearer {ticket}")),
        named("no scheme", ticket),
        named("no base64", "Basic ###"),
        named("no text", "Basic //8="),
        named("nothing", "Basic "),
        ("no colon", knock.clone().with("authorization", "Basic dC0x")),
        ("an unknown id", knock.clone().for_agent_of("t-0123456789abcdef", ticket)),
        ("an id that is none", knock.clone().for_agent_of("../..", ticket)),
        ("a wrong ticket", knock.clone().for_agent_of(id, &ticket.chars().rev().collect::<String>())),
        ("an empty ticket", knock.clone().for_agent_of(id, "")),
        ("half a ticket", knock.clone().for_agent_of(id, &ticket[..20])),
        ("more than a ticket", knock.clone().for_agent_of(id, &format!("{ticket}AAAA"))),
        ("another tunnel's ticket", knock.clone().for_agent_of(id, other_ticket)),
        ("an expired tunnel's", Knock::at(&expired(stage).await.uri)),
        ("a closed tunnel's", Knock::at(&closed(stage).await.uri)),
        (
            "not from where it may dial",
            Knock::at(&stage.try_open(dialled_from("192.0.2.0/24")).await.expect("a tunnel").uri),
        ),
    ]
}

async fn expired(stage: &Stage) -> OpenedTunnel {
    let mut watch = stage.watch().await;
    let briefly = OpenTunnel { dial_within: Some(Duration::from_millis(20)), ..request(1) };
    let tunnel = stage.try_open(briefly).await.expect("a tunnel");
    watch.closed(&tunnel.id).await;
    tunnel
}

async fn closed(stage: &Stage) -> OpenedTunnel {
    let tunnel = stage.open(1).await;
    stage.close(TunnelRef::Id(tunnel.id.clone())).await.expect("a tunnel that closes");
    tunnel
}
