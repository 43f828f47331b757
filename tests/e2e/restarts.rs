//! A server that is started again: its agents come back, and to the same addresses.

use std::{
    net::SocketAddr,
    ops::RangeInclusive,
    time::{Duration, Instant, SystemTime},
};

use futures_util::{StreamExt, future::join_all};
use tempfile::{TempDir, tempdir};
use tunnel_agent::{Agent, AgentState, Tunnel};
use tunnel_api::{Caller, Page, TunnelId, WatchFilter, What};
use tunnel_backends::ports::PortRange;
use tunnel_server::{Config, Running};
use tunnel_tests::{
    client::{ask, at},
    limit::within,
    origin::Origin,
    server::{listen_on, ports, server_with},
};

each_backend! {
    an_agent_comes_back_to_its_address_when_the_server_is_started_again
}

/// A server that can be started again on the same ports.
struct Place {
    listen: u16,
    public: RangeInclusive<u16>,
    dial_in: RangeInclusive<u16>,
    state: Option<TempDir>,
}

impl Place {
    fn new(public: RangeInclusive<u16>) -> Self {
        Self { listen: *ports(1).start(), public, dial_in: ports(4), state: None }
    }

    async fn start(&self) -> Running {
        server_with(|config: &mut Config| {
            config.listen = SocketAddr::from(([127, 0, 0, 1], self.listen));
            config.ports.public = PortRange::Between(self.public.clone());
            config.ports.dial_in = PortRange::Between(self.dial_in.clone());
            config.drain = Duration::from_secs(5);
            config.state = self.state.as_ref().map(|state| state.path().to_owned());
        })
        .await
    }
}

async fn an_agent_comes_back_to_its_address_when_the_server_is_started_again(backend: &str) {
    // Given a server on ports of its own, and an agent that serves.
    let place = Place::new(ports(4));
    let first = place.start().await;
    let mut tunnel = listen_on(&first, backend).await;
    let (address, mut state) = (tunnel.address().clone(), tunnel.state());
    let origin = Origin::echo().await.unwrap();
    let target = origin.addr().to_string();
    let forwarding = tokio::spawn(async move { tunnel.forward_to(target).await });
    let public = at(&address.to_string());
    assert_eq!(ask(public, b"before").await.unwrap(), b"before");

    // When the server goes and comes.
    first.shutdown().await;
    state.wait_for(|state| *state == AgentState::Dialling).await.unwrap();
    assert!(ask(public, b"nobody").await.is_err());
    let _second = place.start().await;

    // Then the same address leads to the same service.
    state.wait_for(|state| *state == AgentState::Online).await.unwrap();
    assert_eq!(ask(public, b"after").await.unwrap(), b"after");
    assert!(!forwarding.is_finished());
    forwarding.abort();
}

/// Without a name, and without opening it again.
#[tokio::test]
async fn an_agent_comes_back_to_the_same_tunnel_where_the_server_keeps_its_state() {
    within(async {
        let place = Place { state: Some(tempdir().unwrap()), ..Place::new(ports(4)) };
        let first = place.start().await;
        let mut tunnel = listen_on(&first, "mux").await;
        let (address, mut state) = (tunnel.address().clone(), tunnel.state());
        state.wait_for(|state| *state == AgentState::Online).await.unwrap();
        let before = ids(&first).await;
        let origin = Origin::echo().await.unwrap();
        let target = origin.addr().to_string();
        let forwarding = tokio::spawn(async move { tunnel.forward_to(target).await });

        first.shutdown().await;
        state.wait_for(|state| *state == AgentState::Dialling).await.unwrap();
        let second = place.start().await;

        state.wait_for(|state| *state == AgentState::Online).await.unwrap();
        assert_eq!(ask(at(&address.to_string()), b"after").await.unwrap(), b"after");
        assert_eq!((before.len(), ids(&second).await), (1, before));
        forwarding.abort();
    })
    .await;
}

async fn ids(server: &Running) -> Vec<TunnelId> {
    let everything = Page { after: None, limit: Page::MAX };
    let open = server.backend().list_tunnels(&Caller::embedded(), &everything).await.unwrap();
    open.into_iter().map(|info| info.id).collect()
}

/// All of them lose the server in the same moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_agents_come_back_soon_and_not_in_one_burst() {
    within(async {
        const AGENTS: usize = 200;
        let place = Place::new(ports(AGENTS as u16));
        let first = place.start().await;
        let tunnels = join_all((0..AGENTS).map(async |number| {
            let agent = Agent::connect(&first.url()).await.unwrap();
            let tunnel = agent.open(Tunnel::tcp().backend("mux").name(format!("agent-{number}"))).await.unwrap();
            tunnel.state().wait_for(|state| *state == AgentState::Online).await.unwrap();
            tunnel
        }))
        .await;
        let addresses: Vec<_> = tunnels.iter().map(|tunnel| tunnel.address().clone()).collect();

        first.shutdown().await;
        let second = place.start().await;

        let since = Instant::now();
        let watch = second.backend().watch_tunnels(&Caller::embedded(), &WatchFilter::default()).await;
        let came = watch.unwrap().filter_map(async |event| match event.unwrap() {
            event if matches!(event.what, What::AgentConnected { .. }) => Some(event.time),
            // Or it was there before we looked.
            event if matches!(&event.what, What::Present(info) if info.sessions > 0) => Some(event.time),
            _ => None,
        });
        let came: Vec<SystemTime> = came.take(AGENTS).collect().await;
        assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
        let burst = came.iter().map(|time| count_within(&came, *time, Duration::from_millis(50))).max();
        assert!(burst < Some(AGENTS / 2), "{burst:?} of {AGENTS} came within 50 ms");
        let kept = tunnels.iter().zip(&addresses).all(|(tunnel, address)| tunnel.address() == address);
        assert!(kept, "not all have their addresses");
    })
    .await;
}

fn count_within(times: &[SystemTime], from: SystemTime, window: Duration) -> usize {
    times.iter().filter(|time| **time >= from && **time < from + window).count()
}
