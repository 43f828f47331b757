//! What an earlier server left, put in its place before anybody can ask for it.

use std::{collections::HashSet, error::Error, sync::Arc};

use tunnel_api::TunnelError;

use crate::{
    composed::{Composed, Unrestored, Where},
    registry::{GivenUp, Loaded, Record},
    tunnels::Tunnels,
};

/// Restores the tunnels that are recorded, each on its backend. Call it before the door is opened, and before anything else is
/// opened on these backends.
///
/// What cannot be restored is said, keeps its record, and its address is held for its owner: the next start tries again.
pub async fn restore(tunnels: &Arc<Tunnels>, backends: &[Arc<Composed>], loaded: Loaded) {
    let Loaded { tunnels: records, given_up, tickets: _ } = loaded;
    let (restored, over): (Vec<_>, Vec<_>) = latest_first(records, tunnels).into_iter().partition(Record::is_restored);
    let kept = over.len() + given_up.len();
    // Held before anybody is given a port of the server's choice.
    for record in &restored {
        tunnels.quarantine().hold(record.claim(), &record.owner);
    }
    for record in &over {
        tunnels.give_up_for(record).await;
    }
    for GivenUp { record, until } in given_up {
        if !tunnels.quarantine().keep(record.claim(), &record.owner, record.id(), until) {
            tunnels.forget_given_up(&record, until);
        }
    }
    let all = restored.len();
    let parked = restore_all(tunnels, backends, restored).await;
    tunnels.sweep_in_time();
    if all + kept > 0 {
        tracing::info!(restored = all - parked, not_restored = parked, addresses_kept = kept, "state restored");
    }
}

/// Dial-in ports that cannot be had again are chosen anew, but not before all others have theirs. Gives how many are parked.
async fn restore_all(tunnels: &Arc<Tunnels>, backends: &[Arc<Composed>], records: Vec<Record>) -> usize {
    let mut parked = 0;
    let mut moved = Vec::new();
    for record in records {
        let Some(backend) = backends.iter().find(|backend| *backend.name == *record.backend) else {
            tracing::warn!(
                tunnel.id = %record.id(),
                owner = %record.owner,
                backend = record.backend,
                address = %record.address,
                "a tunnel is recorded for a backend that is not configured; configure it and start again, or remove the record"
            );
            tunnels.parked.add(record);
            parked += 1;
            continue;
        };
        match backend.restore(&record, Where::AsBefore).await {
            Ok(()) => {}
            Err(Unrestored::DialIn(_)) => moved.push((backend, record)),
            Err(Unrestored::Address(error)) => {
                park(tunnels, record, &error);
                parked += 1;
            }
        }
    }
    for (backend, record) in moved {
        if let Err(unrestored) = backend.restore(&record, Where::Nearby).await {
            park(tunnels, record, unrestored.error());
            parked += 1;
        }
    }
    parked
}

fn park(tunnels: &Tunnels, record: Record, error: &TunnelError) {
    tracing::error!(
        tunnel.id = %record.id(),
        owner = %record.owner,
        address = %record.address,
        error = error as &dyn Error,
        "a tunnel cannot be restored; its address is held for its owner, and the next start tries again"
    );
    tunnels.parked.add(record);
}

/// Of two with the same address or name the later one counts: it was opened when the other one was over, and the record of that
/// one could not be removed.
fn latest_first(mut records: Vec<Record>, tunnels: &Arc<Tunnels>) -> Vec<Record> {
    records.sort_by_key(|record| std::cmp::Reverse(record.open_time));
    let (mut claims, mut names) = (HashSet::new(), HashSet::new());
    let is_current = |record: &Record| {
        let is_first = claims.insert(record.claim());
        let name = record.name.clone().map(|name| (record.owner.clone(), name));
        name.is_none_or(|name| names.insert(name)) && is_first
    };
    let (current, outdated): (Vec<_>, Vec<_>) = records.into_iter().partition(is_current);
    for record in outdated {
        tracing::warn!(
            tunnel.id = %record.id(),
            address = %record.address,
            "the record of a tunnel is older than another one with its address or name; it is removed"
        );
        tunnels.remove_record(&record);
    }
    current
}
