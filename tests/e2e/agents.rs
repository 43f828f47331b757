//! Agents on a multiplexed backend: several of them, several connections, and networks that come and go.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tunnel_agent::{Agent, AgentState, Tunnel, TunnelListener};
use tunnel_api::{Caller, Page, TunnelInfo, TunnelRef};
use tunnel_server::{Running, config::Backend};
use tunnel_tests::{
    client::{Ended, ask, at, hear_out},
    detour::Detour,
    limit::within,
    path::{Length, Path},
    server::{server, server_with},
};

/// Somebody else answers for the server, and then hangs up.
#[tokio::test]
async fn whoever_takes_sessions_and_hangs_up_is_not_dialled_without_a_pause() {
    within(async {
        let server = server().await;
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = Arc::new(Detour { backend: server.backend(), by: other.local_addr().unwrap() });
        let _tunnel = Agent::embedded(backend).open(Tunnel::tcp().backend("mux")).await.unwrap();
        let mut times = 0;
        let _ = tokio::time::timeout(Duration::from_secs(2), async {
            loop {
                let (mut session, _) = other.accept().await.unwrap();
                times += 1;
                let _ = session.read(&mut [0; 4096]).await;
                let _ = session.write_all(SWITCHING_AND_HTTP2).await;
                let _ = session.shutdown().await;
                let _ = session.read_to_end(&mut Vec::new()).await;
            }
        })
        .await;
        assert!((1..=40).contains(&times), "{times} sessions in 2 s");
    })
    .await;
}

/// The answer to the upgrade, HTTP/2's preface, and empty SETTINGS.
const SWITCHING_AND_HTTP2: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: ptth\r\nALPN: h2\r\n\r\n\
    PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// Streams go to the session with the fewest.
#[tokio::test]
async fn an_agent_with_two_sessions_serves_by_both() {
    within(async {
        let server = server().await;
        let agent = Agent::connect(&server.url()).await.unwrap();
        let mut tunnel = agent.open(Tunnel::tcp().backend("mux").sessions(2)).await.unwrap();
        until_sessions(&server, 2).await;
        let public = public(&tunnel);
        let mut held = Vec::new();
        for _ in 0..20 {
            let mut client = TcpStream::connect(public).await.unwrap();
            let mut stream = tunnel.accept().await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            client.read_exact(&mut [0; 5]).await.unwrap();
            held.push((client, stream));
        }
        assert_eq!(held.len(), 20);
    })
    .await;
}

/// An agent that leaves hands over what it has not taken: no client is lost when a service is replaced by its next version.
#[tokio::test]
async fn no_client_is_lost_when_one_agent_takes_over_from_another() {
    within(async {
        let server = server().await;
        let open = async || {
            let agent = Agent::connect(&server.url()).await.unwrap();
            agent.open(Tunnel::tcp().backend("mux").name("app")).await.unwrap()
        };
        let mut generation = open().await;
        let address = public(&generation);
        let asking = tokio::spawn(async move {
            for number in 0..300_u32 {
                let question = number.to_be_bytes();
                let answer = ask(address, &question).await.unwrap_or_else(|error| panic!("client {number}: {error}"));
                assert_eq!(answer, question);
            }
        });
        while !asking.is_finished() {
            // Serve some, start the next, and leave without having looked at those that came meanwhile.
            for _ in 0..10 {
                let served = tokio::time::timeout(Duration::from_millis(20), generation.accept()).await;
                let Ok(stream) = served else { break };
                tokio::spawn(echo(stream.unwrap()));
            }
            let next = open().await;
            next.state().wait_for(|state| *state == AgentState::Online).await.unwrap();
            generation = next;
        }
        asking.await.unwrap();
    })
    .await;
}

/// Nothing is refused and nothing is closed: nobody is told.
#[tokio::test]
async fn an_agent_whose_network_was_away_is_back_soon_at_the_same_address() {
    within(async {
        let server = server_with(|config| {
            for backend in config.backends.values_mut() {
                if let Backend::Mux(mux) = backend {
                    (mux.ping_after, mux.dead_after) = (Duration::from_millis(100), Duration::from_millis(500));
                }
            }
        })
        .await;
        let path = Path::to(server.addr(), SHORT).await.unwrap();
        let agent = Agent::embedded(Arc::new(Detour { backend: server.backend(), by: path.addr() }));
        let mut tunnel = agent.open(Tunnel::tcp().backend("mux")).await.unwrap();
        let (public, mut state) = (public(&tunnel), tunnel.state());
        state.wait_for(|state| *state == AgentState::Online).await.unwrap();
        let mut client = TcpStream::connect(public).await.unwrap();
        let _stream = tunnel.accept().await.unwrap();

        path.cut();
        // The client is told, by a reset, and the address stays.
        assert_eq!(hear_out(&mut client).await, (vec![], Ended::Reset));
        let waiting = tokio::spawn(async move { ask(public, b"anybody there?").await });
        path.mend();

        tokio::spawn(echo(tunnel.accept().await.unwrap()));
        assert_eq!(waiting.await.unwrap().unwrap(), b"anybody there?");
    })
    .await;
}

/// Long before it is given up.
#[tokio::test]
async fn an_agent_that_vanished_soon_gets_no_clients_where_there_is_another() {
    within(async {
        let server = server().await;
        let path = Path::to(server.addr(), SHORT).await.unwrap();
        let open = async |backend| {
            let tunnel = Tunnel::tcp().backend("mux").name("twice");
            Agent::embedded(backend).open(tunnel).await.unwrap()
        };
        let vanishing = open(Arc::new(Detour { backend: server.backend(), by: path.addr() })).await;
        vanishing.state().wait_for(|state| *state == AgentState::Online).await.unwrap();
        let mut staying = open(Arc::new(Detour { backend: server.backend(), by: server.addr() })).await;
        until_sessions(&server, 2).await;
        let public = public(&staying);
        tokio::spawn(async move {
            while let Ok(stream) = staying.accept().await {
                tokio::spawn(echo(stream));
            }
        });

        path.cut();
        let since = Instant::now();
        let mut in_a_row = 0;
        while in_a_row < 8 {
            let served = tokio::time::timeout(Duration::from_millis(500), ask(public, b"?")).await;
            in_a_row = if served.is_ok() { in_a_row + 1 } else { 0 };
        }
        assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    })
    .await;
}

/// It takes no more clients, and the agent's connection ends with the last stream.
#[tokio::test]
async fn a_server_that_stops_lets_the_streams_of_a_session_end() {
    within(async {
        let server = server_with(|config| config.drain = Duration::from_secs(50)).await;
        let agent = Agent::connect(&server.url()).await.unwrap();
        let mut tunnel = agent.open(Tunnel::tcp().backend("mux")).await.unwrap();
        let public = public(&tunnel);
        let mut client = TcpStream::connect(public).await.unwrap();
        let mut stream = tunnel.accept().await.unwrap();
        stream.write_all(b"first ").await.unwrap();
        client.read_exact(&mut [0; 6]).await.unwrap();

        let stopping = tokio::spawn(server.shutdown());
        while TcpStream::connect(public).await.is_ok() {
            tokio::task::yield_now().await;
        }
        stream.write_all(b"then ").await.unwrap();
        client.read_exact(&mut [0; 5]).await.unwrap();
        assert!(!stopping.is_finished());

        client.shutdown().await.unwrap();
        stream.write_all(b"last").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(hear_out(&mut client).await, (b"last".to_vec(), Ended::Finished));
        stopping.await.unwrap();
    })
    .await;
}

/// It follows the news of the tunnel it has now, and not of the one it had.
#[tokio::test]
async fn a_tunnel_that_expired_and_was_opened_again_stays_closed_when_somebody_closes_it() {
    within(async {
        let server = server_with(|config| {
            for backend in config.backends.values_mut() {
                if let Backend::Mux(mux) = backend {
                    (mux.ping_after, mux.dead_after) = (Duration::from_millis(100), Duration::from_millis(500));
                    mux.grace = Duration::from_millis(100);
                }
            }
        })
        .await;
        let path = Path::to(server.addr(), SHORT).await.unwrap();
        let agent = Agent::embedded(Arc::new(Detour { backend: server.backend(), by: path.addr() }));
        let tunnel = agent.open(Tunnel::tcp().backend("mux")).await.unwrap();
        let first = tunnel.id().clone();
        until_sessions(&server, 1).await;
        path.cut();
        until(&server, <[TunnelInfo]>::is_empty).await;
        path.mend();
        let again = until(&server, |tunnels| tunnels.iter().any(|tunnel| tunnel.sessions > 0)).await;
        assert_ne!(again[0].id, first);

        let us = Caller::embedded();
        server.backend().close_tunnel(&us, &TunnelRef::Id(again[0].id.clone())).await.unwrap();
        tunnel.closed().await;
        assert_eq!(until(&server, |_| true).await, []);
    })
    .await;
}

/// They were given to it, and there is nobody else to give them to.
#[tokio::test]
async fn clients_that_come_while_the_agent_is_busy_are_not_turned_away() {
    within(async {
        tunnel_backends::process::raise_descriptor_limit();
        let server = server().await;
        let agent = Agent::connect(&server.url()).await.unwrap();
        let mut tunnel = agent.open(Tunnel::tcp().backend("mux")).await.unwrap();
        let public = public(&tunnel);
        let clients = join_all((0..CROWD).map(|_| TcpStream::connect(public))).await;
        until(&server, |tunnels| tunnels.iter().any(|tunnel| tunnel.streams as usize == CROWD)).await;
        tokio::spawn(async move {
            while let Ok(stream) = tunnel.accept().await {
                tokio::spawn(echo(stream));
            }
        });
        // (An async closure here makes some builds after the first fail inside the compiler.)
        let served = join_all(clients.into_iter().map(|client| async {
            let mut client = client.unwrap();
            client.write_all(b"?").await.unwrap();
            client.shutdown().await.unwrap();
            hear_out(&mut client).await
        }))
        .await;
        let served = served.iter().filter(|heard| **heard == (b"?".to_vec(), Ended::Finished)).count();
        assert_eq!(served, CROWD);
    })
    .await;
}

const CROWD: usize = 1500;

/// However many come before it looks at one of them.
#[tokio::test]
async fn a_stalled_client_does_not_stop_the_others_from_being_accepted() {
    within(async {
        let server = server().await;
        let agent = Agent::connect(&server.url()).await.unwrap();
        let mut tunnel = agent.open(Tunnel::tcp().backend("mux")).await.unwrap();
        let public = public(&tunnel);
        let mut silent = Vec::new();
        for _ in 0..50 {
            silent.push(TcpStream::connect(public).await.unwrap());
        }
        let asking = tokio::spawn(ask(public, b"and me?"));
        while !asking.is_finished() {
            let served = tokio::time::timeout(Duration::from_millis(20), tunnel.accept()).await;
            if let Ok(stream) = served {
                tokio::spawn(echo(stream.unwrap()));
            }
        }
        assert_eq!(asking.await.unwrap().unwrap(), b"and me?");
        assert_eq!(silent.len(), 50);
    })
    .await;
}

fn public(tunnel: &TunnelListener) -> SocketAddr {
    at(&tunnel.address().to_string())
}

async fn echo(mut stream: tunnel_agent::TunnelStream) {
    let mut heard = Vec::new();
    if stream.read_to_end(&mut heard).await.is_ok() && stream.write_all(&heard).await.is_ok() {
        // Fails when the client has gone.
        let _ = stream.shutdown().await;
    }
}

async fn until_sessions(server: &Running, sessions: u32) {
    until(server, |tunnels| tunnels.iter().any(|tunnel| tunnel.sessions == sessions)).await;
}

/// What no single event tells.
async fn until(server: &Running, holds: impl Fn(&[TunnelInfo]) -> bool) -> Vec<TunnelInfo> {
    let page = Page { after: None, limit: 10 };
    loop {
        let tunnels = server.backend().list_tunnels(&Caller::embedded(), &page).await.unwrap();
        if holds(&tunnels) {
            return tunnels;
        }
        tokio::task::yield_now().await;
    }
}

const SHORT: Length = Length { delay: Duration::from_millis(1), in_flight: 1024 * 1024 };
