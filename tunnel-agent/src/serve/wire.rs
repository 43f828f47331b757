//! Connections that hyper speaks on and may give up to an upgrade.

use std::{
    future::poll_fn,
    io::{self, ErrorKind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use bytes::{Buf, Bytes};
use hyper::upgrade::Upgraded;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::Handle,
    time::timeout,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tunnel_backends::relay::{BoxDuplex, Duplex};

/// A connection that is aborted when hyper drops it without having finished, so that what was cut short never looks whole.
pub(crate) struct Wire {
    /// There until it is dropped.
    io: Option<BoxDuplex>,
    /// Read already.
    ahead: Bytes,
    fate: Fate,
    /// When it is cut off, whoever has it then.
    hang_up: Option<HangUp>,
}

type HangUp = Pin<Box<WaitForCancellationFutureOwned>>;

/// How a wire is to end when it is dropped. A clone is of the same wire.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fate(Arc<Ending>);

#[derive(Debug, Default)]
struct Ending {
    is_whole: AtomicBool,
    is_cut: AtomicBool,
}

impl Fate {
    /// It may be dropped as it is.
    pub(crate) fn is_whole(&self) {
        self.0.is_whole.store(true, Ordering::Relaxed);
    }

    /// It is aborted, whatever hyper makes of it: that closes in order where an answer is not wanted any more.
    pub(crate) fn cut(&self) {
        self.0.is_cut.store(true, Ordering::Relaxed);
    }

    fn is_cut(&self) -> bool {
        self.0.is_cut.load(Ordering::Relaxed)
    }

    fn aborts(&self) -> bool {
        !self.0.is_whole.load(Ordering::Relaxed) || self.is_cut() || thread::panicking()
    }
}

impl Wire {
    pub(crate) fn new(io: BoxDuplex) -> Self {
        Self { io: Some(io), ahead: Bytes::new(), fate: Fate::default(), hang_up: None }
    }

    /// Cuts it off when this is cancelled: hyper is done with a connection that was upgraded, and drops of ours do not reach it.
    pub(crate) fn until(mut self, hang_up: CancellationToken) -> Self {
        self.hang_up = Some(Box::pin(hang_up.cancelled_owned()));
        self
    }

    pub(crate) fn fate(&self) -> Fate {
        self.fate.clone()
    }

    /// The connection itself, after an upgrade. One that is not ours is relayed as well as can be: its aborts look like ends.
    pub(crate) fn taken_back(upgraded: Upgraded) -> BoxDuplex {
        let upgraded = match upgraded.downcast::<TokioIo<Self>>() {
            Ok(parts) => return Box::new(parts.io.into_inner().again(parts.read_buf)),
            Err(upgraded) => upgraded,
        };
        match auto::upgrade::downcast::<TokioIo<Self>>(upgraded) {
            Ok(parts) => Box::new(parts.io.into_inner().again(parts.read_buf)),
            Err(upgraded) => Box::new(Stranger(TokioIo::new(upgraded))),
        }
    }

    fn io(&mut self) -> &mut BoxDuplex {
        self.io.as_mut().expect("it is not dropped")
    }

    /// Whether it is cut off. Whoever has it hears of that when it reads.
    fn is_cut_off(&mut self, cx: &mut Context<'_>) -> bool {
        let is_cut = self.hang_up.as_mut().is_some_and(|hang_up| hang_up.as_mut().poll(cx).is_ready());
        if is_cut {
            self.fate.cut();
        }
        is_cut
    }

    fn again(mut self, ahead: Bytes) -> Self {
        self.ahead = ahead;
        self
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_cut_off(cx) {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        if self.ahead.is_empty() {
            return Pin::new(self.io()).poll_read(cx, buf);
        }
        let some = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..some]);
        self.ahead.advance(some);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self.io()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.io()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.io()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.fate.is_cut() {
            // The peer must not take it for an end.
            return Poll::Ready(Ok(()));
        }
        let shut = Pin::new(self.io()).poll_shutdown(cx);
        if matches!(shut, Poll::Ready(Ok(()))) {
            self.fate.is_whole();
        }
        shut
    }
}

impl Duplex for Wire {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_cut_off(cx) {
            return Poll::Ready(Ok(()));
        }
        if self.ahead.is_empty() { self.io().poll_readable(cx) } else { Poll::Ready(Ok(())) }
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.io().poll_sent(cx)
    }

    fn has_aborted(&mut self, cx: &mut Context<'_>) -> bool {
        self.is_cut_off(cx) || self.io().has_aborted(cx)
    }

    fn abort_on_drop(&mut self) {
        self.fate.cut();
    }

    fn finish_on_drop(&mut self) {
        self.fate.is_whole();
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let Some(mut io) = self.io.take() else { return };
        if !self.fate.aborts() {
            return io.finish_on_drop();
        }
        io.abort_on_drop();
        // An abort may destroy what is still to be sent. hyper gives no moment to wait for it but this one.
        let sent = io.poll_sent(&mut Context::from_waker(Waker::noop()));
        if sent.is_pending()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move { timeout(LINGER, poll_fn(|cx| io.poll_sent(cx))).await });
        }
    }
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

/// An upgraded connection of a kind that we do not know.
struct Stranger(TokioIo<Upgraded>);

impl AsyncRead for Stranger {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stranger {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Duplex for Stranger {
    fn poll_readable(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_sent(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn abort_on_drop(&mut self) {}
}

/// For the last bytes before an abort to leave.
const LINGER: Duration = Duration::from_secs(5);
