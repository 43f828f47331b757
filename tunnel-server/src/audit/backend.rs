use std::{fmt, sync::Arc, time::Instant};

use async_trait::async_trait;
use tunnel_api::{
    Caller, OpenTunnel, OpenedTunnel, Page, PublicAddress, TunnelBackend, TunnelError, TunnelEvents, TunnelInfo,
    TunnelRef, TunnelUri, WatchFilter,
};

use super::Audit;

/// Tells the audit log what becomes of each call.
pub(crate) struct Audited<B> {
    inner: B,
    audit: Arc<Audit>,
}

impl<B: TunnelBackend> Audited<B> {
    pub(crate) fn new(inner: B, audit: Arc<Audit>) -> Self {
        Self { inner, audit }
    }

    fn told<T>(&self, what: &'static str, caller: &Caller, answer: Result<T, TunnelError>) -> Result<T, TunnelError> {
        answer.inspect_err(|error| self.audit.refused(what, caller, error))
    }
}

#[async_trait]
impl<B: TunnelBackend> TunnelBackend for Audited<B> {
    async fn open_tunnel(&self, caller: &Caller, request: OpenTunnel) -> Result<OpenedTunnel, TunnelError> {
        let start = Instant::now();
        let answer = self.inner.open_tunnel(caller, request.clone()).await;
        match &answer {
            Ok(opened) => self.audit.opened(caller, &request, opened, start.elapsed()),
            Err(error) => self.audit.not_opened(caller, error, start.elapsed()),
        }
        answer
    }

    async fn get_tunnel_address(&self, caller: &Caller, uri: &TunnelUri) -> Result<PublicAddress, TunnelError> {
        self.told("GetTunnelAddress", caller, self.inner.get_tunnel_address(caller, uri).await)
    }

    async fn close_tunnel(&self, caller: &Caller, tunnel: &TunnelRef) -> Result<(), TunnelError> {
        self.told("CloseTunnel", caller, self.inner.close_tunnel(caller, tunnel).await)
    }

    async fn list_tunnels(&self, caller: &Caller, page: &Page) -> Result<Vec<TunnelInfo>, TunnelError> {
        self.told("ListTunnels", caller, self.inner.list_tunnels(caller, page).await)
    }

    async fn watch_tunnels(&self, caller: &Caller, filter: &WatchFilter) -> Result<TunnelEvents, TunnelError> {
        self.told("WatchTunnels", caller, self.inner.watch_tunnels(caller, filter).await)
    }
}

impl<B> fmt::Debug for Audited<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audited").finish_non_exhaustive()
    }
}
