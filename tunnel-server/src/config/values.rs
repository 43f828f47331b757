//! Values with a spelling of their own.

use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, de::Error};
use tunnel_api::Host;
use tunnel_backends::ports::PortRange;

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

pub(super) fn host<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Host>, D::Error> {
    let text = String::deserialize(from)?;
    let host = text.parse().map_err(|_| D::Error::custom("write a host name or an IP address, without a port"))?;
    Ok(Some(host))
}
