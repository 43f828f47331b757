//! The relay's promises: rule 1 of the design, a test a line.
//!
//! [`far_ends`] puts a relay between two TCP connections over loopback, so that the kernel's word counts; [`scripted`] makes
//! ends in memory that do as they are told, where time or every step matters.

mod aborts;
mod delivery;
mod far_ends;
mod last_words;
mod pace;
mod property;
mod scripted;
#[cfg(target_os = "linux")]
mod spliced;
#[cfg(unix)]
mod unix;
mod waits;

use std::{future::Future, panic, sync::mpsc, thread, time::Duration};

use tokio::runtime::Builder;

use super::{RelayTimes, Side};

/// For what must be true whichever side it happens to.
const BOTH: [Side; 2] = [Side::Client, Side::Agent];

/// So long that a test which came to wait for it would fail.
const PATIENT: RelayTimes = RelayTimes { half_closed: HOUR, unread: HOUR, linger: HOUR };
const HOUR: Duration = Duration::from_secs(3600);

impl Side {
    fn other(self) -> Self {
        match self {
            Side::Client => Side::Agent,
            Side::Agent => Side::Client,
        }
    }
}

/// Runs a test with real time and sockets.
fn limited(test: impl Future<Output = ()> + Send + 'static) {
    limited_on(Builder::new_current_thread().enable_all(), test);
}

/// Runs a test with several threads, so that the relay and its far ends truly run at the same time.
fn limited_in_parallel(test: impl Future<Output = ()> + Send + 'static) {
    limited_on(Builder::new_multi_thread().worker_threads(2).enable_all(), test);
}

/// Runs a test whose clock stands still and jumps to the next timer when nothing else is to do.
fn limited_with_paused_clock(test: impl Future<Output = ()> + Send + 'static) {
    limited_on(Builder::new_current_thread().enable_all().start_paused(true), test);
}

fn limited_on(runtime: &mut Builder, test: impl Future<Output = ()> + Send + 'static) {
    let runtime = runtime.build().expect("a runtime");
    within_limit(move || runtime.block_on(test));
}

/// The limit is a thread's, not a timer's: it also ends a test that spins or whose clock is paused.
fn within_limit(test: impl FnOnce() + Send + 'static) {
    let (ended, end) = mpsc::channel();
    thread::spawn(move || ended.send(panic::catch_unwind(panic::AssertUnwindSafe(test))));
    match end.recv_timeout(Duration::from_secs(60)) {
        Ok(Ok(())) => {}
        Ok(Err(failed)) => panic::resume_unwind(failed),
        Err(_) => panic!("the test has not ended within a minute"),
    }
}
