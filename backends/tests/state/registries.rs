//! Registries that do not work.

use std::{
    future::pending,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use async_trait::async_trait;
use tunnel_api::TunnelId;
use tunnel_backends::registry::{Loaded, Record, Registry, StateError};

/// As on a disk that is full, or read-only, while `fails` is set.
#[derive(Debug)]
pub(crate) struct Flaky {
    inner: Arc<dyn Registry>,
    fails: Arc<AtomicBool>,
}

impl Flaky {
    pub(crate) fn around(inner: Arc<dyn Registry>, fails: &Arc<AtomicBool>) -> Arc<dyn Registry> {
        Arc::new(Self { inner, fails: fails.clone() })
    }

    fn check(&self) -> Result<(), StateError> {
        if self.fails.load(Ordering::Relaxed) {
            let source = io::Error::from(io::ErrorKind::StorageFull);
            return Err(StateError::Io { doing: "write", path: "here".into(), source });
        }
        Ok(())
    }
}

#[async_trait]
impl Registry for Flaky {
    async fn load(&self) -> Result<Loaded, StateError> {
        self.inner.load().await
    }

    async fn put(&self, record: &Record) -> Result<(), StateError> {
        self.check()?;
        self.inner.put(record).await
    }

    async fn remove(&self, id: &TunnelId) -> Result<(), StateError> {
        self.check()?;
        self.inner.remove(id).await
    }

    async fn give_up(&self, id: &TunnelId, until: SystemTime) -> Result<(), StateError> {
        self.check()?;
        self.inner.give_up(id, until).await
    }

    async fn forget(&self, id: &TunnelId, until: SystemTime) -> Result<(), StateError> {
        self.check()?;
        self.inner.forget(id, until).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// As on a network file system whose server is away.
#[derive(Debug)]
pub(crate) struct Silent;

#[async_trait]
impl Registry for Silent {
    async fn load(&self) -> Result<Loaded, StateError> {
        pending().await
    }

    async fn put(&self, _: &Record) -> Result<(), StateError> {
        pending().await
    }

    async fn remove(&self, _: &TunnelId) -> Result<(), StateError> {
        pending().await
    }

    async fn give_up(&self, _: &TunnelId, _: SystemTime) -> Result<(), StateError> {
        pending().await
    }

    async fn forget(&self, _: &TunnelId, _: SystemTime) -> Result<(), StateError> {
        pending().await
    }

    async fn close(&self) {}
}
