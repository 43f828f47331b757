//! From config to parts: the only file that knows every part's name.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use tunnel_api::{Host, Router, TunnelBackend};
use tunnel_backends::{
    carrier::ptth::{Gate, Patience},
    composed::Composed,
    door::{DoorTerms, Encryption},
    front::named::NamedFronts,
    meters::Meters,
    mux::MuxConfig,
    names::Names,
    ports::PortPool,
    process,
    quarantine::Quarantine,
    quotas::Quotas,
    registry::Registry,
    requests::AccessLog,
    tcp::TcpConfig,
    tickets::Tickets,
    tunnels::{Tunnels, TunnelsConfig},
};

use crate::{
    config::{Advertise, Backend, Config, Mux, Tcp},
    server::StartError,
};

/// The parts of a server, before anything is accepted.
pub(crate) struct Parts {
    pub(crate) tunnels: Arc<Tunnels>,
    pub(crate) quotas: Arc<Quotas>,
    /// The backends behind the router, to be restored.
    pub(crate) composed: Vec<Arc<Composed>>,
    pub(crate) router: Router,
    pub(crate) gate: Arc<Gate>,
    pub(crate) names: Arc<Names>,
    pub(crate) door: DoorTerms,
    pub(crate) meters: Arc<Meters>,
}

/// `door_addr` is where the one port is. What is opened is recorded in the registry; agents come in by these tickets.
pub(crate) fn assemble(
    config: &Config,
    door_addr: SocketAddr,
    registry: Arc<dyn Registry>,
    tickets: Tickets,
) -> Result<Parts, StartError> {
    let quarantine = Quarantine::new(config.quarantine);
    // As `main` has left it; a program with a server inside has its own idea of it.
    let descriptors = process::descriptor_limit();
    let quotas = Quotas::new(config.limits.overall(descriptors), config.limits.of_owner());
    let meters = Arc::new(Meters::default());
    let tunnels = Tunnels::with(TunnelsConfig {
        registry,
        quarantine: quarantine.clone(),
        quotas: quotas.clone(),
        meters: meters.clone(),
        access_log: AccessLog { enabled: config.access_log.enabled, query: config.access_log.query },
    });
    let gate = Gate::with_tickets(tickets);
    let names = names(config, quarantine.clone());
    let (public, extra) = (config.ports.public.clone(), config.ports.extra_ports.clone());
    let shared = Shared {
        tunnels: tunnels.clone(),
        gate: gate.clone(),
        names: named_fronts(config, door_addr, names.clone()),
        public_ports: PortPool::with_quarantine(public, extra, quarantine),
        dial_in_ports: PortPool::new(config.ports.dial_in.clone(), Default::default()),
        door_addr,
        config,
    };
    let composed: Vec<_> = config.backends.iter().map(|(name, backend)| shared.backend(name, backend)).collect();
    let backends: BTreeMap<String, Arc<dyn TunnelBackend>> =
        composed.iter().map(|backend| (backend.name.to_string(), backend.clone() as Arc<dyn TunnelBackend>)).collect();
    let router = Router::new(backends, config.default_backend().unwrap_or_default())?;
    let door = DoorTerms {
        first_unit: config.door.first_unit,
        waiting: seats(config.door.waiting, descriptors),
        waiting_per_source: config.door.waiting_per_source,
        trusted_proxies: config.trusted_proxies.clone().into(),
        idle: config.door.idle,
        keep_alive: config.door.keep_alive,
        keep_alive_http2: config.door.keep_alive_http2,
        kept_alive: seats(config.door.kept_alive, descriptors),
        kept_alive_per_source: config.door.kept_alive_per_source,
        unread: config.door.unread,
        meters: meters.clone(),
        names: Some(names.clone()),
        tls: config.server_tls()?,
        encryption: encryption(config),
    };
    tracing::debug!(?descriptors, limits = ?config.limits.overall(descriptors), door.waiting, "limits of all together");
    Ok(Parts { tunnels, quotas, composed, router, gate, names, door, meters })
}

/// The server's own hosts are nobody's.
fn names(config: &Config, quarantine: Arc<Quarantine>) -> Arc<Names> {
    let Advertise { agents, clients } = config.advertise.clone();
    let own = agents.map(|agents| agents.host).into_iter().chain(clients);
    Names::new(config.names.domain.clone(), own, quarantine)
}

fn named_fronts(config: &Config, door: SocketAddr, names: Arc<Names>) -> NamedFronts {
    let behind_proxy = config.tls.is_none() && config.is_encrypted();
    let port = config.names.port.unwrap_or(if behind_proxy { HTTPS } else { door.port() });
    NamedFronts { names, port, is_encrypted: config.is_encrypted() }
}

/// Where proxies that end TLS are reached, unless the config says otherwise.
const HTTPS: u16 = 443;

/// Whoever can come encrypted has to, unless the config says that it does not matter.
fn encryption(config: &Config) -> Encryption {
    let terminated_by = config.tls_terminated_by.clone();
    if config.is_encrypted() && !config.insecure {
        Encryption::demanded(terminated_by)
    } else {
        Encryption { terminated_by, ..Encryption::default() }
    }
}

/// Connections at the door that ask for nothing must make room before they have used up the descriptors of everybody else.
fn seats(configured: usize, descriptors: Option<usize>) -> usize {
    configured.min(descriptors.map_or(usize::MAX, |descriptors| descriptors / 4)).max(1)
}

/// What all backends share.
struct Shared<'c> {
    tunnels: Arc<Tunnels>,
    gate: Arc<Gate>,
    names: NamedFronts,
    public_ports: Arc<PortPool>,
    dial_in_ports: Arc<PortPool>,
    door_addr: SocketAddr,
    config: &'c Config,
}

impl Shared<'_> {
    fn backend(&self, name: &str, backend: &Backend) -> Arc<Composed> {
        match backend {
            Backend::Tcp(tcp) => Arc::new(self.tcp(name, tcp).build()),
            Backend::Mux(mux) => Arc::new(self.mux(name, mux).build()),
        }
    }

    fn tcp(&self, name: &str, tcp: &Tcp) -> TcpConfig {
        TcpConfig {
            name: name.to_owned(),
            tunnels: self.tunnels.clone(),
            public_ports: self.public_ports.clone(),
            dial_in_ports: self.dial_in_ports.clone(),
            bind: tcp.bind.unwrap_or(self.door_addr.ip()),
            advertise_agents: self.agents_host(),
            advertise_clients: self.config.advertise.clients.clone(),
            max_connections: tcp.max_connections,
            names: Some(self.names.clone()),
            waiting_clients: tcp.waiting_clients,
            times: tcp.times(),
        }
    }

    fn mux(&self, name: &str, mux: &Mux) -> MuxConfig {
        MuxConfig {
            name: name.to_owned(),
            tunnels: self.tunnels.clone(),
            public_ports: self.public_ports.clone(),
            bind: mux.bind.unwrap_or(self.door_addr.ip()),
            gate: self.gate.clone(),
            door: self.door_addr,
            advertise_agents: self.agents_host(),
            advertise_port: self.config.advertise.agents.as_ref().and_then(|agents| agents.port),
            advertise_clients: self.config.advertise.clients.clone(),
            max_sessions: mux.max_sessions,
            names: Some(self.names.clone()),
            waiting_clients: mux.waiting_clients,
            patience: Patience { ping_after: mux.ping_after, dead_after: mux.dead_after },
            times: mux.times(),
        }
    }

    /// (On `tcp` the ports are the tunnels' own.)
    fn agents_host(&self) -> Option<Host> {
        self.config.advertise.agents.as_ref().map(|agents| agents.host.clone())
    }
}
