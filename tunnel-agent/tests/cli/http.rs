//! `tunnel http` and `tunnel tls`, as far as they need no server that has names.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::{sync::mpsc, time::timeout};
use tunnel_api::{
    AddressRequest, Caller, OpenTunnel, OpenedTunnel, PublicAddress, TunnelBackend, TunnelError, TunnelEvents,
    TunnelRef, TunnelUri, WatchFilter,
};

use crate::rig::{LIMIT, is_online, run, serve, service, start};

/// A service that has no names, and gives a port to who wants one. It passes on what it is asked to tell.
struct Asked {
    inner: Arc<dyn TunnelBackend>,
    filters: mpsc::Sender<WatchFilter>,
}

#[async_trait]
impl TunnelBackend for Asked {
    async fn open_tunnel(&self, caller: &Caller, request: OpenTunnel) -> Result<OpenedTunnel, TunnelError> {
        self.inner.open_tunnel(caller, OpenTunnel { address: AddressRequest::any(), ..request }).await
    }

    async fn get_tunnel_address(&self, caller: &Caller, uri: &TunnelUri) -> Result<PublicAddress, TunnelError> {
        self.inner.get_tunnel_address(caller, uri).await
    }

    async fn close_tunnel(&self, caller: &Caller, tunnel: &TunnelRef) -> Result<(), TunnelError> {
        self.inner.close_tunnel(caller, tunnel).await
    }

    async fn watch_tunnels(&self, caller: &Caller, filter: &WatchFilter) -> Result<TunnelEvents, TunnelError> {
        self.filters.send(filter.clone()).await.expect("somebody who reads them");
        self.inner.watch_tunnels(caller, filter).await
    }
}

/// All that `tunnel http` asks for, from its start until it is online and has asked for enough; then Ctrl-C.
async fn asked(flags: &[&str], enough: fn(&WatchFilter) -> bool) -> Vec<WatchFilter> {
    let (inner, _) = service().await;
    let (filters, mut asked) = mpsc::channel(16);
    let url = serve(Arc::new(Asked { inner: inner.clone(), filters })).await;
    let running = start(&[flags, &["http", "1", "--server", &url]].concat()).await;
    is_online(&inner).await;
    let mut all = Vec::new();
    while !all.last().is_some_and(enough) {
        all.push(timeout(LIMIT, asked.recv()).await.expect("it asks in time").expect("the service"));
    }
    running.signal("-INT").await;
    assert_eq!(running.end().await.code, Some(0));
    while let Ok(filter) = asked.try_recv() {
        all.push(filter);
    }
    all
}

#[tokio::test]
async fn who_shows_requests_asks_for_them() {
    asked(&[], |filter| filter.requests).await;
}

#[tokio::test]
async fn who_shows_no_requests_asks_for_none() {
    let all = asked(&["-q"], |_| true).await;
    assert!(all.iter().all(|filter| !filter.requests), "{all:?}");
}

#[tokio::test]
async fn a_name_that_can_be_no_host_is_told_what_to_add() {
    let (_backend, url) = crate::rig::service().await;
    for command in ["http", "tls"] {
        let ended = run(&[command, "3000", "--server", &url, "--name", "team/blog"]).await;
        assert_eq!(ended.code, Some(2), "{command}");
        assert!(ended.stderr.contains("say with --host"), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn help_says_what_the_service_has_to_know() {
    for (command, parts) in [
        ("http", &["--host-header <HOST|rewrite>", "--h2c", "X-Forwarded-For", "tunnel http 3000 --name blog"][..]),
        ("tls", &["--host <HOST>", "SNI", "tunnel tls 8443 --name db"]),
    ] {
        let ended = run(&[command, "--help"]).await;
        for part in parts {
            assert!(ended.stdout.contains(part), "no {part:?} in {}", ended.stdout);
        }
    }
}
