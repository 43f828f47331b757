//! The log of the program: to stderr, as text or JSON, and in nobody's way. For a program's `main`: a process has one log.

mod access;
mod queue;

use std::{
    io::{self, IsTerminal},
    sync::OnceLock,
    time::Duration,
};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use queue::Queue;

/// How to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    // No doc comments: they would be in the help text.
    #[allow(missing_docs, reason = "the names say it")]
    Text,
    #[allow(missing_docs, reason = "the names say it")]
    Json,
}

/// The log, from its start. Drop it last: then what was logged is written, if anybody takes it within two seconds.
#[derive(Debug)]
#[must_use = "what is logged just before the end is lost without it"]
pub struct Log(Queue);

/// From now on what this process logs goes to stderr; RUST_LOG says what. Whoever logs waits for nobody: where stderr is not
/// read in time, lines are lost, counted (`tunnel_log_lines_lost_total`), and the log says how many.
pub fn start(format: LogFormat) -> io::Result<Log> {
    let queue = Queue::start(io::stderr(), ROOM)?;
    // A second one would not be asked.
    let _ = QUEUE.set(queue.clone());
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(queue.clone());
    match format {
        LogFormat::Text => {
            let has_colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            log.with_ansi(has_colours).map_event_format(access::Readable).init();
        }
        // Fields are keys of the line itself: nobody has to know what an event is.
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(Log(queue))
}

impl Log {
    /// Writes a text for people between what is logged. It is never lost to those lines.
    pub fn say(&self, text: &str) {
        self.0.push_whatever_waits(text.as_bytes());
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.flush(AT_THE_END);
    }
}

/// How many lines were lost.
pub(crate) fn lost() -> u64 {
    QUEUE.get().map_or(0, Queue::lost)
}

/// Waits until what was logged is written, but no longer than `limit`.
pub(crate) fn flush(limit: Duration) {
    if let Some(queue) = QUEUE.get() {
        queue.flush(limit);
    }
}

static QUEUE: OnceLock<Queue> = OnceLock::new();

/// Bytes that may wait for whoever reads stderr: some 15,000 lines. As many may be on their way.
const ROOM: usize = 4 << 20;

/// A reader that lives takes all of it within this.
const AT_THE_END: Duration = Duration::from_secs(2);
