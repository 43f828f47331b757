//! From config to parts: the only file that knows every part's name.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use tunnel_api::{Router, TunnelBackend};
use tunnel_backends::{
    composed::Times, door::DoorTerms, ports::PortPool, relay::RelayTimes, tcp::TcpConfig, tunnels::Tunnels,
};

use crate::{
    config::{Backend, Config, Tcp},
    server::StartError,
};

/// The parts of a server, before anything listens.
pub(crate) struct Parts {
    pub(crate) tunnels: Arc<Tunnels>,
    pub(crate) router: Router,
    pub(crate) door: DoorTerms,
}

pub(crate) fn assemble(config: &Config) -> Result<Parts, StartError> {
    let tunnels = Tunnels::new();
    let shared = Shared {
        tunnels: tunnels.clone(),
        public_ports: PortPool::new(config.ports.public.clone(), config.ports.extra_ports.clone()),
        dial_in_ports: PortPool::new(config.ports.dial_in.clone(), Default::default()),
        bind: config.listen.ip(),
        config,
    };
    let backends: BTreeMap<_, _> =
        config.backends.iter().map(|(name, backend)| (name.clone(), shared.backend(name, backend))).collect();
    let router = Router::new(backends, config.default_backend().unwrap_or_default())?;
    let door = DoorTerms {
        first_unit: config.door.first_unit,
        waiting: config.door.waiting,
        waiting_per_source: config.door.waiting_per_source,
        trusted_proxies: config.trusted_proxies.clone(),
        idle: config.door.idle,
    };
    Ok(Parts { tunnels, router, door })
}

/// What all backends share.
struct Shared<'c> {
    tunnels: Arc<Tunnels>,
    public_ports: Arc<PortPool>,
    dial_in_ports: Arc<PortPool>,
    bind: IpAddr,
    config: &'c Config,
}

impl Shared<'_> {
    fn backend(&self, name: &str, backend: &Backend) -> Arc<dyn TunnelBackend> {
        match backend {
            Backend::Tcp(tcp) => Arc::new(self.tcp(name, tcp).build()),
        }
    }

    fn tcp(&self, name: &str, tcp: &Tcp) -> TcpConfig {
        TcpConfig {
            name: name.to_owned(),
            tunnels: self.tunnels.clone(),
            public_ports: self.public_ports.clone(),
            dial_in_ports: self.dial_in_ports.clone(),
            bind: tcp.bind.unwrap_or(self.bind),
            advertise_agents: self.config.advertise.agents.clone(),
            advertise_clients: self.config.advertise.clients.clone(),
            max_connections: tcp.max_connections,
            waiting_clients: tcp.waiting_clients,
            times: Times {
                dial_within: tcp.dial_within,
                grace: tcp.grace,
                named_grace: tcp.named_grace,
                client_wait: tcp.client_wait,
                relay: RelayTimes { half_closed: tcp.half_closed, unread: tcp.unread, linger: tcp.linger },
            },
        }
    }
}
