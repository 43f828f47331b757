use std::{pin::Pin, sync::Arc};

use async_trait::async_trait;
use futures_util::Stream;

use crate::{
    Caller, OpenTunnel, OpenedTunnel, Page, PublicAddress, TunnelError, TunnelEvent, TunnelInfo, TunnelRef, TunnelUri,
    WatchFilter,
};

/// What [`TunnelBackend::watch_tunnels`] gives.
pub type TunnelEvents = Pin<Box<dyn Stream<Item = Result<TunnelEvent, TunnelError>> + Send>>;

/// One way of running tunnels, end to end. The trait has the shape of the service it stands behind, so that backends
/// compose: a router over several, a quota around one, a remote server behind its client are all backends again.
///
/// **Who calls.** `TunnelService` for each RPC, an embedding program directly, or another backend. Calls arrive
/// concurrently and from any task; no order between them may be assumed.
///
/// **Dropping the future** of any call is allowed at any await point. It must leave nothing half done: what
/// `open_tunnel` had reserved is released, and the other calls have either happened or not.
///
/// **Errors** are for the caller to act on: see the variants of [`TunnelError`]. No error changes the state of the
/// backend, and the next call may well succeed.
///
/// Two methods make a backend. The other three answer [`TunnelError::Unsupported`] unless they are implemented.
#[async_trait]
pub trait TunnelBackend: Send + Sync + 'static {
    /// Reserves a public address and a way of dialling in, all or nothing.
    ///
    /// When it returns, an agent can dial the URI and clients can connect to the address: nothing more is waited for.
    /// A field of the request that the backend cannot honour is [`TunnelError::Invalid`], never ignored.
    async fn open_tunnel(&self, caller: &Caller, request: OpenTunnel) -> Result<OpenedTunnel, TunnelError>;

    /// The address of a tunnel: an exact look-up among the URIs this backend issued to this caller's owner.
    ///
    /// Cheap enough to be called with anything at any rate: it never connects, resolves or allocates. Everything that is
    /// not such a URI, for whatever reason, is the same [`TunnelError::NotFound`].
    async fn get_tunnel_address(&self, caller: &Caller, uri: &TunnelUri) -> Result<PublicAddress, TunnelError>;

    /// Closes a tunnel of this caller's owner. When it returns, its address is free and its streams have been aborted.
    async fn close_tunnel(&self, _caller: &Caller, _tunnel: &TunnelRef) -> Result<(), TunnelError> {
        Err(TunnelError::Unsupported { call: "CloseTunnel" })
    }

    /// At most `page.limit` tunnels of this caller's owner with an id above `page.after`, ordered by id. Fewer than
    /// `page.limit` means that there are no more.
    async fn list_tunnels(&self, _caller: &Caller, _page: &Page) -> Result<Vec<TunnelInfo>, TunnelError> {
        Err(TunnelError::Unsupported { call: "ListTunnels" })
    }

    /// The present state, then what happens. The stream is bounded: a reader that is too slow is told so
    /// ([`What::Lagged`](crate::What::Lagged)) and given the present state again. An error is its last item.
    async fn watch_tunnels(&self, _caller: &Caller, _filter: &WatchFilter) -> Result<TunnelEvents, TunnelError> {
        Err(TunnelError::Unsupported { call: "WatchTunnels" })
    }
}

#[async_trait]
impl<B: TunnelBackend + ?Sized> TunnelBackend for Arc<B> {
    async fn open_tunnel(&self, caller: &Caller, request: OpenTunnel) -> Result<OpenedTunnel, TunnelError> {
        (**self).open_tunnel(caller, request).await
    }

    async fn get_tunnel_address(&self, caller: &Caller, uri: &TunnelUri) -> Result<PublicAddress, TunnelError> {
        (**self).get_tunnel_address(caller, uri).await
    }

    async fn close_tunnel(&self, caller: &Caller, tunnel: &TunnelRef) -> Result<(), TunnelError> {
        (**self).close_tunnel(caller, tunnel).await
    }

    async fn list_tunnels(&self, caller: &Caller, page: &Page) -> Result<Vec<TunnelInfo>, TunnelError> {
        (**self).list_tunnels(caller, page).await
    }

    async fn watch_tunnels(&self, caller: &Caller, filter: &WatchFilter) -> Result<TunnelEvents, TunnelError> {
        (**self).watch_tunnels(caller, filter).await
    }
}
