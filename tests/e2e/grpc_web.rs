//! The service answers gRPC-Web too, and web pages from elsewhere never.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use http_body_util::{BodyExt, Full};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::body::Body;
use tower::{Service, ServiceExt};
use tunnel_api::rpc::v1::{ListTunnelsRequest, OpenTunnelRequest, OpenTunnelResponse};
use tunnel_server::{Running, config::AdminListen};
use tunnel_tests::{
    certificates::Certificates,
    client::hear_out,
    credentials::CredentialsFile,
    limit::within,
    metrics::scrape,
    server::{channel, rpc, server, server_with},
};

/// An answer by HTTP/1.1: its head in lower case, and its body.
async fn ask(server: &Running, path: &str, headers: &str, body: &[u8]) -> (String, Vec<u8>) {
    let addr = server.addr();
    let host = if headers.contains("host:") { String::new() } else { format!("host: {addr}\r\n") };
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\n{host}connection: close\r\ncontent-length: {length}\r\n{headers}\r\n\r\n");
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    let answer = timeout(Duration::from_secs(10), hear_out(&mut socket)).await.expect("an answer").0;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let body = &answer[end + 4..];
    (head.clone(), if head.contains("transfer-encoding: chunked") { dechunked(body) } else { body.to_vec() })
}

fn dechunked(mut chunks: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = chunks.windows(2).position(|two| two == b"\r\n").expect("a chunk");
        let length = usize::from_str_radix(std::str::from_utf8(&chunks[..line]).unwrap(), 16).unwrap();
        if length == 0 {
            return body;
        }
        chunks = &chunks[line + 2..];
        body.extend_from_slice(&chunks[..length]);
        chunks = &chunks[length + 2..];
    }
}

fn framed(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat()
}

/// The frames of an answer: whether each is the trailers, and what is in it.
fn frames(mut body: &[u8]) -> Vec<(bool, Vec<u8>)> {
    let mut frames = Vec::new();
    while !body.is_empty() {
        let length = u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize;
        frames.push((body[0] == 0x80, body[5..5 + length].to_vec()));
        body = &body[5 + length..];
    }
    frames
}

/// That it is one message and a good status, in binary.
fn opened(body: &[u8]) -> OpenTunnelResponse {
    let frames = frames(body);
    let [(false, message), (true, trailers)] = &frames[..] else { panic!("{frames:?}") };
    assert!(String::from_utf8_lossy(trailers).contains("grpc-status:0"), "{trailers:?}");
    OpenTunnelResponse::decode(&message[..]).unwrap()
}

/// Base64, each frame padded by itself.
fn decoded(text: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    for quantum in text.chunks(4) {
        all.extend(STANDARD.decode(quantum).expect("base64"));
    }
    all
}

async fn tunnels(server: &Running) -> usize {
    rpc(server).await.list_tunnels(ListTunnelsRequest::default()).await.unwrap().into_inner().tunnels.len()
}

const OPEN: &str = "/tunnel.v1.Tunnel/OpenTunnel";
const WATCH: &str = "/tunnel.v1.Tunnel/WatchTunnels";

#[tokio::test]
async fn a_call_by_grpc_web_is_answered_over_http_1() {
    within(async {
        let server = server().await;
        let request = framed(&OpenTunnelRequest::default());
        for spelling in ["application/grpc-web", "application/grpc-web+proto", "Application/gRPC-Web; charset=x"] {
            let (head, body) = ask(&server, OPEN, &format!("content-type: {spelling}"), &request).await;
            assert!(head.starts_with("http/1.1 200"), "{head}");
            assert!(head.contains("content-type: application/grpc-web+proto"), "{head}");
            assert!(opened(&body).address.starts_with("tcp://"), "{spelling}");
        }
        for spelling in ["application/grpc-web-text", "application/grpc-web-text+proto"] {
            let request = STANDARD.encode(&request);
            let (head, body) = ask(&server, OPEN, &format!("content-type: {spelling}"), request.as_bytes()).await;
            assert!(head.contains("content-type: application/grpc-web-text+proto"), "{head}");
            assert!(opened(&decoded(&body)).address.starts_with("tcp://"), "{spelling}");
        }
        assert_eq!(tunnels(&server).await, 5);
        let (head, _) = ask(&server, OPEN, "content-type: application/grpc-web+json", b"{}").await;
        assert!(head.starts_with("http/1.1 415"), "{head}");
    })
    .await;
}

#[tokio::test]
async fn a_call_by_grpc_web_is_answered_over_http_2() {
    within(async {
        let server = server().await;
        let request = http::Request::post(OPEN)
            .header("content-type", "application/grpc-web+proto")
            .body(Body::new(Full::from(framed(&OpenTunnelRequest::default()))))
            .unwrap();
        let mut channel = channel(&server).await;
        let response = channel.ready().await.unwrap().call(request).await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/grpc-web+proto");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(opened(&body).address.starts_with("tcp://"));
    })
    .await;
}

/// Before they have been looked at, and after.
#[tokio::test]
async fn refusals_are_such_that_a_grpc_web_caller_can_read_them() {
    within(async {
        let credentials = CredentialsFile::new();
        let token = credentials.add("alice");
        let server = server_with(|config| {
            config.credentials = Some(credentials.path());
            config.admin.listen = AdminListen::At(([127, 0, 0, 1], 0).into());
        })
        .await;
        let token = format!("\r\nauthorization: Bearer {}", token.expose());
        let wrong = framed(&OpenTunnelRequest { address: "tcp://:1".to_owned(), ..OpenTunnelRequest::default() });
        for (path, more, status, words) in [
            (OPEN, "", "16", "token-file"),
            (OPEN, &*token, "7", "grants"),
            ("/tunnel.v2.Tunnel/OpenTunnel", &token, "12", "reflection"),
        ] {
            for (kind, asked) in [("", wrong.clone()), ("-text", STANDARD.encode(&wrong).into_bytes())] {
                let headers = format!("content-type: application/grpc-web{kind}{more}");
                let (head, body) = ask(&server, path, &headers, &asked).await;
                assert!(head.starts_with("http/1.1 200"), "{head}");
                assert!(head.contains(&format!("content-type: application/grpc-web{kind}+proto")), "{head}");
                assert!(head.contains(&format!("grpc-status: {status}\r\n")), "{path}: {head}");
                assert!(head.contains(words), "{path}: {head}");
                assert!(body.is_empty(), "{body:?}");
            }
        }
        let shown = scrape(&server).await;
        assert_eq!(shown.value("tunnel_refusals_total{what=\"call\",reason=\"UNAUTHENTICATED\"}"), 2.0);
    })
    .await;
}

#[tokio::test]
async fn whose_host_is_nobodys_is_told_so_in_grpc_web() {
    within(async {
        let server = server().await;
        let headers = "host: nobody.localhost\r\ncontent-type: application/grpc-web-text";
        let (head, _) = ask(&server, OPEN, headers, b"AAAAAAA=").await;
        assert!(head.contains("grpc-status: 5\r\n"), "{head}");
        assert!(head.contains("content-type: application/grpc-web-text+proto"), "{head}");
    })
    .await;
}

#[tokio::test]
async fn a_watch_by_grpc_web_tells_each_event_at_once_and_ends_when_its_caller_is_gone() {
    within(async {
        let server = server().await;
        let mut socket = TcpStream::connect(server.addr()).await.unwrap();
        let head = format!(
            "POST {WATCH} HTTP/1.1\r\nhost: h\r\ncontent-type: application/grpc-web+proto\r\ncontent-length: 5\r\n\r\n"
        );
        socket.write_all(&[head.as_bytes(), &[0; 5]].concat()).await.unwrap();
        let mut heard = Vec::new();
        read_until(&mut socket, &mut heard, b"\r\n\r\n").await;
        let head = String::from_utf8_lossy(&heard).to_ascii_lowercase();
        assert!(head.contains("x-accel-buffering: no"), "{head}");

        let request = OpenTunnelRequest { name: "told-at-once".to_owned(), ..OpenTunnelRequest::default() };
        rpc(&server).await.open_tunnel(request).await.unwrap();
        read_until(&mut socket, &mut heard, b"told-at-once").await;

        socket.shutdown().await.unwrap();
        timeout(Duration::from_secs(10), hear_out(&mut socket)).await.expect("the watch ends");
    })
    .await;
}

async fn read_until(socket: &mut TcpStream, heard: &mut Vec<u8>, what: &[u8]) {
    while !heard.windows(what.len()).any(|some| some == what) {
        let read = timeout(Duration::from_secs(10), socket.read_buf(heard)).await.expect("more").unwrap();
        assert_ne!(read, 0, "it ended: {}", String::from_utf8_lossy(heard));
    }
}

/// In a browser on this machine: what it lets a page send to a name of the page's own, which leads here now (DNS rebinding), or to
/// any other server after a preflight.
#[tokio::test]
async fn a_page_from_elsewhere_opens_no_tunnel() {
    within(async {
        let server = server_with(|config| config.admin.listen = AdminListen::At(([127, 0, 0, 1], 0).into())).await;
        let request = framed(&OpenTunnelRequest::default());
        let port = server.addr().port();
        let own = format!("http://127.0.0.1:{port}");
        let rebound = format!("host: evil.example:{port}\r\norigin: http://evil.example:{port}");
        let refused = [
            rebound,
            "origin: http://evil.example".to_owned(),
            "origin: null".to_owned(),
            format!("origin: {own}\r\norigin: {own}"),
            "origin: http://127.0.0.1:20000".to_owned(),
        ];
        for headers in &refused {
            for kind in ["application/grpc-web+proto", "application/grpc-web-text", "application/grpc"] {
                let (head, _) = ask(&server, OPEN, &format!("content-type: {kind}\r\n{headers}"), &request).await;
                // What is in the domain and nobody's is asked for nothing, whatever it is.
                let is_nobodys = head.contains("tunnel-error: unknown-host");
                let is_refused = head.starts_with("http/1.1 403") || head.starts_with("http/1.1 400");
                assert!(is_refused || is_nobodys, "{headers}: {head}");
                assert!(!head.contains("access-control"), "{head}");
            }
        }
        assert_eq!(tunnels(&server).await, 0);
        let shown = scrape(&server).await;
        assert!(shown.value("tunnel_refusals_total{what=\"call\",reason=\"FOREIGN_PAGE\"}") > 0.0, "{shown:?}");

        let headers = format!("content-type: application/grpc-web+proto\r\norigin: {own}");
        let (head, body) = ask(&server, OPEN, &headers, &request).await;
        assert!(!head.contains("access-control"), "{head}");
        opened(&body);
    })
    .await;
}

#[tokio::test]
async fn a_page_from_elsewhere_gets_no_permission_to_call() {
    within(async {
        let server = server().await;
        let mut socket = TcpStream::connect(server.addr()).await.unwrap();
        let preflight = format!(
            "OPTIONS {OPEN} HTTP/1.1\r\nhost: {}\r\norigin: http://evil.example\r\nconnection: close\r\n\
             access-control-request-method: POST\r\naccess-control-request-headers: content-type,x-grpc-web\r\n\r\n",
            server.addr()
        );
        socket.write_all(preflight.as_bytes()).await.unwrap();
        let answer = String::from_utf8_lossy(&hear_out(&mut socket).await.0).to_ascii_lowercase();
        assert!(!answer.starts_with("http/1.1 2") && !answer.contains("access-control"), "{answer}");
    })
    .await;
}

/// Nobody else has the certificate for the name, so nobody could have rebound it.
#[tokio::test]
async fn by_tls_the_servers_own_pages_may_call_it_by_any_name() {
    within(async {
        let certificates = Certificates::new();
        let server = server_with(|config| certificates.serve(config)).await;
        let port = server.addr().port();
        for (origin, status) in [
            (format!("https://any.example:{port}"), 200),
            (format!("http://any.example:{port}"), 403),
            ("https://any.example".to_owned(), 403),
        ] {
            let socket = TcpStream::connect(server.addr()).await.unwrap();
            let tls = tunnel_api::tls::ClientTls::new(certificates.trust(), None);
            let mut stream = tls.connect(socket, &"127.0.0.1".parse().unwrap(), b"http/1.1").await.unwrap();
            let head = format!(
                "POST {OPEN} HTTP/1.1\r\nhost: any.example:{port}\r\norigin: {origin}\r\nconnection: close\r\n\
                 content-type: application/grpc-web+proto\r\ncontent-length: 5\r\n\r\n"
            );
            stream.write_all(&[head.as_bytes(), &[0; 5]].concat()).await.unwrap();
            let mut answer = vec![0; 12];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, format!("HTTP/1.1 {status}").as_bytes(), "{origin}");
        }
    })
    .await;
}
