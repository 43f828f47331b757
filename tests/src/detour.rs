//! Agents that reach the server another way than it thinks.

use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use tunnel_api::{
    Caller, OpenTunnel, OpenedTunnel, Page, PublicAddress, TunnelBackend, TunnelError, TunnelEvents, TunnelInfo,
    TunnelRef, TunnelUri, WatchFilter,
};

/// A backend whose agents dial another address than the one it gives out.
pub struct Detour {
    /// The backend.
    pub backend: Arc<dyn TunnelBackend>,
    /// Where its agents dial.
    pub by: SocketAddr,
}

#[async_trait]
impl TunnelBackend for Detour {
    async fn open_tunnel(&self, caller: &Caller, request: OpenTunnel) -> Result<OpenedTunnel, TunnelError> {
        let opened = self.backend.open_tunnel(caller, request).await?;
        let direct = format!("{}:{}", opened.uri.host(), opened.uri.port());
        let uri: TunnelUri = opened.uri.expose().replace(&direct, &self.by.to_string()).parse().expect("a tunnel URI");
        Ok(OpenedTunnel { uri, ..opened })
    }

    async fn get_tunnel_address(&self, caller: &Caller, uri: &TunnelUri) -> Result<PublicAddress, TunnelError> {
        self.backend.get_tunnel_address(caller, uri).await
    }

    async fn close_tunnel(&self, caller: &Caller, tunnel: &TunnelRef) -> Result<(), TunnelError> {
        self.backend.close_tunnel(caller, tunnel).await
    }

    async fn list_tunnels(&self, caller: &Caller, page: &Page) -> Result<Vec<TunnelInfo>, TunnelError> {
        self.backend.list_tunnels(caller, page).await
    }

    async fn watch_tunnels(&self, caller: &Caller, filter: &WatchFilter) -> Result<TunnelEvents, TunnelError> {
        self.backend.watch_tunnels(caller, filter).await
    }
}

impl std::fmt::Debug for Detour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Detour").field("by", &self.by).finish_non_exhaustive()
    }
}
