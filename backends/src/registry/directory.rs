//! State in a directory: a small file for each tunnel.
//!
//! ```text
//! lock                            held (flock) by the server that uses the directory
//! key                             32 bytes, the key of the tickets
//! tunnels/<id>.json               a tunnel that is open
//! tunnels/.<id>.json              one that is being written; left by a crash, and of no use
//! given-up/<id>.<seconds>.json    a tunnel that is over, whose address is kept until then (seconds since 1970)
//! ```
//!
//! A record is written under another name and renamed, so that there is never half of one. A tunnel that ends is unlinked or
//! renamed, which needs no room on the disk. Whoever copies the files one after the other (`cp -a`) has a backup: no file
//! depends on another one but on the key, which does not change.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use tokio::{sync::Semaphore, task::spawn_blocking};
use tunnel_api::TunnelId;

use super::{GivenUp, Loaded, Record, Registry, StateError};
use crate::tickets::Tickets;

/// State in a directory that is this server's alone until it is closed or dropped.
#[derive(Debug)]
pub struct Directory {
    files: Arc<Files>,
    /// For what waits for the disk.
    turns: Arc<Semaphore>,
}

/// The files, and what is done to them by threads that may wait for the disk.
#[derive(Debug)]
struct Files {
    root: PathBuf,
    tunnels: PathBuf,
    given_up: PathBuf,
    lock: Mutex<Option<File>>,
}

impl Directory {
    /// Takes this directory, which is made if there is none.
    pub async fn open(path: &Path) -> Result<Self, StateError> {
        let path = path.to_owned();
        let files = spawn_blocking(move || Files::open(path)).await.map_err(|_| StateError::Closed)??;
        Ok(Self { files: Arc::new(files), turns: Arc::new(Semaphore::new(AT_ONCE)) })
    }

    /// What many do at once the file system writes out together, so they do not wait for each other.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| StateError::Closed)?;
        let files = self.files.clone();
        let done = spawn_blocking(move || {
            let _turn = turn;
            work(&files)
        });
        done.await.map_err(|_| StateError::Closed)?
    }
}

#[async_trait]
impl Registry for Directory {
    async fn load(&self) -> Result<Loaded, StateError> {
        self.run(Files::load).await
    }

    async fn put(&self, record: &Record) -> Result<(), StateError> {
        let (name, sync) = (file_name(record.id())?, record.is_restored());
        let json = record.to_json().map_err(|error| malformed(Path::new(&name), error.to_string()))?;
        self.run(move |files| files.write(&files.tunnels, &name, &json, sync)).await
    }

    async fn remove(&self, id: &TunnelId) -> Result<(), StateError> {
        let name = file_name(id)?;
        self.run(move |files| if unlink(&files.tunnels.join(name))? { sync_dir(&files.tunnels) } else { Ok(()) }).await
    }

    async fn give_up(&self, id: &TunnelId, until: SystemTime) -> Result<(), StateError> {
        let (from, to) = (file_name(id)?, given_up_name(id, until)?);
        self.run(move |files| files.move_away(&files.tunnels.join(from), &files.given_up.join(to))).await
    }

    async fn forget(&self, id: &TunnelId, until: SystemTime) -> Result<(), StateError> {
        let name = given_up_name(id, until)?;
        self.run(move |files| unlink(&files.given_up.join(name)).map(|_| ())).await
    }

    async fn close(&self) {
        // Nobody gets a turn any more, and who has one ends.
        let running = self.turns.acquire_many(AT_ONCE as u32).await;
        self.turns.close();
        drop(running);
        self.files.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Files {
    fn open(root: PathBuf) -> Result<Self, StateError> {
        make_dir(&root)?;
        let lock = lock(&root)?;
        let (tunnels, given_up) = (root.join("tunnels"), root.join("given-up"));
        make_dir(&tunnels)?;
        make_dir(&given_up)?;
        Ok(Self { root, tunnels, given_up, lock: Mutex::new(Some(lock)) })
    }

    fn load(&self) -> Result<Loaded, StateError> {
        let mut tunnels = Vec::new();
        for path in files_in(&self.tunnels)? {
            let record = read_record(&path)?;
            let name = file_name(record.id())?;
            if path.file_name() != Some(OsStr::new(&name)) {
                return Err(malformed(&path, "it is the record of another tunnel; move it away"));
            }
            tunnels.push(record);
        }
        let mut given_up = Vec::new();
        for path in files_in(&self.given_up)? {
            let until =
                until_of(&path).ok_or_else(|| malformed(&path, "its name does not say until when; move it away"))?;
            given_up.push(GivenUp { record: read_record(&path)?, until });
        }
        let key = self.key(tunnels.is_empty())?;
        Ok(Loaded { tickets: Tickets::with_key(key), tunnels, given_up })
    }

    /// The key of the tickets; a new one in a directory that is new.
    fn key(&self, is_new: bool) -> Result<[u8; 32], StateError> {
        let path = self.root.join("key");
        match fs::read(&path) {
            Ok(bytes) => {
                warn_if_others_may_read(&path);
                let wrong = |_| malformed(&path, "a key is 32 bytes long; put back the one that was here");
                bytes.as_slice().try_into().map_err(wrong)
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("read", &path)(error)),
            Err(_) if !is_new => Err(malformed(
                &path,
                "it is missing, and without it no agent gets to the tunnels that are recorded here; \
                                      put it back, or move the directory away",
            )),
            Err(_) => {
                let key: [u8; 32] = rand::random();
                self.write(&self.root, "key", &key, true)?;
                Ok(key)
            }
        }
    }

    /// All of it or nothing. `sync`: and even if the machine crashes afterwards.
    fn write(&self, dir: &Path, name: &str, content: &[u8], sync: bool) -> Result<(), StateError> {
        let (draft, path) = (dir.join(format!(".{name}")), dir.join(name));
        let written = write_new(&draft, content, sync).and_then(|()| fs::rename(&draft, &path));
        written.map_err(|error| {
            let _ = fs::remove_file(&draft);
            failed("write", &path)(error)
        })?;
        if sync { sync_dir(dir) } else { Ok(()) }
    }

    /// If that cannot be, it is removed: better an address that is free too early than a tunnel that comes back.
    fn move_away(&self, from: &Path, to: &Path) -> Result<(), StateError> {
        match fs::rename(from, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(_) => unlink(from).map(|_| ()),
            Ok(()) => sync_dir(&self.given_up),
        }?;
        sync_dir(&self.tunnels)
    }
}

/// Files that a crash left half written are removed.
fn files_in(dir: &Path) -> Result<Vec<PathBuf>, StateError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed("read", dir))? {
        let path = entry.map_err(failed("read", dir))?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
            if let Err(error) = unlink(&path) {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "a file that was being written when the server ended stays there");
            }
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

fn read_record(path: &Path) -> Result<Record, StateError> {
    let mut json = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_RECORD).read_to_end(&mut json)).map_err(failed("read", path))?;
    Record::from_json(&json).map_err(|error| malformed(path, error.to_string()))
}

/// Our ids are fine names for files.
fn file_name(id: &TunnelId) -> Result<String, StateError> {
    let id = id.as_str();
    if id.contains('/') || id.starts_with('.') {
        return Err(malformed(Path::new(id), "such an id makes no name for a file"));
    }
    Ok(format!("{id}.json"))
}

fn given_up_name(id: &TunnelId, until: SystemTime) -> Result<String, StateError> {
    file_name(id)?;
    let seconds = until.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Ok(format!("{id}.{seconds}.json"))
}

fn until_of(path: &Path) -> Option<SystemTime> {
    let (_, seconds) = path.file_name()?.to_str()?.strip_suffix(".json")?.rsplit_once('.')?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds.parse().ok()?))
}

fn lock(root: &Path) -> Result<File, StateError> {
    let path = root.join("lock");
    // One that is there need not be written to, so that a server starts even where the disk has become read-only.
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => new_file().truncate(true).open(&path),
        other => other,
    };
    let file = file.map_err(failed("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StateError::Locked { dir: root.to_owned() }),
        Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
    }
}

fn make_dir(path: &Path) -> Result<(), StateError> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(path).map_err(failed("make the directory", path))
}

fn write_new(path: &Path, content: &[u8], sync: bool) -> io::Result<()> {
    let mut file = new_file().truncate(true).open(path)?;
    file.write_all(content)?;
    if sync { file.sync_all() } else { Ok(()) }
}

/// For our eyes only.
fn new_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Says whether there was anything.
fn unlink(path: &Path) -> Result<bool, StateError> {
    // Looked for first, because a read-only disk refuses to remove even what is not there.
    match fs::symlink_metadata(path).and_then(|_| fs::remove_file(path)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("remove", path)(error)),
    }
}

fn sync_dir(path: &Path) -> Result<(), StateError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(failed("sync", path))
}

fn warn_if_others_may_read(path: &Path) {
    #[cfg(unix)]
    if let Ok(about) = fs::metadata(path) {
        let mode = std::os::unix::fs::PermissionsExt::mode(&about.permissions());
        if mode & 0o077 != 0 {
            tracing::warn!(path = %path.display(), "others can read the key of the tickets; chmod 600 it");
        }
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { doing, path, source }
}

fn malformed(path: &Path, why: impl Into<String>) -> StateError {
    StateError::Malformed { path: path.to_owned(), why: why.into() }
}

/// How many files are written at once. Each is a thread that waits for the disk.
const AT_ONCE: usize = 16;

/// The largest that a request makes has some 30 KiB.
const MAX_RECORD: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use tempfile::{TempDir, tempdir};

    use super::*;
    use crate::registry::record::tests::record;

    async fn open(scratch: &TempDir) -> Directory {
        Directory::open(&scratch.path().join("state")).await.expect("a directory of our own")
    }

    fn ids(loaded: &Loaded) -> Vec<&str> {
        let mut ids: Vec<_> = loaded.tunnels.iter().map(|record| record.id().as_str()).collect();
        ids.sort_unstable();
        ids
    }

    fn id(text: &str) -> TunnelId {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn what_was_put_is_there_later_and_what_was_removed_is_not() {
        let scratch = tempdir().unwrap();
        let directory = open(&scratch).await;
        let ticket = directory.load().await.unwrap().tickets.issue(&id("t-1"));
        for (id, port) in [("t-1", 1), ("t-2", 2), ("t-3", 3), ("t-2", 4)] {
            directory.put(&record(id, port)).await.unwrap();
        }
        directory.remove(&id("t-3")).await.unwrap();
        directory.remove(&id("t-never")).await.unwrap();
        directory.close().await;
        assert!(matches!(directory.put(&record("t-5", 5)).await, Err(StateError::Closed)));

        let loaded = open(&scratch).await.load().await.unwrap();
        assert_eq!(ids(&loaded), ["t-1", "t-2"]);
        let second = loaded.tunnels.iter().find(|record| record.id().as_str() == "t-2");
        assert_eq!(second, Some(&record("t-2", 4)));
        assert_eq!(loaded.tickets.issue(&id("t-1")), ticket);
    }

    #[tokio::test]
    async fn an_address_that_is_given_up_is_there_until_it_is_forgotten() {
        let scratch = tempdir().unwrap();
        let directory = open(&scratch).await;
        let until = UNIX_EPOCH + Duration::from_secs(4_000_000_000);
        directory.put(&record("t.1", 1)).await.unwrap();
        for id in ["t.1", "t-never"].map(id) {
            directory.give_up(&id, until).await.unwrap();
        }
        drop(directory);

        let directory = open(&scratch).await;
        let loaded = directory.load().await.unwrap();
        assert_eq!(ids(&loaded), Vec::<&str>::new());
        let kept: Vec<_> = loaded.given_up.iter().map(|kept| (kept.record.id().as_str(), kept.until)).collect();
        assert_eq!(kept, [("t.1", until)]);
        directory.forget(&id("t.1"), until).await.unwrap();
        directory.forget(&id("t.1"), until).await.unwrap();
        assert!(directory.load().await.unwrap().given_up.is_empty());
    }

    #[tokio::test]
    async fn two_servers_cannot_have_one_directory() {
        let scratch = tempdir().unwrap();
        let first = open(&scratch).await;
        let second = Directory::open(&scratch.path().join("state")).await;
        assert!(matches!(&second, Err(StateError::Locked { dir }) if dir.ends_with("state")), "{second:?}");
        first.close().await;
        open(&scratch).await;
    }

    #[tokio::test]
    async fn what_a_crash_left_half_written_is_removed() {
        let scratch = tempdir().unwrap();
        let directory = open(&scratch).await;
        directory.load().await.unwrap();
        let draft = directory.files.tunnels.join(".t-1.json");
        fs::write(&draft, b"{\"vers").unwrap();
        assert_eq!(ids(&directory.load().await.unwrap()), Vec::<&str>::new());
        assert!(!draft.exists());
    }

    #[tokio::test]
    async fn what_is_no_record_is_refused_by_its_name() {
        let whole = record("t-1", 1).to_json().unwrap();
        let newer = String::from_utf8(whole.clone()).unwrap().replace("\"version\": 1", "\"version\": 7");
        let cases: [(&str, &[u8], &str); 5] = [
            ("tunnels/t-1.json", b"", "move it away"),
            ("tunnels/t-1.json", &whole[..40], "move it away"),
            ("tunnels/t-2.json", &whole, "of another tunnel"),
            ("tunnels/t-1.json", newer.as_bytes(), "version 7"),
            ("given-up/t-1.json", &whole, "until when"),
        ];
        for (name, content, expected) in cases {
            let scratch = tempdir().unwrap();
            let directory = open(&scratch).await;
            fs::write(directory.files.root.join(name), content).unwrap();
            let refusal = directory.load().await.unwrap_err().to_string();
            assert!(refusal.contains(name) && refusal.contains(expected), "{refusal}");
        }
    }

    #[tokio::test]
    async fn without_the_key_no_recorded_tunnel_is_restored() {
        let scratch = tempdir().unwrap();
        let directory = open(&scratch).await;
        directory.load().await.unwrap();
        directory.put(&record("t-1", 1)).await.unwrap();
        let key = directory.files.root.join("key");
        fs::write(&key, b"short").unwrap();
        assert!(directory.load().await.unwrap_err().to_string().contains("32 bytes"));
        fs::remove_file(&key).unwrap();
        assert!(directory.load().await.unwrap_err().to_string().contains("missing"));
    }

    #[tokio::test]
    async fn what_cannot_be_written_leaves_nothing() {
        let scratch = tempdir().unwrap();
        let directory = open(&scratch).await;
        // Something is in the way of the file.
        fs::create_dir_all(directory.files.tunnels.join("t-1.json/x")).unwrap();
        let refused = directory.put(&record("t-1", 1)).await;
        assert!(matches!(refused, Err(StateError::Io { doing: "write", .. })), "{refused:?}");
        let left: Vec<_> = fs::read_dir(&directory.files.tunnels).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [directory.files.tunnels.join("t-1.json")]);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn nobody_else_can_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = tempdir().unwrap();
        let directory = open(&scratch).await;
        directory.load().await.unwrap();
        directory.put(&record("t-1", 1)).await.unwrap();
        for (path, mode) in [("", 0o700), ("tunnels", 0o700), ("key", 0o600), ("tunnels/t-1.json", 0o600)] {
            let path = directory.files.root.join(path);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
        }
    }
}
