//! The `tcp` backend, as the kit wants it.

use std::sync::Arc;

use tunnel_api::TunnelBackend;
use tunnel_backends::{
    tcp::TcpConfig,
    testing::{Rig, Setup},
    tunnels::{Tunnels, TunnelsConfig},
};

pub(crate) struct Tcp;

impl Rig for Tcp {
    fn backend(&self, setup: Setup) -> Arc<dyn TunnelBackend> {
        let config = TcpConfig::new(
            "tcp",
            Tunnels::with(TunnelsConfig { quotas: setup.quotas, ..TunnelsConfig::default() }),
            setup.public_ports,
            setup.dial_in_ports,
        );
        Arc::new(TcpConfig { times: setup.times, ..config }.build())
    }
}
