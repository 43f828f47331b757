use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use crate::{meters::Waits, sockets};

/// Places for connections: so many in all, and so many for one source. It is never full for whoever comes: at a limit the one that
/// has been there longest goes, of that source or of the source that has the most, so that nobody can shut others out.
#[derive(Debug)]
pub(super) struct Room {
    places: usize,
    places_per_source: usize,
    trusted_proxies: Arc<[IpNet]>,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    /// How each is told to go.
    evict: BTreeMap<u64, (CancellationToken, Waits)>,
    /// Who is there from where, longest first.
    sources: HashMap<Source, BTreeSet<u64>>,
}

/// Where a connection comes from, as far as one party can be told from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    Party(IpNet),
    /// A proxy, or this host: any number of parties.
    Many,
}

/// A connection's place; free again when this is dropped, if it was not before.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Room>,
    number: u64,
    source: Source,
    was_anothers: bool,
}

impl Room {
    pub(super) fn new(places: usize, places_per_source: usize, trusted_proxies: Arc<[IpNet]>) -> Arc<Self> {
        Arc::new(Self { places, places_per_source, trusted_proxies, taken: Mutex::default() })
    }

    /// Gives a place to a connection from `ip`, if need be somebody else's, which is told by its `evict`.
    pub(super) fn enter(self: &Arc<Self>, ip: IpAddr, evict: CancellationToken, counted: Waits) -> Place {
        let source = self.source(ip);
        let mut taken = self.lock();
        let from_there = taken.sources.get(&source).map_or(0, BTreeSet::len);
        let source_is_full = source != Source::Many && from_there >= self.places_per_source;
        let is_full = taken.evict.len() >= self.places;
        if source_is_full {
            taken.evict_oldest_of(source);
        } else if is_full {
            taken.evict_oldest_of_most();
        }
        let number = taken.next;
        taken.next += 1;
        taken.evict.insert(number, (evict, counted));
        taken.sources.entry(source).or_default().insert(number);
        Place { room: self.clone(), number, source, was_anothers: source_is_full || is_full }
    }

    fn source(&self, ip: IpAddr) -> Source {
        let ip = ip.to_canonical();
        if ip.is_loopback() || self.trusted_proxies.iter().any(|proxies| proxies.contains(&ip)) {
            return Source::Many;
        }
        Source::Party(sockets::network_of(ip))
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Nothing panics while it is held.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn evict_oldest_of(&mut self, source: Source) {
        let oldest = self.sources.get(&source).and_then(BTreeSet::first).copied();
        if let Some(evict) = oldest.and_then(|number| self.leave(number, source)) {
            evict.cancel();
        }
    }

    fn evict_oldest_of_most(&mut self) {
        if let Some((source, _)) = self.sources.iter().max_by_key(|(_, numbers)| numbers.len()) {
            self.evict_oldest_of(*source);
        }
    }

    /// Gives what would have told whoever had the place that it is somebody else's, if it still had it.
    fn leave(&mut self, number: u64, source: Source) -> Option<CancellationToken> {
        if let Some(numbers) = self.sources.get_mut(&source) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.sources.remove(&source);
            }
        }
        self.evict.remove(&number).map(|(evict, _)| evict)
    }
}

impl Place {
    /// Whether somebody had to go for it.
    pub(super) fn was_anothers(&self) -> bool {
        self.was_anothers
    }

    /// Gives it up, and says whether it was still its own.
    pub(super) fn leave(&self) -> bool {
        self.room.lock().leave(self.number, self.source).is_some()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meters::Meters;

    struct Guest {
        place: Place,
        evict: CancellationToken,
    }

    fn enter(room: &Arc<Room>, ip: &str) -> Guest {
        let evict = CancellationToken::new();
        let counted = Meters::default().waits_at_the_door();
        Guest { place: room.enter(ip.parse().unwrap(), evict.clone(), counted), evict }
    }

    #[test]
    fn the_oldest_of_a_source_makes_room_for_its_newest() {
        let room = Room::new(10, 2, Arc::default());
        let guests: Vec<_> = (0..3).map(|_| enter(&room, "192.0.2.1")).collect();
        let other = enter(&room, "192.0.2.2");
        let evicted: Vec<_> = guests.iter().map(|guest| guest.evict.is_cancelled()).collect();
        assert_eq!(evicted, [true, false, false]);
        assert!(guests[2].place.was_anothers() && !other.evict.is_cancelled());
    }

    #[test]
    fn a_full_room_takes_the_place_from_whoever_has_the_most() {
        let room = Room::new(3, 3, Arc::default());
        let modest = enter(&room, "192.0.2.1");
        let greedy = [enter(&room, "192.0.2.2"), enter(&room, "192.0.2.2")];
        let _newcomer = enter(&room, "192.0.2.3");
        assert!(!modest.evict.is_cancelled());
        assert!(greedy[0].evict.is_cancelled());
    }

    #[test]
    fn proxies_and_this_host_are_many_parties() {
        let room = Room::new(10, 1, ["198.51.100.0/24".parse().unwrap()].into());
        for proxy in ["127.0.0.1", "::1", "198.51.100.7", "::ffff:198.51.100.7"] {
            let guests = [enter(&room, proxy), enter(&room, proxy)];
            assert!(!guests[0].evict.is_cancelled(), "{proxy}");
        }
    }

    #[test]
    fn a_v6_network_is_one_source() {
        let room = Room::new(10, 1, Arc::default());
        let first = enter(&room, "2001:db8::1");
        let _second = enter(&room, "2001:db8::2");
        assert!(first.evict.is_cancelled());
    }

    #[test]
    fn nothing_is_left_when_all_have_gone() {
        let room = Room::new(2, 1, Arc::default());
        drop((0..5).map(|n| enter(&room, &format!("192.0.2.{}", n % 3))).collect::<Vec<_>>());
        let taken = room.lock();
        assert!(taken.evict.is_empty() && taken.sources.is_empty());
    }
}
