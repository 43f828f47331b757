use std::{fmt, time::SystemTime};

use tracing_subscriber::{
    EnvFilter,
    fmt::{format::Writer, time::FormatTime},
};

use super::{args::Loudness, screen::Screen, units};

/// The log goes to stderr, around the status line. What was typed goes before what is in the environment.
pub(crate) fn start(screen: &Screen, loudness: Loudness) {
    let (filter, complaint) = match loudness {
        Loudness { verbose: true, .. } => (EnvFilter::new(VERBOSE), None),
        Loudness { quiet: true, .. } => (EnvFilter::new("warn"), None),
        _ => from_environment(),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(screen.clone())
        .with_ansi(screen.has_colours())
        .with_target(false)
        .with_timer(Seconds)
        .init();
    if let Some(complaint) = complaint {
        tracing::warn!("RUST_LOG is not understood and left out: {complaint}");
    }
}

/// RUST_LOG is every Rust program's, so a bad one is no reason not to run.
fn from_environment() -> (EnvFilter, Option<String>) {
    match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(wanted) if !wanted.is_empty() => match EnvFilter::try_new(&wanted) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new("info"), Some(error.to_string())),
        },
        _ => (EnvFilter::new("info"), None),
    }
}

/// Nobody reads the log of a tunnel by the microsecond.
struct Seconds;

impl FormatTime for Seconds {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        w.write_str(&units::seconds(SystemTime::now()))
    }
}

const VERBOSE: &str = "info,tunnel=debug,tunnel_agent=debug,tunnel_api=debug,tunnel_backends=debug";
