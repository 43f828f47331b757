//! A backend with one tunnel whose agents take requests.

use std::sync::Arc;

use tunnel_api::{OpenTunnel, OpenedTunnel, TunnelBackend};
use tunnel_backends::{
    carrier::ptth::Gate,
    front::named::NamedFronts,
    mux::MuxConfig,
    names::{Names, localhost},
    quarantine::Quarantine,
    testing::{BehindDoor, Rig, Setup, Stage, eventually},
    tunnels::{Tunnels, TunnelsConfig},
    uplink::{ClientInfo, Uplink},
};

/// Where requests are tried.
pub(crate) struct Site {
    pub(crate) stage: Stage,
    pub(crate) tunnel: OpenedTunnel,
    pub(crate) uplink: Uplink,
}

/// Runs one promise on a fresh site.
pub(crate) fn keep(promise: impl AsyncFnOnce(Site)) {
    keep_with(Setup::default, "local", promise);
}

/// The same as set up, for a tunnel of this owner's.
pub(crate) fn keep_with(setup: impl FnOnce() -> Setup, owner: &str, promise: impl AsyncFnOnce(Site)) {
    let names = Names::new(localhost(), [], Quarantine::new(std::time::Duration::ZERO));
    let web = Web { names: names.clone() };
    tunnel_backends::testing::keep(&web, async |rig| {
        let stage = Stage::with(rig, setup()).called_by(owner);
        let address = "http://blog".parse().expect("an address");
        let tunnel = stage.try_open(OpenTunnel { address, ..OpenTunnel::default() }).await.expect("a tunnel");
        let host = HOST.parse().expect("a host");
        let uplink = names.find(&host).expect("a name that is the tunnel's").uplink.clone();
        promise(Site { stage, tunnel, uplink }).await;
    });
}

impl Site {
    /// Returns when so many sessions can take a request.
    pub(crate) async fn until_sessions(&self, sessions: u32) {
        eventually(format!("{sessions} sessions"), async || self.counts().await.0 == sessions).await;
    }

    /// Returns when so many requests have a place.
    pub(crate) async fn until_streams(&self, streams: u32) {
        eventually(format!("{streams} streams"), async || self.counts().await.1 == streams).await;
    }

    pub(crate) async fn counts(&self) -> (u32, u32) {
        let info = self.stage.info(&self.tunnel).await.expect("the tunnel");
        (info.sessions, info.streams)
    }
}

/// Where every client comes from.
pub(crate) fn somebody() -> ClientInfo {
    ClientInfo {
        client_addr: "192.0.2.1:4711".parse().expect("an address"),
        public_addr: "192.0.2.2:80".parse().expect("an address"),
    }
}

/// The tunnel's.
pub(crate) const HOST: &str = "blog.localhost";

struct Web {
    names: Arc<Names>,
}

impl Rig for Web {
    fn backend(&self, setup: Setup) -> Arc<dyn TunnelBackend> {
        let gate = Gate::new();
        let tunnels = Tunnels::with(TunnelsConfig { quotas: setup.quotas, ..TunnelsConfig::default() });
        BehindDoor::new(
            |http| gate.clone().in_front_of(http),
            |door| {
                let names = NamedFronts { names: self.names.clone(), port: door.port(), is_encrypted: false };
                let config = MuxConfig::new("mux", tunnels, setup.public_ports, gate.clone(), door);
                MuxConfig { times: setup.times, names: Some(names), ..config }.build()
            },
        )
    }

    fn carries_many(&self) -> bool {
        true
    }
}
