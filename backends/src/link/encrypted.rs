//! A TLS connection as the relay wants it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsStream;

use crate::{relay::Duplex, replay::Replay};

/// A TLS connection whose end can be told apart: who finishes says so in TLS (`close_notify`), and who aborts does not, so that
/// nobody in between can make one look like the other.
#[derive(Debug)]
pub(crate) struct Encrypted {
    stream: Box<TlsStream<Replay<TcpStream>>>,
    /// Bytes that TLS has taken and the socket has not: whoever wrote them has not been told yet.
    owed: Option<usize>,
    /// The last read gave something, and may have kept an error for the next one.
    has_read: bool,
}

impl Encrypted {
    pub(crate) fn new(stream: Box<TlsStream<Replay<TcpStream>>>) -> Self {
        Self { stream, owed: None, has_read: false }
    }

    fn socket(&mut self) -> &mut Replay<TcpStream> {
        self.stream.get_mut().0
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.has_read = read.is_ready();
        read
    }
}

impl AsyncWrite for Encrypted {
    /// What the socket has not taken is not written: the relay flushes nothing, so that bytes left in TLS would stay there until
    /// more come. It is to be asked again with the same bytes, as the relay does.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.owed.is_none() {
            this.owed = Some(ready!(Pin::new(&mut this.stream).poll_write(cx, buf))?);
        }
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        Poll::Ready(Ok(this.owed.take().unwrap_or_default()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Duplex for Encrypted {
    /// TLS wants nothing where it holds what it has decrypted, or an end. Otherwise part of a record may have come, and reading
    /// then gives nothing yet.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (socket, session) = self.stream.get_mut();
        if session.wants_read() && !self.has_read { socket.poll_readable(cx) } else { Poll::Ready(Ok(())) }
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(Pin::new(&mut self.stream).poll_flush(cx)).is_err() {
            return Poll::Ready(());
        }
        self.socket().poll_sent(cx)
    }

    fn has_aborted(&mut self, cx: &mut Context<'_>) -> bool {
        self.socket().has_aborted(cx)
    }

    fn abort_on_drop(&mut self) {
        self.socket().abort_on_drop();
    }

    fn finish_on_drop(&mut self) {
        self.socket().finish_on_drop();
    }
}
