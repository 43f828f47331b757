//! Bytes arrive whole, in order and once, and an end is seen as what it was.

use std::{net::SocketAddr, time::Duration};

use tokio::net::{TcpListener, TcpStream};
use tunnel_tests::{
    limit::within,
    oracle::{Oracle, Orders},
    server::{listen_on, server},
};

fn orders() -> Orders {
    Orders { connections: 200, concurrency: 200, largest: 300_000, limit: Duration::from_secs(40), ..Orders::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_connections_at_once_end_as_they_were_ended() {
    within(async {
        for (backend, seed, together) in [("tcp", 1, false), ("tcp", 2, true), ("mux", 3, false), ("mux", 4, true)] {
            let server = server().await;
            let mut tunnel = listen_on(&server, backend).await;
            let public = tunnel.address().authority().parse().unwrap();
            let oracle = Oracle::listen(Orders { seed, together, ..orders() }, ([127, 0, 0, 1], 0).into()).unwrap();
            let target = oracle.origin().unwrap().to_string();
            let forwarding = tokio::spawn(async move { tunnel.forward_to(target).await });

            let verdict = oracle.run(public).await;

            assert!(verdict.is_clean(), "{backend}: {verdict}");
            assert!(verdict.played.len() == 8 && verdict.bytes > 1 << 20, "it has played too little: {verdict}");
            forwarding.abort();
        }
    })
    .await;
}

/// Otherwise the oracle would not see it if the relay did as proxies commonly do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oracle_sees_through_a_proxy_that_ends_aborted_streams_cleanly() {
    within(async {
        let oracle = Oracle::listen(orders(), ([127, 0, 0, 1], 0).into()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let public = listener.local_addr().unwrap();
        let proxy = tokio::spawn(proxy(listener, oracle.origin().unwrap()));

        let verdict = oracle.run(public).await;

        let clean_for_reset = verdict.violations.iter().filter(|it| it.contains("a clean end after")).count();
        assert!(clean_for_reset > 10, "{verdict}");
        proxy.abort();
    })
    .await;
}

async fn proxy(listener: TcpListener, target: SocketAddr) {
    while let Ok((mut client, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut origin = TcpStream::connect(target).await?;
            tokio::io::copy_bidirectional(&mut client, &mut origin).await
        });
    }
}
