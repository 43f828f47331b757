use ipnet::IpNet;
use tunnel_api::{AddressRequest, NameError, OpenTunnel, TunnelName};

/// Which tunnel to open.
#[derive(Debug, Clone)]
pub struct Tunnel {
    address: AddressRequest,
    backend: Option<String>,
    name: Option<String>,
    labels: Vec<(String, String)>,
    client_allow: Vec<IpNet>,
    client_deny: Vec<IpNet>,
    connections: u32,
    sessions: usize,
}

impl Tunnel {
    /// One whose clients connect by TCP, on a port of the server's choice.
    pub fn tcp() -> Self {
        Self {
            address: AddressRequest::tcp_port(0),
            backend: None,
            name: None,
            labels: Vec::new(),
            client_allow: Vec::new(),
            client_deny: Vec::new(),
            connections: DIAL_INS,
            sessions: 1,
        }
    }

    /// On this port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.address = AddressRequest::tcp_port(port);
        self
    }

    /// Our own name for it: its address stays ours for a day after we are gone, and opening it again gives it back.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Run by this backend of the server instead of its default one.
    #[must_use]
    pub fn backend(mut self, backend: impl Into<String>) -> Self {
        self.backend = Some(backend.into());
        self
    }

    /// A note that lists and events show.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push((key.into(), value.into()));
        self
    }

    /// Only clients from these networks may come; together with those that were allowed before. Whoever is not allowed is
    /// reset by the server, and we never hear of it.
    #[must_use]
    pub fn allow_clients(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        self.client_allow.extend(networks);
        self
    }

    /// Clients from these networks may not come, even where they are allowed otherwise.
    #[must_use]
    pub fn deny_clients(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        self.client_deny.extend(networks);
        self
    }

    /// How many dial-ins may wait for clients at once, on backends where each carries one client. Fewer than this wait
    /// while things are quiet; so many wait when clients come in a rush. 64 unless set here.
    #[must_use]
    pub fn connections(mut self, connections: u32) -> Self {
        // One would be a tunnel for a single client, and not a listener.
        self.connections = connections.max(2);
        self
    }

    /// How many connections to keep to the server, on backends where each carries many clients. One unless set here, which
    /// is best on most paths; where packets are lost on a long one, or the bandwidth is more than one TCP connection gets,
    /// several carry more together.
    #[must_use]
    pub fn sessions(mut self, sessions: usize) -> Self {
        self.sessions = sessions.max(1);
        self
    }

    pub(crate) fn session_count(&self) -> usize {
        self.sessions
    }

    pub(crate) fn most_waiting(&self) -> usize {
        self.connections as usize
    }

    pub(crate) fn is_named(&self) -> bool {
        self.name.is_some()
    }

    /// The client's address comes with each stream where the wire can carry it; on `tcp` that is also how we learn that a
    /// dial-in was given a client.
    pub(crate) fn request(&self, address: Option<AddressRequest>) -> Result<OpenTunnel, NameError> {
        Ok(OpenTunnel {
            backend: self.backend.clone(),
            address: address.unwrap_or_else(|| self.address.clone()),
            name: self.name.as_deref().map(str::parse::<TunnelName>).transpose()?,
            connections: Some(self.connections),
            proxy_protocol: true,
            labels: self.labels.iter().cloned().collect(),
            client_allow: self.client_allow.clone(),
            client_deny: self.client_deny.clone(),
            ..OpenTunnel::default()
        })
    }
}

/// A waiting dial-in costs a descriptor and a little memory on either side.
const DIAL_INS: u32 = 64;
