//! The host names that belong to tunnels. One table for all fronts that hand them out and for the door, which finds in it whose a
//! client is. A host is one tunnel's, whatever its clients speak.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tunnel_api::{Host, Owner, TunnelError};

use crate::{
    quarantine::{Claim, Quarantine},
    uplink::Uplink,
};

/// All names there are.
#[derive(Debug)]
pub struct Names {
    domain: Host,
    /// The server's own, which are nobody's.
    reserved: Vec<Host>,
    quarantine: Arc<Quarantine>,
    table: RwLock<HashMap<Host, Arc<Named>>>,
}

/// A name that belongs to a tunnel.
#[derive(Debug)]
pub struct Named {
    /// The name, in full.
    pub host: Host,
    /// What its clients speak.
    pub spoken: Spoken,
    /// The way to its agents.
    pub uplink: Uplink,
    /// For clients that wait for an agent.
    waiting: Arc<Semaphore>,
}

/// What the clients of a name speak with the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP, perhaps by TLS that ends here.
    Http,
    /// TLS, of which nothing but the name is read here.
    Tls,
}

impl Named {
    /// A place among those of its clients that wait for an agent, once there is one: each of them costs a descriptor and a task.
    pub(crate) async fn place_to_wait(&self) -> OwnedSemaphorePermit {
        match self.waiting.clone().acquire_owned().await {
            Ok(place) => place,
            // It is never closed.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Names {
    /// Names in this domain, and others for those who may have them; but none of these, and no IP address.
    pub fn new(domain: Host, reserved: impl IntoIterator<Item = Host>, quarantine: Arc<Quarantine>) -> Arc<Self> {
        let mut reserved: Vec<_> = reserved.into_iter().collect();
        reserved.extend([localhost(), domain.clone()]);
        Arc::new(Self { domain, reserved, quarantine, table: RwLock::default() })
    }

    /// Where names are given out.
    pub fn domain(&self) -> &Host {
        &self.domain
    }

    /// Whose this host is, if it is a tunnel's.
    pub fn find(&self, host: &Host) -> Option<Arc<Named>> {
        self.read().get(host).cloned()
    }

    /// Whether nobody but a tunnel could have this host: it is in the domain, and not one of the server's own.
    pub fn has_in_domain(&self, host: &Host) -> bool {
        self.label(host).is_some() && !self.reserved.contains(host)
    }

    /// A name in full: one without dots is one in the domain.
    pub fn in_full(&self, name: &Host) -> Host {
        if name.ip().is_some() || name.to_string().contains('.') || self.reserved.contains(name) {
            return name.clone();
        }
        // Too long a one is none; then it stays what it is, and is refused as such.
        format!("{name}.{}", self.domain).parse().unwrap_or_else(|_| name.clone())
    }

    /// What comes before the domain, where a host is in it.
    pub fn label(&self, host: &Host) -> Option<String> {
        let host = host.to_string();
        let label = host.strip_suffix(&self.domain.to_string())?.strip_suffix('.')?;
        Some(label.to_owned())
    }

    /// Whether this name was this owner's lately, so that it may ask for it whatever else it may.
    pub fn is_kept_for(&self, owner: &Owner, name: &Host) -> bool {
        self.quarantine.is_kept_for(owner, &Claim::Host(self.in_full(name)))
    }

    /// Takes this name, or one that nobody can guess, for a tunnel of this owner's. Its clients are found by it at once; so many of
    /// them may wait for an agent.
    pub(crate) fn claim(
        self: &Arc<Self>,
        wanted: Option<&Host>,
        owner: &Owner,
        spoken: Spoken,
        uplink: Uplink,
        waiting_clients: usize,
    ) -> Result<NameLease, TunnelError> {
        let host = match wanted {
            Some(name) => self.allowed(name, owner)?,
            None => self.generated()?,
        };
        match self.write().entry(host.clone()) {
            Entry::Occupied(_) => Err(TunnelError::AddressTaken { address: format!("the name {host}") }),
            Entry::Vacant(entry) => {
                let waiting = Arc::new(Semaphore::new(waiting_clients));
                entry.insert(Arc::new(Named { host: host.clone(), spoken, uplink, waiting }));
                Ok(NameLease { names: self.clone(), host })
            }
        }
    }

    fn allowed(&self, name: &Host, owner: &Owner) -> Result<Host, TunnelError> {
        let host = self.in_full(name);
        if host.ip().is_some() || self.reserved.contains(&host) || !host.to_string().contains('.') {
            let why = format!("{host} is no name for a tunnel; ask for one such as http://blog, or leave it empty");
            return Err(TunnelError::invalid("address", why));
        }
        match self.quarantine.bars(owner, &Claim::Host(host.clone())) {
            Some(barred) => Err(TunnelError::AddressTaken { address: format!("the name {host} ({barred})") }),
            None => Ok(host),
        }
    }

    /// 64 random bits: nobody guesses it, and one that is taken is found when it is claimed.
    fn generated(&self) -> Result<Host, TunnelError> {
        let host = format!("{:016x}.{}", rand::random::<u64>(), self.domain).parse();
        host.map_err(|error| TunnelError::internal("choosing a name", error))
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Host, Arc<Named>>> {
        // Nothing panics while it is held.
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Host, Arc<Named>>> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The domain whose names lead to one's own machine (RFC 6761, 6.3).
pub fn localhost() -> Host {
    "localhost".parse().expect("a host name")
}

/// A name that is held; it is free when this is dropped.
#[derive(Debug)]
pub(crate) struct NameLease {
    names: Arc<Names>,
    host: Host,
}

impl NameLease {
    pub(crate) fn host(&self) -> &Host {
        &self.host
    }
}

impl Drop for NameLease {
    fn drop(&mut self) {
        self.names.write().remove(&self.host);
    }
}
