use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::Response;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tunnel_api::Host;
use tunnel_backends::{
    composed::Times,
    door::{DoorTerms, Encryption, HttpService, ServerName},
    names::{Names, localhost},
    quarantine::Quarantine,
    testing::client::{Heard, hear, hear_exactly, say},
    web::WebTerms,
};

use crate::site::{
    DECODE_ERROR, HANDSHAKE_FAILURE, Issued, Site, UNRECOGNIZED_NAME, alert, answers, client_hello, connect, dial,
    door, whole,
};

#[tokio::test]
async fn where_there_is_no_tls_a_name_that_is_nobodys_is_unrecognized() {
    let site = Site::new();
    let _other = site.open("tls://other").await;
    let mut client = site.connect().await;
    say(&mut client, &client_hello("db.localhost")).await;
    assert_eq!(hear(&mut client).await, Heard::finished_after(&alert(UNRECOGNIZED_NAME)));
}

#[tokio::test]
async fn where_there_is_no_tls_a_client_that_names_nobody_gets_a_handshake_failure() {
    let mut client = Site::new().connect().await;
    say(&mut client, &client_hello("192.0.2.1")).await;
    assert_eq!(hear(&mut client).await, Heard::finished_after(&alert(HANDSHAKE_FAILURE)));
}

/// Also where the client goes on talking: closing with something unread would take it back.
#[tokio::test]
async fn what_is_no_client_hello_gets_a_decode_error() {
    let mut client = Site::new().connect().await;
    say(&mut client, &[&[0x16, 3, 1, 0, 4, 2, 0, 0, 0][..], &[7; 64 * 1024]].concat()).await;
    client.shutdown().await.unwrap();
    assert_eq!(hear(&mut client).await, Heard::finished_after(&alert(DECODE_ERROR)));
}

#[tokio::test]
async fn a_client_hello_without_an_end_is_refused() {
    let mut client = Site::new().connect().await;
    let endless = [&[0x16, 3, 1, 0x40, 0, 1, 0, 0xff, 0][..], &[7; 40 * 1024]].concat();
    say(&mut client, &endless).await;
    client.shutdown().await.unwrap();
    assert_eq!(hear(&mut client).await, Heard::finished_after(&alert(DECODE_ERROR)));
}

#[tokio::test]
async fn a_slow_client_hello_is_cut_off() {
    let terms = DoorTerms { first_unit: Duration::from_millis(100), ..DoorTerms::default() };
    let site = Site::with(terms, Times::default(), 64);
    let _tunnel = site.open("tls://db").await;
    let mut client = site.connect().await;
    let hello = client_hello("db.localhost");
    say(&mut client, &hello[..hello.len() - 1]).await;
    assert_eq!(hear(&mut client).await, Heard::reset_after(b""));
}

/// Says what it is told.
fn tells() -> HttpService {
    answers(async |request| {
        let told = format!("{:?}", request.extensions().get::<ServerName>());
        Response::new(whole(told))
    })
}

async fn told(mut io: impl AsyncRead + AsyncWrite + Unpin) -> String {
    say(&mut io, b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await;
    String::from_utf8(hear(&mut io).await.bytes).unwrap()
}

#[tokio::test]
async fn requests_know_the_name_that_their_connection_was_made_with() {
    let issued = Issued::to("tunnels.example.com");
    let door = door(issued.terms(None), tells());
    let stream = issued.connect(connect(door.addr()).await, "tunnels.example.com").await.unwrap();
    let expected = format!("{:?}", Some(ServerName(Some("tunnels.example.com".parse().unwrap()))));
    let told_by_tls = told(stream).await;
    assert!(told_by_tls.ends_with(&expected), "{told_by_tls} is not {expected}");
    let told_plain = told(connect(door.addr()).await).await;
    assert!(told_plain.ends_with("None"), "{told_plain}");
}

#[tokio::test]
async fn requests_know_that_their_connection_was_made_without_a_name() {
    let issued = Issued::to("127.0.0.1");
    let door = door(issued.terms(None), tells());
    let stream = issued.connect(connect(door.addr()).await, "127.0.0.1").await.unwrap();
    let told = told(stream).await;
    assert!(told.ends_with("Some(ServerName(None))"), "{told}");
}

/// A browser would ask its user for one.
#[tokio::test]
async fn web_clients_of_tunnels_are_not_asked_for_a_certificate() {
    let (issued, clients) = (Issued::to("tunnels.example.com"), Issued::to("somebody"));
    let domain: Host = "tunnels.example.com".parse().unwrap();
    let names = Names::new(domain, [localhost()], Quarantine::new(Duration::ZERO));
    let door = door(DoorTerms { names: Some(names), ..issued.terms(Some(&clients)) }, tells());
    for (host, is_asked) in [("tunnels.example.com", true), ("blog.tunnels.example.com", false)] {
        let asked = is_asked_for_a_certificate(door.addr(), host).await;
        assert_eq!(asked, is_asked, "{host}");
    }
}

#[tokio::test]
async fn a_web_client_that_should_have_come_by_tls_is_sent_there() {
    let encryption = Encryption { terminated_by: Vec::new(), plain_from: Vec::new() };
    let site = Site::with(DoorTerms { encryption, ..DoorTerms::default() }, Times::default(), 64);
    let _blog = site.open("http://blog").await;
    let to = |host: &str| format!("{host}/a?b");
    for (method, host, status, sent_to) in [
        ("GET", "blog.localhost:8010", "308", Some(format!("https://{}", to("blog.localhost:8010")))),
        ("GET", "BLOG.localhost:80", "308", Some(format!("https://{}", to("blog.localhost")))),
        // It has said already what nobody should have heard.
        ("POST", "blog.localhost", "403", None),
        // And what is no tunnel's is not sent anywhere.
        ("GET", "localhost", "403", None),
    ] {
        let mut client = site.connect().await;
        let asked = format!("{method} /a?b HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        say(&mut client, asked.as_bytes()).await;
        let heard = String::from_utf8(hear(&mut client).await.bytes).unwrap();
        let location = heard.lines().find_map(|line| line.strip_prefix("location: ")).map(str::to_owned);
        assert!(heard.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {host}: {heard}");
        assert_eq!(location, sent_to, "{method} {host}");
    }
}

#[tokio::test]
async fn a_web_client_that_stops_in_the_middle_of_its_request_is_not_waited_for() {
    let terms = WebTerms { body_patience: Duration::from_millis(50) };
    let site = Site::with_web(terms);
    let opened = site.open("http://blog").await;
    for length in ["content-length: 9\r\n\r\npart", "transfer-encoding: chunked\r\n\r\n4\r\npart\r\n"] {
        let mut origin = dial(&opened).await;
        let mut client = site.connect().await;
        say(&mut client, format!("POST / HTTP/1.1\r\nhost: blog.localhost\r\n{length}").as_bytes()).await;
        let heard = hear(&mut client).await;
        assert!(heard.bytes.starts_with(b"HTTP/1.1 408 ") && heard.end.is_ok(), "{length:?}: {heard:?}");
        // And its origin does not take that for all of it.
        assert!(hear_exactly(&mut origin, 5).await == b"POST ", "{length:?}");
        assert!(hear(&mut origin).await.end.is_err(), "{length:?}");
    }
}

async fn is_asked_for_a_certificate(addr: SocketAddr, host: &str) -> bool {
    let asked = Arc::new(asks::Asked::default());
    let config = rustls::ClientConfig::builder_with_provider(tunnel_api::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(asks::Anybody))
        .with_client_cert_resolver(asked.clone());
    let connector = TlsConnector::from(Arc::new(config));
    let name = host.to_owned().try_into().unwrap();
    let _stream = connector.connect(name, connect(addr).await).await.unwrap();
    asked.0.load(Ordering::SeqCst)
}

mod asks {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use rustls::{
        DigitallySignedStruct, Error, SignatureScheme,
        client::{
            ResolvesClientCert,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        pki_types::{CertificateDer, ServerName, UnixTime},
        sign::CertifiedKey,
    };

    /// Notes that it is asked, and has none.
    #[derive(Debug, Default)]
    pub(super) struct Asked(pub(super) AtomicBool);

    impl ResolvesClientCert for Asked {
        fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            self.0.store(true, Ordering::SeqCst);
            None
        }

        fn has_certs(&self) -> bool {
            true
        }
    }

    /// Whoever it is.
    #[derive(Debug)]
    pub(super) struct Anybody;

    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            tunnel_api::tls::provider().signature_verification_algorithms.supported_schemes()
        }
    }
}
