//! Apps, and the requests they are given.

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    routing::{get as on_get, post as on_post},
};
use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::sync::mpsc;
use tower::service_fn;
use tunnel_agent::{AgentState, Carry, OpenError, Peer, RequestBody, RequestEnded, RequestNews, StreamEnd, Tunnel};
use tunnel_api::What;

use crate::rig::{Rig, get, heard, post, say_all, soon};

#[tokio::test]
async fn an_axum_app_answers_and_knows_who_asks() {
    let rig = Rig::new().await;
    let app = Router::new()
        .route("/who", on_get(async |ConnectInfo(peer): ConnectInfo<Peer>| peer.client_addr.to_string()))
        .route("/echo", on_post(async |words: String| words));
    let served = rig.agent.serve(Tunnel::http().name("blog"), app).await.unwrap();
    let mut session = rig.session().await;
    assert_eq!(served.address().to_string(), "http://blog.localhost:8010/");
    let asked = rig.server.asked();
    assert_eq!((asked.address.to_string().as_str(), asked.carry), ("http://blog", None), "what suits the backend");

    assert_eq!(session.get("/who").await, (200, "192.0.2.1:2".to_owned()));
    assert_eq!(session.get("/nowhere").await.0, 404);
    let (head, echo) = session.ask(post("/echo"), "words").await;
    assert_eq!((head.status().as_u16(), echo.text()), (200, "words".to_owned()));
}

#[tokio::test]
async fn any_tower_service_is_an_app_and_trailers_go_both_ways() {
    let rig = Rig::new().await;
    let app = service_fn(async |request: Request<RequestBody>| {
        assert!(request.extensions().get::<Peer>().is_some());
        Ok::<_, Infallible>(Response::new(request.into_body()))
    });
    let _served = rig.agent.serve(Tunnel::http(), app).await.unwrap();
    let mut session = rig.session().await;
    let (answer, mut say) = session.send(post("/"), false);
    say_all(&mut say, "words".into()).await;
    let trailers: HeaderMap = [("x-sum".parse().unwrap(), "5".parse().unwrap())].into_iter().collect();
    say.send_trailers(trailers.clone()).unwrap();
    let heard = heard(soon("an answer", answer).await.unwrap().into_body()).await;
    assert_eq!((heard.bytes, heard.end), (b"words".to_vec(), Ok(Some(trailers))));
}

#[tokio::test]
async fn a_panic_and_a_services_error_abort_their_own_request() {
    let rig = Rig::new().await;
    let app = service_fn(async |request: Request<RequestBody>| match request.uri().path() {
        "/panic" => panic!("as it is wanted"),
        "/error" => Err("no answer"),
        _ => Ok(Response::new(Full::new(Bytes::from("fine")))),
    });
    let _served = rig.agent.serve(Tunnel::http(), app).await.unwrap();
    let mut session = rig.session().await;
    for path in ["/panic", "/error"] {
        let (answer, _) = session.send(get(path), true);
        assert_eq!(soon("an end", answer).await.unwrap_err().reason(), Some(Reason::INTERNAL_ERROR), "{path}");
    }
    assert_eq!(session.get("/").await, (200, "fine".to_owned()));
}

#[tokio::test]
async fn an_app_hears_that_its_client_has_gone() {
    let rig = Rig::new().await;
    let (reached, mut reports) = mpsc::unbounded_channel();
    let begun = std::sync::Arc::new(tokio::sync::Notify::new());
    let begins = begun.clone();
    let app = service_fn(move |request: Request<RequestBody>| {
        let (reached, begins) = (reached.clone(), begins.clone());
        async move {
            let _here = OnDrop(reached.clone());
            begins.notify_one();
            // While it reads,
            if request.method() == Method::POST {
                let end = request.into_body().collect().await.map(drop).map_err(|error| error.kind());
                reached.send(Some(end)).unwrap();
            }
            // or thinks.
            std::future::pending::<Result<Response<Body>, Infallible>>().await
        }
    });
    let _served = rig.agent.serve(Tunnel::http(), app).await.unwrap();
    let mut session = rig.session().await;
    let (_answer, mut say) = session.send(post("/"), false);
    say_all(&mut say, "half".into()).await;
    soon("the request", begun.notified()).await;
    // A reset may end the app before it reads on; what it must not see is an end.
    say.send_reset(Reason::CANCEL);
    loop {
        match soon("a report", reports.recv()).await.unwrap() {
            None => break,
            Some(end) => assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset)),
        }
    }
    let (answer, _) = session.send(get("/"), true);
    soon("the request", begun.notified()).await;
    drop(answer);
    assert_eq!(soon("a report", reports.recv()).await, Some(None));
}

struct OnDrop(mpsc::UnboundedSender<Option<Result<(), std::io::ErrorKind>>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let _ = self.0.send(None);
    }
}

#[tokio::test]
async fn a_tunnel_that_is_dropped_lets_answers_end_and_one_that_is_left_cuts_them_off() {
    for leaves in [false, true] {
        let rig = Rig::new().await;
        let (words, said) = mpsc::channel::<Result<Bytes, Infallible>>(1);
        let said = std::sync::Arc::new(std::sync::Mutex::new(Some(said)));
        let app = service_fn(move |_: Request<RequestBody>| {
            let said = said.lock().unwrap().take().expect("one request");
            let words = futures_util::stream::unfold(said, async |mut said| Some((said.recv().await?, said)));
            async move { Ok::<_, Infallible>(Response::new(Body::from_stream(words))) }
        });
        let served = rig.agent.serve(Tunnel::http(), app).await.unwrap();
        let mut session = rig.session().await;
        let mut state = served.state();
        let (answer, _) = session.send(get("/"), true);
        words.send(Ok("one ".into())).await.unwrap();
        let body = soon("an answer", answer).await.unwrap().into_body();
        if leaves {
            soon("the way out", served.leave()).await;
            assert_eq!(heard(body).await.end, Err(Some(Reason::INTERNAL_ERROR)));
        } else {
            drop(served);
            words.send(Ok("two".into())).await.unwrap();
            drop(words);
            assert_eq!(heard(body).await.text(), "one two");
        }
        soon("the end", state.wait_for(|state| *state == AgentState::Closed)).await.unwrap();
    }
}

#[tokio::test]
async fn a_tunnel_that_is_over_lets_go_of_its_app() {
    for leaves in [false, true] {
        let rig = Rig::new().await;
        let (gone, mut reports) = mpsc::unbounded_channel();
        let app = std::sync::Arc::new(OnDrop(gone));
        let app = service_fn(move |_: Request<RequestBody>| {
            let app = app.clone();
            async move {
                let _in_use = app;
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("fine"))))
            }
        });
        let served = rig.agent.serve(Tunnel::http(), app).await.unwrap();
        let mut session = rig.session().await;
        let at_once: Vec<_> = (0..100).map(|_| session.send(get("/"), true).0).collect();
        for answer in at_once {
            assert_eq!(heard(soon("an answer", answer).await.unwrap().into_body()).await.text(), "fine");
        }
        assert_eq!(session.get("/").await, (200, "fine".to_owned()));
        if leaves {
            soon("the way out", served.leave()).await;
        } else {
            drop(served);
        }
        assert_eq!(soon("its drop", reports.recv()).await, Some(None));
    }
}

#[tokio::test]
async fn a_listener_asks_for_connections_and_leaves_requests_to_others() {
    let rig = Rig::new().await;
    let requests = rig.agent.open(Tunnel::http().carry(Carry::Requests)).await;
    assert!(matches!(requests, Err(OpenError::ListensForConnections)), "{requests:?}");
    let mut listener = rig.agent.open(Tunnel::http()).await.unwrap();
    assert_eq!(rig.server.asked().carry, Some(Carry::Connections));
    let mut session = rig.session().await;
    let (answer, _) = session.send(get("/"), true);
    let accepting = tokio::spawn(async move { listener.accept().await });
    assert_eq!(soon("an end", answer).await.unwrap_err().reason(), Some(Reason::REFUSED_STREAM));
    accepting.abort();
}

#[tokio::test]
async fn what_the_server_tells_of_requests_can_be_read() {
    let mut rig = Rig::new().await;
    let app = Router::<()>::new();
    let served = rig.agent.serve(Tunnel::http(), app).await.unwrap();
    let _session = rig.session().await;
    let mut requests = served.requests();
    let tell = soon("a watch that asks for requests", rig.watched.recv()).await.unwrap();
    let ended = RequestEnded {
        client: "192.0.2.1:2".parse().unwrap(),
        method: "GET".to_owned(),
        host: "blog.localhost".to_owned(),
        path: "/".to_owned(),
        status: Some(200),
        end: StreamEnd::Finished,
        bytes_to_agent: 0,
        bytes_to_client: 5,
        first_byte: Some(Duration::from_millis(2)),
        duration: Duration::from_millis(3),
    };
    tell.send(What::RequestEnded(Box::new(ended.clone()))).unwrap();
    assert_eq!(soon("news", requests.next()).await, Some(RequestNews::Ended(ended)));
    served.close().await;
    assert_eq!(soon("an end", requests.next()).await, None);
}
