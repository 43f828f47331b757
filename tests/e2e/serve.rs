//! Apps and local services behind names, by the SDK, as web clients see them.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
};

use axum::{Router, body::Body, extract::ConnectInfo, routing::get as route, routing::post};
use bytes::Bytes;
use futures_util::stream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};
use tunnel_agent::{Agent, Peer, Proxy, RequestNews, ServedTunnel, Tunnel};
use tunnel_server::Running;
use tunnel_tests::{
    client::{Ended, hear_out},
    limit::within,
    server::server,
    web::{answer_to, get, hear_answer, hear_head, host_of, say},
};

each_backend! {
    an_app_is_at_its_tunnels_name_and_knows_who_asks
    an_upload_comes_back_through_an_app
    an_answer_of_an_app_that_fails_never_looks_complete
    a_local_service_is_at_a_name_and_a_page_while_it_is_down
    an_upgrade_goes_through_to_a_local_service_and_its_aborts_too
    a_tunnel_that_is_left_cuts_off_what_was_upgraded
    an_upgrade_that_a_local_service_ignores_is_a_request_as_any_other
    a_client_that_goes_is_an_abort_to_the_local_service
    the_owner_hears_of_requests
}

async fn serve(server: &Running, backend: &str, app: Router) -> (ServedTunnel, String) {
    let agent = Agent::connect(&server.url()).await.unwrap();
    let served = agent.serve(Tunnel::http().name("blog").backend(backend), app).await.unwrap();
    let host = host_of(&served.address().to_string()).to_owned();
    (served, host)
}

/// A local service by hand, and what passes requests to it.
async fn pass(server: &Running, backend: &str) -> (TcpListener, ServedTunnel, String) {
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::to(service.local_addr().unwrap().into());
    let agent = Agent::connect(&server.url()).await.unwrap();
    let served = agent.serve(Tunnel::http().backend(backend), proxy).await.unwrap();
    let host = host_of(&served.address().to_string()).to_owned();
    (service, served, host)
}

async fn an_app_is_at_its_tunnels_name_and_knows_who_asks(backend: &str) {
    let server = server().await;
    let who = route(async |ConnectInfo(peer): ConnectInfo<Peer>| peer.client_addr.to_string());
    let (served, host) = serve(&server, backend, Router::new().route("/who", who)).await;
    assert!(served.address().to_string().starts_with("http://blog.localhost:"), "{}", served.address());
    let mut client = say(&server, &get(&host, "/who")).await.unwrap();
    let (head, body) = hear_answer(&mut client).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let heard: SocketAddr = body.parse().unwrap();
    assert_eq!(heard.ip(), client.local_addr().unwrap().ip());
}

async fn an_upload_comes_back_through_an_app(backend: &str) {
    let server = server().await;
    let app = Router::new().route("/", post(async |body: Body| body));
    let (_served, host) = serve(&server, backend, app).await;
    let words = "words ".repeat(100_000);
    let head =
        format!("POST / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", words.len());
    let answer = answer_to(&server, &(head + &words)).await.unwrap();
    assert!(answer.contains(&words), "{} bytes of {}", answer.len(), words.len());
}

async fn an_answer_of_an_app_that_fails_never_looks_complete(backend: &str) {
    let server = server().await;
    let failing = || stream::iter([Ok(Bytes::from("half")), Err(io::Error::other("out of words"))]);
    let app = Router::new().route("/", route(async move || Body::from_stream(failing())));
    let (_served, host) = serve(&server, backend, app).await;
    let mut client = say(&server, &get(&host, "/")).await.unwrap();
    let (heard, end) = hear_out(&mut client).await;
    let text = String::from_utf8_lossy(&heard);
    // It may be over before its head has gone out; then it is a page.
    assert!(end == Ended::Reset || text.starts_with("HTTP/1.1 502 "), "{end:?} {text}");
}

async fn a_local_service_is_at_a_name_and_a_page_while_it_is_down(backend: &str) {
    let server = server().await;
    let (service, _served, host) = pass(&server, backend).await;
    let addr = service.local_addr().unwrap();
    drop(service);
    let page = answer_to(&server, &get(&host, "/")).await.unwrap();
    assert!(page.starts_with("HTTP/1.1 502 ") && page.contains("is it running there?"), "{page}");
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(addr).unwrap();
    let app = Router::new().route("/", route(async || "back"));
    let serving = tokio::spawn(axum::serve(socket.listen(8).unwrap(), app).into_future());
    let answer = answer_to(&server, &get(&host, "/")).await.unwrap();
    assert!(answer.ends_with("back"), "{answer}");
    serving.abort();
}

async fn an_upgrade_goes_through_to_a_local_service_and_its_aborts_too(backend: &str) {
    let server = server().await;
    let (service, _served, host) = pass(&server, backend).await;
    let asks = format!("GET /echo HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
    let mut client = say(&server, &asks).await.unwrap();
    let (mut origin, _) = service.accept().await.unwrap();
    let head = hear_head(&mut origin).await.unwrap();
    assert!(head.contains("upgrade: echo\r\n") && head.contains(&format!("host: {host}\r\n")), "{head}");
    origin
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhello")
        .await
        .unwrap();
    let head = hear_head(&mut client).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut words = [0; 5];
    client.read_exact(&mut words).await.unwrap();
    assert_eq!(&words, b"hello");
    client.write_all(b"hallo").await.unwrap();
    origin.read_exact(&mut words).await.unwrap();
    assert_eq!(&words, b"hallo");
    origin.set_zero_linger().unwrap();
    drop(origin);
    assert_eq!(hear_out(&mut client).await, (vec![], Ended::Reset));
}

async fn a_tunnel_that_is_left_cuts_off_what_was_upgraded(backend: &str) {
    let server = server().await;
    let (service, served, host) = pass(&server, backend).await;
    let asks = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
    let mut client = say(&server, &asks).await.unwrap();
    let (mut origin, _) = service.accept().await.unwrap();
    hear_head(&mut origin).await.unwrap();
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    origin.write_all(switch.as_bytes()).await.unwrap();
    assert!(hear_head(&mut client).await.unwrap().starts_with("HTTP/1.1 101 "));
    within(served.leave()).await;
    assert_eq!(hear_out(&mut client).await, (vec![], Ended::Reset));
    assert!(origin.read_u8().await.is_err());
}

async fn an_upgrade_that_a_local_service_ignores_is_a_request_as_any_other(backend: &str) {
    let server = server().await;
    let (service, _served, host) = pass(&server, backend).await;
    let ignores = async {
        let (mut service, _) = service.accept().await.unwrap();
        for words in ["one", "two"] {
            let head = hear_head(&mut service).await.unwrap();
            assert_eq!(head.contains("\r\nupgrade: own\r\n"), words == "one", "{head}");
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{words}");
            service.write_all(answer.as_bytes()).await.unwrap();
        }
    };
    let asks = async {
        let upgrade = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: own\r\n\r\n");
        let mut client = say(&server, &format!("{upgrade}{}", get(&host, "/"))).await.unwrap();
        for words in ["one", "two"] {
            let (head, body) = hear_answer(&mut client).await.unwrap();
            assert!(head.starts_with("HTTP/1.1 200 ") && body == words, "{head}{body}");
            assert!(!head.contains("tunnel-"), "{head}");
        }
    };
    tokio::join!(ignores, asks);
}

async fn a_client_that_goes_is_an_abort_to_the_local_service(backend: &str) {
    let server = server().await;
    let (service, _served, host) = pass(&server, backend).await;
    let client = say(&server, &get(&host, "/")).await.unwrap();
    let (mut origin, _) = service.accept().await.unwrap();
    hear_head(&mut origin).await.unwrap();
    origin.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n").await.unwrap();
    client.set_zero_linger().unwrap();
    drop(client);
    let end = origin.read(&mut [0; 1]).await;
    assert!(matches!(&end, Err(error) if error.kind() == ErrorKind::ConnectionReset), "{end:?}");
}

async fn the_owner_hears_of_requests(backend: &str) {
    let server = server().await;
    let (served, host) = serve(&server, backend, Router::new().route("/", route(async || "fine"))).await;
    let mut requests = served.requests();
    let (told, mut news) = mpsc::channel(1);
    // The first ones may be over before the watch that tells of them has begun.
    let telling = tokio::spawn(async move {
        while let Some(RequestNews::Ended(request)) = requests.next().await {
            let _ = told.send(request).await;
        }
    });
    let request = loop {
        answer_to(&server, &get(&host, "/")).await.unwrap();
        tokio::select! {
            request = news.recv() => break request.unwrap(),
            () = tokio::task::yield_now() => {}
        }
    };
    assert_eq!((request.method.as_str(), request.path.as_str(), request.status), ("GET", "/", Some(200)));
    assert_eq!(request.bytes_to_client, 4);
    telling.abort();
}
