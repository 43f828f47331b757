//! `Proxy`, between the tunnel and local services.

use std::convert::Infallible;

use axum::{
    Router,
    body::Body,
    routing::{any, get as on_get},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use h2::{Reason, ext::Protocol};
use http::{HeaderMap, Request, Response, StatusCode, header::HOST};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::Service;
use tunnel_agent::{HostHeader, Proxy, ServedTunnel, Target, Tunnel};

use crate::rig::{Rig, Session, get, heard, post, say_all, soon};

async fn through(proxy: Proxy) -> (Rig, ServedTunnel, Session) {
    let rig = Rig::new().await;
    let served = rig.agent.serve(Tunnel::http(), proxy).await.unwrap();
    let session = rig.session().await;
    (rig, served, session)
}

async fn serve(app: Router) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, app).into_future());
    addr.into()
}

/// A service by hand.
async fn by_hand() -> (TcpListener, Target) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().into();
    (listener, target)
}

/// A request's head as it arrives.
async fn head(service: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon("a head", service.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn a_request_reaches_the_service_as_the_client_sent_it() {
    let (service, target) = by_hand().await;
    let (_rig, _served, mut session) = through(Proxy::to(target)).await;
    let mut request = post("/path?query");
    for (name, value) in [("content-length", "5"), ("expect", "100-continue"), ("cookie", "a=b"), ("te", "trailers")] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let (answer, mut say) = session.send(request, false);
    say_all(&mut say, "words".into()).await;
    say.send_data(Bytes::new(), true).unwrap();
    let (mut service, _) = soon("a connection", service.accept()).await.unwrap();
    let head = head(&mut service).await;
    let mut lines: Vec<_> = head.trim_end().lines().collect();
    assert_eq!(lines.remove(0), "POST /path?query HTTP/1.1");
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "connection: te",
            "content-length: 5",
            "cookie: a=b",
            "forwarded: for=\"192.0.2.1:2\";by=\"192.0.2.3:80\"",
            "host: blog.localhost",
            "te: trailers",
        ]
    );
    let mut body = [0; 5];
    soon("a body", service.read_exact(&mut body)).await.unwrap();
    let said = "HTTP/1.1 201 Made\r\nkeep-alive: timeout=5\r\nset-cookie: a=b\r\ncontent-length: 4\r\n\r\nmade";
    service.write_all(said.as_bytes()).await.unwrap();
    let answer = soon("an answer", answer).await.unwrap();
    let mut names: Vec<_> = answer.headers().keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!((answer.status().as_u16(), names), (201, vec!["content-length", "set-cookie"]));
    assert_eq!((&body, heard(answer.into_body()).await.text()), (b"words", "made".to_owned()));
}

#[tokio::test]
async fn the_service_sees_the_host_it_should() {
    let whose = on_get(async |headers: HeaderMap| headers[HOST].to_str().unwrap().to_owned());
    let target = serve(Router::new().route("/", whose)).await;
    let own = target.to_string().replace("127.0.0.1", "localhost");
    for (host, seen) in [
        (HostHeader::Asked, "blog.localhost"),
        (HostHeader::Target, own.as_str()),
        (HostHeader::Fixed("other.example:81".parse().unwrap()), "other.example:81"),
    ] {
        let (_rig, _served, mut session) = through(Proxy::to(target.clone()).host_header(host)).await;
        assert_eq!(session.get("/").await, (200, seen.to_owned()));
    }
}

#[tokio::test]
async fn a_service_that_is_down_is_a_page_that_says_so_until_it_is_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let (_rig, _served, mut session) = through(Proxy::to(addr.into())).await;
    let (status, page) = session.get("/").await;
    assert_eq!(status, 502);
    assert!(page.contains("is it running there?") && !page.contains(&addr.to_string()), "{page}");
    let mut request = get("/");
    request.headers_mut().insert("accept", "application/json".parse().unwrap());
    let (head, heard) = session.ask(request, "").await;
    assert_eq!((head.status().as_u16(), &head.headers()["content-type"]), (502, &"application/json".parse().unwrap()));
    let error: serde_json::Value = serde_json::from_str(&heard.text()).unwrap();
    assert_eq!((&error["error"], &error["status"]), (&"no-service".into(), &502.into()));

    let app = Router::new().route("/", on_get(async || "back"));
    // As a service that is started again: with what is left of old connections it may take the port.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(addr).unwrap();
    tokio::spawn(axum::serve(socket.listen(8).unwrap(), app).into_future());
    assert_eq!(session.get("/").await, (200, "back".to_owned()));
}

#[tokio::test]
async fn a_service_that_hangs_up_without_an_answer_or_speaks_something_else_is_a_page_too() {
    let (service, target) = by_hand().await;
    let (_rig, _served, mut session) = through(Proxy::to(target)).await;
    for (says, told) in [("", "hung up without an answer"), ("SSH-2.0-x\r\n", "is not HTTP/1.1")] {
        let rude = async {
            let (mut service, _) = service.accept().await.unwrap();
            head(&mut service).await;
            service.write_all(says.as_bytes()).await.unwrap();
        };
        let ((status, page), ()) = soon("both", async { tokio::join!(session.get("/"), rude) }).await;
        assert!(status == 502 && page.contains(told), "{status} {page}");
    }
}

#[tokio::test]
async fn a_body_without_a_length_reaches_the_service_whatever_the_method() {
    let (service, target) = by_hand().await;
    let (_rig, _served, mut session) = through(Proxy::to(target)).await;
    for method in ["GET", "DELETE", "POST"] {
        let mut request = get("/search");
        *request.method_mut() = method.parse().unwrap();
        let (_answer, mut say) = session.send(request, false);
        say_all(&mut say, "words".into()).await;
        say.send_data(Bytes::new(), true).unwrap();
        let (mut service, _) = soon("a connection", service.accept()).await.unwrap();
        let head = head(&mut service).await;
        assert!(head.contains("\r\ntransfer-encoding: chunked\r\n"), "{head}");
        let mut body = [0; 15];
        soon("a body", service.read_exact(&mut body)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&body), "5\r\nwords\r\n0\r\n\r\n");
    }
}

#[tokio::test]
async fn an_answer_in_chunks_is_whole_whatever_length_it_says() {
    let (service, target) = by_hand().await;
    let (_rig, _served, mut session) = through(Proxy::to(target)).await;
    let odd = async {
        let (mut service, _) = service.accept().await.unwrap();
        head(&mut service).await;
        let words =
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nwords\r\n0\r\n\r\n";
        service.write_all(words).await.unwrap();
    };
    let ((status, body), ()) = soon("both", async { tokio::join!(session.get("/"), odd) }).await;
    assert_eq!((status, body), (200, "words".to_owned()));
}

#[tokio::test]
async fn a_service_that_breaks_off_its_answer_is_an_abort() {
    for head_says in ["content-length: 10", "transfer-encoding: chunked"] {
        let (service, target) = by_hand().await;
        let (_rig, _served, mut session) = through(Proxy::to(target)).await;
        let (answer, _) = session.send(get("/"), true);
        let (mut service, _) = service.accept().await.unwrap();
        head(&mut service).await;
        service.write_all(format!("HTTP/1.1 200 OK\r\n{head_says}\r\n\r\n4\r\nhalf\r\n").as_bytes()).await.unwrap();
        let mut body = soon("an answer", answer).await.unwrap().into_body();
        soon("a half", body.data()).await.unwrap().unwrap();
        drop(service);
        assert_eq!(heard(body).await.end, Err(Some(Reason::INTERNAL_ERROR)), "{head_says}");
    }
}

#[tokio::test]
async fn a_client_that_breaks_off_is_an_abort_to_the_service() {
    let (service, target) = by_hand().await;
    let (_rig, _served, mut session) = through(Proxy::to(target)).await;
    // In the middle of what it says,
    let (_answer, mut say) = session.send(post("/"), false);
    say_all(&mut say, "half".into()).await;
    let (mut connection, _) = service.accept().await.unwrap();
    head(&mut connection).await;
    say.send_reset(Reason::CANCEL);
    let mut heard = Vec::new();
    let end = soon("an end", connection.read_to_end(&mut heard)).await;
    let whole = heard.ends_with(b"0\r\n\r\n");
    assert!(end.is_err() && !whole, "{end:?} after {:?}", String::from_utf8_lossy(&heard));
    // and of what it hears.
    let (answer, _) = session.send(get("/"), true);
    let (mut connection, _) = service.accept().await.unwrap();
    head(&mut connection).await;
    connection.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n").await.unwrap();
    drop(soon("an answer", answer).await.unwrap());
    assert!(soon("an end", connection.read(&mut [0; 1])).await.is_err());
}

#[tokio::test]
async fn connections_are_used_again_and_one_that_was_closed_meanwhile_costs_no_request() {
    let (service, target) = by_hand().await;
    let (_rig, _served, mut session) = through(Proxy::to(target)).await;
    let two_each = async {
        for _ in 0..2 {
            let (mut connection, _) = service.accept().await.unwrap();
            for _ in 0..2 {
                head(&mut connection).await;
                connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            }
            // And it closes without a word.
        }
    };
    let four = async {
        for _ in 0..4 {
            assert_eq!(session.get("/").await, (200, "ok".to_owned()));
        }
    };
    soon("all answers", async { tokio::join!(two_each, four) }).await;
}

#[tokio::test]
async fn a_connection_is_used_again_after_trailers_and_closed_in_order_when_nobody_uses_it() {
    let (service, target) = by_hand().await;
    let (_rig, _served, mut session) = through(Proxy::to(target)).await;
    let answered = async {
        let (mut connection, _) = service.accept().await.unwrap();
        head(&mut connection).await;
        let trailed =
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: a\r\n\r\n2\r\nok\r\n0\r\na: b\r\n\r\n";
        connection.write_all(trailed).await.unwrap();
        head(&mut connection).await;
        connection.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        connection
    };
    let asked = async {
        let (_, first) =
            session.ask(Request::get("http://blog.localhost/").header("te", "trailers").body(()).unwrap(), "").await;
        assert_eq!(first.end.unwrap().unwrap()["a"], "b");
        assert_eq!(session.get("/").await, (204, String::new()));
    };
    let (mut connection, ()) = soon("all answers", async { tokio::join!(answered, asked) }).await;
    assert_eq!(soon("an end", connection.read(&mut [0; 1])).await.unwrap(), 0);
}

#[tokio::test]
async fn a_connection_whose_service_answers_too_early_is_nobody_elses_until_it_has_heard_all() {
    let (service, target) = by_hand().await;
    let (_rig, _served, mut session) = through(Proxy::to(target)).await;
    let (answer, mut say) = session.send(post("/"), false);
    let (mut early, _) = service.accept().await.unwrap();
    head(&mut early).await;
    early.write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    assert_eq!(soon("an answer", answer).await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
    let other = async {
        let (mut connection, _) = service.accept().await.unwrap();
        head(&mut connection).await;
        connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    };
    let ((), answer) = soon("another answer", async { tokio::join!(other, session.get("/")) }).await;
    assert_eq!(answer, (200, "ok".to_owned()));
    say.send_data("all".into(), true).unwrap();
    let mut heard = [0; 13];
    soon("the rest", early.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"3\r\nall\r\n0\r\n\r\n");
}

#[tokio::test]
async fn an_upgrade_goes_through_to_the_service() {
    let (service, target) = by_hand().await;
    let (_rig, _served, mut session) = through(Proxy::to(target)).await;
    let mut request = Request::connect("http://blog.localhost/chat").body(()).unwrap();
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    let (answer, mut say) = session.send(request, false);
    let (mut service, _) = soon("a connection", service.accept()).await.unwrap();
    let head = head(&mut service).await;
    for part in ["GET /chat HTTP/1.1\r\n", "upgrade: websocket\r\n", "connection: upgrade\r\n", "sec-websocket-key: "] {
        assert!(head.contains(part), "no {part:?} in {head}");
    }
    // The service speaks at once, in the same segment.
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nhello";
    service.write_all(switch.as_bytes()).await.unwrap();
    let answer = soon("an answer", answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut body = answer.into_body();
    assert_eq!(soon("words", body.data()).await.unwrap().unwrap(), "hello");
    say_all(&mut say, "hi".into()).await;
    let mut words = [0; 2];
    soon("words", service.read_exact(&mut words)).await.unwrap();
    assert_eq!(&words, b"hi");
    // An abort on one side is one on the other.
    say.send_reset(Reason::CANCEL);
    assert!(soon("an end", service.read(&mut words)).await.is_err());
}

#[tokio::test]
async fn grpc_goes_by_http_2_with_its_trailers() {
    let app = Router::new().route(
        "/Say",
        any(async |request: Request<Body>| {
            assert_eq!(
                (request.version(), request.uri().authority().unwrap().as_str()),
                (http::Version::HTTP_2, "blog.localhost")
            );
            assert_eq!(request.headers()["te"], "trailers");
            let words = request.into_body().collect().await.unwrap().to_bytes();
            let trailers: HeaderMap = [("grpc-status".parse().unwrap(), "0".parse().unwrap())].into_iter().collect();
            let body =
                http_body_util::Full::new(words).with_trailers(async move { Some(Ok::<_, Infallible>(trailers)) });
            Response::new(Body::new(body))
        }),
    );
    let (_rig, _served, mut session) = through(Proxy::to(serve(app).await)).await;
    let mut request = post("/Say");
    request.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    let (head, heard) = session.ask(request, "words").await;
    assert_eq!((head.status(), heard.bytes), (StatusCode::OK, b"words".to_vec()));
    assert_eq!(heard.end.unwrap().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn a_service_may_be_asked_in_http_2_only() {
    let app = Router::new().route("/", on_get(async |request: Request<Body>| format!("{:?}", request.version())));
    let (_rig, _served, mut session) = through(Proxy::to(serve(app).await).h2c()).await;
    assert_eq!(session.get("/").await, (200, "HTTP/2.0".to_owned()));
}

/// Many clients of one service share a connection in HTTP/2. A flood of small frames is the service's own doing, and no attack.
#[tokio::test]
async fn in_http_2_slow_readers_hold_up_nobody() {
    let app = Router::new()
        .route("/large", on_get(async || vec![b'x'; 1 << 20]))
        .route(
            "/messages",
            on_get(async || {
                // Each a frame of its own.
                let messages = stream::iter(0..20_000).then(async |_| {
                    tokio::task::yield_now().await;
                    Ok::<_, Infallible>("m")
                });
                Body::from_stream(messages)
            }),
        )
        .route("/", on_get(async || "fine"));
    let mut proxy = Proxy::to(serve(app).await).h2c();
    let mut ask = async |path: &str| {
        let request = Request::get(format!("http://blog.localhost{path}")).body(Body::empty()).unwrap();
        soon("an answer", proxy.call(request)).await.unwrap().into_body()
    };
    let mut unread = Vec::new();
    for path in ["/large", "/large", "/messages"] {
        unread.push(ask(path).await);
    }
    for _ in 0..300 {
        unread.push(ask("/").await);
    }
    let whole = async |body| BodyExt::collect(body).await.unwrap().to_bytes();
    assert_eq!(soon("a small answer", whole(ask("/").await)).await, "fine");
    for (body, length) in unread.into_iter().zip([1 << 20, 1 << 20, 20_000].into_iter().chain([4; 300])) {
        assert_eq!(soon("what was not read at once", whole(body)).await.len(), length);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_service_may_be_behind_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(axum::serve(listener, Router::new().route("/", on_get(async || "by path"))).into_future());
    let target = format!("unix:{}", path.display()).parse().unwrap();
    let (_rig, _served, mut session) = through(Proxy::to(target)).await;
    assert_eq!(session.get("/").await, (200, "by path".to_owned()));
}
