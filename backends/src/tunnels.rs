//! The table of open tunnels, shared by all backends of a server: a name is its owner's once, whichever backend runs the
//! tunnel. It answers the calls that are look-ups; backends add to it and it takes off what has closed.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, future::join_all};
use tokio::{
    sync::broadcast,
    time::{sleep_until, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::Instrument;
use tunnel_api::{
    CloseReason, CredentialId, Owner, Page, TunnelError, TunnelEvent, TunnelEvents, TunnelId, TunnelInfo, TunnelName,
    TunnelRef, TunnelUri, WatchFilter, What,
};

use crate::{
    closed::Closed,
    events::{Events, Identity, Told, TunnelNews},
    lease::Lease,
    meters::Meters,
    naming::{Naming, Turn},
    parked::Parked,
    quarantine::{Claim, Forgotten, GivenUpBy, Quarantine},
    quotas::Quotas,
    records::{Records, Unfinished, Unwritten},
    registry::{InMemory, Record, Registry},
    requests::AccessLog,
    tunnel::{Recording, Tunnel},
    watch::{Interest, Watch},
};

/// The open tunnels of a server.
#[derive(Debug)]
pub struct Tunnels {
    table: Mutex<Table>,
    events: Events,
    pub(crate) quotas: Arc<Quotas>,
    naming: Naming,
    records: Arc<Records>,
    /// Tasks that serve these tunnels end with them.
    _background: DropGuard,
    quarantine: Arc<Quarantine>,
    /// Tunnels of an earlier server that cannot be here now.
    pub(crate) parked: Parked,
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

/// Why a tunnel is not opened.
pub(crate) enum NotOpened {
    /// Another one has the same URI.
    SameUri,
    /// It cannot be recorded.
    Refused(TunnelError),
}

/// Whose tunnels, on which backend: what a caller of that backend may see.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub(crate) owner: Owner,
    pub(crate) backend: Arc<str>,
}

/// What a table of tunnels is given.
#[derive(Debug, Clone)]
pub struct TunnelsConfig {
    /// Where tunnels are recorded.
    pub registry: Arc<dyn Registry>,
    /// Remembers the addresses that they give up; the pools that hand them out are to share it.
    pub quarantine: Arc<Quarantine>,
    /// What their owners are held to.
    pub quotas: Arc<Quotas>,
    /// Counts what happens to them.
    pub meters: Arc<Meters>,
    /// What is written down of their clients' requests.
    pub access_log: AccessLog,
}

impl Default for TunnelsConfig {
    /// Nothing outlives the process, nothing is remembered, and there are no limits.
    fn default() -> Self {
        Self {
            registry: Arc::new(InMemory),
            quarantine: Quarantine::new(Duration::ZERO),
            quotas: Quotas::unlimited(),
            meters: Arc::default(),
            access_log: AccessLog::default(),
        }
    }
}

impl Tunnels {
    /// No tunnels yet, none that outlive the process, and no limits.
    pub fn new() -> Arc<Self> {
        Self::with(TunnelsConfig::default())
    }

    /// No tunnels yet.
    pub fn with(config: TunnelsConfig) -> Arc<Self> {
        let TunnelsConfig { registry, quarantine, quotas, meters, access_log } = config;
        let records = Records::new(registry);
        Arc::new(Self {
            table: Mutex::default(),
            events: Events::new(meters, access_log),
            quotas,
            naming: Naming::default(),
            _background: records.guard(),
            records,
            quarantine,
            parked: Parked::default(),
            draining: CancellationToken::new(),
            keepers: TaskTracker::new(),
        })
    }

    /// Refuses new tunnels, takes no more clients or agents, lets what runs end for as long as `patience`, and closes what
    /// is left. Watchers are told that the server drains. Records stay, and the registry is closed.
    pub async fn drain(&self, patience: Duration) {
        self.draining.cancel();
        let open: Vec<_> = self.lock().by_id.values().cloned().collect();
        for tunnel in &open {
            tunnel.uplink.retire();
        }
        let streams = open.iter().map(|tunnel| tunnel.uplink.presence().until(|presence| !presence.online));
        let _ = timeout(patience, join_all(streams)).await;
        // One that was being opened when the drain began may have come meanwhile.
        for tunnel in self.lock().by_id.values() {
            tunnel.close(CloseReason::Shutdown);
        }
        self.keepers.close();
        self.keepers.wait().await;
        self.records.close().await;
    }

    /// Closes the tunnels that were opened by whoever is meant, and says how many when they are closed. Those who open one
    /// meanwhile are asked for their credentials by somebody else.
    pub async fn close_where(
        &self,
        is_meant: impl Fn(&Owner, Option<&CredentialId>) -> bool,
        reason: CloseReason,
    ) -> usize {
        let open: Vec<_> = self.lock().by_id.values().cloned().collect();
        let meant: Vec<_> =
            open.iter().filter(|tunnel| is_meant(&tunnel.about().owner, tunnel.credential().as_ref())).collect();
        for tunnel in &meant {
            tunnel.close(reason);
        }
        let parked = self.parked.take_where(|record| is_meant(&record.owner, record.credential.as_ref()));
        join_all(parked.iter().map(|record| self.close_taken(record, reason))).await;
        join_all(meant.iter().map(|tunnel| tunnel.closed())).await;
        meant.len() + parked.len()
    }

    /// Whether a public port was this owner's lately, so that it may ask for it by number whatever else it may.
    pub fn is_kept_for(&self, owner: &Owner, port: u16) -> bool {
        self.quarantine.is_kept_for(owner, &Claim::Port(port))
    }

    pub(crate) fn check_not_draining(&self) -> Result<(), TunnelError> {
        if self.draining.is_cancelled() { Err(TunnelError::draining()) } else { Ok(()) }
    }

    pub(crate) fn news(&self, about: Identity) -> TunnelNews {
        self.events.of(Arc::new(about))
    }

    /// Waits until nobody else opens this name.
    pub(crate) async fn turn(&self, owner: &Owner, name: &TunnelName) -> Turn {
        self.naming.turn(owner, name).await
    }

    pub(crate) fn records(&self) -> &Arc<Records> {
        &self.records
    }

    pub(crate) fn quarantine(&self) -> &Quarantine {
        &self.quarantine
    }

    /// Records a tunnel, puts it on the table and keeps it there until it is over. Until it is on the table, dropping the
    /// future undoes it, and what it held is free soon; if it is refused, what it held is free.
    pub(crate) async fn open(self: &Arc<Self>, tunnel: Arc<Tunnel>, leases: Vec<Lease>) -> Result<(), NotOpened> {
        let unfinished = Unfinished::new(tunnel.recording.recorded.clone(), leases);
        if let Some(record) = tunnel.record()
            && let Err(unwritten) = tunnel.recording.recorded.write(record).await
        {
            unfinished.undo().await;
            return Err(match unwritten {
                Unwritten::Failed(error) => NotOpened::Refused(error),
                Unwritten::Over => NotOpened::SameUri,
            });
        }
        match self.add(tunnel, unfinished) {
            Ok(()) => Ok(()),
            Err(unfinished) => {
                unfinished.undo().await;
                Err(NotOpened::SameUri)
            }
        }
    }

    /// Puts a tunnel of an earlier server on the table. It is recorded already, but for what `has_changed`.
    pub(crate) async fn take_back(
        self: &Arc<Self>,
        tunnel: Arc<Tunnel>,
        leases: Vec<Lease>,
        has_changed: bool,
    ) -> Result<(), TunnelError> {
        if has_changed
            && let Some(record) = tunnel.record()
            && tunnel.recording.recorded.write(record).await.is_err()
        {
            tracing::warn!(tunnel.id = %tunnel.about().id, "where its agents dial in could not be recorded");
        }
        // Its record stays where it is if it cannot be taken back.
        let nothing_of_it = self.records.of(&tunnel.about().id);
        self.add(tunnel, Unfinished::new(nothing_of_it, leases))
            .map_err(|_| TunnelError::internal("putting it on the table", "another tunnel has its URI"))
    }

    /// Gives it back if another open tunnel has the same URI, which can be where the kernel chooses ports.
    fn add(self: &Arc<Self>, tunnel: Arc<Tunnel>, unfinished: Unfinished) -> Result<(), Unfinished> {
        let mut table = self.lock();
        if table.by_uri.contains_key(&tunnel.uri) {
            return Err(unfinished);
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
        self.settle(&tunnel);
        if self.draining.is_cancelled() {
            tunnel.close(CloseReason::Shutdown);
        }
        let leases = unfinished.finish();
        let tunnels = self.clone();
        self.keepers.spawn(
            async move {
                let reason = tunnel.live_out().await;
                // While it still has its port, so that nobody gets it in between.
                if !tunnels.is_only_away(reason) {
                    tunnels.let_go(&tunnel).await;
                }
                for lease in leases {
                    lease.release().await;
                }
                tunnels.take_off(&tunnel, reason);
                tunnel.mark_closed();
            }
            .in_current_span(),
        );
        Ok(())
    }

    /// Whether the tunnel will be there again when the server is. Agents leave a server that stops, which is no reason to close
    /// their tunnels.
    fn is_only_away(&self, reason: CloseReason) -> bool {
        let was_closed = matches!(reason, CloseReason::Requested | CloseReason::Revoked);
        reason == CloseReason::Shutdown || (self.draining.is_cancelled() && !was_closed)
    }

    /// Its address may be remembered for its owner; its record goes, or says that.
    async fn let_go(self: &Arc<Self>, tunnel: &Tunnel) {
        let Recording { recorded, after_restart } = &tunnel.recording;
        let about = tunnel.about();
        let was_asked_for = tunnel.terms.asks_for_its_address();
        let by = if was_asked_for {
            GivenUpBy::WhoAskedForIt { record: after_restart.map(|_| about.id.clone()) }
        } else {
            GivenUpBy::WhoWasGivenIt
        };
        let until = self.quarantine.give_up(tunnel.claim(), &about.owner, by);
        if until.is_some() {
            self.sweep_in_time();
        }
        if after_restart.is_some() {
            recorded.end(until.filter(|_| was_asked_for).map(|until| until.time)).await;
        }
    }

    /// Whoever had this tunnel's address before need not be remembered any more. If that was a tunnel that could not be
    /// restored, either this is it, or it has found its successor.
    fn settle(&self, tunnel: &Tunnel) {
        self.records.forget(self.quarantine.settle(&tunnel.claim()).into_iter().collect());
        for record in self.parked.take_where(|record| record.claim() == tunnel.claim()) {
            if *record.id() != tunnel.about().id {
                self.remove_record(&record);
            }
        }
    }

    /// A tunnel of an earlier server is over: nothing is left of it but its address, for a while.
    pub(crate) async fn give_up_for(&self, record: &Record) {
        let by = GivenUpBy::WhoAskedForIt { record: Some(record.id().clone()) };
        let until = self.quarantine.give_up(record.claim(), &record.owner, by);
        self.records.found(record.id()).end(until.map(|until| until.time)).await;
    }

    /// An address that an earlier server kept is not kept any longer.
    pub(crate) fn forget_given_up(&self, record: &Record, until: SystemTime) {
        self.records.forget(vec![Forgotten { id: record.id().clone(), until }]);
    }

    /// In the background.
    pub(crate) fn remove_record(&self, record: &Record) {
        let recorded = self.records.found(record.id());
        self.records.spawn(async move { recorded.end(None).await });
    }

    /// Closes a tunnel that could not be restored, on whichever backend: that one may not even be there. Says whether there
    /// was one.
    pub(crate) async fn close_parked(&self, owner: &Owner, tunnel: &TunnelRef) -> bool {
        let Some(record) = self.parked.take(owner, tunnel) else { return false };
        self.close_taken(&record, CloseReason::Requested).await;
        true
    }

    /// Nobody else has taken it from the parked ones.
    async fn close_taken(&self, record: &Record, reason: CloseReason) {
        // Nothing else is remembered of the address, because it is held.
        self.quarantine.settle(&record.claim());
        if record.terms.asks_for_its_address() {
            self.give_up_for(record).await;
            self.sweep_in_time();
        } else {
            self.records.found(record.id()).end(None).await;
        }
        self.events.meters().tunnel_closed(reason);
        let closed = Closed {
            id: record.id(),
            name: record.name.as_ref(),
            owner: &record.owner,
            backend: &record.backend,
            open_time: record.open_time,
            streams: 0,
            to_agent: 0,
            to_client: 0,
        };
        closed.tell(reason);
    }

    /// Forgets addresses when it is time to, if nobody does so already.
    pub(crate) fn sweep_in_time(&self) {
        if !self.quarantine.begin_sweeping() {
            return;
        }
        let (quarantine, records) = (self.quarantine.clone(), self.records.clone());
        self.records.spawn(async move {
            loop {
                let (over, next) = quarantine.sweep();
                records.forget(over);
                match next {
                    // What is given up meanwhile is over later.
                    Some(next) => sleep_until(next).await,
                    None => return,
                }
            }
        });
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
        let closed = Closed {
            id: &about.id,
            name: about.name.as_ref(),
            owner: &about.owner,
            backend: &about.backend,
            open_time: tunnel.open_time,
            streams: counts.all_streams,
            to_agent: counts.to_agent,
            to_client: counts.to_client,
        };
        closed.tell(reason);
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
        Watch::new(self.clone(), Interest { scope, filter }).events().boxed()
    }

    /// Those that are open now, and the news from this very moment on.
    pub(crate) fn present(&self, interest: &Interest) -> (Vec<TunnelEvent>, broadcast::Receiver<Arc<Told>>) {
        let table = self.lock();
        let news = self.events.subscribe(!interest.filter.no_clients);
        // Each agent asks for one, and all of them may come at once.
        let bound = interest.filter.id.as_ref().map_or(Bound::Unbounded, Bound::Included);
        let asked_for = table.by_id.range((bound, bound)).map(|(_, tunnel)| tunnel);
        let wanted = asked_for.filter(|tunnel| interest.covers(tunnel.about()));
        let present = wanted.map(|tunnel| TunnelEvent {
            time: SystemTime::now(),
            tunnel: Some(tunnel.about().id.clone()),
            what: What::Present(Box::new(tunnel.info())),
        });
        (present.collect(), news)
    }

    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    /// Resolves when no more is told, because the server drains.
    pub(crate) async fn drained(&self) {
        self.draining.cancelled().await;
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

    pub(crate) fn covers_identity(&self, about: &Identity) -> bool {
        about.owner == self.owner && about.backend == self.backend
    }
}
