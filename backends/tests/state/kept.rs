//! Whoever remembers an address that was asked for by number meets no stranger there.

use std::time::Duration;

use tunnel_api::{TunnelError, TunnelRef};
use tunnel_backends::testing::{Stage, eventually, within};

use crate::site::{Site, at_port, named_on, on};

async fn open_and_close(stage: &Stage, port: u16, backend: &str) {
    let tunnel = stage.try_open(at_port(port, on(backend))).await.expect("the port");
    stage.close(TunnelRef::Id(tunnel.id)).await.expect("the tunnel closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_was_asked_for_goes_to_no_other_owner_but_at_once_to_its_own() {
    within(LIMIT, "the test", async {
        let site = Site::new();
        let server = site.start().await;
        let (alice, bob) = (server.owner("alice"), server.owner("bob"));
        let port = *site.public.start();
        for backend in ["mux", "tcp"] {
            open_and_close(&alice, port, backend).await;
            match bob.try_open(at_port(port, on("mux"))).await {
                Err(TunnelError::AddressTaken { address }) => {
                    assert!(address.contains(&port.to_string()) && address.contains("another"), "{address}");
                }
                other => panic!("{other:?}"),
            }
        }
        let mut chosen = Vec::new();
        while let Ok(tunnel) = bob.try_open(on("mux")).await {
            chosen.push(tunnel.address.port());
        }
        assert_eq!(chosen.len(), site.public.len() - 1);
        assert!(!chosen.contains(&port), "it was chosen for somebody else");
        open_and_close(&alice, port, "tcp").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_forgets_no_such_port() {
    within(LIMIT, "the test", async {
        let site = Site::new();
        let server = site.start().await;
        let port = *site.public.start();
        open_and_close(&server.owner("alice"), port, "mux").await;
        assert_eq!((site.records().len(), site.given_up().len()), (0, 1));
        server.stop().await;
        // It is no less remembered for having been remembered.
        for _ in 0..2 {
            let server = site.start().await;
            let (alice, bob) = (server.owner("alice"), server.owner("bob"));
            assert!(server.tunnels.is_kept_for(&alice.caller.owner, port));
            assert!(bob.try_open(at_port(port, on("mux"))).await.is_err());
            server.stop().await;
        }
        // Once it is a tunnel's again, the tunnel's record says whose it is.
        let server = site.start().await;
        server.owner("alice").try_open(at_port(port, named_on("mux", "again"))).await.unwrap();
        eventually("it to be forgotten", async || site.given_up().is_empty()).await;
        assert_eq!(site.records().len(), 1);
    })
    .await;
}

/// One that was chosen may be anybody's, but whoever had it may ask for it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_was_chosen_is_remembered_and_not_kept() {
    within(LIMIT, "the test", async {
        let site = Site::new();
        let server = site.start().await;
        let (alice, bob) = (server.owner("alice"), server.owner("bob"));
        let tunnel = alice.try_open(on("mux")).await.unwrap();
        let port = tunnel.address.port();
        alice.close(TunnelRef::Id(tunnel.id)).await.unwrap();
        assert!(server.tunnels.is_kept_for(&alice.caller.owner, port));
        assert!(!server.tunnels.is_kept_for(&bob.caller.owner, port));
        assert_eq!(site.given_up(), Vec::<String>::new());
        bob.try_open(at_port(port, on("mux"))).await.unwrap();
        assert!(!server.tunnels.is_kept_for(&alice.caller.owner, port));
    })
    .await;
}

const LIMIT: Duration = Duration::from_secs(20);
