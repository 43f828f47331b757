//! A connection of which some bytes have been read already.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{link::Link, relay::Duplex};

/// A connection of which some bytes have been read already: they come first.
#[derive(Debug)]
pub(crate) struct Replay<S = Link> {
    first: Bytes,
    io: S,
}

impl<S> Replay<S> {
    pub(crate) fn new(first: Bytes, io: S) -> Self {
        // A part of a buffer keeps all of it, even where it is empty.
        Self { first: if first.is_empty() { Bytes::new() } else { first }, io }
    }

    /// What comes first, and what is below.
    #[cfg(feature = "serve")]
    pub(crate) fn into_parts(self) -> (Bytes, S) {
        (self.first, self.io)
    }

    /// The same, with what was read from it meanwhile in front again.
    #[cfg(feature = "serve")]
    pub(crate) fn put_back(self, read: &[u8]) -> Self {
        if read.is_empty() {
            return self;
        }
        let mut first = bytes::BytesMut::from(read);
        first.extend_from_slice(&self.first);
        Self { first: first.freeze(), ..self }
    }
}

impl Replay {
    pub(crate) fn socket(&self) -> &TcpStream {
        self.io.socket()
    }
}

impl Replay<TcpStream> {
    /// What is below.
    pub(crate) fn get_ref(&self) -> &TcpStream {
        &self.io
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replay<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let some = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first[..some]);
        self.first.advance(some);
        if self.first.is_empty() {
            self.first = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replay<S> {
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
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<S: Duplex> Duplex for Replay<S> {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() { self.io.poll_readable(cx) } else { Poll::Ready(Ok(())) }
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.io.poll_sent(cx)
    }

    fn has_aborted(&mut self, cx: &mut Context<'_>) -> bool {
        self.io.has_aborted(cx)
    }

    fn abort_on_drop(&mut self) {
        self.io.abort_on_drop();
    }

    fn finish_on_drop(&mut self) {
        self.io.finish_on_drop();
    }
}
