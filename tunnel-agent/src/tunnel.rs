use ipnet::IpNet;
use tunnel_api::{AddressRequest, Carry, Host, OpenTunnel, TunnelName};

use crate::OpenError;

/// Which tunnel to open.
#[derive(Debug, Clone)]
pub struct Tunnel {
    spoken: Spoken,
    port: u16,
    host: Option<String>,
    carry: Option<Carry>,
    backend: Option<String>,
    name: Option<String>,
    labels: Vec<(String, String)>,
    client_allow: Vec<IpNet>,
    client_deny: Vec<IpNet>,
    connections: u32,
    sessions: usize,
}

/// What clients speak, which says how they find the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    Tcp,
    Http,
    Tls,
}

impl Tunnel {
    /// One whose clients connect by TCP, on a port of the server's choice.
    pub fn tcp() -> Self {
        Self::whose_clients_speak(Spoken::Tcp)
    }

    /// One for web clients, at a host name: [`host`](Self::host), or else its [`name`](Self::name) (`blog` is `blog.` and the
    /// server's domain), or else one of the server's choice. Where the server has a certificate its address is `https`.
    pub fn http() -> Self {
        Self::whose_clients_speak(Spoken::Http)
    }

    /// One whose clients speak TLS with us: the server finds it by the name that they begin with, and does not decrypt. The name is
    /// chosen as for [`http`](Self::http).
    pub fn tls() -> Self {
        Self::whose_clients_speak(Spoken::Tls)
    }

    fn whose_clients_speak(spoken: Spoken) -> Self {
        Self {
            spoken,
            port: 0,
            host: None,
            carry: None,
            backend: None,
            name: None,
            labels: Vec::new(),
            client_allow: Vec::new(),
            client_deny: Vec::new(),
            connections: DIAL_INS,
            sessions: 1,
        }
    }

    /// On this port. (Names are all at one, so there it can only be that.)
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// At this host name, which needs not be the tunnel's own name: `blog` for one in the server's domain, or a full one, such as
    /// `blog.example.com`, that leads to the server and is granted to us.
    #[must_use]
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// What travels to us. Unset, it is what suits: [`Agent::serve`](crate::Agent::serve) gets requests where the backend can
    /// carry them, and a [`TunnelListener`](crate::TunnelListener) connections.
    #[must_use]
    pub fn carry(mut self, carry: Carry) -> Self {
        self.carry = Some(carry);
        self
    }

    /// Our own name for it: its address stays ours for a day after we are gone, and opening it again gives it back. Where clients
    /// come by host name, and [`host`](Self::host) says no other, it is that name too, and so has to be one: letters, digits, '-' and
    /// dots. (Better no tunnel than one at an address that nobody asked for.)
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

    /// For a listener, which takes connections and no requests.
    pub(crate) fn of_connections(mut self) -> Result<Self, OpenError> {
        match (self.spoken, self.carry) {
            (_, Some(Carry::Requests)) => return Err(OpenError::ListensForConnections),
            (Spoken::Http, None) => self.carry = Some(Carry::Connections),
            _ => {}
        }
        Ok(self)
    }

    /// The client's address comes with each stream where the wire can carry it; on `tcp` that is also how we learn that a
    /// dial-in was given a client.
    pub(crate) fn request(&self, address: Option<AddressRequest>) -> Result<OpenTunnel, OpenError> {
        let address = match address {
            Some(address) => address,
            None => self.address()?,
        };
        Ok(OpenTunnel {
            backend: self.backend.clone(),
            address,
            carry: self.carry,
            name: self.name.as_deref().map(str::parse::<TunnelName>).transpose()?,
            connections: Some(self.connections),
            proxy_protocol: true,
            labels: self.labels.iter().cloned().collect(),
            client_allow: self.client_allow.clone(),
            client_deny: self.client_deny.clone(),
            ..OpenTunnel::default()
        })
    }

    fn address(&self) -> Result<AddressRequest, OpenError> {
        let scheme = match self.spoken {
            Spoken::Tcp => {
                return Ok(AddressRequest { host: self.wanted_host()?, ..AddressRequest::tcp_port(self.port) });
            }
            Spoken::Http => "http",
            Spoken::Tls => "tls",
        };
        let host = match (self.wanted_host()?, &self.name) {
            (Some(host), _) => Some(host),
            (None, Some(name)) => Some(host_of(name).ok_or_else(|| OpenError::NameIsNoHost(name.clone()))?),
            (None, None) => None,
        };
        let port = (self.port != 0).then_some(self.port);
        Ok(AddressRequest { scheme: Some(scheme.to_owned()), host, port })
    }

    fn wanted_host(&self) -> Result<Option<Host>, OpenError> {
        let host = |text: &String| text.parse().map_err(|_| OpenError::BadHost(text.clone()));
        self.host.as_ref().map(host).transpose()
    }
}

/// A host may also have '_' in a URI, but no certificate is given for one.
fn host_of(name: &str) -> Option<Host> {
    name.parse::<Host>().ok().filter(|host| host.ip().is_none() && !name.contains('_'))
}

/// A waiting dial-in costs a descriptor and a little memory on either side.
const DIAL_INS: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(tunnel: &Tunnel) -> String {
        tunnel.request(None).unwrap().address.to_string()
    }

    #[test]
    fn a_tunnel_is_at_its_name_unless_it_is_given_a_host() {
        for (tunnel, address) in [
            (Tunnel::tcp(), "tcp://"),
            (Tunnel::tcp().name("a/b_c").port(21000), "tcp://:21000"),
            (Tunnel::http(), "http://"),
            (Tunnel::http().name("blog"), "http://blog"),
            (Tunnel::http().name("Blog"), "http://blog"),
            (Tunnel::http().name("blog.example.com"), "http://blog.example.com"),
            (Tunnel::http().name("team/blog").host("blog"), "http://blog"),
            (Tunnel::tls().name("db"), "tls://db"),
            (Tunnel::tls().host("db.example.com"), "tls://db.example.com"),
        ] {
            assert_eq!(asked(&tunnel), address, "{tunnel:?}");
        }
    }

    #[test]
    fn a_name_that_can_be_no_host_needs_one() {
        for name in ["team/blog", "my_blog", "-blog", "v1.2", "127.0.0.1", "a..b"] {
            for tunnel in [Tunnel::http(), Tunnel::tls()] {
                let error = tunnel.name(name).request(None).unwrap_err();
                assert!(matches!(&error, OpenError::NameIsNoHost(it) if it == name), "{name}: {error}");
            }
        }
        assert!(matches!(Tunnel::http().host("no host").request(None), Err(OpenError::BadHost(_))));
    }

    #[test]
    fn a_listener_asks_for_connections_where_there_is_a_choice() {
        let carry = |tunnel: Tunnel| tunnel.of_connections().unwrap().request(None).unwrap().carry;
        assert_eq!(carry(Tunnel::http()), Some(Carry::Connections));
        assert_eq!((carry(Tunnel::tcp()), carry(Tunnel::tls())), (None, None));
        let requests = Tunnel::http().carry(Carry::Requests);
        assert!(matches!(requests.of_connections(), Err(OpenError::ListensForConnections)));
    }
}
