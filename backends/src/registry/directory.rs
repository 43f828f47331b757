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
        self.run(move |files| {
            unlink(&files.tunnels.join(name))?;
            sync_dir(&files.tunnels)
        })
        .await
    }

    async fn give_up(&self, id: &TunnelId, until: SystemTime) -> Result<(), StateError> {
        let (from, to) = (file_name(id)?, given_up_name(id, until)?);
        self.run(move |files| files.move_away(&files.tunnels.join(from), &files.given_up.join(to))).await
    }

    async fn forget(&self, id: &TunnelId, until: SystemTime) -> Result<(), StateError> {
        let name = given_up_name(id, until)?;
        self.run(move |files| unlink(&files.given_up.join(name))).await
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
            Err(_) => unlink(from),
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

fn unlink(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
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
