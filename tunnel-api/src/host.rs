use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

/// A host in a URI, in its one canonical form: a lower-case DNS name or an IP address, v6 without its brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host(Inner);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Inner {
    Name(String),
    Ip(IpAddr),
}

/// Not a host name and not an IP address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither a host name nor an IP address")]
pub struct HostError;

impl Host {
    /// The address, where the host is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.0 {
            Inner::Ip(ip) => Some(ip),
            Inner::Name(_) => None,
        }
    }

    /// The host as it is written.
    pub fn text(&self) -> Cow<'_, str> {
        match &self.0 {
            Inner::Name(name) => Cow::Borrowed(name),
            Inner::Ip(_) => Cow::Owned(self.to_string()),
        }
    }

    /// Nobody elsewhere can connect to it.
    pub fn is_loopback(&self) -> bool {
        match &self.0 {
            Inner::Ip(ip) => ip.is_loopback(),
            Inner::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }
}

impl From<IpAddr> for Host {
    fn from(ip: IpAddr) -> Self {
        Self(Inner::Ip(ip.to_canonical()))
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        if let Some(v6) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return v6.parse::<Ipv6Addr>().map(|ip| IpAddr::V6(ip).into()).map_err(|_| HostError);
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(ip.into());
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if !is_dns_name(name) {
            return Err(HostError);
        }
        Ok(Self(Inner::Name(name.to_ascii_lowercase())))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::Name(name) => f.write_str(name),
            Inner::Ip(IpAddr::V4(ip)) => ip.fmt(f),
            Inner::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

/// Letters, digits, '-' and '_' in labels of 1 to 63, 253 in all. A last label of digits only would be a broken IPv4.
fn is_dns_name(name: &str) -> bool {
    let label_is_fine = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253
        && name.split('.').all(label_is_fine)
        && name.rsplit('.').next().is_some_and(|last| !last.bytes().all(|b| b.is_ascii_digit()))
}
