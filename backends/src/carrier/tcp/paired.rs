use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{carrier::Declined, proxy, relay::Duplex, session::SessionStream, uplink::ClientInfo};

/// A dial-in that has got its client, who has to be introduced. That goes out with the first of what the client says, if that is there
/// already, and otherwise before anything is awaited.
pub(super) struct Paired {
    socket: TcpStream,
    /// Until it is said.
    introduction: Vec<u8>,
}

impl Paired {
    pub(super) fn new(socket: TcpStream, client: &ClientInfo) -> Self {
        Self { socket, introduction: proxy::header(client.client_addr, client.public_addr) }
    }

    fn poll_introduced(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.introduction.is_empty() {
            ready!(self.poll_write_after(cx, &[]))?;
        }
        Poll::Ready(Ok(()))
    }

    /// How many of these bytes were written, of which some may have gone out with the introduction.
    fn poll_write_after(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let both = [IoSlice::new(&self.introduction), IoSlice::new(bytes)];
        let written = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, &both))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let said = written.min(self.introduction.len());
        self.introduction.drain(..said);
        Poll::Ready(Ok(written - said))
    }
}

impl AsyncRead for Paired {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_introduced(cx))?;
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Paired {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        while !self.introduction.is_empty() {
            let written = ready!(self.poll_write_after(cx, buf))?;
            if written > 0 {
                return Poll::Ready(Ok(written));
            }
        }
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.introduction.is_empty() {
            return Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        }
        let first = bufs.iter().find(|buf| !buf.is_empty());
        self.poll_write(cx, first.map_or(&[], |buf| buf))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_introduced(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_introduced(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl Duplex for Paired {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_introduced(cx))?;
        self.socket.poll_readable(cx)
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Where it cannot be said nothing is on its way.
        let _ = ready!(self.poll_introduced(cx));
        self.socket.poll_sent(cx)
    }

    fn has_aborted(&mut self, cx: &mut Context<'_>) -> bool {
        self.socket.has_aborted(cx)
    }

    fn socket(&self) -> Option<&TcpStream> {
        self.introduction.is_empty().then_some(&self.socket)
    }

    fn abort_on_drop(&mut self) {
        self.socket.abort_on_drop();
    }

    fn finish_on_drop(&mut self) {
        self.socket.finish_on_drop();
    }
}

impl SessionStream for Paired {
    fn poll_accepted(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Declined>> {
        self.socket.poll_accepted(cx)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_gone(cx)
    }
}
