//! The backend that is tried, and its tunnels.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tunnel_api::{OpenTunnel, OpenedTunnel, TunnelBackend};
use tunnel_backends::{
    carrier::ptth::{Gate, Patience},
    mux::MuxConfig,
    testing::{BehindDoor, Rig, Setup, Stage, eventually, rig::request},
    tunnels::Tunnels,
};

/// The `mux` backend behind a door.
pub(crate) struct Mux {
    pub(crate) tunnels: Arc<Tunnels>,
    pub(crate) patience: Patience,
    pub(crate) max_sessions: usize,
}

impl Default for Mux {
    fn default() -> Self {
        Self { tunnels: Tunnels::new(), patience: Patience::default(), max_sessions: 64 }
    }
}

impl Rig for Mux {
    fn backend(&self, setup: Setup) -> Arc<dyn TunnelBackend> {
        let gate = Gate::new();
        BehindDoor::new(
            |http| gate.clone().in_front_of(http),
            |door| {
                let config = MuxConfig::new("mux", self.tunnels.clone(), setup.public_ports, gate.clone(), door);
                let (patience, max_sessions) = (self.patience, self.max_sessions);
                MuxConfig { times: setup.times, patience, max_sessions, ..config }.build()
            },
        )
    }

    fn carries_many(&self) -> bool {
        true
    }
}

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
