//! How fast a relay may go: what each direction draws from before it reads, shared with whoever else draws from the same
//! buckets.
//!
//! Whoever has something to read takes its turn at each bucket, in the order in which they asked, waits until what was read
//! before is paid for, reads once, and goes to the end of the queue. So streams share evenly, one that reads little does not
//! wait for those that read much to be done, and no bucket is ever overdrawn by more than one read. A stream keeps its turn at
//! the first bucket while it waits at the second: where the first is an owner's and the second everybody's, it is owners who
//! share the second evenly, however many streams they have.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};
#[cfg(feature = "serve")]
use tokio_util::task::AbortOnDropHandle;
#[cfg(feature = "serve")]
use tracing::Instrument;

/// How fast a relay may go, each way. The default is as fast as it can, which costs nothing. No bucket should be both ways':
/// the directions of one stream would wake each other up.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    /// What bytes from the client draw from, in this order.
    pub to_agent: Vec<Arc<Bucket>>,
    /// What bytes from the agent draw from.
    pub to_client: Vec<Arc<Bucket>>,
}

/// So many bytes a second, for all that draw from it.
#[derive(Debug)]
pub struct Bucket {
    /// Bytes a second; 0 for as many as come.
    rate: AtomicU64,
    /// Until when the bytes that were read have used up the rate.
    paid_until: Mutex<Instant>,
    /// One at a time reads. Permits of a semaphore are given in the order in which they were asked for.
    turn: Arc<Semaphore>,
}

impl Bucket {
    /// So many bytes a second, or as many as come.
    pub fn new(rate: Option<u64>) -> Self {
        let bucket =
            Self { rate: AtomicU64::new(0), paid_until: Mutex::new(Instant::now()), turn: Arc::new(Semaphore::new(1)) };
        bucket.set_rate(rate);
        bucket
    }

    /// From now on so many; none at all would be a stream that never ends, so at least one byte.
    pub fn set_rate(&self, rate: Option<u64>) {
        self.rate.store(rate.map_or(0, |rate| rate.max(1)), Ordering::Relaxed);
    }

    fn rate(&self) -> Option<u64> {
        match self.rate.load(Ordering::Relaxed) {
            0 => None,
            rate => Some(rate),
        }
    }

    /// When the next read may be, if that is not now.
    fn next_read(&self) -> Option<Instant> {
        self.rate()?;
        let paid_until = *self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        (paid_until > Instant::now()).then_some(paid_until)
    }

    /// What one read may be at the most: no more than is let through in a [`BURST`], as far as that makes sense.
    pub(super) fn most(&self) -> usize {
        let in_a_burst = self.rate().map_or(u64::MAX, |rate| rate / BURSTS_A_SECOND);
        usize::try_from(in_a_burst).unwrap_or(usize::MAX).clamp(SMALLEST_READ, LARGEST_READ)
    }

    fn pay(&self, bytes: usize) {
        let Some(rate) = self.rate() else { return };
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        // Time in which nothing was read is good for a burst, and no more.
        let saved = Instant::now().checked_sub(BURST).unwrap_or(*paid_until);
        *paid_until = (*paid_until).max(saved) + cost;
    }
}

/// One direction's way through its buckets.
pub(crate) struct Queue<B> {
    buckets: B,
    /// Its place, while it waits. On the heap, because few streams ever wait.
    waiting: Option<Pin<Box<dyn Future<Output = Turn> + Send>>>,
}

impl<B: AsRef<[Arc<Bucket>]>> Queue<B> {
    pub(crate) fn new(buckets: B) -> Self {
        Self { buckets, waiting: None }
    }

    /// Whether there is anything to wait for at all.
    pub(crate) fn is_paced(&self) -> bool {
        self.buckets.as_ref().iter().any(|bucket| bucket.rate().is_some())
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Ready when it may read once.
    pub(crate) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        let waiting = match &mut self.waiting {
            Some(waiting) => waiting,
            None => match Turn::at_once(self.buckets.as_ref()) {
                Some(turn) => return Poll::Ready(turn),
                None => self.waiting.insert(Box::pin(Turn::wait(self.buckets.as_ref().to_vec()))),
            },
        };
        let turn = ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(turn)
    }

    /// Waits no more. Whoever does not poll must not wait: it would hold up those behind it.
    pub(super) fn leave(&mut self) {
        self.waiting = None;
    }
}

/// The right to read once. While it is held nobody else reads.
pub(crate) struct Turn(Vec<(Arc<Bucket>, OwnedSemaphorePermit)>);

impl Turn {
    fn at_once(buckets: &[Arc<Bucket>]) -> Option<Self> {
        let turns = buckets.iter().map(|bucket| {
            let turn = bucket.turn.clone().try_acquire_owned().ok()?;
            bucket.next_read().is_none().then(|| (bucket.clone(), turn))
        });
        turns.collect::<Option<_>>().map(Self)
    }

    async fn wait(buckets: Vec<Arc<Bucket>>) -> Self {
        let mut turns = Vec::with_capacity(buckets.len());
        for bucket in buckets {
            // It is never closed.
            let Ok(turn) = bucket.turn.clone().acquire_owned().await else { continue };
            while let Some(next) = bucket.next_read() {
                sleep_until(next.min(Instant::now() + LOOK)).await;
            }
            turns.push((bucket, turn));
        }
        Self(turns)
    }

    /// How much may be read.
    pub(crate) fn most(&self) -> usize {
        self.0.iter().map(|(bucket, _)| bucket.most()).min().unwrap_or(LARGEST_READ)
    }

    /// Pays for as many of these as may go at once.
    #[cfg(feature = "serve")]
    fn pay_for(self, bytes: usize) -> usize {
        let some = bytes.min(self.most());
        self.pay(some);
        some
    }

    /// So much was read; the next one may.
    pub(crate) fn pay(self, bytes: usize) {
        for (bucket, _) in &self.0 {
            bucket.pay(bytes);
        }
    }
}

/// Pays for what has been read already, for those who cannot wait before they read. They may also be polled when it pleases
/// somebody else, so a turn is waited for by a task of its own, where it holds up nobody.
#[cfg(feature = "serve")]
#[derive(Debug, Default)]
pub(crate) struct Toll(Option<AbortOnDropHandle<usize>>);

#[cfg(feature = "serve")]
impl Toll {
    /// Ready with how many of so many bytes are paid for.
    pub(crate) fn poll_paid(&mut self, cx: &mut Context<'_>, buckets: &[Arc<Bucket>], bytes: usize) -> Poll<usize> {
        let waiting = match &mut self.0 {
            Some(waiting) => waiting,
            None if buckets.iter().all(|bucket| bucket.rate().is_none()) => return Poll::Ready(bytes),
            None => match Turn::at_once(buckets) {
                Some(turn) => return Poll::Ready(turn.pay_for(bytes)),
                None => {
                    let turn = Turn::wait(buckets.to_vec());
                    let paid = tokio::spawn(async move { turn.await.pay_for(bytes) }.in_current_span());
                    self.0.insert(AbortOnDropHandle::new(paid))
                }
            },
        };
        // It does not panic, and is not aborted while it is asked.
        let paid = ready!(Pin::new(waiting).poll(cx)).unwrap_or(bytes);
        self.0 = None;
        Poll::Ready(paid.min(bytes))
    }
}

/// What may come at once after a silence, in time: a page should not trickle.
const BURST: Duration = Duration::from_millis(1000 / BURSTS_A_SECOND);
const BURSTS_A_SECOND: u64 = 4;

/// The largest read of a relay without a pace; and one below which the way to the kernel would cost more than the bytes.
const LARGEST_READ: usize = 64 * 1024;
const SMALLEST_READ: usize = 1024;

/// Whoever waits looks again after this, because the rate may have been raised.
const LOOK: Duration = Duration::from_secs(1);
