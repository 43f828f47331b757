//! Hostile peers and crowds beside a good client whose latency is measured. One test at a time, in a target of their own: they take
//! all of the machine that they get, and other tests have limits of time. For longer:
//!
//! ```sh
//! FLOODS=60 CHURN=600 cargo test --release -p tunnel-tests --test load -- --nocapture
//! ```
#![allow(clippy::unwrap_used, reason = "all of this is tests, also what they share")]
#![allow(clippy::large_futures, reason = "a test that awaits much is one, once")]

use tokio::sync::{Mutex, MutexGuard};

mod churn;
mod crowds;
mod floods;
mod scans;
mod scarcity;

/// Whoever has it runs alone.
async fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// A server to be measured.
const SERVER: &str = env!("CARGO_BIN_EXE_tested-server");
