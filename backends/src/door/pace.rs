//! How much a peer may ask of us on one connection. HTTP/2 has a dozen ways of making the other side work without ever asking
//! for anything (PING, SETTINGS, PRIORITY, empty DATA, requests that are reset), and new ones are found every year. They have
//! in common that they are frames: so frames are counted, whatever they say, and who sends more than its share is read more
//! slowly. Nobody who is in a hurry for a good reason is cut off. And connections take turns: `h2` reads on as long as there is
//! something, up to a megabyte, which is a hundred thousand PINGs before anybody else is looked after.
//!
//! What is of use is given back, or a busy page would look like a flood: a web client's request when it has been answered, and what
//! it says to let more of an answer come ([`Earned`]). And a frame that carries bulk is not counted at all once somebody is
//! served: flow control bounds those.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicU32, Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::{first::PREFACE, lent::Lent, lobby::Newcomer};

/// A connection's share of our attention.
#[derive(Debug)]
pub(super) struct Pace {
    newcomer: Newcomer,
    share: Share,
    left: f64,
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Share {
    at_once: f64,
    a_second: f64,
}

impl Pace {
    pub(super) fn new(newcomer: Newcomer) -> Self {
        Self { newcomer, share: STRANGER, left: STRANGER.at_once, since: Instant::now() }
    }

    /// Counts what these frames cost.
    fn count_frames(&mut self, begun: Begun) -> Option<Instant> {
        // What a stranger says is held for it, so its bulk counts for what it is.
        let bulk = if self.newcomer.is_accepted() { 0 } else { begun.kilobytes };
        self.count(begun.small + bulk)
    }

    /// Counts so many frames, and says until when nothing more is to be heard.
    pub(super) fn count(&mut self, frames: u32) -> Option<Instant> {
        let now = self.catch_up();
        self.left -= f64::from(frames);
        (self.left < 0.0).then(|| now + Duration::from_secs_f64(-self.left / self.share.a_second))
    }

    /// Whether its share has grown since it was told to wait.
    fn is_forgiven(&mut self) -> bool {
        self.catch_up();
        self.left >= 0.0
    }

    fn catch_up(&mut self) -> Instant {
        let now = Instant::now();
        if self.share == STRANGER && self.newcomer.is_accepted() {
            (self.share, self.left) = (GUEST, GUEST.at_once);
        }
        let earned = (now - self.since).as_secs_f64() * self.share.a_second;
        let given_back = f64::from(self.newcomer.earned().take());
        self.left = (self.left + earned + given_back).min(self.share.at_once);
        self.since = now;
        now
    }
}

/// What is given back to a connection's share. Whoever is told to wait is woken.
#[derive(Debug, Default)]
pub(super) struct Earned {
    frames: AtomicU32,
    waiting: AtomicWaker,
}

impl Earned {
    pub(super) fn add(&self, frames: u32) {
        self.frames.fetch_add(frames, Ordering::Relaxed);
        self.waiting.wake();
    }

    fn take(&self) -> u32 {
        self.frames.swap(0, Ordering::Relaxed)
    }
}

/// An HTTP/2 connection whose frames are counted as they come.
#[derive(Debug)]
pub(super) struct Paced {
    io: Lent,
    frames: Frames,
    pace: Pace,
    pause: Option<Pin<Box<Sleep>>>,
    /// Frames since others had their turn.
    turn: u32,
}

impl Paced {
    pub(super) fn new(io: Lent, pace: Pace) -> Self {
        Self { io, frames: Frames::default(), pace, pause: None, turn: 0 }
    }
}

impl AsyncRead for Paced {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(pause) = &mut this.pause {
            this.pace.newcomer.earned().waiting.register(cx.waker());
            if !this.pace.is_forgiven() {
                ready!(pause.as_mut().poll(cx));
            }
            this.pause = None;
        }
        let turn = std::mem::take(&mut this.turn);
        if turn >= TURN {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let some = this.frames.left_of_this().saturating_add(AT_ONCE).min(buf.remaining());
        let mut few = ReadBuf::new(buf.initialize_unfilled_to(some));
        ready!(Pin::new(&mut this.io).poll_read(cx, &mut few))?;
        let begun = this.frames.begun_in(few.filled());
        let read = few.filled().len();
        buf.advance(read);
        this.turn = turn + begun.small + begun.bulk;
        this.pause = this.pace.count_frames(begun).map(|until| Box::pin(sleep_until(until)));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Paced {
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

/// Finds where frames begin in what an HTTP/2 client says: 24 bytes of preface, and then 9 bytes of header a frame, the first
/// three of them the length of what follows and the fourth what it is (RFC 9113, 3.4 and 4.1).
#[derive(Debug)]
struct Frames {
    /// Until the next header.
    skip: usize,
    header: [u8; 4],
    known: usize,
}

/// Frames that have begun.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Begun {
    /// All but those of the next line.
    small: u32,
    /// DATA that carries much.
    bulk: u32,
    /// How much that is.
    kilobytes: u32,
}

impl Default for Frames {
    fn default() -> Self {
        Self { skip: PREFACE.len(), header: [0; 4], known: 0 }
    }
}

impl Frames {
    /// Bytes until the next frame.
    fn left_of_this(&self) -> usize {
        self.skip
    }

    fn begun_in(&mut self, mut bytes: &[u8]) -> Begun {
        let mut begun = Begun::default();
        while !bytes.is_empty() {
            let passed = self.skip.min(bytes.len());
            (self.skip, bytes) = (self.skip - passed, &bytes[passed..]);
            let Some((first, rest)) = bytes.split_first() else { break };
            self.header[self.known] = *first;
            (self.known, bytes) = (self.known + 1, rest);
            if self.known == self.header.len() {
                let [high, middle, low, kind] = self.header;
                let length = u32::from_be_bytes([0, high, middle, low]);
                (self.known, self.skip) = (0, REST_OF_HEADER + length as usize);
                if kind == DATA && length >= BULK {
                    begun.bulk += 1;
                    begun.kilobytes += length / 1024;
                } else {
                    begun.small += 1;
                }
            }
        }
        begun
    }
}

/// What one request of HTTP/1.1 counts as: it is a HEADERS, and its answer takes a WINDOW_UPDATE or two on HTTP/2.
pub(super) const REQUEST: u32 = 4;

/// Of a connection of somebody we serve. A call is three or four frames, of some 20 us each; so a connection that floods us costs
/// 2 % of a core, and several hundred calls at once are not slowed down.
const GUEST: Share = Share { at_once: 3_000.0, a_second: 1_000.0 };

/// Of one that has not shown yet that it is: health checks, browsers, and whoever tries credentials. All 64 of a source together
/// cost a tenth of a core. (A client that begins with a hundred calls at once is served after the first one is looked at.)
const STRANGER: Share = Share { at_once: 100.0, a_second: 50.0 };

/// Frames, before others are looked after: half a millisecond.
const TURN: u32 = 32;

/// Bytes beyond the frame that has begun, and so at most a hundred frames.
const AT_ONCE: usize = 1024;

const REST_OF_HEADER: usize = 5;

const DATA: u8 = 0;

/// From here on a frame of DATA is worth its header. (Padding is 256 bytes of it at the most.)
pub(super) const BULK: u32 = 1024;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::net::TcpStream;

    use super::{
        super::lobby::{Lobby, Seat},
        *,
    };
    use crate::{link::Link, replay::Replay, sockets};

    fn seat() -> Seat {
        Lobby::new(1, 1, Arc::default(), Arc::default()).enter("192.0.2.1".parse().unwrap())
    }

    fn frame(length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, 6, 0, 0, 0, 0, 0];
        frame.resize(9 + usize::from(length), 0);
        frame
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let bytes = [PREFACE.to_vec(), frame(0), frame(8), frame(200), frame(0)].concat();
        assert_eq!(Frames::default().begun_in(&bytes), Begun { small: 4, ..Begun::default() });
        for size in 1..30 {
            let mut frames = Frames::default();
            assert_eq!(
                bytes.chunks(size).map(|chunk| frames.begun_in(chunk).small).sum::<u32>(),
                4,
                "{size} at a time"
            );
        }
    }

    #[tokio::test]
    async fn others_have_their_turn_however_much_has_come() {
        let listener = sockets::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let seat = seat();
        seat.newcomer().accept();
        let bytes = [PREFACE.to_vec(), frame(8).repeat(100_000)].concat();
        let io = Replay::new(bytes.into(), Link::Plain(socket));
        let (io, _back) = Lent::new(io);
        let mut paced = Paced::new(io, Pace::new(seat.newcomer().clone()));
        let (mut space, mut heard) = (vec![0; 8 * 1024], 0);
        for turns in 1..=3 {
            // As h2 does: it reads until there is nothing more.
            std::future::poll_fn(|cx| {
                let mut buf = ReadBuf::new(&mut space);
                while Pin::new(&mut paced).poll_read(cx, &mut buf).is_ready() {
                    heard += buf.filled().len();
                    buf.clear();
                }
                Poll::Ready(())
            })
            .await;
            assert!((1..=turns * 2 * AT_ONCE).contains(&heard), "{heard} bytes in {turns} turns");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_has_a_small_share_and_a_guest_a_large_one() {
        let seat = seat();
        let mut pace = Pace::new(seat.newcomer().clone());
        let start = Instant::now();
        assert_eq!(pace.count(100), None);
        assert_eq!(pace.count(50), Some(start + Duration::from_secs(1)));
        assert!(!pace.is_forgiven());
        seat.newcomer().accept();
        assert!(pace.is_forgiven());
        assert_eq!(pace.count(4_000), Some(start + Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(pace.count(3_000), None);
    }

    #[test]
    fn bulk_is_told_from_other_frames() {
        let bulk = [&[0, 0x40, 0, DATA, 0, 0, 0, 0, 1][..], &[7; 16 * 1024]].concat();
        let small = [&[0, 3, 0xff, DATA, 0, 0, 0, 0, 1][..], &[7; 1023]].concat();
        let headers = [&[0, 4, 0, 1, 4, 0, 0, 0, 1][..], &[7; 1024]].concat();
        let bytes = [PREFACE, &bulk, &small, &headers, &bulk].concat();
        assert_eq!(Frames::default().begun_in(&bytes), Begun { small: 2, bulk: 2, kilobytes: 32 });
    }

    #[tokio::test(start_paused = true)]
    async fn bulk_counts_until_somebody_is_served() {
        let seat = seat();
        let mut pace = Pace::new(seat.newcomer().clone());
        let bulk = Begun { small: 0, bulk: 10, kilobytes: 150 };
        assert_eq!(pace.count_frames(bulk), Some(Instant::now() + Duration::from_secs(1)));
        seat.newcomer().welcome();
        for _ in 0..1000 {
            assert_eq!(pace.count_frames(bulk), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn small_messages_that_an_agent_takes_are_not_paced_and_empty_ones_are() {
        let seat = seat();
        seat.newcomer().welcome();
        let mut pace = Pace::new(seat.newcomer().clone());
        let mut say = |bytes, times| {
            (0..times)
                .filter(|_| {
                    seat.newcomer().taken(bytes);
                    pace.count(1).is_some()
                })
                .count()
        };
        assert_eq!(say(1, 10_000), 0);
        assert!(say(0, 10_000) > 6_900);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_earned_is_not_paced_and_nothing_is_saved_up() {
        let seat = seat();
        seat.newcomer().welcome();
        let mut pace = Pace::new(seat.newcomer().clone());
        for _ in 0..100 {
            assert_eq!(pace.count(3_000), None);
            seat.newcomer().earn(3_000);
        }
        seat.newcomer().earn(1_000_000);
        assert_eq!(pace.count(4_000), Some(Instant::now() + Duration::from_secs(1)));
    }
}
