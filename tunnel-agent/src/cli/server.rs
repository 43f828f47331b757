use std::str::FromStr;

use tunnel_api::{Host, rpc::RemoteBackend};

use super::failure::Failure;

/// Where the tunnel server is: `http://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerUrl(String);

/// What keeps a text from being one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ServerUrlError {
    #[error("https is not supported yet; write http://HOST:PORT, and use it in networks you trust only")]
    Https,
    #[error("a tunnel server has an http URL; write http://HOST:PORT, or just HOST:PORT")]
    OtherScheme,
    #[error("nothing may follow the port; write http://HOST:PORT")]
    Path,
    #[error("write HOST:PORT, such as tunnels.example:8010")]
    Malformed,
}

impl ServerUrl {
    pub(crate) const DEFAULT: &str = "http://127.0.0.1:8010";

    pub(crate) async fn connect(&self) -> Result<RemoteBackend, Failure> {
        Ok(RemoteBackend::connect(&self.0).await?)
    }
}

impl FromStr for ServerUrl {
    type Err = ServerUrlError;

    fn from_str(text: &str) -> Result<Self, ServerUrlError> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        match scheme.to_ascii_lowercase().as_str() {
            "http" => {}
            "https" => return Err(ServerUrlError::Https),
            _ => return Err(ServerUrlError::OtherScheme),
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return Err(ServerUrlError::Path);
        }
        let (host, port) = split_port(authority)?;
        let host: Host = host.parse().map_err(|_| ServerUrlError::Malformed)?;
        Ok(Self(format!("http://{host}:{port}")))
    }
}

/// Without a port it is the one that servers listen on unless they are told otherwise.
fn split_port(authority: &str) -> Result<(&str, u16), ServerUrlError> {
    match authority.rsplit_once(':') {
        Some((host, _)) if host.contains(':') && !host.starts_with('[') => Err(ServerUrlError::Malformed),
        Some((host, port)) if !port.ends_with(']') => {
            let digits = port.bytes().all(|b| b.is_ascii_digit());
            let port = digits.then(|| port.parse().ok()).flatten().filter(|port| *port > 0);
            Ok((host, port.ok_or(ServerUrlError::Malformed)?))
        }
        _ => Ok((authority, PORT)),
    }
}

const PORT: u16 = 8010;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_and_the_port_may_be_left_out() {
        for (text, whole) in [
            (ServerUrl::DEFAULT, "http://127.0.0.1:8010"),
            ("http://tunnels.example:80/", "http://tunnels.example:80"),
            ("HTTP://tunnels.example:80", "http://tunnels.example:80"),
            ("tunnels.example:9000", "http://tunnels.example:9000"),
            ("tunnels.example", "http://tunnels.example:8010"),
            ("[::1]", "http://[::1]:8010"),
            ("[::1]:9000", "http://[::1]:9000"),
        ] {
            assert_eq!(text.parse(), Ok(ServerUrl(whole.to_owned())), "{text}");
        }
    }

    #[test]
    fn what_is_no_server_is_refused() {
        for (text, why) in [
            ("https://tunnels.example", ServerUrlError::Https),
            ("tcp://tunnels.example:1", ServerUrlError::OtherScheme),
            ("http://tunnels.example:80/path", ServerUrlError::Path),
            ("", ServerUrlError::Malformed),
            ("8010", ServerUrlError::Malformed),
            (":8010", ServerUrlError::Malformed),
            ("tunnels.example:port", ServerUrlError::Malformed),
            ("tunnels.example:0", ServerUrlError::Malformed),
            ("me@tunnels.example:1", ServerUrlError::Malformed),
            ("::1:8010", ServerUrlError::Malformed),
        ] {
            assert_eq!(text.parse::<ServerUrl>(), Err(why), "{text}");
        }
    }
}
