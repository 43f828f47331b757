//! What happens to tunnels, told to whoever watches, and where it is counted. Bounded: a watcher that is too slow loses
//! events and is told so.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::sync::broadcast;
use tunnel_api::{Owner, TunnelEvent, TunnelId, TunnelName, What};

use crate::{
    meters::{Meters, stream_end},
    requests::{AccessLog, Ended, RequestWatchers, Requests},
    watch::Interest,
};

/// The one stream of events of a table of tunnels.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    told: broadcast::Sender<Arc<Told>>,
    /// The same but for the clients'. Every agent hears this, and must not be woken for each client of all others.
    without_clients: broadcast::Sender<Arc<Told>>,
    /// These have their own way.
    requests: Arc<RequestWatchers>,
    /// How many were told, of both.
    count: Arc<AtomicU64>,
    meters: Arc<Meters>,
    access_log: AccessLog,
}

/// An event and what a watcher's filter asks about.
#[derive(Debug)]
pub(crate) struct Told {
    /// Of two the later one has the higher.
    pub(crate) number: u64,
    pub(crate) about: Arc<Identity>,
    pub(crate) event: TunnelEvent,
}

/// Who a tunnel is.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) id: TunnelId,
    pub(crate) owner: Owner,
    pub(crate) name: Option<TunnelName>,
    pub(crate) backend: Arc<str>,
}

/// The events of one tunnel, for its parts to add to.
#[derive(Debug, Clone)]
pub(crate) struct TunnelNews {
    events: Events,
    about: Arc<Identity>,
}

impl Events {
    pub(crate) fn new(meters: Arc<Meters>, access_log: AccessLog) -> Self {
        let (told, without_clients) = (broadcast::Sender::new(HELD), broadcast::Sender::new(HELD));
        Self { told, without_clients, requests: Arc::default(), count: Arc::default(), meters, access_log }
    }

    pub(crate) fn meters(&self) -> &Arc<Meters> {
        &self.meters
    }

    pub(crate) fn subscribe(&self, clients: bool) -> broadcast::Receiver<Arc<Told>> {
        if clients { self.told.subscribe() } else { self.without_clients.subscribe() }
    }

    /// The requests of those tunnels, from now on.
    pub(crate) fn watch_requests(&self, interest: Interest) -> Requests {
        self.requests.subscribe(interest)
    }

    pub(crate) fn of(&self, about: Arc<Identity>) -> TunnelNews {
        TunnelNews { events: self.clone(), about }
    }
}

impl TunnelNews {
    /// Tells it to whoever watches; where nobody does, `what` is not even made.
    pub(crate) fn tell(&self, what: impl FnOnce() -> What) {
        self.tell_on(&[&self.events.told, &self.events.without_clients], what);
    }

    /// The same of one client, of which most watchers do not want to hear.
    pub(crate) fn tell_client(&self, what: impl FnOnce() -> What) {
        self.tell_on(&[&self.events.told], what);
    }

    fn tell_on(&self, ways: &[&broadcast::Sender<Arc<Told>>], what: impl FnOnce() -> What) {
        let mut heard = ways.iter().filter(|way| way.receiver_count() > 0).peekable();
        if heard.peek().is_none() {
            return;
        }
        let told = Arc::new(self.told(what()));
        for way in heard {
            // Fails when the last watcher has just left.
            let _ = way.send(told.clone());
        }
    }

    /// Tells of a request, in the log and to whoever watches requests. Its path may have a query.
    pub(crate) fn tell_request(&self, request: Ended<'_>) {
        let Events { requests, meters, access_log, .. } = &self.events;
        meters.request_ended(request.status, request.end, request.first_byte);
        let request = access_log.of(request);
        if access_log.enabled {
            self.log(&request);
        }
        requests.tell(&self.about, meters, || self.told(What::RequestEnded(Box::new(request.into()))));
    }

    /// Of what clients choose freely nothing is written as it is: texts are quoted, and control characters escaped.
    fn log(&self, request: &Ended<'_>) {
        // To the microsecond.
        let millis = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        tracing::info!(
            target: "access",
            { tunnel.id = %self.about.id,
            client.addr = %request.client,
            method = &*request.method,
            host = &*request.host,
            path = &*request.path,
            status = request.status,
            end = stream_end(request.end),
            bytes.to_agent = request.bytes_to_agent,
            bytes.to_client = request.bytes_to_client,
            first_byte_ms = request.first_byte.map(millis),
            duration_ms = millis(request.duration) },
            "request"
        );
    }

    fn told(&self, what: What) -> Told {
        let number = self.events.count.fetch_add(1, Ordering::Relaxed);
        let event = TunnelEvent { time: SystemTime::now(), tunnel: Some(self.about.id.clone()), what };
        Told { number, about: self.about.clone(), event }
    }

    /// Where what happens is counted, whether anybody watches or not.
    pub(crate) fn meters(&self) -> &Meters {
        &self.events.meters
    }

    pub(crate) fn id(&self) -> &TunnelId {
        &self.about.id
    }

    pub(crate) fn about(&self) -> &Arc<Identity> {
        &self.about
    }
}

/// How far a watcher may fall behind. An event is about 200 bytes and is held once for all watchers.
pub(crate) const HELD: usize = 4096;
