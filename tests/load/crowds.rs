//! A thousand at once: agents that lose their server in the same moment, clients that come to one address.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tunnel_agent::{Agent, AgentState, Tunnel};
use tunnel_api::rpc::v1::OpenTunnelRequest;
use tunnel_backends::{ports::PortRange, process, sockets};
use tunnel_server::{Config, Running};
use tunnel_tests::{
    beside::GoodClient,
    client::{at, hear_out},
    limit::within,
    server::{listen_on, ports, server_with},
};

use crate::alone;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_agents_that_lose_their_server_are_back_soon_and_calls_are_answered_meanwhile() {
    let _alone = alone().await;
    process::raise_descriptor_limit();
    let (listen, public) = (*ports(1).start(), ports(AGENTS as u16 + 1));
    let start = async || {
        server_with(|config: &mut Config| {
            config.listen = SocketAddr::from(([127, 0, 0, 1], listen));
            config.ports.public = PortRange::Between(public.clone());
        })
        .await
    };
    let first = start().await;
    let url = first.url();
    let tunnels = join_all((0..AGENTS).map(async |number| {
        let agent = Agent::connect(&url).await.expect("a server");
        let backend = if number % 2 == 0 { "mux" } else { "tcp" };
        let tunnel = Tunnel::tcp().backend(backend).name(format!("agent-{number}"));
        let tunnel = agent.open(tunnel).await.expect("a tunnel");
        until_online(tunnel.state()).await;
        tunnel
    }))
    .await;
    let addresses: Vec<_> = tunnels.iter().map(|tunnel| tunnel.address().clone()).collect();

    first.shutdown().await;
    let offline = tunnels.iter().map(async |tunnel| {
        tunnel.state().wait_for(|state| *state != AgentState::Online).await.expect("a state");
    });
    join_all(offline).await;
    let second = start().await;

    let since = Instant::now();
    // At a port that none of them has.
    let mut good = GoodClient::come_to(second.addr(), "anybody", *public.end()).await;
    let all_back = join_all(tunnels.iter().map(|tunnel| until_online(tunnel.state())));
    let (back, beside) = good.beside(timeout(SOON, all_back)).await;
    println!("{AGENTS} agents were back after {:?}; meanwhile {beside}", since.elapsed());
    assert!(back.is_ok(), "not all agents are back after {SOON:?}");
    assert!(beside.p99() < Duration::from_secs(5), "{beside}");
    let kept = tunnels.iter().zip(&addresses).filter(|(tunnel, address)| tunnel.address() == *address);
    assert_eq!(kept.count(), AGENTS, "not all have their addresses");
}

async fn until_online(mut state: tokio::sync::watch::Receiver<AgentState>) {
    state.wait_for(|state| *state == AgentState::Online).await.expect("a state");
}

/// Silent ones, slow ones, and those that finish or reset at once: none of them is anybody else's trouble, on the address where
/// they come least of all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_bad_clients_at_once_disturb_no_other_tunnel() {
    let _alone = alone().await;
    within(async {
        process::raise_descriptor_limit();
        for backend in ["tcp", "mux"] {
            let server = server_with(|_| {}).await;
            let mut good = GoodClient::come(server.addr(), "anybody").await;
            let public = echo(&server, backend).await;
            let crowd = async {
                let mut crowd = Vec::new();
                for number in 0..1000 {
                    let mut client = TcpStream::connect(public).await.expect("it accepts");
                    match number % 4 {
                        0 => sockets::reset(client),
                        1 => {
                            let _ = client.shutdown().await;
                            crowd.push(client);
                        }
                        2 => {
                            let _ = client.write_all(b"half a word").await;
                            crowd.push(client);
                        }
                        _ => crowd.push(client),
                    }
                }
                sleep(Duration::from_millis(500)).await;
                crowd
            };
            let (crowd, beside) = good.beside(crowd).await;
            println!("{backend}: {beside}");
            assert!(beside.p99() < Duration::from_secs(1), "{backend}: {beside}");
            // When they go, others are served at their address.
            crowd.into_iter().for_each(sockets::reset);
            let served = async {
                loop {
                    let mut client = TcpStream::connect(public).await.expect("it accepts");
                    let asked = async {
                        client.write_all(b"?").await?;
                        client.shutdown().await
                    };
                    if asked.await.is_ok() && hear_out(&mut client).await.0 == b"?" {
                        return;
                    }
                }
            };
            timeout(Duration::from_secs(15), served).await.expect("others are served");
        }
    })
    .await;
}

async fn echo(server: &Running, backend: &str) -> SocketAddr {
    let mut tunnel = listen_on(server, backend).await;
    let public = at(&tunnel.address().to_string());
    tokio::spawn(async move {
        while let Ok(mut stream) = tunnel.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 16];
                while let Ok(1..) = stream.read(&mut buffer).await {
                    if stream.write_all(&buffer[..1]).await.is_err() {
                        return;
                    }
                }
                let _ = stream.shutdown().await;
            });
        }
    });
    public
}

/// Agents that knock and then say nothing, say it slowly, or hang up: on the one port, and on the ports of `tcp` tunnels.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_bad_agents_disturb_no_other_tunnel() {
    let _alone = alone().await;
    within(async {
        process::raise_descriptor_limit();
        let server = server_with(|_| {}).await;
        let mut good = GoodClient::come(server.addr(), "anybody").await;
        let agent = Agent::connect(&server.url()).await.expect("a server");
        let mux = agent.open(Tunnel::tcp().backend("mux")).await.expect("a tunnel");
        let mut rpc = tunnel_tests::server::rpc(&server).await;
        let dialled = rpc.open_tunnel(OpenTunnelRequest::default()).await.expect("a tunnel").into_inner();
        let crowd = async {
            let mut crowd = Vec::new();
            for number in 0..500_usize {
                for addr in [server.addr(), at(&dialled.uri)] {
                    let Ok(mut agent) = TcpStream::connect(addr).await else { continue };
                    match number % 4 {
                        0 => sockets::reset(agent),
                        1 => {
                            let _ = agent.shutdown().await;
                            crowd.push(agent);
                        }
                        2 => {
                            let _ = agent.write_all(b"GET /.well-known/ptth/ HTTP/1.1\r\n").await;
                            crowd.push(agent);
                        }
                        _ => crowd.push(agent),
                    }
                }
            }
            sleep(Duration::from_millis(500)).await;
            crowd
        };
        let (_crowd, beside) = good.beside(crowd).await;
        println!("{beside}");
        assert!(beside.p99() < Duration::from_secs(1), "{beside}");
        assert_eq!(*mux.state().borrow(), AgentState::Online);
    })
    .await;
}

const AGENTS: usize = 1000;
const SOON: Duration = Duration::from_secs(40);
