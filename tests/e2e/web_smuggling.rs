//! What two readers could understand in two ways reaches nobody, and what follows it on its connection neither.

use std::sync::{Arc, Mutex};

use axum::{Router, body::to_bytes, extract::Request, routing::any};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tunnel_server::Running;
use tunnel_tests::{
    client::hear_out,
    server::server,
    web::{Site, Way, site},
};

each_way! {
    what_is_ambiguous_reaches_nobody
    what_is_unusual_and_clear_reaches_whom_it_is_for
}

/// All that the two origins heard.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn origin(&self, name: &'static str) -> Router {
        let log = self.clone();
        Router::new().fallback(any(async move |request: Request| {
            let (head, body) = request.into_parts();
            let body = to_bytes(body, 1 << 20).await;
            let body = body.map_or("?".to_owned(), |body| String::from_utf8_lossy(&body).into_owned());
            log.0.lock().unwrap().push(format!("{name} {} {} {body}", head.method, head.uri.path()));
            "fine"
        }))
    }
}

async fn two_sites(server: &Running, way: Way) -> (Log, [Site; 2]) {
    let log = Log::default();
    let sites =
        [site(server, way, "http://a", log.origin("a")).await, site(server, way, "http://b", log.origin("b")).await];
    (log, sites)
}

async fn answers(server: &Running, words: &str) -> String {
    let mut socket = TcpStream::connect(server.addr()).await.unwrap();
    // It may hang up in the middle of it.
    let _ = socket.write_all(words.as_bytes()).await;
    let _ = socket.shutdown().await;
    String::from_utf8_lossy(&hear_out(&mut socket).await.0).into_owned()
}

async fn what_is_ambiguous_reaches_nobody(way: Way) {
    let server = server().await;
    let (log, _sites) = two_sites(&server, way).await;
    let next = "GET /smuggled HTTP/1.1\r\nhost: b.localhost\r\n\r\n";
    let long = "x".repeat(300);
    let headers = |fields: &str| format!("POST / HTTP/1.1\r\nhost: a.localhost\r\n{fields}\r\n");
    for words in [
        // The length.
        format!("{}0\r\n\r\n{next}", headers("content-length: 5\r\ntransfer-encoding: chunked\r\n")),
        format!("{}0\r\n\r\n{next}", headers("transfer-encoding: chunked\r\ncontent-length: 5\r\n")),
        format!("{}hello{next}", headers("content-length: 5\r\ncontent-length: 6\r\n")),
        format!("{}hello{next}", headers("content-length: 5, 5\r\n")),
        format!("{}hello{next}", headers("content-length: +5\r\n")),
        format!("{}hello{next}", headers("content-length: 5 5\r\n")),
        format!("{}hello{next}", headers("content-length: 0x5\r\n")),
        format!("{}hello{next}", headers("content-length: 99999999999999999999\r\n")),
        format!("{}0\r\n\r\n{next}", headers("transfer-encoding: xchunked\r\n")),
        format!("{}0\r\n\r\n{next}", headers("transfer-encoding: chunked, identity\r\n")),
        format!("{}0\r\n\r\n{next}", headers("transfer-encoding: gzip, chunked\r\n")),
        format!("{}0\r\n\r\n{next}", headers("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n")),
        format!("{}0\r\n\r\n{next}", headers("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n")),
        format!("{}0\r\n\r\n{next}", headers("transfer-encoding:\u{b}chunked\r\n")),
        format!("POST / HTTP/1.0\r\nhost: a.localhost\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{next}"),
        // The syntax.
        format!("{}{next}", headers("x-fold: a\r\n b\r\n")),
        format!("{}{next}", headers("content-length: 0\r\n transfer-encoding: chunked\r\n")),
        format!("{}hello{next}", headers("content-length : 5\r\n")),
        format!("{}hello{next}", headers("content length: 5\r\n")),
        format!("{}{next}", headers("x: a\0b\r\n")),
        format!("{}{next}", headers("x: a\rb\r\n")),
        format!("{}{next}", headers(": empty\r\n")),
        format!("GET  / HTTP/1.1\r\nhost: a.localhost\r\n\r\n{next}"),
        format!("GET / HTTP/1.2\r\nhost: a.localhost\r\n\r\n{next}"),
        format!("GET / HTTP/1.1 x\r\nhost: a.localhost\r\n\r\n{next}"),
        // The host.
        format!("GET / HTTP/1.1\r\n\r\n{next}"),
        format!("GET / HTTP/1.1\r\nhost: a.localhost\r\nhost: b.localhost\r\n\r\n{next}"),
        format!("GET / HTTP/1.1\r\nhost: a.localhost\r\nhost: a.localhost\r\n\r\n{next}"),
        format!("GET / HTTP/1.1\r\nhost: a.localhost, b.localhost\r\n\r\n{next}"),
        format!("GET / HTTP/1.1\r\nhost: a.localhost b.localhost\r\n\r\n{next}"),
        format!("GET / HTTP/1.1\r\nhost: b.localhost@a.localhost\r\n\r\n{next}"),
        format!("GET / HTTP/1.1\r\nhost: a.localhost:x\r\n\r\n{next}"),
        format!("GET / HTTP/1.1\r\nhost: a.localhost:80:80\r\n\r\n{next}"),
        format!("GET / HTTP/1.1\r\nhost: a.localhost/\r\n\r\n{next}"),
        format!("GET / HTTP/1.1\r\nhost: \u{e4}.localhost\r\n\r\n{next}"),
        format!("GET / HTTP/1.1\r\nhost: {long}.localhost\r\n\r\n{next}"),
        format!("GET / HTTP/1.1\r\nhost:\r\n\r\n{next}"),
        format!("GET http://b.localhost/ HTTP/1.1\r\nhost: a.localhost\r\n\r\n{next}"),
        format!("GET http://a@b.localhost/ HTTP/1.1\r\nhost: b.localhost\r\n\r\n{next}"),
        format!("GET ftp://a.localhost/ HTTP/1.1\r\nhost: a.localhost\r\n\r\n{next}"),
        format!("GET a.localhost HTTP/1.1\r\nhost: a.localhost\r\n\r\n{next}"),
        format!("OPTIONS * HTTP/1.1\r\nhost: a.localhost\r\n\r\n{next}"),
    ] {
        let answer = answers(&server, &words).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{way:?} {words:?} was answered {answer:?}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{way:?} {words:?} was answered {answer:?}");
        assert_eq!(log.take(), Vec::<String>::new(), "{way:?} {words:?} reached somebody");
    }
    // Nor after a request for an upgrade that comes to nothing, which is heard.
    let both = headers("content-length: 5\r\ntransfer-encoding: chunked\r\n");
    for first in [
        "GET /first HTTP/1.1\r\nhost: a.localhost\r\nupgrade: x\r\n\r\n",
        "CONNECT a.localhost:80 HTTP/1.1\r\nhost: a.localhost:80\r\n\r\n",
    ] {
        let words = format!("{first}{both}0\r\n\r\n{next}");
        let answer = answers(&server, &words).await;
        assert!(answer.contains("HTTP/1.1 400 "), "{way:?} {words:?} was answered {answer:?}");
        let heard = log.take();
        assert!(heard.iter().all(|heard| heard.starts_with("a GET /first")), "{way:?} {words:?}: {heard:?}");
    }
    // Chunks that are none: the head has gone on, and nothing after it.
    for chunks in [
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
        "-5\r\nhello\r\n",
        "fffffffffffffffff\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
    ] {
        let words = format!("{}{chunks}{next}", headers("transfer-encoding: chunked\r\n"));
        let answer = answers(&server, &words).await;
        assert!(!answer.contains(" 200 "), "{way:?} {words:?} was answered {answer:?}");
        let heard = log.take();
        assert!(
            heard.iter().all(|heard| heard.starts_with("a POST / ") && !heard.contains("GET")),
            "{words:?}: {heard:?}"
        );
    }
}

async fn what_is_unusual_and_clear_reaches_whom_it_is_for(way: Way) {
    let server = server().await;
    let (log, _sites) = two_sites(&server, way).await;
    for (words, heard) in [
        // Equal lengths are one, and lines may end as they like (RFC 9112, 2.2, 6.3).
        (
            "POST /1 HTTP/1.1\r\nhost: a.localhost\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
            "a POST /1 hello",
        ),
        ("GET /2 HTTP/1.1\nhost: a.localhost\n\n", "a GET /2 "),
        (
            "POST /3 HTTP/1.1\r\nhost: A.LocalHost.:80\r\ntransfer-encoding: Chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nx: y\r\n\r\n",
            "a POST /3 hello",
        ),
        ("GET /4 HTTP/1.0\r\nhost: b.localhost\r\n\r\n", "b GET /4 "),
        ("GET http://b.localhost:1/5 HTTP/1.1\r\nhost: B.localhost\r\n\r\n", "b GET /5 "),
        ("\r\nGET /6 HTTP/1.1\r\nhost: b.localhost\r\n\r\n", ""),
    ] {
        let answer = answers(&server, words).await;
        let heard = Some(heard).filter(|heard| !heard.is_empty()).map(str::to_owned);
        assert_eq!(log.take(), Vec::from_iter(heard), "{way:?} {words:?} was answered {answer:?}");
    }
    // Requests that come at once are each heard by whom they are for.
    let both = "GET /7 HTTP/1.1\r\nhost: a.localhost\r\n\r\nPOST /8 HTTP/1.1\r\nhost: b.localhost\r\ncontent-length: 2\r\n\r\nhi\
                GET /9 HTTP/1.1\r\nhost: a.localhost\r\nconnection: close\r\n\r\n";
    let answer = answers(&server, both).await;
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 3, "{answer:?}");
    assert_eq!(log.take(), ["a GET /7 ", "b POST /8 hi", "a GET /9 "]);
}
