use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tunnel_api::{Caller, PublicAddress, TunnelError, TunnelId, TunnelUri};

use super::Patience;
use crate::{
    carrier::{Admission, Carrier, DialFrom},
    hosts::Advertised,
    lease::Lease,
    meters::DialInRefused,
    tickets::Tickets,
    uplink::Uplink,
};

/// Lets agents in by PTTH, on the server's one port.
#[derive(Debug)]
pub struct PtthCarrier {
    /// Where they come in.
    pub gate: Arc<Gate>,
    /// The host that agents dial.
    pub advertised: Advertised,
    /// The port that agents dial.
    pub port: u16,
    /// How many sessions a tunnel may have at once. Each costs a descriptor and some 50 KiB.
    pub max_sessions: usize,
    /// How long an agent may be silent.
    pub patience: Patience,
}

impl Carrier for PtthCarrier {
    fn admit(
        &self,
        caller: &Caller,
        admission: Admission<'_>,
        uplink: Uplink,
    ) -> Result<(TunnelUri, Lease), TunnelError> {
        let host = admission.dial_in.host().cloned().map_or_else(|| self.advertised.host(caller), Ok)?;
        // Who asked by TLS is to dial in by TLS: the ticket is worth as much as the call.
        let uri = if caller.encrypted { TunnelUri::ptths } else { TunnelUri::ptth };
        let uri = uri(&host, self.port, admission.id, &self.gate.tickets.issue(admission.id));
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let admitted = Admitted {
            uplink,
            dial_from: admission.dial_from,
            address: admission.address.clone(),
            max_sessions: self.max_sessions,
            patience: self.patience,
            stop: stop.clone(),
            tasks: tasks.clone(),
            entries: Mutex::default(),
        };
        self.gate.lock().insert(admission.id.clone(), Arc::new(admitted));
        let listed = Listed { gate: self.gate.clone(), id: admission.id.clone() };
        Ok((uri, Lease::new(stop, tasks, listed)))
    }

    fn knows_its_agents(&self) -> bool {
        true
    }

    fn carries_requests(&self) -> bool {
        true
    }

    fn carries_many(&self) -> bool {
        true
    }
}

/// Who may come in by PTTH: the tunnels that are open, and their tickets. One serves all the backends of a server.
#[derive(Debug, Default)]
pub struct Gate {
    tickets: Tickets,
    admitted: Mutex<HashMap<TunnelId, Arc<Admitted>>>,
}

/// A tunnel whose agents may come in.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) uplink: Uplink,
    pub(super) dial_from: DialFrom,
    pub(super) address: PublicAddress,
    pub(super) patience: Patience,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    max_sessions: usize,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    present: HashMap<u64, Known>,
}

/// An agent's connection that has come in.
#[derive(Debug)]
struct Known {
    /// How the agent calls itself.
    agent: Option<String>,
    addr: SocketAddr,
    over: CancellationToken,
}

impl Gate {
    /// Nobody may come in yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Nobody may come in yet, and those who may will have these tickets.
    pub fn with_tickets(tickets: Tickets) -> Arc<Self> {
        Arc::new(Self { tickets, admitted: Mutex::default() })
    }

    /// The tunnel that this ticket is for. Whatever is wrong, there is none.
    pub(super) fn find(&self, id: &str, ticket: &str) -> Option<Arc<Admitted>> {
        let id: TunnelId = id.parse().ok()?;
        if !self.tickets.admits(&id, ticket) {
            return None;
        }
        self.lock().get(&id).filter(|admitted| !admitted.stop.is_cancelled()).cloned()
    }

    /// How many have ever come in, of the tunnels that are open.
    #[cfg(test)]
    pub(super) fn came_in(&self) -> u64 {
        self.lock().values().map(|admitted| admitted.lock().next).sum()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TunnelId, Arc<Admitted>>> {
        // Nothing panics while it is held.
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tunnel's entry at the gate.
#[derive(Debug)]
struct Listed {
    gate: Arc<Gate>,
    id: TunnelId,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.gate.lock().remove(&self.id);
    }
}

impl Admitted {
    /// Takes in a connection; there is none where the tunnel has as many as it may.
    pub(super) fn enter(self: &Arc<Self>, agent: Option<String>, addr: SocketAddr, since: Instant) -> Option<Entry> {
        let mut entries = self.lock();
        let comes_back = agent.is_some() && entries.present.values().any(|known| known.agent == agent);
        if entries.present.len() >= self.max_sessions && !comes_back {
            self.uplink.meters().dial_in_refused(DialInRefused::Full);
            return None;
        }
        let number = entries.next;
        entries.next += 1;
        let over = self.stop.child_token();
        entries.present.insert(number, Known { agent, addr, over: over.clone() });
        Some(Entry { admitted: self.clone(), number, addr, since, over })
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Nothing panics while it is held.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's stay; it has left when this is dropped.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) admitted: Arc<Admitted>,
    pub(super) addr: SocketAddr,
    /// When it came to the door.
    pub(super) since: Instant,
    /// The tunnel is over, or the same agent has come again: for it, this connection is dead.
    pub(super) over: CancellationToken,
    number: u64,
}

impl Entry {
    /// What has made it over, if it is.
    pub(super) fn is_replaced(&self) -> bool {
        !self.admitted.stop.is_cancelled()
    }

    /// Ends the earlier connections of the same agent, and says where the last one came from.
    pub(super) fn take_over(&self) -> Option<SocketAddr> {
        let entries = self.admitted.lock();
        let agent = entries.present.get(&self.number)?.agent.as_ref()?;
        let is_earlier = |number: u64, known: &Known| number < self.number && known.agent.as_ref() == Some(agent);
        let earlier = entries.present.iter().filter(|(number, known)| is_earlier(**number, known));
        earlier
            .inspect(|(_, known)| known.over.cancel())
            .max_by_key(|(number, _)| **number)
            .map(|(_, known)| known.addr)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.admitted.lock().present.remove(&self.number);
    }
}
