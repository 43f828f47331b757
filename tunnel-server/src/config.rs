//! What can be set. Every field is a key of the config file, with the same name and default; `tunnel-server.example.toml`
//! lists and explains them all, and a test keeps the two together.

mod admin;
mod backends;
mod changes;
mod error;
mod file;
mod limits;
mod listen;
mod values;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use serde::Deserialize;
use tunnel_api::Host;
use tunnel_backends::{
    ports::PortRange,
    tls::{ServerTls, TlsFiles},
};

pub use admin::{Admin, AdminListen};
pub use backends::{Mux, Tcp};
pub use error::ConfigError;
pub use limits::{Cap, Limits, OwnerLimits};
pub use listen::{Listen, ListenError};
pub use values::Size;

/// The server's config.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The one port: RPC, reflection, health. In a file its number may be in an environment variable ([`Listen`]).
    #[serde(deserialize_with = "listen::listen")]
    pub listen: SocketAddr,
    /// Spelled out to run without TLS and credentials off loopback.
    pub insecure: bool,
    /// The file of those who may open tunnels. Unset: everybody who can connect.
    pub credentials: Option<PathBuf>,
    /// The backend of requests that name none. Unset: the only one there is, or else the one that is called `tcp`.
    pub default_backend: Option<String>,
    /// Proxies in front of the server: many parties come from there.
    pub trusted_proxies: Vec<IpNet>,
    /// Proxies in front of the server that end TLS: what comes from there counts as encrypted.
    pub tls_terminated_by: Vec<IpNet>,
    /// How long running streams may go on when the server stops.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// Where open tunnels are recorded, so that a restart loses none. Unset: nowhere.
    pub state: Option<PathBuf>,
    /// How long a public port that was asked for by number goes to no other owner once it is given up.
    #[serde(with = "humantime_serde")]
    pub quarantine: Duration,
    /// TLS on the one port. Unset: there is none.
    pub tls: Option<Tls>,
    /// The hosts that are given out.
    pub advertise: Advertise,
    /// The host names that are given out.
    pub names: Names,
    /// The ports that are given out.
    pub ports: Ports,
    /// The limits of the one port.
    pub door: Door,
    /// How much the server gives out, in all and to each owner.
    pub limits: Limits,
    /// The listener for those who look after the server.
    pub admin: Admin,
    /// What is written down of requests.
    pub access_log: AccessLog,
    /// The backends, by the names that requests choose them by.
    pub backends: BTreeMap<String, Backend>,
}

/// `[tls]`: the certificate of the one port. Paths in a config file are relative to it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Our certificate, with its chain, in PEM.
    pub certificate: PathBuf,
    /// Its key, in PEM.
    pub key: PathBuf,
    /// Who vouches for callers that show a certificate, in PEM. Unset: none is asked for.
    pub client_ca: Option<PathBuf>,
}

/// `[advertise]`: the hosts in the URIs that are given out.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Advertise {
    /// Whom agents dial. Unset: the address at which their call arrived.
    #[serde(deserialize_with = "values::host_and_port")]
    pub agents: Option<HostPort>,
    /// Whom clients connect to. Unset: the same.
    #[serde(deserialize_with = "values::host")]
    pub clients: Option<Host>,
}

/// A host, and perhaps a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The host.
    pub host: Host,
    /// The port. Unset: the one that is listened on.
    pub port: Option<u16>,
}

/// `[names]`: the host names of tunnels, for web clients and for those that speak TLS with the agent.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Names {
    /// The domain that they are in.
    #[serde(deserialize_with = "values::domain")]
    pub domain: Host,
    /// The port in their addresses. Unset: that of `listen`, or 443 where proxies end TLS.
    pub port: Option<u16>,
}

/// `[ports]`: the ports that all backends share.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ports {
    /// For clients.
    #[serde(deserialize_with = "values::port_range")]
    pub public: PortRange,
    /// For agents that dial a port of their tunnel's own.
    #[serde(deserialize_with = "values::port_range")]
    pub dial_in: PortRange,
    /// Further ports for clients, for those who ask for them by number.
    pub extra_ports: BTreeSet<u16>,
}

/// `[door]`: what the one port puts up with.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Door {
    /// From accept to the first complete request head, or HTTP/2 preface and SETTINGS.
    #[serde(with = "humantime_serde")]
    pub first_unit: Duration,
    /// Connections that have not shown that yet, in all.
    pub waiting: usize,
    /// And from one source.
    pub waiting_per_source: usize,
    /// How long a connection without a request is kept.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
    /// How long a connection of HTTP/1.1 is kept between requests.
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    /// How long a web client's connection of HTTP/2 is kept while it has no request.
    #[serde(with = "humantime_serde")]
    pub keep_alive_http2: Duration,
    /// Web clients' connections that are between requests, in all.
    pub kept_alive: usize,
    /// And from one source.
    pub kept_alive_per_source: usize,
    /// How long a client of HTTP/1.1 may take nothing of its answer.
    #[serde(with = "humantime_serde")]
    pub unread: Duration,
}

/// `[access_log]`: what is written down of the requests of web clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessLog {
    /// Whether each request is a line in the log.
    pub enabled: bool,
    /// Whether paths have their queries, in the log and for those who watch.
    pub query: bool,
}

/// `[backends.<name>.<kind>]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Backend {
    /// One TCP connection a client.
    Tcp(Tcp),
    /// One agent connection for any number of clients.
    Mux(Mux),
}

impl Config {
    /// The default backends on loopback, with ports of the kernel's choice: for tests, examples and one's own machine.
    pub fn local() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            admin: Admin { listen: AdminListen::Off, allow: Vec::new() },
            ports: Ports { public: PortRange::Kernel, dial_in: PortRange::Kernel, extra_ports: BTreeSet::new() },
            ..Self::default()
        }
    }

    /// The name of the default backend: the one that is configured, or the only one there is.
    pub fn default_backend(&self) -> Option<&str> {
        match &self.default_backend {
            Some(name) => Some(name),
            None if self.backends.len() == 1 => self.backends.keys().next().map(String::as_str),
            None => self.backends.get_key_value("tcp").map(|(name, _)| name.as_str()),
        }
    }

    /// Whether callers from elsewhere can come encrypted: here, or through a proxy.
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some() || !self.tls_terminated_by.is_empty()
    }

    /// The hosts by which the server itself is called.
    pub(crate) fn own_hosts(&self) -> impl Iterator<Item = Host> + use<> {
        let Advertise { agents, clients } = self.advertise.clone();
        let domain = self.names.domain.clone();
        agents.map(|agents| agents.host).into_iter().chain(clients).chain([domain])
    }

    pub(crate) fn server_tls(&self) -> Result<Option<Arc<ServerTls>>, ConfigError> {
        let Some(Tls { certificate, key, client_ca }) = self.tls.clone() else { return Ok(None) };
        Ok(Some(ServerTls::load(TlsFiles { certificate, key, client_ca })?))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8010)),
            insecure: false,
            credentials: None,
            default_backend: None,
            trusted_proxies: Vec::new(),
            tls_terminated_by: Vec::new(),
            drain: Duration::from_secs(30),
            tls: None,
            state: None,
            quarantine: Duration::from_secs(10 * 60),
            advertise: Advertise::default(),
            names: Names::default(),
            ports: Ports::default(),
            door: Door::default(),
            limits: Limits::default(),
            admin: Admin::default(),
            access_log: AccessLog::default(),
            backends: BTreeMap::from([
                ("tcp".to_owned(), Backend::Tcp(Tcp::default())),
                ("mux".to_owned(), Backend::Mux(Mux::default())),
            ]),
        }
    }
}

impl Default for Names {
    fn default() -> Self {
        Self { domain: tunnel_backends::names::localhost(), port: None }
    }
}

impl Default for AccessLog {
    fn default() -> Self {
        let tunnel_backends::requests::AccessLog { enabled, query } = Default::default();
        Self { enabled, query }
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            public: PortRange::Between(20_000..=27_999),
            dial_in: PortRange::Between(10_000..=17_999),
            extra_ports: BTreeSet::new(),
        }
    }
}

impl Default for Door {
    fn default() -> Self {
        let terms = tunnel_backends::door::DoorTerms::default();
        Self {
            first_unit: terms.first_unit,
            waiting: terms.waiting,
            waiting_per_source: terms.waiting_per_source,
            idle: terms.idle,
            keep_alive: terms.keep_alive,
            keep_alive_http2: terms.keep_alive_http2,
            kept_alive: terms.kept_alive,
            kept_alive_per_source: terms.kept_alive_per_source,
            unread: terms.unread,
        }
    }
}
