//! One HTTP/2 stream as two directions of bytes: END_STREAM is the end of one, RST_STREAM aborts both. The `h2` crate is used
//! directly because hyper does not show the difference.

use std::{
    io::{self, ErrorKind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    thread,
};

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
#[cfg(feature = "serve")]
use h2::RecvStream;
use h2::{Reason, SendStream};
#[cfg(feature = "serve")]
use http::HeaderMap;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::coop,
};

use super::inbox::{End, SharedInbox, Streams};
use crate::relay::Duplex;

/// A stream, at either end.
///
/// Dropping it unfinished finishes it, as closing a socket does; unless it is to be aborted, or dropped by a panic.
pub(super) struct H2Stream {
    send: SendStream<Chunk>,
    inbox: SharedInbox,
    /// Once anything is said.
    outbox: Option<Arc<Outbox>>,
    told_end: bool,
    is_aborting: bool,
    /// The session's, of which it is one.
    _streams: Arc<Streams>,
}

impl H2Stream {
    /// As long as nothing is received by the inbox, nothing can be read.
    pub(super) fn new(send: SendStream<Chunk>, inbox: SharedInbox, streams: Arc<Streams>) -> Self {
        Self { send, inbox, outbox: None, told_end: false, is_aborting: false, _streams: streams }
    }

    #[cfg(feature = "serve")]
    pub(super) fn begin_to_read(&mut self, recv: RecvStream) {
        self.inbox.lock().begin(recv);
    }

    /// Nothing will be said: the stream was opened and finished in one.
    #[cfg(feature = "serve")]
    pub(super) fn say_nothing(&mut self) {
        self.told_end = true;
    }

    /// Ready with how many bytes may be said now, up to as many as are wanted.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        let mut room = self.send.capacity();
        if room == 0 {
            self.send.reserve_capacity(wanted);
            room = match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                Some(Err(_)) | None => return Poll::Ready(Err(self.write_error(cx))),
            };
        }
        Poll::Ready(Ok(room.min(wanted)))
    }

    /// Says this, for which there is room.
    pub(super) fn say(&mut self, bytes: Bytes) -> Result<(), h2::Error> {
        let chunk = self.chunk(bytes);
        self.send.send_data(chunk, false)
    }

    /// Ends our direction, with these trailers if there are any.
    #[cfg(feature = "serve")]
    pub(super) fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), h2::Error> {
        if std::mem::replace(&mut self.told_end, true) {
            return Ok(());
        }
        match trailers {
            Some(trailers) => self.send.send_trailers(trailers),
            None => {
                let end = self.chunk(Bytes::new());
                self.send.send_data(end, true)
            }
        }
    }

    /// What the peer has said: for those who take it piece by piece.
    #[cfg(feature = "serve")]
    pub(super) fn inbox(&self) -> &SharedInbox {
        &self.inbox
    }

    /// Whether our direction has been ended.
    #[cfg(feature = "serve")]
    pub(super) fn has_told_end(&self) -> bool {
        self.told_end && !self.is_aborting
    }

    /// Whether the peer has said all it will, as far as that has come.
    #[cfg(feature = "serve")]
    pub(super) fn has_finished(&mut self, cx: &mut Context<'_>) -> bool {
        self.inbox.lock().learn_end(cx) == End::Finished
    }

    /// The peer has finished, and nobody wants to hear what it said: ends our direction too.
    #[cfg(feature = "serve")]
    pub(super) fn end_unheard(&mut self) {
        if !std::mem::replace(&mut self.told_end, true) {
            let end = self.chunk(Bytes::new());
            // Fails on a stream that is dead already.
            let _ = self.send.send_data(end, true);
        }
    }

    /// Both directions have ended by themselves: nothing more will be said about this stream.
    #[cfg(feature = "serve")]
    pub(super) fn is_over(&self) -> bool {
        self.told_end && !self.is_aborting && self.inbox.lock().end() == End::Finished
    }

    /// Ready when the peer has reset the stream, or the connection is gone.
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.send.poll_reset(cx).map(|_| ())
    }

    /// Aborts it now: for those who choose the moment. What is queued for the peer is lost.
    #[cfg(feature = "serve")]
    pub(super) fn reset(&mut self) {
        self.send.send_reset(Reason::CANCEL);
        self.told_end = true;
        self.inbox.lock().abort();
    }

    fn chunk(&mut self, bytes: Bytes) -> Chunk {
        self.outbox.get_or_insert_default().chunk(bytes)
    }

    fn write_error(&mut self, cx: &mut Context<'_>) -> io::Error {
        match self.inbox.lock().learn_end(cx) {
            End::Finished => ErrorKind::BrokenPipe.into(),
            _ => ErrorKind::ConnectionReset.into(),
        }
    }
}

impl AsyncRead for H2Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let coop = ready!(coop::poll_proceed(cx));
        let mut inbox = self.inbox.lock();
        ready!(inbox.poll_ahead(cx));
        coop.made_progress();
        if inbox.give(buf) == 0 && inbox.end() == End::Aborted {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for H2Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let coop = ready!(coop::poll_proceed(cx));
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let some = ready!(self.poll_room(cx, buf.len()))?;
        coop.made_progress();
        match self.say(Bytes::copy_from_slice(&buf[..some])) {
            Ok(()) => Poll::Ready(Ok(some)),
            Err(_) => Poll::Ready(Err(self.write_error(cx))),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.told_end, true) {
            let end = self.chunk(Bytes::new());
            if self.send.send_data(end, true).is_err() {
                return Poll::Ready(Err(self.write_error(cx)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Duplex for H2Stream {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inbox.lock().poll_ahead(cx).map(Ok)
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.outbox.as_ref().is_none_or(|outbox| outbox.poll_empty(cx).is_ready()) {
            return Poll::Ready(());
        }
        // Where the stream is dead, nothing leaves any more.
        self.poll_reset(cx)
    }

    fn has_aborted(&mut self, cx: &mut Context<'_>) -> bool {
        self.poll_reset(cx).is_ready() && self.inbox.lock().learn_end(cx) == End::Aborted
    }

    fn abort_on_drop(&mut self) {
        self.is_aborting = true;
    }
}

impl Drop for H2Stream {
    fn drop(&mut self) {
        if self.is_aborting || thread::panicking() {
            self.send.send_reset(Reason::CANCEL);
        } else if !self.told_end {
            let end = self.chunk(Bytes::new());
            // Fails on a stream that is dead already. What the peer still says is refused by the `h2` crate, kindly.
            let _ = self.send.send_data(end, true);
        }
    }
}

/// What a stream has written and the connection has yet to send.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    chunks: AtomicUsize,
    waiting: AtomicWaker,
}

impl Outbox {
    pub(super) fn chunk(self: &Arc<Self>, bytes: Bytes) -> Chunk {
        self.chunks.fetch_add(1, Ordering::Relaxed);
        Chunk { bytes, outbox: self.clone() }
    }

    /// Ready once all has been handed to the socket.
    pub(super) fn poll_empty(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waiting.register(cx.waker());
        if self.chunks.load(Ordering::Acquire) == 0 { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Bytes on their way; the `h2` crate drops them when they have been handed to the socket.
#[derive(Debug)]
pub(super) struct Chunk {
    bytes: Bytes,
    outbox: Arc<Outbox>,
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if self.outbox.chunks.fetch_sub(1, Ordering::Release) == 1 {
            self.outbox.waiting.wake();
        }
    }
}
