use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use tokio::sync::watch;
use tunnel_api::{CloseReason, CredentialId, Owner};
use tunnel_backends::{quotas::Quotas, tunnels::Tunnels};

use super::{Credentials, Keyring};
use crate::audit::Audit;

/// Holds what is open to the credentials: their owners get the limits that they say, and what was opened by one that is no more is
/// closed.
///
/// What was opened when nobody was asked for credentials goes, too: nobody is its owner any more.
pub(crate) struct Enforcer {
    keyring: Arc<Keyring>,
    tunnels: Arc<Tunnels>,
    quotas: Arc<Quotas>,
    audit: Arc<Audit>,
    current: watch::Receiver<Arc<Credentials>>,
    /// Those that were good in the last round, and whose they were.
    before: HashMap<CredentialId, Owner>,
}

impl Enforcer {
    pub(crate) fn new(keyring: Arc<Keyring>, tunnels: Arc<Tunnels>, quotas: Arc<Quotas>, audit: Arc<Audit>) -> Self {
        let current = keyring.subscribe();
        Self { keyring, tunnels, quotas, audit, current, before: HashMap::new() }
    }

    /// Enforces them as they are now. Done once before anybody is let in, because of what was restored.
    pub(crate) async fn enforce(&mut self) {
        allot(&self.keyring, &self.quotas);
        let good = good_ones(&mut self.current);
        let gone = self.before.iter().filter(|(id, owner)| good.get(*id) != Some(*owner));
        // How many tunnels close with each.
        let closing: BTreeMap<_, usize> = gone.map(|(id, owner)| ((owner.clone(), Some(id.clone())), 0)).collect();
        let closing = Mutex::new(closing);
        let is_revoked = |owner: &Owner, credential: Option<&CredentialId>| {
            let is_good =
                credential.is_some_and(|id| good.get(id) == Some(owner) || id.as_str() == CredentialId::PROCESS);
            if !is_good {
                let mut closing = closing.lock().unwrap_or_else(PoisonError::into_inner);
                *closing.entry((owner.clone(), credential.cloned())).or_default() += 1;
            }
            !is_good
        };
        self.tunnels.close_where(is_revoked, CloseReason::Revoked).await;
        for ((owner, credential), count) in closing.into_inner().unwrap_or_else(PoisonError::into_inner) {
            self.audit.revoked(&owner, credential.as_ref(), count);
        }
        self.before = good;
    }

    /// Enforces them whenever they change, for as long as it is polled.
    pub(crate) async fn follow(mut self) {
        // The keyring lives as long as we do.
        while self.current.changed().await.is_ok() {
            self.enforce().await;
        }
    }
}

/// Gives each owner the limits that its credentials say.
pub(crate) fn allot(keyring: &Keyring, quotas: &Quotas) {
    quotas.set_owners(keyring.credentials().limits(quotas.owner_default()));
}

/// Those that are good now, and whose they are.
fn good_ones(current: &mut watch::Receiver<Arc<Credentials>>) -> HashMap<CredentialId, Owner> {
    let credentials = current.borrow_and_update();
    let now = SystemTime::now();
    let good = credentials.iter().filter(|credential| credential.is_good(now));
    good.map(|credential| (credential.id().clone(), credential.owner().clone())).collect()
}
