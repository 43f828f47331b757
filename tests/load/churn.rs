//! A day's comings and goings in a few seconds, against a server in a process of its own: in the end there is nothing left of
//! them. `CHURN=600` makes it last so many seconds.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::RngExt as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tonic::transport::Channel;
use tunnel_agent::{Agent, Tunnel};
use tunnel_api::rpc::v1::{
    CloseTunnelRequest, ListTunnelsRequest, OpenTunnelRequest, OpenTunnelResponse, TunnelInfo, client::TunnelClient,
    close_tunnel_request,
};
use tunnel_backends::sockets;
use tunnel_tests::{
    client::{ask, at, hear_out},
    origin::Origin,
    process::ServerProcess,
    server::ports,
};

use crate::{SERVER, alone};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_a_days_comings_and_goings() {
    let _alone = alone().await;
    let (public, dial_in) = (ports(100), ports(100));
    let place = tempfile::tempdir().expect("a directory");
    let config = place.path().join("config.toml");
    let range = |ports: &std::ops::RangeInclusive<u16>| format!("{}-{}", ports.start(), ports.end());
    std::fs::write(&config, CONFIG.replace("PUBLIC", &range(&public)).replace("DIAL_IN", &range(&dial_in))).unwrap();
    let mut server = ServerProcess::start(SERVER, &config).await;
    // What comes once and stays: whatever is made at the first use.
    churn(&server, Duration::from_secs(1)).await;
    let before = left(&mut server).await;
    let memory = server.memory();

    let tunnels = churn(&server, duration()).await;

    let after = left(&mut server).await;
    println!("{tunnels} tunnels; before: {before:?}, {memory} bytes, after: {after:?}, {} bytes", server.memory());
    assert_eq!(after, before, "{:?}", listed(&server).await);
    assert!(server.memory() < memory + (32 << 20), "{memory} bytes have become {}", server.memory());
    let taken: Vec<_> =
        public.chain(dial_in).filter(|port| sockets::listen(([127, 0, 0, 1], *port).into()).is_err()).collect();
    assert!(taken.is_empty(), "{taken:?} are not free");
}

/// What there is when nobody is there.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    tunnels: usize,
    descriptors: usize,
    tasks: usize,
}

/// Waits until no less is left.
async fn left(server: &mut ServerProcess) -> Left {
    let until = Instant::now() + Duration::from_secs(20);
    let mut known = None;
    loop {
        let left = look(server).await;
        // The same twice, with time for what ends by itself in between.
        if left.tunnels == 0 && known.as_ref() == Some(&left) || Instant::now() > until {
            return left;
        }
        known = Some(left);
        sleep(Duration::from_millis(2500)).await;
    }
}

async fn look(server: &mut ServerProcess) -> Left {
    let mut rpc = TunnelClient::connect(server.url()).await.expect("a connection");
    let listed = rpc.list_tunnels(ListTunnelsRequest::default()).await.expect("a list").into_inner();
    drop(rpc);
    sleep(Duration::from_millis(200)).await;
    Left { tunnels: listed.tunnels.len(), descriptors: server.descriptors(), tasks: server.tasks().await }
}

/// What is open.
async fn listed(server: &ServerProcess) -> Vec<TunnelInfo> {
    let mut rpc = TunnelClient::connect(server.url()).await.expect("a connection");
    rpc.list_tunnels(ListTunnelsRequest::default()).await.expect("a list").into_inner().tunnels
}

/// Gives how many tunnels there were.
async fn churn(server: &ServerProcess, lasting: Duration) -> usize {
    let origin = Origin::echo().await.expect("an origin");
    let (end, url, target) = (Instant::now() + lasting, server.url(), origin.addr().to_string());
    let lives = (0..WORKERS).map(async |worker| {
        let mut lived = 0;
        while Instant::now() < end {
            let (backend, kind) = {
                let mut rng = rand::rng();
                (["tcp", "mux"][rng.random_range(0..2)], rng.random_range(0..KINDS))
            };
            let life = timeout(Duration::from_secs(20), live(&url, &target, worker, backend, kind)).await;
            life.unwrap_or_else(|late| Err(late.into()))
                .unwrap_or_else(|error| panic!("{kind} on {backend}: {error:?}"));
            lived += 1;
        }
        lived
    });
    join_all(lives).await.into_iter().sum()
}

/// One tunnel's life, of some kind.
async fn live(url: &str, target: &str, worker: usize, backend: &str, kind: usize) -> anyhow::Result<()> {
    let mut rpc = TunnelClient::connect(url.to_owned()).await?;
    let backend = backend.to_owned();
    match kind {
        // Nobody dials it, a client waits in vain, and it expires.
        0 => {
            let dial_within = Some(Duration::from_millis(100).try_into()?);
            let opened = open(&mut rpc, OpenTunnelRequest { backend, dial_within, ..Default::default() }).await?;
            if let Ok(mut client) = TcpStream::connect(at(&opened.address)).await {
                hear_out(&mut client).await;
            }
        }
        // A plain agent and a plain client, and one of them resets.
        1 => {
            let request = OpenTunnelRequest { backend: "tcp".to_owned(), ..Default::default() };
            let opened = open(&mut rpc, request).await?;
            let mut agent = TcpStream::connect(at(&opened.uri)).await?;
            let mut client = TcpStream::connect(at(&opened.address)).await?;
            client.write_all(b"word").await?;
            agent.read_exact(&mut [0; 4]).await?;
            sockets::reset(if worker.is_multiple_of(2) { agent } else { client });
        }
        // Somebody closes it while its agent serves.
        2 => {
            let mut tunnel = Agent::connect(url).await?.open(Tunnel::tcp().backend(&backend)).await?;
            let (id, public) = (tunnel.id().to_string(), at(&tunnel.address().to_string()));
            let target = target.to_owned();
            let forwarding = tokio::spawn(async move { tunnel.forward_to(target).await });
            clients(public).await;
            close(&mut rpc, close_tunnel_request::Tunnel::Id(id)).await?;
            forwarding.abort();
        }
        // Its agent closes it itself.
        3 => {
            let mut tunnel = Agent::connect(url).await?.open(Tunnel::tcp().backend(&backend)).await?;
            let public = at(&tunnel.address().to_string());
            let client = tokio::spawn(ask(public, b"word"));
            let mut stream = tunnel.accept().await?;
            stream.read_exact(&mut [0; 4]).await?;
            drop(stream);
            let _ = client.await?;
            tunnel.close().await;
        }
        // A name, opened twice, closed by that.
        4 => {
            let name = format!("worker-{worker}");
            let request = || OpenTunnelRequest { backend: backend.clone(), name: name.clone(), ..Default::default() };
            let (once, again) = (open(&mut rpc, request()).await?, open(&mut rpc, request()).await?);
            assert_eq!(once.id, again.id);
            close(&mut rpc, close_tunnel_request::Tunnel::Name(name)).await?;
        }
        // Its agents die with clients on it and say nothing, and it expires.
        5 => {
            let backend = "tcp".to_owned();
            let opened = open(&mut rpc, OpenTunnelRequest { backend, connections: 4, ..Default::default() }).await?;
            for _ in 0..3 {
                let mut agent = TcpStream::connect(at(&opened.uri)).await?;
                let mut client = TcpStream::connect(at(&opened.address)).await?;
                client.write_all(b"word").await?;
                agent.read_exact(&mut [0; 4]).await?;
                sockets::reset(agent);
                hear_out(&mut client).await;
            }
        }
        // Its agent goes with clients on it.
        _ => {
            let mut tunnel = Agent::connect(url).await?.open(Tunnel::tcp().backend(&backend)).await?;
            let public = at(&tunnel.address().to_string());
            let _clients = [TcpStream::connect(public).await?, TcpStream::connect(public).await?];
            let stream = tunnel.accept().await?;
            drop(tunnel);
            drop(stream);
        }
    }
    Ok(())
}

/// Some that are served, and some that leave before.
async fn clients(public: std::net::SocketAddr) {
    let clients = (0..6).map(async |number| {
        let Ok(client) = TcpStream::connect(public).await else { return };
        match number % 3 {
            0 => sockets::reset(client),
            1 => drop(client),
            _ => {
                let answer = ask(public, &[b'x'; 20_000]).await;
                assert_eq!(answer.map(|answer| answer.len()).ok(), Some(20_000));
            }
        }
    });
    join_all(clients).await;
}

async fn open(rpc: &mut TunnelClient<Channel>, request: OpenTunnelRequest) -> anyhow::Result<OpenTunnelResponse> {
    Ok(rpc.open_tunnel(request).await?.into_inner())
}

async fn close(rpc: &mut TunnelClient<Channel>, tunnel: close_tunnel_request::Tunnel) -> anyhow::Result<()> {
    rpc.close_tunnel(CloseTunnelRequest { tunnel: Some(tunnel) }).await?;
    Ok(())
}

fn duration() -> Duration {
    let seconds = std::env::var("CHURN").ok().and_then(|seconds| seconds.parse().ok());
    seconds.map_or(Duration::from_secs(5), Duration::from_secs)
}

const WORKERS: usize = 12;
const KINDS: usize = 7;

const CONFIG: &str = "listen = '127.0.0.1:0'\n[ports]\npublic = 'PUBLIC'\ndial_in = 'DIAL_IN'\n[admin]\nlisten = 'off'\n\
                      [backends.tcp.tcp]\ngrace = '500ms'\n[backends.mux.mux]\ngrace = '500ms'\n";
