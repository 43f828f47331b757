use std::{collections::HashSet, sync::Arc, time::SystemTime};

use tunnel_api::{CloseReason, CredentialId};
use tunnel_backends::{quotas::Quotas, tunnels::Tunnels};

use super::Keyring;

/// Follows the credentials for as long as it is polled: their owners get the limits that they say, and what was opened by one
/// that is no more is closed, at once what was restored and then whenever they change.
///
/// What was opened when nobody was asked for credentials goes, too: nobody is its owner any more.
pub(crate) async fn enforce(keyring: Arc<Keyring>, tunnels: Arc<Tunnels>, quotas: Arc<Quotas>) {
    let mut current = keyring.subscribe();
    loop {
        allot(&keyring, &quotas);
        let good = good_ones(&mut current);
        let is_revoked = |credential: Option<&CredentialId>| credential.is_none_or(|id| !good.contains(id));
        tunnels.close_where(|_owner, credential| is_revoked(credential), CloseReason::Revoked).await;
        // The keyring lives as long as we do.
        let _ = current.changed().await;
    }
}

/// Gives each owner the limits that its credentials say.
pub(crate) fn allot(keyring: &Keyring, quotas: &Quotas) {
    quotas.set_owners(keyring.credentials().limits(quotas.owner_default()));
}

fn good_ones(current: &mut tokio::sync::watch::Receiver<Arc<super::Credentials>>) -> HashSet<CredentialId> {
    let credentials = current.borrow_and_update();
    let now = SystemTime::now();
    let good =
        credentials.iter().filter(|credential| credential.is_good(now)).map(|credential| credential.id().clone());
    good.chain([CredentialId::new(CredentialId::PROCESS)]).collect()
}
