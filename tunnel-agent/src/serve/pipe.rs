//! A connection within this process whose aborts are aborts, as a socket's are.

use std::{
    io::{self, ErrorKind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tunnel_backends::relay::Duplex;

/// One end. Dropping it closes it, unless it is to be aborted: then the other one reads what was written, and then an error.
pub(super) struct Pipe {
    io: DuplexStream,
    aborts: bool,
    /// Whether this end and the other one were aborted.
    ours: Arc<AtomicBool>,
    theirs: Arc<AtomicBool>,
}

/// Both ends.
pub(super) fn pipe() -> (Pipe, Pipe) {
    let (near, far) = duplex(HELD);
    let (ours, theirs) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    (
        Pipe { io: near, aborts: false, ours: ours.clone(), theirs: theirs.clone() },
        Pipe { io: far, aborts: false, ours: theirs, theirs: ours },
    )
}

impl Pipe {
    fn is_reset(&self) -> bool {
        self.theirs.load(Ordering::Acquire)
    }
}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if buf.filled().len() == before && buf.remaining() > 0 && self.is_reset() {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf));
        if written.is_err() && self.is_reset() {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl Duplex for Pipe {
    /// It cannot tell without reading.
    fn poll_readable(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// What was written is in the other end's buffer already.
    fn poll_sent(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn has_aborted(&mut self, _: &mut Context<'_>) -> bool {
        self.is_reset()
    }

    fn abort_on_drop(&mut self) {
        self.aborts = true;
    }

    fn finish_on_drop(&mut self) {
        self.aborts = false;
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // The stream's own end follows, which wakes the other one.
        self.ours.store(self.aborts, Ordering::Release);
    }
}

/// Written and not read, each way.
const HELD: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn an_end_is_an_end_and_an_abort_an_abort_after_all_that_was_written() {
        for aborts in [false, true] {
            let (mut near, mut far) = pipe();
            far.write_all(b"words").await.unwrap();
            if aborts {
                far.abort_on_drop();
            }
            drop(far);
            let mut heard = Vec::new();
            let end = near.read_to_end(&mut heard).await.map(drop).map_err(|error| error.kind());
            assert_eq!(heard, b"words");
            assert_eq!(end, if aborts { Err(ErrorKind::ConnectionReset) } else { Ok(()) });
            let kind = near.write(b"more").await.unwrap_err().kind();
            assert_eq!(kind, if aborts { ErrorKind::ConnectionReset } else { ErrorKind::BrokenPipe });
        }
    }
}
