//! A client's request as one of HTTP/2's on a session, and the answer to it.

use std::{
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header::TE};
use http_body::Frame;
use tokio::{task::coop, time::sleep};

use super::{
    caller::{CallerStream, is_untouched},
    inbox::End,
};
use crate::{
    exchange::{Exchange, Unanswered},
    hop,
    relay::Duplex,
    session::BoxStream,
};

impl Exchange for CallerStream {
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Unanswered>> {
        // Nobody asks again.
        let Some(answer) = &mut self.answer else { return Poll::Ready(Err(Unanswered::Aborted)) };
        // What is informational is skipped there.
        let answer = ready!(Pin::new(answer).poll(cx));
        self.answer = None;
        Poll::Ready(match answer {
            Ok(answer) => {
                let (head, body) = answer.into_parts();
                self.inner.begin_to_read(body);
                Ok(Response::from_parts(head, ()))
            }
            Err(error) if is_untouched(&error) => Err(Unanswered::Untouched),
            Err(error) if error.is_reset() => Err(Unanswered::Aborted),
            Err(_) => Err(Unanswered::Lost),
        })
    }

    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        let coop = ready!(coop::poll_proceed(cx));
        let room = self.inner.poll_room(cx, wanted);
        if room.is_ready() {
            coop.made_progress();
        }
        room
    }

    fn poll_unwanted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.inner.poll_reset(cx)
    }

    fn say(&mut self, bytes: Bytes) -> io::Result<()> {
        self.inner.say(bytes).map_err(unsaid)
    }

    fn finish(&mut self, trailers: Option<HeaderMap>) -> io::Result<()> {
        let trailers = trailers.map(|mut trailers| {
            without_connection(&mut trailers);
            trailers
        });
        self.inner.finish(trailers).map_err(unsaid)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let coop = ready!(coop::poll_proceed(cx));
        let mut inbox = self.inner.inbox().lock();
        ready!(inbox.poll_ahead(cx));
        coop.made_progress();
        if let Some(piece) = inbox.take(LARGEST_PIECE) {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if inbox.end() == End::Aborted {
            return Poll::Ready(Some(Err(ErrorKind::ConnectionReset.into())));
        }
        let trailers = ready!(inbox.poll_trailers(cx));
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_answered(&self) -> bool {
        self.inner.inbox().lock().is_heard()
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // What nobody has read is read here: it may be that both have finished.
        if self.inner.has_told_end() && self.inner.has_finished(cx) {
            return Poll::Ready(());
        }
        // The agent hears what was said before the abort, unless it takes its time: a reset discards what is queued.
        if self.inner.poll_sent(cx).is_pending() {
            ready!(self.lingers.get_or_insert_with(|| Box::pin(sleep(LINGER))).as_mut().poll(cx));
        }
        self.poll_reset_in_turn(cx)
    }

    fn into_stream(self: Box<Self>) -> BoxStream {
        self
    }
}

fn unsaid(error: h2::Error) -> io::Error {
    io::Error::new(ErrorKind::BrokenPipe, error)
}

/// Takes out what is about a connection, and has no place in HTTP/2 (RFC 9113, 8.2.2). Whoever sends requests has done that, by
/// the rules of the connection they came on; but a session must not end because of what a client said.
pub(super) fn without_connection(fields: &mut HeaderMap) {
    // Of what a client takes, only this can be said to the agent.
    if hop::strip(fields) {
        fields.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// For what has been said to leave, before an abort.
const LINGER: Duration = Duration::from_secs(5);

/// What was packed may be a stream's whole window. Its room is given back as it is handed out, so it goes in pieces.
const LARGEST_PIECE: usize = 64 * 1024;
