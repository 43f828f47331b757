//! A client's request at the agent, and the answer: HTTP/2 as it is, but that an abort is never taken for an end. (hyper's server
//! ends a request's body where RST_STREAM(CANCEL) came, so the `h2` crate is used directly.)

use std::{
    fmt,
    future::poll_fn,
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, ext::Protocol, server::SendResponse};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{CONTENT_LENGTH, FORWARDED},
};
use http_body::{Body, Frame, SizeHint};
use tokio::{task::coop, time::timeout};

use super::{
    dial::answer_without_body,
    forwarded,
    inbox::{End, SharedInbox, Streams},
    limits::LONGEST_ANSWER_HEAD,
    stream::{Chunk, H2Stream, Outbox},
};
use crate::{carrier::Declined, hop, relay::BoxDuplex, upgraded::NOT_UPGRADED};

/// A request, offered to the agent. Dropping it leaves it to another agent: it certainly was not looked at.
#[derive(Debug)]
pub struct RequestOffer {
    /// Where the client comes from, as far as the server says.
    pub client_addr: Option<SocketAddr>,
    /// Boxed, because offers are handed on and on.
    request: Option<Box<(Request<RequestBody>, Responder)>>,
}

impl RequestOffer {
    pub(super) fn new(request: Request<RecvStream>, respond: SendResponse<Chunk>, streams: Arc<Streams>) -> Self {
        let client_addr = request.headers().get(FORWARDED).and_then(|value| forwarded::client(value.to_str().ok()?));
        let (head, recv) = request.into_parts();
        let length = match recv.is_end_stream() {
            true => Some(0),
            // One that lies is reset by the `h2` crate.
            false => head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok()),
        };
        let inbox = streams.inbox(Some(recv));
        let responder = Responder {
            respond: Some(respond),
            inbox: inbox.clone(),
            streams,
            is_for_head: head.method == Method::HEAD,
            is_for_upgrade: head.extensions.get::<Protocol>().is_some(),
        };
        let body = RequestBody { inbox, left: length, ended: false };
        Self { client_addr, request: Some(Box::new((Request::from_parts(head, body), responder))) }
    }

    /// What it wants to speak from here on, where it is an extended CONNECT (RFC 8441), such as `websocket`.
    pub fn protocol(&self) -> Option<&str> {
        let (request, _) = &**self.request.as_ref()?;
        request.extensions().get::<Protocol>().map(Protocol::as_str)
    }

    /// Takes the request, to answer it.
    pub fn accept(mut self) -> (Request<RequestBody>, Responder) {
        // It is there until it is used, which consumes the offer.
        *self.request.take().expect("an unused request")
    }

    /// Does not.
    pub fn decline(mut self, why: Declined) {
        if let Some((_, responder)) = self.request.take().map(|request| *request) {
            responder.decline(why);
        }
    }
}

impl Drop for RequestOffer {
    fn drop(&mut self) {
        if let Some((_, responder)) = self.request.take().map(|request| *request) {
            responder.decline(Declined::Untouched);
        }
    }
}

/// What a client says after its request's head. Where the client breaks off, or we are cut off, that is an error and never an end.
#[derive(Debug)]
pub struct RequestBody {
    inbox: SharedInbox,
    /// What is still to come, where that is known.
    left: Option<u64>,
    ended: bool,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let coop = ready!(coop::poll_proceed(cx));
        let mut inbox = self.inbox.lock();
        ready!(inbox.poll_ahead(cx));
        coop.made_progress();
        let (frame, is_last) = match (inbox.take(PIECE), inbox.end()) {
            (Some(chunk), _) => (Some(Ok(Frame::data(chunk))), false),
            (None, End::Finished) => {
                (ready!(inbox.poll_trailers(cx)).map(|trailers| Ok(Frame::trailers(trailers))), true)
            }
            (None, _) => (Some(Err(ErrorKind::ConnectionReset.into())), true),
        };
        drop(inbox);
        self.ended = is_last;
        if let (Some(left), Some(Ok(frame))) = (&mut self.left, &frame) {
            *left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inbox.lock().is_heard()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Answers one request. Dropping it unused aborts the request.
pub struct Responder {
    /// Gone when there is an answer.
    respond: Option<SendResponse<Chunk>>,
    inbox: SharedInbox,
    /// The session's, of which the request is one.
    streams: Arc<Streams>,
    /// An answer to it has no body, whatever its head says.
    is_for_head: bool,
    /// Success would be taken for the upgrade's.
    is_for_upgrade: bool,
}

impl Responder {
    /// Ready when nobody waits for the answer any more: the client has gone, or the session.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.respond {
            Some(respond) => respond.poll_reset(cx).map(|_| ()),
            None => Poll::Ready(()),
        }
    }

    /// Answers, and resolves when all of it is on its way to the server; the answer's body is asked for more as there is room. Where
    /// it fails, what it said before still goes out, and the client sees an abort. So it does if this future is dropped.
    ///
    /// An error means that the client is not known to have it all.
    pub async fn answer<B>(mut self, response: Response<B>) -> io::Result<()>
    where
        B: Body<Data = Bytes>,
        B::Error: fmt::Display,
    {
        let (mut head, body) = response.into_parts();
        let mut body = pin!(body);
        hop::strip(&mut head.headers);
        if self.is_for_upgrade && head.status.is_success() {
            head.headers.insert(NOT_UPGRADED, HeaderValue::from_static("1"));
        }
        let has_no_body = self.is_for_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        // As hyper's servers do: who speaks HTTP/1.1 on the other side is told where it ends.
        if let Some(length) = body.size_hint().exact()
            && !head.headers.contains_key(CONTENT_LENGTH)
            && !(has_no_body && length == 0)
            && head.status != StatusCode::NO_CONTENT
        {
            head.headers.insert(CONTENT_LENGTH, length.into());
        }
        let ends = has_no_body || body.is_end_stream();
        let send = self.send_head(Response::from_parts(head, ()), ends)?;
        if ends {
            return Ok(());
        }
        let mut saying = Saying { send, outbox: Arc::default(), is_whole: false };
        loop {
            let frame = match poll_fn(|cx| saying.poll_next(cx, body.as_mut())).await? {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    saying.abort_after_the_rest().await;
                    return Err(io::Error::other(error.to_string()));
                }
                None => return saying.finish(None),
            };
            match frame.into_data() {
                Ok(data) => {
                    let is_last = body.is_end_stream();
                    saying.say(data, is_last).await?;
                    if is_last {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        return saying.finish(Some(trailers));
                    }
                }
            }
        }
    }

    /// Answers an extended CONNECT with success: what follows are the bytes of a connection. The request's body is to be dropped
    /// unread.
    pub fn connect(mut self, head: Response<()>) -> io::Result<BoxDuplex> {
        let (mut head, ()) = head.into_parts();
        hop::strip(&mut head.headers);
        head.headers.remove(NOT_UPGRADED);
        let send = self.send_head(Response::from_parts(head, ()), false)?;
        Ok(Box::new(H2Stream::new(send, self.inbox.clone(), self.streams.clone())))
    }

    fn send_head(&mut self, head: Response<()>, ends: bool) -> io::Result<SendStream<Chunk>> {
        let mut respond = self.respond.take().ok_or(ErrorKind::NotConnected)?;
        if is_too_long(head.headers()) {
            respond.send_reset(Reason::INTERNAL_ERROR);
            return Err(io::Error::other(TOO_LONG));
        }
        respond.send_response(head, ends).map_err(|error| {
            // Where the head is at fault there is no answer; a client that is gone does not hear this.
            respond.send_reset(Reason::INTERNAL_ERROR);
            io::Error::other(error)
        })
    }

    fn decline(mut self, why: Declined) {
        let Some(mut respond) = self.respond.take() else { return };
        match why {
            Declined::Untouched => respond.send_reset(Reason::REFUSED_STREAM),
            Declined::Refused => answer_without_body(&mut respond, StatusCode::BAD_GATEWAY),
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if let Some(respond) = &mut self.respond {
            respond.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}

type NextFrame<B> = Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>;

/// An answer's body on its way. Dropping it before it is whole aborts it.
struct Saying {
    send: SendStream<Chunk>,
    outbox: Arc<Outbox>,
    is_whole: bool,
}

impl Saying {
    /// The body's next frame, unless the client goes before there is one.
    fn poll_next<B: Body>(&mut self, cx: &mut Context<'_>, body: Pin<&mut B>) -> Poll<io::Result<NextFrame<B>>> {
        if self.send.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(gone()));
        }
        body.poll_frame(cx).map(Ok)
    }

    async fn say(&mut self, mut data: Bytes, is_last: bool) -> io::Result<()> {
        while !data.is_empty() {
            let room = poll_fn(|cx| {
                let coop = ready!(coop::poll_proceed(cx));
                let mut room = self.send.capacity();
                if room == 0 {
                    self.send.reserve_capacity(data.len());
                    room = match ready!(self.send.poll_capacity(cx)) {
                        Some(Ok(room)) => room,
                        Some(Err(_)) | None => return Poll::Ready(Err(gone())),
                    };
                }
                coop.made_progress();
                Poll::Ready(Ok(room))
            });
            let some = data.split_to(room.await?.min(data.len()));
            let ends = is_last && data.is_empty();
            self.send_data(some, ends)?;
            if ends {
                return Ok(());
            }
        }
        if is_last { self.finish_with_data() } else { Ok(()) }
    }

    fn finish(mut self, trailers: Option<HeaderMap>) -> io::Result<()> {
        match trailers {
            Some(trailers) if is_too_long(&trailers) => Err(io::Error::other(TOO_LONG)),
            Some(trailers) => {
                self.send.send_trailers(trailers).map_err(io::Error::other)?;
                self.is_whole = true;
                Ok(())
            }
            None => self.finish_with_data(),
        }
    }

    fn finish_with_data(&mut self) -> io::Result<()> {
        self.send_data(Bytes::new(), true)
    }

    fn send_data(&mut self, data: Bytes, ends: bool) -> io::Result<()> {
        self.send.send_data(self.outbox.chunk(data), ends).map_err(io::Error::other)?;
        self.is_whole = ends;
        Ok(())
    }

    /// A reset discards what is queued, so it waits, for a while.
    async fn abort_after_the_rest(mut self) {
        let sent = poll_fn(|cx| match self.outbox.poll_empty(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => self.send.poll_reset(cx).map(|_| ()),
        });
        // Aborted anyway.
        let _ = timeout(LINGER, sent).await;
    }
}

impl Drop for Saying {
    fn drop(&mut self) {
        if !self.is_whole {
            self.send.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}

/// RFC 9113, 6.5.2: each field counts as 32 bytes more than it has. So does the status, of ten.
fn is_too_long(headers: &HeaderMap) -> bool {
    let fields = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32);
    fields.sum::<usize>() + 42 > LONGEST_ANSWER_HEAD as usize
}

const TOO_LONG: &str = "the answer's head is longer than 64 KiB";

fn gone() -> io::Error {
    ErrorKind::ConnectionReset.into()
}

/// Of what was packed because nobody took it, the app is given no more at once.
const PIECE: usize = 64 * 1024;

/// For the last bytes before an abort to leave.
const LINGER: Duration = Duration::from_secs(5);

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").finish_non_exhaustive()
    }
}
