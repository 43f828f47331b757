use std::{convert::Infallible, fmt, net::SocketAddr, str::FromStr};
#[cfg(unix)]
use std::{os::unix::net::SocketAddr as UnixAddr, path::PathBuf};

/// A local service: `3000` (on this machine), `127.0.0.1:3000`, `localhost:3000`, `[::1]:3000`, or `unix:/run/app.sock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(Place);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// The host as it is looked up: a v6 address without its brackets. It is looked up for each client.
    Tcp { host: String, port: u16 },
    #[cfg(unix)]
    Unix(PathBuf),
}

/// What keeps a text from being a target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// A URL says more than where.
    #[error("this is a URL; write only its host and port, such as localhost:3000")]
    Url,
    /// A host alone.
    #[error("which port? write HOST:PORT, such as localhost:3000")]
    NoPort,
    /// No port has this number.
    #[error("{0} is no port; ports are 1 to 65535")]
    BadPort(String),
    /// Nothing before the port, or not a host.
    #[error("'{0}' is no host; write HOST:PORT, such as 127.0.0.1:3000, or just PORT for this machine")]
    BadHost(String),
    /// A v6 address whose port cannot be told from it.
    #[error("put the IPv6 address in brackets: [::1]:3000")]
    NoBrackets,
    /// A path without what says so.
    #[error("for a Unix socket write unix:/path/to.sock")]
    BarePath,
    /// A path that no socket can have.
    #[error("no Unix socket can have this path: {0}")]
    BadPath(String),
    /// There are none here.
    #[error("there are no Unix sockets on this system; write HOST:PORT")]
    NoUnixSockets,
}

impl Target {
    pub(super) fn place(&self) -> &Place {
        &self.0
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path);
        }
        if text.contains("://") {
            return Err(TargetError::Url);
        }
        if text.starts_with(['/', '.', '~']) {
            return Err(TargetError::BarePath);
        }
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return tcp("127.0.0.1", text);
        }
        if let Some((v6, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            if v6.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(TargetError::BadHost(v6.to_owned()));
            }
            return tcp(v6, rest.strip_prefix(':').ok_or(TargetError::NoPort)?);
        }
        let (host, port) = text.rsplit_once(':').ok_or(TargetError::NoPort)?;
        if host.contains(':') {
            return Err(TargetError::NoBrackets);
        }
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
            return Err(TargetError::BadHost(host.to_owned()));
        }
        tcp(host, port)
    }
}

fn tcp(host: &str, port: &str) -> Result<Target, TargetError> {
    // `parse` alone would take +22.
    let number = port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse().ok()).flatten();
    match number {
        Some(number) if number > 0 => Ok(Target(Place::Tcp { host: host.to_owned(), port: number })),
        _ => Err(TargetError::BadPort(port.to_owned())),
    }
}

#[cfg(unix)]
fn unix(path: &str) -> Result<Target, TargetError> {
    if path.is_empty() {
        return Err(TargetError::BarePath);
    }
    // The kernel takes about a hundred bytes.
    UnixAddr::from_pathname(path).map_err(|error| TargetError::BadPath(error.to_string()))?;
    Ok(Target(Place::Unix(path.into())))
}

#[cfg(not(unix))]
fn unix(_: &str) -> Result<Target, TargetError> {
    Err(TargetError::NoUnixSockets)
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Self {
        Self(Place::Tcp { host: addr.ip().to_string(), port: addr.port() })
    }
}

impl TryFrom<&str> for Target {
    type Error = TargetError;

    fn try_from(text: &str) -> Result<Self, TargetError> {
        text.parse()
    }
}

impl TryFrom<String> for Target {
    type Error = TargetError;

    fn try_from(text: String) -> Result<Self, TargetError> {
        text.parse()
    }
}

/// For what is a target already.
impl From<Infallible> for TargetError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// As it is parsed.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Place::Tcp { host, port } => write!(f, "{host}:{port}"),
            #[cfg(unix)]
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_port_a_host_and_a_port_or_a_unix_socket() {
        for (text, whole) in [
            ("3000", "127.0.0.1:3000"),
            ("127.0.0.1:3000", "127.0.0.1:3000"),
            ("localhost:3000", "localhost:3000"),
            ("[::1]:22", "[::1]:22"),
            #[cfg(unix)]
            ("unix:/run/app.sock", "unix:/run/app.sock"),
            #[cfg(unix)]
            ("unix:app.sock", "unix:app.sock"),
        ] {
            let target: Target = text.parse().expect(text);
            assert_eq!(target.to_string(), whole);
            assert_eq!(target.to_string().parse(), Ok(target), "{text}");
        }
        let addr: SocketAddr = "[::1]:22".parse().unwrap();
        assert_eq!(Target::from(addr).to_string(), "[::1]:22");
    }

    #[test]
    fn what_is_no_target_is_refused_with_what_to_write() {
        let bad_port = |port: &str| TargetError::BadPort(port.to_owned());
        let bad_host = |host: &str| TargetError::BadHost(host.to_owned());
        for (text, why) in [
            ("", TargetError::NoPort),
            ("localhost", TargetError::NoPort),
            ("[::1]", TargetError::NoPort),
            ("0", bad_port("0")),
            ("65536", bad_port("65536")),
            ("localhost:http", bad_port("http")),
            ("localhost:+1", bad_port("+1")),
            ("localhost:", bad_port("")),
            (":3000", bad_host("")),
            ("local host:3000", bad_host("local host")),
            ("[nowhere]:3000", bad_host("nowhere")),
            ("::1:3000", TargetError::NoBrackets),
            ("http://localhost:3000", TargetError::Url),
            ("/run/app.sock", TargetError::BarePath),
            ("./app.sock", TargetError::BarePath),
            #[cfg(unix)]
            ("unix:", TargetError::BarePath),
        ] {
            assert_eq!(text.parse::<Target>(), Err(why), "{text}");
        }
        #[cfg(unix)]
        assert!(matches!(format!("unix:/{}", "long".repeat(50)).parse::<Target>(), Err(TargetError::BadPath(_))));
    }
}
