//! The backend that is tried, and its tunnels.

pub(crate) use crate::rig::Mux;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tunnel_api::{OpenTunnel, OpenedTunnel};
use tunnel_backends::testing::{Rig, Setup, Stage, eventually, rig::request};

/// A stage and a tunnel on it.
pub(crate) async fn open(rig: &dyn Rig) -> (Stage, OpenedTunnel) {
    open_with(rig, Setup::default()).await
}

pub(crate) async fn open_with(rig: &dyn Rig, setup: Setup) -> (Stage, OpenedTunnel) {
    let stage = Stage::with(rig, setup);
    let tunnel = stage.open(1).await;
    (stage, tunnel)
}

/// A tunnel for agents from this network.
pub(crate) fn dialled_from(network: &str) -> OpenTunnel {
    OpenTunnel { dial_from: vec![network.parse().expect("a network")], ..request(1) }
}

/// Where the agents of this tunnel come in.
pub(crate) fn door(tunnel: &OpenedTunnel) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), tunnel.uri.port())
}

/// Returns when so many sessions of this tunnel can take a client.
pub(crate) async fn until_sessions(stage: &Stage, tunnel: &OpenedTunnel, sessions: u32) {
    eventually(format!("{sessions} sessions"), async || {
        stage.info(tunnel).await.is_some_and(|info| info.sessions == sessions)
    })
    .await;
}

/// Returns when so many streams of this tunnel are running.
pub(crate) async fn until_streams(stage: &Stage, tunnel: &OpenedTunnel, streams: u32) {
    eventually(format!("{streams} streams"), async || {
        stage.info(tunnel).await.is_some_and(|info| info.streams == streams)
    })
    .await;
}
