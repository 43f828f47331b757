//! A connection while hyper has it. hyper drops it when it is done, and does not say to us what with; here it comes back, so that
//! it can be ended as it should be: in order where hyper has shut it down, with all that was said reaching a peer that still talks;
//! and otherwise by a reset, so that an answer that was cut short never looks whole.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep, sleep_until, timeout},
};

use super::{lengths::Lengths, stay::Stay};
use crate::{
    link::{Link, encrypted::Encrypted},
    relay::{BoxDuplex, Duplex as _},
    replay::Replay,
    sockets,
};

/// A connection that hyper has for a while.
#[derive(Debug)]
pub(super) struct Lent {
    /// There until it is taken over.
    io: Option<Replay>,
    is_shut: bool,
    http1: Option<Http1>,
    back: Arc<Mutex<Option<Returned>>>,
}

/// One that hyper had.
#[derive(Debug)]
pub(super) struct Returned {
    io: Replay,
    /// hyper has said that nothing more will come.
    is_shut: bool,
}

/// Where it comes back.
#[derive(Debug)]
pub(super) struct Back(Arc<Mutex<Option<Returned>>>);

/// What hyper does not see of a connection of HTTP/1.1. (HTTP/2 asks whether the peer is there.)
#[derive(Debug)]
struct Http1 {
    stay: Arc<Stay>,
    /// What its requests say of how long they are.
    lengths: Lengths,
    /// For a request's head from its first byte, on a connection that is kept. Between requests hyper does not tell one who says
    /// nothing from one who dribbles.
    first_unit: Duration,
    begun: Option<Head>,
    /// For a peer that takes nothing of its answer.
    unread: Duration,
    /// Since it does not.
    stalled: Option<Pin<Box<Sleep>>>,
}

/// A head of which something has come.
#[derive(Debug)]
struct Head {
    /// After so many requests.
    after: u64,
    since: Instant,
    /// Once more of it is waited for, which is rarely.
    limit: Option<Pin<Box<Sleep>>>,
}

impl Lent {
    pub(super) fn new(io: Replay) -> (Self, Back) {
        let back = Arc::new(Mutex::new(None));
        (Self { io: Some(io), is_shut: false, http1: None, back: back.clone() }, Back(back))
    }

    /// For HTTP/1.1.
    pub(super) fn with_limits(mut self, stay: Arc<Stay>, first_unit: Duration, unread: Duration) -> Self {
        self.http1 = Some(Http1 { stay, lengths: Lengths::default(), first_unit, begun: None, unread, stalled: None });
        self
    }

    fn io(&mut self) -> io::Result<&mut Replay> {
        self.io.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(io) = self.io.take() {
            *self.back.lock().unwrap_or_else(PoisonError::into_inner) = Some(Returned { io, is_shut: self.is_shut });
        }
    }
}

impl Back {
    /// Once hyper has dropped it; there is none where somebody has taken it over.
    pub(super) fn take(&self) -> Option<Returned> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Returned {
    /// Ends it as hyper has left it: `in_order` where hyper has nothing against it. (It does not shut down what was to be upgraded
    /// and was not.)
    pub(super) async fn end(mut self, in_order: bool) {
        if !self.is_shut && !in_order {
            return self.abort().await;
        }
        if !self.is_shut {
            let _ = timeout(LINGER, self.io.shutdown()).await;
        }
        hear_out(self.io.socket()).await;
    }

    /// Ends it at once.
    pub(super) fn close_if_shut(self) {
        if self.is_shut {
            self.close();
        }
    }

    /// HTTP/2 says what is cut short, so that a connection need not.
    pub(super) fn close(self) {
        let _ = sockets::finish(self.io.socket());
    }

    /// What was said before still goes out.
    async fn abort(self) {
        let mut io = as_duplex(self.io);
        let _ = timeout(LINGER, poll_fn(|cx| io.poll_sent(cx))).await;
        io.abort_on_drop();
    }
}

/// Reads and throws away what a peer says that we have finished towards, until it has finished too: closing with something unread
/// would take back what it was told last. Not for ever, and not any amount: it may be in the middle of a long upload.
pub(super) async fn hear_out(socket: &TcpStream) {
    let _ = sockets::finish(socket);
    let mut left = MOST_UNHEARD;
    let all = async {
        while left > 0 && socket.readable().await.is_ok() {
            match socket.try_read(&mut [0; 8 * 1024]) {
                Ok(0) => return,
                Ok(some) => left = left.saturating_sub(some),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    let _ = timeout(LINGER, all).await;
}

/// The connection of a request that was answered with a 101, as it is: whoever has it speaks on it what was agreed. Plain it is the
/// socket, by TLS a stream whose end and abort can be told apart as well ([`Duplex`](crate::relay::Duplex)).
///
/// There is none where the upgrade is not of a connection at a door.
pub fn taken_over(upgraded: Upgraded) -> Option<BoxDuplex> {
    below(upgraded).map(|(io, _)| as_duplex(io))
}

/// The same, for whoever does not relay it: it is closed in order when it is dropped. With it comes the buffer that it was read by,
/// of which nothing is wanted but that it be let go at the right moment.
pub(crate) fn connection_of(upgraded: Upgraded) -> Option<(Replay, Bytes)> {
    let (io, read_by) = below(upgraded)?;
    let _ = sockets::finish(io.socket());
    Some((io, read_by))
}

fn below(upgraded: Upgraded) -> Option<(Replay, Bytes)> {
    let parts = upgraded.downcast::<TokioIo<Lent>>().ok()?;
    Some((parts.io.into_inner().io.take()?.put_back(&parts.read_buf), parts.read_buf))
}

fn as_duplex(io: Replay) -> BoxDuplex {
    let (first, link) = io.into_parts();
    match link {
        Link::Plain(socket) => Box::new(Replay::new(first, socket)),
        Link::Tls(stream) => Box::new(Replay::new(first, Encrypted::new(stream))),
    }
}

impl Http1 {
    /// After some bytes have been taken, or none.
    fn time_answer(&mut self, cx: &mut Context<'_>, is_taken: bool) -> io::Result<()> {
        if is_taken {
            self.stalled = None;
            return Ok(());
        }
        let unread = self.unread;
        let limit = self.stalled.get_or_insert_with(|| Box::pin(sleep(unread)));
        let is_over = limit.as_mut().poll(cx).is_ready();
        if is_over { Err(io::Error::new(io::ErrorKind::TimedOut, "nobody takes the answer")) } else { Ok(()) }
    }

    /// After some bytes have come, or none.
    fn time_head(&mut self, cx: &mut Context<'_>, has_come: bool) -> io::Result<()> {
        let begun = self.stay.begun();
        self.begun.take_if(|head| head.after != begun);
        if self.stay.is_under_way() {
            return Ok(());
        }
        if has_come && self.begun.is_none() {
            // hyper asks for more where it was not all of it.
            self.begun = Some(Head { after: begun, since: Instant::now(), limit: None });
            return Ok(());
        }
        let Some(head) = &mut self.begun else { return Ok(()) };
        let limit = head.limit.get_or_insert_with(|| Box::pin(sleep_until(head.since + self.first_unit)));
        let is_over = limit.as_mut().poll(cx).is_ready();
        if is_over { Err(io::Error::new(io::ErrorKind::TimedOut, "a request's head took too long")) } else { Ok(()) }
    }
}

impl AsyncRead for Lent {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(self.io()?).poll_read(cx, buf);
        let has_come = buf.filled().len() > before;
        if let Some(http1) = &mut self.http1 {
            http1.lengths.follow(&mut buf.filled_mut()[before..]);
        }
        if let Some(http1) = &mut self.http1
            && (has_come || read.is_pending())
        {
            http1.time_head(cx, has_come)?;
        }
        read
    }
}

impl AsyncWrite for Lent {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(self.io()?).poll_write(cx, buf);
        if let Some(http1) = &mut self.http1 {
            http1.time_answer(cx, written.is_ready())?;
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(self.io()?).poll_write_vectored(cx, bufs);
        if let Some(http1) = &mut self.http1 {
            http1.time_answer(cx, written.is_ready())?;
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    /// hyper reads nothing while a request of HTTP/1.1 is under way, but it flushes: that is where a client is missed that has
    /// gone meanwhile, so that nobody works for it.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let asks = self.http1.as_ref().is_some_and(|http1| http1.stay.is_under_way());
        let io = self.io()?;
        ready!(Pin::new(&mut *io).poll_flush(cx))?;
        if asks
            && io.socket().poll_read_ready(cx).is_ready()
            && let Some(error) = io.socket().take_error()?
        {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(self.io()?).poll_shutdown(cx))?;
        self.is_shut = true;
        Poll::Ready(Ok(()))
    }
}

/// For the last bytes to leave before a reset, and for a peer to take in that we have finished.
const LINGER: Duration = Duration::from_secs(5);

/// What a peer may go on saying after that.
const MOST_UNHEARD: usize = 1024 * 1024;
