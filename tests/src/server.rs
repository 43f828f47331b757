//! Servers in this process, and ports for those that need ports of their own.

use std::{
    ops::RangeInclusive,
    sync::atomic::{AtomicU16, Ordering},
};

use tonic::transport::{Channel, Endpoint};
use tunnel_agent::{Agent, Tunnel, TunnelListener};
use tunnel_api::rpc::v1::client::TunnelClient;
use tunnel_backends::ports::PortRange;
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

/// Ports that nothing else in this process uses, below the kernel's range for outgoing connections. Another process may
/// have them only if it is another run of these tests.
pub fn ports(count: u16) -> RangeInclusive<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = NEXT.fetch_add(count, Ordering::Relaxed);
    assert!(offset + count <= RUN, "too few ports are set aside for one run");
    let first = FIRST + (std::process::id() % RUNS) as u16 * RUN + offset;
    first..=first + count - 1
}

/// The same as a pool.
pub fn pool(count: u16) -> PortRange {
    PortRange::Between(ports(count))
}

const FIRST: u16 = 28_100;
const RUN: u16 = 64;
const RUNS: u32 = 70;
