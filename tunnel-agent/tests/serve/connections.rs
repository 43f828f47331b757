//! Apps behind clients' connections.

use std::{convert::Infallible, io, sync::Arc};

use axum::{Router, body::Body, extract::ConnectInfo, routing::get as on_get};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::sync::Notify;
use tower::service_fn;
use tunnel_agent::{Peer, RequestBody, Tunnel};

use crate::rig::{Rig, heard, say_all, soon};

fn connect() -> Request<()> {
    Request::connect("blog.localhost:8010")
        .header("forwarded", "for=\"192.0.2.1:2\";by=\"192.0.2.3:80\"")
        .body(())
        .unwrap()
}

#[tokio::test]
async fn requests_on_a_connection_are_the_apps_too() {
    let rig = Rig::new().await;
    let who = on_get(async |ConnectInfo(peer): ConnectInfo<Peer>| peer.client_addr.to_string());
    let _served = rig.agent.serve(Tunnel::http(), Router::new().route("/who", who)).await.unwrap();
    let mut session = rig.session().await;
    let (answer, mut say) = session.send(connect(), false);
    say_all(&mut say, "GET /who HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n".into()).await;
    let body = soon("an answer", answer).await.unwrap().into_body();
    let text = heard(body).await.text();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\n192.0.2.1:2"), "{text}");
}

#[tokio::test]
async fn an_answer_that_fails_on_a_connection_aborts_it() {
    let rig = Rig::new().await;
    // HTTP/1.0 has nothing but the connection's end to end an answer by.
    let heard_half = Arc::new(Notify::new());
    let fails = heard_half.clone();
    let app = service_fn(move |_: Request<RequestBody>| {
        let fails = fails.clone();
        let failure = stream::once(async move {
            fails.notified().await;
            Err(io::Error::other("out of words"))
        });
        let pieces = stream::once(async { Ok(Bytes::from("half")) }).chain(failure);
        async { Ok::<_, Infallible>(Response::new(Body::from_stream(pieces))) }
    });
    let _served = rig.agent.serve(Tunnel::http(), app).await.unwrap();
    let mut session = rig.session().await;
    let (answer, mut say) = session.send(connect(), false);
    say_all(&mut say, "GET / HTTP/1.0\r\n\r\n".into()).await;
    let mut body = soon("an answer", answer).await.unwrap().into_body();
    while !soon("a half", body.data()).await.unwrap().unwrap().ends_with(b"half") {}
    heard_half.notify_one();
    let heard = heard(body).await;
    assert!(heard.end.is_err(), "{:?} looks whole", String::from_utf8_lossy(&heard.bytes));
}

#[tokio::test]
async fn an_answer_to_a_call_ends_in_its_status() {
    let rig = Rig::new().await;
    let app = service_fn(|_: Request<RequestBody>| async {
        let status = [("grpc-status", "5"), ("grpc-message", "none")];
        let status = status.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).into_iter().collect();
        let frames = [Ok::<_, Infallible>(Frame::data(Bytes::from("answer"))), Ok(Frame::trailers(status))];
        let body = Body::new(StreamBody::new(stream::iter(frames)));
        Ok::<_, Infallible>(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
    });
    let _served = rig.agent.serve(Tunnel::http(), app).await.unwrap();
    let mut session = rig.session().await;
    let (answer, mut say) = session.send(connect(), false);
    let call = "POST /a.B/C HTTP/1.1\r\nhost: h\r\nte: trailers\r\ncontent-length: 0\r\nconnection: te, close\r\n\r\n";
    say_all(&mut say, call.into()).await;
    let body = soon("an answer", answer).await.unwrap().into_body();
    let text = heard(body).await.text();
    assert!(text.contains("answer\r\n0\r\ngrpc-status: 5\r\ngrpc-message: none\r\n\r\n"), "{text}");
}
