//! Whether the peer is there, and how much a round trip brings. HTTP/2's PING answers both.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    inbox::Streams,
    window::{Brought, Window},
    wire::Heard,
};

/// A session's end of a connection, as far as windows are concerned.
pub(super) trait SetWindow {
    /// Refused while the peer has yet to acknowledge the last change.
    fn set_window(&mut self, size: u32) -> Result<(), h2::Error>;
}

/// How long silence may last.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Before the peer is asked whether it is there.
    pub ping_after: Duration,
    /// Before it is given up.
    pub dead_after: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { ping_after: Duration::from_secs(5), dead_after: Duration::from_secs(15) }
    }
}

/// The pulse of a connection. Polled by whoever drives the connection, each time after it was driven.
pub(super) struct Pulse {
    pings: PingPong,
    patience: Patience,
    heard: Arc<Heard>,
    /// As it stood when anything was last heard, and when that was.
    last: (u64, Instant),
    /// A question that has not been answered.
    asked: Option<Asked>,
    /// What had been heard at the last answer.
    looked: u64,
    /// Small frames that had been heard when they were last packed.
    packed: u64,
    has_answered: bool,
    window: Window,
    /// How many streams there were when we last looked.
    streams: usize,
    /// Set while an answer is overdue.
    is_doubtful: Arc<AtomicBool>,
    timer: Pin<Box<Sleep>>,
}

/// A PING on its way.
#[derive(Debug, Clone, Copy)]
struct Asked {
    at: Instant,
    /// What had been heard by then.
    heard: u64,
    why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// To see whether the peer is there.
    Silence,
    /// To see how much a round trip brings.
    Window,
}

/// Nothing has been heard for too long.
#[derive(Debug)]
pub(super) struct Silent;

impl Pulse {
    pub(super) fn new(pings: PingPong, heard: Arc<Heard>, patience: Patience) -> Self {
        let now = Instant::now();
        Self {
            pings,
            patience,
            last: (heard.bytes(), now),
            heard,
            asked: None,
            looked: 0,
            packed: 0,
            has_answered: false,
            window: Window::new(),
            streams: 0,
            is_doubtful: Arc::default(),
            // At once: the first answer says that the peer speaks HTTP/2.
            timer: Box::pin(sleep_until(now)),
        }
    }

    /// Follows whether an answer is overdue, so that the peer is better left alone.
    #[cfg(feature = "serve")]
    pub(super) fn is_doubtful(&self) -> Arc<AtomicBool> {
        self.is_doubtful.clone()
    }

    /// The peer has answered a PING, so its settings have come too.
    #[cfg(feature = "serve")]
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut impl SetWindow,
        all: &Arc<Streams>,
    ) -> Poll<Silent> {
        // Each stream holds it once.
        let streams = Arc::strong_count(all) - 1;
        self.pack(all);
        let heard = self.heard.bytes();
        let is_news = heard != self.last.0;
        if is_news {
            self.last = (heard, Instant::now());
        }
        self.poll_answer(cx, heard);
        if is_news && self.asked.is_none() && self.window.wants_a_look(heard - self.looked, self.last.1) {
            self.ask(cx, heard, Why::Window);
        }
        if streams > self.streams && self.asked.is_none() && !is_news && self.last.1.elapsed() >= QUIET {
            // Somebody counts on a peer of which nothing was heard lately.
            self.ask(cx, heard, Why::Silence);
        }
        self.streams = streams;
        if let Some(size) = self.window.due(streams)
            && connection.set_window(size).is_ok()
        {
            self.window.tell(size);
            // It goes out when the connection is driven next.
            cx.waker().wake_by_ref();
        }
        let silent = self.poll_silence(cx, heard);
        let overdue = self.asked.is_some_and(|asked| asked.heard == heard && asked.at.elapsed() >= OVERDUE);
        self.is_doubtful.store(overdue, Ordering::Relaxed);
        silent
    }

    /// Small frames that nobody reads must not pile up.
    fn pack(&mut self, streams: &Streams) {
        let small = self.heard.small_frames();
        if small - self.packed >= SMALL_FRAMES {
            streams.pack();
            self.packed = small;
        }
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>, heard: u64) {
        let Some(asked) = self.asked else { return };
        // An error is the connection's, and it tells whoever drives it.
        if let Poll::Ready(Ok(_)) = self.pings.poll_pong(cx) {
            let now = Instant::now();
            if !self.has_answered {
                self.window.guess(now - asked.at);
            } else if asked.why == Why::Window {
                let brought = Brought { bytes: heard - asked.heard, of_one: self.heard.of_one() };
                self.window.measure(brought, now - asked.at, now);
            }
            (self.asked, self.has_answered) = (None, true);
            self.looked = heard;
        }
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>, heard: u64) -> Poll<Silent> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let silence = now - self.last.1;
            if silence >= self.patience.dead_after {
                return Poll::Ready(Silent);
            }
            let is_first = !self.has_answered && self.asked.is_none();
            if is_first || (silence >= self.patience.ping_after && self.asked.is_none()) {
                self.ask(cx, heard, Why::Silence);
            }
            let patience = &self.patience;
            let next = if silence < patience.ping_after { patience.ping_after } else { patience.dead_after };
            let overdue = self.asked.map(|asked| asked.at + OVERDUE).filter(|overdue| *overdue > now);
            let next = self.last.1 + next;
            self.timer.set(sleep_until(overdue.map_or(next, |overdue| overdue.min(next))));
        }
        Poll::Pending
    }

    fn ask(&mut self, cx: &mut Context<'_>, heard: u64, why: Why) {
        if self.pings.send_ping(Ping::opaque()).is_ok() {
            let now = Instant::now();
            self.asked = Some(Asked { at: now, heard, why });
            self.heard.follow_one();
            let overdue = now + OVERDUE;
            if self.timer.deadline() > overdue {
                self.timer.as_mut().reset(overdue);
            }
            // So that the answer wakes us.
            self.poll_answer(cx, heard);
        }
    }
}

/// Of a peer that was heard so lately nobody has to ask.
const QUIET: Duration = Duration::from_secs(1);

/// An answer that takes longer is not to be counted on.
const OVERDUE: Duration = Duration::from_secs(2);

/// So many may be unread in a session, and what comes within one poll; each takes some 110 bytes.
const SMALL_FRAMES: u64 = 32 * 1024;
