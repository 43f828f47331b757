//! Tasks that answer requests, one after another. A new one for each request costs memory of a size that malloc is slow at, and a
//! place in the list, which all share, of who is to be cut off.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::stream::OfferedRequest;

/// Those who have nothing to do.
#[derive(Debug)]
pub(super) struct Hands {
    /// The last one is called first: the others may go cold. `None` when nobody is needed any more.
    idle: Mutex<Option<Vec<oneshot::Sender<OfferedRequest>>>>,
}

impl Default for Hands {
    fn default() -> Self {
        Self { idle: Mutex::new(Some(Vec::new())) }
    }
}

impl Hands {
    /// Gives it to one of them, or back where there is none.
    pub(super) fn give(&self, mut request: OfferedRequest) -> Result<(), OfferedRequest> {
        loop {
            let Some(hand) = self.lock().as_mut().and_then(Vec::pop) else { return Err(request) };
            match hand.send(request) {
                Ok(()) => return Ok(()),
                // It was cut off.
                Err(back) => request = back,
            }
        }
    }

    /// The next request, as soon as there is one for whoever asks; `None` where there are enough of them.
    pub(super) async fn next(&self) -> Option<OfferedRequest> {
        let given = {
            let mut idle = self.lock();
            let idle = idle.as_mut().filter(|idle| idle.len() < MOST)?;
            let (hand, given) = oneshot::channel();
            idle.push(hand);
            given
        };
        given.await.ok()
    }

    /// Sends all of them home.
    pub(super) fn dismiss(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<oneshot::Sender<OfferedRequest>>>> {
        // Nothing panics while it is held.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each is some two kilobytes.
const MOST: usize = 64;
