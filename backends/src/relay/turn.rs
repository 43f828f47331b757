//! Whoever moves much takes turns with the other threads of the machine. A thread that moves bulk within the kernel hardly ever waits, so that
//! on a busy machine whoever has only a byte to pass on, here or in the process after us, would wait for a whole slice of the
//! scheduler's, a few milliseconds at each hop.

use std::{sync::OnceLock, thread};

use tokio::runtime::Handle;

use super::pipe::Pipe;

/// What a stream has moved since it last gave way.
#[derive(Default)]
pub(super) struct BulkTurn {
    moved: usize,
}

impl BulkTurn {
    /// So much was moved; gives way when it is enough. Not where every worker of ours moves bulk: then it is our own streams that would
    /// wait for the thread to come back.
    pub(super) fn add(&mut self, moved: usize) {
        self.moved += moved;
        if self.moved >= TURN {
            self.moved = 0;
            if Pipe::in_use() < workers() {
                thread::yield_now();
            }
        }
    }
}

fn workers() -> usize {
    static WORKERS: OnceLock<usize> = OnceLock::new();
    *WORKERS.get_or_init(|| Handle::try_current().map_or(0, |runtime| runtime.metrics().num_workers()))
}

/// In bytes: some 100 us of work.
const TURN: usize = 512 * 1024;
