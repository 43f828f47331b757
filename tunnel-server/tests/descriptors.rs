//! File descriptors running out stops no loop and heals by itself.
#![cfg(unix)]

use std::{io, net::SocketAddr, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, ChildStderr, Command},
    time::timeout,
};
use tunnel_api::{Caller, OpenTunnel, OpenedTunnel, TunnelBackend, TunnelError, rpc::RemoteBackend};

async fn wait_for(stderr: &mut BufReader<ChildStderr>, words: &str) -> String {
    let mut said = String::new();
    while !said.contains(words) {
        said.clear();
        let some = timeout(LIMIT, stderr.read_line(&mut said)).await.expect("a line in time").expect("a line");
        assert_ne!(some, 0, "it ended without a word of {words:?}");
    }
    said
}

fn at(uri: &str) -> SocketAddr {
    uri.trim_start_matches("tcp://").parse().expect("an address and a port")
}

async fn pair(opened: &OpenedTunnel) -> io::Result<(TcpStream, TcpStream)> {
    let agent = TcpStream::connect(at(opened.uri.expose())).await?;
    let client = TcpStream::connect(at(&opened.address.to_string())).await?;
    Ok((agent, client))
}

/// One word from the client to the agent and one back.
async fn talk((agent, client): &mut (TcpStream, TcpStream)) -> io::Result<()> {
    let mut heard = [0; 4];
    client.write_all(b"ping").await?;
    agent.read_exact(&mut heard).await?;
    agent.write_all(b"pong").await?;
    client.read_exact(&mut heard).await?;
    Ok(())
}

/// Tries until it works.
async fn heals<T, E>(what: &str, attempt: impl AsyncFn() -> Result<T, E>) -> T {
    let healed = async {
        loop {
            match attempt().await {
                Ok(done) => return done,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    timeout(LIMIT, healed).await.unwrap_or_else(|_| panic!("{what} never worked again"))
}

/// A server that may have so many, which it cannot raise.
async fn server_with(descriptors: usize) -> (Child, BufReader<ChildStderr>, SocketAddr) {
    let server = env!("CARGO_BIN_EXE_tunnel-server");
    let mut child = Command::new("sh")
        .args(["-c", &format!("ulimit -n {descriptors}; exec '{server}' --listen 127.0.0.1:0")])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .env("NO_COLOR", "1")
        .kill_on_drop(true)
        .spawn()
        .expect("a shell");
    let mut stderr = BufReader::new(child.stderr.take().expect("its stderr"));
    let line = wait_for(&mut stderr, "listens on").await;
    let addr = line.rsplit(' ').next().and_then(|addr| addr.trim().parse().ok());
    (child, stderr, addr.expect("where it listens"))
}

#[tokio::test]
async fn running_out_of_descriptors_heals_by_itself() {
    // Given a server that may have so few that even its limits do not help, and on it a tunnel with a stream that runs.
    let (mut child, mut stderr, addr) = server_with(48).await;
    let remote = RemoteBackend::connect(&format!("http://{addr}")).await.unwrap();
    let us = Caller::embedded();
    let request = || OpenTunnel { connections: Some(8), ..OpenTunnel::default() };
    let opened = remote.open_tunnel(&us, request()).await.unwrap();
    let mut running = pair(&opened).await.unwrap();
    timeout(LIMIT, talk(&mut running)).await.unwrap().unwrap();

    // When more connect to the one port, and to the tunnel's, than it has descriptors.
    let mut crowd = Vec::new();
    for _ in 0..100 {
        // One too many may be reset before it has heard that it is connected.
        crowd.extend(TcpStream::connect(addr).await);
        crowd.extend(TcpStream::connect(at(&opened.address.to_string())).await);
    }
    wait_for(&mut stderr, "cannot accept").await;

    // Then what runs goes on, and a call is told what is the matter.
    timeout(LIMIT, talk(&mut running)).await.unwrap().unwrap();
    remote.get_tunnel_address(&us, &opened.uri).await.unwrap();
    match remote.open_tunnel(&us, request()).await {
        Err(TunnelError::LimitReached { limit, .. }) => assert!(limit.contains("file descriptors"), "{limit}"),
        other => panic!("{other:?}"),
    }

    // And when they are gone, everything works again. (By a reset: a client that has finished may still want to hear.)
    for socket in crowd {
        socket.set_zero_linger().unwrap();
    }
    let another = heals("opening a tunnel", async || remote.open_tunnel(&us, request()).await).await;
    let url = format!("http://{addr}");
    heals("connecting to the one port", async || RemoteBackend::connect(&url).await).await;
    for tunnel in [&opened, &another] {
        heals("a tunnel", async || talk(&mut pair(tunnel).await?).await).await;
    }
    timeout(LIMIT, talk(&mut running)).await.unwrap().unwrap();
    assert!(child.try_wait().unwrap().is_none());
}

/// The limits follow from how many descriptors there are, so that a crowd does not use them up.
#[tokio::test]
async fn silent_connections_and_waiting_clients_leave_descriptors_to_others() {
    let (mut child, mut stderr, addr) = server_with(256).await;
    let remote = RemoteBackend::connect(&format!("http://{addr}")).await.unwrap();
    let us = Caller::embedded();
    let request = || OpenTunnel { connections: Some(8), ..OpenTunnel::default() };
    let mut crowd = Vec::new();
    for _ in 0..4 {
        let opened = remote.open_tunnel(&us, request()).await.unwrap();
        for _ in 0..100 {
            crowd.push(TcpStream::connect(addr).await);
            crowd.push(TcpStream::connect(at(&opened.address.to_string())).await);
        }
    }
    // New connections, calls and tunnels are as they were.
    for _ in 0..10 {
        let newcomer = RemoteBackend::connect(&format!("http://{addr}")).await.unwrap();
        let opened = newcomer.open_tunnel(&us, request()).await.unwrap();
        assert_eq!(newcomer.get_tunnel_address(&us, &opened.uri).await.unwrap(), opened.address);
    }
    child.start_kill().unwrap();
    let mut said = String::new();
    stderr.read_to_string(&mut said).await.unwrap();
    assert!(!said.contains("cannot accept"), "{said}");
}

const LIMIT: Duration = Duration::from_secs(20);
