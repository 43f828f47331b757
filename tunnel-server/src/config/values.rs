//! Values with a spelling of their own.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, de::Error};
use tunnel_api::Host;
use tunnel_backends::ports::PortRange;

use super::HostPort;

/// `"20000-27999"`, or `0` for ports of the kernel's choice.
pub(super) fn port_range<'de, D: Deserializer<'de>>(from: D) -> Result<PortRange, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Spelling {
        Number(i64),
        Text(String),
    }
    let refuse = || D::Error::custom("write a range of ports such as \"20000-27999\", or 0 to let the kernel choose");
    match Spelling::deserialize(from).map_err(|_| refuse())? {
        Spelling::Number(0) => Ok(PortRange::Kernel),
        Spelling::Number(_) => Err(refuse()),
        Spelling::Text(text) => {
            let (first, last) = text.split_once('-').ok_or_else(refuse)?;
            let port = |text: &str| text.trim().parse().ok().filter(|port: &u16| *port > 0).ok_or_else(refuse);
            let range = port(first)?..=port(last)?;
            if range.is_empty() { Err(refuse()) } else { Ok(PortRange::Between(range)) }
        }
    }
}

/// `"tunnels.example"` or `"tunnels.example:8010"`.
pub(super) fn host_and_port<'de, D: Deserializer<'de>>(from: D) -> Result<Option<HostPort>, D::Error> {
    let text = String::deserialize(from)?;
    let at =
        text.parse().map_err(|()| D::Error::custom("write a host name or an IP address, with a port or without"))?;
    Ok(Some(at))
}

impl FromStr for HostPort {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        // An IPv6 address without brackets is all host.
        if let Ok(host) = text.parse() {
            return Ok(Self { host, port: None });
        }
        let (host, port) = text.rsplit_once(':').ok_or(())?;
        let port = port.parse().ok().filter(|port: &u16| *port > 0).ok_or(())?;
        Ok(Self { host: host.parse().map_err(|_| ())?, port: Some(port) })
    }
}

pub(super) fn host<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Host>, D::Error> {
    let text = String::deserialize(from)?;
    let host = text.parse().map_err(|_| D::Error::custom("write a host name or an IP address, without a port"))?;
    Ok(Some(host))
}

pub(super) fn domain<'de, D: Deserializer<'de>>(from: D) -> Result<Host, D::Error> {
    let text = String::deserialize(from)?;
    let domain: Option<Host> = text.parse().ok();
    domain
        .filter(|domain| domain.ip().is_none())
        .ok_or_else(|| D::Error::custom("write a domain such as \"tunnels.example.com\""))
}

/// So many bytes: `"10MiB"`, `"1.5GB"` or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Spelling {
            Bytes(u64),
            Text(String),
        }
        let refuse = || D::Error::custom("write a size such as \"10MiB\", \"500kB\" or 1000000");
        match Spelling::deserialize(from).map_err(|_| refuse())? {
            Spelling::Bytes(bytes) => Ok(Self(bytes)),
            Spelling::Text(text) => parse_size(&text).map(Self).ok_or_else(refuse),
        }
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()));
    let unit: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1000 * 1000,
        "GB" => 1000 * 1000 * 1000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    match number.parse::<u64>() {
        Ok(number) => number.checked_mul(unit),
        // Exact as far as a disk is large.
        Err(_) => number.parse::<f64>().ok().map(|number| number * unit as f64).filter(|n| *n < 9e15).map(|n| n as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_may_have_a_port() {
        for (text, host, port) in [
            ("tunnels.example", "tunnels.example", None),
            ("Tunnels.example:443", "tunnels.example", Some(443)),
            ("192.0.2.1:443", "192.0.2.1", Some(443)),
            ("2001:db8::1", "[2001:db8::1]", None),
            ("[2001:db8::1]:443", "[2001:db8::1]", Some(443)),
        ] {
            let at: HostPort = text.parse().unwrap();
            assert_eq!((at.host.to_string().as_str(), at.port), (host, port), "{text}");
        }
        for text in ["", ":443", "h:", "h:0", "h:x", "h:99999", "2001:db8::1]:443"] {
            assert_eq!(text.parse::<HostPort>(), Err(()), "{text}");
        }
    }

    #[test]
    fn sizes_are_what_they_say() {
        for (text, bytes) in [
            ("0", 0),
            ("1000000", 1_000_000),
            ("12 B", 12),
            ("500kB", 500_000),
            ("500 KB", 500_000),
            ("1KiB", 1024),
            ("10MiB", 10 * 1024 * 1024),
            ("1.5GB", 1_500_000_000),
            ("2GiB", 2 * 1024 * 1024 * 1024),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for wrong in
            ["", "MiB", "-1", "1e3", "10 mib", "10Mbit", "1.2.3MB", "1TB", "99999999999999GiB", "99999999999999.5GiB"]
        {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
    }
}
