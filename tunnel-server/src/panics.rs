//! Panics are bugs of ours: they are counted, and logged as everything else is.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    panic::{self, PanicHookInfo},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::log;

/// From now on panics of this process are logged by `tracing` and counted, instead of printed. For a program's `main`: what
/// panics are told to concerns the whole process.
pub fn log_them() {
    panic::set_hook(Box::new(|panic| {
        COUNT.fetch_add(1, Ordering::Relaxed);
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        // RUST_BACKTRACE asks for it.
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        tracing::error!(
            place,
            reason = reason(panic),
            backtrace,
            "panic: a bug; what it was doing is cut off, the rest goes on"
        );
        // It may be the end of the process. (Where nobody reads the log, nobody waits for long.)
        log::flush(A_MOMENT);
    }));
}

/// How many there were.
pub(crate) fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

const A_MOMENT: Duration = Duration::from_millis(100);

static COUNT: AtomicU64 = AtomicU64::new(0);

/// What the source says it is. A message that was put together at run time may quote anything, such as the text that was cut in
/// the middle of a character: a user's, or a secret. The place says where to look.
fn reason(panic: &PanicHookInfo<'_>) -> &'static str {
    panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("(not told, as it may quote users' data)")
}
