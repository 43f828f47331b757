use std::{
    env::{self, VarError},
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, de::Error};
use tunnel_backends::sockets;

use super::{ConfigError, error::Place};

/// Where to listen: an address and a port, which may be in an environment variable, as platforms have it that hand out one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Unset: all addresses.
    ip: Option<IpAddr>,
    port: Port,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Port {
    Number(u16),
    Variable(String),
}

/// Not a place to listen at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "write an IP address and a port, such as 127.0.0.1:8010 or [::]:8010, or the environment variable that has the port, such as \
     $PORT or 0.0.0.0:$PORT"
)]
pub struct ListenError;

impl Listen {
    /// The address, now that the environment is known.
    pub fn resolve(&self) -> Result<SocketAddr, ConfigError> {
        self.resolve_in(|name| env::var(name)).map_err(|why| ConfigError::Impossible {
            place: Place::default(),
            key: "listen".to_owned(),
            why,
        })
    }

    fn resolve_in(&self, variable: impl Fn(&str) -> Result<String, VarError>) -> Result<SocketAddr, String> {
        let port = match &self.port {
            Port::Number(port) => *port,
            Port::Variable(name) => match variable(name) {
                Ok(value) => value.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
                    format!(
                        "the environment variable {name} is {value:?}, which is no port; set it to one such as 8080"
                    )
                })?,
                Err(VarError::NotUnicode(_)) => {
                    return Err(format!("the environment variable {name} is no text; set it to a port such as 8080"));
                }
                Err(VarError::NotPresent) => {
                    return Err(format!(
                        "the environment variable {name} is not set; set it to a port ({name}=8080), or write an address and a \
                         port such as \"[::]:8080\" instead of it"
                    ));
                }
            },
        };
        Ok(SocketAddr::new(self.ip.unwrap_or_else(sockets::all_addresses), port))
    }
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let Some((before, name)) = text.split_once('$') else {
            let addr: SocketAddr = text.parse().map_err(|_| ListenError)?;
            return Ok(Self { ip: Some(addr.ip()), port: Port::Number(addr.port()) });
        };
        let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && !name.is_empty();
        if !is_name {
            return Err(ListenError);
        }
        let ip = match before {
            "" => None,
            // What belongs before a port is best told with one.
            _ => Some(format!("{before}1").parse::<SocketAddr>().map_err(|_| ListenError)?.ip()),
        };
        // A port that was begun before the variable is none.
        if !before.is_empty() && !before.ends_with(':') {
            return Err(ListenError);
        }
        Ok(Self { ip, port: Port::Variable(name.to_owned()) })
    }
}

pub(super) fn listen<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let listen: Listen = String::deserialize(from)?.parse().map_err(D::Error::custom)?;
    listen.resolve().map_err(|error| match error {
        // The file and the line are said by whoever reads it.
        ConfigError::Impossible { why, .. } => D::Error::custom(why),
        other => D::Error::custom(other),
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn resolve(text: &str, port: &Result<&str, VarError>) -> Result<SocketAddr, String> {
        let variable = |name: &str| match name {
            "PORT" | "HTTP_PORT" => port.clone().map(str::to_owned),
            _ => Err(VarError::NotPresent),
        };
        text.parse::<Listen>().map_err(|error| error.to_string())?.resolve_in(variable)
    }

    #[test]
    fn a_port_may_be_a_variable_and_then_all_addresses_are_meant_unless_one_is_said() {
        let all = SocketAddr::new(sockets::all_addresses(), 8080).to_string();
        for (text, addr) in [
            ("$PORT", &*all),
            ("$HTTP_PORT", &all),
            ("0.0.0.0:$PORT", "0.0.0.0:8080"),
            ("[::]:$HTTP_PORT", "[::]:8080"),
            ("127.0.0.1:$PORT", "127.0.0.1:8080"),
            ("127.0.0.1:8010", "127.0.0.1:8010"),
            ("[::1]:0", "[::1]:0"),
        ] {
            assert_eq!(resolve(text, &Ok("8080")).map(|addr| addr.to_string()).as_deref(), Ok(addr), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_a_port_is_said_with_what_to_do() {
        for (value, words) in [
            (Err(VarError::NotPresent), ["PORT is not set", "PORT=8080"]),
            (Ok(""), ["PORT is \"\"", "8080"]),
            (Ok("0"), ["PORT is \"0\"", "8080"]),
            (Ok("http"), ["PORT is \"http\"", "8080"]),
            (Ok("70000"), ["PORT is \"70000\"", "8080"]),
            (Ok("8080 "), ["PORT is \"8080 \"", "8080"]),
        ] {
            let refused = resolve("$PORT", &value).unwrap_err();
            assert!(words.iter().all(|word| refused.contains(word)), "{refused}");
        }
        for text in [
            "$",
            "8010",
            "localhost:$PORT",
            "$PORT:8010",
            "$8",
            "${PORT}",
            "0.0.0.0$PORT",
            "0.0.0.0:1$PORT",
            ":$PORT",
            "$A$B",
        ] {
            assert_eq!(text.parse::<Listen>(), Err(ListenError), "{text}");
        }
    }

    #[test]
    fn all_addresses_are_those_of_ipv6_too_where_there_is_any() {
        let has_ipv6 = std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
        assert_eq!(sockets::all_addresses().is_ipv6(), has_ipv6);
    }
}
