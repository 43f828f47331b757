//! Tunnels that are closed while their agents hear nothing of it, or of another one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::sync::Notify;
use tunnel_agent::{Agent, AgentState, Tunnel, TunnelListener};
use tunnel_api::{
    Caller, OpenTunnel, OpenedTunnel, Page, PublicAddress, TunnelBackend, TunnelError, TunnelEvents, TunnelRef,
    TunnelUri, WatchFilter,
};
use tunnel_server::Running;
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

/// The news of the first tunnel break off as soon as they have begun.
struct NewsBreakOff {
    backend: Arc<dyn TunnelBackend>,
    broke_off: AtomicBool,
    asked_again: Notify,
}

#[async_trait]
impl TunnelBackend for NewsBreakOff {
    async fn open_tunnel(&self, caller: &Caller, request: OpenTunnel) -> Result<OpenedTunnel, TunnelError> {
        self.backend.open_tunnel(caller, request).await
    }

    async fn get_tunnel_address(&self, caller: &Caller, uri: &TunnelUri) -> Result<PublicAddress, TunnelError> {
        self.backend.get_tunnel_address(caller, uri).await
    }

    async fn watch_tunnels(&self, caller: &Caller, filter: &WatchFilter) -> Result<TunnelEvents, TunnelError> {
        let events = self.backend.watch_tunnels(caller, filter).await?;
        if self.broke_off.swap(true, Ordering::Relaxed) {
            self.asked_again.notify_one();
            return Ok(events);
        }
        Ok(events.take(2).boxed())
    }
}

#[tokio::test]
async fn a_tunnel_that_is_closed_after_its_news_broke_off_stays_closed() {
    within(async {
        let server = server().await;
        let broke_off = AtomicBool::new(false);
        let backend = Arc::new(NewsBreakOff { backend: server.backend(), broke_off, asked_again: Notify::new() });
        let tunnel = Agent::embedded(backend.clone()).open(Tunnel::tcp().backend("mux")).await.unwrap();
        tunnel.state().wait_for(|state| *state == AgentState::Online).await.unwrap();
        backend.asked_again.notified().await;
        stays_closed(&server, &tunnel).await;
    })
    .await;
}

/// The first tunnel expires, because its agent is sent to another server's door.
struct ExpiresOnce {
    backend: Arc<dyn TunnelBackend>,
    elsewhere: String,
    expired: AtomicBool,
}

#[async_trait]
impl TunnelBackend for ExpiresOnce {
    async fn open_tunnel(&self, caller: &Caller, mut request: OpenTunnel) -> Result<OpenedTunnel, TunnelError> {
        if self.expired.load(Ordering::Relaxed) {
            return self.backend.open_tunnel(caller, request).await;
        }
        request.dial_within = Some(Duration::from_millis(300));
        let opened = self.backend.open_tunnel(caller, request).await?;
        self.expired.store(true, Ordering::Relaxed);
        let here = format!("{}:{}", opened.uri.host(), opened.uri.port());
        let uri = opened.uri.expose().replace(&here, &self.elsewhere).parse().expect("a tunnel URI");
        Ok(OpenedTunnel { uri, ..opened })
    }

    async fn get_tunnel_address(&self, caller: &Caller, uri: &TunnelUri) -> Result<PublicAddress, TunnelError> {
        self.backend.get_tunnel_address(caller, uri).await
    }

    async fn watch_tunnels(&self, caller: &Caller, filter: &WatchFilter) -> Result<TunnelEvents, TunnelError> {
        self.backend.watch_tunnels(caller, filter).await
    }
}

#[tokio::test]
async fn a_tunnel_that_expired_and_was_opened_again_and_is_closed_then_stays_closed() {
    within(async {
        let (server, elsewhere) = (server().await, server().await);
        let (backend, elsewhere) = (server.backend(), elsewhere.addr().to_string());
        let backend = ExpiresOnce { backend, elsewhere, expired: AtomicBool::new(false) };
        let tunnel = Agent::embedded(Arc::new(backend)).open(Tunnel::tcp().backend("mux")).await.unwrap();
        tunnel.state().wait_for(|state| *state == AgentState::Online).await.unwrap();
        stays_closed(&server, &tunnel).await;
    })
    .await;
}

/// The server's only tunnel, when its owner closes it.
async fn stays_closed(server: &Running, tunnel: &TunnelListener) {
    let (backend, us) = (server.backend(), Caller::embedded());
    let everything = Page { after: None, limit: Page::MAX };
    let open = backend.list_tunnels(&us, &everything).await.unwrap();
    backend.close_tunnel(&us, &TunnelRef::Id(open[0].id.clone())).await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(5), tunnel.closed()).await;
    let left = backend.list_tunnels(&us, &everything).await.unwrap();
    assert!(closed.is_ok() && left.is_empty(), "the agent opened it again: {left:?}");
}
