//! A tunnel that is closed before its agent has begun to watch it.

use std::sync::Arc;

use async_trait::async_trait;
use tunnel_agent::{Agent, Tunnel};
use tunnel_api::{
    Caller, OpenTunnel, OpenedTunnel, Page, PublicAddress, TunnelBackend, TunnelError, TunnelEvents, TunnelRef,
    TunnelUri, WatchFilter,
};
use tunnel_tests::{limit::within, server::server};

/// Somebody closes each tunnel as soon as it is open.
struct ClosesAtOnce(Arc<dyn TunnelBackend>);

#[async_trait]
impl TunnelBackend for ClosesAtOnce {
    async fn open_tunnel(&self, caller: &Caller, request: OpenTunnel) -> Result<OpenedTunnel, TunnelError> {
        let opened = self.0.open_tunnel(caller, request).await?;
        self.0.close_tunnel(caller, &TunnelRef::Id(opened.id.clone())).await?;
        Ok(opened)
    }

    async fn get_tunnel_address(&self, caller: &Caller, uri: &TunnelUri) -> Result<PublicAddress, TunnelError> {
        self.0.get_tunnel_address(caller, uri).await
    }

    async fn watch_tunnels(&self, caller: &Caller, filter: &WatchFilter) -> Result<TunnelEvents, TunnelError> {
        self.0.watch_tunnels(caller, filter).await
    }
}

#[tokio::test]
async fn a_tunnel_that_is_closed_before_it_is_watched_stays_closed() {
    within(async {
        let server = server().await;
        let agent = Agent::embedded(Arc::new(ClosesAtOnce(server.backend())));
        let mut tunnel = agent.open(Tunnel::tcp()).await.unwrap();

        assert!(tunnel.accept().await.is_err());

        let everything = Page { after: None, limit: Page::MAX };
        let left = server.backend().list_tunnels(&Caller::embedded(), &everything).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
    })
    .await;
}
