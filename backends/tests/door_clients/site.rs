//! What the tests stand on: a backend with host names, a door in front of it, and certificates.

use std::{convert::Infallible, fs, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use prometheus_client::{encoding::text::encode, registry::Registry};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, client, server};
use tower::service_fn;
use tunnel_api::{
    AddressRequest, Caller, Host, OpenTunnel, OpenedTunnel, TunnelBackend,
    tls::{ClientTls, Trust, certificates, private_key, provider},
};
use tunnel_backends::{
    composed::{Composed, Times},
    door::{Door, DoorTerms, HttpBody, HttpService, Newcomer},
    front::named::NamedFronts,
    meters::Meters,
    names::{Names, localhost},
    quarantine::Quarantine,
    sockets,
    tcp::TcpConfig,
    testing::{Setup, soon},
    tls::{ServerTls, TlsFiles},
    tunnels::{Tunnels, TunnelsConfig},
    web::{Web, WebTerms},
};

/// A `tcp` backend whose tunnels may have names, and the door by which their clients come.
pub(crate) struct Site {
    pub(crate) door: Door,
    backend: Composed,
    meters: Arc<Meters>,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::with(DoorTerms::default(), Times::default(), 64)
    }

    pub(crate) fn with(terms: DoorTerms, times: Times, waiting_clients: usize) -> Self {
        let names = Names::new(localhost(), [], Quarantine::new(Duration::ZERO));
        Self::behind(names, terms, greets(), times, waiting_clients)
    }

    /// Whose web clients are given to its tunnels.
    pub(crate) fn with_web(terms: WebTerms) -> Self {
        let names = Names::new(localhost(), [], Quarantine::new(Duration::ZERO));
        let http = Web::new(names.clone(), terms).in_front_of(greets());
        Self::behind(names, DoorTerms::default(), http, Times::default(), 64)
    }

    fn behind(names: Arc<Names>, terms: DoorTerms, http: HttpService, times: Times, waiting_clients: usize) -> Self {
        let door = door(DoorTerms { names: Some(names.clone()), ..terms }, http);
        let setup = Setup::default();
        let fronts = NamedFronts { names, port: door.addr().port(), is_encrypted: false };
        let meters = Arc::new(Meters::default());
        let tunnels = Tunnels::with(TunnelsConfig { meters: meters.clone(), ..TunnelsConfig::default() });
        let config = TcpConfig::new("tcp", tunnels, setup.public_ports, setup.dial_in_ports);
        let backend = TcpConfig { names: Some(fronts), times, waiting_clients, ..config }.build();
        Self { door, backend, meters }
    }

    /// Opens a tunnel with this address.
    pub(crate) async fn open(&self, address: &str) -> OpenedTunnel {
        self.open_with(OpenTunnel { address: address.parse::<AddressRequest>().unwrap(), ..OpenTunnel::default() })
            .await
    }

    pub(crate) async fn open_with(&self, request: OpenTunnel) -> OpenedTunnel {
        let request = OpenTunnel { connections: Some(8), ..request };
        self.backend.open_tunnel(&Caller::embedded(), request).await.unwrap()
    }

    /// Clients that wait for an agent.
    pub(crate) fn clients_waiting(&self) -> u32 {
        metric(&self.meters, "tunnel_clients_waiting")
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        connect(self.door.addr()).await
    }
}

pub(crate) fn metric(meters: &Meters, name: &str) -> u32 {
    let (mut registry, mut text) = (Registry::default(), String::new());
    meters.register(&mut registry);
    encode(&mut text, &registry).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {text}"))
}

pub(crate) async fn connect(addr: SocketAddr) -> TcpStream {
    soon("a connection", TcpStream::connect(addr)).await.unwrap()
}

/// An agent's connection, on which nothing has been said.
pub(crate) async fn dial(tunnel: &OpenedTunnel) -> TcpStream {
    connect(([127, 0, 0, 1], tunnel.uri.port()).into()).await
}

pub(crate) fn door(terms: DoorTerms, http: HttpService) -> Door {
    let listener = sockets::listen(([127, 0, 0, 1], 0).into()).unwrap();
    Door::open(listener, terms, http).unwrap()
}

/// Answers every request as one of a web client's.
pub(crate) fn greets() -> HttpService {
    answers(async |_| Response::new(whole("hello")))
}

/// Answers every request of a web client's like this.
pub(crate) fn answers<A, F>(answer: A) -> HttpService
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<HttpBody>> + Send + 'static,
{
    HttpService::new(service_fn(move |request: Request<Incoming>| {
        request.extensions().get::<Newcomer>().expect("a newcomer").welcome();
        let answered = answer(request);
        async move { Ok::<_, Infallible>(answered.await) }
    }))
}

pub(crate) fn whole(text: impl Into<Bytes>) -> HttpBody {
    HttpBody::new(Full::new(text.into()).map_err(|never: Infallible| match never {}))
}

/// An authority's certificate, and one that it has issued.
pub(crate) struct Issued {
    directory: TempDir,
}

impl Issued {
    /// For this host.
    pub(crate) fn to(host: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let own = KeyPair::generate().unwrap();
        let mut certificate = CertificateParams::new(vec![host.to_owned()]).unwrap();
        // With the authority's name it would look self-signed.
        certificate.distinguished_name.push(DnType::CommonName, host);
        let certificate = certificate.signed_by(&own, &authority).unwrap();
        for (name, text) in [("ca", authority.pem()), ("own", certificate.pem()), ("key", own.serialize_pem())] {
            fs::write(directory.path().join(name), text).unwrap();
        }
        Self { directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn terms(&self, client_ca: Option<&Self>) -> DoorTerms {
        let client_ca = client_ca.map(|clients| clients.path("ca"));
        let files = TlsFiles { certificate: self.path("own"), key: self.path("key"), client_ca };
        DoorTerms { tls: Some(ServerTls::load(files).unwrap()), ..DoorTerms::default() }
    }

    /// The server's half of TLS, on an agent's connection.
    pub(crate) async fn accept(&self, socket: TcpStream) -> std::io::Result<server::TlsStream<TcpStream>> {
        let config = rustls::ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let chain = certificates(&self.path("own")).unwrap();
        let config =
            config.unwrap().with_no_client_auth().with_single_cert(chain, private_key(&self.path("key")).unwrap());
        TlsAcceptor::from(Arc::new(config.unwrap())).accept(socket).await
    }

    /// The client's half.
    pub(crate) async fn connect(&self, socket: TcpStream, host: &str) -> Result<client::TlsStream<TcpStream>, String> {
        let tls = ClientTls::new(Trust::ca_file(&self.path("ca")).unwrap(), None);
        let host: Host = host.parse().unwrap();
        let shaken = soon("a handshake", tls.connect(socket, &host, b"http/1.1")).await;
        shaken.map_err(|error| {
            std::error::Error::source(&error).map_or(error.to_string(), |cause| format!("{error}: {cause}"))
        })
    }
}

/// What a client of TLS says first.
pub(crate) fn client_hello(host: &str) -> Vec<u8> {
    let config = rustls::ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let config = config.unwrap().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let name = host.to_owned().try_into().unwrap();
    let mut said = Vec::new();
    rustls::ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut said).unwrap();
    said
}

/// A fatal alert, as it is on the wire.
pub(crate) fn alert(code: u8) -> [u8; 7] {
    [0x15, 3, 3, 0, 2, 2, code]
}

pub(crate) const UNRECOGNIZED_NAME: u8 = 112;
pub(crate) const HANDSHAKE_FAILURE: u8 = 40;
pub(crate) const DECODE_ERROR: u8 = 50;
pub(crate) const ACCESS_DENIED: u8 = 49;
pub(crate) const INTERNAL_ERROR: u8 = 80;
