use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

/// What happens once to a tunnel, and to all of it. Those who wait for it have the token; to ask a token takes a lock that all who ask
/// share, so that whoever asks with each request reads a flag.
#[derive(Debug, Default)]
pub(super) struct Milestone {
    is_passed: AtomicBool,
    token: CancellationToken,
}

impl Milestone {
    pub(super) fn pass(&self) {
        self.is_passed.store(true, Ordering::Release);
        self.token.cancel();
    }

    pub(super) fn is_passed(&self) -> bool {
        self.is_passed.load(Ordering::Acquire)
    }

    pub(super) fn token(&self) -> &CancellationToken {
        &self.token
    }
}
