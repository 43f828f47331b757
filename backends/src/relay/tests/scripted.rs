//! An end in memory that does as it is told, and remembers what was done to it.

use std::{
    collections::VecDeque,
    future::Future,
    io::{self, ErrorKind},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use crate::relay::Duplex;

/// The next thing that a read gives.
#[derive(Debug, Clone, Copy)]
pub(super) enum Say {
    Bytes(usize),
    Wait(Duration),
    Finish,
    Abort,
    /// Nothing more, and no end.
    Silence,
}

/// The next thing that a write meets.
#[derive(Debug, Clone, Copy)]
pub(super) enum Take {
    UpTo(usize),
    Wait(Duration),
    /// It fails; any later one fails as a broken pipe.
    Fail(ErrorKind),
    /// It takes no byte and calls that a success.
    Nothing,
    /// It never succeeds.
    Never,
}

/// What an end says and takes. It takes everything once it is through with `takes`.
#[derive(Debug, Clone, Default)]
pub(super) struct Script {
    pub(super) says: Vec<Say>,
    pub(super) takes: Vec<Take>,
    pub(super) shutdown_waits: Vec<Duration>,
    pub(super) sent_waits: Vec<Duration>,
    /// It claims to be readable at all times.
    pub(super) claims_readable: bool,
    /// When it has aborted even if nobody has read so far.
    pub(super) aborts_after: Option<Duration>,
}

impl Script {
    pub(super) fn says(says: impl Into<Vec<Say>>) -> Self {
        Self { says: says.into(), ..Self::default() }
    }

    pub(super) fn takes(self, takes: impl Into<Vec<Take>>) -> Self {
        Self { takes: takes.into(), ..self }
    }

    /// All bytes that it has to say before its end.
    pub(super) fn words(&self) -> Vec<u8> {
        let said = self.says.iter().map(|say| if let Say::Bytes(n) = say { *n } else { 0 }).sum();
        (0..said).map(word).collect()
    }

    pub(super) fn end(self) -> (End, Arc<Mutex<Past>>) {
        let past = Arc::<Mutex<Past>>::default();
        let end = End {
            says: self.says.into(),
            takes: self.takes.into(),
            shutdown_waits: self.shutdown_waits.into(),
            sent_waits: self.sent_waits.into(),
            claims_readable: self.claims_readable,
            aborts_at: self.aborts_after.map(|after| Instant::now() + after),
            past: past.clone(),
            ..End::default()
        };
        (end, past)
    }
}

/// What was done to an end.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Bytes that it took.
    pub(super) heard: Vec<u8>,
    pub(super) shutdowns: usize,
    /// What it has let the relay know: its end, or that it has aborted.
    pub(super) has_finished: bool,
    pub(super) has_aborted: bool,
    /// How its writes failed, and whether its end was known then.
    pub(super) write_failed: Option<ErrorKind>,
    pub(super) had_finished_before: bool,
    pub(super) sent: bool,
    /// When it was told to abort, and whether what it took had been sent.
    pub(super) aborted: Option<Instant>,
    pub(super) aborted_after_sent: bool,
    /// What nobody may do.
    pub(super) wrongs: Vec<&'static str>,
}

impl Past {
    fn fail_write(&mut self, kind: ErrorKind) {
        self.write_failed = Some(kind);
        self.had_finished_before = self.has_finished;
    }
}

#[derive(Default)]
pub(super) struct End {
    says: VecDeque<Say>,
    said: usize,
    takes: VecDeque<Take>,
    shutdown_waits: VecDeque<Duration>,
    sent_waits: VecDeque<Duration>,
    claims_readable: bool,
    aborts_at: Option<Instant>,
    /// It was said to be readable, and no read has come back empty-handed since.
    asked: bool,
    reading: Timer,
    writing: Timer,
    shutting: Timer,
    sending: Timer,
    past: Arc<Mutex<Past>>,
}

impl End {
    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready once there is something to say.
    fn poll_say(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(Say::Wait(wait)) = self.says.front() {
            ready!(self.reading.poll(cx, *wait));
            self.says.pop_front();
        }
        if let Some(Say::Silence) = self.says.front() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Whether a read may be tried, which by then has a buffer.
    fn note_read(&mut self) {
        if !self.asked {
            self.past().wrongs.push("read without being asked whether it is readable");
        }
        if self.past().has_aborted {
            self.past().wrongs.push("read after it had aborted");
        }
    }
}

impl AsyncRead for End {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.note_read();
        if self.poll_say(cx).is_pending() {
            self.asked = false;
            return Poll::Pending;
        }
        match self.says.front_mut() {
            Some(Say::Bytes(left)) => {
                let n = buf.remaining().min(*left);
                *left -= n;
                if *left == 0 {
                    self.says.pop_front();
                }
                let bytes: Vec<u8> = (self.said..self.said + n).map(word).collect();
                self.said += n;
                buf.put_slice(&bytes);
                Poll::Ready(Ok(()))
            }
            Some(Say::Abort) => {
                self.past().has_aborted = true;
                Poll::Ready(Err(ErrorKind::ConnectionReset.into()))
            }
            _ => {
                self.past().has_finished = true;
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            self.past().wrongs.push("write of nothing");
        }
        if self.past().has_aborted {
            self.past().wrongs.push("write after it had aborted");
        }
        if self.past().write_failed.is_some() {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        if self.past().shutdowns > 0 {
            self.past().wrongs.push("write after a shutdown");
        }
        while let Some(Take::Wait(wait)) = self.takes.front() {
            let wait = *wait;
            ready!(self.writing.poll(cx, wait));
            self.takes.pop_front();
        }
        let most = match self.takes.front() {
            Some(Take::Fail(kind)) => {
                let kind = *kind;
                self.past().fail_write(kind);
                return Poll::Ready(Err(kind.into()));
            }
            Some(Take::Nothing) => {
                self.past().fail_write(ErrorKind::WriteZero);
                return Poll::Ready(Ok(0));
            }
            Some(Take::Never) => return Poll::Pending,
            Some(Take::UpTo(most)) => *most,
            _ => usize::MAX,
        };
        self.takes.pop_front();
        let n = most.min(buf.len());
        self.past().heard.extend_from_slice(&buf[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(wait) = self.shutdown_waits.front().copied() {
            ready!(self.shutting.poll(cx, wait));
            self.shutdown_waits.pop_front();
        }
        self.past().shutdowns += 1;
        Poll::Ready(Ok(()))
    }
}

impl Duplex for End {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.claims_readable {
            ready!(self.poll_say(cx));
        }
        self.asked = true;
        Poll::Ready(Ok(()))
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(wait) = self.sent_waits.front().copied() {
            ready!(self.sending.poll(cx, wait));
            self.sent_waits.pop_front();
        }
        self.past().sent = true;
        Poll::Ready(())
    }

    fn has_aborted(&mut self, _: &mut Context<'_>) -> bool {
        let mut past = self.past();
        past.has_aborted |= self.aborts_at.is_some_and(|at| at <= Instant::now());
        past.has_aborted
    }

    fn abort_on_drop(&mut self) {
        let mut past = self.past();
        past.aborted.get_or_insert_with(Instant::now);
        past.aborted_after_sent = past.sent;
    }
}

/// A wait that wakes whoever polled it last, and nobody else: a wake-up that the relay forgot to ask for never comes.
#[derive(Default)]
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    fn poll(&mut self, cx: &mut Context<'_>, wait: Duration) -> Poll<()> {
        ready!(self.0.get_or_insert_with(|| Box::pin(sleep(wait))).as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(())
    }
}

/// The byte at a position. The period is a prime, so that no buffer's size hides a mistake.
fn word(position: usize) -> u8 {
    (position % 251) as u8
}
