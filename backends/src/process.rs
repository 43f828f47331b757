//! What a program's `main` needs of its process. Nothing else in the crates changes anything here: limits and signals
//! concern the whole process, and are its program's business.

use std::io;

/// Raises this process's soft limit on open files to its hard one. Each client costs two descriptors on either side of a
/// tunnel, and the usual soft limit of 1,024 is for programs that use select(2).
pub fn raise_descriptor_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "cannot raise the limit on open files");
        }
    }
}

/// How many files this process may have open; `None` for as many as it likes.
pub fn descriptor_limit() -> Option<usize> {
    #[cfg(unix)]
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    #[cfg(not(unix))]
    let limit = None::<u64>;
    limit.and_then(|limit| usize::try_from(limit).ok())
}

/// The signals that ask a program to stop: Ctrl-C and, where there is one, SIGTERM.
///
/// They are caught from the moment this is made. Make it before anybody can know that the program runs, or a signal that
/// comes early ends it without its goodbyes.
#[derive(Debug)]
pub struct StopSignals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl StopSignals {
    /// Catches them from now on. Needs a tokio runtime.
    pub fn catch() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Resolves when the next one comes.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
impl StopSignals {
    /// Catches them from the first call of `next` on.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {})
    }

    /// Resolves when the next one comes.
    pub async fn next(&mut self) {
        // If it cannot be caught, it ends the process by itself.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}

/// The signal that asks a program to read its config again: SIGHUP, where there is one. Caught from the moment this is made.
#[derive(Debug)]
pub struct ReloadSignals {
    #[cfg(unix)]
    hangup: tokio::signal::unix::Signal,
}

impl ReloadSignals {
    /// Catches them from now on. Needs a tokio runtime.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            hangup: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?,
        })
    }

    /// Resolves when the next one comes.
    pub async fn next(&mut self) {
        #[cfg(unix)]
        if self.hangup.recv().await.is_some() {
            return;
        }
        std::future::pending::<()>().await;
    }
}
