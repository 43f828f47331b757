//! A server that can be started again: both backends behind one door, with their state in a directory.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use tempfile::{TempDir, tempdir};
use tunnel_api::{AddressRequest, OpenTunnel, OpenedTunnel, Router, TunnelBackend};
use tunnel_backends::{
    carrier::ptth::Gate,
    composed::Composed,
    mux::MuxConfig,
    ports::{PortPool, PortRange},
    quarantine::Quarantine,
    registry::{Directory, Registry},
    restore::restore,
    tcp::TcpConfig,
    testing::{BehindDoor, Stage, rig::all_free, rig::free_ports, rig::request},
    tunnels::{Tunnels, TunnelsConfig},
};

/// What stays when the server goes.
pub(crate) struct Site {
    scratch: TempDir,
    pub(crate) public: RangeInclusive<u16>,
    pub(crate) dial_in: RangeInclusive<u16>,
    quarantine: Duration,
}

impl Site {
    pub(crate) fn new() -> Self {
        let both = free_ports(24);
        let middle = both.start() + 12;
        Self {
            scratch: tempdir().expect("a directory"),
            public: *both.start()..=middle - 1,
            dial_in: middle..=*both.end(),
            quarantine: Duration::from_secs(600),
        }
    }

    pub(crate) async fn start(&self) -> Server {
        self.start_with(|directory| directory, &["tcp", "mux"]).await
    }

    /// With these backends, and something between them and the directory.
    pub(crate) async fn start_with(
        &self,
        wrap: impl FnOnce(Arc<dyn Registry>) -> Arc<dyn Registry>,
        backends: &[&str],
    ) -> Server {
        let registry = wrap(Arc::new(Directory::open(self.scratch.path()).await.expect("the state")));
        let loaded = registry.load().await.expect("what is in it");
        let quarantine = Quarantine::new(self.quarantine);
        let (tunnels, gate) = (
            Tunnels::with(TunnelsConfig { registry, quarantine: quarantine.clone(), ..TunnelsConfig::default() }),
            Gate::with_tickets(loaded.tickets.clone()),
        );
        let range = |ports: &RangeInclusive<u16>| PortRange::Between(ports.clone());
        let public_ports = PortPool::with_quarantine(range(&self.public), BTreeSet::new(), quarantine);
        let dial_in_ports = PortPool::new(range(&self.dial_in), BTreeSet::new());

        let mut composed = Vec::new();
        let behind_door = BehindDoor::new(
            |http| gate.clone().in_front_of(http),
            |door| {
                for name in backends {
                    let (tunnels, public) = (tunnels.clone(), public_ports.clone());
                    composed.push(Arc::new(match *name {
                        "tcp" => TcpConfig::new(name, tunnels, public, dial_in_ports.clone()).build(),
                        _ => MuxConfig::new(name, tunnels, public, gate.clone(), door).build(),
                    }));
                }
                router(&composed)
            },
        );
        restore(&tunnels, &composed, loaded).await;
        let stage = Stage { backend: behind_door, caller: tunnel_api::Caller::embedded() };
        Server { stage, tunnels, public_ports, dial_in_ports }
    }

    /// The names of the records there are.
    pub(crate) fn records(&self) -> Vec<String> {
        self.files("tunnels")
    }

    pub(crate) fn given_up(&self) -> Vec<String> {
        self.files("given-up")
    }

    fn files(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.scratch.path().join(dir)).expect("a directory");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
        names.sort();
        names
    }

    pub(crate) fn all_free(&self, server: &Server) -> bool {
        all_free(&server.public_ports, &self.public) && all_free(&server.dial_in_ports, &self.dial_in)
    }
}

fn router(composed: &[Arc<Composed>]) -> Router {
    let backends: BTreeMap<String, Arc<dyn TunnelBackend>> =
        composed.iter().map(|backend| (backend.name.to_string(), backend.clone() as Arc<dyn TunnelBackend>)).collect();
    Router::new(backends, &composed[0].name).expect("a default")
}

/// One life of the server.
pub(crate) struct Server {
    pub(crate) stage: Stage,
    pub(crate) tunnels: Arc<Tunnels>,
    pub(crate) public_ports: Arc<PortPool>,
    pub(crate) dial_in_ports: Arc<PortPool>,
}

impl Server {
    pub(crate) fn owner(&self, name: &str) -> Stage {
        self.stage.called_by(name)
    }

    pub(crate) async fn stop(self) {
        self.tunnels.drain(Duration::ZERO).await;
    }
}

/// A request for a tunnel of this backend.
pub(crate) fn on(backend: &str) -> OpenTunnel {
    OpenTunnel { backend: Some(backend.to_owned()), ..request(4) }
}

pub(crate) fn named_on(backend: &str, name: &str) -> OpenTunnel {
    OpenTunnel { name: Some(name.parse().expect("a name")), ..on(backend) }
}

pub(crate) fn at_port(port: u16, request: OpenTunnel) -> OpenTunnel {
    OpenTunnel { address: AddressRequest::tcp_port(port), ..request }
}

/// What must be the same afterwards.
pub(crate) fn identity(tunnel: &OpenedTunnel) -> (String, String, String) {
    (tunnel.id.to_string(), tunnel.uri.expose().to_owned(), tunnel.address.to_string())
}
