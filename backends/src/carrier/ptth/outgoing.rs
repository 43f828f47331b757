use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;

/// Frames that go out together. The `h2` crate writes and flushes after each DATA frame that it does not copy, of 256 bytes and more,
/// which is a write for each answer; here they wait for one another, for as long as whoever drives the session says so.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    waiting: BytesMut,
    gathering: Arc<Gathering>,
}

/// Whether what is written is to wait, and whether something does.
///
/// And whether `h2` is stuck. It reads nothing while it has a PING, its answer or SETTINGS to write and finds no room: two that do so
/// wait for each other, with all that the sockets between them can hold unread on both sides.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    is_on: AtomicBool,
    has_some: AtomicBool,
    found_no_room: AtomicBool,
    waits_to_hear: AtomicBool,
    is_helped: AtomicBool,
    /// No more help: whoever needs so much says much and hears nothing.
    is_full: AtomicBool,
}

impl Gathering {
    /// Whether `h2` has stopped reading because it finds no room to write. It is to be driven once more then, and what it writes until it
    /// reads waits here.
    pub(super) fn help_if_stuck(&self) -> bool {
        let found_no_room = self.found_no_room.swap(false, Ordering::Relaxed);
        let is_stuck = found_no_room && !self.waits_to_hear.load(Ordering::Relaxed);
        let is_helped = is_stuck && !self.is_full.load(Ordering::Relaxed);
        self.is_helped.store(is_helped, Ordering::Relaxed);
        is_helped
    }

    /// It reads.
    fn reads(&self) {
        self.is_helped.store(false, Ordering::Relaxed);
    }

    /// It has read, and is woken when there is more, or has to come back.
    fn has_read(&self, is_woken: bool) {
        self.waits_to_hear.store(is_woken, Ordering::Relaxed);
    }

    /// From now on.
    #[cfg(any(feature = "dial", test))]
    pub(super) fn begin(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// No more; whether something waits, which the next flush sends as far as there is room.
    #[cfg(any(feature = "dial", test))]
    pub(super) fn end(&self) -> bool {
        self.is_on.store(false, Ordering::Relaxed);
        self.has_some.load(Ordering::Relaxed)
    }

    fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }
}

impl Outgoing {
    pub(super) fn gathering(&self) -> Arc<Gathering> {
        self.gathering.clone()
    }

    /// What is to be heard is asked for.
    pub(super) fn reads<T>(&self, read: impl FnOnce() -> Poll<T>) -> Poll<T> {
        self.gathering.reads();
        let polled = read();
        self.gathering.has_read(polled.is_pending());
        polled
    }

    pub(super) fn poll_write(
        &mut self,
        io: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        if self.gathering.is_on() && length <= SMALL && self.waiting.len() + length <= MOST {
            bufs.iter().for_each(|buf| self.waiting.extend_from_slice(buf));
            self.gathering.has_some.store(true, Ordering::Relaxed);
            return Poll::Ready(Ok(length));
        }
        let written = self.write_through(io, cx, bufs);
        if written.is_ready() || !self.is_helped_without_room() {
            return written;
        }
        // The socket wakes whoever drives the session when it has room for it.
        bufs.iter().for_each(|buf| self.waiting.extend_from_slice(buf));
        self.gathering.has_some.store(true, Ordering::Relaxed);
        Poll::Ready(Ok(length))
    }

    /// With what has waited before it.
    fn write_through(
        &mut self,
        mut io: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        while !self.waiting.is_empty() {
            let mut all = [IoSlice::new(&[]); 8];
            all[0] = IoSlice::new(&self.waiting);
            let others = bufs.len().min(all.len() - 1);
            all[1..=others].copy_from_slice(&bufs[..others]);
            let written = ready!(io.as_mut().poll_write_vectored(cx, &all[..=others]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let waited = written.min(self.waiting.len());
            self.waiting.advance(waited);
            self.gathering.has_some.store(!self.waiting.is_empty(), Ordering::Relaxed);
            if written > waited {
                return Poll::Ready(Ok(written - waited));
            }
        }
        if bufs.is_empty() { Poll::Ready(Ok(0)) } else { io.poll_write_vectored(cx, bufs) }
    }

    /// Unless it is to wait.
    pub(super) fn poll_flush(&mut self, io: Pin<&mut impl AsyncWrite>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gathering.is_on() {
            return Poll::Ready(Ok(()));
        }
        let empty = self.poll_empty(io, cx);
        if empty.is_pending() && self.is_helped_without_room() { Poll::Ready(Ok(())) } else { empty }
    }

    /// There is no room. Whether it goes on as if there were.
    fn is_helped_without_room(&self) -> bool {
        let is_full = self.waiting.len() > MOST_HELPED;
        self.gathering.found_no_room.store(true, Ordering::Relaxed);
        self.gathering.is_full.store(is_full, Ordering::Relaxed);
        !is_full && self.gathering.is_helped.load(Ordering::Relaxed)
    }

    /// Ready when nothing waits any more.
    pub(super) fn poll_empty(&mut self, io: Pin<&mut impl AsyncWrite>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_through(io, cx, &[]))?;
        Poll::Ready(Ok(()))
    }

    /// As far as it goes at once: the connection is about to be dropped.
    pub(super) fn send_last(&mut self, io: Pin<&mut impl AsyncWrite>) {
        let _ = self.poll_empty(io, &mut Context::from_waker(Waker::noop()));
    }
}

/// What is larger costs more to copy than to write.
const SMALL: usize = 4 * 1024;

/// Of what waits.
const MOST: usize = 32 * 1024;

/// In one turn. Each time there is something to answer; a peer that means well has one PING or two on its way.
pub(super) const MOST_HELP: usize = 64;

/// So much may wait, and a frame, so that `h2` gets to read.
const MOST_HELPED: usize = 128 * 1024;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    #[tokio::test]
    async fn what_is_gathered_goes_out_in_order_and_with_what_is_large() {
        let (mut io, mut peer) = duplex(256 * 1024);
        let mut out = Outgoing::default();
        let gathering = out.gathering();
        let mut cx = Context::from_waker(Waker::noop());
        let mut said = Vec::new();
        gathering.begin();
        for length in [1, SMALL, SMALL + 1, 3, 2 * MOST, 5] {
            let bytes = vec![length as u8; length];
            let (head, rest) = bytes.split_at(1);
            let mut bufs: &mut [IoSlice<'_>] = &mut [IoSlice::new(head), IoSlice::new(rest)];
            while bufs.iter().any(|buf| !buf.is_empty()) {
                let Poll::Ready(written) = out.poll_write(Pin::new(&mut io), &mut cx, bufs) else {
                    panic!("it is full")
                };
                IoSlice::advance_slices(&mut bufs, written.unwrap());
            }
            assert!(out.poll_flush(Pin::new(&mut io), &mut cx).is_ready());
            said.extend_from_slice(&bytes);
        }
        assert_eq!(out.waiting.len(), 5);
        assert!(gathering.end());
        assert!(out.poll_flush(Pin::new(&mut io), &mut cx).is_ready());
        assert!(!gathering.end());
        drop(io);
        let mut heard = Vec::new();
        peer.read_to_end(&mut heard).await.unwrap();
        assert!(heard == said, "{} bytes of {}", heard.len(), said.len());
    }

    #[tokio::test]
    async fn what_finds_no_room_is_not_forgotten() {
        let (mut io, mut peer) = duplex(3);
        let mut out = Outgoing::default();
        let gathering = out.gathering();
        let mut cx = Context::from_waker(Waker::noop());
        gathering.begin();
        assert!(out.poll_write(Pin::new(&mut io), &mut cx, &[IoSlice::new(b"seven b")]).is_ready());
        let mut heard = Vec::new();
        while heard.len() < 7 {
            assert!(gathering.end(), "{} bytes wait", out.waiting.len());
            let _ = out.poll_flush(Pin::new(&mut io), &mut cx);
            heard.push(peer.read_u8().await.unwrap());
            gathering.begin();
            assert!(out.poll_flush(Pin::new(&mut io), &mut cx).is_ready());
            if out.waiting.is_empty() {
                assert!(!gathering.end());
                break;
            }
        }
        drop(io);
        peer.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"seven b");
    }

    #[tokio::test]
    async fn who_has_to_write_before_it_reads_gets_to_read() {
        let (mut io, _peer) = duplex(3);
        let mut out = Outgoing::default();
        let gathering = out.gathering();
        let mut cx = Context::from_waker(Waker::noop());
        let mut write = |out: &mut Outgoing| out.poll_write(Pin::new(&mut io), &mut cx, &[IoSlice::new(&[7; 1000])]);
        assert!(write(&mut out).is_ready() && write(&mut out).is_pending());
        // It has nothing to read, or there would be nothing to help with.
        assert!(out.reads(|| Poll::<()>::Pending).is_pending());
        assert!(!gathering.help_if_stuck());

        assert!(out.reads(|| Poll::Ready(())).is_ready());
        assert!(write(&mut out).is_pending());
        assert!(gathering.help_if_stuck());
        assert!(write(&mut out).is_ready());
        assert!(out.reads(|| Poll::Ready(())).is_ready());
        assert!(write(&mut out).is_pending(), "it has read, and is helped on");

        // Not for ever.
        while gathering.help_if_stuck() {
            while write(&mut out).is_ready() {}
        }
        assert!(out.waiting.len() <= MOST_HELPED + 1000, "{} bytes wait", out.waiting.len());
    }
}
