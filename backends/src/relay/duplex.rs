use std::{
    io,
    task::{Context, Poll},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// A stream in both directions whose end can be told apart: finished, or aborted.
///
/// What the relay relies on, beyond `AsyncRead` and `AsyncWrite`:
/// - `poll_read` gives all bytes that arrived before an end; then `Ok(0)` if the peer finished, an error if it aborted.
/// - `poll_write` fails with [`BrokenPipe`](io::ErrorKind::BrokenPipe) where the peer reads no more but *has finished* what
///   it had to say (it may still have to be read), and with another error where it aborted. TCP on Linux does this by
///   itself: a reset that follows a FIN is EPIPE, any other is ECONNRESET.
/// - `poll_shutdown` says that we have finished.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {
    /// Ready once a read would give bytes, an end or an error. May be ready too often, never too seldom. It spares an idle
    /// stream its buffer.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ready once what was written has left this host or never will, so that an abort no longer destroys it.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether the peer is known to have aborted, however much of what it said before is unread: asked where that is not read
    /// because nobody takes it. A peer that has finished has not. After a yes nothing more is read or written. A stream that
    /// cannot tell says no, and its abort then waits for `unread`; one that wraps another passes the question on.
    ///
    /// The context is that of the relay's task, for streams whose questions would otherwise displace its waker.
    fn has_aborted(&mut self, _cx: &mut Context<'_>) -> bool {
        false
    }

    /// The socket itself, if all that is read and written here is what is read from and written to it.
    fn socket(&self) -> Option<&TcpStream> {
        None
    }

    /// Makes the drop that follows an abort: the peer sees a reset, and what is queued for it is lost.
    fn abort_on_drop(&mut self);

    /// Makes the drop that follows an orderly close: all that was written reaches the peer. Without it the drop may be an
    /// abort, because a process that is killed says nothing more.
    fn finish_on_drop(&mut self) {}
}

impl Duplex for TcpStream {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        sent::poll(self, cx)
    }

    fn has_aborted(&mut self, _: &mut Context<'_>) -> bool {
        // This consumes the error: EPIPE, a reset after a FIN, comes back at every write, and nobody waits for another.
        matches!(self.take_error(), Ok(Some(error)) if error.kind() != io::ErrorKind::BrokenPipe)
    }

    fn socket(&self) -> Option<&TcpStream> {
        Some(self)
    }

    fn abort_on_drop(&mut self) {
        // Fails only on a socket that is dead already.
        let _ = self.set_zero_linger();
    }

    fn finish_on_drop(&mut self) {
        // Fails only on a socket that is dead already.
        let _ = SockRef::from(&*self).set_linger(None);
    }
}

/// A local service behind a Unix socket. The kernel has no reset here and says less about an end:
///
/// - Our abort is a close. A peer that has sent what we did not read sees ECONNRESET, any other an end: it cannot tell a
///   client that broke off from one that finished.
/// - A peer that closes with something of ours unread has aborted (ECONNRESET), and any other has finished (an end, EPIPE).
///   One that finishes first and then closes with something unread may count as either.
///
/// So `has_aborted` says no, as it does for whatever cannot tell.
#[cfg(unix)]
impl Duplex for tokio::net::UnixStream {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }

    /// What was written is in the peer's buffer already.
    fn poll_sent(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn abort_on_drop(&mut self) {}
}

#[cfg(target_os = "linux")]
mod sent {
    use std::{
        io::{self, ErrorKind},
        task::{Context, Poll, ready},
    };

    use rustix::event::PollFlags;
    use socket2::SockRef;
    use tokio::{io::Interest, net::TcpStream};

    use super::super::stands::stands;

    /// With TCP_NOTSENT_LOWAT = 1 a socket is writable once every byte has been sent at least once. tokio's readiness dates
    /// from before the option was set, so the kernel is asked again, which also makes it wake us.
    pub(super) fn poll(socket: &TcpStream, cx: &mut Context<'_>) -> Poll<()> {
        if SockRef::from(socket).set_tcp_notsent_lowat(1).is_err() {
            return Poll::Ready(());
        }
        loop {
            if ready!(socket.poll_write_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            match socket.try_io(Interest::WRITABLE, || writable_now(socket)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => return Poll::Ready(()),
            }
        }
    }

    fn writable_now(socket: &TcpStream) -> io::Result<()> {
        if stands(socket, PollFlags::OUT)?.is_empty() { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }
}

/// Elsewhere the kernel cannot be asked: an abort may overtake the last bytes before it.
#[cfg(not(target_os = "linux"))]
mod sent {
    use std::task::{Context, Poll};

    use tokio::net::TcpStream;

    pub(super) fn poll(_: &TcpStream, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

/// A stream whose kind is known at run time only.
pub type BoxDuplex = Box<dyn Duplex>;

impl<D: Duplex + ?Sized> Duplex for &mut D {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        (**self).poll_readable(cx)
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        (**self).poll_sent(cx)
    }

    fn has_aborted(&mut self, cx: &mut Context<'_>) -> bool {
        (**self).has_aborted(cx)
    }

    fn socket(&self) -> Option<&TcpStream> {
        (**self).socket()
    }

    fn abort_on_drop(&mut self) {
        (**self).abort_on_drop();
    }

    fn finish_on_drop(&mut self) {
        (**self).finish_on_drop();
    }
}

impl<D: Duplex + ?Sized> Duplex for Box<D> {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        (**self).poll_readable(cx)
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        (**self).poll_sent(cx)
    }

    fn has_aborted(&mut self, cx: &mut Context<'_>) -> bool {
        (**self).has_aborted(cx)
    }

    fn socket(&self) -> Option<&TcpStream> {
        (**self).socket()
    }

    fn abort_on_drop(&mut self) {
        (**self).abort_on_drop();
    }

    fn finish_on_drop(&mut self) {
        (**self).finish_on_drop();
    }
}
