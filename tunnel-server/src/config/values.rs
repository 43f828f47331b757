//! Values with a spelling of their own.

use std::{net::SocketAddr, str::FromStr};

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

pub(super) fn socket_addr<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(from)?;
    text.parse()
        .map_err(|_| D::Error::custom("write an IP address and a port, such as \"127.0.0.1:8010\" or \"[::]:8010\""))
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
}
