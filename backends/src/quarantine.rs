//! Addresses that were asked for by name and given up: whoever remembers one of them should not meet a stranger there.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tunnel_api::{Host, Owner, PublicAddress, TunnelId};

/// What a tunnel holds and gives up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Claim {
    /// A public port.
    Port(u16),
    /// A host name.
    Host(Host),
}

impl Claim {
    /// The part of an address that nobody else can have.
    pub fn of(address: &PublicAddress) -> Self {
        if address.scheme() == "tcp" { Self::Port(address.port()) } else { Self::Host(address.host().clone()) }
    }
}

/// Remembers for a while whose an address was. Shared by the pools that hand addresses out and by
/// [`Tunnels`](crate::tunnels::Tunnels), which says what was given up.
///
/// Bounded by the claims there are: one entry of some 150 bytes for each port or name, and names are only remembered of tunnels that were open. And no owner keeps more than 256 of them from
/// others, or one that opens and closes tunnels without end would have all ports to itself.
#[derive(Debug)]
pub struct Quarantine {
    period: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kept: HashMap<Claim, Kept>,
    /// Somebody forgets what is over.
    is_swept: bool,
}

#[derive(Debug)]
struct Kept {
    owner: Owner,
    bars_others: bool,
    /// Until this server ends, where there is no time.
    until: Option<Until>,
    /// The tunnel in whose record it is written.
    record: Option<TunnelId>,
}

/// A moment, on both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Until {
    pub(crate) time: SystemTime,
    deadline: Instant,
}

/// An entry that has gone, and that is still in the registry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Forgotten {
    pub(crate) id: TunnelId,
    pub(crate) until: SystemTime,
}

impl Quarantine {
    /// Keeps what is given up for so long.
    pub fn new(period: Duration) -> Arc<Self> {
        Arc::new(Self { period, state: Mutex::default() })
    }

    /// Whether this was the owner's a moment ago and is still to be had for it alone, or at least for it too. What it had once, it
    /// may ask for again.
    pub fn is_kept_for(&self, owner: &Owner, claim: &Claim) -> bool {
        self.lock().kept.get(claim).is_some_and(|kept| kept.owner == *owner && !kept.is_over())
    }

    /// For whom else it is kept, and how long, if this owner may not have it.
    pub(crate) fn bars(&self, owner: &Owner, claim: &Claim) -> Option<Barred> {
        let state = self.lock();
        let kept = state.kept.get(claim).filter(|kept| kept.bars_others && kept.owner != *owner && !kept.is_over())?;
        Some(Barred(kept.until.map(|until| until.deadline.saturating_duration_since(Instant::now()))))
    }

    /// Its owner has given it up. Says until when it is remembered, if it is.
    pub(crate) fn give_up(&self, claim: Claim, owner: &Owner, why: GivenUpBy) -> Option<Until> {
        if self.period.is_zero() {
            return None;
        }
        let until = Until::after(self.period);
        let (bars_others, record) = match why {
            GivenUpBy::WhoAskedForIt { record } => (true, record),
            GivenUpBy::WhoWasGivenIt => (false, None),
        };
        let kept = Kept { owner: owner.clone(), bars_others, until: Some(until), record };
        let mut state = self.lock();
        state.kept.insert(claim, kept);
        if bars_others {
            state.open_oldest_beyond(MOST, owner);
        }
        Some(until)
    }

    /// An earlier server has promised to keep it until then; never longer than we would. Says whether it is kept.
    pub(crate) fn keep(&self, claim: Claim, owner: &Owner, record: &TunnelId, until: SystemTime) -> bool {
        let left = until.duration_since(SystemTime::now()).unwrap_or_default().min(self.period);
        if left.is_zero() {
            return false;
        }
        let until = Until { time: until, deadline: Instant::now() + left };
        let kept = Kept { owner: owner.clone(), bars_others: true, until: Some(until), record: Some(record.clone()) };
        let mut state = self.lock();
        match state.kept.entry(claim) {
            // What is held without end is held by a tunnel that is only away.
            Entry::Occupied(entry) if entry.get().outlasts(&kept) => return false,
            Entry::Occupied(mut entry) => drop(entry.insert(kept)),
            Entry::Vacant(entry) => drop(entry.insert(kept)),
        }
        state.open_oldest_beyond(MOST, owner);
        true
    }

    /// Nobody else gets it until it is [settled](Self::settle).
    pub(crate) fn hold(&self, claim: Claim, owner: &Owner) {
        let kept = Kept { owner: owner.clone(), bars_others: true, until: None, record: None };
        self.lock().kept.insert(claim, kept);
    }

    /// It is a tunnel's again, or nobody's.
    pub(crate) fn settle(&self, claim: &Claim) -> Option<Forgotten> {
        self.lock().kept.remove(claim)?.forgotten()
    }

    /// Whether the caller is to [sweep](Self::sweep), because nobody else does.
    pub(crate) fn begin_sweeping(&self) -> bool {
        !std::mem::replace(&mut self.lock().is_swept, true)
    }

    /// Forgets what is over. Says what of it is still in the registry, and when to come again, if ever.
    pub(crate) fn sweep(&self) -> (Vec<Forgotten>, Option<Instant>) {
        let mut state = self.lock();
        let over = state.kept.extract_if(|_, kept| kept.is_over()).filter_map(|(_, kept)| kept.forgotten()).collect();
        let next = state.kept.values().filter_map(|kept| Some(kept.until?.deadline)).min();
        state.is_swept = next.is_some();
        (over, next)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Of what this owner has given up and keeps from others, so much stays so: what was given up last.
    fn open_oldest_beyond(&mut self, most: usize, owner: &Owner) {
        let barred = self.kept.values_mut().filter(|kept| kept.bars_others && kept.owner == *owner);
        let mut barred: Vec<_> = barred.filter_map(|kept| Some((kept.until?.deadline, kept))).collect();
        barred.sort_by_key(|(deadline, _)| std::cmp::Reverse(*deadline));
        for (_, kept) in barred.into_iter().skip(most) {
            kept.bars_others = false;
        }
    }
}

/// Who gives an address up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GivenUpBy {
    /// Nobody else gets it for a while. Where it is recorded, the record of this tunnel says so.
    WhoAskedForIt { record: Option<TunnelId> },
    /// It may be anybody's next, but is remembered for whoever wants it back.
    WhoWasGivenIt,
}

impl Kept {
    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until.deadline <= Instant::now())
    }

    fn outlasts(&self, other: &Self) -> bool {
        match (self.until, other.until) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(ours), Some(theirs)) => ours.deadline > theirs.deadline,
        }
    }

    fn forgotten(self) -> Option<Forgotten> {
        Some(Forgotten { id: self.record?, until: self.until?.time })
    }
}

impl Until {
    fn after(period: Duration) -> Self {
        Self { time: SystemTime::now() + period, deadline: Instant::now() + period }
    }
}

/// For how long an address is kept for somebody else; `None` for as long as this server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Barred(Option<Duration>);

impl fmt::Display for Barred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            // Rounded up: at that time it is free.
            Some(left) => write!(f, "kept for its former owner for another {} s", left.as_secs() + 1),
            None => f.write_str("kept for its owner"),
        }
    }
}

/// Addresses that an owner has given up and that go to no other one yet.
const MOST: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: Claim = Claim::Port(21000);
    const PERIOD: Duration = Duration::from_secs(600);

    fn owners() -> (Owner, Owner) {
        (Owner::new("alice"), Owner::new("bob"))
    }

    fn by_number() -> GivenUpBy {
        GivenUpBy::WhoAskedForIt { record: None }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_asked_for_and_given_up_is_kept_from_others_for_the_period() {
        let (alice, bob) = owners();
        let quarantine = Quarantine::new(PERIOD);
        assert_eq!(quarantine.bars(&bob, &PORT), None);
        quarantine.give_up(PORT, &alice, by_number());
        assert_eq!((quarantine.bars(&alice, &PORT), quarantine.is_kept_for(&alice, &PORT)), (None, true));
        let barred = quarantine.bars(&bob, &PORT).map(|barred| barred.to_string());
        assert_eq!(barred.as_deref(), Some("kept for its former owner for another 601 s"));
        assert!(!quarantine.is_kept_for(&bob, &PORT));

        tokio::time::advance(PERIOD).await;

        assert_eq!((quarantine.bars(&bob, &PORT), quarantine.is_kept_for(&alice, &PORT)), (None, false));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_given_may_be_anybodys_and_is_remembered() {
        let (alice, bob) = owners();
        let quarantine = Quarantine::new(PERIOD);
        quarantine.give_up(PORT, &alice, GivenUpBy::WhoWasGivenIt);
        assert_eq!((quarantine.bars(&bob, &PORT), quarantine.is_kept_for(&alice, &PORT)), (None, true));
        quarantine.settle(&PORT);
        assert!(!quarantine.is_kept_for(&alice, &PORT));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_period_nothing_is_kept() {
        let (alice, bob) = owners();
        let quarantine = Quarantine::new(Duration::ZERO);
        assert!(quarantine.give_up(PORT, &alice, by_number()).is_none());
        assert_eq!((quarantine.bars(&bob, &PORT), quarantine.is_kept_for(&alice, &PORT)), (None, false));
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_servers_promise_is_kept_but_not_for_longer_than_ours() {
        let (alice, bob) = owners();
        let quarantine = Quarantine::new(PERIOD);
        let (id, long) = ("t-1".parse().unwrap(), SystemTime::now() + 100 * PERIOD);
        assert!(!quarantine.keep(PORT, &alice, &id, SystemTime::now()));
        assert!(quarantine.keep(PORT, &alice, &id, long));
        assert!(quarantine.bars(&bob, &PORT).is_some());
        let (over, next) = quarantine.sweep();
        assert_eq!((over, next.is_some()), (Vec::new(), true));
        tokio::time::advance(PERIOD).await;
        assert_eq!(quarantine.sweep(), (vec![Forgotten { id, until: long }], None));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_without_end_keeps_a_few_and_what_is_held_is_not_among_them() {
        let (alice, bob) = owners();
        let quarantine = Quarantine::new(PERIOD);
        quarantine.hold(PORT, &alice);
        quarantine.give_up(Claim::Port(9), &bob, by_number());
        let ports: Vec<u16> = (1000..1000 + 3 * MOST as u16).collect();
        for (number, port) in ports.iter().enumerate() {
            tokio::time::advance(Duration::from_millis(10)).await;
            match number % 2 {
                0 => drop(quarantine.give_up(Claim::Port(*port), &alice, by_number())),
                _ => {
                    let until = SystemTime::now() + PERIOD;
                    assert!(quarantine.keep(Claim::Port(*port), &alice, &"t-1".parse().unwrap(), until));
                }
            }
        }
        let barred: Vec<u16> =
            ports.iter().copied().filter(|port| quarantine.bars(&bob, &Claim::Port(*port)).is_some()).collect();
        assert_eq!(barred, ports[2 * MOST..]);
        assert!(
            quarantine.is_kept_for(&alice, &Claim::Port(ports[0])),
            "where nobody has taken it, it may have it again"
        );
        assert!(quarantine.bars(&bob, &PORT).is_some() && quarantine.bars(&alice, &Claim::Port(9)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_tunnel_holds_that_is_only_away_has_no_end() {
        let (alice, bob) = owners();
        let quarantine = Quarantine::new(PERIOD);
        quarantine.hold(PORT, &alice);
        assert!(!quarantine.keep(PORT, &bob, &"t-1".parse().unwrap(), SystemTime::now() + PERIOD));
        tokio::time::advance(10 * PERIOD).await;
        assert_eq!(
            quarantine.bars(&bob, &PORT).map(|barred| barred.to_string()).as_deref(),
            Some("kept for its owner")
        );
        assert_eq!(quarantine.settle(&PORT), None);
        assert_eq!(quarantine.bars(&bob, &PORT), None);
    }
}
