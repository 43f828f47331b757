use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use tokio::sync::watch;
use tunnel_api::{CloseReason, CredentialId, Owner};
use tunnel_backends::tunnels::Tunnels;

use super::{Credentials, Keyring};
use crate::audit::Audit;

/// Closes what was opened by a credential that is no more, for as long as it is polled: at once what was restored, and then
/// whenever the credentials change.
///
/// What was opened when nobody was asked for credentials goes, too: nobody is its owner any more.
pub(crate) async fn revoke(keyring: Arc<Keyring>, tunnels: Arc<Tunnels>, audit: Arc<Audit>) {
    let mut current = keyring.subscribe();
    let mut before = HashMap::new();
    loop {
        let good = good_ones(&mut current);
        let gone = before.iter().filter(|(id, _)| !good.contains_key(*id));
        // How many tunnels close with each.
        let closing: BTreeMap<_, usize> =
            gone.map(|(id, owner): (&CredentialId, &Owner)| ((owner.clone(), Some(id.clone())), 0)).collect();
        let closing = Mutex::new(closing);
        let is_revoked = |owner: &Owner, credential: Option<&CredentialId>| {
            let is_good = credential.is_some_and(|id| good.contains_key(id) || id.as_str() == CredentialId::PROCESS);
            if !is_good {
                let mut closing = closing.lock().unwrap_or_else(PoisonError::into_inner);
                *closing.entry((owner.clone(), credential.cloned())).or_default() += 1;
            }
            !is_good
        };
        tunnels.close_where(is_revoked, CloseReason::Revoked).await;
        for ((owner, credential), count) in closing.into_inner().unwrap_or_else(PoisonError::into_inner) {
            audit.revoked(&owner, credential.as_ref(), count);
        }
        before = good;
        // The keyring lives as long as we do.
        let _ = current.changed().await;
    }
}

/// Those that are good now, and whose they are.
fn good_ones(current: &mut watch::Receiver<Arc<Credentials>>) -> HashMap<CredentialId, Owner> {
    let credentials = current.borrow_and_update();
    let now = SystemTime::now();
    let good = credentials.iter().filter(|credential| credential.is_good(now));
    good.map(|credential| (credential.id().clone(), credential.owner().clone())).collect()
}
