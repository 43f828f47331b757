//! Clients' upgrades, which an app sees as HTTP/1.1 has them.

use std::{convert::Infallible, io::ErrorKind};

use axum::body::Body;
use bytes::Bytes;
use h2::{Reason, ext::Protocol};
use http::{
    Method, Request, Response, StatusCode,
    header::{CONNECTION, HOST, UPGRADE},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};
use tower::service_fn;
use tunnel_agent::{Peer, RequestBody, Tunnel};
use tunnel_backends::exchange::is_connection;

use crate::rig::{Heard, Rig, Session, heard, say_all, soon};

type Reports = mpsc::UnboundedSender<Result<usize, ErrorKind>>;

/// Echoes what it hears on an upgraded connection, and reports how that ends; but upgrades nothing else than `/chat`.
async fn echo(mut request: Request<RequestBody>, reports: Reports) -> Result<Response<Body>, Infallible> {
    assert_eq!((request.method(), request.headers()[HOST].as_bytes()), (&Method::GET, &b"blog.localhost"[..]));
    assert_eq!(request.headers()[CONNECTION], "upgrade");
    assert!(request.extensions().get::<Peer>().is_some());
    let mut response = Response::new(Body::from("not here"));
    match request.uri().path() {
        "/chat" => {}
        "/page" => return Ok(response),
        _ => {
            *response.status_mut() = StatusCode::NOT_FOUND;
            return Ok(response);
        }
    }
    let protocol = request.headers()[UPGRADE].clone();
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut io = TokioIo::new(upgrade.await.unwrap());
        let mut all = 0;
        let mut words = [0; 1000];
        let end = loop {
            match io.read(&mut words).await {
                Ok(0) => break Ok(all),
                Ok(some) => io.write_all(&words[..some]).await.unwrap(),
                Err(error) => break Err(error.kind()),
            }
            all += 1;
        };
        reports.send(end).unwrap();
    });
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, "upgrade".parse().unwrap());
    response.headers_mut().insert(UPGRADE, protocol);
    response.headers_mut().insert("sec-websocket-protocol", "chat".parse().unwrap());
    response.headers_mut().insert("sec-websocket-accept", "proof".parse().unwrap());
    Ok(response)
}

async fn start() -> (Rig, tunnel_agent::ServedTunnel, Session, mpsc::UnboundedReceiver<Result<usize, ErrorKind>>) {
    let rig = Rig::new().await;
    let (reports_in, reports) = mpsc::unbounded_channel();
    let app = service_fn(move |request| echo(request, reports_in.clone()));
    let served = rig.agent.serve(Tunnel::http(), app).await.unwrap();
    let session = rig.session().await;
    (rig, served, session, reports)
}

fn connect(path: &str) -> Request<()> {
    let mut head = Request::connect(format!("http://blog.localhost{path}"))
        .header("forwarded", "for=\"192.0.2.1:2\"")
        .body(())
        .unwrap();
    head.extensions_mut().insert(Protocol::from_static("websocket"));
    head
}

#[tokio::test]
async fn an_upgrade_is_http_1s_to_the_app_and_then_a_connection() {
    let (_rig, _served, mut session, mut reports) = start().await;
    let (answer, mut say) = session.send(connect("/chat"), false);
    let answer = soon("an answer", answer).await.unwrap();
    let names: Vec<_> = answer.headers().keys().map(http::HeaderName::as_str).collect();
    assert_eq!(answer.status(), 200);
    assert!(names.contains(&"sec-websocket-protocol"), "{names:?}");
    assert!(!names.iter().any(|name| ["sec-websocket-accept", "upgrade", "connection"].contains(name)), "{names:?}");
    let mut body = answer.into_body();
    for words in ["one", "two"] {
        say_all(&mut say, words.into()).await;
        assert_eq!(soon("an echo", body.data()).await.unwrap().unwrap(), words);
    }
    say.send_data(Bytes::new(), true).unwrap();
    assert_eq!(heard(body).await, Heard { bytes: vec![], end: Ok(None) });
    assert_eq!(soon("a report", reports.recv()).await, Some(Ok(2)));
}

#[tokio::test]
async fn a_client_that_breaks_off_is_an_error_to_the_app() {
    let (_rig, _served, mut session, mut reports) = start().await;
    let (answer, mut say) = session.send(connect("/chat"), false);
    let _body = soon("an answer", answer).await.unwrap().into_body();
    say.send_reset(Reason::CANCEL);
    assert_eq!(soon("a report", reports.recv()).await, Some(Err(ErrorKind::ConnectionReset)));
}

#[tokio::test]
async fn a_tunnel_that_is_left_is_an_error_to_the_app() {
    let (_rig, served, mut session, mut reports) = start().await;
    let (answer, _say) = session.send(connect("/chat"), false);
    let body = soon("an answer", answer).await.unwrap().into_body();
    soon("the way out", served.leave()).await;
    assert_eq!(soon("a report", reports.recv()).await, Some(Err(ErrorKind::ConnectionReset)));
    assert!(heard(body).await.end.is_err());
}

#[tokio::test]
async fn an_app_that_does_not_upgrade_answers_as_to_any_request() {
    let (_rig, _served, mut session, _reports) = start().await;
    let (answer, _say) = session.send(connect("/elsewhere"), false);
    let answer = soon("an answer", answer).await.unwrap();
    assert_eq!(answer.status(), 404);
    assert_eq!(heard(answer.into_body()).await.text(), "not here");
    // Success is not the upgrade's, and says so.
    for (path, is_upgraded) in [("/page", false), ("/chat", true)] {
        let (answer, _say) = session.send(connect(path), false);
        let answer = soon("an answer", answer).await.unwrap();
        assert_eq!((answer.status().as_u16(), is_connection(&answer)), (200, is_upgraded), "{path}");
    }
}
