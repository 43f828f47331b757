use std::{error::Error, time::Duration};

use tonic::transport::Endpoint;

use super::{
    RemoteBackend,
    dial::{ATTEMPT, Dialler},
    line::Line,
    status::Chain,
    token::{Credentials, Token, TokenError},
};
use crate::{
    Host,
    tls::{CertificateRefused, ClientTls, HandshakeError, TrustError},
};

/// How to connect to a tunnel server: whom to trust, and what to show.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use tunnel_api::{rpc::{Connect, Token}, tls::{ClientTls, Trust}};
///
/// let tls = ClientTls::new(Trust::ca_file("ca.pem".as_ref())?, None);
/// let server = Connect::to("https://tunnels.example:8010").tls(tls).token(Token::file("token")).connect().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "it connects when connect is called"]
pub struct Connect {
    url: String,
    tls: ClientTls,
    token: Option<Token>,
    insecure: bool,
}

/// Why there is no connection to a tunnel server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL is none, or not one this client can use.
    #[error("{url} is not the URL of a tunnel server; write http://host:port or https://host:port")]
    BadUrl {
        /// What was given.
        url: String,
    },
    /// Nobody answered.
    #[error("no tunnel server answers at {url}: {why}; is it running, and is this its address?")]
    Unreachable {
        /// Whom we asked.
        url: String,
        /// What happened.
        why: String,
    },
    /// Whoever answers is not the server that is trusted.
    #[error("{url} is not to be trusted: {why}")]
    NotTrusted {
        /// Whom we asked.
        url: String,
        /// What is wrong with its certificate.
        why: CertificateRefused,
    },
    /// Somebody answers, but not by TLS.
    #[error("no TLS with {url}: {why}")]
    NoTls {
        /// Whom we asked.
        url: String,
        /// What happened.
        why: String,
    },
    /// There is nothing to trust.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// There is no token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The token would go out for everybody to read.
    #[error(
        "the token would go to {url} unencrypted, for everybody between to read; write https://, or say that it may \
         (--insecure)"
    )]
    TokenInClear {
        /// Where it would go.
        url: String,
    },
}

impl Connect {
    /// To the server at `url`, such as `https://tunnels.example:8010`, trusting whom this system trusts.
    pub fn to(url: impl Into<String>) -> Self {
        Self { url: url.into(), tls: ClientTls::default(), token: None, insecure: false }
    }

    /// Trusting others, or with a certificate of ours. Of effect where the URL is https.
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = tls;
        self
    }

    /// With this token. To a server that is not on this host it goes encrypted only.
    pub fn token(mut self, token: Token) -> Self {
        self.token = Some(token);
        self
    }

    /// The token may go out unencrypted: for networks in which nobody else can read.
    pub fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// Connects. The connection comes back by itself, and goes by gRPC-Web over HTTP/1.1 where HTTP/2 does not get through.
    pub async fn connect(self) -> Result<RemoteBackend, ConnectError> {
        let Target { endpoint, dialler } = self.target()?;
        let connector = dialler.clone().for_http2();
        let channel = match endpoint.connect_with_connector(connector.clone()).await {
            Ok(channel) => channel,
            // Somebody is there. The first call takes the other way.
            Err(_) if dialler.way.has_no_http2() => endpoint.connect_with_connector_lazy(connector),
            Err(error) => return Err(refused(&self.url, &error)),
        };
        Ok(self.backend(Line::chosen(channel, dialler, endpoint.uri().clone())))
    }

    /// As [`connect`](Self::connect), but the connection is made by the first call.
    pub fn connect_lazy(self) -> Result<RemoteBackend, ConnectError> {
        let line = self.line()?;
        Ok(self.backend(line))
    }

    fn backend(self, line: Line) -> RemoteBackend {
        let credentials = Credentials(self.token.clone());
        // What was good once is so again.
        RemoteBackend::with(line, credentials, move || self.line().ok())
    }

    /// To be connected by the first call.
    fn line(&self) -> Result<Line, ConnectError> {
        let Target { endpoint, dialler } = self.target()?;
        let channel = endpoint.connect_with_connector_lazy(dialler.clone().for_http2());
        Ok(Line::chosen(channel, dialler, endpoint.uri().clone()))
    }

    /// What can be known before anybody is asked.
    fn target(&self) -> Result<Target, ConnectError> {
        let bad = || ConnectError::BadUrl { url: self.url.clone() };
        let endpoint = Endpoint::from_shared(self.url.clone()).map_err(|_| bad())?;
        let tls = match endpoint.uri().scheme_str() {
            Some("http") => None,
            Some("https") => Some(self.tls.clone()),
            _ => return Err(bad()),
        };
        let host: Host = endpoint.uri().host().and_then(|host| host.parse().ok()).ok_or_else(bad)?;
        if let Some(tls) = &tls {
            tls.check()?;
        }
        if let Some(token) = &self.token {
            if tls.is_none() && !host.is_loopback() && !self.insecure {
                return Err(ConnectError::TokenInClear { url: self.url.clone() });
            }
            token.check()?;
        }
        // A server that vanished is noticed within 20 s: ping after 5 s, give up 10 s later.
        let endpoint = endpoint
            .connect_timeout(ATTEMPT)
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(10));
        Ok(Target { endpoint, dialler: Dialler::new(host, tls) })
    }
}

/// Whom to connect to, and how.
struct Target {
    endpoint: Endpoint,
    dialler: Dialler,
}

/// What a failure to connect comes down to.
fn refused(url: &str, error: &tonic::transport::Error) -> ConnectError {
    let url = url.to_owned();
    let cause = error.source().and_then(handshake_error);
    match cause {
        Some(HandshakeError::Certificate(why)) => ConnectError::NotTrusted { url, why: why.clone() },
        Some(other) => ConnectError::NoTls { url, why: Chain(other).to_string() },
        None => {
            let why = Chain(error.source().unwrap_or(error)).to_string();
            ConnectError::Unreachable { url, why }
        }
    }
}

fn handshake_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e HandshakeError> {
    error.downcast_ref().or_else(|| error.source().and_then(handshake_error))
}
