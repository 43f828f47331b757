use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Extensions;
use ipnet::IpNet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::pace::Earned;
use crate::{
    meters::{Meters, Waits},
    sockets,
};

/// Where connections wait until one of their requests has been accepted. It is never full for a newcomer: at a limit the one
/// that has waited longest goes, so that those which never get so far, silent or not, cannot shut others out.
#[derive(Debug)]
pub(super) struct Lobby {
    seats: usize,
    seats_per_source: usize,
    trusted_proxies: Arc<[IpNet]>,
    meters: Arc<Meters>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    evict: BTreeMap<u64, (CancellationToken, Waits)>,
    /// Who waits from where, longest first.
    sources: HashMap<Source, VecDeque<u64>>,
}

/// Where a connection comes from, as far as one party can be told from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    Party(IpNet),
    /// A proxy, or this host: any number of parties.
    Many,
}

/// A connection's place; free again when this is dropped, or a request of the connection is accepted.
#[derive(Debug)]
pub(super) struct Seat {
    newcomer: Newcomer,
    was_anothers: bool,
    evict: CancellationToken,
}

/// In the extensions of each request: its connection, as far as the lobby knows it. Whoever finds a request to be one of
/// somebody we serve says so here.
#[derive(Debug, Clone)]
pub struct Newcomer(Arc<Arrived>);

#[derive(Debug)]
struct Arrived {
    lobby: Arc<Lobby>,
    number: u64,
    source: Source,
    is_accepted: AtomicBool,
    earned: Earned,
    kept: Mutex<Extensions>,
}

impl Lobby {
    pub(super) fn new(
        seats: usize,
        seats_per_source: usize,
        trusted_proxies: Arc<[IpNet]>,
        meters: Arc<Meters>,
    ) -> Arc<Self> {
        Arc::new(Self { seats, seats_per_source, trusted_proxies, meters, waiting: Mutex::default() })
    }

    /// Gives a seat to a connection from `ip`, if need be somebody else's.
    pub(super) fn enter(self: &Arc<Self>, ip: IpAddr) -> Seat {
        let source = self.source(ip);
        let mut waiting = self.lock();
        let from_there = waiting.sources.get(&source).map_or(0, VecDeque::len);
        let source_is_full = source != Source::Many && from_there >= self.seats_per_source;
        let is_full = waiting.evict.len() >= self.seats;
        if source_is_full {
            waiting.evict_oldest_of(source);
        } else if is_full {
            waiting.evict_oldest_of_most();
        }
        let number = waiting.next;
        waiting.next += 1;
        let evict = CancellationToken::new();
        waiting.evict.insert(number, (evict.clone(), self.meters.waits_at_the_door()));
        waiting.sources.entry(source).or_default().push_back(number);
        let arrived = Arrived {
            lobby: self.clone(),
            number,
            source,
            is_accepted: AtomicBool::new(false),
            earned: Earned::default(),
            kept: Mutex::default(),
        };
        Seat { newcomer: Newcomer(Arc::new(arrived)), was_anothers: source_is_full || is_full, evict }
    }

    fn source(&self, ip: IpAddr) -> Source {
        let ip = ip.to_canonical();
        if ip.is_loopback() || self.trusted_proxies.iter().any(|proxies| proxies.contains(&ip)) {
            return Source::Many;
        }
        Source::Party(sockets::network_of(ip))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn evict_oldest_of(&mut self, source: Source) {
        let oldest = self.sources.get(&source).and_then(VecDeque::front).copied();
        if let Some(evict) = oldest.and_then(|number| self.leave(number, source)) {
            evict.cancel();
        }
    }

    fn evict_oldest_of_most(&mut self) {
        if let Some((source, _)) = self.sources.iter().max_by_key(|(_, numbers)| numbers.len()) {
            self.evict_oldest_of(*source);
        }
    }

    /// Gives what would have told whoever had the seat that it is somebody else's, if it still had it.
    fn leave(&mut self, number: u64, source: Source) -> Option<CancellationToken> {
        if let Some(numbers) = self.sources.get_mut(&source) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.sources.remove(&source);
            }
        }
        self.evict.remove(&number).map(|(evict, _)| evict)
    }
}

impl Seat {
    pub(super) fn newcomer(&self) -> &Newcomer {
        &self.newcomer
    }

    /// Whether somebody had to go for it.
    pub(super) fn was_anothers(&self) -> bool {
        self.was_anothers
    }

    /// Resolves when the seat has been given to somebody else.
    pub(super) async fn evicted(&self) {
        self.evict.cancelled().await;
    }

    /// Resolves when its connection has been accepted by nobody for so long, or the seat has been given to somebody else.
    pub(super) async fn outstayed(&self, longest: Duration) -> Outstayed {
        tokio::select! {
            () = self.evicted() => return Outstayed::Evicted,
            () = sleep(longest) => {}
        }
        if self.newcomer.is_accepted() {
            // Whoever is accepted has no seat that could be wanted.
            std::future::pending::<()>().await;
        }
        Outstayed::Idle
    }
}

/// Why a connection has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outstayed {
    /// It came to nothing in its time.
    Idle,
    /// Somebody else has its seat.
    Evicted,
}

impl Newcomer {
    /// A request of this connection is one of somebody we serve. It waits no longer, and may stay.
    pub fn accept(&self) {
        let arrived = &*self.0;
        if !self.is_accepted() && arrived.lobby.lock().leave(arrived.number, arrived.source).is_some() {
            arrived.is_accepted.store(true, Ordering::Relaxed);
        }
    }

    /// The same for a request of a tunnel's web client. What its connection may ask of us is what it has been answered: the answer
    /// to this request gives back what the request has cost, once it is sent to its end, and nothing has to be done for that.
    pub fn welcome(&self) {
        self.accept();
    }

    /// So many frames of this connection's were of use: such as one for each message, however small, that an agent has taken.
    /// They are given back, or a busy connection would be read more and more slowly.
    pub fn earn(&self, frames: u32) {
        self.0.earned.add(frames);
    }

    /// What a handler keeps for its connection, one of a kind; it is dropped with it.
    pub fn keep<T: Clone + Default + Send + Sync + 'static>(&self) -> T {
        // Nothing panics while it is held.
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default::<T>().clone()
    }

    pub(super) fn earned(&self) -> &Earned {
        &self.0.earned
    }

    pub(super) fn is_accepted(&self) -> bool {
        self.0.is_accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Arrived { lobby, number, source, .. } = &*self.newcomer.0;
        lobby.lock().leave(*number, *source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_oldest_of_a_source_makes_room_for_its_newest() {
        let lobby = Lobby::new(10, 2, Arc::default(), Arc::default());
        let seats: Vec<_> = (0..3).map(|_| lobby.enter(ip("192.0.2.1"))).collect();
        let other = lobby.enter(ip("192.0.2.2"));
        let evicted: Vec<_> = seats.iter().map(|seat| seat.evict.is_cancelled()).collect();
        assert_eq!(evicted, [true, false, false]);
        assert!(!other.evict.is_cancelled());
    }

    #[test]
    fn a_full_lobby_takes_the_seat_from_whoever_has_the_most() {
        let lobby = Lobby::new(3, 3, Arc::default(), Arc::default());
        let modest = lobby.enter(ip("192.0.2.1"));
        let greedy = [lobby.enter(ip("192.0.2.2")), lobby.enter(ip("192.0.2.2"))];
        let _newcomer = lobby.enter(ip("192.0.2.3"));
        assert!(!modest.evict.is_cancelled());
        assert!(greedy[0].evict.is_cancelled());
    }

    #[test]
    fn proxies_and_this_host_are_many_parties() {
        let lobby = Lobby::new(10, 1, ["198.51.100.0/24".parse().unwrap()].into(), Arc::default());
        for proxy in ["127.0.0.1", "::1", "198.51.100.7", "::ffff:198.51.100.7"] {
            let seats = [lobby.enter(ip(proxy)), lobby.enter(ip(proxy))];
            assert!(!seats[0].evict.is_cancelled(), "{proxy}");
        }
    }

    #[test]
    fn a_v6_network_is_one_source() {
        let lobby = Lobby::new(10, 1, Arc::default(), Arc::default());
        let first = lobby.enter(ip("2001:db8::1"));
        let _second = lobby.enter(ip("2001:db8::2"));
        assert!(first.evict.is_cancelled());
    }

    #[test]
    fn whoever_is_accepted_is_not_evicted_and_takes_nobodys_seat() {
        let lobby = Lobby::new(10, 1, Arc::default(), Arc::default());
        let accepted = lobby.enter(ip("192.0.2.1"));
        accepted.newcomer().accept();
        let waiting = lobby.enter(ip("192.0.2.1"));
        assert!(!accepted.evict.is_cancelled() && accepted.newcomer().is_accepted());
        drop(accepted);
        assert!(!waiting.evict.is_cancelled() && lobby.lock().evict.len() == 1);
    }

    #[test]
    fn whoever_was_evicted_is_not_accepted() {
        let lobby = Lobby::new(10, 1, Arc::default(), Arc::default());
        let first = lobby.enter(ip("192.0.2.1"));
        let _second = lobby.enter(ip("192.0.2.1"));
        first.newcomer().accept();
        assert!(first.evict.is_cancelled() && !first.newcomer().is_accepted());
    }

    #[test]
    fn nothing_is_left_when_all_have_gone() {
        let lobby = Lobby::new(2, 1, Arc::default(), Arc::default());
        drop((0..5).map(|n| lobby.enter(ip(&format!("192.0.2.{}", n % 3)))).collect::<Vec<_>>());
        let waiting = lobby.lock();
        assert!(waiting.evict.is_empty() && waiting.sources.is_empty());
    }
}
