//! What begins as a request and goes on as a connection.

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderValue, Response, StatusCode},
    routing::any,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tunnel_tests::{
    client::{Ended, hear_out},
    limit::within,
    server::server,
    web::{Way, hear_answer, hear_head, say, site, site_without_protocols},
};

each_way! {
    a_websocket_goes_through
    any_upgrade_goes_through_with_what_came_at_once
    what_follows_a_refused_upgrade_is_a_request_of_its_own
    a_connection_ends_as_it_ends
}

/// Echoes what is said after an upgrade, however it is asked for; at `/no` it would rather not.
fn echo() -> Router {
    Router::new().fallback(any(async |mut request: Request| {
        if request.uri().path() == "/no" {
            return Response::new(Body::from("no"));
        }
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgraded.await.unwrap());
            io.write_all(b"hello ").await.unwrap();
            let mut heard = [0; 1024];
            loop {
                match io.read(&mut heard).await.unwrap() {
                    0 => return io.shutdown().await.unwrap(),
                    // It breaks off.
                    _ if heard[0] == b'!' => return,
                    some => io.write_all(&heard[..some]).await.unwrap(),
                }
            }
        });
        let mut response = Response::new(Body::empty());
        let is_connect = request.extensions().get::<hyper::ext::Protocol>().is_some();
        let key = request.headers().get("sec-websocket-key").is_some();
        if !is_connect {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
            response.headers_mut().insert("upgrade", request.headers()["upgrade"].clone());
            if key {
                let accept = HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
                response.headers_mut().insert("sec-websocket-accept", accept);
            }
        }
        response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("chat"));
        response
    }))
}

fn upgrade(path: &str, protocol: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: blog.localhost\r\nconnection: Upgrade\r\nupgrade: {protocol}\r\n{more}\r\n")
}

const KEY: &str =
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\nsec-websocket-protocol: chat\r\n";

async fn a_websocket_goes_through(way: Way) {
    let server = server().await;
    let _blog = site(&server, way, "http://blog", echo()).await;
    let mut client = say(&server, &upgrade("/", "websocket", KEY)).await.unwrap();
    let head = hear_head(&mut client).await.unwrap();
    for expected in [
        "HTTP/1.1 101 ",
        "\r\nconnection: upgrade\r\n",
        "\r\nupgrade: websocket\r\n",
        "\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
        "\r\nsec-websocket-protocol: chat\r\n",
    ] {
        assert!(head.contains(expected), "{expected:?} is not in {head}");
    }
    client.write_all(b"world").await.unwrap();
    let mut heard = [0; 11];
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello world");
}

async fn any_upgrade_goes_through_with_what_came_at_once(way: Way) {
    let server = server().await;
    let _blog = site(&server, way, "http://blog", echo()).await;
    // As a smuggler would have it.
    let more = "GET / HTTP/1.1\r\nhost: other.localhost\r\n\r\n";
    let mut client = say(&server, &format!("{}{more}", upgrade("/", "Own/1", ""))).await.unwrap();
    let head = hear_head(&mut client).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("upgrade: Own/1"), "{head}");
    client.shutdown().await.unwrap();
    let (heard, ended) = hear_out(&mut client).await;
    assert_eq!((String::from_utf8_lossy(&heard).into_owned(), ended), (format!("hello {more}"), Ended::Finished));
}

async fn what_follows_a_refused_upgrade_is_a_request_of_its_own(way: Way) {
    let server = server().await;
    let _blog = site(&server, way, "http://blog", echo()).await;
    let more = "GET /no HTTP/1.1\r\nhost: nobody.localhost\r\n\r\n";
    let mut client = say(&server, &format!("{}{more}", upgrade("/no", "own", ""))).await.unwrap();
    // An extended CONNECT that is answered with success is a connection, so such an agent cannot refuse so.
    if way == Way::Requests {
        return;
    }
    assert_eq!(hear_answer(&mut client).await.unwrap().1, "no");
    assert!(hear_answer(&mut client).await.unwrap().0.starts_with("HTTP/1.1 404 "));
}

async fn a_connection_ends_as_it_ends(way: Way) {
    let server = server().await;
    let blog = site(&server, way, "http://blog", echo()).await;
    let mut client = say(&server, &upgrade("/", "own", "")).await.unwrap();
    assert!(hear_head(&mut client).await.unwrap().starts_with("HTTP/1.1 101 "));
    client.write_all(b"x").await.unwrap();
    let mut heard = [0; 7];
    client.read_exact(&mut heard).await.unwrap();
    // hyper's server cannot break off alone what it has upgraded on HTTP/2.
    if way == Way::Requests {
        drop(blog);
    } else {
        client.write_all(b"!").await.unwrap();
    }
    assert_eq!(hear_out(&mut client).await, (Vec::new(), Ended::Reset));
}

#[tokio::test]
async fn an_agent_that_takes_no_upgrades_is_said_not_to() {
    within(async {
        let server = server().await;
        let _blog = site_without_protocols(&server, "http://blog", Router::new().fallback(any(async || "fine"))).await;
        let mut client = say(&server, &upgrade("/", "websocket", KEY)).await.unwrap();
        let (head, body) = hear_answer(&mut client).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 501 ") && head.contains("tunnel-error: no-upgrade"), "{head}{body}");
        // Other methods may not be upgraded, and h2c is nobody's.
        for request in
            [upgrade("/", "own", "").replace("GET", "POST"), upgrade("/", "h2c", "http2-settings: AAMAAABk\r\n")]
        {
            client.write_all(request.as_bytes()).await.unwrap();
            assert_eq!(hear_answer(&mut client).await.unwrap().1, "fine");
        }
    })
    .await;
}
