//! The table of open tunnels, shared by all backends of a server: a name is its owner's once, whichever backend runs the
//! tunnel. It answers the calls that are look-ups; backends add to it and it takes off what has closed.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use futures_util::{Stream, StreamExt, future::join_all, stream};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;
use tunnel_api::{
    CloseReason, Owner, Page, TunnelError, TunnelEvent, TunnelEvents, TunnelId, TunnelInfo, TunnelName, TunnelRef,
    TunnelUri, WatchFilter, What,
};

use crate::{
    events::{Events, Identity, Told, TunnelNews},
    lease::Lease,
    meters::{Meters, close_reason},
    tunnel::Tunnel,
};

/// The open tunnels of a server.
#[derive(Debug)]
pub struct Tunnels {
    table: Mutex<Table>,
    events: Events,
    /// Held while a named tunnel is being opened, so that a name is opened once.
    pub(crate) naming: tokio::sync::Mutex<()>,
    draining: CancellationToken,
    keepers: TaskTracker,
}

#[derive(Debug, Default)]
struct Table {
    by_id: BTreeMap<TunnelId, Arc<Tunnel>>,
    by_uri: HashMap<TunnelUri, Arc<Tunnel>>,
    by_name: HashMap<(Owner, TunnelName), Arc<Tunnel>>,
    /// What went through tunnels that are no longer here.
    moved: Moved,
}

/// Bytes, each way.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Moved {
    pub(crate) to_agent: u64,
    pub(crate) to_client: u64,
}

/// Whose tunnels, on which backend: what a caller of that backend may see.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub(crate) owner: Owner,
    pub(crate) backend: Arc<str>,
}

impl Tunnels {
    /// No tunnels yet.
    pub fn new() -> Arc<Self> {
        Self::metered(Arc::default())
    }

    /// The same; what happens to them is counted there.
    pub fn metered(meters: Arc<Meters>) -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::default(),
            events: Events::new(meters),
            naming: tokio::sync::Mutex::default(),
            draining: CancellationToken::new(),
            keepers: TaskTracker::new(),
        })
    }

    /// Refuses new tunnels, takes no more clients or agents, lets what runs end for as long as `patience`, and closes what
    /// is left. Watchers are told that the server drains.
    pub async fn drain(&self, patience: Duration) {
        self.draining.cancel();
        let open: Vec<_> = self.lock().by_id.values().cloned().collect();
        for tunnel in &open {
            tunnel.uplink.retire();
        }
        let streams = open.iter().map(|tunnel| async {
            let _ = tunnel.uplink.presence().wait_for(|presence| !presence.online).await;
        });
        let _ = timeout(patience, join_all(streams)).await;
        // One that was being opened when the drain began may have come meanwhile.
        for tunnel in self.lock().by_id.values() {
            tunnel.close(CloseReason::Shutdown);
        }
        self.keepers.close();
        self.keepers.wait().await;
    }

    pub(crate) fn check_not_draining(&self) -> Result<(), TunnelError> {
        if self.draining.is_cancelled() { Err(TunnelError::draining()) } else { Ok(()) }
    }

    pub(crate) fn news(&self, about: Identity) -> TunnelNews {
        self.events.of(Arc::new(about))
    }

    /// Puts a tunnel on the table and keeps it there until it is over. Gives the leases back if another open tunnel has the
    /// same URI, which can be where the kernel chooses ports.
    pub(crate) fn add(self: &Arc<Self>, tunnel: Arc<Tunnel>, leases: Vec<Lease>) -> Result<(), Vec<Lease>> {
        let mut table = self.lock();
        if table.by_uri.contains_key(&tunnel.uri) {
            return Err(leases);
        }
        let about = tunnel.about();
        table.by_id.insert(about.id.clone(), tunnel.clone());
        table.by_uri.insert(tunnel.uri.clone(), tunnel.clone());
        if let Some(name) = &about.name {
            table.by_name.insert((about.owner.clone(), name.clone()), tunnel.clone());
        }
        // Under the lock, so that a watcher finds it either in the present state or in the news.
        tunnel.news.tell(|| What::Opened(Box::new(tunnel.info())));
        drop(table);
        if self.draining.is_cancelled() {
            tunnel.close(CloseReason::Shutdown);
        }
        let tunnels = self.clone();
        self.keepers.spawn(
            async move {
                let reason = tunnel.keep(leases).await;
                tunnels.take_off(&tunnel, reason);
                tunnel.mark_closed();
            }
            .in_current_span(),
        );
        Ok(())
    }

    fn take_off(&self, tunnel: &Tunnel, reason: CloseReason) {
        let about = tunnel.about();
        let mut table = self.lock();
        table.by_id.remove(&about.id);
        table.by_uri.remove(&tunnel.uri);
        if let Some(name) = &about.name {
            table.by_name.remove(&(about.owner.clone(), name.clone()));
        }
        // All its streams have been settled: its front has let go of them.
        let counts = tunnel.uplink.counts();
        table.moved.to_agent += counts.to_agent;
        table.moved.to_client += counts.to_client;
        tunnel.news.tell(|| What::Closed { reason });
        drop(table);
        self.events.meters().tunnel_closed(reason);
        tracing::info!(
            target: "audit",
            event = "close",
            tunnel.id = %about.id,
            tunnel.name = about.name.as_ref().map(tracing::field::display),
            owner = %about.owner,
            backend = %about.backend,
            reason = close_reason(reason),
            seconds = tunnel.open_time.elapsed().unwrap_or_default().as_secs(),
            streams = counts.all_streams,
            bytes.to_agent = counts.to_agent,
            bytes.to_client = counts.to_client,
            "tunnel closed"
        );
    }

    /// The tunnels that are open, and what went through those that have closed: of one moment, so that no byte is missing or
    /// counted twice.
    pub(crate) fn census(&self) -> (Vec<Arc<Tunnel>>, Moved) {
        let table = self.lock();
        (table.by_id.values().cloned().collect(), table.moved)
    }

    pub(crate) fn by_uri(&self, scope: &Scope, uri: &TunnelUri) -> Option<Arc<Tunnel>> {
        self.lock().by_uri.get(uri).filter(|tunnel| scope.covers(tunnel)).cloned()
    }

    /// Whichever backend it is on, and even if it is closing.
    pub(crate) fn by_name(&self, owner: &Owner, name: &TunnelName) -> Option<Arc<Tunnel>> {
        self.lock().by_name.get(&(owner.clone(), name.clone())).cloned()
    }

    pub(crate) fn find(&self, scope: &Scope, tunnel: &TunnelRef) -> Option<Arc<Tunnel>> {
        match tunnel {
            TunnelRef::Uri(uri) => self.by_uri(scope, uri),
            TunnelRef::Id(id) => self.lock().by_id.get(id).filter(|tunnel| scope.covers(tunnel)).cloned(),
            TunnelRef::Name(name) => self.by_name(&scope.owner, name).filter(|tunnel| scope.covers(tunnel)),
        }
    }

    pub(crate) fn list(&self, scope: &Scope, page: &Page) -> Vec<TunnelInfo> {
        let above = page.after.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let table = self.lock();
        let mine = table.by_id.range((above, Bound::Unbounded)).map(|(_, tunnel)| tunnel);
        mine.filter(|tunnel| scope.covers(tunnel)).take(page.limit).map(|tunnel| tunnel.info()).collect()
    }

    pub(crate) fn watch(self: &Arc<Self>, scope: Scope, filter: WatchFilter) -> TunnelEvents {
        let watch = Watch { tunnels: self.clone(), scope, filter };
        watch.events().boxed()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while it is held.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scope {
    fn covers(&self, tunnel: &Tunnel) -> bool {
        self.covers_identity(tunnel.about()) && !tunnel.is_closing()
    }

    fn covers_identity(&self, about: &Identity) -> bool {
        about.owner == self.owner && about.backend == self.backend
    }
}

/// One watcher.
struct Watch {
    tunnels: Arc<Tunnels>,
    scope: Scope,
    filter: WatchFilter,
}

/// Where a watcher is.
enum Step {
    /// Told next, before anything new.
    Tell(std::vec::IntoIter<TunnelEvent>, broadcast::Receiver<Arc<Told>>),
    /// The last item has been given.
    Over,
}

impl Watch {
    fn events(self) -> impl Stream<Item = Result<TunnelEvent, TunnelError>> + Send {
        let (present, news) = self.present_state();
        stream::unfold((self, Step::Tell(present.into_iter(), news)), |(watch, step)| async move {
            let Step::Tell(mut first, mut news) = step else { return None };
            if let Some(event) = first.next() {
                return Some((Ok(event), (watch, Step::Tell(first, news))));
            }
            match watch.next(&mut news).await {
                Some(Ok(event)) => Some((Ok(event), (watch, Step::Tell(first, news)))),
                Some(Err(missed)) => {
                    let (present, news) = watch.present_state();
                    Some((Ok(event(What::Lagged { missed })), (watch, Step::Tell(present.into_iter(), news))))
                }
                None => Some((Err(TunnelError::draining()), (watch, Step::Over))),
            }
        })
    }

    /// The next event that is this watcher's; how many were missed; or nothing, when the server drains.
    async fn next(&self, news: &mut broadcast::Receiver<Arc<Told>>) -> Option<Result<TunnelEvent, u64>> {
        loop {
            let told = tokio::select! {
                biased;
                told = news.recv() => told,
                () = self.tunnels.draining.cancelled() => return None,
            };
            match told {
                Ok(told) if self.wants(&told.about) => return Some(Ok(told.event.clone())),
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => return Some(Err(missed)),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// What is open now, and the news from this very moment on.
    fn present_state(&self) -> (Vec<TunnelEvent>, broadcast::Receiver<Arc<Told>>) {
        let table = self.tunnels.lock();
        let news = self.tunnels.events.subscribe();
        let mine = table.by_id.values().filter(|tunnel| self.wants(tunnel.about()));
        let mut present: Vec<_> = mine
            .map(|tunnel| TunnelEvent {
                time: SystemTime::now(),
                tunnel: Some(tunnel.about().id.clone()),
                what: What::Present(Box::new(tunnel.info())),
            })
            .collect();
        present.push(event(What::Ready));
        (present, news)
    }

    fn wants(&self, about: &Identity) -> bool {
        self.scope.covers_identity(about) && self.filter.admits(&about.id, about.name.as_ref())
    }
}

/// An event that is about no tunnel.
fn event(what: What) -> TunnelEvent {
    TunnelEvent { time: SystemTime::now(), tunnel: None, what }
}
