//! One request from its head to the end of its answer: what is counted of it, and how it ended. And the bodies it is counted by,
//! in which an abort stays one.

use std::{
    error::Error,
    future::{Future, poll_fn},
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    Method, Request, StatusCode, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
    uri::PathAndQuery,
};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::{
    runtime::Handle,
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_util::task::TaskTracker;
use tunnel_api::StreamEnd;

use crate::{door::Newcomer, names::Named, requests::Ended};

/// Whatever goes wrong with a body.
pub(super) type BodyError = Box<dyn Error + Send + Sync>;

/// A request to a tunnel's host. When this is dropped it is over, and is told.
pub(super) struct Visit {
    tunnel: Arc<Named>,
    since: Instant,
    tally: Arc<Tally>,
    client: SocketAddr,
    method: Method,
    path: Option<PathAndQuery>,
    /// What was answered, and when.
    answered: Option<(StatusCode, Duration)>,
    end: StreamEnd,
}

/// What goes through, as it does.
#[derive(Debug, Default)]
pub(super) struct Tally {
    to_agent: AtomicU64,
    to_client: AtomicU64,
    /// The client stopped in the middle of what it said.
    has_stalled: AtomicBool,
    /// The client broke off in the middle of what it said.
    has_aborted: AtomicBool,
}

impl Visit {
    pub(super) fn new<B>(tunnel: Arc<Named>, client: SocketAddr, request: &Request<B>) -> Self {
        Self {
            tunnel,
            since: Instant::now(),
            tally: Arc::default(),
            client,
            method: request.method().clone(),
            path: request.uri().path_and_query().cloned(),
            answered: None,
            // Whoever goes before there is an end.
            end: StreamEnd::AbortedByClient,
        }
    }

    pub(super) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// There is an answer.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.answered = Some((status, self.since.elapsed()));
    }

    pub(super) fn ended(&mut self, end: StreamEnd) {
        self.end = end;
    }

    /// It became a connection, through which this went.
    pub(super) fn relayed(&mut self, end: StreamEnd, to_agent: u64, to_client: u64) {
        self.end = end;
        self.tally.to_agent.store(to_agent, Ordering::Relaxed);
        self.tally.to_client.store(to_client, Ordering::Relaxed);
    }
}

impl Tally {
    pub(super) fn has_stalled(&self) -> bool {
        self.has_stalled.load(Ordering::Relaxed)
    }

    /// Whose doing it is that there is no more.
    pub(super) fn broken_by(&self) -> StreamEnd {
        if self.has_stalled() {
            StreamEnd::Stalled
        } else if self.has_aborted.load(Ordering::Relaxed) {
            StreamEnd::AbortedByClient
        } else {
            StreamEnd::AbortedByAgent
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        // Whoever tells it leaves the query out, unless that is wanted.
        let path = self.path.as_ref().map_or("/", PathAndQuery::as_str);
        self.tunnel.uplink.tell_request(Ended {
            client: self.client,
            method: self.method.as_str().into(),
            host: self.tunnel.host.text(),
            path: path.into(),
            status: self.answered.map(|(status, _)| status.as_u16()),
            end: self.end,
            bytes_to_agent: self.tally.to_agent.load(Ordering::Relaxed),
            bytes_to_client: self.tally.to_client.load(Ordering::Relaxed),
            first_byte: self.answered.map(|(_, after)| after),
            duration: self.since.elapsed(),
        });
    }
}

/// What a client says after its request's head. hyper ends the body of a stream that was reset with NO_ERROR as if it were whole;
/// here nothing is whole that has not been said to be.
pub(super) struct ClientBody {
    body: Incoming,
    tally: Arc<Tally>,
    newcomer: Newcomer,
    tells_its_end: bool,
    /// How long the client may say nothing, where it has begun to say something that has an end.
    patience: Option<Duration>,
    silence: Option<Pin<Box<Sleep>>>,
}

impl ClientBody {
    pub(super) fn new(
        request: Request<Incoming>,
        tally: Arc<Tally>,
        newcomer: Newcomer,
        patience: Duration,
    ) -> Request<Self> {
        let is_http2 = request.version() == Version::HTTP_2;
        let headers = request.headers();
        // What has no length in HTTP/2 may be one side of a conversation.
        let has_end = headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING);
        request.map(|body| Self {
            body,
            tally,
            newcomer,
            tells_its_end: is_http2,
            patience: has_end.then_some(patience),
            silence: None,
        })
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.silence = None;
                if let Some(data) = frame.data_ref() {
                    this.tally.to_agent.fetch_add(data.len() as u64, Ordering::Relaxed);
                    this.newcomer.taken(data.len());
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.tally.has_aborted.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) if this.tells_its_end && !this.body.is_end_stream() => {
                this.tally.has_aborted.store(true, Ordering::Relaxed);
                let error = io::Error::new(ErrorKind::ConnectionReset, "the client has reset its request");
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let Some(patience) = this.patience else { return Poll::Pending };
                let silence = this.silence.get_or_insert_with(|| Box::pin(sleep(patience)));
                silence.as_mut().poll(cx).map(|()| {
                    this.tally.has_stalled.store(true, Ordering::Relaxed);
                    let error = io::Error::new(ErrorKind::TimedOut, "the client says no more of its request");
                    Some(Err(error.into()))
                })
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What an agent says after its answer's head, on its way to the client.
pub(super) struct AnswerBody<B: Body<Data = Bytes> + Send + Unpin + 'static> {
    /// Until it is dropped.
    body: Option<B>,
    /// Until it is over.
    visit: Option<Visit>,
    /// How much there is to come, where that was said. hyper asks for no more then, and may drop a body that has not come to its end.
    left: Option<u64>,
    tasks: TaskTracker,
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> AnswerBody<B> {
    pub(super) fn new(body: B, visit: Visit, length: Option<u64>, tasks: TaskTracker) -> Self {
        let mut answer = Self { body: Some(body), visit: Some(visit), left: length, tasks };
        if answer.is_whole() || length == Some(0) {
            answer.end(StreamEnd::Finished);
        }
        answer
    }

    fn is_whole(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn end(&mut self, end: StreamEnd) {
        if let Some(mut visit) = self.visit.take() {
            visit.ended(end);
        }
    }

    fn count(&mut self, bytes: u64) {
        if let Some(visit) = &self.visit {
            visit.tally.to_client.fetch_add(bytes, Ordering::Relaxed);
        }
        self.left = self.left.map(|left| left.saturating_sub(bytes));
        if self.left == Some(0) || self.is_whole() {
            self.end(StreamEnd::Finished);
        }
    }
}

/// Nobody waits for its end, which is on its way: the agent would take it for an abort if it were not heard.
impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Drop for AnswerBody<B> {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take().filter(|body| self.left == Some(0) && !body.is_end_stream()) else {
            return;
        };
        if Handle::try_current().is_ok() {
            let heard_out = poll_fn(move |cx| {
                while std::task::ready!(Pin::new(&mut body).poll_frame(cx)).is_some_and(|frame| frame.is_ok()) {}
                Poll::Ready(())
            });
            self.tasks.spawn(async move { timeout(LONGEST_END, heard_out).await });
        }
    }
}

impl<B> Body for AnswerBody<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        Pin::new(body).poll_frame(cx).map(|frame| match frame {
            Some(Ok(frame)) => {
                match frame.data_ref() {
                    Some(data) => this.count(data.len() as u64),
                    None => this.end(StreamEnd::Finished),
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                let by = this.visit.as_ref().map_or(StreamEnd::AbortedByAgent, |visit| visit.tally.broken_by());
                this.end(by);
                Some(Err(error.into()))
            }
            None => {
                this.end(StreamEnd::Finished);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.is_whole()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

/// For an answer's end, when all that was announced of it has come.
const LONGEST_END: Duration = Duration::from_secs(5);
