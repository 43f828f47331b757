//! A stream at the side that opened it: the server's, for a client.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use h2::{Reason, RecvStream, client::ResponseFuture};
use http::{Response, StatusCode};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use super::{
    resets::{Resets, Turn},
    stream::H2Stream,
};
use crate::{carrier::Declined, relay::Duplex, session::SessionStream};

/// A stream at the side that opened it.
pub(super) struct CallerStream {
    pub(super) inner: H2Stream,
    /// Until it has come.
    pub(super) answer: Option<ResponseFuture>,
    resets: Arc<Resets>,
    turn: Turn,
    /// While what was said leaves, before an abort.
    pub(super) lingers: Option<Pin<Box<Sleep>>>,
}

impl CallerStream {
    pub(super) fn new(inner: H2Stream, answer: ResponseFuture, resets: Arc<Resets>) -> Self {
        Self { inner, answer: Some(answer), resets, turn: Turn::default(), lingers: None }
    }

    /// Resets it when it is its turn, unless it is dead already.
    pub(super) fn poll_reset_in_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.inner.is_over() || self.inner.poll_reset(cx).is_ready() {
            return Poll::Ready(());
        }
        ready!(self.resets.poll_turn(cx, &mut self.turn));
        self.inner.reset();
        Poll::Ready(())
    }
}

impl SessionStream for CallerStream {
    fn poll_accepted(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Declined>> {
        let Some(answer) = &mut self.answer else { return Poll::Ready(Ok(())) };
        let answer = ready!(Pin::new(answer).poll(cx));
        self.answer = None;
        Poll::Ready(match answer {
            Ok(answer) => self.hear(cx, answer),
            Err(error) if is_untouched(&error) => Err(Declined::Untouched),
            Err(_) => Err(Declined::Refused),
        })
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_reset_in_turn(cx)
    }
}

impl CallerStream {
    fn hear(&mut self, cx: &mut Context<'_>, answer: Response<RecvStream>) -> Result<(), Declined> {
        let status = answer.status();
        self.inner.begin_to_read(answer.into_body());
        if status.is_success() {
            return Ok(());
        }
        if self.inner.has_finished(cx) {
            // Nothing has to be aborted, so no reset is spent.
            self.inner.end_unheard();
        } else {
            self.inner.abort_on_drop();
        }
        Err(if status == StatusCode::SERVICE_UNAVAILABLE { Declined::Untouched } else { Declined::Refused })
    }
}

/// The agent has certainly done nothing with the stream: it said so (RFC 9113, 8.7), or the stream is above the last one that
/// it named in its goodbye.
pub(super) fn is_untouched(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM))
}

impl Drop for CallerStream {
    fn drop(&mut self) {
        // Not finished, as the agent's streams are when they are dropped: nobody has said so.
        if !self.inner.is_over() {
            self.inner.abort_on_drop();
        }
    }
}

impl AsyncRead for CallerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for CallerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Duplex for CallerStream {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_readable(cx)
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.inner.poll_sent(cx)
    }

    fn has_aborted(&mut self, cx: &mut Context<'_>) -> bool {
        self.inner.has_aborted(cx)
    }

    fn abort_on_drop(&mut self) {
        self.inner.abort_on_drop();
    }
}
