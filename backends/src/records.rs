//! What the tunnels of a server write into the registry, and when: before a tunnel is acknowledged, and when it is over.
//!
//! Whoever opens a tunnel may go away at any moment, and the disk may never answer. So what is written is written by tasks of
//! their own, in order for each tunnel, and those who wait for them wait for a limited time.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Mutex, oneshot},
    time::{sleep, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tunnel_api::{TunnelError, TunnelId};

use crate::{
    lease::Lease,
    quarantine::Forgotten,
    registry::{Record, Registry, StateError},
};

/// The registry and the tasks that write to it.
#[derive(Debug)]
pub(crate) struct Records {
    pub(crate) registry: Arc<dyn Registry>,
    tasks: TaskTracker,
    stop: CancellationToken,
    is_failing: AtomicBool,
}

/// The record of one tunnel.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    records: Arc<Records>,
    id: TunnelId,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was written yet.
    None,
    /// There may be something of it.
    Written,
    /// The tunnel is over: nothing is written any more.
    Over,
}

/// Why a record is not written.
pub(crate) enum Unwritten {
    /// The tunnel is over.
    Over,
    /// The registry does not work.
    Failed(TunnelError),
}

impl Records {
    pub(crate) fn new(registry: Arc<dyn Registry>) -> Arc<Self> {
        Arc::new(Self {
            registry,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            is_failing: AtomicBool::new(false),
        })
    }

    /// Whether there is any sense in writing.
    pub(crate) fn are_kept(&self) -> bool {
        self.registry.keeps_records()
    }

    /// The record of a tunnel that is being opened.
    pub(crate) fn of(self: &Arc<Self>, id: &TunnelId) -> Recorded {
        Recorded { records: self.clone(), id: id.clone(), state: Arc::new(Mutex::new(State::None)) }
    }

    /// The record of a tunnel that an earlier server has written.
    pub(crate) fn found(self: &Arc<Self>, id: &TunnelId) -> Recorded {
        Recorded { records: self.clone(), id: id.clone(), state: Arc::new(Mutex::new(State::Written)) }
    }

    /// Removes what is left of addresses that need not be kept any longer. What cannot be is removed by a later server.
    pub(crate) fn forget(self: &Arc<Self>, forgotten: Vec<Forgotten>) {
        if forgotten.is_empty() {
            return;
        }
        let records = self.clone();
        self.tasks.spawn(async move {
            for Forgotten { id, until } in forgotten {
                if let Err(error) = records.registry.forget(&id, until).await {
                    tracing::debug!(tunnel.id = %id, error = &error as &dyn Error, "record of a kept address not removed");
                }
            }
        });
    }

    /// Ends what [runs](Self::spawn), and that records are tried to be removed, when it is dropped.
    pub(crate) fn guard(&self) -> DropGuard {
        self.stop.clone().drop_guard()
    }

    /// Runs until this server ends.
    pub(crate) fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(task));
    }

    /// Writes what is being written, and lets another server have the registry.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        let closed = async {
            self.tasks.wait().await;
            self.registry.close().await;
        };
        if timeout(CLOSE, closed).await.is_err() {
            tracing::warn!("the state is still being written");
        }
    }

    /// Says once that the registry does not work, and once that it does again.
    fn note(&self, result: &Result<(), StateError>) {
        let fails = result.is_err();
        if self.is_failing.swap(fails, Ordering::Relaxed) == fails {
            return;
        }
        match result {
            Err(error) => tracing::error!(
                error = error as &dyn Error,
                "the state cannot be written: tunnels that would have to be recorded are refused; what is open goes on"
            ),
            Ok(()) => tracing::info!("the state can be written again"),
        }
    }
}

impl Recorded {
    /// Writes the record. If the caller goes away meanwhile, it is written nevertheless, and whoever [ends](Self::end) it
    /// comes after that.
    pub(crate) async fn write(&self, record: Record) -> Result<(), Unwritten> {
        if self.records.tasks.len() >= PENDING {
            self.records.note(&Err(StateError::TimedOut));
            return Err(Unwritten::Failed(unavailable()));
        }
        let written = timeout(WRITE, async {
            let mut state = self.state.clone().lock_owned().await;
            if *state == State::Over {
                return Err(Unwritten::Over);
            }
            let records = self.records.clone();
            let writing = self.records.tasks.spawn(async move {
                *state = State::Written;
                records.registry.put(&record).await
            });
            // It is never aborted, and if it panics nothing is known of the record.
            Ok(writing.await.unwrap_or(Err(StateError::Closed)))
        });
        let result = written.await.unwrap_or(Ok(Err(StateError::TimedOut)))?;
        self.records.note(&result);
        result.map_err(|_| Unwritten::Failed(unavailable()))
    }

    /// The tunnel is over. Its record is removed or, if its address is kept until some time, says only that. Returns when that
    /// has been done or has failed once; then it is tried on.
    pub(crate) async fn end(&self, kept_until: Option<SystemTime>) {
        let (told, first) = oneshot::channel();
        let this = self.clone();
        self.records.tasks.spawn(async move {
            let mut state = this.state.lock().await;
            if std::mem::replace(&mut *state, State::Over) == State::Written {
                this.remove(kept_until, told).await;
            }
        });
        if timeout(REMOVAL, first).await.is_err() {
            tracing::warn!(tunnel.id = %self.id, "the record of a tunnel that is over is still being removed");
        }
    }

    async fn remove(&self, kept_until: Option<SystemTime>, told: oneshot::Sender<()>) {
        let registry = &self.records.registry;
        let mut told = Some(told);
        loop {
            let removed = match kept_until {
                Some(until) => registry.give_up(&self.id, until).await,
                None => registry.remove(&self.id).await,
            };
            let Err(error) = removed else { return };
            // Whoever waits for it need not wait for the disk to be mended.
            if told.take().is_some() {
                tracing::warn!(
                    tunnel.id = %self.id,
                    error = &error as &dyn Error,
                    "the record of a tunnel that is over cannot be removed: a restart would bring it back; trying on"
                );
            }
            if self.records.stop.run_until_cancelled(sleep(RETRY)).await.is_none() {
                return;
            }
        }
    }
}

/// A tunnel that is being opened: unless it is finished, its record goes, and then what it holds. In this order, or the next
/// tunnel could have the same port while there is still a record of this one.
#[derive(Debug)]
pub(crate) struct Unfinished {
    recorded: Recorded,
    leases: Option<Vec<Lease>>,
}

impl Unfinished {
    pub(crate) fn new(recorded: Recorded, leases: Vec<Lease>) -> Self {
        Self { recorded, leases: Some(leases) }
    }

    /// It is on the table, and the keeper has what it holds.
    pub(crate) fn finish(mut self) -> Vec<Lease> {
        self.leases.take().unwrap_or_default()
    }

    /// Returns when nothing is left of it.
    pub(crate) async fn undo(mut self) {
        if let Some(undone) = self.start_to_undo() {
            // Whoever stops waiting for it does not stop it.
            let _ = undone.await;
        }
    }

    fn start_to_undo(&mut self) -> Option<oneshot::Receiver<()>> {
        let (leases, recorded) = (self.leases.take()?, self.recorded.clone());
        if recorded.state.try_lock().is_ok_and(|state| *state == State::None) {
            // Nothing was written, and nobody else can: what it holds goes at once.
            return None;
        }
        // Without a runtime there is nobody left to be acknowledged to, and nothing more to be done.
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        let (done, undone) = oneshot::channel();
        let undo = async move {
            recorded.end(None).await;
            for lease in leases {
                lease.release().await;
            }
            let _ = done.send(());
        };
        self.recorded.records.tasks.spawn_on(undo, &runtime);
        Some(undone)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        drop(self.start_to_undo());
    }
}

fn unavailable() -> TunnelError {
    TunnelError::Unavailable {
        why: "the server cannot write its state, so it could not keep the tunnel over a restart; \
              try again later, or have the operator look at its disk"
            .to_owned(),
        retry_after: Some(RETRY),
    }
}

/// For a record to be written. A disk that takes longer is as good as none.
const WRITE: Duration = Duration::from_secs(10);

/// Tasks that write or wait to. Those who stop waiting leave theirs behind, and a disk that never answers must not collect them
/// without end. Each is about 2 KiB.
const PENDING: usize = 10_000;

/// For one to be removed, before whoever closes the tunnel is told that it is.
const REMOVAL: Duration = Duration::from_secs(5);

/// Between attempts to remove one. They are as many as there were tunnels when the disk failed: until it works again none is
/// opened, and of one that is refused there is nothing to be removed.
const RETRY: Duration = Duration::from_secs(10);

/// For what is being written when the server ends.
const CLOSE: Duration = Duration::from_secs(5);
