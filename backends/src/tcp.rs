//! The reference backend: one connection per tunnel (or per client), and nothing on the wire but the clients' bytes.
//!
//! One tunnel, end to end:
//!
//! 1. `OpenTunnel` reaches [`Composed`], which asks the port front for a public port and the tcp
//!    carrier for a dial-in port. Both listen when it answers; leases hold both ports; the tunnel is on the table
//!    ([`Tunnels`]) and its keeper waits for an agent.
//! 2. The agent connects to the dial-in port ([`carrier/tcp/serve.rs`](crate::carrier::tcp)). If it comes from where it may,
//!    its connection waits, watched, as a session with room for one stream. Nothing is read from it or written to it.
//! 3. A client connects to the public port ([`front/port.rs`](crate::front::port)) and asks the tunnel's
//!    [`Uplink`](crate::uplink::Uplink) for a stream: it gets the dial-in that has waited longest, or waits for one itself.
//! 4. The two are relayed ([`relay`](crate::relay)) until both have finished or one aborts.
//! 5. When the last dial-in and stream are gone, the keeper closes the tunnel (at once if it was for one connection, after a
//!    grace otherwise): leases drop, ports go back to their pool.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use tunnel_api::Host;

use crate::{
    carrier::tcp::TcpCarrier,
    composed::{Composed, Times},
    front::{Front, named::NamedFronts, port::PortFront},
    hosts::Advertised,
    ports::PortPool,
    tunnels::Tunnels,
};

/// What a `tcp` backend is made of.
#[derive(Debug, Clone)]
pub struct TcpConfig {
    /// The backend's name, which requests choose it by.
    pub name: String,
    /// The table its tunnels go on.
    pub tunnels: Arc<Tunnels>,
    /// Ports for clients.
    pub public_ports: Arc<PortPool>,
    /// Ports for agents.
    pub dial_in_ports: Arc<PortPool>,
    /// Where both listen.
    pub bind: IpAddr,
    /// The host in tunnel URIs, unless it is to be found out.
    pub advertise_agents: Option<Host>,
    /// The host in addresses, unless it is to be found out.
    pub advertise_clients: Option<Host>,
    /// How many dial-ins of one tunnel may wait at the most. Each costs a descriptor and about 1 KiB.
    pub max_connections: u32,
    /// Host names for clients, where there are any.
    pub names: Option<NamedFronts>,
    /// How many clients of one tunnel may wait for an agent. Each costs a descriptor and about 1 KiB.
    pub waiting_clients: usize,
    /// How long things last.
    pub times: Times,
}

impl TcpConfig {
    /// A backend on loopback with these pools and the default limits.
    pub fn new(name: &str, tunnels: Arc<Tunnels>, public_ports: Arc<PortPool>, dial_in_ports: Arc<PortPool>) -> Self {
        Self {
            name: name.to_owned(),
            tunnels,
            public_ports,
            dial_in_ports,
            bind: Ipv4Addr::LOCALHOST.into(),
            advertise_agents: None,
            advertise_clients: None,
            max_connections: 1024,
            names: None,
            waiting_clients: 64,
            times: Times::default(),
        }
    }

    /// The backend.
    pub fn build(self) -> Composed {
        let advertised = |key, configured| Advertised { key, configured, bound: self.bind };
        let carrier =
            TcpCarrier { ports: self.dial_in_ports, advertised: advertised("advertise.agents", self.advertise_agents) };
        let front = PortFront {
            ports: self.public_ports,
            advertised: advertised("advertise.clients", self.advertise_clients),
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
            max_connections: self.max_connections,
            single_use: true,
        }
    }
}
