//! The multiplexed backend: agents come in by PTTH on the server's one port, and one agent connection serves any number of
//! clients.
//!
//! A tunnel goes the way that [`tcp`](crate::tcp) describes, with three differences. Its agents dial no port of the tunnel's
//! own but the server's, with a ticket ([`carrier/ptth`](crate::carrier::ptth)). A session has room for many streams, and a
//! tunnel may have several sessions: each client goes to the one with the fewest. And the agent answers for each client
//! whether it takes it, so the uplink keeps a client's first bytes until then.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tunnel_api::Host;

use crate::{
    carrier::ptth::{Gate, Patience, PtthCarrier},
    composed::{Composed, Times},
    front::{Front, named::NamedFronts, port::PortFront},
    hosts::Advertised,
    ports::PortPool,
    tunnels::Tunnels,
};

/// What a `mux` backend is made of.
#[derive(Debug, Clone)]
pub struct MuxConfig {
    /// The backend's name, which requests choose it by.
    pub name: String,
    /// The table its tunnels go on.
    pub tunnels: Arc<Tunnels>,
    /// Ports for clients.
    pub public_ports: Arc<PortPool>,
    /// Where public ports listen.
    pub bind: IpAddr,
    /// Where agents come in.
    pub gate: Arc<Gate>,
    /// Where the door is to which the gate belongs.
    pub door: SocketAddr,
    /// The host in tunnel URIs, unless it is to be found out.
    pub advertise_agents: Option<Host>,
    /// The port in tunnel URIs, where agents reach the door by another than its own: behind a port mapping, or a proxy.
    pub advertise_port: Option<u16>,
    /// The host in addresses, unless it is to be found out.
    pub advertise_clients: Option<Host>,
    /// How many sessions one tunnel may have. Each costs a descriptor and some 50 KiB.
    pub max_sessions: usize,
    /// Host names for clients, where there are any.
    pub names: Option<NamedFronts>,
    /// How many clients of one tunnel may wait for an agent. Each costs a descriptor and about 1 KiB.
    pub waiting_clients: usize,
    /// How long an agent may be silent.
    pub patience: Patience,
    /// How long things last.
    pub times: Times,
}

impl MuxConfig {
    /// A backend with public ports at the door's address, and the default limits.
    pub fn new(
        name: &str,
        tunnels: Arc<Tunnels>,
        public_ports: Arc<PortPool>,
        gate: Arc<Gate>,
        door: SocketAddr,
    ) -> Self {
        Self {
            name: name.to_owned(),
            tunnels,
            public_ports,
            bind: door.ip(),
            gate,
            door,
            advertise_agents: None,
            advertise_port: None,
            advertise_clients: None,
            max_sessions: 64,
            names: None,
            waiting_clients: 64,
            patience: Patience::default(),
            times: Times::default(),
        }
    }

    /// The backend.
    pub fn build(self) -> Composed {
        let carrier = PtthCarrier {
            gate: self.gate,
            advertised: Advertised {
                key: "advertise.agents",
                configured: self.advertise_agents,
                bound: self.door.ip(),
            },
            port: self.advertise_port.unwrap_or(self.door.port()),
            max_sessions: self.max_sessions,
            patience: self.patience,
        };
        let front = PortFront {
            ports: self.public_ports,
            advertised: Advertised { key: "advertise.clients", configured: self.advertise_clients, bound: self.bind },
            waiting_clients: self.waiting_clients,
        };
        let names = self.names.iter().flat_map(|names| names.fronts(self.waiting_clients));
        let fronts = std::iter::once(Arc::new(front) as Arc<dyn Front>).chain(names).collect();
        Composed {
            name: self.name.into(),
            tunnels: self.tunnels,
            carrier: Arc::new(carrier),
            fronts,
            times: self.times,
            max_connections: u32::MAX,
            single_use: false,
        }
    }
}
