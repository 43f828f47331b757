//! What went through an uplink, and what goes through it now.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::Uplink;
use crate::{quotas::Permit, relay::Progress};

/// A running stream's entry in its uplink's totals; settled when this is dropped, however the stream went.
pub(super) struct Account {
    pub(super) uplink: Uplink,
    pub(super) number: u64,
    pub(super) progress: Arc<Progress>,
    _counted: Permit,
}

impl Account {
    /// A stream has begun.
    pub(super) fn begin(uplink: &Uplink, progress: Arc<Progress>, counted: Permit) -> Self {
        if uplink.0.terms.single_use {
            uplink.retire();
        }
        let number = uplink.0.totals.begin(progress.clone());
        Self { uplink: uplink.clone(), number, progress, _counted: counted }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.uplink.0.totals.settle(self.number);
    }
}

/// What went through an uplink in its life.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) streams: AtomicU64,
    pub(super) strangers: AtomicU64,
    /// Clients that the tunnel was not for, or that were too many.
    pub(super) refused: AtomicU64,
    /// Whether there was one that the tunnel was not for.
    pub(super) kept_out: AtomicBool,
    bytes: Mutex<Bytes>,
}

/// Bytes of the streams that have ended, and the streams that have not.
#[derive(Debug, Default)]
struct Bytes {
    to_agent: u64,
    to_client: u64,
    running: HashMap<u64, Arc<Progress>>,
}

impl Totals {
    fn begin(&self, progress: Arc<Progress>) -> u64 {
        let number = self.streams.fetch_add(1, Ordering::Relaxed) + 1;
        self.lock().running.insert(number, progress);
        number
    }

    fn settle(&self, number: u64) {
        let mut bytes = self.lock();
        if let Some(progress) = bytes.running.remove(&number) {
            bytes.to_agent += progress.to_agent();
            bytes.to_client += progress.to_client();
        }
    }

    /// Whoever waits for anything of a stream that runs looks whether its tunnel is there still.
    pub(super) fn wake_all(&self) {
        let running: Vec<_> = self.lock().running.values().cloned().collect();
        running.iter().for_each(|progress| progress.wake());
    }

    pub(super) fn bytes(&self) -> (u64, u64) {
        let bytes = self.lock();
        bytes.running.values().fold((bytes.to_agent, bytes.to_client), |(to_agent, to_client), progress| {
            (to_agent + progress.to_agent(), to_client + progress.to_client())
        })
    }

    fn lock(&self) -> MutexGuard<'_, Bytes> {
        // Nothing panics while it is held.
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
