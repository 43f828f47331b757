//! Servers in this process, and ports for those that need ports of their own.

use std::{
    ops::RangeInclusive,
    sync::{Mutex, PoisonError},
};

use tonic::transport::{Channel, Endpoint};
use tunnel_agent::{Agent, Tunnel, TunnelListener};
use tunnel_api::rpc::v1::client::TunnelClient;
use tunnel_backends::{ports::PortRange, sockets};
use tunnel_server::{Config, Running, Server, config::Backend};

/// A server on ports of the kernel's choice.
///
/// # Panics
/// If it does not start.
pub async fn server() -> Running {
    server_with(|_| {}).await
}

/// The same with this changed in its config.
///
/// # Panics
/// If it does not start.
pub async fn server_with(change: impl FnOnce(&mut Config)) -> Running {
    let mut config = Config::local();
    change(&mut config);
    Server::start(config).await.expect("the server starts")
}

/// The config of its `tcp` backend.
///
/// # Panics
/// If there is none.
pub fn tcp(config: &mut Config) -> &mut tunnel_server::config::Tcp {
    match config.backends.get_mut("tcp") {
        Some(Backend::Tcp(tcp)) => tcp,
        _ => panic!("no tcp backend"),
    }
}

/// A connection to the one port.
///
/// # Panics
/// If there is none to be had.
pub async fn channel(server: &Running) -> Channel {
    let endpoint = Endpoint::from_shared(server.url()).expect("a URL");
    endpoint.connect().await.expect("the server answers")
}

/// The service, as a stock client sees it.
///
/// # Panics
/// If there is no connection to be had.
pub async fn rpc(server: &Running) -> TunnelClient<Channel> {
    TunnelClient::new(channel(server).await)
}

/// An agent's tunnel over real gRPC.
///
/// # Panics
/// If there is none to be had.
pub async fn listen(server: &Running) -> TunnelListener {
    listen_on(server, "tcp").await
}

/// The same on this backend.
///
/// # Panics
/// If there is none to be had.
pub async fn listen_on(server: &Running, backend: &str) -> TunnelListener {
    let agent = Agent::connect(&server.url()).await.expect("the server answers");
    agent.open(Tunnel::tcp().backend(backend)).await.expect("a tunnel")
}

/// Ports that nothing else in this process uses, below the kernel's range for outgoing connections, and that are free now.
/// Another run of these tests at the same time most likely began elsewhere.
///
/// # Panics
/// If there are not so many.
pub fn ports(count: u16) -> RangeInclusive<u16> {
    static NEXT: Mutex<Option<u16>> = Mutex::new(None);
    let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
    let mut first = next.unwrap_or_else(|| FIRST + (std::process::id() as u16).wrapping_mul(61) % (LAST - FIRST));
    for _ in 0..100 {
        if first + count > LAST {
            // From the start, where nobody has been for long.
            first = FIRST;
        }
        let ports = first..=first + count - 1;
        first += count;
        if ports.clone().all(|port| sockets::listen(([127, 0, 0, 1], port).into()).is_ok()) {
            *next = Some(first);
            return ports;
        }
    }
    panic!("no {count} ports are free");
}

/// The same as a pool.
pub fn pool(count: u16) -> PortRange {
    PortRange::Between(ports(count))
}

/// Those of servers with the default config lie in between; they pass over what is taken.
const FIRST: u16 = 12_000;
const LAST: u16 = 32_700;
