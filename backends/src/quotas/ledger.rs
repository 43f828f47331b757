use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tunnel_api::Owner;

use super::limits::{Counted, InUse, Limits, Refused, Why};
use crate::relay::Bucket;

/// What somebody has, and may have.
#[derive(Debug)]
pub(super) struct Ledger {
    whose: Whose,
    books: Mutex<Books>,
    pub(super) to_agents: Arc<Bucket>,
    pub(super) to_clients: Arc<Bucket>,
}

#[derive(Debug)]
struct Books {
    limits: Limits,
    used: InUse,
    /// Until when the calls so far have used up the rate.
    opens_paid_until: Instant,
    /// When it was last said that a limit has been reached.
    told: Option<Instant>,
}

/// Whose the limits are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whose {
    Everybody,
    Owner(Owner),
}

impl Ledger {
    pub(super) fn new(whose: Whose, limits: Limits) -> Self {
        let books = Books { limits, used: InUse::default(), opens_paid_until: Instant::now(), told: None };
        Self {
            whose,
            books: Mutex::new(books),
            to_agents: Arc::new(Bucket::new(limits.bytes_per_second_to_agents)),
            to_clients: Arc::new(Bucket::new(limits.bytes_per_second_to_clients)),
        }
    }

    pub(super) fn hold_to(&self, limits: Limits) {
        self.lock().limits = limits;
        self.to_agents.set_rate(limits.bytes_per_second_to_agents);
        self.to_clients.set_rate(limits.bytes_per_second_to_clients);
    }

    pub(super) fn in_use(&self) -> InUse {
        self.lock().used
    }

    /// One more of these; gives how many there are then. `owner_has` is how many of them, that one included, are the owner's
    /// where all share.
    pub(super) fn take(&self, what: Counted, owner_has: Option<usize>) -> Result<usize, Refused> {
        let mut books = self.lock();
        let used = *books.used.of(what);
        if let Some(why) = books.limits.refusal(what, used, owner_has) {
            return Err(self.refuse(&mut books, why, TRY_AGAIN));
        }
        *books.used.of(what) += 1;
        Ok(used + 1)
    }

    pub(super) fn take_again(&self, what: Counted) {
        *self.lock().used.of(what) += 1;
    }

    pub(super) fn give_back(&self, what: Counted) {
        *self.lock().used.of(what) -= 1;
    }

    /// One more call that opens a tunnel. A bucket that holds what one second lets through, and one call at least.
    pub(super) fn count_open(&self) -> Result<(), Refused> {
        let mut books = self.lock();
        let Some(rate) = books.limits.opens_per_second else { return Ok(()) };
        let cost = seconds(1.0 / rate);
        let burst = cost.max(Duration::from_secs(1));
        let now = Instant::now();
        let paid_until = books.opens_paid_until.max(now) + cost;
        let beyond = (paid_until - now).saturating_sub(burst);
        if !beyond.is_zero() {
            return Err(self.refuse(&mut books, Why::TooFast { rate }, beyond));
        }
        books.opens_paid_until = paid_until;
        Ok(())
    }

    /// Whether forgetting it would give anything away.
    pub(super) fn remembers(&self) -> bool {
        let books = self.lock();
        books.used != InUse::default() || books.opens_paid_until > Instant::now()
    }

    /// Said once in a while: the limit may be too low, or somebody too greedy.
    fn refuse(&self, books: &mut Books, why: Why, retry_after: Duration) -> Refused {
        let refused = Refused { whose: self.whose.clone(), why, retry_after };
        if books.told.is_none_or(|told| told.elapsed() > SAY_AGAIN) {
            books.told = Some(Instant::now());
            tracing::info!(limit = refused.limit(), "limit reached: {refused}");
        }
        refused
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        // Nothing panics while it is held.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Limits {
    fn refusal(&self, what: Counted, used: usize, owner_has: Option<usize>) -> Option<Why> {
        let limit = match what {
            Counted::Tunnels => self.tunnels,
            Counted::Streams => self.streams,
            Counted::WaitingClients => self.waiting_clients,
        }?;
        let reserve = limit / 10;
        if used >= limit {
            Some(Why::Full { what, used, limit })
        } else if used >= limit - reserve && owner_has.is_some_and(|has| has > reserve) {
            Some(Why::Reserved { what, limit })
        } else {
            None
        }
    }
}

impl InUse {
    fn of(&mut self, what: Counted) -> &mut usize {
        match what {
            Counted::Tunnels => &mut self.tunnels,
            Counted::Streams => &mut self.streams,
            Counted::WaitingClients => &mut self.waiting_clients,
        }
    }
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everybody => f.write_str("the server"),
            Self::Owner(owner) => write!(f, "{owner}"),
        }
    }
}

/// A rate may be zero, or as good as.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(FOREVER).min(FOREVER)
}

/// Of what lasts as long as its users like, nobody knows when some is given back.
const TRY_AGAIN: Duration = Duration::from_secs(10);

const SAY_AGAIN: Duration = Duration::from_secs(60);

const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
