//! Files that are read again when they change.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// Files whose changes are noticed. They are looked at and not subscribed to: a look a second costs nothing, and works on every
/// file system and through every way of replacing a file.
#[derive(Debug)]
pub struct Watched {
    files: Vec<(PathBuf, Option<Stamp>)>,
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
    inode: u64,
}

impl Watched {
    /// As they are now. Look before you read: what changes meanwhile is seen later.
    pub fn new<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Self {
        Self { files: paths.into_iter().map(|path| (path.to_owned(), stamp(path).ok())).collect() }
    }

    /// Whether one of them is another one than when they were last looked at. One that is gone is still the same: somebody may
    /// be about to put another one in its place.
    pub fn have_changed(&mut self) -> bool {
        let mut changed = false;
        for (path, seen) in &mut self.files {
            let now = stamp(path).ok();
            if now.is_some() && now != *seen {
                (*seen, changed) = (now, true);
            }
        }
        changed
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
pub const LOOK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_changed_or_replaced_is_noticed_once_and_one_that_is_gone_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (directory.path().join("one"), directory.path().join("other"));
        fs::write(&one, "1").unwrap();
        let mut watched = Watched::new([&*one, &*other]);
        let mut changes = |what: &str, change: &dyn Fn()| {
            change();
            (what.to_owned(), watched.have_changed(), watched.have_changed())
        };
        let noticed = [
            changes("nothing", &|| {}),
            changes("another content", &|| fs::write(&one, "22").unwrap()),
            changes("a new file", &|| fs::write(&other, "x").unwrap()),
            changes("gone", &|| fs::remove_file(&other).unwrap()),
            changes("another one in its place", &|| {
                fs::write(directory.path().join("new"), "33").unwrap();
                fs::rename(directory.path().join("new"), &one).unwrap();
            }),
        ];
        let noticed: Vec<_> = noticed.iter().map(|(what, first, again)| (&**what, *first, *again)).collect();
        let expected = [
            ("nothing", false, false),
            ("another content", true, false),
            ("a new file", true, false),
            ("gone", false, false),
            ("another one in its place", true, false),
        ];
        assert_eq!(noticed, expected);
    }
}
