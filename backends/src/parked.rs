//! Tunnels of an earlier server that cannot be here now: their port is somebody else's at the moment, or their backend is not
//! configured. Their records stay and their addresses are held for their owners, so that the next start may find them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tunnel_api::{Owner, TunnelName, TunnelRef};

use crate::registry::Record;

/// Bounded by what was open when the server was started.
#[derive(Debug, Default)]
pub(crate) struct Parked(Mutex<Vec<Record>>);

impl Parked {
    pub(crate) fn add(&self, record: Record) {
        self.lock().push(record);
    }

    pub(crate) fn by_name(&self, owner: &Owner, name: &TunnelName) -> Option<Record> {
        let is_it = |record: &&Record| record.owner == *owner && record.name.as_ref() == Some(name);
        self.lock().iter().find(is_it).cloned()
    }

    /// Whoever gets one has it alone.
    pub(crate) fn take(&self, owner: &Owner, tunnel: &TunnelRef) -> Option<Record> {
        let is_it = |record: &Record| match tunnel {
            TunnelRef::Id(id) => record.id() == id,
            TunnelRef::Name(name) => record.name.as_ref() == Some(name),
            // Nobody has dialled it since, and its ticket is not known here.
            TunnelRef::Uri(_) => false,
        };
        self.take_where(|record| record.owner == *owner && is_it(record)).pop()
    }

    pub(crate) fn take_where(&self, is_it: impl Fn(&Record) -> bool) -> Vec<Record> {
        self.lock().extract_if(.., |record| is_it(record)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Record>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
