use std::{
    net::{Ipv4Addr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error};

/// `[admin]`: metrics, health and readiness.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Where.
    pub listen: AdminListen,
    /// Who may ask. Empty: this host only.
    pub allow: Vec<IpNet>,
}

/// Where the admin listener is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AdminListen {
    /// At [`DEFAULT`](Self::DEFAULT), or nowhere if something else is there.
    #[default]
    IfFree,
    /// Nowhere.
    Off,
    /// There, or the server does not start.
    At(SocketAddr),
}

impl AdminListen {
    /// Beside the default of the one port.
    pub const DEFAULT: SocketAddr = SocketAddr::V4(std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8011));
}

impl FromStr for AdminListen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            _ => text.parse().map(Self::At).map_err(
                |_| "write an IP address and a port, such as \"127.0.0.1:8011\" or \"[::1]:8011\", or \"off\"",
            ),
        }
    }
}

impl<'de> Deserialize<'de> for AdminListen {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
