//! Where watches go out. Each takes a stream of its connection for as long as it lasts, and a server lets only so many be open on one
//! connection: with a tunnel watched on each, calls would wait for ever. So a few share the connection of the calls, and more get
//! connections of their own.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::line::Line;

/// The connections of a client, as far as watches go out on them.
#[derive(Clone)]
pub(super) struct Watches(Arc<Inner>);

struct Inner {
    calls: Place,
    others: Mutex<Vec<Place>>,
    more: Box<dyn Fn() -> Option<Line> + Send + Sync>,
}

#[derive(Clone)]
struct Place {
    line: Line,
    room: Arc<Semaphore>,
}

impl Place {
    fn new(line: Line) -> Self {
        Self { line, room: Arc::new(Semaphore::new(MOST)) }
    }

    fn take(&self) -> Option<(Line, OwnedSemaphorePermit)> {
        let permit = self.room.clone().try_acquire_owned().ok()?;
        Some((self.line.clone(), permit))
    }

    fn is_used(&self) -> bool {
        self.room.available_permits() < MOST
    }
}

impl Watches {
    /// Beside calls on this line, and on others that are made where that one is full; where none can be made, on this one.
    pub(super) fn new(calls: Line, more: impl Fn() -> Option<Line> + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner { calls: Place::new(calls), others: Mutex::default(), more: Box::new(more) }))
    }

    /// A line with room for one more watch, which is held by the permit if there is one.
    pub(super) fn place(&self) -> (Line, Option<OwnedSemaphorePermit>) {
        let inner = &*self.0;
        if let Some((line, permit)) = inner.calls.take() {
            return (line, Some(permit));
        }
        // Nothing panics while it is held.
        let mut others = inner.others.lock().unwrap_or_else(PoisonError::into_inner);
        // A connection on which nothing is watched any more is closed with this.
        others.retain(Place::is_used);
        if let Some((line, permit)) = others.iter().find_map(Place::take) {
            return (line, Some(permit));
        }
        let Some(line) = (inner.more)() else { return (inner.calls.line.clone(), None) };
        let place = Place::new(line.clone());
        let permit = place.take().map(|(_, permit)| permit);
        others.push(place);
        (line, permit)
    }
}

impl fmt::Debug for Watches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watches").finish_non_exhaustive()
    }
}

/// Watches on one connection: half of what servers usually allow, and ours does.
const MOST: usize = 50;
