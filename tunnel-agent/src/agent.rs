use std::sync::Arc;

use tunnel_api::{
    Caller, NameError, TunnelBackend, TunnelError,
    rpc::{ConnectError, RemoteBackend},
};
use tunnel_backends::carrier::DialError;

use crate::{Tunnel, TunnelListener};

/// Opens tunnels.
#[derive(Clone)]
pub struct Agent {
    backend: Arc<dyn TunnelBackend>,
}

/// Why a tunnel could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The server refused; its message says what to do.
    #[error(transparent)]
    Refused(#[from] TunnelError),
    /// The name is none.
    #[error("not a tunnel name: {0}")]
    BadName(#[from] NameError),
    /// The server offers a tunnel that this agent has no dialler for.
    #[error(transparent)]
    CannotDial(#[from] DialError),
}

impl Agent {
    /// An agent of the tunnel server at `url`, such as `http://tunnels.example:8010`.
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Ok(Self::embedded(Arc::new(RemoteBackend::connect(url).await?)))
    }

    /// An agent of a backend in this process.
    pub fn embedded(backend: Arc<dyn TunnelBackend>) -> Self {
        Self { backend }
    }

    /// Opens a tunnel and starts dialling in. It stays open until the listener is dropped and the streams it gave out have
    /// ended.
    pub async fn open(&self, tunnel: Tunnel) -> Result<TunnelListener, OpenError> {
        let request = tunnel.request(None)?;
        let opened = self.backend.open_tunnel(&Caller::embedded(), request).await?;
        TunnelListener::start(self.backend.clone(), tunnel, opened).map_err(Into::into)
    }
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").finish_non_exhaustive()
    }
}
