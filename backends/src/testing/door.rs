//! A door for carriers whose agents come in by it.

use std::{convert::Infallible, fmt, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tower::service_fn;
use tunnel_api::{
    Caller, OpenTunnel, OpenedTunnel, Page, PublicAddress, TunnelBackend, TunnelError, TunnelEvents, TunnelInfo,
    TunnelRef, TunnelUri, WatchFilter,
};

use crate::{
    door::{Door, DoorTerms, HttpBody, HttpService},
    sockets,
};

/// A backend and the door its agents come in by. The door closes when this is dropped.
pub struct BehindDoor {
    backend: Arc<dyn TunnelBackend>,
    /// Its callers come by TLS, as its agents are to.
    encrypted: bool,
    door: Option<Door>,
}

impl BehindDoor {
    /// Opens a door on loopback. `service` puts the carrier in front of what answers there, which knows nothing; `backend` is
    /// told where the door is.
    pub fn new<B: TunnelBackend>(
        service: impl FnOnce(HttpService) -> HttpService,
        backend: impl FnOnce(SocketAddr) -> B,
    ) -> Arc<Self> {
        Self::with(DoorTerms::default(), service, backend)
    }

    /// The same on these terms.
    pub fn with<B: TunnelBackend>(
        terms: DoorTerms,
        service: impl FnOnce(HttpService) -> HttpService,
        backend: impl FnOnce(SocketAddr) -> B,
    ) -> Arc<Self> {
        let encrypted = terms.tls.is_some();
        let listener = sockets::listen(([127, 0, 0, 1], 0).into()).expect("a port for the door");
        let door = Door::open(listener, terms, service(knows_nothing())).expect("a door");
        let backend = Arc::new(backend(door.addr()));
        Arc::new(Self { backend, encrypted, door: Some(door) })
    }
}

impl Drop for BehindDoor {
    fn drop(&mut self) {
        if let (Some(door), Ok(runtime)) = (self.door.take(), Handle::try_current()) {
            runtime.spawn(door.close(Duration::ZERO));
        }
    }
}

fn knows_nothing() -> HttpService {
    HttpService::new(service_fn(async |_: Request<Incoming>| {
        let mut response =
            Response::new(HttpBody::new(Empty::<Bytes>::new().map_err(|never: Infallible| match never {})));
        *response.status_mut() = StatusCode::NOT_FOUND;
        Ok::<_, Infallible>(response)
    }))
}

#[async_trait]
impl TunnelBackend for BehindDoor {
    async fn open_tunnel(&self, caller: &Caller, request: OpenTunnel) -> Result<OpenedTunnel, TunnelError> {
        let caller = Caller { encrypted: self.encrypted, ..caller.clone() };
        self.backend.open_tunnel(&caller, request).await
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

impl fmt::Debug for BehindDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BehindDoor").field("door", &self.door).finish_non_exhaustive()
    }
}
