//! When the state cannot be written, what is new is refused and what is open goes on.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tunnel_api::{Caller, OpenTunnel, TunnelBackend, TunnelError, TunnelRef};
use tunnel_backends::{
    ports::{PortPool, PortRange},
    tcp::TcpConfig,
    testing::{Stage, TestAgent, connect, echo, eventually, rig::free_ports, rig::is_free, within},
    tunnels::{Tunnels, TunnelsConfig},
};

use crate::{
    registries::{Flaky, Silent},
    site::{Site, at_port, identity, named_on, on},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_new_tunnels_and_disturbs_no_stream() {
    within(LIMIT, "the test", async {
        // Given a stream that runs.
        let (site, fails) = (Site::new(), Arc::new(AtomicBool::new(false)));
        let server = site.start_with(|directory| Flaky::around(directory, &fails), &["tcp", "mux"]).await;
        let stage = &server.stage;
        let open = stage.try_open(named_on("mux", "open")).await.unwrap();
        let _agent = TestAgent::dial(&open.uri, 4).serve(echo);
        let mut client = connect(&open.address).await;
        client.write_all(b"a").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'a');
        let (records, listed) = (site.records(), stage.list().await.len());

        // When the disk is full.
        fails.store(true, Ordering::Relaxed);

        // Then what would have to be recorded is refused, leaves nothing, and the rest goes on.
        let port = site.public.end();
        for wanted in [on("mux"), on("tcp"), named_on("mux", "new"), named_on("tcp", "new")] {
            let wanted = at_port(*port, wanted);
            match stage.try_open(wanted).await {
                Err(TunnelError::Unavailable { why, retry_after }) => {
                    assert!(why.contains("cannot write its state") && retry_after.is_some(), "{why}");
                }
                other => panic!("{other:?}"),
            }
            assert!(is_free(*port), "its port is not free");
        }
        assert_eq!((site.records(), stage.list().await.len()), (records, listed));
        client.write_all(b"b").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'b');
        let again = stage.try_open(named_on("mux", "open")).await.unwrap();
        assert_eq!(identity(&again), identity(&open));
        // What a restart forgets anyway is not refused.
        let fleeting = OpenTunnel { connections: None, ..on("tcp") };
        let fleeting = stage.try_open(fleeting).await.unwrap();
        stage.close(TunnelRef::Id(fleeting.id)).await.unwrap();

        // And when there is room again, all is well.
        fails.store(false, Ordering::Relaxed);
        stage.try_open(named_on("tcp", "new")).await.unwrap();
        assert_eq!(site.records().len(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_closes_even_if_its_record_cannot_be_removed() {
    within(LIMIT, "the test", async {
        let (site, fails) = (Site::new(), Arc::new(AtomicBool::new(false)));
        let server = site.start_with(|directory| Flaky::around(directory, &fails), &["mux"]).await;
        let tunnel = server.stage.try_open(on("mux")).await.unwrap();
        fails.store(true, Ordering::Relaxed);
        server.stage.close(TunnelRef::Id(tunnel.id)).await.unwrap();
        assert!(is_free(tunnel.address.port()) && server.stage.list().await.is_empty());
        assert_eq!(site.records().len(), 1);

        // Another one may be at its address when the server is started again: then that one counts.
        fails.store(false, Ordering::Relaxed);
        let port = tunnel.address.port();
        let next = server.owner("bob").try_open(at_port(port, on("mux"))).await.unwrap();
        server.stop().await;
        let server = site.start().await;
        assert!(server.stage.list().await.is_empty());
        assert_eq!(server.owner("bob").list().await[0].id, next.id);
        eventually("the outdated record to be gone", async || site.records() == [format!("{}.json", next.id)]).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_never_answers_is_as_good_as_none() {
    let pool = || PortPool::new(PortRange::Between(free_ports(4)), BTreeSet::new());
    let tunnels = Tunnels::with(TunnelsConfig { registry: Arc::new(Silent), ..TunnelsConfig::default() });
    let backend = TcpConfig::new("tcp", tunnels.clone(), pool(), pool()).build();
    let named = OpenTunnel { name: Some("blog".parse().unwrap()), ..OpenTunnel::default() };
    let refused = backend.open_tunnel(&Caller::embedded(), named).await;
    assert!(matches!(refused, Err(TunnelError::Unavailable { .. })), "{refused:?}");
    // Neither does it keep the server from stopping.
    tunnels.drain(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_that_is_dropped_leaves_no_record() {
    within(LIMIT, "the test", async {
        let site = Site::new();
        let server = site.start().await;
        for wanted in [on("mux"), on("tcp"), named_on("mux", "dropped"), named_on("tcp", "dropped")] {
            for polls in 0.. {
                let mut opening = Box::pin(server.stage.try_open(wanted.clone()));
                let mut opened = None;
                for _ in 0..polls {
                    if let Poll::Ready(result) = opening.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                        opened = Some(result.expect("a tunnel"));
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                drop(opening);
                let is_over = opened.is_some();
                if let Some(opened) = opened {
                    server.stage.close(TunnelRef::Id(opened.id)).await.unwrap();
                }
                eventually("all to be free", async || site.records().is_empty() && site.all_free(&server)).await;
                if is_over {
                    break;
                }
            }
        }
        server.stop().await;
        assert!(site.start().await.stage.list().await.is_empty());
    })
    .await;
}

/// Of the same names, too, and closed in the very moment in which somebody opens them again.
#[tokio::test(flavor = "multi_thread")]
async fn churn_leaves_an_empty_directory() {
    within(LIMIT, "the test", async {
        let site = Site::new();
        let server = site.start().await;
        join_all((0..8).map(|number| churn(&server.stage, number))).await;
        for left in server.stage.list().await {
            server.stage.close(TunnelRef::Id(left.id)).await.unwrap();
        }
        assert_eq!((site.records(), site.given_up()), (Vec::new(), Vec::new()));
        assert!(site.all_free(&server));
        server.stop().await;
        assert_eq!(site.records(), Vec::<String>::new());
    })
    .await;
}

async fn churn(stage: &Stage, number: usize) {
    for round in 0..20 {
        let backend = if (number + round).is_multiple_of(2) { "mux" } else { "tcp" };
        let wanted = match round % 3 {
            0 => on(backend),
            1 => named_on("mux", "everybodys"),
            _ => named_on(backend, &format!("of-{number}")),
        };
        // The ports may all be taken at the moment.
        if let Ok(opened) = stage.try_open(wanted).await {
            match stage.close(TunnelRef::Id(opened.id)).await {
                Ok(()) | Err(TunnelError::NotFound) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

const LIMIT: Duration = Duration::from_secs(20);
