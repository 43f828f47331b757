use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tunnel_backends::relay::Progress;

/// What has been forwarded so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ForwardCounts {
    /// Clients that came, in all.
    pub clients: u64,
    /// Clients being served now.
    pub clients_now: u64,
    /// Clients that were reset because the local service could not be reached.
    pub turned_away: u64,
    /// Bytes from clients to the service. Those of clients being served are included.
    pub bytes_to_service: u64,
    /// Bytes from the service to clients.
    pub bytes_to_clients: u64,
}

/// Reads [`ForwardCounts`] while they grow. A clone reads the same ones.
#[derive(Debug, Clone, Default)]
pub struct ForwardMeter(Arc<Mutex<Clients>>);

impl ForwardMeter {
    /// How it stands now. It adds up the clients being served: for a display, not for every byte.
    pub fn read(&self) -> ForwardCounts {
        let clients = self.lock();
        let mut counts = clients.ended;
        counts.clients_now = clients.served.len() as u64;
        for progress in clients.served.values() {
            counts.bytes_to_service += progress.to_agent();
            counts.bytes_to_clients += progress.to_client();
        }
        counts
    }

    pub(super) fn client_came(&self) -> CountedClient {
        let mut clients = self.lock();
        clients.ended.clients += 1;
        let number = clients.ended.clients;
        let progress = Arc::<Progress>::default();
        clients.served.insert(number, progress.clone());
        CountedClient { number, progress, meter: self.clone() }
    }

    /// Nothing here panics, so what a poisoned lock holds is whole.
    fn lock(&self) -> MutexGuard<'_, Clients> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Clients {
    /// What those that are gone have added up to; `clients` has the others too.
    ended: ForwardCounts,
    /// Each with counters of its own: the relay counts in them without anybody else at their cache line.
    served: HashMap<u64, Arc<Progress>>,
}

/// One client, counted as being served until this is dropped.
pub(super) struct CountedClient {
    number: u64,
    progress: Arc<Progress>,
    meter: ForwardMeter,
}

impl CountedClient {
    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    pub(super) fn was_turned_away(self) {
        self.meter.lock().ended.turned_away += 1;
    }
}

impl Drop for CountedClient {
    fn drop(&mut self) {
        let mut clients = self.meter.lock();
        clients.served.remove(&self.number);
        clients.ended.bytes_to_service += self.progress.to_agent();
        clients.ended.bytes_to_clients += self.progress.to_client();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_counts_as_served_until_it_is_gone_and_as_one_that_came_for_ever() {
        let meter = ForwardMeter::default();
        let (first, second) = (meter.client_came(), meter.client_came());
        assert_eq!(meter.read(), ForwardCounts { clients: 2, clients_now: 2, ..ForwardCounts::default() });
        drop(first);
        assert_eq!(meter.read().clients_now, 1);
        second.was_turned_away();
        let all_gone = ForwardCounts { clients: 2, turned_away: 1, ..ForwardCounts::default() };
        assert_eq!(meter.read(), all_gone);
    }
}
