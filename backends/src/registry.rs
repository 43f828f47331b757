//! What has to outlive the process: which tunnels are open, whose their addresses are, and the key of their tickets.
//!
//! [`Registry`] is what the rest of the crate sees of it. [`InMemory`] forgets it all; [`Directory`] keeps a small file for
//! each tunnel. One that several servers share would be a third.

mod directory;
mod record;

use std::{fmt, io, path::PathBuf, time::SystemTime};

use async_trait::async_trait;
use tunnel_api::TunnelId;

pub use directory::Directory;
pub(crate) use record::{AfterRestart, text};
pub use record::{DialIn, Record, RecordError};

use crate::tickets::Tickets;

/// Keeps the records of a server's tunnels.
///
/// **Who calls.** [`Tunnels`](crate::tunnels::Tunnels), for each tunnel at most one call at a time. Calls for different tunnels
/// come at once and need not wait for each other. They run in tasks of their own and are never dropped half way; the caller
/// stops waiting for them after some seconds.
///
/// **Errors** mean that nothing is known of what the call should have done. What is called again after one may find it done.
#[async_trait]
pub trait Registry: fmt::Debug + Send + Sync + 'static {
    /// Whether what is put here is there later. Where it is not, nothing is.
    fn keeps_records(&self) -> bool {
        true
    }

    /// What an earlier server left. Called once, before anything else.
    async fn load(&self) -> Result<Loaded, StateError>;

    /// Keeps this record, in place of an earlier one of the same tunnel. When it returns, a crash does not lose it (for those
    /// that are [not restored](Record::is_restored): a crash of this process does not).
    async fn put(&self, record: &Record) -> Result<(), StateError>;

    /// The tunnel is over. That there is no record of it is fine.
    async fn remove(&self, id: &TunnelId) -> Result<(), StateError>;

    /// The tunnel is over, and its address is kept for its owner until then: from now on its record says only that.
    async fn give_up(&self, id: &TunnelId, until: SystemTime) -> Result<(), StateError>;

    /// Its address need not be kept any longer. That there is nothing of it is fine.
    async fn forget(&self, id: &TunnelId, until: SystemTime) -> Result<(), StateError>;

    /// Lets another server have what is kept here. Whatever is called after this fails.
    async fn close(&self);
}

/// What an earlier server left.
#[derive(Debug)]
pub struct Loaded {
    /// With the key of its tickets, so that they are good for as long as their tunnels.
    pub tickets: Tickets,
    /// The tunnels that were open.
    pub tunnels: Vec<Record>,
    /// Addresses of tunnels that are over, which are kept for their owners.
    pub given_up: Vec<GivenUp>,
}

/// The address of a tunnel that is over.
#[derive(Debug)]
pub struct GivenUp {
    /// The tunnel.
    pub record: Record,
    /// Until when nobody else gets it.
    pub until: SystemTime,
}

/// Why the state cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Somebody else has it.
    #[error("{} is in use by another server; give each a state directory of its own", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The disk is full or read-only, a file is missing or not ours, there are no descriptors left.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done to it.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {why}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The server has stopped.
    #[error("the state is closed")]
    Closed,
    /// Whoever was to do it did not come to its end.
    #[error("gave up waiting for the state to be written")]
    TimedOut,
}

/// Keeps nothing: what is in this process's memory is all there is.
#[derive(Debug, Default)]
pub struct InMemory;

#[async_trait]
impl Registry for InMemory {
    fn keeps_records(&self) -> bool {
        false
    }

    async fn load(&self) -> Result<Loaded, StateError> {
        Ok(Loaded { tickets: Tickets::new(), tunnels: Vec::new(), given_up: Vec::new() })
    }

    async fn put(&self, _: &Record) -> Result<(), StateError> {
        Ok(())
    }

    async fn remove(&self, _: &TunnelId) -> Result<(), StateError> {
        Ok(())
    }

    async fn give_up(&self, _: &TunnelId, _: SystemTime) -> Result<(), StateError> {
        Ok(())
    }

    async fn forget(&self, _: &TunnelId, _: SystemTime) -> Result<(), StateError> {
        Ok(())
    }

    async fn close(&self) {}
}
