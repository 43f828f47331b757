//! Files that hold secrets or are replaced while others read them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Puts a file in the place of the one that is there, whole or not at all. Whoever could read that one can read this one, or else
/// a server that runs as another user would be left with what was before; where there was none, only its owner can.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = directory_of(path);
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let temporary = directory.join(format!(".{}.{:08x}", name.to_string_lossy(), rand::random::<u32>()));
    let written = create(&temporary, content)
        .and_then(|()| give_access_as(path, &temporary))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // What is not there need not be removed.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    File::open(directory)?.sync_all()
}

/// Makes a file that must not be there yet. Only its owner can read it.
pub fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// The owner, the group and the mode of the other file, if there is one.
#[cfg(unix)]
fn give_access_as(other: &Path, path: &Path) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, chown};
    let access = match fs::metadata(other) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        about => about?,
    };
    let ours = fs::metadata(path)?;
    if (access.uid(), access.gid()) != (ours.uid(), ours.gid()) {
        chown(path, Some(access.uid()), Some(access.gid()))?;
    }
    fs::set_permissions(path, access.permissions())
}

#[cfg(not(unix))]
fn give_access_as(_other: &Path, _path: &Path) -> io::Result<()> {
    Ok(())
}

/// Makes a directory, if there is none, that only its owner can look into.
pub fn create_directory(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Keeps others who change files there out, until it is dropped.
pub fn lock_directory_of(path: &Path) -> io::Result<File> {
    let directory = File::open(directory_of(path))?;
    #[cfg(unix)]
    rustix::fs::flock(&directory, rustix::fs::FlockOperation::LockExclusive)?;
    Ok(directory)
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

    use super::*;

    #[test]
    fn a_file_that_is_replaced_is_read_by_whoever_could_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials.toml");
        replace(&path, b"one").unwrap();
        let access = |path: &Path| {
            let about = fs::metadata(path).unwrap();
            (about.mode() & 0o777, about.uid(), about.gid())
        };
        assert_eq!(access(&path).0, 0o600);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        // Only root can: it is the one that may change a server's file and is not the server.
        let _ = chown(&path, Some(65534), Some(65534));
        let before = access(&path);
        replace(&path, b"two").unwrap();
        assert_eq!((access(&path), fs::read(&path).unwrap()), (before, b"two".to_vec()));
    }
}
