//! Who may have how much: limits for each owner and for all together, and how much of them is in use.
//!
//! What is counted is held by a [`Permit`], whose drop gives it back; so however an opening or a stream ends, the counts
//! return to what they were. An owner is counted for itself first and then among all, and whoever is refused has taken
//! nothing. Limits may change at any time, also to less than what is in use: then nothing new is let in, and nothing is cut.
//!
//! Fairness: nobody waits for anybody here. What one owner may have is its own limit; and of what all share, an owner that has
//! more than a tenth gets none of the last tenth, so that those who have little find room even where a few take all they can.

mod ledger;
mod limits;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tunnel_api::{Caller, Owner};

use self::ledger::{Ledger, Whose};
pub use self::limits::{Counted, InUse, Limits, Refused};
use crate::relay::Pace;

/// The limits of a server, and what is in use.
#[derive(Debug)]
pub struct Quotas {
    overall: Arc<Ledger>,
    owners: Mutex<Owners>,
}

#[derive(Debug)]
struct Owners {
    default: Limits,
    /// Of those that have limits of their own.
    own: HashMap<Owner, Limits>,
    ledgers: HashMap<Owner, Arc<Ledger>>,
    /// When there are so many, those that count nothing are thrown away.
    sweep_at: usize,
}

impl Quotas {
    /// For all together, and for each owner.
    pub fn new(overall: Limits, owner: Limits) -> Arc<Self> {
        let owners = Owners { default: owner, own: HashMap::new(), ledgers: HashMap::new(), sweep_at: FEWEST_SWEPT };
        Arc::new(Self { overall: Arc::new(Ledger::new(Whose::Everybody, overall)), owners: Mutex::new(owners) })
    }

    /// As much as anybody wants.
    pub fn unlimited() -> Arc<Self> {
        Self::new(Limits::default(), Limits::default())
    }

    /// From now on these for all together.
    pub fn set_overall(&self, limits: Limits) {
        self.overall.hold_to(limits);
    }

    /// From now on these for each owner that has none of its own.
    pub fn set_owner_default(&self, limits: Limits) {
        let mut owners = self.lock();
        owners.default = limits;
        for (_, ledger) in owners.ledgers.iter().filter(|(owner, _)| !owners.own.contains_key(owner)) {
            ledger.hold_to(limits);
        }
    }

    /// From now on these for this owner; `None`: what every owner has.
    pub fn set_owner(&self, owner: &Owner, limits: Option<Limits>) {
        let mut owners = self.lock();
        match limits {
            Some(limits) => drop(owners.own.insert(owner.clone(), limits)),
            None => drop(owners.own.remove(owner)),
        }
        if let Some(ledger) = owners.ledgers.get(owner) {
            ledger.hold_to(limits.unwrap_or(owners.default));
        }
    }

    /// From now on these for those owners, and for nobody else any of their own.
    pub fn set_owners(&self, own: HashMap<Owner, Limits>) {
        let mut owners = self.lock();
        for (owner, ledger) in &owners.ledgers {
            ledger.hold_to(own.get(owner).copied().unwrap_or(owners.default));
        }
        owners.own = own;
    }

    /// What an owner may have that has no limits of its own.
    pub fn owner_default(&self) -> Limits {
        self.lock().default
    }

    /// What the caller's owner may have. `local` is everybody without credentials, and the process itself: it is held to the
    /// overall limits only.
    pub fn share(&self, caller: &Caller) -> Share {
        let owner = (caller.owner != Owner::local()).then(|| self.lock().ledger(&caller.owner));
        Share { overall: self.overall.clone(), owner }
    }

    /// What is in use, by all together.
    pub fn in_use(&self) -> InUse {
        self.overall.in_use()
    }

    /// What is in use by this owner.
    pub fn in_use_by(&self, owner: &Owner) -> InUse {
        self.lock().ledgers.get(owner).map(|ledger| ledger.in_use()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Owners> {
        // Nothing panics while it is held.
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Owners {
    fn ledger(&mut self, owner: &Owner) -> Arc<Ledger> {
        if let Some(ledger) = self.ledgers.get(owner) {
            return ledger.clone();
        }
        if self.ledgers.len() >= self.sweep_at {
            self.ledgers.retain(|_, ledger| Arc::strong_count(ledger) > 1 || ledger.remembers());
            self.sweep_at = FEWEST_SWEPT.max(2 * self.ledgers.len());
        }
        let limits = self.own.get(owner).copied().unwrap_or(self.default);
        let ledger = Arc::new(Ledger::new(Whose::Owner(owner.clone()), limits));
        self.ledgers.insert(owner.clone(), ledger.clone());
        ledger
    }
}

/// What one owner may have of a server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Share {
    overall: Arc<Ledger>,
    /// None for those who are held to the overall limits only.
    owner: Option<Arc<Ledger>>,
}

impl Share {
    /// One more tunnel is asked for. Counted before anything else is done, whatever becomes of it.
    pub fn ask_to_open(&self) -> Result<(), Refused> {
        self.owner.iter().chain([&self.overall]).try_for_each(|ledger| ledger.count_open())
    }

    /// One more of these.
    pub fn take(&self, what: Counted) -> Result<Permit, Refused> {
        let Some(owner) = &self.owner else {
            self.overall.take(what, None)?;
            return Ok(self.permit(what));
        };
        let has = owner.take(what, None)?;
        if let Err(refused) = self.overall.take(what, Some(has)) {
            owner.give_back(what);
            return Err(refused);
        }
        Ok(self.permit(what))
    }

    /// One more of these, even beyond the limits: for what was let in before, such as a tunnel that a restart brings back.
    pub fn take_again(&self, what: Counted) -> Permit {
        for ledger in self.owner.iter().chain([&self.overall]) {
            ledger.take_again(what);
        }
        self.permit(what)
    }

    /// How fast the owner's streams may go.
    pub fn pace(&self) -> Pace {
        let ledgers = || self.owner.iter().chain([&self.overall]);
        Pace {
            to_agent: ledgers().map(|ledger| ledger.to_agents.clone()).collect(),
            to_client: ledgers().map(|ledger| ledger.to_clients.clone()).collect(),
        }
    }

    fn permit(&self, what: Counted) -> Permit {
        Permit { share: self.clone(), what }
    }
}

/// One of what is counted; given back when this is dropped.
#[derive(Debug)]
#[must_use = "dropping a permit gives it back"]
pub struct Permit {
    share: Share,
    what: Counted,
}

impl Drop for Permit {
    fn drop(&mut self) {
        for ledger in self.share.owner.iter().chain([&self.share.overall]) {
            ledger.give_back(self.what);
        }
    }
}

/// Owners that are remembered though they have nothing: some 300 bytes each.
const FEWEST_SWEPT: usize = 1024;

#[cfg(test)]
mod tests;
