//! The `mux` backend behind a door, as the kit wants it.

use std::sync::Arc;

use tunnel_api::TunnelBackend;
use tunnel_backends::{
    carrier::ptth::{Gate, Patience},
    mux::MuxConfig,
    testing::{BehindDoor, Rig, Setup},
    tunnels::{Tunnels, TunnelsConfig},
};

pub(crate) struct Mux {
    /// Unless it is to be a table of its own.
    pub(crate) tunnels: Option<Arc<Tunnels>>,
    pub(crate) patience: Patience,
    pub(crate) max_sessions: usize,
}

impl Default for Mux {
    fn default() -> Self {
        Self { tunnels: None, patience: Patience::default(), max_sessions: 64 }
    }
}

impl Rig for Mux {
    fn backend(&self, setup: Setup) -> Arc<dyn TunnelBackend> {
        let gate = Gate::new();
        let tunnels = self
            .tunnels
            .clone()
            .unwrap_or_else(|| Tunnels::with(TunnelsConfig { quotas: setup.quotas, ..TunnelsConfig::default() }));
        BehindDoor::new(
            |http| gate.clone().in_front_of(http),
            |door| {
                let config = MuxConfig::new("mux", tunnels, setup.public_ports, gate.clone(), door);
                let (patience, max_sessions) = (self.patience, self.max_sessions);
                MuxConfig { times: setup.times, patience, max_sessions, ..config }.build()
            },
        )
    }

    fn carries_many(&self) -> bool {
        true
    }
}
