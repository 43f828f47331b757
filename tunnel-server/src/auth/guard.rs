use std::{fmt, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tunnel_api::{
    Caller, CredentialId, Host, OpenTunnel, OpenedTunnel, Owner, Page, PublicAddress, TunnelBackend, TunnelError,
    TunnelEvents, TunnelInfo, TunnelRef, TunnelUri, WatchFilter,
};
use tunnel_backends::{names::Names, tunnels::Tunnels};

use super::{Keyring, grants::Addresses};

/// Holds callers to what their credentials grant, before anything is allocated. Callers in this process, who have none, are the
/// process itself and may do everything.
pub(crate) struct Guard<B> {
    inner: B,
    keyring: Arc<Keyring>,
    tunnels: Arc<Tunnels>,
    names: Arc<Names>,
    /// Where requests go that name no backend.
    default_backend: String,
}

impl<B: TunnelBackend> Guard<B> {
    pub(crate) fn new(
        inner: B,
        keyring: Arc<Keyring>,
        (tunnels, names): (Arc<Tunnels>, Arc<Names>),
        default_backend: &str,
    ) -> Self {
        Self { inner, keyring, tunnels, names, default_backend: default_backend.to_owned() }
    }

    fn check(&self, caller: &Caller, request: &mut OpenTunnel) -> Result<(), TunnelError> {
        let Some(id) = &caller.credential else { return Ok(()) };
        let credentials = self.keyring.credentials();
        let credential = credentials.by_id(id, &caller.owner, SystemTime::now()).ok_or_else(revoked)?;
        let backend = request.backend.clone().unwrap_or_else(|| self.default_backend.clone());
        let addresses = Known { tunnels: &self.tunnels, names: &self.names, owner: &caller.owner };
        credential.grants.check(request, &backend, &addresses)
    }

    fn is_revoked(&self, caller: &Caller) -> bool {
        let credentials = self.keyring.credentials();
        let is_good = |id| credentials.by_id(id, &caller.owner, SystemTime::now()).is_some();
        caller.credential.as_ref().is_some_and(|id| !is_good(id))
    }
}

/// What is known of an owner's addresses.
struct Known<'g> {
    tunnels: &'g Tunnels,
    names: &'g Names,
    owner: &'g Owner,
}

impl Addresses for Known<'_> {
    fn had_port(&self, port: u16) -> bool {
        self.tunnels.is_kept_for(self.owner, port)
    }

    fn had_name(&self, name: &Host) -> bool {
        self.names.is_kept_for(self.owner, name)
    }

    fn spellings(&self, name: &Host) -> Vec<String> {
        let full = self.names.in_full(name);
        self.names.label(&full).into_iter().chain([full.to_string()]).collect()
    }
}

fn revoked() -> TunnelError {
    TunnelError::Unauthenticated { why: "these credentials were revoked or have expired; get new ones".to_owned() }
}

/// So that what the process itself has opened is told from what was opened when nobody was asked for credentials.
fn as_process(caller: &Caller) -> Caller {
    let process = || CredentialId::new(CredentialId::PROCESS);
    Caller { credential: Some(caller.credential.clone().unwrap_or_else(process)), ..caller.clone() }
}

#[async_trait]
impl<B: TunnelBackend> TunnelBackend for Guard<B> {
    async fn open_tunnel(&self, caller: &Caller, mut request: OpenTunnel) -> Result<OpenedTunnel, TunnelError> {
        self.check(caller, &mut request)?;
        let opened = self.inner.open_tunnel(&as_process(caller), request).await?;
        if self.is_revoked(caller) {
            // Between our look and its opening: whoever closes what was revoked may have looked before it was there.
            self.inner.close_tunnel(caller, &TunnelRef::Id(opened.id)).await?;
            return Err(revoked());
        }
        Ok(opened)
    }

    async fn get_tunnel_address(&self, caller: &Caller, uri: &TunnelUri) -> Result<PublicAddress, TunnelError> {
        self.inner.get_tunnel_address(caller, uri).await
    }

    async fn close_tunnel(&self, caller: &Caller, tunnel: &TunnelRef) -> Result<(), TunnelError> {
        self.inner.close_tunnel(caller, tunnel).await
    }

    async fn list_tunnels(&self, caller: &Caller, page: &Page) -> Result<Vec<TunnelInfo>, TunnelError> {
        self.inner.list_tunnels(caller, page).await
    }

    /// Whoever may look no more is told so in the middle of it.
    async fn watch_tunnels(&self, caller: &Caller, filter: &WatchFilter) -> Result<TunnelEvents, TunnelError> {
        let events = self.inner.watch_tunnels(caller, filter).await?;
        let Some(id) = caller.credential.clone() else { return Ok(events) };
        let (mut current, owner) = (self.keyring.subscribe(), caller.owner.clone());
        let revocation = Box::pin(async move {
            // The keyring lives as long as the server.
            let _ = current.wait_for(|credentials| credentials.by_id(&id, &owner, SystemTime::now()).is_none()).await;
        });
        Ok(stream::unfold(Some((events, revocation)), |state| async {
            let (mut events, mut revocation) = state?;
            tokio::select! {
                biased;
                () = &mut revocation => Some((Err(revoked()), None)),
                event = events.next() => Some((event?, Some((events, revocation)))),
            }
        })
        .boxed())
    }
}

impl<B> fmt::Debug for Guard<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("default_backend", &self.default_backend).finish_non_exhaustive()
    }
}
