use std::time::{Duration, Instant};

/// How many dial-ins should wait: a few while it is quiet, more with each client that comes hard on the heels of another.
#[derive(Debug)]
pub(crate) struct Demand {
    most: usize,
    rush: usize,
    last: Option<Instant>,
}

impl Demand {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, rush: 0, last: None }
    }

    pub(crate) fn target(&self) -> usize {
        (QUIET + self.rush).min(self.most)
    }

    pub(crate) fn client_came(&mut self) {
        let now = Instant::now();
        let hard_on_its_heels = self.last.is_some_and(|last| now - last < HEELS);
        self.rush = if hard_on_its_heels { (self.rush + 1).min(self.most) } else { 0 };
        self.last = Some(now);
    }
}

/// A browser opens six connections at once.
const QUIET: usize = 8;

/// Clients that come within this of each other are a rush.
const HEELS: Duration = Duration::from_millis(100);
