//! Far away is not slow: one stream fills a path of 100 ms.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};
use tunnel_agent::{Agent, Tunnel};
use tunnel_tests::{
    client::at,
    detour::Detour,
    limit::within,
    path::{Length, Path},
    server::server,
};

/// 100 ms there and back, at 20 MB/s.
const LONG: Length = Length { delay: Duration::from_millis(50), in_flight: 1024 * 1024 };

/// 20 ms there and back, at 5 MB/s.
const SLOW: Length = Length { delay: Duration::from_millis(10), in_flight: 50 * 1024 };

/// Before it is measured, so that windows have grown: TCP's and ours.
const WARM_UP: usize = 24 * 1024 * 1024;
const MEASURED: usize = 16 * 1024 * 1024;

#[derive(Debug, Clone, Copy)]
enum Way {
    Down,
    Up,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stream_fills_a_path_of_100_ms_downwards() {
    within(fills(Way::Down)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stream_fills_a_path_of_100_ms_upwards() {
    within(fills(Way::Up)).await;
}

/// Its bytes do not queue behind megabytes of the downloads, but take turns with them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_answer_beside_downloads_on_a_slow_path_is_not_held_up() {
    within(async {
        let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin_addr = origin.local_addr().unwrap();
        let server = server().await;
        let path = Path::to(server.addr(), SLOW).await.unwrap();
        let backend = Arc::new(Detour { backend: server.backend(), by: path.addr() });
        let mut tunnel = Agent::embedded(backend).open(Tunnel::tcp().backend("mux")).await.unwrap();
        let public = at(&tunnel.address().to_string());
        let forwarding = tokio::spawn(async move { tunnel.forward_to(origin_addr).await });
        let connect = async || {
            let mut client = TcpStream::connect(public).await.unwrap();
            client.write_all(b"!").await.unwrap();
            let (mut service, _) = origin.accept().await.unwrap();
            service.read_u8().await.unwrap();
            (client, service)
        };
        let mut downloads = JoinSet::new();
        for _ in 0..8 {
            let (mut download, mut source) = connect().await;
            downloads.spawn(async move {
                let chunk = vec![7; 64 * 1024];
                while source.write_all(&chunk).await.is_ok() {}
            });
            receive(&mut download, 1024 * 1024).await;
            downloads.spawn(async move { receive(&mut download, usize::MAX).await });
        }

        let (mut client, mut service) = connect().await;
        tokio::spawn(async move {
            while let Ok(byte) = service.read_u8().await {
                service.write_u8(byte).await.unwrap();
            }
        });
        let mut waits = Vec::new();
        for _ in 0..20 {
            let since = Instant::now();
            client.write_all(b"?").await.unwrap();
            client.read_u8().await.unwrap();
            waits.push(since.elapsed());
        }
        waits.sort();
        // 20 ms of path, what the path itself holds, and our share of the queue. It was 750 ms when kernels held more.
        assert!(waits[10] < Duration::from_millis(300), "{waits:?}");
        forwarding.abort();
    })
    .await;
}

async fn fills(way: Way) {
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin_addr = origin.local_addr().unwrap();
    let server = server().await;
    let path = Path::to(server.addr(), LONG).await.unwrap();
    let backend = Arc::new(Detour { backend: server.backend(), by: path.addr() });
    let mut tunnel = Agent::embedded(backend).open(Tunnel::tcp().backend("mux")).await.unwrap();
    let public = at(&tunnel.address().to_string());
    let forwarding = tokio::spawn(async move { tunnel.forward_to(origin_addr).await });
    let plain_path = Path::to(origin_addr, LONG).await.unwrap();

    // Whatever else this machine does meanwhile slows down one or the other: a path that can be filled is, sooner or later.
    let mut ratios = Vec::new();
    while ratios.len() < 3 && !ratios.iter().any(|ratio| *ratio >= 0.9) {
        let tunnelled = time(&origin, public, way).await;
        let plain = time(&origin, plain_path.addr(), way).await;
        ratios.push(plain.as_secs_f64() / tunnelled.as_secs_f64());
    }
    assert!(ratios.iter().any(|ratio| *ratio >= 0.9), "{way:?}: {ratios:.2?} of what plain TCP does");
    forwarding.abort();
}

/// How long the measured bytes take from one end to the other.
async fn time(origin: &TcpListener, public: SocketAddr, way: Way) -> Duration {
    let mut client = TcpStream::connect(public).await.unwrap();
    // So that the tunnel has something to say at once, whichever way it goes.
    client.write_all(b"!").await.unwrap();
    let (mut service, _) = origin.accept().await.unwrap();
    service.read_u8().await.unwrap();
    let (mut sender, mut receiver) = match way {
        Way::Down => (service, client),
        Way::Up => (client, service),
    };
    let sending = tokio::spawn(async move {
        let chunk = vec![7; 64 * 1024];
        while sender.write_all(&chunk).await.is_ok() {}
    });
    receive(&mut receiver, WARM_UP).await;
    let since = Instant::now();
    receive(&mut receiver, MEASURED).await;
    let taken = since.elapsed();
    sending.abort();
    taken
}

async fn receive(from: &mut TcpStream, bytes: usize) {
    let mut buffer = vec![0; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        let most = left.min(buffer.len());
        left -= from.read(&mut buffer[..most]).await.unwrap();
    }
}
