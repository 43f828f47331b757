//! Requests, and what their clients say bit by bit.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::poll_fn;
use http::{HeaderMap, Method, Request, Version};
use http_body::{Body, Frame};
use tokio::{sync::mpsc, task::JoinHandle};
use tunnel_backends::{
    testing::soon,
    uplink::{Answer, AnswerBody, NoAnswer},
};

use crate::site::{HOST, Site, somebody};

/// A body that is said bit by bit, as hyper has that of an HTTP/2 client.
pub(crate) struct Words {
    words: mpsc::UnboundedReceiver<io::Result<Frame<Bytes>>>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    is_whole: AtomicBool,
    was_looked_at: AtomicBool,
}

/// Whoever says it. Dropping it is an end that does not say that the body is whole: hyper's, where its client has reset the stream.
pub(crate) struct Mouth {
    words: mpsc::UnboundedSender<io::Result<Frame<Bytes>>>,
    state: Arc<State>,
}

/// Something to say.
pub(crate) fn words() -> (Mouth, Words) {
    let (words_in, words) = mpsc::unbounded_channel();
    let state = Arc::<State>::default();
    (Mouth { words: words_in, state: state.clone() }, Words { words, state })
}

impl Mouth {
    pub(crate) fn say(&self, bytes: impl Into<Bytes>) {
        let _ = self.words.send(Ok(Frame::data(bytes.into())));
    }

    pub(crate) fn trailers(&self, trailers: HeaderMap) {
        let _ = self.words.send(Ok(Frame::trailers(trailers)));
    }

    pub(crate) fn finish(self) {
        self.state.is_whole.store(true, Ordering::SeqCst);
    }

    pub(crate) fn fail(self) {
        let _ = self.words.send(Err(io::ErrorKind::ConnectionReset.into()));
    }

    pub(crate) fn was_looked_at(&self) -> bool {
        self.state.was_looked_at.load(Ordering::SeqCst)
    }

    /// Returns when nobody will hear more.
    pub(crate) async fn until_unheard(&self) {
        soon("nobody to listen", self.words.closed()).await;
    }
}

impl Body for Words {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.state.was_looked_at.store(true, Ordering::SeqCst);
        self.words.poll_recv(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.state.is_whole.load(Ordering::SeqCst) && self.words.is_empty()
    }
}

/// A request with this body.
pub(crate) fn request<B>(method: Method, path: &str, body: B) -> Request<B> {
    let uri = format!("http://{HOST}{path}");
    Request::builder().method(method).uri(uri).version(Version::HTTP_2).body(body).expect("a request")
}

pub(crate) fn get(path: &str) -> Request<http_body_util::Empty<Bytes>> {
    request(Method::GET, path, http_body_util::Empty::new())
}

impl Site {
    /// Asks, in a task of its own.
    pub(crate) fn ask<B>(&self, request: Request<B>) -> JoinHandle<Result<Answer, NoAnswer>>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let uplink = self.uplink.clone();
        tokio::spawn(async move { uplink.ask(uplink.admit(somebody())?, request).await })
    }

    /// Begins to say something to an agent.
    pub(crate) fn post(&self, path: &str) -> (Mouth, JoinHandle<Result<Answer, NoAnswer>>) {
        let (mouth, words) = words();
        (mouth, self.ask(request(Method::POST, path, words)))
    }
}

/// What comes of asking.
pub(crate) async fn asked(asking: JoinHandle<Result<Answer, NoAnswer>>) -> Result<Answer, NoAnswer> {
    soon("an answer", asking).await.expect("a request that does not panic")
}

/// The answer.
pub(crate) async fn answer(asking: JoinHandle<Result<Answer, NoAnswer>>) -> Answer {
    asked(asking).await.expect("an answer")
}

/// The next part of an answer.
pub(crate) async fn next(answer: &mut AnswerBody) -> Option<io::Result<Frame<Bytes>>> {
    soon("more of an answer", poll_fn(|cx| Pin::new(&mut *answer).poll_frame(cx))).await
}

/// All that an answer says, its trailers, and whether it was broken off.
pub(crate) async fn rest(answer: &mut AnswerBody) -> (Vec<u8>, Option<HeaderMap>, io::Result<()>) {
    let (mut bytes, mut trailers) = (Vec::new(), None);
    while let Some(frame) = next(answer).await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => bytes.extend_from_slice(&data),
            Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
            Err(error) => return (bytes, trailers, Err(error)),
        }
    }
    (bytes, trailers, Ok(()))
}

/// An answer that is whole.
pub(crate) async fn whole(answer: &mut AnswerBody) -> Vec<u8> {
    let (bytes, _, end) = rest(answer).await;
    end.unwrap_or_else(|error| panic!("{error} after {} bytes", bytes.len()));
    bytes
}

/// One header.
pub(crate) fn headers(name: &'static str, value: &str) -> HeaderMap {
    HeaderMap::from_iter([(name.parse().expect("a name"), value.parse().expect("a value"))])
}
