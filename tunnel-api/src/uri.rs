use std::{fmt, str::FromStr, sync::Arc};

use url::Url;

use crate::{Host, TunnelId};

/// Where and how an agent dials in. It is a capability, so it is never printed by accident: `Debug` shows the scheme
/// only, there is no `Display`, and [`expose`](Self::expose) is easy to search for.
///
/// Two URIs are equal when their canonical forms are: lower-case scheme and host, explicit port, no trailing slash where
/// the path is empty. (`url` alone calls `tcp://h:1`, `tcp://h:1/` and `tcp://H:1` different.)
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TunnelUri {
    /// Shared: whoever looks tunnels up by it has it a second time.
    canonical: Arc<str>,
    host: Host,
    port: u16,
}

/// What keeps a text from being a tunnel URI. It never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelUriError {
    /// Longer than any we issue.
    #[error("longer than {} bytes", TunnelUri::MAX_LEN)]
    TooLong,
    /// Not a URI at all.
    #[error("not a URI; send what OpenTunnel gave, such as tcp://host:port")]
    Malformed,
    /// A URI without a usable host.
    #[error("has no host")]
    NoHost,
    /// A URI that does not say its port.
    #[error("has no port")]
    NoPort,
}

impl TunnelUri {
    /// The longest URI that is looked at.
    pub const MAX_LEN: usize = 2048;

    /// `tcp://host:port`.
    pub fn tcp(host: &Host, port: u16) -> Self {
        Self { canonical: format!("tcp://{host}:{port}").into(), host: host.clone(), port }
    }

    /// `ptth://id:ticket@host:port/.well-known/ptth/id/`. The ticket must need no escaping.
    pub fn ptth(host: &Host, port: u16, id: &TunnelId, ticket: &str) -> Self {
        Self::with_ticket("ptth", host, port, id, ticket)
    }

    /// The same over TLS: `ptths://…`.
    pub fn ptths(host: &Host, port: u16, id: &TunnelId, ticket: &str) -> Self {
        Self::with_ticket("ptths", host, port, id, ticket)
    }

    fn with_ticket(scheme: &str, host: &Host, port: u16, id: &TunnelId, ticket: &str) -> Self {
        let canonical = format!("{scheme}://{id}:{ticket}@{host}:{port}/.well-known/ptth/{id}/");
        Self { canonical: canonical.into(), host: host.clone(), port }
    }

    /// The whole URI, secrets included.
    pub fn expose(&self) -> &str {
        &self.canonical
    }

    /// Which wire it names.
    pub fn scheme(&self) -> &str {
        self.parts().0
    }

    /// Whom to dial.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Where to dial.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// User and password, as they stand in the URI. Secret.
    pub fn credentials(&self) -> Option<(&str, &str)> {
        let (credentials, _) = self.parts().1.split(['/', '?', '#']).next()?.rsplit_once('@')?;
        Some(credentials.split_once(':').unwrap_or((credentials, "")))
    }

    /// Path and query: what an HTTP request for it would ask for.
    pub fn target(&self) -> &str {
        let rest = self.parts().1;
        let target = rest.find(['/', '?', '#']).map_or("", |at| &rest[at..]);
        let target = target.split('#').next().unwrap_or_default();
        if target.starts_with('/') { target } else { "/" }
    }

    /// The scheme, and what comes after it.
    fn parts(&self) -> (&str, &str) {
        // Every canonical form has both.
        self.canonical.split_once("://").unwrap_or_default()
    }
}

impl FromStr for TunnelUri {
    type Err = TunnelUriError;

    fn from_str(text: &str) -> Result<Self, TunnelUriError> {
        if text.len() > Self::MAX_LEN {
            return Err(TunnelUriError::TooLong);
        }
        let url = Url::parse(text).map_err(|_| TunnelUriError::Malformed)?;
        let host: Host = url.host_str().unwrap_or_default().parse().map_err(|_| TunnelUriError::NoHost)?;
        let port = url.port_or_known_default().filter(|port| *port != 0).ok_or(TunnelUriError::NoPort)?;
        Ok(Self { canonical: canonical(&url, &host, port).into(), host, port })
    }
}

impl fmt::Debug for TunnelUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TunnelUri({}://…)", self.scheme())
    }
}

fn canonical(url: &Url, host: &Host, port: u16) -> String {
    let mut text = format!("{}://", url.scheme());
    if !url.username().is_empty() || url.password().is_some() {
        text.push_str(url.username());
        if let Some(password) = url.password() {
            text.push(':');
            text.push_str(password);
        }
        text.push('@');
    }
    text.push_str(&format!("{host}:{port}"));
    if url.path() != "/" {
        text.push_str(url.path());
    }
    if let Some(query) = url.query() {
        text.push('?');
        text.push_str(query);
    }
    if let Some(fragment) = url.fragment() {
        text.push('#');
        text.push_str(fragment);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<TunnelUri, TunnelUriError> {
        text.parse()
    }

    #[test]
    fn spellings_of_one_uri_are_equal() {
        let uri = TunnelUri::tcp(&"tunnels.example".parse().unwrap(), 12345);
        for text in ["tcp://tunnels.example:12345", "tcp://Tunnels.EXAMPLE:12345/", "TCP://tunnels.example.:12345"] {
            assert_eq!(parse(text).as_ref(), Ok(&uri), "{text}");
        }
        let v6 = TunnelUri::tcp(&"::1".parse().unwrap(), 7);
        assert_eq!(parse("tcp://[0:0::1]:7"), Ok(v6));
    }

    #[test]
    fn whatever_is_added_makes_another_uri() {
        let uri = parse("tcp://h:1").unwrap();
        for text in
            ["tcp://h:1/x", "tcp://h:1?q", "tcp://h:1#f", "tcp://u@h:1", "tcp://:p@h:1", "tcps://h:1", "tcp://h:2"]
        {
            assert_ne!(parse(text).as_ref(), Ok(&uri), "{text}");
        }
    }

    #[test]
    fn what_is_no_uri_is_refused_without_being_repeated() {
        let long = format!("tcp://{}:1", "h".repeat(3000));
        for (text, why) in [
            ("", TunnelUriError::Malformed),
            ("secret", TunnelUriError::Malformed),
            ("tcp:secret", TunnelUriError::NoHost),
            ("tcp://:1", TunnelUriError::Malformed),
            ("tcp://secret", TunnelUriError::NoPort),
            ("tcp://secret:0", TunnelUriError::NoPort),
            ("tcp://secret:99999", TunnelUriError::Malformed),
            ("tcp://se cret:1", TunnelUriError::Malformed),
            ("tcp://[::g]:1", TunnelUriError::Malformed),
            (&long, TunnelUriError::TooLong),
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!(error, why, "{text}");
            assert!(!error.to_string().contains("secret"));
        }
    }

    #[test]
    fn a_uri_with_a_ticket_has_credentials_and_a_target() {
        let id: TunnelId = "t-1".parse().unwrap();
        let uri = TunnelUri::ptth(&"H.example".parse().unwrap(), 8010, &id, "s3cr-t_");
        assert_eq!(parse(uri.expose()).as_ref(), Ok(&uri));
        assert_eq!(uri.credentials(), Some(("t-1", "s3cr-t_")));
        assert_eq!(uri.target(), "/.well-known/ptth/t-1/");
        let encrypted = TunnelUri::ptths(&"H.example".parse().unwrap(), 8010, &id, "s3cr-t_");
        assert_eq!(parse(encrypted.expose()).as_ref(), Ok(&encrypted));
        assert_ne!(encrypted, uri);
        let plain = parse("tcp://h:1").unwrap();
        assert_eq!((plain.credentials(), plain.target()), (None, "/"));
        assert_eq!(parse("ptth://u:p@h:1/a?b=c#d").unwrap().target(), "/a?b=c");
    }

    #[test]
    fn debug_keeps_the_secret() {
        let uri = parse("ptth://id:ticket@host:1/").unwrap();
        assert_eq!(format!("{uri:?}"), "TunnelUri(ptth://…)");
        assert_eq!(uri.expose(), "ptth://id:ticket@host:1");
    }
}
