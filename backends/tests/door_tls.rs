//! The door, with TLS and where it demands it.

use std::{convert::Infallible, fs, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tower::service_fn;
use tunnel_api::{
    ConnectionAddrs,
    tls::{ClientCertificate, ClientTls, Trust, certificates},
};
use tunnel_backends::{
    carrier::ptth::Gate,
    door::{Door, DoorTerms, Encryption, HttpBody, HttpService, PeerCertificate},
    sockets,
    tls::{ServerTls, TlsFiles},
};

/// Answers with what it is told of the connection.
fn tells() -> HttpService {
    HttpService::new(service_fn(async |request: Request<Incoming>| {
        let addrs = request.extensions().get::<ConnectionAddrs>().expect("the connection's addresses");
        let certificate = request.extensions().get::<PeerCertificate>().map(|PeerCertificate(der)| der.len());
        let told = format!("encrypted: {}, certificate: {certificate:?}", addrs.encrypted);
        let body = Full::new(Bytes::from(told)).map_err(|never: Infallible| match never {});
        Ok::<_, Infallible>(Response::new(HttpBody::new(body)))
    }))
}

fn door(terms: DoorTerms) -> Door {
    let listener = sockets::listen(([127, 0, 0, 1], 0).into()).expect("a port");
    Door::open(listener, terms, Gate::new().in_front_of(tells())).expect("a door")
}

/// As if this host were elsewhere.
fn demanding() -> DoorTerms {
    let encryption = Encryption { terminated_by: Vec::new(), plain_from: Vec::new() };
    DoorTerms { encryption, ..DoorTerms::default() }
}

/// An authority's certificate, and one that it has issued.
struct Issued {
    directory: TempDir,
}

impl Issued {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut authority = CertificateParams::new(Vec::new()).expect("a certificate");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(authority, key).expect("an authority");
        let own = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a certificate");
        let certificate = certificate.signed_by(&own, &authority).expect("a certificate");
        for (name, text) in [("ca", authority.pem()), ("own", certificate.pem()), ("key", own.serialize_pem())] {
            fs::write(directory.path().join(name), text).expect("a file");
        }
        Self { directory }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// Serves with it; callers may have one of `clients`.
    fn terms(&self, clients: &Self) -> DoorTerms {
        let client_ca = Some(clients.path("ca"));
        let files = TlsFiles { certificate: self.path("own"), key: self.path("key"), client_ca };
        DoorTerms { tls: Some(ServerTls::load(files).expect("certificates")), ..demanding() }
    }

    fn certificate(&self) -> ClientCertificate {
        ClientCertificate::from_files(&self.path("own"), &self.path("key")).expect("a pair")
    }

    fn length(&self) -> usize {
        certificates(&self.path("own")).expect("a certificate")[0].len()
    }
}

async fn ask(mut io: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> std::io::Result<String> {
    io.write_all(request.as_bytes()).await?;
    io.flush().await?;
    let mut answer = String::new();
    timeout(Duration::from_secs(10), io.read_to_string(&mut answer)).await.expect("an end")?;
    Ok(answer)
}

const GET: &str = "GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn where_encryption_is_demanded_plain_http_1_is_told_what_to_use() {
    let door = door(demanding());
    let agent = "GET /.well-known/ptth/t-1/ HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: ptth\r\n\r\n";
    for request in [GET, agent] {
        let answer = ask(TcpStream::connect(door.addr()).await.unwrap(), request).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        assert!(answer.contains("use https:// instead of http://") && answer.contains("ptths://"), "{answer}");
    }
}

#[tokio::test]
async fn where_encryption_is_demanded_plain_grpc_is_told_what_to_use() {
    let door = door(demanding());
    let socket = TcpStream::connect(door.addr()).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(socket).await.unwrap();
    let connection = tokio::spawn(connection);
    let request =
        Request::post("http://h/any.Service/Any").header("content-type", "application/grpc").body(()).unwrap();
    let (response, _) = sender.send_request(request, true).unwrap();
    let response = timeout(Duration::from_secs(10), response).await.expect("an answer").unwrap();
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    assert_eq!((response.status().as_u16(), header("grpc-status")), (200, "16"));
    assert!(header("grpc-message").contains("use https://"), "{response:?}");
    connection.abort();
}

#[tokio::test]
async fn a_callers_certificate_reaches_its_requests_and_none_is_needed() {
    let (server, clients) = (Issued::new(), Issued::new());
    let door = door(server.terms(&clients));
    let trust = || Trust::ca_file(&server.path("ca")).unwrap();
    for (own, told) in [(Some(clients.certificate()), Some(clients.length())), (None, None)] {
        let tls = ClientTls::new(trust(), own);
        let socket = TcpStream::connect(door.addr()).await.unwrap();
        let stream = tls.connect(socket, &"127.0.0.1".parse().unwrap(), b"http/1.1").await.unwrap();
        let answer = ask(stream, GET).await.unwrap();
        let expected = format!("encrypted: true, certificate: {told:?}");
        assert!(answer.ends_with(&expected), "{answer} is not {expected}");
    }
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_no_way_in() {
    let (server, clients) = (Issued::new(), Issued::new());
    let door = door(server.terms(&clients));
    let tls = ClientTls::new(Trust::ca_file(&server.path("ca")).unwrap(), Some(server.certificate()));
    let socket = TcpStream::connect(door.addr()).await.unwrap();
    // In TLS 1.3 the client has shaken hands before the server has looked.
    let answer = match tls.connect(socket, &"127.0.0.1".parse().unwrap(), b"http/1.1").await {
        Ok(stream) => ask(stream, GET).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let refused = answer.unwrap_err();
    assert!(refused.contains("UnknownCA") || refused.contains("DecryptError"), "{refused}");
}

/// Whoever is between cannot end what is said to us.
#[tokio::test]
async fn a_door_that_is_closed_says_goodbye_in_tls() {
    let server = Issued::new();
    let door = door(server.terms(&server));
    let tls = ClientTls::new(Trust::ca_file(&server.path("ca")).unwrap(), None);
    let socket = TcpStream::connect(door.addr()).await.unwrap();
    let mut stream = tls.connect(socket, &"127.0.0.1".parse().unwrap(), b"http/1.1").await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    let mut first = [0; 8];
    stream.read_exact(&mut first).await.unwrap();
    let closed = Arc::new(tokio::sync::Notify::new());
    let told = closed.clone();
    tokio::spawn(async move {
        door.close(Duration::from_secs(5)).await;
        told.notify_one();
    });
    // An end without a goodbye would be an error.
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    stream.shutdown().await.unwrap();
    closed.notified().await;
}
