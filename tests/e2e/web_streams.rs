//! Requests and answers go through as they come, both ways, and how they end is how they end for the other side, too.

use std::{
    convert::Infallible,
    io::{self, ErrorKind},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Response},
    routing::any,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tunnel_api::rpc::v1::{StreamEnd, WatchTunnelsRequest, watch_tunnels_response::Event};
use tunnel_tests::{
    client::{Ended, hear_out},
    server::{rpc, server},
    web::{Http2, Way, answer_to, body, get, hear_answer, hear_head, say, site},
};

use crate::rpc::next;

each_way! {
    an_event_comes_while_the_answer_goes_on
    an_upload_is_heard_while_it_goes_on
    a_client_that_waits_to_be_told_to_go_on_is_told_so
    trailers_go_through
    an_answer_that_breaks_off_never_looks_complete
    a_client_that_goes_is_heard_of_while_its_answer_goes_on
    a_client_that_goes_is_heard_of_while_it_waits
    an_upload_that_breaks_off_is_an_abort
    an_early_answer_survives_its_upload
    a_kept_alive_connection_is_kept_to_the_origin
    what_has_no_body_has_none
    much_goes_through_both_ways_at_once
    much_goes_through_in_http2_at_full_speed
    each_request_is_told_to_its_owner
}

fn streamed(parts: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Response<Body> {
    Response::new(Body::from_stream(parts))
}

async fn an_event_comes_while_the_answer_goes_on(way: Way) {
    let server = server().await;
    let more = Arc::new(Notify::new());
    let wait = more.clone();
    let app = Router::new().fallback(any(async move || {
        let second = stream::once(async move {
            wait.notified().await;
            Ok(Bytes::from_static(b"data: 2\n\n"))
        });
        streamed(stream::iter([Ok(Bytes::from_static(b"data: 1\n\n"))]).chain(second))
    }));
    let blog = site(&server, way, "http://blog", app).await;
    let mut client = say(&server, &get(&blog.host, "/")).await.unwrap();
    let mut heard = String::new();
    while !heard.contains("data: 1") {
        heard.push(char::from(client.read_u8().await.unwrap()));
    }
    more.notify_one();
    let (rest, ended) = hear_out(&mut client).await;
    assert_eq!(ended, Ended::Finished);
    assert!(String::from_utf8_lossy(&rest).contains("data: 2"));
}

async fn an_upload_is_heard_while_it_goes_on(way: Way) {
    let server = server().await;
    let (heard, mut hears) = mpsc::channel(8);
    let app = Router::new().fallback(any(async move |request: Request| {
        let mut parts = request.into_body().into_data_stream();
        while let Some(Ok(part)) = parts.next().await {
            let _ = heard.send(part).await;
        }
        "all"
    }));
    let blog = site(&server, way, "http://blog", app).await;
    let head = format!(
        "POST / HTTP/1.1\r\nhost: {}\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nfirst\r\n",
        blog.host
    );
    let mut client = say(&server, &head).await.unwrap();
    assert_eq!(hears.recv().await.unwrap(), "first");
    client.write_all(b"4\r\nlast\r\n0\r\n\r\n").await.unwrap();
    assert_eq!(hears.recv().await.unwrap(), "last");
    assert!(String::from_utf8_lossy(&hear_out(&mut client).await.0).ends_with("all"));
}

async fn a_client_that_waits_to_be_told_to_go_on_is_told_so(way: Way) {
    let server = server().await;
    let app = Router::new().fallback(any(async |headers: HeaderMap, body: String| format!("{body} {headers:?}")));
    let blog = site(&server, way, "http://blog", app).await;
    let head = format!(
        "POST / HTTP/1.1\r\nhost: {}\r\ncontent-length: 2\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n",
        blog.host
    );
    let mut client = say(&server, &head).await.unwrap();
    assert!(hear_head(&mut client).await.unwrap().starts_with("HTTP/1.1 100 "));
    client.write_all(b"hi").await.unwrap();
    let (head, body) = hear_answer(&mut client).await.unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200 ") && body.starts_with("hi ") && !body.contains("100-continue"),
        "{head}{body}"
    );
    // Whoever asks for nobody is not told to go on.
    let head = "POST / HTTP/1.1\r\nhost: nobody.localhost\r\ncontent-length: 2\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n";
    assert!(answer_to(&server, head).await.unwrap().starts_with("HTTP/1.1 404 "));
}

async fn trailers_go_through(way: Way) {
    let server = server().await;
    let app = Router::new().fallback(any(async |request: Request| {
        let asked = request.into_body().collect().await.unwrap();
        let asked = asked.trailers().map_or("none".to_owned(), |trailers| format!("{:?}", trailers["x-asked"]));
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("7"))]);
        let frames = [Ok::<_, Infallible>(Frame::data(Bytes::from(asked))), Ok(Frame::trailers(trailers))];
        Response::builder().header("trailer", "x-sum").body(Body::new(StreamBody::new(stream::iter(frames)))).unwrap()
    }));
    let blog = site(&server, way, "http://blog", app).await;
    let request = format!(
        "POST / HTTP/1.1\r\nhost: {}\r\nte: trailers\r\ntrailer: x-asked\r\ntransfer-encoding: chunked\r\n\
         connection: close, te\r\n\r\n2\r\nhi\r\n0\r\nx-asked: 5\r\n\r\n",
        blog.host
    );
    let answer = answer_to(&server, &request).await.unwrap();
    assert!(answer.contains("\"5\"") && answer.ends_with("0\r\nx-sum: 7\r\n\r\n"), "{answer}");
    let mut client = Http2::connect(server.addr()).await;
    let request = http::Request::post("http://blog.localhost/").header("te", "trailers").body(body("hi")).unwrap();
    let answer = client.ask(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(answer.trailers().unwrap()["x-sum"], "7");
}

async fn an_answer_that_breaks_off_never_looks_complete(way: Way) {
    let server = server().await;
    let heard = Arc::new(Notify::new());
    let is_heard = heard.clone();
    let app = Router::new().fallback(any(async move || {
        let is_heard = is_heard.clone();
        let broken = stream::once(async move {
            is_heard.notified().await;
            Err(io::Error::from(ErrorKind::ConnectionReset))
        });
        streamed(stream::iter([Ok(Bytes::from_static(b"part"))]).chain(broken))
    }));
    let blog = site(&server, way, "http://blog", app).await;
    for version in ["1.1", "1.0"] {
        let mut client = say(&server, &format!("GET / HTTP/{version}\r\nhost: {}\r\n\r\n", blog.host)).await.unwrap();
        while client.read_u8().await.unwrap() != b'p' {}
        heard.notify_one();
        let (rest, ended) = hear_out(&mut client).await;
        let rest = String::from_utf8_lossy(&rest);
        assert!(ended == Ended::Reset && !rest.ends_with("0\r\n\r\n"), "HTTP/{version}: {rest:?} {ended:?}");
    }
    let mut client = Http2::connect(server.addr()).await;
    let request = http::Request::get("http://blog.localhost/").body(body("")).unwrap();
    let mut answer = client.ask(request).await.unwrap().into_body();
    answer.frame().await.unwrap().unwrap();
    heard.notify_one();
    assert!(answer.collect().await.is_err(), "it looks complete");
}

/// Tells when it is dropped.
struct Told(mpsc::UnboundedSender<()>);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

async fn a_client_that_goes_is_heard_of_while_its_answer_goes_on(way: Way) {
    let server = server().await;
    let (gone, mut is_gone) = mpsc::unbounded_channel();
    let app = Router::new().fallback(any(async move || {
        let told = Told(gone.clone());
        let (part, parts) = mpsc::channel(1);
        part.send(Ok(Bytes::from_static(b"part"))).await.unwrap();
        // It never ends by itself.
        let held = (part, told);
        let parts = ReceiverStream::new(parts).map(move |part| {
            let _ = &held;
            part
        });
        streamed(parts)
    }));
    let blog = site(&server, way, "http://blog", app).await;
    let mut client = say(&server, &get(&blog.host, "/")).await.unwrap();
    while client.read_u8().await.unwrap() != b'p' {}
    client.set_zero_linger().unwrap();
    drop(client);
    timeout(Duration::from_secs(10), is_gone.recv()).await.expect("the origin hears of it").unwrap();
    let mut client = Http2::connect(server.addr()).await;
    let request = http::Request::get("http://blog.localhost/").body(body("")).unwrap();
    let mut answer = client.ask(request).await.unwrap().into_body();
    answer.frame().await.unwrap().unwrap();
    drop(answer);
    timeout(Duration::from_secs(10), is_gone.recv()).await.expect("the origin hears of it").unwrap();
}

async fn a_client_that_goes_is_heard_of_while_it_waits(way: Way) {
    let server = server().await;
    let (come, mut has_come) = mpsc::unbounded_channel();
    let (gone, mut is_gone) = mpsc::unbounded_channel();
    let app = Router::new().fallback(any(async move || {
        let _told = Told(gone.clone());
        let _ = come.send(());
        std::future::pending::<()>().await;
    }));
    let blog = site(&server, way, "http://blog", app).await;
    let client = say(&server, &get(&blog.host, "/")).await.unwrap();
    has_come.recv().await.unwrap();
    client.set_zero_linger().unwrap();
    drop(client);
    timeout(Duration::from_secs(10), is_gone.recv()).await.expect("the origin hears of it").unwrap();
}

async fn an_upload_that_breaks_off_is_an_abort(way: Way) {
    let server = server().await;
    let (come, mut has_come) = mpsc::unbounded_channel();
    let (heard, mut hears) = mpsc::unbounded_channel();
    let app = Router::new().fallback(any(async move |request: Request| {
        // Dropped with the request where its connection is lost.
        let mut whole = Whole(heard.clone(), false);
        let mut parts = request.into_body().into_data_stream();
        while let Some(part) = parts.next().await {
            let Ok(part) = part else { return "no" };
            let _ = come.send(part);
        }
        whole.1 = true;
        "yes"
    }));
    let blog = site(&server, way, "http://blog", app).await;
    for body in ["content-length: 9\r\n\r\npart", "transfer-encoding: chunked\r\n\r\n4\r\npart\r\n"] {
        let client = say(&server, &format!("POST / HTTP/1.1\r\nhost: {}\r\n{body}", blog.host)).await.unwrap();
        assert_eq!(has_come.recv().await.unwrap(), "part");
        drop(client);
        let whole = timeout(Duration::from_secs(10), hears.recv()).await.expect("the origin hears of it").unwrap();
        assert!(!whole, "{body:?} looked whole");
    }
}

/// Tells, when it is dropped, whether it was whole.
struct Whole(mpsc::UnboundedSender<bool>, bool);

impl Drop for Whole {
    fn drop(&mut self) {
        let _ = self.0.send(self.1);
    }
}

async fn an_early_answer_survives_its_upload(way: Way) {
    let server = server().await;
    let app = Router::new().fallback(any(async || (axum::http::StatusCode::PAYLOAD_TOO_LARGE, "too much")));
    let blog = site(&server, way, "http://blog", app).await;
    let head = format!("POST / HTTP/1.1\r\nhost: {}\r\ncontent-length: 400000\r\nconnection: close\r\n\r\n", blog.host);
    let mut client = say(&server, &head).await.unwrap();
    client.write_all(&vec![b'x'; 100_000]).await.unwrap();
    let (head, body) = hear_answer(&mut client).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    assert_eq!(body, "too much");
}

async fn a_kept_alive_connection_is_kept_to_the_origin(way: Way) {
    let server = server().await;
    let blog = site(&server, way, "http://blog", Router::new().fallback(any(async || "fine"))).await;
    let mut client = say(&server, "").await.unwrap();
    for _ in 0..20 {
        client.write_all(b"GET / HTTP/1.1\r\nhost: blog.localhost\r\n\r\n").await.unwrap();
        assert_eq!(hear_answer(&mut client).await.unwrap().1, "fine");
    }
    // One connection of an agent's own for requests, one of the client's for the others.
    assert_eq!(blog.connections(), 1);
    // Another client has another.
    let mut other = say(&server, "GET / HTTP/1.1\r\nhost: blog.localhost\r\n\r\n").await.unwrap();
    assert_eq!(hear_answer(&mut other).await.unwrap().1, "fine");
    assert_eq!(blog.connections(), if way == Way::Requests { 1 } else { 2 });
}

async fn what_has_no_body_has_none(way: Way) {
    let server = server().await;
    let app = Router::new()
        .route("/none", any(async || axum::http::StatusCode::NO_CONTENT))
        .route("/same", any(async || axum::http::StatusCode::NOT_MODIFIED))
        .route("/some", any(async || "0123456789"))
        .route(
            "/asked",
            any(async |request: Request| format!("{:?}", request.into_body().collect().await.unwrap().to_bytes())),
        );
    let _blog = site(&server, way, "http://blog", app).await;
    let mut client = say(&server, "").await.unwrap();
    for (asked, status, length, body) in [
        ("GET /none", "204", None, ""),
        ("GET /same", "304", None, ""),
        ("HEAD /some", "200", Some("10"), ""),
        ("GET /some", "200", Some("10"), "0123456789"),
        ("POST /asked", "200", Some("3"), "b\"\""),
        ("GET /none", "204", None, ""),
    ] {
        client.write_all(format!("{asked} HTTP/1.1\r\nhost: blog.localhost\r\n\r\n").as_bytes()).await.unwrap();
        let head = hear_head(&mut client).await.unwrap();
        let said = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")) && said == length, "{asked}: {head}");
        let mut heard = vec![0; body.len()];
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&heard), body);
    }
}

async fn much_goes_through_both_ways_at_once(way: Way) {
    let server = server().await;
    let app = Router::new().fallback(any(async |request: Request| Response::new(request.into_body())));
    let blog = site(&server, way, "http://blog", app).await;
    let bytes = tunnel_backends::testing::pattern(1, 3_000_000);
    let head = format!(
        "POST / HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        blog.host,
        bytes.len()
    );
    let mut client = say(&server, &head).await.unwrap();
    let (mut reads, mut writes) = client.split();
    let mut heard = Vec::new();
    let (said, ended) = tokio::join!(writes.write_all(&bytes), reads.read_to_end(&mut heard));
    said.unwrap();
    ended.unwrap();
    let at = heard.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&heard[..at]).into_owned();
    let echoed = unchunked(&head, &heard[at + 4..]);
    assert!(echoed == bytes, "{} bytes came back of {}", echoed.len(), bytes.len());
}

/// Strangers are read slowly, by the kilobyte (some 50 a second); a tunnel's client is none, however its tunnel is carried.
async fn much_goes_through_in_http2_at_full_speed(way: Way) {
    let server = server().await;
    let app = Router::new().fallback(any(async |request: Request| Response::new(request.into_body())));
    let blog = site(&server, way, "http://blog", app).await;
    let mut client = Http2::connect(server.addr()).await;
    for seed in 1..=2 {
        let bytes = Bytes::from(tunnel_backends::testing::pattern(seed, 3_000_000));
        let said = Full::new(bytes.clone()).map_err(|never: Infallible| match never {}).boxed_unsync();
        let request = Request::post(format!("http://{}/", blog.host)).body(said).unwrap();
        let echoed = async { client.ask(request).await.unwrap().into_body().collect().await.unwrap().to_bytes() };
        let echoed = timeout(Duration::from_secs(20), echoed).await.expect("it is not held up");
        assert!(echoed == bytes, "{} bytes came back of {}", echoed.len(), bytes.len());
    }
}

async fn each_request_is_told_to_its_owner(way: Way) {
    let server = server().await;
    let app = Router::new()
        .route("/echo", any(async |body: String| body))
        .route("/never", any(async || std::future::pending::<()>().await));
    let blog = site(&server, way, "http://blog", app).await;
    let filter = WatchTunnelsRequest { requests: true, ..WatchTunnelsRequest::default() };
    let mut events = rpc(&server).await.watch_tunnels(filter).await.unwrap().into_inner();
    while !matches!(next(&mut events).await, Event::Ready(_)) {}
    let mut told = async || loop {
        if let Event::RequestEnded(told) = next(&mut events).await {
            return told;
        }
    };
    let request =
        "POST /echo?secret=1 HTTP/1.1\r\nhost: BLOG.localhost\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
    assert!(answer_to(&server, request).await.unwrap().ends_with("hello"));
    let first = told().await;
    assert_eq!((&*first.method, &*first.host, &*first.path), ("POST", "blog.localhost", "/echo"));
    assert_eq!(
        (first.status, first.end(), first.bytes_to_agent, first.bytes_to_client),
        (200, StreamEnd::Finished, 5, 5)
    );
    assert!(
        first.client.starts_with("127.0.0.1:") && first.first_byte.is_some() && first.duration.is_some(),
        "{first:?}"
    );
    // One whose client goes is told, too.
    let client = say(&server, &get(&blog.host, "/never")).await.unwrap();
    client.set_zero_linger().unwrap();
    drop(client);
    let second = told().await;
    assert_eq!((&*second.path, second.status, second.end()), ("/never", 0, StreamEnd::AbortedByClient));
}

fn unchunked(head: &str, mut body: &[u8]) -> Vec<u8> {
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return body.to_vec();
    }
    let mut whole = Vec::new();
    loop {
        let line = body.windows(2).position(|window| window == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&body[..line]).unwrap(), 16).unwrap();
        if size == 0 {
            return whole;
        }
        whole.extend_from_slice(&body[line + 2..line + 2 + size]);
        body = &body[line + 4 + size..];
    }
}
