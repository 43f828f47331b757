//! The `tcp` backend returns everything. Alone in its process, because tasks and descriptors are counted.

use std::sync::Arc;

use tunnel_api::TunnelBackend;
use tunnel_backends::{
    tcp::TcpConfig,
    testing::{self, Rig, Setup},
    tunnels::Tunnels,
};

struct Tcp;

impl Rig for Tcp {
    fn backend(&self, setup: Setup) -> Arc<dyn TunnelBackend> {
        let config = TcpConfig::new("tcp", Tunnels::new(), setup.public_ports, setup.dial_in_ports);
        Arc::new(TcpConfig { times: setup.times, ..config }.build())
    }
}

#[test]
fn everything_is_returned() {
    testing::keep(&Tcp, testing::churn::everything_is_returned);
}
