//! Reading a config file, and finding what is impossible in it.

use std::{fs, net::IpAddr, path::Path};

use toml::de::{DeTable, DeValue};
use tunnel_backends::ports::PortRange;

use super::{AdminListen, Backend, Config, ConfigError, Tls, error::Place};
use crate::auth::Credentials;

impl Config {
    /// Reads and checks a config file.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        Self::from_file_but(path, |_| {})
    }

    /// Reads a config file, changes what is said otherwise, and checks what comes of it.
    pub fn from_file_but(path: &Path, change: impl FnOnce(&mut Self)) -> Result<Self, ConfigError> {
        let text =
            fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Self::parse_but(&text, path, change)
    }

    /// Reads and checks a config; `path` is where it is said to come from.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        Self::parse_but(text, path, |_| {})
    }

    fn parse_but(text: &str, path: &Path, change: impl FnOnce(&mut Self)) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text).map_err(|error| {
            let message = error.to_string().trim_end().to_owned();
            ConfigError::Malformed { path: path.to_owned(), message }
        })?;
        config.resolve_paths(path.parent().unwrap_or(Path::new("")));
        change(&mut config);
        config.check().map_err(|error| match error {
            ConfigError::Impossible { key, why, .. } => {
                ConfigError::Impossible { place: place_of(&key, text, path), key, why }
            }
            other => other,
        })?;
        Ok(config)
    }

    /// Whether the files that it names can be read and say what they should.
    pub fn check_files(&self) -> Result<(), ConfigError> {
        if let Some(credentials) = &self.credentials {
            Credentials::from_file(credentials)?;
        }
        self.server_tls()?;
        Ok(())
    }

    /// Paths are relative to the file that they stand in.
    fn resolve_paths(&mut self, base: &Path) {
        let tls = self.tls.as_mut();
        let of_tls = tls.into_iter().flat_map(|Tls { certificate, key, client_ca }| {
            [Some(certificate), Some(key), client_ca.as_mut()].into_iter().flatten()
        });
        for path in self.credentials.iter_mut().chain(&mut self.state).chain(of_tls) {
            *path = base.join(&*path);
        }
    }

    /// Whether the keys fit together.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_backends()?;
        self.check_ports()?;
        self.check_exposure()?;
        self.check_admin()?;
        self.check_limits()
    }

    fn check_backends(&self) -> Result<(), ConfigError> {
        let names: Vec<_> = self.backends.keys().map(String::as_str).collect();
        if names.is_empty() {
            return impossible("backends", "there must be one; add [backends.tcp.tcp]");
        }
        match &self.default_backend {
            Some(name) if !self.backends.contains_key(name) => {
                impossible("default_backend", format!("there is no backend {name}; write one of: {}", names.join(", ")))
            }
            None if self.default_backend().is_none() => {
                impossible("default_backend", format!("say which of these is the default: {}", names.join(", ")))
            }
            _ => Ok(()),
        }
    }

    fn check_ports(&self) -> Result<(), ConfigError> {
        let PortRange::Between(dial_in) = &self.ports.dial_in else { return Ok(()) };
        if let PortRange::Between(public) = &self.ports.public
            && public.start() <= dial_in.end()
            && dial_in.start() <= public.end()
        {
            let public = &self.ports.public;
            return impossible("ports.dial_in", format!("overlaps ports.public ({public}); choose ranges apart"));
        }
        if let Some(port) = self.ports.extra_ports.iter().find(|port| dial_in.contains(port)) {
            return impossible(
                "ports.extra_ports",
                format!("{port} is one of ports.dial_in; take it out of one of them"),
            );
        }
        if self.ports.extra_ports.contains(&0) {
            return impossible("ports.extra_ports", "0 is no port; ports.public = 0 lets the kernel choose");
        }
        Ok(())
    }

    /// Off loopback there must be TLS and credentials.
    fn check_exposure(&self) -> Result<(), ConfigError> {
        if self.insecure || (self.is_encrypted() && self.credentials.is_some()) {
            return Ok(());
        }
        if !self.listen.ip().is_loopback() {
            return impossible("listen", self.exposure(self.listen.ip()));
        }
        for (key, proxies) in
            [("tls_terminated_by", &self.tls_terminated_by), ("trusted_proxies", &self.trusted_proxies)]
        {
            if !proxies.is_empty() && self.credentials.is_none() {
                return impossible(key, BEHIND_A_PROXY);
            }
        }
        for (name, backend) in &self.backends {
            let (kind, bind) = match backend {
                Backend::Tcp(tcp) => ("tcp", tcp.bind),
                Backend::Mux(mux) => ("mux", mux.bind),
            };
            if let Some(ip) = bind.filter(|ip| !ip.is_loopback()) {
                return impossible(format!("backends.{name}.{kind}.bind"), self.exposure(ip));
            }
        }
        Ok(())
    }

    /// Metrics tell how busy the server is, and asking for them costs something: strangers have no business there.
    fn check_admin(&self) -> Result<(), ConfigError> {
        match self.admin.listen {
            AdminListen::At(listen) if !listen.ip().is_loopback() && self.admin.allow.is_empty() => impossible(
                "admin.listen",
                format!(
                    "{} can be reached from elsewhere; say who may ask, as networks: admin.allow = [\"10.0.0.0/8\"]",
                    listen.ip()
                ),
            ),
            _ => Ok(()),
        }
    }

    /// What is missing where others can connect.
    fn exposure(&self, ip: IpAddr) -> String {
        let tls =
            "TLS ([tls] with certificate and key, or tls_terminated_by with the networks of the proxy that ends it)";
        let credentials = "credentials (credentials = \"credentials.toml\", and `tunnel-server token new`)";
        let missing = match (self.is_encrypted(), self.credentials.is_some()) {
            (false, false) => format!("{tls} and {credentials}"),
            (false, true) => tls.to_owned(),
            _ => credentials.to_owned(),
        };
        format!(
            "{ip} can be reached from elsewhere, which needs {missing}; `tunnel-server init` writes all of it. Or listen on \
             127.0.0.1, or write insecure = true (--insecure) if everybody who can connect may open tunnels and read them"
        )
    }

    fn check_limits(&self) -> Result<(), ConfigError> {
        let above_zero = |key: String, is_zero: bool| {
            if is_zero { impossible(key, "must be above zero") } else { Ok(()) }
        };
        above_zero("door.first_unit".to_owned(), self.door.first_unit.is_zero())?;
        above_zero("door.idle".to_owned(), self.door.idle.is_zero())?;
        above_zero("door.keep_alive".to_owned(), self.door.keep_alive.is_zero())?;
        above_zero("door.keep_alive_http2".to_owned(), self.door.keep_alive_http2.is_zero())?;
        above_zero("door.kept_alive".to_owned(), self.door.kept_alive == 0)?;
        above_zero("door.kept_alive_per_source".to_owned(), self.door.kept_alive_per_source == 0)?;
        above_zero("door.unread".to_owned(), self.door.unread.is_zero())?;
        above_zero("door.waiting".to_owned(), self.door.waiting == 0)?;
        above_zero("door.waiting_per_source".to_owned(), self.door.waiting_per_source == 0)?;
        if let Some((key, why)) = self.limits.wrong() {
            return impossible(format!("limits.{key}"), why);
        }
        if let Some((key, why)) = self.limits.owner.wrong() {
            return impossible(format!("limits.owner.{key}"), why);
        }
        for (name, backend) in &self.backends {
            let (kind, waiting_clients, times) = match backend {
                Backend::Tcp(tcp) => {
                    above_zero(format!("backends.{name}.tcp.max_connections"), tcp.max_connections == 0)?;
                    ("tcp", tcp.waiting_clients, tcp.times())
                }
                Backend::Mux(mux) => {
                    above_zero(format!("backends.{name}.mux.max_sessions"), mux.max_sessions == 0)?;
                    above_zero(format!("backends.{name}.mux.ping_after"), mux.ping_after.is_zero())?;
                    if mux.dead_after <= mux.ping_after {
                        return impossible(format!("backends.{name}.mux.dead_after"), "must be longer than ping_after");
                    }
                    ("mux", mux.waiting_clients, mux.times())
                }
            };
            let key = |key: &str| format!("backends.{name}.{kind}.{key}");
            above_zero(key("waiting_clients"), waiting_clients == 0)?;
            above_zero(key("client_wait"), times.client_wait.is_zero())?;
            above_zero(key("dial_within"), times.dial_within.is_zero())?;
            above_zero(key("named_grace"), times.named_grace.is_zero())?;
            above_zero(key("half_closed"), times.relay.half_closed.is_zero())?;
            above_zero(key("unread"), times.relay.unread.is_zero())?;
            if times.dial_within > times.named_grace {
                return impossible(key("dial_within"), "must not be longer than named_grace");
            }
        }
        Ok(())
    }
}

/// It makes the internet look like this host.
const BEHIND_A_PROXY: &str = "whoever reaches the proxy reaches this server, which needs credentials (credentials = \"credentials.toml\", \
                              and `tunnel-server token new`). Or write insecure = true (--insecure) if everybody who can connect \
                              to the proxy may open tunnels";

fn impossible(key: impl Into<String>, why: impl Into<String>) -> Result<(), ConfigError> {
    Err(ConfigError::Impossible { place: Place::default(), key: key.into(), why: why.into() })
}

/// The line that has the key, or the nearest table around it.
fn place_of(key: &str, text: &str, path: &Path) -> Place {
    let Ok(root) = DeTable::parse(text) else { return Place::default() };
    let mut table = root.get_ref();
    let mut offset = 0;
    for part in key.split('.') {
        let Some((name, value)) = table.get_key_value(part) else { break };
        offset = name.span().start;
        let DeValue::Table(inner) = value.get_ref() else { break };
        table = inner;
    }
    let line = text[..offset].bytes().filter(|b| *b == b'\n').count() + 1;
    Place::line(path.to_owned(), line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../../tunnel-server.example.toml");

    fn refusal(text: &str) -> String {
        Config::parse(text, Path::new("t.toml")).expect_err(text).to_string()
    }

    /// But for the backend that it makes the default one: the one that most people will run.
    #[test]
    fn the_example_config_is_the_default_config() {
        let example = Config::parse(EXAMPLE, Path::new("tunnel-server.example.toml")).unwrap();
        assert_eq!((example.default_backend(), Config::default().default_backend()), (Some("mux"), Some("tcp")));
        assert_eq!(Config { default_backend: None, ..example }, Config::default());
    }

    /// With the comment signs gone from the keys that have no default value, every key of the example is one of ours.
    #[test]
    fn every_key_of_the_example_is_known() {
        let all: String =
            EXAMPLE.lines().map(|line| format!("{}\n", line.strip_prefix("#: ").unwrap_or(line))).collect();
        assert_ne!(all, EXAMPLE);
        Config::parse(&all, Path::new("t.toml")).unwrap();
    }

    #[test]
    fn an_empty_config_is_the_default_config() {
        assert_eq!(Config::parse("", Path::new("t.toml")).unwrap(), Config::default());
    }

    #[test]
    fn what_is_wrong_is_said_with_file_and_line_and_what_to_write() {
        for (text, expected) in [
            ("\nlisen = 1", &["t.toml", "line 2", "lisen", "`listen`"][..]),
            ("listen = \"8010\"", &["line 1", "listen", "127.0.0.1:8010"]),
            ("listen = \"localhost:8010\"", &["line 1", "127.0.0.1:8010"]),
            ("[ports]\npublic = \"9-1\"", &["line 2", "20000-27999"]),
            ("[ports]\npublic = 7", &["line 2", "20000-27999"]),
            ("drain = \"soon\"", &["line 1"]),
            ("[advertise]\nclients = \"h:1\"", &["line 2", "without a port"]),
            ("[advertise]\nagents = \"h:http\"", &["line 2", "with a port or without"]),
            ("[tls]\ncertificate = \"cert.pem\"", &["line 1", "key"]),
            ("[tls]\ncert = \"cert.pem\"", &["line 2", "cert", "`certificate`"]),
            ("tls_terminated_by = [\"10.0.0\"]", &["line 1"]),
            ("[backends.x.udp]", &["line 1", "udp", "tcp"]),
            ("[backends.x.mux]\ndead_after = \"4s\"", &["t.toml:2: backends.x.mux.dead_after", "ping_after"]),
            ("[backends.x.mux]\nmax_connections = 1", &["line 2", "max_connections", "max_sessions"]),
            ("[backends.x.mux]\nbind = \"::\"", &["t.toml:2: backends.x.mux.bind", "insecure = true"]),
            ("[backends.x.tcp]\nfoo = 1", &["line 2", "foo", "waiting_clients"]),
            ("\nlisten = \"0.0.0.0:1\"", &["t.toml:2: listen", "insecure = true", "[tls]", "credentials =", "init"]),
            ("credentials = \"c\"\nlisten = \"0.0.0.0:1\"", &["t.toml:2: listen", "needs TLS", "tls_terminated_by"]),
            ("tls_terminated_by = [\"10.0.0.0/8\"]\nlisten = \"[::]:1\"", &["t.toml:2: listen", "needs credentials"]),
            ("tls_terminated_by = [\"127.0.0.1/32\"]", &["t.toml:1: tls_terminated_by", "needs credentials"]),
            ("trusted_proxies = [\"::1/128\"]", &["t.toml:1: trusted_proxies", "insecure = true"]),
            ("[backends.x.tcp]\nbind = \"::\"", &["t.toml:2: backends.x.tcp.bind", "insecure = true"]),
            ("default_backend = \"y\"", &["t.toml:1: default_backend", "no backend y", "tcp"]),
            ("[backends.x.tcp]\n[backends.y.tcp]", &["default_backend", "x, y"]),
            ("[backends]", &["t.toml:1: backends", "[backends.tcp.tcp]"]),
            ("[ports]\ndial_in = \"20000-20001\"", &["t.toml:2: ports.dial_in", "overlaps"]),
            ("[ports]\nextra_ports = [10000]", &["t.toml:2: ports.extra_ports", "10000"]),
            ("[admin]\nlisten = \"on\"", &["line 2", "127.0.0.1:8011", "off"]),
            ("[admin]\nlisten = \"0.0.0.0:8011\"", &["t.toml:2: admin.listen", "admin.allow = ["]),
            ("[access_log]\nqueries = true", &["line 2", "queries", "`query`"]),
            ("[door]\nwaiting = 0", &["t.toml:2: door.waiting", "above zero"]),
            ("[limits]\ntunnels = 0", &["t.toml:2: limits.tunnels", "above zero", "unlimited"]),
            ("[limits]\nstreams = -1", &["line 2", "a number", "unlimited"]),
            ("[limits.owner]\nopens_per_second = 0", &["t.toml:2: limits.owner.opens_per_second", "above zero"]),
            ("[limits.owner]\nbytes_per_second_to_agents = 7", &["t.toml:2: limits.owner.bytes_", "1KiB"]),
            ("[limits.owner]\nbytes_per_second_to_clients = \"7Mbit\"", &["line 2", "10MiB"]),
            ("[limits.owner]\nstream = 1", &["line 2", "stream", "`streams`"]),
        ] {
            let refusal = refusal(text);
            for part in expected {
                assert!(refusal.contains(part), "{text:?} gave {refusal:?}, which lacks {part:?}");
            }
        }
    }

    #[test]
    fn paths_are_relative_to_the_config_file() {
        let text = "state = \"state\"\n[tls]\ncertificate = \"cert.pem\"\nkey = \"/keys/key.pem\"\nclient_ca = \"ca/clients.pem\"";
        let config = Config::parse(text, Path::new("/etc/tunnel/server.toml")).unwrap();
        assert!(config.is_encrypted() && !Config::default().is_encrypted());
        let tls = config.tls.unwrap();
        assert_eq!(config.state.as_deref(), Some(Path::new("/etc/tunnel/state")));
        assert_eq!(tls.certificate, Path::new("/etc/tunnel/cert.pem"));
        assert_eq!(tls.key, Path::new("/keys/key.pem"));
        assert_eq!(tls.client_ca.as_deref(), Some(Path::new("/etc/tunnel/ca/clients.pem")));
    }

    #[test]
    fn tls_and_credentials_together_are_enough_to_leave_loopback_or_insecure_alone() {
        for enough in [
            "insecure = true",
            "credentials = \"c.toml\"\ntls_terminated_by = [\"10.0.0.0/8\"]",
            "credentials = \"c.toml\"\ntls = { certificate = \"c.pem\", key = \"k.pem\" }",
        ] {
            Config::parse(&format!("{enough}\nlisten = \"0.0.0.0:8010\""), Path::new("t.toml")).unwrap();
        }
    }
}
