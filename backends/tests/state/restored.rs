//! What was acknowledged is there again.

use std::time::Duration;

use tunnel_api::{Caller, CloseReason, CredentialId, OpenTunnel, TunnelBackend, TunnelError, TunnelRef, TunnelState};
use tunnel_backends::testing::{
    Heard, TestAgent,
    client::{say_all, try_connect},
    connect, echo, eventually, hear, within,
};

use crate::site::{Site, at_port, identity, named_on, on};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_gives_every_tunnel_back_with_its_id_address_and_ticket() {
    within(LIMIT, "the test", async {
        let site = Site::new();
        let server = site.start().await;
        let labels = [("team".to_owned(), "blue".to_owned())].into();
        let mut before = Vec::new();
        for wanted in [
            on("mux"),
            named_on("mux", "named"),
            named_on("tcp", "named-too"),
            at_port(*site.public.end(), OpenTunnel { labels, ..named_on("tcp", "at") }),
        ] {
            before.push(server.owner("alice").try_open(wanted).await.unwrap());
        }
        let info = server.owner("alice").list().await;
        server.stop().await;

        let server = site.start().await;
        let alice = server.owner("alice");
        let after = alice.list().await;
        assert_eq!(after.len(), 4);
        for (was, is) in info.iter().zip(&after) {
            assert_eq!(is.state, TunnelState::Offline);
            assert!(is.expire_time.is_some());
            let rest = |info: &tunnel_api::TunnelInfo| tunnel_api::TunnelInfo {
                state: TunnelState::Online,
                expire_time: None,
                ..info.clone()
            };
            assert_eq!(rest(is), rest(was));
        }
        assert!(server.stage.list().await.is_empty(), "somebody else sees them");
        // The door has moved, and the rest is as it was.
        let ticket = |tunnel: &tunnel_api::OpenedTunnel| {
            tunnel.uri.credentials().map(|(id, ticket)| (id.to_owned(), ticket.to_owned()))
        };
        let named = alice.try_open(named_on("mux", "named")).await.unwrap();
        assert_eq!(
            (&named.id, &named.address, ticket(&named)),
            (&before[1].id, &before[1].address, ticket(&before[1]))
        );
        let named = alice.try_open(named_on("tcp", "named-too")).await.unwrap();
        assert_eq!(identity(&named), identity(&before[2]));
        let _agent = TestAgent::dial(&named.uri, 4).serve(echo);
        let mut client = connect(&named.address).await;
        say_all(&mut client, b"again").await;
        assert_eq!(hear(&mut client).await, Heard::finished_after(b"again"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_closed_stays_closed() {
    within(LIMIT, "the test", async {
        let site = Site::new();
        let server = site.start().await;
        for wanted in [on("mux"), named_on("mux", "a"), named_on("tcp", "b"), on("tcp")] {
            let tunnel = server.stage.try_open(wanted).await.unwrap();
            server.stage.close(TunnelRef::Id(tunnel.id)).await.unwrap();
            assert_eq!(site.records(), Vec::<String>::new());
        }
        // So does what has expired.
        let briefly = OpenTunnel { dial_within: Some(Duration::from_millis(20)), ..named_on("mux", "briefly") };
        let mut watch = server.stage.watch().await;
        let tunnel = server.stage.try_open(briefly).await.unwrap();
        assert_eq!(watch.closed(&tunnel.id).await, CloseReason::NotDialled);
        assert_eq!(site.records(), Vec::<String>::new());
        server.stop().await;
        assert!(site.start().await.stage.list().await.is_empty());
    })
    .await;
}

/// Its dial-in port says nothing of whose it is; but the address is its owner's for a while.
#[tokio::test(flavor = "multi_thread")]
async fn of_an_unnamed_tcp_tunnel_the_address_is_kept() {
    within(LIMIT, "the test", async {
        let site = Site::new();
        let server = site.start().await;
        let tunnel = server.owner("alice").try_open(on("tcp")).await.unwrap();
        let port = tunnel.address.port();
        server.stop().await;

        let server = site.start().await;
        let (alice, bob) = (server.owner("alice"), server.owner("bob"));
        assert!(alice.list().await.is_empty());
        assert!(server.tunnels.is_kept_for(&alice.caller.owner, port));
        assert_eq!((site.records().len(), site.given_up().len()), (0, 1));
        let refused = bob.try_open(at_port(port, on("tcp"))).await;
        assert!(matches!(refused, Err(TunnelError::AddressTaken { .. })), "{refused:?}");
        alice.try_open(at_port(port, on("tcp"))).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_dial_in_is_restored_as_it_was_last() {
    within(LIMIT, "the test", async {
        let site = Site::new();
        let server = site.start().await;
        let from = |ip: &str| Caller { peer_addr: Some(format!("{ip}:1").parse().unwrap()), ..Caller::embedded() };
        let open = async |backend: &dyn TunnelBackend, ip: &str| {
            let wanted = OpenTunnel { caller_address: Some(ip.parse().unwrap()), ..named_on("tcp", "moves") };
            backend.open_tunnel(&from("127.0.0.1"), wanted).await.unwrap()
        };
        let first = open(&*server.stage.backend, "192.0.2.1").await;
        let second = open(&*server.stage.backend, "192.0.2.2").await;
        assert_eq!(first.id, second.id);
        assert_ne!(first.dial_from, second.dial_from);
        server.stop().await;

        let server = site.start().await;
        // It is reset, perhaps before it knows that it is connected.
        let _ = tokio::net::TcpStream::connect(("127.0.0.1", first.uri.port())).await;
        eventually("the stranger to be counted", async || server.stage.list().await[0].strangers == 1).await;
        let third = open(&*server.stage.backend, "192.0.2.2").await;
        assert_eq!((third.id, third.dial_from), (second.id, second.dial_from));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn which_clients_may_come_is_restored() {
    within(LIMIT, "the test", async {
        let site = Site::new();
        let server = site.start().await;
        let here = vec!["127.0.0.0/8".parse().unwrap()];
        let elsewhere = vec!["192.0.2.0/24".parse().unwrap()];
        for (name, client_allow, client_deny) in [("denied", vec![], here), ("allowed", elsewhere, vec![])] {
            let wanted = OpenTunnel { client_allow, client_deny, ..named_on("mux", name) };
            server.stage.try_open(wanted).await.unwrap();
        }
        server.stop().await;

        let server = site.start().await;
        let restored = server.stage.list().await;
        assert_eq!(restored.len(), 2);
        for info in restored {
            // At once, perhaps before it knows that it is connected; not after it has waited for an agent.
            if let Ok(mut client) = try_connect(&info.addresses[0]).await {
                assert_eq!(hear(&mut client).await, Heard::reset_after(&[]), "{info:?}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_revoked_credential_opened_is_closed_also_after_a_restart() {
    within(LIMIT, "the test", async {
        let site = Site::new();
        let server = site.start().await;
        let by = |credential: &str| Caller { credential: Some(CredentialId::new(credential)), ..Caller::embedded() };
        for (credential, name) in [("laptop", "one"), ("laptop", "two"), ("phone", "three")] {
            server.stage.backend.open_tunnel(&by(credential), named_on("mux", name)).await.unwrap();
        }
        // The phone's now.
        server.stage.backend.open_tunnel(&by("phone"), named_on("mux", "two")).await.unwrap();
        server.stop().await;

        let server = site.start().await;
        let revoked = CredentialId::new("laptop");
        let closed = server.tunnels.close_where(|_, by| by == Some(&revoked), CloseReason::Revoked).await;
        let left: Vec<_> = server.stage.list().await.into_iter().filter_map(|info| info.name).collect();
        assert_eq!((closed, left.len(), site.records().len()), (1, 2, 2));
        assert!(!left.contains(&"one".parse().unwrap()), "{left:?}");
    })
    .await;
}

const LIMIT: Duration = Duration::from_secs(20);
