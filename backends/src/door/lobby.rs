use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Extensions;
use ipnet::IpNet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    pace::{BULK, Earned},
    room::{Place, Room},
};
use crate::meters::Meters;

/// Where connections wait until one of their requests has been accepted, so that those which never get so far, silent or not,
/// cannot shut others out.
#[derive(Debug)]
pub(super) struct Lobby {
    room: Arc<Room>,
    meters: Arc<Meters>,
}

/// A connection's place; free again when this is dropped, or a request of the connection is accepted.
#[derive(Debug)]
pub(super) struct Seat {
    newcomer: Newcomer,
    evict: CancellationToken,
}

/// In the extensions of each request: its connection, as far as the door knows it. Whoever finds a request to be one of
/// somebody we serve says so here.
#[derive(Debug, Clone)]
pub struct Newcomer {
    arrived: Arc<Arrived>,
    /// Whether this request is a web client's.
    is_clients: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Arrived {
    place: Place,
    is_accepted: AtomicBool,
    /// Whether any of its requests was a web client's.
    is_client: AtomicBool,
    earned: Earned,
    kept: Mutex<Extensions>,
}

impl Lobby {
    pub(super) fn new(
        seats: usize,
        seats_per_source: usize,
        trusted_proxies: Arc<[IpNet]>,
        meters: Arc<Meters>,
    ) -> Self {
        Self { room: Room::new(seats, seats_per_source, trusted_proxies), meters }
    }

    /// Gives a seat to a connection from `ip`, if need be somebody else's.
    pub(super) fn enter(&self, ip: IpAddr) -> Seat {
        let evict = CancellationToken::new();
        let arrived = Arrived {
            place: self.room.enter(ip, evict.clone(), self.meters.waits_at_the_door()),
            is_accepted: AtomicBool::new(false),
            is_client: AtomicBool::new(false),
            earned: Earned::default(),
            kept: Mutex::default(),
        };
        Seat { newcomer: Newcomer { arrived: Arc::new(arrived), is_clients: Arc::default() }, evict }
    }
}

impl Seat {
    pub(super) fn newcomer(&self) -> &Newcomer {
        &self.newcomer
    }

    /// Whether somebody had to go for it.
    pub(super) fn was_anothers(&self) -> bool {
        self.newcomer.arrived.place.was_anothers()
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

/// Why a connection has to go that nobody has accepted.
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
        if !self.is_accepted() && self.arrived.place.leave() {
            self.arrived.is_accepted.store(true, Ordering::Relaxed);
        }
    }

    /// The same for the request of a tunnel's web client. What such a request has cost is given back when its answer has been
    /// sent to its end: what such a connection may ask of us is what it gets answered. And between its requests it stays as long
    /// as there is room for it.
    pub fn welcome(&self) {
        self.accept();
        self.is_clients.store(true, Ordering::Relaxed);
        self.arrived.is_client.store(true, Ordering::Relaxed);
    }

    /// An agent has taken so many bytes that came in one frame. A small one is given back, or a conversation in short messages
    /// would be read more and more slowly; an empty one was of use to nobody, and a long one has cost nothing.
    pub fn taken(&self, bytes: usize) {
        if bytes > 0 && bytes < BULK as usize {
            self.earn(1);
        }
    }

    /// So many frames of this connection's were of use.
    pub(super) fn earn(&self, frames: u32) {
        self.arrived.earned.add(frames);
    }

    /// What a handler keeps for its connection, one of a kind; it is dropped with it.
    pub fn keep<T: Clone + Default + Send + Sync + 'static>(&self) -> T {
        // Nothing panics while it is held.
        self.arrived.kept.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default::<T>().clone()
    }

    /// For another request of the same connection.
    pub(super) fn of_another_request(&self) -> Self {
        Self { arrived: self.arrived.clone(), is_clients: Arc::default() }
    }

    /// Whether this request is a web client's.
    pub(super) fn is_clients(&self) -> bool {
        self.is_clients.load(Ordering::Relaxed)
    }

    /// Whether any of its connection's was.
    pub(super) fn is_client(&self) -> bool {
        self.arrived.is_client.load(Ordering::Relaxed)
    }

    pub(super) fn is_accepted(&self) -> bool {
        self.arrived.is_accepted.load(Ordering::Relaxed)
    }

    pub(super) fn earned(&self) -> &Earned {
        &self.arrived.earned
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Requests may outlive it.
        self.newcomer.arrived.place.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lobby() -> Lobby {
        Lobby::new(10, 1, Arc::default(), Arc::default())
    }

    fn enter(lobby: &Lobby) -> Seat {
        lobby.enter("192.0.2.1".parse().unwrap())
    }

    #[test]
    fn whoever_is_accepted_is_not_evicted_and_takes_nobodys_seat() {
        let lobby = lobby();
        let accepted = enter(&lobby);
        accepted.newcomer().accept();
        let waiting = enter(&lobby);
        assert!(!accepted.evict.is_cancelled() && accepted.newcomer().is_accepted());
        drop(accepted);
        assert!(!waiting.evict.is_cancelled());
        let _third = enter(&lobby);
        assert!(waiting.evict.is_cancelled());
    }

    #[test]
    fn whoever_was_evicted_is_not_accepted() {
        let lobby = lobby();
        let first = enter(&lobby);
        let _second = enter(&lobby);
        first.newcomer().accept();
        assert!(first.evict.is_cancelled() && !first.newcomer().is_accepted());
    }

    #[test]
    fn a_seat_is_free_though_its_requests_are_still_there() {
        let lobby = lobby();
        let first = enter(&lobby);
        let _request = first.newcomer().of_another_request();
        drop(first);
        assert!(!enter(&lobby).was_anothers());
    }
}
