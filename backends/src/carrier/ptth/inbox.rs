//! What a stream's peer has said and nobody has read, and all streams of a session, for whoever drives it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::task::noop_waker_ref;
use h2::RecvStream;
use http::HeaderMap;
use tokio::io::ReadBuf;

/// The streams of one session. Each holds it once, so they can be counted; their inboxes are known, so that what they hold can
/// be packed: a stream whose reader has stopped may hold its window in frames of one byte each, of which each takes as much as
/// a hundred.
#[derive(Debug, Default)]
pub(super) struct Streams(Mutex<Vec<Weak<Mutex<Inbox>>>>);

impl Streams {
    /// An inbox for a stream of this session.
    pub(super) fn inbox(&self, recv: Option<RecvStream>) -> SharedInbox {
        let inbox = Arc::new(Mutex::new(Inbox { recv, ahead: Pieces::default(), end: End::NotYet, reader: None }));
        let mut all = lock(&self.0);
        if all.len() == all.capacity() {
            // As often as it would grow anyway.
            all.retain(|inbox| inbox.strong_count() > 0);
        }
        all.push(Arc::downgrade(&inbox));
        SharedInbox(inbox)
    }

    /// Packs what has come on all streams. One that is being read right now is left alone.
    pub(super) fn pack(&self) {
        let all: Vec<_> = lock(&self.0).iter().filter_map(Weak::upgrade).collect();
        for inbox in all {
            if let Ok(mut inbox) = inbox.try_lock() {
                inbox.pack();
            }
        }
    }
}

/// A stream's inbox.
#[derive(Debug, Clone)]
pub(super) struct SharedInbox(Arc<Mutex<Inbox>>);

impl SharedInbox {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inbox> {
        lock(&self.0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a stream's peer has said and nobody has read.
#[derive(Debug)]
pub(super) struct Inbox {
    /// Comes with the peer's answer.
    recv: Option<RecvStream>,
    /// Read from the connection and not yet by anybody.
    ahead: Pieces,
    /// What comes after that.
    end: End,
    /// Who waits for more. (The `h2` crate has room for one who waits, and that is whoever asked last.)
    reader: Option<Waker>,
}

/// Pieces in their order. Nearly always there is one, which takes no memory of its own.
#[derive(Debug, Default)]
struct Pieces {
    first: Option<Bytes>,
    others: VecDeque<Bytes>,
}

impl Pieces {
    fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    fn push_back(&mut self, piece: Bytes) {
        match self.first {
            None => self.first = Some(piece),
            Some(_) => self.others.push_back(piece),
        }
    }

    fn front_mut(&mut self) -> Option<&mut Bytes> {
        self.first.as_mut()
    }

    fn pop_front(&mut self) -> Option<Bytes> {
        std::mem::replace(&mut self.first, self.others.pop_front())
    }
}

/// How what the peer says ends, as far as that has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    NotYet,
    Finished,
    Aborted,
}

impl Inbox {
    #[cfg(feature = "serve")]
    pub(super) fn begin(&mut self, recv: RecvStream) {
        self.recv = Some(recv);
    }

    pub(super) fn end(&self) -> End {
        self.end
    }

    #[cfg(feature = "serve")]
    pub(super) fn abort(&mut self) {
        self.end = End::Aborted;
    }

    /// Has something to give: bytes, an end or an error.
    pub(super) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.ahead.is_empty() && self.end == End::NotYet {
            match self.poll_chunk(cx) {
                Poll::Ready(Ok(chunk)) if !chunk.is_empty() => self.ahead.push_back(chunk),
                Poll::Ready(_) => {}
                Poll::Pending => {
                    if !self.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
                        self.reader = Some(cx.waker().clone());
                    }
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(())
    }

    /// Gives what there is, as far as there is room for it.
    pub(super) fn give(&mut self, buf: &mut ReadBuf<'_>) -> usize {
        let mut given = 0;
        while buf.remaining() > 0
            && let Some(chunk) = self.ahead.front_mut()
        {
            let some = chunk.len().min(buf.remaining());
            buf.put_slice(&chunk[..some]);
            chunk.advance(some);
            given += some;
            if chunk.is_empty() {
                self.ahead.pop_front();
            }
        }
        self.release(given);
        given
    }

    fn release(&mut self, given: usize) {
        if let Some(recv) = &mut self.recv {
            // Fails only where more is released than was received.
            let _ = recv.flow_control().release_capacity(given);
        }
    }

    /// Hands out the next piece itself: of one that was packed, no more than this at once.
    pub(super) fn take(&mut self, most: usize) -> Option<Bytes> {
        let first = self.ahead.front_mut()?;
        let piece = if first.len() > most { first.split_to(most) } else { self.ahead.pop_front()? };
        self.release(piece.len());
        Some(piece)
    }

    /// What the peer has said after its last byte. Asked once it has finished.
    pub(super) fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Option<HeaderMap>> {
        let Some(recv) = &mut self.recv else { return Poll::Ready(None) };
        // Where it fails, the stream was aborted by us.
        recv.poll_trailers(cx).map(|trailers| trailers.ok().flatten())
    }

    /// Whether the peer has finished and nothing of what it said is left here.
    pub(super) fn is_heard(&self) -> bool {
        self.end != End::Aborted && self.ahead.is_empty() && self.recv.as_ref().is_some_and(RecvStream::is_end_stream)
    }

    /// How the stream ended, once it is known to be dead: reads to its end what has arrived, which takes no room that it did
    /// not take before. A peer that had finished and then wants no more has not aborted.
    pub(super) fn learn_end(&mut self, cx: &mut Context<'_>) -> End {
        while self.end == End::NotYet {
            match self.poll_chunk(cx) {
                Poll::Ready(Ok(chunk)) => self.ahead.push_back(chunk),
                Poll::Ready(Err(_)) => {}
                // It was never answered.
                Poll::Pending => return End::Aborted,
            }
        }
        self.end
    }

    /// Copies all that has come into one piece. The window stays as it is: that opens when somebody reads.
    fn pack(&mut self) {
        let reader = self.reader.take();
        let mut cx = Context::from_waker(reader.as_ref().unwrap_or(noop_waker_ref()));
        let mut packed = BytesMut::new();
        let waits = loop {
            if self.end != End::NotYet {
                break false;
            }
            match self.poll_chunk(&mut cx) {
                Poll::Ready(Ok(chunk)) => packed.extend_from_slice(&chunk),
                Poll::Ready(Err(_)) => break false,
                Poll::Pending => break packed.is_empty(),
            }
        };
        if !packed.is_empty() {
            self.ahead.push_back(packed.freeze());
        }
        match reader {
            Some(reader) if waits => self.reader = Some(reader),
            Some(reader) => reader.wake(),
            None => {}
        }
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, End>> {
        let Some(recv) = &mut self.recv else { return Poll::Pending };
        let end = match ready!(recv.poll_data(cx)) {
            Some(Ok(chunk)) => return Poll::Ready(Ok(chunk)),
            Some(Err(_)) => End::Aborted,
            None => End::Finished,
        };
        self.end = end;
        Poll::Ready(Err(end))
    }
}
