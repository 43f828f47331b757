//! What cannot be restored is not lost.

use std::time::Duration;

use tunnel_api::{TunnelError, TunnelRef};
use tunnel_backends::{
    sockets,
    testing::{eventually, within},
};

use crate::site::{Server, Site, at_port, identity, named_on, on};

fn somebody_at(port: u16) -> tokio::net::TcpListener {
    sockets::listen(([127, 0, 0, 1], port).into()).expect("a port")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_whose_port_is_taken_is_there_when_it_is_free_again() {
    within(LIMIT, "the test", async {
        let site = Site::new();
        let server = site.start().await;
        let tunnel = server.owner("alice").try_open(named_on("tcp", "blog")).await.unwrap();
        server.stop().await;
        let foreign = somebody_at(tunnel.address.port());

        // Then it is held for its owner, who is told what is the matter.
        let server = site.start().await;
        let (alice, bob) = (server.owner("alice"), server.owner("bob"));
        assert!(alice.list().await.is_empty());
        match alice.try_open(named_on("tcp", "blog")).await {
            Err(TunnelError::Unavailable { why, .. }) => assert!(why.contains(&tunnel.address.to_string()), "{why}"),
            other => panic!("{other:?}"),
        }
        drop(foreign);
        let refused = bob.try_open(at_port(tunnel.address.port(), on("tcp"))).await;
        assert!(
            matches!(&refused, Err(TunnelError::AddressTaken { address }) if address.contains("kept")),
            "{refused:?}"
        );

        // And when the port is free, it is there: at once if its owner asks, or else with the next start.
        let same = alice.try_open(named_on("tcp", "blog")).await.unwrap();
        assert_eq!(identity(&same), identity(&tunnel));
        server.stop().await;
        let server = site.start().await;
        assert_eq!(server.owner("alice").list().await[0].id, tunnel.id);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dial_in_port_that_is_taken_is_replaced_for_good() {
    within(LIMIT, "the test", async {
        let site = Site::new();
        let server = site.start().await;
        let tunnel = server.stage.try_open(named_on("tcp", "blog")).await.unwrap();
        server.stop().await;
        let foreign = somebody_at(tunnel.uri.port());

        let server = site.start().await;
        let moved = server.stage.try_open(named_on("tcp", "blog")).await.unwrap();
        assert_eq!((&moved.id, &moved.address), (&tunnel.id, &tunnel.address));
        assert_ne!(moved.uri, tunnel.uri);
        server.stop().await;
        drop(foreign);
        let server = site.start().await;
        let again = server.stage.try_open(named_on("tcp", "blog")).await.unwrap();
        assert_eq!(identity(&again), identity(&moved));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_of_a_backend_that_is_not_configured_waits_for_it() {
    within(LIMIT, "the test", async {
        let site = Site::new();
        let server = site.start().await;
        let tunnel = server.stage.try_open(named_on("mux", "blog")).await.unwrap();
        server.stop().await;

        let server = without_mux(&site).await;
        let conflict = server.stage.try_open(named_on("tcp", "blog")).await;
        assert!(
            matches!(&conflict, Err(TunnelError::NameConflict { difference, .. }) if difference == "backend mux"),
            "{conflict:?}"
        );
        let refused = server.owner("bob").try_open(at_port(tunnel.address.port(), on("tcp"))).await;
        assert!(matches!(refused, Err(TunnelError::AddressTaken { .. })), "{refused:?}");
        server.stop().await;

        let server = site.start().await;
        assert_eq!(server.stage.list().await[0].id, tunnel.id);
        server.stop().await;

        // Its owner may close it even while it waits.
        let server = without_mux(&site).await;
        server.stage.close(TunnelRef::Name("blog".parse().unwrap())).await.unwrap();
        assert_eq!(site.records(), Vec::<String>::new());
        server.owner("bob").try_open(at_port(tunnel.address.port(), on("tcp"))).await.unwrap();
    })
    .await;
}

/// Its agents, which do not know its id any more, ask for its address.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_gets_the_address_of_a_tunnel_that_waits_takes_its_place() {
    within(LIMIT, "the test", async {
        let site = Site::new();
        let server = site.start().await;
        let tunnel = server.stage.try_open(on("mux")).await.unwrap();
        server.stop().await;

        let server = without_mux(&site).await;
        let next = server.stage.try_open(at_port(tunnel.address.port(), named_on("tcp", "next"))).await.unwrap();
        eventually("the other record to be gone", async || site.records() == [format!("{}.json", next.id)]).await;
    })
    .await;
}

async fn without_mux(site: &Site) -> Server {
    site.start_with(|directory| directory, &["tcp"]).await
}

const LIMIT: Duration = Duration::from_secs(20);
