//! What can be set. Every field is a key of the config file, with the same name and default; `tunnel-server.example.toml`
//! lists and explains them all, and a test keeps the two together.

mod error;
mod file;
mod values;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;
use serde::Deserialize;
use tunnel_api::Host;
use tunnel_backends::ports::PortRange;

pub use error::ConfigError;

/// The server's config.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The one port: RPC, reflection, health.
    pub listen: SocketAddr,
    /// Spelled out to run without TLS and credentials off loopback.
    pub insecure: bool,
    /// The backend of requests that name none. Needed only if there are several.
    pub default_backend: Option<String>,
    /// Proxies in front of the server: many parties come from there.
    pub trusted_proxies: Vec<IpNet>,
    /// How long running streams may go on when the server stops.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// The hosts that are given out.
    pub advertise: Advertise,
    /// The ports that are given out.
    pub ports: Ports,
    /// The limits of the one port.
    pub door: Door,
    /// The backends, by the names that requests choose them by.
    pub backends: BTreeMap<String, Backend>,
}

/// `[advertise]`: the hosts in the URIs that are given out.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Advertise {
    /// Whom agents dial. Unset: the address at which their call arrived.
    #[serde(deserialize_with = "values::host")]
    pub agents: Option<Host>,
    /// Whom clients connect to. Unset: the same.
    #[serde(deserialize_with = "values::host")]
    pub clients: Option<Host>,
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
}

/// `[backends.<name>.<kind>]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Backend {
    /// One TCP connection a client.
    Tcp(Tcp),
}

/// `[backends.<name>.tcp]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tcp {
    /// Where dial-in and public ports listen. Unset: the host of `listen`.
    pub bind: Option<IpAddr>,
    /// What `connections` may be at the most.
    pub max_connections: u32,
    /// Clients of one tunnel that may wait for an agent.
    pub waiting_clients: usize,
    /// How long such a client waits.
    #[serde(with = "humantime_serde")]
    pub client_wait: Duration,
    /// How long an unnamed tunnel may stay undialled.
    #[serde(with = "humantime_serde")]
    pub dial_within: Duration,
    /// How long an unnamed tunnel outlives its agents.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    /// The same for a named one, before its first agent and after its last.
    #[serde(with = "humantime_serde")]
    pub named_grace: Duration,
    /// How long a stream may stand still while one direction is over and the other one is silent.
    #[serde(with = "humantime_serde")]
    pub half_closed: Duration,
    /// How long a stream may stand still while one side takes nothing of what it was sent.
    #[serde(with = "humantime_serde")]
    pub unread: Duration,
    /// How long the last bytes before an abort may take to leave.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
}

impl Config {
    /// One `tcp` backend on loopback, with ports of the kernel's choice: for tests, examples and one's own machine.
    pub fn local() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            ports: Ports { public: PortRange::Kernel, dial_in: PortRange::Kernel, extra_ports: BTreeSet::new() },
            ..Self::default()
        }
    }

    /// The name of the default backend: the one that is configured, or the only one there is.
    pub fn default_backend(&self) -> Option<&str> {
        match &self.default_backend {
            Some(name) => Some(name),
            None if self.backends.len() == 1 => self.backends.keys().next().map(String::as_str),
            None => None,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8010)),
            insecure: false,
            default_backend: None,
            trusted_proxies: Vec::new(),
            drain: Duration::from_secs(30),
            advertise: Advertise::default(),
            ports: Ports::default(),
            door: Door::default(),
            backends: BTreeMap::from([("tcp".to_owned(), Backend::Tcp(Tcp::default()))]),
        }
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
        }
    }
}

impl Default for Tcp {
    fn default() -> Self {
        let times = tunnel_backends::composed::Times::default();
        Self {
            bind: None,
            max_connections: 1024,
            waiting_clients: 64,
            client_wait: times.client_wait,
            dial_within: times.dial_within,
            grace: times.grace,
            named_grace: times.named_grace,
            half_closed: times.relay.half_closed,
            unread: times.relay.unread,
            linger: times.relay.linger,
        }
    }
}
