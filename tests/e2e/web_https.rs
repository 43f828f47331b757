//! Web clients that come by TLS, which ends at the server.

use std::sync::Arc;

use axum::{Router, http::HeaderMap, routing::any};
use http::Request;
use http_body_util::BodyExt;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tunnel_api::tls::{certificates, provider};
use tunnel_server::Running;
use tunnel_tests::{
    certificates::Certificates,
    limit::within,
    server::server_with,
    web::{Site, Way, body, get, serve},
};

async fn https(certificates: &Certificates) -> Running {
    certificates.issue("server", &["127.0.0.1", "localhost", "blog.localhost", "shop.localhost"]);
    server_with(|config| certificates.serve(config)).await
}

/// A site whose agent dials in as it is told, which for callers on this host need not be by TLS.
async fn blog(server: &Running) -> Site {
    let url = server.url().replace("https://", "http://");
    let mut rpc = tunnel_api::rpc::v1::client::TunnelClient::connect(url).await.unwrap();
    let opened = rpc.open_tunnel(Way::Requests.request("https://blog")).await.unwrap().into_inner();
    let shown = any(async |headers: HeaderMap| format!("{:?}", headers["x-forwarded-proto"]));
    serve(Way::Requests, opened, Router::new().fallback(shown)).await
}

async fn connect(server: &Running, certs: &Certificates, name: &str, alpn: &[u8]) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificates(&certs.path("ca.pem")).unwrap().remove(0)).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let socket = TcpStream::connect(server.addr()).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(name.to_owned().try_into().unwrap(), socket).await.unwrap()
}

async fn answer(mut stream: TlsStream<TcpStream>, words: &str) -> String {
    stream.write_all(words.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_site_is_served_by_tls_with_either_http() {
    within(async {
        let certificates = Certificates::new();
        let server = https(&certificates).await;
        let blog = blog(&server).await;
        assert_eq!(blog.opened.address, format!("https://blog.localhost:{}/", server.addr().port()));
        let stream = connect(&server, &certificates, "blog.localhost", b"http/1.1").await;
        let heard = answer(stream, &get("blog.localhost", "/")).await;
        assert!(heard.starts_with("HTTP/1.1 200 ") && heard.ends_with("\"https\""), "{heard}");

        let stream = connect(&server, &certificates, "blog.localhost", b"h2").await;
        let (mut client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let driver = tokio::spawn(connection);
        let request = Request::get("https://blog.localhost/").body(body("")).unwrap();
        let heard = client.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(heard, "\"https\"");
        driver.abort();
    })
    .await;
}

#[tokio::test]
async fn a_request_for_another_site_than_the_connections_is_misdirected() {
    within(async {
        let certificates = Certificates::new();
        let server = https(&certificates).await;
        let _blog = blog(&server).await;
        for name in ["shop.localhost", "localhost"] {
            let stream = connect(&server, &certificates, name, b"http/1.1").await;
            let heard = answer(stream, &get("blog.localhost", "/")).await;
            assert!(
                heard.starts_with("HTTP/1.1 421 ") && heard.contains("tunnel-error: misdirected"),
                "{name}: {heard}"
            );
        }
        // Whoever names nobody, as where the server is called by its address, names nobody else.
        let stream = connect(&server, &certificates, "127.0.0.1", b"http/1.1").await;
        assert!(answer(stream, &get("blog.localhost", "/")).await.starts_with("HTTP/1.1 200 "));
    })
    .await;
}
