use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Service};
use tunnel_api::{
    Caller, NameError, TunnelBackend, TunnelError,
    rpc::{Connect, ConnectError, Token, TokenError},
    tls::{ClientCertificate, ClientTls, Trust},
};
use tunnel_backends::carrier::DialError;

use crate::{
    RequestBody, ServedTunnel, Tunnel, TunnelListener,
    forward::Straight,
    held::Held,
    serve::{App, Serving},
    stream::Taker,
};

/// Opens tunnels.
#[derive(Clone)]
pub struct Agent {
    backend: Arc<dyn TunnelBackend>,
    tls: ClientTls,
}

/// How to connect to a tunnel server, where its URL does not say it all.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use tunnel_agent::{Agent, Trust};
///
/// let agent = Agent::builder("https://tunnels.example:8010")
///     .trust(Trust::ca_file("ca.pem".as_ref())?)
///     .token_file("token")
///     .connect()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "it connects when connect is called"]
pub struct AgentBuilder {
    url: String,
    trust: Trust,
    certificate: Option<ClientCertificate>,
    token: Option<Result<Token, TokenError>>,
    insecure: bool,
}

/// Why a tunnel could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The server refused; its message says what to do.
    #[error(transparent)]
    Refused(#[from] TunnelError),
    /// The name is none.
    #[error("not a tunnel name: {0}")]
    BadName(#[from] NameError),
    /// The name would be the host name too, and can be none.
    #[error("the name {0} can be no host name; give the tunnel a host besides, or a name of letters, digits and '-'")]
    NameIsNoHost(String),
    /// The host is none.
    #[error("{0:?} is no host name; write one such as blog or blog.example.com")]
    BadHost(String),
    /// A listener was asked to take requests.
    #[error("a listener takes connections and no requests; answer requests with Agent::serve")]
    ListensForConnections,
    /// The server offers a tunnel that this agent has no dialler for.
    #[error(transparent)]
    CannotDial(#[from] DialError),
}

impl Agent {
    /// An agent of the tunnel server at `url`, such as `https://tunnels.example:8010`, trusting whom this system trusts.
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::builder(url).connect().await
    }

    /// The same with a token, or trusting others.
    pub fn builder(url: impl Into<String>) -> AgentBuilder {
        AgentBuilder { url: url.into(), trust: Trust::system(), certificate: None, token: None, insecure: false }
    }

    /// An agent of a backend in this process.
    pub fn embedded(backend: Arc<dyn TunnelBackend>) -> Self {
        Self { backend, tls: ClientTls::default() }
    }

    /// Dials `ptths` tunnels so: for backends behind which there is a server elsewhere.
    #[must_use]
    pub fn with_tls(mut self, tls: ClientTls) -> Self {
        self.tls = tls;
        self
    }

    /// Opens a tunnel and starts dialling in. It stays open until the listener is dropped and the streams it gave out have
    /// ended.
    ///
    /// Clients of [`Tunnel::http`] come as connections, on which they speak HTTP; [`serve`](Self::serve) answers their requests.
    pub async fn open(&self, tunnel: Tunnel) -> Result<TunnelListener, OpenError> {
        let (offers_in, offers) = mpsc::channel(1);
        let straight = Straight::default();
        let taker = Taker::Listener(offers_in, straight.clone());
        let held = self.hold(tunnel.of_connections()?, taker, CancellationToken::new()).await?;
        Ok(TunnelListener::new(held, offers, straight))
    }

    /// Opens a tunnel and answers what comes through it with `app`: an axum `Router`, or any tower service that takes requests.
    ///
    /// ```no_run
    /// # async fn example(app: axum::Router) -> Result<(), Box<dyn std::error::Error>> {
    /// use tunnel_agent::{Agent, Tunnel};
    ///
    /// let served = Agent::connect("http://127.0.0.1:8010").await?.serve(Tunnel::http().name("blog"), app).await?;
    /// println!("{}", served.address());
    /// served.closed().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Where the wire carries requests, each is given to the app as it comes, and what the app answers goes back as it is made. On
    /// connections HTTP/1.1 and HTTP/2 are spoken. Upgrades look as HTTP/1.1's do on both, so axum's `WebSocketUpgrade` works. The
    /// client's [`Peer`](crate::Peer) is among the request's extensions, and axum's `ConnectInfo<Peer>` can be had.
    ///
    /// A request's body ends in an error where the client breaks off; a client that is gone drops the app's future. An answer whose
    /// body fails, a service's error and a panic are that client's only: it sees an abort.
    pub async fn serve<S, B>(&self, tunnel: Tunnel, app: S) -> Result<ServedTunnel, OpenError>
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let hang_up = CancellationToken::new();
        let serving = Serving::new(App::new(app), hang_up.clone());
        Ok(ServedTunnel::new(self.hold(tunnel, Taker::App(serving), hang_up).await?))
    }

    async fn hold(&self, tunnel: Tunnel, taker: Taker, hang_up: CancellationToken) -> Result<Held, OpenError> {
        let request = tunnel.request(None)?;
        let opened = self.backend.open_tunnel(&Caller::embedded(), request).await?;
        Held::start(self.backend.clone(), self.tls.clone(), tunnel, opened, taker, hang_up).map_err(Into::into)
    }
}

impl AgentBuilder {
    /// Trusts these servers, for calls and for dialling in.
    pub fn trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// Shows this certificate to servers that ask for one.
    pub fn client_certificate(mut self, certificate: ClientCertificate) -> Self {
        self.certificate = Some(certificate);
        self
    }

    /// Shows this token with each call. Off this host it goes encrypted only.
    pub fn token(mut self, token: &str) -> Self {
        self.token = Some(Token::value(token));
        self
    }

    /// Shows the token in this file with each call. The file is read each time, so that it can be replaced.
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token = Some(Ok(Token::file(path)));
        self
    }

    /// The token may go out unencrypted: for networks in which nobody else can read.
    pub fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// Connects.
    pub async fn connect(self) -> Result<Agent, ConnectError> {
        let mut tls = ClientTls::new(self.trust, self.certificate);
        if self.url.get(..HTTPS.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(HTTPS)) {
            tls = tls.demanded();
        }
        let mut connect = Connect::to(self.url).tls(tls.clone());
        if let Some(token) = self.token {
            connect = connect.token(token?);
        }
        if self.insecure {
            connect = connect.insecure();
        }
        Ok(Agent::embedded(Arc::new(connect.connect().await?)).with_tls(tls))
    }
}

const HTTPS: &str = "https://";

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").finish_non_exhaustive()
    }
}
