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
        loop {
            self.wait_for_look_or_expiry().await;
            if self.has_changed()
                && let Err(error) = self.reload()
            {
                let error = anyhow::Error::from(error);
                tracing::warn!(error = format!("{error:#}"), "credentials not reloaded; the ones before stay in force");
            }
        }
    }

    fn has_changed(&self) -> bool {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).have_changed()
    }

    async fn wait_for_look_or_expiry(&self) {
        let now = SystemTime::now();
        let expiry = self.credentials().next_expiry(now).and_then(|expiry| expiry.duration_since(now).ok());
        match expiry {
            Some(left) if left <= LOOK => {
                // A clock that is read in the last moment must have passed it.
                sleep(left + Duration::from_millis(1)).await;
                // Whoever follows looks anew at what is good.
                self.current.send_modify(|_| {});
            }
            _ => sleep(LOOK).await,
        }
    }
}
