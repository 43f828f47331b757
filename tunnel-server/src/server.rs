use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_health::ServingStatus;
use tunnel_api::{NoDefault, TunnelBackend};
use tunnel_backends::{
    door::Door,
    names,
    ports::PortRange,
    process,
    quotas::Quotas,
    registry::{Directory, InMemory, Registry, StateError},
    restore::restore,
    sockets,
    tls::ServerTls,
    tunnels::Tunnels,
    web::{Web, WebTerms},
};

use crate::{
    admin::Admin,
    assemble::{Parts, assemble},
    audit::{Audit, Audited},
    auth::{Enforcer, Guard, Keyring, allot},
    config::{AdminListen, Config, ConfigError, Limits},
    ephemeral,
    metrics::{self, Calls},
    rpc,
};

/// A tunnel server.
#[derive(Debug)]
pub struct Server;

/// A server that is running. Dropping it leaves it running until the runtime ends; [`shutdown`](Self::shutdown) stops it.
pub struct Running {
    door: Door,
    tunnels: Arc<Tunnels>,
    quotas: Arc<Quotas>,
    backend: Arc<dyn TunnelBackend>,
    audit: Arc<Audit>,
    admin: Option<Admin>,
    health: rpc::Health,
    keyring: Option<Arc<Keyring>>,
    tls: Option<Arc<ServerTls>>,
    config: Config,
    /// Ends what goes on in the background.
    stop: CancellationToken,
    background: TaskTracker,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The config is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The default backend is none of the backends.
    #[error(transparent)]
    NoDefault(#[from] NoDefault),
    /// The state cannot be had.
    #[error(transparent)]
    State(#[from] StateError),
    /// The one port cannot be had.
    #[error("cannot listen on {listen}; is another server running there? (`listen` sets another address)")]
    Listen {
        /// Where.
        listen: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The admin listener's port cannot be had.
    #[error("cannot listen on {listen} for metrics; `admin.listen` sets another address, or is \"off\"")]
    Admin {
        /// Where.
        listen: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Server {
    /// Starts a server. When this returns, it answers.
    pub async fn start(config: Config) -> Result<Running, StartError> {
        config.check()?;
        warn_of_risks(&config);
        let cannot_listen = |source| StartError::Listen { listen: config.listen, source };
        let listener = sockets::listen(config.listen).map_err(cannot_listen)?;
        let addr = listener.local_addr().map_err(cannot_listen)?;
        let keyring = config.credentials.as_deref().map(Keyring::open).transpose()?;
        let admin = listen_for_admin(&config)?;
        let registry = registry(config.state.as_deref()).await?;
        let loaded = registry.load().await?;
        let Parts { tunnels, quotas, composed, router, gate, names, door, meters } =
            assemble(&config, addr, registry, loaded.tickets.clone())?;
        // Nobody is let in yet: connections wait in the kernel's backlog.
        restore(&tunnels, &composed, loaded).await;
        let calls = Calls::default();
        let shown = metrics::registry(&meters, &calls, &tunnels, config.backends.keys().map(String::as_str));
        let audit = Audit::new(calls);
        let backend: Arc<dyn TunnelBackend> = match &keyring {
            Some(keyring) => {
                let default = config.default_backend().unwrap_or_default();
                let guarded = Guard::new(router, keyring.clone(), (tunnels.clone(), names.clone()), default);
                Arc::new(Audited::new(guarded, audit.clone()))
            }
            None => Arc::new(Audited::new(router, audit.clone())),
        };
        let (stop, background) = (CancellationToken::new(), TaskTracker::new());
        background.spawn(stop.clone().run_until_cancelled_owned(audit.clone().follow()));
        if let Some(keyring) = &keyring {
            let mut enforcer = Enforcer::new(keyring.clone(), tunnels.clone(), quotas.clone(), audit.clone());
            enforcer.enforce().await;
            background.spawn(stop.clone().run_until_cancelled_owned(enforcer.follow()));
            background.spawn(stop.clone().run_until_cancelled_owned(keyring.clone().follow()));
        }
        let (http, health) = rpc::build(backend.clone(), keyring.clone(), rpc::OwnHosts::new(config.own_hosts())).await;
        let tls = door.tls.clone();
        let http = audit.clone().at_the_door(gate.in_front_of(http));
        // A tunnel's host is the tunnel's, whatever is asked of it.
        let http = Web::new(names, WebTerms::default()).in_front_of(http);
        let door = Door::open(listener, door, http).map_err(cannot_listen)?;
        let admin = admin.map(|listener| Admin::open(listener, config.admin.allow.clone(), shown)).transpose();
        let admin = admin.map_err(cannot_listen)?;
        Ok(Running { door, tunnels, quotas, backend, audit, admin, health, keyring, tls, config, stop, background })
    }
}

impl Running {
    /// The one port.
    pub fn addr(&self) -> SocketAddr {
        self.door.addr()
    }

    /// The one port as a URL that a caller on this host can use.
    pub fn url(&self) -> String {
        let mut addr = self.addr();
        if addr.ip().is_unspecified() {
            addr.set_ip(match addr {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{addr}")
    }

    /// Whether callers need credentials.
    pub fn wants_credentials(&self) -> bool {
        self.keyring.is_some()
    }

    /// Where `/metrics`, `/healthz` and `/readyz` answer, if anywhere.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::addr)
    }

    /// The backends behind the RPC, for callers in this process.
    pub fn backend(&self) -> Arc<dyn TunnelBackend> {
        self.backend.clone()
    }

    /// What is in use, and the limits of single owners.
    pub fn quotas(&self) -> &Arc<Quotas> {
        &self.quotas
    }

    /// Puts into force what can be changed while it runs (credentials,
    /// certificates, limits), and gives the keys of `config` that
    /// cannot: they wait for the next start. What is no good changes nothing.
    pub fn reload(&self, config: &Config) -> Result<Vec<&'static str>, ConfigError> {
        config.check()?;
        config.check_files()?;
        if let Some(keyring) = &self.keyring {
            keyring.reload()?;
        }
        if let Some(tls) = &self.tls {
            tls.reload()?;
        }
        self.hold_to(&config.limits);
        Ok(self.config.fixed_differences(config))
    }

    /// From now on these. What is beyond them already goes on; nothing new is let in until it is not.
    pub fn hold_to(&self, limits: &Limits) {
        self.quotas.set_overall(limits.overall(process::descriptor_limit()));
        self.quotas.set_owner_default(limits.of_owner());
        if let Some(keyring) = &self.keyring {
            allot(keyring, &self.quotas);
        }
    }

    /// Stops: says so to health checks and watchers, takes no more clients, lets running streams end for as long as the
    /// config's `drain`, aborts what is left, and hangs up.
    pub async fn shutdown(self) {
        self.health.set(ServingStatus::NotServing).await;
        if let Some(admin) = &self.admin {
            admin.say_draining();
        }
        self.tunnels.drain(self.config.drain).await;
        self.door.close(HANG_UP).await;
        self.stop.cancel();
        self.background.close();
        self.background.wait().await;
        self.audit.close();
        if let Some(admin) = self.admin {
            admin.close().await;
        }
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("addr", &self.addr()).finish_non_exhaustive()
    }
}

/// Before anything is promised: an address that is set must be free.
fn listen_for_admin(config: &Config) -> Result<Option<TcpListener>, StartError> {
    let (listen, is_default) = match config.admin.listen {
        AdminListen::Off => return Ok(None),
        AdminListen::IfFree => (AdminListen::DEFAULT, true),
        AdminListen::At(listen) => (listen, false),
    };
    match sockets::listen(listen) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if is_default => {
            tracing::warn!(
                admin.addr = %listen, %error,
                "no metrics: their default port is not to be had; set admin.listen (--admin) to another, or to \"off\""
            );
            Ok(None)
        }
        Err(source) => Err(StartError::Admin { listen, source }),
    }
}

async fn registry(state: Option<&Path>) -> Result<Arc<dyn Registry>, StateError> {
    match state {
        Some(dir) => Ok(Arc::new(Directory::open(dir).await?)),
        None => {
            tracing::info!(
                "tunnels are in memory, and a restart forgets them (`state` names a directory to record them in)"
            );
            Ok(Arc::new(InMemory))
        }
    }
}

fn warn_of_risks(config: &Config) {
    if config.insecure && !config.listen.ip().is_loopback() {
        tracing::warn!(
            listen.addr = %config.listen,
            "insecure: everybody who can connect may open tunnels, and nothing is encrypted"
        );
    }
    let is_for_others = !config.listen.ip().is_loopback() || !config.tls_terminated_by.is_empty();
    if is_for_others && config.names.domain == names::localhost() {
        tracing::info!(
            "web addresses are in `localhost`, which leads clients to their own machine (`domain` in [names] is where they are to be)"
        );
    }
    ephemeral::warn_of_overlap("ports.public", &config.ports.public);
    ephemeral::warn_of_overlap("ports.dial_in", &config.ports.dial_in);
    if config.ports.public == PortRange::Kernel {
        tracing::debug!("ports of the kernel's choice: after a restart they may be somebody else's");
    }
}

/// For answers that are on their way when the server stops.
const HANG_UP: Duration = Duration::from_secs(2);
