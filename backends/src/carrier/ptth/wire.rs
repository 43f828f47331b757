use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    outgoing::{Gathering, Outgoing},
    parting::{Farewell, Parting},
};
use crate::{replay::Replay, sockets};

/// The connection under a session. It counts what is heard, because silence is measured there and not in frames. And sessions
/// take turns: `h2` reads as long as there is something, up to a megabyte, which is a hundred thousand PINGs, and others have
/// to wait meanwhile.
#[derive(Debug)]
pub(super) struct Wire {
    io: Replay,
    heard: Arc<Heard>,
    frames: Frames,
    /// Frames since others had their turn.
    turn: u64,
    out: Outgoing,
    parting: Parting,
}

/// What has been heard on a connection. It only grows.
#[derive(Debug, Default)]
pub(super) struct Heard {
    bytes: AtomicU64,
    small_frames: AtomicU64,
    /// The stream that is followed, or none yet.
    one: AtomicU32,
    of_one: AtomicU64,
}

impl Heard {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// DATA frames that take more than they carry.
    pub(super) fn small_frames(&self) -> u64 {
        self.small_frames.load(Ordering::Relaxed)
    }

    /// From now on one stream's bytes are counted: those of the next one that says anything, which is most likely one that says much.
    pub(super) fn follow_one(&self) {
        self.one.store(NO_STREAM, Ordering::Relaxed);
        self.of_one.store(0, Ordering::Relaxed);
    }

    /// Bytes of the stream that is followed.
    pub(super) fn of_one(&self) -> u64 {
        self.of_one.load(Ordering::Relaxed)
    }

    fn data(&self, stream: u32, length: usize) {
        let one = self.one.load(Ordering::Relaxed);
        if one == NO_STREAM {
            self.one.store(stream, Ordering::Relaxed);
        }
        if one == NO_STREAM || one == stream {
            self.of_one.fetch_add(length as u64, Ordering::Relaxed);
        }
        if length < SMALL {
            self.small_frames.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Follows where frames begin (RFC 9113, 4.1): nine bytes of header, of which the first three are the payload's length, the
/// fourth is its type, and the last four are its stream.
#[derive(Debug)]
struct Frames {
    header: [u8; 9],
    /// How much of the header has come.
    have: usize,
    /// Bytes until the next header.
    skip: usize,
}

impl Frames {
    /// Counts the frames that begin in these bytes, and has heard what is DATA.
    fn count(&mut self, mut bytes: &[u8], heard: &Heard) -> u64 {
        let mut all = 0;
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                (self.skip, bytes) = (self.skip - skipped, &bytes[skipped..]);
                continue;
            }
            let taken = (self.header.len() - self.have).min(bytes.len());
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            (self.have, bytes) = (self.have + taken, &bytes[taken..]);
            if self.have == self.header.len() {
                let [a, b, c, kind, _flags, stream @ ..] = self.header;
                (self.have, self.skip) = (0, usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c));
                all += 1;
                if kind == DATA {
                    heard.data(u32::from_be_bytes(stream), self.skip);
                }
            }
        }
        all
    }
}

const DATA: u8 = 0;

/// That of the connection.
const NO_STREAM: u32 = 0;

/// Frames, before others have their turn. Of bulk it is a megabyte, so it costs nothing there.
const TURN: u64 = 64;

/// A frame's own cost in memory is about this.
const SMALL: usize = 256;

/// What a client says before its first frame (RFC 9113, 3.4).
#[cfg(feature = "dial")]
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

impl Wire {
    /// To a peer that answers.
    #[cfg(feature = "serve")]
    pub(super) fn to_answerer(io: Replay) -> Self {
        Self::new(io, 0)
    }

    /// To a peer that calls.
    #[cfg(feature = "dial")]
    pub(super) fn to_caller(io: Replay) -> Self {
        Self::new(io, PREFACE)
    }

    fn new(io: Replay, before_frames: usize) -> Self {
        sockets::keep_little_unsent(io.socket());
        Self {
            io,
            heard: Arc::default(),
            frames: Frames { header: [0; 9], have: 0, skip: before_frames },
            turn: 0,
            out: Outgoing::default(),
            parting: Parting::default(),
        }
    }

    pub(super) fn heard(&self) -> Arc<Heard> {
        self.heard.clone()
    }

    /// For whoever knows that the session ends in order.
    pub(super) fn farewell(&self) -> Farewell {
        self.parting.farewell()
    }

    /// For whoever has frames go out together, or sees to it that what comes is read.
    pub(super) fn gathering(&self) -> Arc<Gathering> {
        self.out.gathering()
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { io, heard, frames, turn, out, .. } = &mut *self;
        out.reads(|| {
            let had = std::mem::take(turn);
            if had >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let before = buf.filled().len();
            let polled = Pin::new(io).poll_read(cx, buf);
            let read = &buf.filled()[before..];
            heard.bytes.fetch_add(read.len() as u64, Ordering::Relaxed);
            let all = frames.count(read, heard);
            if polled.is_ready() {
                *turn = had + all;
            }
            polled
        })
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Self { io, out, .. } = &mut *self;
        out.poll_write(Pin::new(io), cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { io, out, .. } = &mut *self;
        out.poll_write(Pin::new(io), cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, out, .. } = &mut *self;
        ready!(out.poll_flush(Pin::new(io), cx))?;
        Pin::new(io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, out, parting, .. } = &mut *self;
        if !parting.has_begun() {
            ready!(out.poll_empty(Pin::new(io), cx))?;
            ready!(Pin::new(&mut *io).poll_shutdown(cx))?;
            parting.begin();
        }
        parting.poll_over(Pin::new(io), cx).map(Ok)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.out.send_last(Pin::new(&mut self.io));
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;
    use crate::link::Link;

    #[tokio::test]
    async fn others_have_their_turn_however_much_has_come() {
        let listener = sockets::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let pings = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8].repeat(100_000);
        let mut wire = Wire::new(Replay::new(pings.into(), Link::Plain(socket)), 0);
        let heard = wire.heard();
        let mut space = vec![0; 8 * 1024];
        for turns in 1..=3 {
            // As h2 does: it reads until there is nothing more.
            std::future::poll_fn(|cx| {
                while Pin::new(&mut wire).poll_read(cx, &mut ReadBuf::new(&mut space)).is_ready() {}
                Poll::Ready(())
            })
            .await;
            assert!((1..=turns * 10 * 1024).contains(&heard.bytes()), "{} bytes in {turns} turns", heard.bytes());
        }
    }

    fn frame(kind: u8, stream: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![0, (length >> 8) as u8, length as u8, kind, 0, 0, 0, 0, stream];
        frame.resize(9 + length, 7);
        frame
    }

    #[test]
    fn small_frames_are_counted_however_they_arrive() {
        let lengths = [1, 300, 0, 255].map(|length| frame(DATA, 1, length));
        let all = [frame(4, 0, 6), lengths.concat(), frame(1, 1, 2)].concat();
        for pieces in [1, 2, 5, 9, 10, all.len()] {
            let mut frames = Frames { header: [0; 9], have: 0, skip: 0 };
            let heard = Heard::default();
            for piece in all.chunks(pieces) {
                frames.count(piece, &heard);
            }
            assert_eq!(heard.small_frames(), 3, "in pieces of {pieces}");
        }
    }

    #[test]
    fn one_stream_is_followed_until_another_one_is_asked_for() {
        let mut frames = Frames { header: [0; 9], have: 0, skip: 0 };
        let heard = Heard::default();
        for (first, second) in [(1, 3), (3, 1)] {
            heard.follow_one();
            let said = [frame(1, 5, 10), frame(DATA, first, 20), frame(DATA, second, 400), frame(DATA, first, 300)];
            frames.count(&said.concat(), &heard);
            assert_eq!(heard.of_one(), 320);
        }
    }
}
