//! Connections that hyper speaks on and may give up to an upgrade.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    thread,
};

use bytes::{Buf, Bytes};
use hyper::upgrade::Upgraded;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
    server::conn::auto,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tunnel_backends::relay::{BoxDuplex, Duplex};

/// A connection that is aborted when hyper drops it without having finished, so that what was cut short never looks whole.
pub(crate) struct Wire {
    io: BoxDuplex,
    /// Read already.
    ahead: Bytes,
    is_whole: Arc<AtomicBool>,
}

impl Wire {
    pub(crate) fn new(io: BoxDuplex) -> Self {
        Self { io, ahead: Bytes::new(), is_whole: Arc::default() }
    }

    /// To say that it may be dropped as it is.
    pub(crate) fn is_whole(&self) -> Arc<AtomicBool> {
        self.is_whole.clone()
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

    fn again(mut self, ahead: Bytes) -> Self {
        self.ahead = ahead;
        self
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let some = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..some]);
        self.ahead.advance(some);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.io).poll_shutdown(cx);
        if matches!(shut, Poll::Ready(Ok(()))) {
            self.is_whole.store(true, Ordering::Relaxed);
        }
        shut
    }
}

impl Duplex for Wire {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() { self.io.poll_readable(cx) } else { Poll::Ready(Ok(())) }
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.io.poll_sent(cx)
    }

    fn has_aborted(&mut self, cx: &mut Context<'_>) -> bool {
        self.io.has_aborted(cx)
    }

    fn abort_on_drop(&mut self) {
        self.is_whole.store(false, Ordering::Relaxed);
    }

    fn finish_on_drop(&mut self) {
        self.is_whole.store(true, Ordering::Relaxed);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.is_whole.load(Ordering::Relaxed) && !thread::panicking() {
            self.io.finish_on_drop();
        } else {
            self.io.abort_on_drop();
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
