//! A relay between two TCP connections over loopback: client and agent are `one` and `other`, so that a test can be run
//! with either in either part.

use std::{
    future::{Future, poll_fn},
    io::{self, ErrorKind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf},
    net::{TcpSocket, TcpStream},
    sync::{Notify, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    relay::{Duplex, Pace, Progress, RelayEnd, RelayTimes, Side, relay},
    sockets,
};

pub(super) struct Relayed {
    /// The far ends, which the test holds.
    pub(super) one: TcpStream,
    pub(super) other: TcpStream,
    /// What the relay does with its own ends.
    pub(super) near_one: Arc<Signs>,
    pub(super) near_other: Arc<Signs>,
    pub(super) progress: Arc<Progress>,
    pub(super) cancel: CancellationToken,
    pub(super) end: JoinHandle<RelayEnd>,
}

/// Starts a relay whose `one` is on this side.
pub(super) async fn relayed(one: Side, times: RelayTimes) -> Relayed {
    relay_between(one, times, connection().await, connection().await, Reads::AtOnce).await
}

/// The relay reads nothing from `one` until a write to it has failed, so that the write surely is what meets a reset first.
pub(super) async fn relayed_reading_after_a_failed_write(one: Side, times: RelayTimes) -> Relayed {
    relay_between(one, times, connection().await, connection().await, Reads::AfterFailedWrite).await
}

/// As [`MUCH`] is said by `one` and `other` does not read, the relay comes to hold bytes, has more of them to read, and
/// nothing of it is left with `one`.
pub(super) async fn relayed_through_small_sockets(one: Side, times: RelayTimes) -> Relayed {
    relay_between(one, times, connection().await, small_connection().await, Reads::AtOnce).await
}

/// 64 KiB more than the small sockets take, and less than what the relay and a socket of usual size hold.
pub(super) const MUCH: usize = 100_000;

async fn relay_between(
    one: Side,
    times: RelayTimes,
    (far_one, near_one): (TcpStream, TcpStream),
    (far_other, near_other): (TcpStream, TcpStream),
    reads: Reads,
) -> Relayed {
    let near_one = Near::new(near_one, reads);
    let near_other = Near::new(near_other, Reads::AtOnce);
    let signs = (near_one.signs.clone(), near_other.signs.clone());
    let (client, agent) = if one == Side::Client { (near_one, near_other) } else { (near_other, near_one) };
    let (progress, cancel) = (Arc::new(Progress::default()), CancellationToken::new());
    let end = tokio::spawn({
        let (progress, cancel) = (progress.clone(), cancel.clone());
        async move { relay(client, agent, &progress, &Pace::default(), &times, &cancel).await }
    });
    Relayed { one: far_one, other: far_other, near_one: signs.0, near_other: signs.1, progress, cancel, end }
}

/// The far end and the near one.
pub(super) async fn connection() -> (TcpStream, TcpStream) {
    let listener = sockets::listen("127.0.0.1:0".parse().expect("an address")).expect("a listener");
    let addr = listener.local_addr().expect("its address");
    let dialled = sockets::connect(addr, Duration::from_secs(10)).await.expect("a connection");
    (dialled, listener.accept().await.expect("the connection").0)
}

/// As a [`connection`], with little room on the way to the far end.
async fn small_connection() -> (TcpStream, TcpStream) {
    const ROOM: u32 = 8 * 1024;
    let listener = sockets::listen("127.0.0.1:0".parse().expect("an address")).expect("a listener");
    let dialler = TcpSocket::new_v4().expect("a socket");
    dialler.set_recv_buffer_size(ROOM).expect("little room");
    let dialled = dialler.connect(listener.local_addr().expect("its address")).await.expect("a connection");
    let (accepted, _) = listener.accept().await.expect("the connection");
    SockRef::from(&accepted).set_send_buffer_size(ROOM as usize).expect("little room");
    (dialled, accepted)
}

/// When the relay reads from `one`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    AtOnce,
    AfterFailedWrite,
}

/// What a far end heard, and how it ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) bytes: usize,
    /// Whether they are the bytes that the speaker says, from the first one on.
    pub(super) intact: bool,
    pub(super) end: Result<(), ErrorKind>,
}

/// Heard all of so many bytes, then an end.
pub(super) fn finish_after(bytes: usize) -> Heard {
    Heard { bytes, intact: true, end: Ok(()) }
}

/// Heard all of so many bytes, then a reset.
pub(super) fn reset_after(bytes: usize) -> Heard {
    Heard { bytes, intact: true, end: Err(ErrorKind::ConnectionReset) }
}

/// Listens to what `speaker` says until it ends.
pub(super) async fn hear(socket: &mut (impl AsyncRead + Unpin), speaker: Side) -> Heard {
    let mut heard = finish_after(0);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match socket.read(&mut buffer).await {
            Ok(0) => return heard,
            Ok(n) => {
                heard.intact &= buffer[..n] == words(speaker, heard.bytes, n);
                heard.bytes += n;
            }
            Err(error) => return Heard { end: Err(error.kind()), ..heard },
        }
    }
}

/// Listens to exactly so many bytes; whether they are the first ones that `speaker` says.
pub(super) async fn hear_exactly(socket: &mut TcpStream, speaker: Side, bytes: usize) -> io::Result<bool> {
    let mut heard = vec![0; bytes];
    socket.read_exact(&mut heard).await?;
    Ok(heard == words(speaker, 0, bytes))
}

/// Says the first so many of this side's bytes.
pub(super) async fn say(socket: &mut (impl AsyncWrite + Unpin), speaker: Side, bytes: usize) -> io::Result<()> {
    socket.write_all(&words(speaker, 0, bytes)).await
}

/// Says this side's bytes until it fails.
pub(super) async fn say_for_ever(socket: &mut (impl AsyncWrite + Unpin), speaker: Side) -> io::Error {
    let mut said = 0;
    loop {
        match socket.write(&words(speaker, said, 64 * 1024)).await {
            Ok(n) => said += n,
            Err(error) => return error,
        }
    }
}

/// Says them until something happens.
pub(super) async fn say_until(socket: &mut TcpStream, speaker: Side, event: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = event => {}
        error = say_for_ever(socket, speaker) => panic!("the {speaker:?} could not go on: {error}"),
    }
}

/// What a side says, from position `from` on. The period is a prime, so that no buffer's size hides a mistake, and the two
/// sides say different things.
fn words(speaker: Side, from: usize, len: usize) -> Vec<u8> {
    const PERIOD: usize = 251;
    let first = if speaker == Side::Client { 0 } else { 5 };
    let period: Vec<u8> = (0..PERIOD).map(|i| (i as u8).wrapping_mul(3) ^ first).collect();
    period.iter().copied().cycle().skip(from % PERIOD).take(len).collect()
}

/// The error that is waiting on a socket, once there is one. For a side that has read the end already: to it a reset is
/// EPIPE, and a read would only give the end again.
pub(super) async fn error_on(socket: &TcpStream) -> Option<ErrorKind> {
    socket.ready(Interest::ERROR).await.expect("a readiness");
    socket.take_error().expect("the socket's error").map(|error| error.kind())
}

/// Waits until what was said has left this host's socket, which a reset would empty.
pub(super) async fn sent(socket: &mut TcpStream) {
    poll_fn(|cx| socket.poll_sent(cx)).await;
}

/// The relay's end of a connection, which tells the test what is done to it.
struct Near {
    socket: TcpStream,
    reads: Reads,
    /// It was readable, and no read has come back empty-handed since: a read may bring a buffer.
    asked: bool,
    signs: Arc<Signs>,
}

/// What the relay has done to its end of a connection.
#[derive(Default)]
pub(super) struct Signs {
    /// A write had to wait: the relay holds bytes for it.
    pub(super) blocked: Notify,
    pub(super) write_failed: Notify,
    /// It is to be aborted.
    pub(super) aborting: Notify,
    /// Bytes that the kernel took.
    pub(super) taken: watch::Sender<usize>,
    /// Reads that came with a buffer although nobody knew of anything to read.
    pub(super) reads_unasked: AtomicU64,
    failed: AtomicBool,
}

impl Near {
    fn new(socket: TcpStream, reads: Reads) -> Self {
        Self { socket, reads, asked: false, signs: Arc::default() }
    }

    fn is_deaf(&self) -> bool {
        self.reads == Reads::AfterFailedWrite && !self.signs.failed.load(Ordering::Relaxed)
    }
}

impl AsyncRead for Near {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        assert!(!self.is_deaf(), "read without having been readable");
        if !self.asked {
            self.signs.reads_unasked.fetch_add(1, Ordering::Relaxed);
        }
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        self.asked = read.is_ready();
        read
    }
}

impl AsyncWrite for Near {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.socket).poll_write(cx, buf);
        match &write {
            Poll::Ready(Ok(n)) => self.signs.taken.send_modify(|taken| *taken += n),
            Poll::Ready(Err(_)) => {
                self.signs.failed.store(true, Ordering::Relaxed);
                self.signs.write_failed.notify_one();
            }
            Poll::Pending => self.signs.blocked.notify_one(),
        }
        write
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl Duplex for Near {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_deaf() {
            // Whoever makes a write fail is woken by it.
            return Poll::Pending;
        }
        let readable = self.socket.poll_readable(cx);
        self.asked |= readable.is_ready();
        readable
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_sent(cx)
    }

    fn has_aborted(&mut self, cx: &mut Context<'_>) -> bool {
        self.socket.has_aborted(cx)
    }

    fn abort_on_drop(&mut self) {
        self.socket.abort_on_drop();
        self.signs.aborting.notify_one();
    }
}
