//! Requests at the agent's half of PTTH. The server here is the `h2` crate's client behind an upgrade by hand.
#![allow(clippy::unwrap_used, reason = "all of this is tests, also what they share")]

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
    ext::Protocol,
};
use http::{HeaderMap, Method, Request, Response, header::CONTENT_LENGTH};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
    task::AbortHandle,
};
use tokio_util::task::AbortOnDropHandle;
use tunnel_api::tls::ClientTls;
use tunnel_backends::{
    carrier::{Declined, Incoming, Offer, RequestOffer, dialler_for},
    testing::{pattern, soon},
};

#[tokio::test]
async fn a_request_arrives_as_it_was_sent_and_so_does_its_answer() {
    let mut rig = Rig::start().await;
    let request = Request::get("http://blog.example/path?query").header("forwarded", "for=\"192.0.2.1:2\"").body(());
    let (answer, _) = rig.send(request.unwrap(), true);

    let offer = rig.offer().await;
    assert_eq!(offer.client_addr, Some("192.0.2.1:2".parse().unwrap()));
    let (request, responder) = offer.accept();
    assert_eq!((request.method(), request.uri().to_string()), (&Method::GET, "http://blog.example/path?query".into()));
    assert!(request.body().is_end_stream() && request.body().size_hint().exact() == Some(0));
    responder.answer(Response::builder().status(201).body(Full::from("made")).unwrap()).await.unwrap();

    let answer = soon("the answer", answer).await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()[CONTENT_LENGTH]), (201, &"4".parse().unwrap()));
    assert_eq!(heard(answer.into_body()).await, (b"made".to_vec(), Ok(None)));
}

#[tokio::test]
async fn bodies_and_trailers_go_both_ways_whatever_their_size() {
    let mut rig = Rig::start().await;
    let (answer, mut say) = rig.send(post(), false);
    let (request, responder) = rig.offer().await.accept();
    // An echo, which is in need of room both ways.
    let echo = spawn(responder.answer(Response::new(request.into_body())));
    let said = pattern(1, 3_000_000);
    let all = said.clone();
    let saying = spawn(async move {
        say_all(&mut say, all.into()).await;
        say.send_trailers(trailers()).unwrap();
    });
    let answer = soon("the answer", answer).await.unwrap();
    let (body, end) = heard(answer.into_body()).await;
    assert!(body == said, "{} bytes came back of {}", body.len(), said.len());
    assert_eq!(end, Ok(Some(trailers())));
    saying.await.unwrap();
    echo.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_requests_length_is_known_where_it_was_said() {
    let mut rig = Rig::start().await;
    let mut head = post();
    head.headers_mut().insert(CONTENT_LENGTH, 6.into());
    let (_answer, mut say) = rig.send(head, false);
    let (request, _responder) = rig.offer().await.accept();
    let mut body = request.into_body();
    assert_eq!(body.size_hint().exact(), Some(6));
    say_all(&mut say, "sixsix".into()).await;
    say.send_data(Bytes::new(), true).unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "sixsix");
    assert_eq!(body.size_hint().exact(), Some(0));
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn a_request_that_breaks_off_never_looks_complete_whatever_the_reset_says() {
    let mut rig = Rig::start().await;
    for reason in [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR] {
        let (_answer, mut say) = rig.send(post(), false);
        let (request, _responder) = rig.offer().await.accept();
        let mut body = request.into_body();
        say_all(&mut say, "half".into()).await;
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
        say.send_reset(reason);
        let end = soon("the end", body.frame()).await.unwrap().unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::ConnectionReset, "{reason}");
        assert!(body.frame().await.is_none());
    }
}

#[tokio::test]
async fn a_connection_that_is_lost_breaks_a_request_off() {
    let mut rig = Rig::start().await;
    let (_answer, _say) = rig.send(post(), false);
    let (request, _responder) = rig.offer().await.accept();
    rig.cut.abort();
    assert!(soon("the end", request.into_body().frame()).await.unwrap().is_err());
}

#[tokio::test]
async fn an_answer_that_fails_is_an_abort_after_all_that_was_said() {
    let mut rig = Rig::start().await;
    let (answer, _) = rig.send(get(), true);
    let (_, responder) = rig.offer().await.accept();
    let said = pattern(2, 1_000_000);
    let pieces = [Ok(Frame::data(Bytes::from(said.clone()))), Err(io::Error::other("out of words"))];
    let failing = Response::new(StreamBody::new(futures_util::stream::iter(pieces)));
    let answering = spawn(responder.answer(failing));
    let (body, end) = heard(soon("the answer", answer).await.unwrap().into_body()).await;
    assert!(body == said, "{} bytes of {}", body.len(), said.len());
    assert_eq!(end, Err(Some(Reason::INTERNAL_ERROR)));
    assert_eq!(answering.await.unwrap().unwrap_err().to_string(), "out of words");
}

#[tokio::test]
async fn an_answer_that_is_given_up_is_an_abort() {
    let mut rig = Rig::start().await;
    // Before it has begun,
    let (answer, _) = rig.send(get(), true);
    drop(rig.offer().await.accept());
    assert_eq!(soon("the end", answer).await.unwrap_err().reason(), Some(Reason::INTERNAL_ERROR));
    // and in the middle.
    let (answer, _) = rig.send(get(), true);
    let (_, responder) = rig.offer().await.accept();
    let (words, said) = mpsc::channel(1);
    let answering = spawn(responder.answer(Response::new(Words(said))));
    words.send(Bytes::from("half")).await.unwrap();
    let mut body = soon("the answer", answer).await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "half");
    answering.abort();
    assert_eq!(heard(body).await, (vec![], Err(Some(Reason::INTERNAL_ERROR))));
}

#[tokio::test]
async fn who_answers_hears_that_the_client_has_gone() {
    let mut rig = Rig::start().await;
    // While there is no answer yet,
    let (answer, _) = rig.send(get(), true);
    let (_, mut responder) = rig.offer().await.accept();
    drop(answer);
    soon("the news", std::future::poll_fn(|cx| responder.poll_gone(cx))).await;
    // and while it has nothing to say.
    let (answer, _) = rig.send(get(), true);
    let (_, responder) = rig.offer().await.accept();
    let (words, said) = mpsc::channel(1);
    let answering = spawn(responder.answer(Response::new(Words(said))));
    drop(soon("the answer", answer).await.unwrap());
    assert!(soon("the end", answering).await.unwrap().is_err());
    soon("the body's end", words.closed()).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_its_own_answer_and_no_other() {
    let mut rig = Rig::start().await;
    let (answer, _) = rig.send(get(), true);
    let (_, responder) = rig.offer().await.accept();
    let (words, said) = mpsc::channel(1);
    let _answering = spawn(responder.answer(Response::new(Words(said))));
    let _unread = soon("the answer", answer).await.unwrap();
    let mut taken = 0;
    // It takes what the windows hold, and then no more until somebody reads.
    while let Ok(Ok(())) = tokio::time::timeout(PAUSE, words.send(vec![0; 16 * 1024].into())).await {
        taken += 16 * 1024;
        assert!(taken < 2_000_000, "nothing holds it up");
    }
    let (other, _) = rig.send(get(), true);
    let (_, responder) = rig.offer().await.accept();
    responder.answer(Response::new(Full::from("quick"))).await.unwrap();
    assert_eq!(heard(soon("the other's answer", other).await.unwrap().into_body()).await.0, b"quick");
}

#[tokio::test]
async fn an_answer_that_comes_before_the_request_has_ended_is_whole() {
    let mut rig = Rig::start().await;
    let (answer, mut say) = rig.send(post(), false);
    say_all(&mut say, vec![1; 10_000].into()).await;
    let (request, responder) = rig.offer().await.accept();
    drop(request);
    let said = pattern(3, 300_000);
    let answering = spawn(responder.answer(Response::builder().status(413).body(Full::from(said.clone())).unwrap()));
    let answer = soon("the answer", answer).await.unwrap();
    assert_eq!(answer.status(), 413);
    let (body, end) = heard(answer.into_body()).await;
    assert!(body == said && end == Ok(None), "{} bytes, {end:?}", body.len());
    answering.await.unwrap().unwrap();
    // And the client is told, kindly, that the rest is not wanted.
    let reset = soon("the word", std::future::poll_fn(|cx| say.poll_reset(cx))).await.unwrap();
    assert_eq!(reset, Reason::NO_ERROR);
}

#[tokio::test]
async fn what_has_no_body_has_none() {
    let mut rig = Rig::start().await;
    for (method, status, length) in
        [(Method::HEAD, 200, Some("9")), (Method::GET, 204, None), (Method::GET, 304, Some("9"))]
    {
        let head = Request::builder().method(method).uri("http://blog.example/").body(()).unwrap();
        let (answer, _) = rig.send(head, true);
        let (_, responder) = rig.offer().await.accept();
        responder.answer(Response::builder().status(status).body(Full::from("some body")).unwrap()).await.unwrap();
        let answer = soon("the answer", answer).await.unwrap();
        assert_eq!(answer.headers().get(CONTENT_LENGTH).map(|value| value.to_str().unwrap()), length, "{status}");
        assert_eq!(heard(answer.into_body()).await, (vec![], Ok(None)), "{status}");
    }
}

#[tokio::test]
async fn what_is_of_one_connection_only_is_not_passed_on() {
    let mut rig = Rig::start().await;
    let (answer, _) = rig.send(get(), true);
    let (_, responder) = rig.offer().await.accept();
    let mut response = Response::new(Empty::<Bytes>::new());
    for (name, value) in [
        ("connection", "close, X-Hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("x-end", "1"),
    ] {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    responder.answer(response).await.unwrap();
    let answer = soon("the answer", answer).await.unwrap();
    let names: Vec<_> = answer.headers().keys().map(http::HeaderName::as_str).collect();
    assert_eq!(names, ["x-end", "content-length"]);
}

#[tokio::test]
async fn a_request_that_nobody_takes_is_left_to_another_agent_and_one_that_is_refused_is_not() {
    let mut rig = Rig::start().await;
    let (dropped, _) = rig.send(get(), true);
    drop(rig.offer().await);
    assert_eq!(soon("the end", dropped).await.unwrap_err().reason(), Some(Reason::REFUSED_STREAM));
    let (untouched, _) = rig.send(get(), true);
    rig.offer().await.decline(Declined::Untouched);
    assert_eq!(soon("the end", untouched).await.unwrap_err().reason(), Some(Reason::REFUSED_STREAM));
    let (refused, _) = rig.send(get(), true);
    rig.offer().await.decline(Declined::Refused);
    assert_eq!(soon("the answer", refused).await.unwrap().status(), 502);
}

#[tokio::test]
async fn an_extended_connect_is_a_request_and_becomes_a_connection() {
    let mut rig = Rig::start().await;
    assert!(rig.server.is_extended_connect_protocol_enabled());
    let mut head = Request::builder().method(Method::CONNECT).uri("http://blog.example/chat").body(()).unwrap();
    head.extensions_mut().insert(Protocol::from_static("websocket"));
    let (answer, mut say) = rig.send(head, false);
    let offer = rig.offer().await;
    assert_eq!(offer.protocol(), Some("websocket"));
    let (request, responder) = offer.accept();
    assert_eq!(request.uri().path(), "/chat");
    let mut stream = responder.connect(Response::new(())).unwrap();
    let answer = soon("the answer", answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    say_all(&mut say, "ping".into()).await;
    let mut words = [0; 4];
    soon("the client's words", stream.read_exact(&mut words)).await.unwrap();
    stream.write_all(b"pong").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!((&words, heard(answer.into_body()).await), (b"ping", (b"pong".to_vec(), Ok(None))));
    say.send_reset(Reason::CANCEL);
    let end = soon("the end", stream.read(&mut words)).await.unwrap_err();
    assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
}

/// A server by hand and one agent that has dialled in.
struct Rig {
    server: SendRequest<Bytes>,
    cut: AbortHandle,
    _connection: AbortOnDropHandle<()>,
    agent: Box<dyn Incoming>,
}

impl Rig {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("ptth://t-1:secret@{}/.well-known/ptth/t-1/", listener.local_addr().unwrap());
        let serve = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(socket.read_u8().await.unwrap());
            }
            let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: ptth\r\nalpn: h2\r\n\r\n";
            socket.write_all(switch.as_bytes()).await.unwrap();
            // Streams' windows hold up streams; the connection's would hold up all.
            let mut settings = h2::client::Builder::new();
            let handshake = settings.initial_connection_window_size(1 << 30).handshake(socket);
            let (server, connection) = handshake.await.unwrap();
            let connection = tokio::spawn(async move {
                // It ends as the test ends it.
                let _ = connection.await;
            });
            (server.ready().await.unwrap(), connection)
        };
        let uri = uri.parse().unwrap();
        let dialler = dialler_for(&uri, &ClientTls::default()).unwrap();
        let ((mut server, connection), agent) =
            soon("the dial-in", async { tokio::join!(serve, dialler.dial(&uri)) }).await;
        // Its settings have come once a request has been answered.
        let mut agent = agent.unwrap();
        let (answer, _) = server.send_request(get(), true).unwrap();
        match soon("a request", agent.next()).await.unwrap().unwrap() {
            Offer::Request(offer) => offer.decline(Declined::Refused),
            Offer::Connection(offer) => panic!("a connection: {offer:?}"),
        }
        answer.await.unwrap();
        Self { server, cut: connection.abort_handle(), _connection: AbortOnDropHandle::new(connection), agent }
    }

    fn send(&mut self, head: Request<()>, ends: bool) -> (ResponseFuture, SendStream<Bytes>) {
        self.server.send_request(head, ends).unwrap()
    }

    async fn offer(&mut self) -> RequestOffer {
        match soon("a request at the agent", self.agent.next()).await.unwrap().unwrap() {
            Offer::Request(offer) => offer,
            Offer::Connection(offer) => panic!("a connection: {offer:?}"),
        }
    }
}

/// A body that says what it is given.
struct Words(mpsc::Receiver<Bytes>);

impl Body for Words {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|words| words.map(|words| Ok(Frame::data(words))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

fn get() -> Request<()> {
    Request::get("http://blog.example/").body(()).unwrap()
}

fn post() -> Request<()> {
    Request::post("http://blog.example/").body(()).unwrap()
}

fn trailers() -> HeaderMap {
    [("grpc-status".parse().unwrap(), "0".parse().unwrap())].into_iter().collect()
}

fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> AbortOnDropHandle<T> {
    AbortOnDropHandle::new(tokio::spawn(work))
}

async fn say_all(say: &mut SendStream<Bytes>, mut bytes: Bytes) {
    while !bytes.is_empty() {
        say.reserve_capacity(bytes.len());
        let room = std::future::poll_fn(|cx| say.poll_capacity(cx)).await.unwrap().unwrap();
        say.send_data(bytes.split_to(room.min(bytes.len())), false).unwrap();
    }
}

/// All that comes, and the end: with trailers or without, or aborted.
async fn heard(mut body: RecvStream) -> (Vec<u8>, Result<Option<HeaderMap>, Option<Reason>>) {
    let mut all = Vec::new();
    let hear = async {
        while let Some(data) = body.data().await {
            match data {
                Ok(data) => {
                    all.extend_from_slice(&data);
                    body.flow_control().release_capacity(data.len()).unwrap();
                }
                Err(error) => return Err(error.reason()),
            }
        }
        body.trailers().await.map_err(|error| error.reason())
    };
    let end = soon("the end of an answer", hear).await;
    (all, end)
}

/// Absence has no event: this is a wait for what must not come.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
