use std::{error::Error, time::Duration};

use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tonic::transport::{Endpoint, Uri};
use tower::{Service, ServiceExt, service_fn};

use super::{
    RemoteBackend,
    status::Chain,
    token::{Credentials, Token, TokenError},
    wire::Wire,
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

    /// Connects. The connection comes back by itself.
    pub async fn connect(self) -> Result<RemoteBackend, ConnectError> {
        let target = self.target()?;
        let connected = target.endpoint.connect_with_connector(service_fn(dialler(&target))).await;
        let channel = connected.map_err(|error| refused(&self.url, &error))?;
        Ok(RemoteBackend::with(channel, Credentials(self.token)))
    }

    /// As [`connect`](Self::connect), but the connection is made by the first call.
    pub fn connect_lazy(self) -> Result<RemoteBackend, ConnectError> {
        let target = self.target()?;
        let channel = target.endpoint.connect_with_connector_lazy(service_fn(dialler(&target)));
        Ok(RemoteBackend::with(channel, Credentials(self.token)))
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
        Ok(Target { endpoint, host, tls })
    }
}

/// Whom to connect to, and how.
struct Target {
    endpoint: Endpoint,
    host: Host,
    tls: Option<ClientTls>,
}

type BoxError = Box<dyn Error + Send + Sync>;

/// Makes a connection whenever the channel needs one.
fn dialler(target: &Target) -> impl FnMut(Uri) -> Dialling + Clone + Send + 'static + use<> {
    let (host, tls) = (target.host.clone(), target.tls.clone());
    let mut http = HttpConnector::new();
    // It takes https URLs, too: the TLS is ours.
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(ATTEMPT));
    move |uri| Box::pin(dial(http.clone(), uri, host.clone(), tls.clone()))
}

type Dialling = std::pin::Pin<Box<dyn Future<Output = Result<TokioIo<Wire>, BoxError>> + Send>>;

/// Bounded as a whole by the endpoint's `connect_timeout`.
async fn dial(
    mut http: HttpConnector,
    uri: Uri,
    host: Host,
    tls: Option<ClientTls>,
) -> Result<TokioIo<Wire>, BoxError> {
    let socket = http.ready().await?.call(uri).await?.into_inner();
    let wire = match tls {
        Some(tls) => Wire::tls(tls.connect(socket, &host, b"h2").await?),
        None => Wire::plain(socket),
    };
    Ok(TokioIo::new(wire))
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

/// A server that is there answers within this even on a bad path.
const ATTEMPT: Duration = Duration::from_secs(4);
