//! A name is opened once at a time; others do not wait for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OwnedMutexGuard;
use tunnel_api::{Owner, TunnelName};

type Name = (Owner, TunnelName);
type Names = HashMap<Name, Arc<tokio::sync::Mutex<()>>>;

/// The names that are being opened. Bounded by the calls that are under way.
#[derive(Debug, Default)]
pub(crate) struct Naming(Arc<Mutex<Names>>);

/// The right to open a name.
#[derive(Debug)]
pub(crate) struct Turn {
    name: Name,
    turn: Option<OwnedMutexGuard<()>>,
    names: Arc<Mutex<Names>>,
}

impl Naming {
    /// Waits until nobody else opens this name.
    pub(crate) async fn turn(&self, owner: &Owner, name: &TunnelName) -> Turn {
        let name = (owner.clone(), name.clone());
        let lock = lock(&self.0).entry(name.clone()).or_default().clone();
        // Made first, so that whoever gives up waiting cleans up too.
        let mut turn = Turn { name, turn: None, names: self.0.clone() };
        turn.turn = Some(lock.lock_owned().await);
        turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut names = lock(&self.names);
        drop(self.turn.take());
        // Others that want it have it from the map, under this lock.
        if names.get(&self.name).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            names.remove(&self.name);
        }
    }
}

fn lock(names: &Mutex<Names>) -> MutexGuard<'_, Names> {
    // Nothing panics while it is held.
    names.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_name_is_opened_once_at_a_time_and_leaves_nothing() {
        let naming = Naming::default();
        let (alice, bob) = (Owner::new("alice"), Owner::new("bob"));
        let name: TunnelName = "blog".parse().unwrap();

        let first = naming.turn(&alice, &name).await;
        assert!(naming.turn(&alice, &name).now_or_never().is_none());
        let other = naming.turn(&bob, &name).now_or_never().expect("another owner's name");
        drop(first);
        let second = naming.turn(&alice, &name).now_or_never().expect("free again");

        drop((second, other));
        assert!(naming.0.lock().unwrap().is_empty());
    }
}
