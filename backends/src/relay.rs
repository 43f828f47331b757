//! Copies bytes both ways between a client and an agent's stream until both directions have ended. It knows bytes, a
//! counter, a pace and a cancel signal; policy, names, logs and metrics stay outside.
//!
//! Each direction ends on its own, and an abort stays an abort:
//!
//! - The end of one direction becomes a shutdown of the other side, while the other direction goes on.
//! - A read that fails means that this side has aborted. What it sent before still goes out, then the other side is
//!   aborted too (`Relay::pass_abort`).
//! - A write that fails means the same, with two differences. What the side sent before may still be unread: it is read
//!   to its end first, and because the failed write has consumed the socket's error, that end is not believed to be a
//!   finish. And a side that *had finished* has not aborted: it has said all it will and merely reads no more. All it said
//!   is delivered, that direction finishes cleanly, and what the other side still sends is read and thrown away, so that
//!   closing does not destroy what is on its way to it.
//! - While one side does not take what is held for it, the other one is not read, and its abort would stay unnoticed: it is
//!   asked for by name every `linger` (`aborted_unheard`).
//! - Nothing moves for `half_closed` while one direction is over, or for `unread` while a side does not take what is held
//!   for it: both are aborted. (Not by TCP_USER_TIMEOUT: since Linux 5.11 that also ends a connection whose reader has
//!   merely stopped for a while, and a paused download is no fault.)
//! - A direction that waits for its turn to read, because of the pace, is not standing still, but an abort of its source is
//!   asked for as above.
//!
//! The copy is portable. Between two sockets on Linux, what moves in bulk goes by `splice` instead (`pipe.rs`, and `Flow` says
//! when); nothing above knows the difference.

mod buffer;
mod duplex;
mod flow;
mod pace;
#[cfg(target_os = "linux")]
mod pipe;
mod room;
#[cfg(target_os = "linux")]
mod stands;
#[cfg(test)]
mod tests;
#[cfg(target_os = "linux")]
mod turn;

use std::{
    future::poll_fn,
    io::ErrorKind,
    pin::{Pin, pin},
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

#[cfg(feature = "serve")]
use futures_util::task::AtomicWaker;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

pub use duplex::{BoxDuplex, Duplex};
use flow::{Broken, Flow, FlowState, REST_OF_A_DOWNLOAD, REST_OF_AN_UPLOAD};
pub use pace::{Bucket, Pace};
#[cfg(feature = "serve")]
pub(crate) use pace::{Queue, Toll};

use crate::seldom::unless_cancelled;

/// Relays between `client` and `agent`, no faster than `pace`, until both directions have ended, either side aborts, or
/// `cancel` fires.
///
/// Dropping the future drops both ends as they are; fire `cancel` to have them aborted.
pub async fn relay<C: Duplex, A: Duplex>(
    mut client: C,
    mut agent: A,
    progress: &Progress,
    pace: &Pace,
    times: &RelayTimes,
    cancel: &CancellationToken,
) -> RelayEnd {
    let mut relay = Relay {
        ends: [&mut client, &mut agent],
        flows: [Flow::new(&progress.to_agent, &pace.to_agent), Flow::new(&progress.to_client, &pace.to_client)],
        times,
        // What the client has said already is passed on before anything is awaited of the agent.
        first: 1,
        lingering: false,
        stall: None,
        asking: None,
    };
    let ended = unless_cancelled(cancel, pin!(relay.run())).await;
    let end = ended.unwrap_or_else(|| {
        relay.abort_both();
        RelayEnd::Cancelled
    });
    if end == RelayEnd::Finished {
        for end in &mut relay.ends {
            end.finish_on_drop();
        }
    }
    end
}

/// Bytes delivered so far, each way.
#[derive(Debug, Default)]
pub struct Progress {
    to_agent: AtomicU64,
    to_client: AtomicU64,
    /// Who waits for more of what no relay copies.
    #[cfg(feature = "serve")]
    waiting: AtomicWaker,
}

impl Progress {
    /// To be woken when the stream has been aborted elsewhere, or its tunnel is over: there is one who is.
    #[cfg(feature = "serve")]
    pub(crate) fn wake_when_over(&self, cx: &Context<'_>) {
        self.waiting.register(cx.waker());
    }

    #[cfg(feature = "serve")]
    pub(crate) fn wake(&self) {
        self.waiting.wake();
    }

    /// Bytes from the client that the agent's side has taken.
    pub fn to_agent(&self) -> u64 {
        self.to_agent.load(Ordering::Relaxed)
    }

    /// Bytes from the agent that the client's side has taken.
    pub fn to_client(&self) -> u64 {
        self.to_client.load(Ordering::Relaxed)
    }

    /// So many more were taken by the agent's side, of what no relay copies.
    #[cfg(feature = "serve")]
    pub(crate) fn add_to_agent(&self, bytes: usize) {
        self.to_agent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// So many more were taken by the client's side.
    #[cfg(feature = "serve")]
    pub(crate) fn add_to_client(&self, bytes: usize) {
        self.to_client.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// So many were not, after all.
    #[cfg(feature = "serve")]
    pub(crate) fn take_back_to_client(&self, bytes: usize) {
        self.to_client.fetch_sub(bytes as u64, Ordering::Relaxed);
    }
}

/// How long the relay waits.
#[derive(Debug, Clone, Copy)]
pub struct RelayTimes {
    /// Without any progress while one direction is over and the other one is silent.
    pub half_closed: Duration,
    /// Without any progress while a side does not take what is held for it. What counts is what its socket takes, and a
    /// full one takes more only when much of it is free: a reader so slow that this lasts longer counts as stopped (about
    /// 1 KB/s with the default).
    pub unread: Duration,
    /// For the last bytes before an abort to leave, and for a peer to finish after it has been told all.
    pub linger: Duration,
}

impl Default for RelayTimes {
    fn default() -> Self {
        Self {
            half_closed: Duration::from_secs(5 * 60),
            unread: Duration::from_secs(30 * 60),
            linger: Duration::from_secs(5),
        }
    }
}

/// How a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayEnd {
    /// Both sides said all they had to say.
    Finished,
    /// This side reset the stream or vanished; the other one was told.
    Aborted(Side),
    /// Nothing moved for too long; both were aborted.
    Stalled,
    /// Somebody fired `cancel`; both were aborted.
    Cancelled,
}

/// One of the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Whoever came to the public address.
    Client,
    /// Whoever dialled in.
    Agent,
}

/// The ends are 0 (client) and 1 (agent); flow `i` goes from end `i` to the other one.
struct Relay<'a> {
    ends: [&'a mut dyn Duplex; 2],
    flows: [Flow<'a>; 2],
    times: &'a RelayTimes,
    first: usize,
    lingering: bool,
    stall: Option<Stall>,
    /// While a direction waits its turn.
    asking: Option<Pin<Box<Sleep>>>,
}

/// What ended the copying.
enum Stop {
    /// Both directions have.
    Finished,
    /// This end's read failed.
    Broken(usize),
    /// A write to this end failed although it had not finished.
    Reset(usize),
    /// This end has aborted, and for `linger` the other one took nothing of what it said before.
    Unheard(usize),
    /// Nothing moved for too long.
    Stalled,
    /// One direction is done; the other end's bytes go nowhere any more.
    LastWordsDelivered,
}

impl Relay<'_> {
    async fn run(&mut self) -> RelayEnd {
        let stop = poll_fn(|cx| self.poll_copy(cx)).await;
        for flow in &mut self.flows {
            flow.leave_queue();
        }
        match stop {
            Stop::Finished => RelayEnd::Finished,
            Stop::LastWordsDelivered => {
                // The other end gets `linger` to take in what it was told. It is no abort, even if it resets us now.
                let [to_agent, to_client] = &mut self.flows;
                to_agent.told_all(REST_OF_AN_UPLOAD);
                to_client.told_all(REST_OF_A_DOWNLOAD);
                let _ = timeout(self.times.linger, poll_fn(|cx| self.poll_copy(cx))).await;
                RelayEnd::Finished
            }
            Stop::Broken(end) => self.pass_abort(end, Instant::now() + self.times.linger).await,
            Stop::Reset(end) => {
                let deadline = Instant::now() + self.times.linger;
                let rest = poll_fn(|cx| {
                    let (source, sink) = pair(&mut self.ends, end);
                    self.flows[end].poll_rest(cx, source, sink)
                });
                let _ = timeout_at(deadline, rest).await;
                self.pass_abort(end, deadline).await
            }
            Stop::Unheard(end) => {
                self.abort_both();
                RelayEnd::Aborted(side(end))
            }
            Stop::Stalled => {
                self.abort_both();
                RelayEnd::Stalled
            }
        }
    }

    fn poll_copy(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        let before = self.steps();
        // Taking turns at being first: within tokio's budget for one poll a busy direction could starve the other.
        self.first = 1 - self.first;
        for source in [self.first, 1 - self.first] {
            if let Poll::Ready(stop) = self.poll_direction(cx, source) {
                return Poll::Ready(stop);
            }
        }
        if self.flows.iter().all(|flow| flow.state == FlowState::Ended) {
            return Poll::Ready(Stop::Finished);
        }
        if self.told_all_but_still_told() {
            return Poll::Ready(Stop::LastWordsDelivered);
        }
        if let Poll::Ready(stop) = self.poll_waiting(cx) {
            return Poll::Ready(stop);
        }
        // Whoever waits its turn would move if it might.
        let moved = self.steps() != before || self.asking.is_some();
        self.poll_stalled(cx, moved)
    }

    /// While a direction waits its turn its source is not read, and is asked every `linger` whether it has aborted.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        if !self.flows.iter().any(Flow::waits_its_turn) {
            self.asking = None;
            return Poll::Pending;
        }
        // At least a millisecond, or a `linger` of zero would spin.
        let linger = self.times.linger.max(Duration::from_millis(1));
        let timer = self.asking.get_or_insert_with(|| Box::pin(sleep(linger)));
        while timer.as_mut().poll(cx).is_ready() {
            timer.set(sleep(linger));
            let waiting = |end: usize| self.flows[end].state == FlowState::Copying && self.flows[end].waits_its_turn();
            let unheard = |end: &usize| waiting(*end) && !self.flows[1 - end].source_finished();
            if let Some(end) = (0..2).filter(unheard).find(|end| self.ends[*end].has_aborted(cx)) {
                return Poll::Ready(Stop::Unheard(end));
            }
        }
        Poll::Pending
    }

    fn poll_direction(&mut self, cx: &mut Context<'_>, source: usize) -> Poll<Stop> {
        let sink = 1 - source;
        let (from, to) = pair(&mut self.ends, source);
        match ready!(self.flows[source].poll(cx, from, to)) {
            Ok(()) => Poll::Pending,
            Err(Broken::Source) => Poll::Ready(Stop::Broken(source)),
            Err(Broken::Sink(kind)) => {
                let finished = self.flows[sink].source_finished() || kind == ErrorKind::BrokenPipe;
                if !finished {
                    return Poll::Ready(Stop::Reset(sink));
                }
                self.flows[source].discard();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    /// One end has said all, was heard, and listens no more; the other one is still talking.
    fn told_all_but_still_told(&mut self) -> bool {
        let states = [self.flows[0].state, self.flows[1].state];
        let now =
            matches!(states, [FlowState::Ended, FlowState::Discarding] | [FlowState::Discarding, FlowState::Ended]);
        now && !std::mem::replace(&mut self.lingering, true)
    }

    /// Waits until what was written to the other end has left, and aborts it: by the deadline. (Nothing is held any more: an
    /// end is read only when what it said before has been written.)
    async fn pass_abort(&mut self, broken: usize, deadline: Instant) -> RelayEnd {
        self.ends[broken].abort_on_drop();
        let other = &mut self.ends[1 - broken];
        let _ = timeout_at(deadline, poll_fn(|cx| other.poll_sent(cx))).await;
        other.abort_on_drop();
        RelayEnd::Aborted(side(broken))
    }

    fn abort_both(&mut self) {
        for end in &mut self.ends {
            end.abort_on_drop();
        }
    }

    /// Grows whenever anything happens.
    fn steps(&self) -> u64 {
        let ended = self.flows.iter().filter(|flow| flow.source_finished()).count() as u64;
        self.flows[0].bytes() + self.flows[1].bytes() + ended
    }

    fn poll_stalled(&mut self, cx: &mut Context<'_>, moved: bool) -> Poll<Stop> {
        let limit = if self.flows.iter().any(Flow::holds_bytes) {
            self.times.unread
        } else if self.flows.iter().any(Flow::source_finished) {
            self.times.half_closed
        } else {
            self.stall = None;
            return Poll::Pending;
        };
        let linger = self.times.linger;
        let stall = self.stall.get_or_insert_with(|| Stall::new(linger, limit));
        if moved {
            stall.since = Instant::now();
        }
        if stall.limit != limit {
            stall.limit_to(linger, limit);
        }
        loop {
            let silence = ready!(stall.poll(cx, linger));
            if silence >= limit {
                return Poll::Ready(Stop::Stalled);
            }
            if let Some(end) = aborted_unheard(cx, &mut self.ends, &self.flows) {
                return Poll::Ready(Stop::Unheard(end));
            }
        }
    }
}

/// The time since which nothing has moved. The timer is set anew only when it fires, not with every byte.
struct Stall {
    since: Instant,
    limit: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Stall {
    fn new(linger: Duration, limit: Duration) -> Self {
        let since = Instant::now();
        Self { since, limit, timer: Box::pin(sleep_until(since + linger.min(limit))) }
    }

    fn limit_to(&mut self, linger: Duration, limit: Duration) {
        self.limit = limit;
        self.timer.set(sleep_until(self.since + linger.min(limit)));
    }

    /// Ready with the time that nothing has moved for: once after every `linger` of it, and at the limit.
    fn poll(&mut self, cx: &mut Context<'_>, linger: Duration) -> Poll<Duration> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            let silence = now - self.since;
            let full = silence >= linger.min(self.limit);
            // At least a millisecond on, or a `linger` of zero would spin.
            let next = if full { now + linger.max(Duration::from_millis(1)) } else { self.since + linger };
            self.timer.set(sleep_until(next.min(self.since + self.limit)));
            if full {
                return Poll::Ready(silence);
            }
        }
    }
}

/// The end that has aborted although what it said before is still held, so that no read will tell.
///
/// An end that we have finished towards is not asked: it may have finished too, unread, and where our end crosses its own
/// a reset that comes after both looks like any other. `unread` takes care of it.
fn aborted_unheard(cx: &mut Context<'_>, ends: &mut [&mut dyn Duplex; 2], flows: &[Flow<'_>; 2]) -> Option<usize> {
    (0..2).find(|&end| {
        let is_unread = flows[end].state == FlowState::Copying && flows[end].holds_bytes();
        is_unread && !flows[1 - end].source_finished() && ends[end].has_aborted(cx)
    })
}

fn side(end: usize) -> Side {
    if end == 0 { Side::Client } else { Side::Agent }
}

/// The source and the sink of flow `source`.
fn pair<'e>(ends: &'e mut [&mut dyn Duplex; 2], source: usize) -> (&'e mut dyn Duplex, &'e mut dyn Duplex) {
    let [client, agent] = ends;
    if source == 0 { (&mut **client, &mut **agent) } else { (&mut **agent, &mut **client) }
}
