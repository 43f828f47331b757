use std::{fmt, str::FromStr};

use crate::Host;

/// Where clients connect. It is public.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PublicAddress {
    scheme: String,
    host: Host,
    port: u16,
}

/// Not a public address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an address such as tcp://host:port")]
pub struct PublicAddressError;

impl PublicAddress {
    /// `tcp://host:port`.
    pub fn tcp(host: Host, port: u16) -> Self {
        Self { scheme: "tcp".to_owned(), host, port }
    }

    /// `http://host:port/`, or the same with https.
    pub fn web(is_encrypted: bool, host: Host, port: u16) -> Self {
        Self { scheme: if is_encrypted { "https" } else { "http" }.to_owned(), host, port }
    }

    /// `tls://host:port`: clients speak TLS with the agent itself.
    pub fn tls(host: Host, port: u16) -> Self {
        Self { scheme: "tls".to_owned(), host, port }
    }

    /// Whether web clients come here.
    pub fn is_web(&self) -> bool {
        default_port(&self.scheme).is_some()
    }

    /// What clients speak.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The host clients connect to.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`, as most programs want it.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The same place as a web address, for an agent that serves HTTP behind a `tcp` address. (`Url::set_scheme` will
    /// not turn `tcp` into `http`.)
    pub fn to_http(&self) -> String {
        if self.is_web() { self.to_string() } else { format!("http://{}:{}", self.host, self.port) }
    }
}

impl fmt::Display for PublicAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A web address is written as browsers write it.
        match default_port(&self.scheme) {
            Some(port) if port == self.port => write!(f, "{}://{}/", self.scheme, self.host),
            Some(_) => write!(f, "{}://{}:{}/", self.scheme, self.host, self.port),
            None => write!(f, "{}://{}:{}", self.scheme, self.host, self.port),
        }
    }
}

impl FromStr for PublicAddress {
    type Err = PublicAddressError;

    fn from_str(text: &str) -> Result<Self, PublicAddressError> {
        // The grammar is that of a request for it, with nothing left out.
        let AddressRequest { scheme, host, port } = text.parse().map_err(|_| PublicAddressError)?;
        let scheme = scheme.ok_or(PublicAddressError)?;
        let port = port.or_else(|| default_port(&scheme)).ok_or(PublicAddressError)?;
        Ok(Self { host: host.ok_or(PublicAddressError)?, scheme, port })
    }
}

/// The port of a web address that names none.
fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// The address wanted, parts left out being the server's to choose: ``, `tcp://`, `tcp://:21000`,
/// `tcp://tunnels.example:21000`. A grammar of its own, because `url` refuses a URI without a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressRequest {
    /// How clients are to arrive; `None` for whatever the backend prefers.
    pub scheme: Option<String>,
    /// On which host.
    pub host: Option<Host>,
    /// On which port.
    pub port: Option<u16>,
}

/// Not a request for an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an address; write tcp://:21000 for a port, http://blog for a name, or leave it empty")]
pub struct AddressRequestError;

impl AddressRequest {
    /// Any address.
    pub fn any() -> Self {
        Self::default()
    }

    /// That port.
    pub fn tcp_port(port: u16) -> Self {
        Self { scheme: Some("tcp".to_owned()), host: None, port: (port != 0).then_some(port) }
    }

    /// That address and no other.
    pub fn exactly(address: &PublicAddress) -> Self {
        Self { scheme: Some(address.scheme.clone()), host: Some(address.host.clone()), port: Some(address.port) }
    }
}

impl FromStr for AddressRequest {
    type Err = AddressRequestError;

    fn from_str(text: &str) -> Result<Self, AddressRequestError> {
        if text.is_empty() {
            return Ok(Self::any());
        }
        let (scheme, rest) = text.split_once("://").ok_or(AddressRequestError)?;
        let scheme_is_fine = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        if !scheme_is_fine {
            return Err(AddressRequestError);
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = split_port(rest)?;
        Ok(Self {
            scheme: Some(scheme.to_ascii_lowercase()),
            host: if host.is_empty() { None } else { Some(host.parse().map_err(|_| AddressRequestError)?) },
            port: port.filter(|port| *port != 0),
        })
    }
}

impl fmt::Display for AddressRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(scheme) = &self.scheme else { return Ok(()) };
        write!(f, "{scheme}://")?;
        if let Some(host) = &self.host {
            write!(f, "{host}")?;
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        Ok(())
    }
}

/// The colon of a port is the last one, unless it stands inside the brackets of a v6 address.
fn split_port(authority: &str) -> Result<(&str, Option<u16>), AddressRequestError> {
    match authority.rsplit_once(':') {
        Some((host, _)) if host.contains(':') && !host.starts_with('[') => Err(AddressRequestError),
        Some((host, port)) if !port.contains(']') => {
            let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
            let port = digits.then(|| port.parse().ok()).flatten().ok_or(AddressRequestError)?;
            Ok((host, Some(port)))
        }
        _ => Ok((authority, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_may_be_left_out() {
        let host = |text: &str| Some(text.parse::<Host>().unwrap());
        for (text, scheme, wanted_host, port) in [
            ("", None, None, None),
            ("tcp://", Some("tcp"), None, None),
            ("tcp://:0", Some("tcp"), None, None),
            ("tcp://:21000", Some("tcp"), None, Some(21000)),
            ("TCP://Tunnels.example:21000/", Some("tcp"), host("tunnels.example"), Some(21000)),
            ("tcp://[::1]:21000", Some("tcp"), host("::1"), Some(21000)),
            ("tcp://[::1]", Some("tcp"), host("::1"), None),
            ("http://blog", Some("http"), host("blog"), None),
        ] {
            let request: AddressRequest = text.parse().expect(text);
            let expected = AddressRequest { scheme: scheme.map(str::to_owned), host: wanted_host, port };
            assert_eq!(request, expected, "{text}");
            assert_eq!(request.to_string().parse(), Ok(request), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "tcp",
            "tcp:",
            ":21000",
            "://h",
            "tcp://:x",
            "tcp://:",
            "tcp://:70000",
            "tcp://:+1",
            "tcp://h:1/path",
            "tcp://u@h:1",
            "tcp://h h:1",
            "tcp://::1:5",
            "1tcp://h",
        ] {
            assert_eq!(text.parse::<AddressRequest>(), Err(AddressRequestError), "{text}");
        }
    }

    #[test]
    fn an_address_prints_as_it_parses() {
        for text in [
            "tcp://127.0.0.1:20000",
            "tcp://[2001:db8::1]:20000",
            "tcp://tunnels.example:20000",
            "tls://db.tunnels.example:8010",
            "http://blog.localhost:8010/",
            "https://blog.tunnels.example/",
            "http://blog.tunnels.example:443/",
        ] {
            assert_eq!(text.parse::<PublicAddress>().expect(text).to_string(), text);
        }
        for text in ["tcp://h", "tcp://:1", "http://", "h:1"] {
            assert!(text.parse::<PublicAddress>().is_err(), "{text}");
        }
        assert!("tcp://h:1/path".parse::<PublicAddress>().is_err());
    }

    #[test]
    fn a_tcp_address_has_an_http_form() {
        let address: PublicAddress = "tcp://[::1]:20000".parse().unwrap();
        assert_eq!(address.to_http(), "http://[::1]:20000");
    }
}
