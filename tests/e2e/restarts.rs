//! A server that is started again: its agents come back, and to the same addresses.

use std::{net::SocketAddr, time::Duration};

use tunnel_agent::AgentState;
use tunnel_backends::ports::PortRange;
use tunnel_server::{Config, Running};
use tunnel_tests::{
    client::{ask, at},
    limit::within,
    origin::Origin,
    server::{listen, ports, server_with},
};

#[tokio::test]
async fn an_agent_comes_back_to_its_address_when_the_server_is_started_again() {
    within(async {
        // Given a server on ports of its own, and an agent that serves.
        let (listen_at, public, dial_in) = (*ports(1).start(), ports(4), ports(4));
        let start = async || -> Running {
            server_with(|config: &mut Config| {
                config.listen = SocketAddr::from(([127, 0, 0, 1], listen_at));
                config.ports.public = PortRange::Between(public.clone());
                config.ports.dial_in = PortRange::Between(dial_in.clone());
                config.drain = Duration::from_secs(5);
            })
            .await
        };
        let first = start().await;
        let mut tunnel = listen(&first).await;
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
        let _second = start().await;

        // Then the same address leads to the same service.
        state.wait_for(|state| *state == AgentState::Online).await.unwrap();
        assert_eq!(ask(public, b"after").await.unwrap(), b"after");
        assert!(!forwarding.is_finished());
        forwarding.abort();
    })
    .await;
}
