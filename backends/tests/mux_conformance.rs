//! The `mux` backend keeps every promise of the kit.

use std::sync::Arc;

use tunnel_api::TunnelBackend;
use tunnel_backends::{
    carrier::ptth::Gate,
    mux::MuxConfig,
    testing::{BehindDoor, Rig, Setup},
    tunnels::Tunnels,
};

struct Mux;

impl Rig for Mux {
    fn backend(&self, setup: Setup) -> Arc<dyn TunnelBackend> {
        let gate = Gate::new();
        BehindDoor::new(
            |http| gate.clone().in_front_of(http),
            |door| {
                let config = MuxConfig::new("mux", Tunnels::new(), setup.public_ports, gate.clone(), door);
                MuxConfig { times: setup.times, ..config }.build()
            },
        )
    }

    fn carries_many(&self) -> bool {
        true
    }
}

tunnel_backends::conformance!(Mux);
