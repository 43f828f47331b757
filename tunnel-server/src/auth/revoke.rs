use std::{collections::HashSet, sync::Arc, time::SystemTime};

use tunnel_api::{CloseReason, CredentialId};
use tunnel_backends::tunnels::Tunnels;

use super::Keyring;

/// Closes what was opened by a credential that is no more, for as long as it is polled: at once what was restored, and then
/// whenever the credentials change.
///
/// What was opened when nobody was asked for credentials goes, too: nobody is its owner any more.
pub(crate) async fn revoke(keyring: Arc<Keyring>, tunnels: Arc<Tunnels>) {
    let mut current = keyring.subscribe();
    loop {
        let good = good_ones(&mut current);
        let is_revoked = |credential: Option<&CredentialId>| credential.is_none_or(|id| !good.contains(id));
        tunnels.close_where(|_owner, credential| is_revoked(credential), CloseReason::Revoked).await;
        // The keyring lives as long as we do.
        let _ = current.changed().await;
    }
}

fn good_ones(current: &mut tokio::sync::watch::Receiver<Arc<super::Credentials>>) -> HashSet<CredentialId> {
    let credentials = current.borrow_and_update();
    let now = SystemTime::now();
    let good =
        credentials.iter().filter(|credential| credential.is_good(now)).map(|credential| credential.id().clone());
    good.chain([CredentialId::new(CredentialId::PROCESS)]).collect()
}
