//! Forwarding, as a program that embeds it sees it.
#![cfg(unix)]

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tunnel_agent::{Agent, Forwarding, Target, TargetError, Tunnel, TunnelListener};
use tunnel_backends::{
    ports::{PortPool, PortRange},
    tcp::TcpConfig,
    tunnels::Tunnels,
};

async fn tunnel() -> TunnelListener {
    let pool = || PortPool::new(PortRange::Kernel, Default::default());
    let backend = TcpConfig::new("tcp", Tunnels::new(), pool(), pool()).build();
    Agent::embedded(Arc::new(backend)).open(Tunnel::tcp()).await.expect("a tunnel")
}

async fn client_of(tunnel: &TunnelListener) -> TcpStream {
    TcpStream::connect(tunnel.address().authority()).await.expect("a connection")
}

#[tokio::test]
async fn a_bad_target_is_an_error_at_once() {
    let mut tunnel = tunnel().await;
    assert_eq!(tunnel.forward_to("localhost").await, Err(TargetError::NoPort));
    assert_eq!(tunnel.forward_to("http://localhost:1".to_owned()).await, Err(TargetError::Url));
}

#[tokio::test]
async fn clients_are_counted_while_they_are_served_and_after() {
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut tunnel = tunnel().await;
    let mut client = client_of(&tunnel).await;
    let forwarding = Forwarding::to(service.local_addr().unwrap().into());
    let meter = forwarding.meter();
    let running = tokio::spawn(async move { tunnel.forward(forwarding).await });

    client.write_all(b"question").await.unwrap();
    let (mut served, _) = service.accept().await.unwrap();
    served.read_exact(&mut [0; 8]).await.unwrap();
    served.write_all(b"answer").await.unwrap();
    client.read_exact(&mut [0; 6]).await.unwrap();
    let now = meter.read();
    assert_eq!((now.clients, now.clients_now, now.bytes_to_service, now.bytes_to_clients), (1, 1, 8, 6));

    drop((client, served));
    let all_gone = async {
        while meter.read().clients_now > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, all_gone).await.expect("an end in time");
    let then = meter.read();
    assert_eq!((then.clients, then.bytes_to_service, then.bytes_to_clients), (1, 8, 6));
    running.abort();
}

#[tokio::test]
async fn whoever_stops_forwarding_gets_the_next_client_and_those_that_are_served_go_on() {
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut tunnel = tunnel().await;
    let mut served = client_of(&tunnel).await;
    let mut at_service = tokio::select! {
        () = tunnel.forward(Forwarding::to(service.local_addr().unwrap().into())) => panic!("the tunnel is over"),
        accepted = service.accept() => accepted.expect("the first client").0,
    };

    let next = client_of(&tunnel).await;
    let stream = timeout(LIMIT, tunnel.accept()).await.expect("the next client in time").expect("the next client");
    assert_eq!(stream.client_addr(), next.local_addr().unwrap());

    at_service.write_all(b"still here").await.unwrap();
    let heard = timeout(LIMIT, served.read_exact(&mut [0; 10])).await.expect("an answer in time");
    assert_eq!(heard.expect("an answer"), 10);
}

#[tokio::test]
async fn a_rush_of_clients_waits_for_a_unix_service_whose_backlog_is_full() {
    let path = std::env::temp_dir().join(format!("tunnel-forward-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let socket = tokio::net::UnixSocket::new_stream().unwrap();
    socket.bind(&path).unwrap();
    let service = socket.listen(1).unwrap();
    let target: Target = format!("unix:{}", path.display()).parse().unwrap();
    let mut tunnel = tunnel().await;
    let mut clients = Vec::new();
    for _ in 0..RUSH {
        clients.push(client_of(&tunnel).await);
    }
    let forwarding = Forwarding::to(target);
    let meter = forwarding.meter();
    let running = tokio::spawn(async move { tunnel.forward(forwarding).await });
    let all_came = async {
        while meter.read().clients < RUSH {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, all_came).await.expect("all of them in time");
    let serving = tokio::spawn(async move {
        while let Ok((mut served, _)) = service.accept().await {
            served.write_all(b"welcome").await.expect("a client that listens");
        }
    });

    for client in &mut clients {
        let mut heard = String::new();
        timeout(LIMIT, client.read_to_string(&mut heard)).await.expect("an answer in time").expect("an answer");
        assert_eq!(heard, "welcome");
    }

    assert_eq!(meter.read().turned_away, 0);
    running.abort();
    serving.abort();
    let _ = std::fs::remove_file(&path);
}

const RUSH: u64 = 12;
const LIMIT: Duration = Duration::from_secs(20);
