//! What a connection is doing: whether a request of it is under way, and since when none is. Between their requests, web clients'
//! connections sit in the lounge.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    lobby::Newcomer,
    room::{Place, Room},
};
use crate::meters::{IdleClosed, Meters};

/// A connection that has come in.
#[derive(Debug)]
pub(super) struct Stay {
    newcomer: Newcomer,
    ip: IpAddr,
    lounge: Arc<Room>,
    meters: Arc<Meters>,
    under_way: AtomicU32,
    begun: AtomicU64,
    idle: Mutex<Idle>,
    /// Somebody else has its place in the lounge.
    evicted: CancellationToken,
}

#[derive(Debug)]
struct Idle {
    since: Instant,
    place: Option<Place>,
}

impl Stay {
    pub(super) fn new(newcomer: Newcomer, ip: IpAddr, lounge: Arc<Room>, meters: Arc<Meters>) -> Arc<Self> {
        Arc::new(Self {
            newcomer,
            ip,
            lounge,
            meters,
            under_way: AtomicU32::new(0),
            begun: AtomicU64::new(0),
            idle: Mutex::new(Idle { since: Instant::now(), place: None }),
            evicted: CancellationToken::new(),
        })
    }

    /// A request is under way until the value is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        self.begun.fetch_add(1, Ordering::Relaxed);
        if self.under_way.fetch_add(1, Ordering::Relaxed) == 0 {
            self.lock().place = None;
        }
        UnderWay(self.clone())
    }

    /// How many requests have begun.
    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
    }

    /// Resolves when no request has been under way for so long, of those connections that are held to it, or its place is wanted.
    pub(super) async fn outstayed(&self, longest: Duration, held: Held) -> IdleClosed {
        tokio::select! {
            () = self.evicted.cancelled() => IdleClosed::Evicted,
            () = self.idle_for(longest, held) => IdleClosed::Timeout,
        }
    }

    /// Resolves when no request has been under way for so long from now on.
    pub(super) async fn idle_from_now_on(&self, longest: Duration) {
        self.lock().since = Instant::now();
        self.idle_for(longest, Held::All).await;
    }

    /// (It is looked at now and then, instead of with every request. A connection that is busy then may be idle for a tenth
    /// longer.)
    async fn idle_for(&self, longest: Duration, held: Held) {
        loop {
            let is_held = held == Held::All || self.newcomer.is_client();
            let is_idle = is_held && !self.is_under_way();
            let until = if is_idle { self.lock().since + longest } else { Instant::now() + longest / 10 };
            if is_idle && until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        // Nothing panics while it is held.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which connections may not be idle for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    All,
    /// Web clients'. Callers of the RPC may watch, and come back at any time.
    Clients,
}

/// A request that is under way.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Stay>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let stay = &*self.0;
        let mut idle = stay.lock();
        if stay.under_way.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        idle.since = Instant::now();
        if stay.newcomer.is_client() {
            let counted = stay.meters.idles_at_the_door();
            idle.place = Some(stay.lounge.enter(stay.ip, stay.evicted.clone(), counted));
        }
    }
}
