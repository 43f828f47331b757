use std::{any::Any, fmt, sync::Arc};

use futures_util::FutureExt;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::Instrument;

use crate::ports::PortLease;

/// Something that is held until this value is dropped: a port, a host name, the tasks that serve them.
///
/// Dropping it tells the tasks to end and lets go of the rest; [`release`](Self::release) also waits until they have, so
/// that what was held can be taken again at once.
#[must_use = "dropping a lease releases what it holds"]
pub struct Lease {
    serves: Option<(DropGuard, TaskTracker)>,
    holds: Vec<Box<dyn Any + Send + Sync>>,
}

impl Lease {
    /// Holds tasks that end when `stop` is cancelled, and `holds`.
    pub fn new(stop: CancellationToken, tasks: TaskTracker, holds: impl Any + Send + Sync) -> Self {
        Self { serves: Some((stop.drop_guard(), tasks)), ..Self::holding(holds) }
    }

    /// Holds this, and nothing that has to be told to end.
    pub fn holding(holds: impl Any + Send + Sync) -> Self {
        Self { serves: None, holds: vec![Box::new(holds)] }
    }

    /// Holds a port and the task that serves it, which ends when it is told to stop and may spawn others.
    pub(crate) fn serving<S>(port: PortLease, serve: impl FnOnce(CancellationToken, TaskTracker) -> S) -> Self
    where
        S: Future<Output = ()> + Send + 'static,
    {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let port = Arc::new(port);
        // As long as the task listens on it, the port stays held, even if the lease goes first.
        let listening = port.clone();
        let serving = serve(stop.clone(), tasks.clone());
        // (An async block would have room for the task's future twice.)
        tasks.spawn(serving.map(|()| drop(listening)).in_current_span());
        Self::new(stop, tasks, port)
    }

    /// Lets go, and returns when nothing is held any more.
    pub async fn release(mut self) {
        if let Some((stop, tasks)) = self.serves.take() {
            drop(stop);
            tasks.close();
            tasks.wait().await;
        }
        self.holds.clear();
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tasks = self.serves.as_ref().map_or(0, |(_, tasks)| tasks.len());
        f.debug_struct("Lease").field("tasks", &tasks).finish_non_exhaustive()
    }
}
