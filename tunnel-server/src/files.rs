//! Files that are read again when they change.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// A file whose changes are noticed. It is looked at and not subscribed to: a look a second costs nothing, and works on every
/// file system and through every way of replacing a file.
#[derive(Debug)]
pub(crate) struct Watched {
    path: PathBuf,
    seen: Option<Stamp>,
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
    inode: u64,
}

impl Watched {
    /// As it is now.
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), seen: stamp(path).ok() }
    }

    /// Whether it is another one than when it was last looked at. One that is gone is still the same: somebody may be about to
    /// put another one in its place.
    pub(crate) fn has_changed(&mut self) -> bool {
        let Ok(now) = stamp(&self.path) else { return false };
        let before = self.seen.replace(now);
        before != self.seen
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = fs::metadata(path)?;
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
    #[cfg(not(unix))]
    let inode = 0;
    Ok(Stamp { length: metadata.len(), modified: metadata.modified().ok(), inode })
}

/// How often files are looked at.
pub(crate) const LOOK: Duration = Duration::from_secs(1);
