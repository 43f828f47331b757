use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, time::sleep};
use tunnel_backends::files::{LOOK, Watched};

use super::Credentials;
use crate::config::ConfigError;

/// The credentials in force. They follow their file while the server runs.
#[derive(Debug)]
pub(crate) struct Keyring {
    path: PathBuf,
    watched: Mutex<Watched>,
    current: watch::Sender<Arc<Credentials>>,
}

impl Keyring {
    /// What the file says.
    pub(crate) fn open(path: &Path) -> Result<Arc<Self>, ConfigError> {
        let watched = Mutex::new(Watched::new([path]));
        let credentials = Credentials::from_file(path)?;
        if credentials.is_empty() {
            tracing::warn!(file = %path.display(), "no credentials: nobody can open tunnels until there are some (tunnel-server token new)");
        }
        Ok(Arc::new(Self { path: path.to_owned(), watched, current: watch::Sender::new(Arc::new(credentials)) }))
    }

    /// As they are now.
    pub(crate) fn credentials(&self) -> Arc<Credentials> {
        self.current.borrow().clone()
    }

    /// Follows them: changes when the file does, and when one expires.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Credentials>> {
        self.current.subscribe()
    }

    /// Reads the file again. One that is no good changes nothing.
    pub(crate) fn reload(&self) -> Result<(), ConfigError> {
        // Looked at first: what is no good is looked at again when it has changed, and said once.
        self.has_changed();
        let credentials = Credentials::from_file(&self.path)?;
        tracing::info!(file = %self.path.display(), credentials = credentials.len(), "credentials reloaded");
        self.current.send_replace(Arc::new(credentials));
        Ok(())
    }

    /// Follows the file for as long as it is polled.
    pub(crate) async fn follow(self: Arc<Self>) {
        let mut looked = SystemTime::now();
        loop {
            sleep(self.until_next_look(looked)).await;
            looked = self.look(looked);
        }
    }

    /// Reads the file if it has changed, and tells of what has expired since the last look, however long ago that was: whoever
    /// follows looks anew at what is good. Gives when it looked.
    fn look(&self, before: SystemTime) -> SystemTime {
        if self.has_changed()
            && let Err(error) = self.reload()
        {
            let error = anyhow::Error::from(error);
            tracing::warn!(error = format!("{error:#}"), "credentials not reloaded; the ones before stay in force");
        }
        let now = SystemTime::now();
        if self.credentials().next_expiry(before).is_some_and(|expiry| expiry <= now) {
            self.current.send_modify(|_| {});
        }
        now
    }

    fn has_changed(&self) -> bool {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).have_changed()
    }

    fn until_next_look(&self, looked: SystemTime) -> Duration {
        let expiry = self.credentials().next_expiry(looked);
        // A clock that is read in the last moment must have passed it.
        let left = expiry
            .map(|expiry| expiry.duration_since(SystemTime::now()).unwrap_or_default() + Duration::from_millis(1));
        left.unwrap_or(LOOK).min(LOOK)
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::auth::Token;

    /// A busy machine, or one whose clock is set, may look only when it is over.
    #[test]
    fn what_expires_is_told_however_late_the_look_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials.toml");
        let hash = Token::generate().hash();
        let text = format!("[[token]]\nid = 'a'\nowner = 'alice'\nhash = '{hash}'\nexpires = 2020-01-31\n");
        std::fs::write(&path, text).unwrap();
        let keyring = Keyring::open(&path).unwrap();
        let mut following = keyring.subscribe();
        let mut is_told = || {
            let changed = following.has_changed().unwrap();
            following.mark_unchanged();
            changed
        };

        let looked = keyring.look(UNIX_EPOCH);
        assert!(is_told());
        keyring.look(looked);
        assert!(!is_told(), "once is enough");
    }
}
