//! Requests on their way to those who watch them. There may be many more of them than of anything else that is told, so each
//! watcher has a queue of its own for them: who is slow loses requests, and neither anything else nor another's. Where nobody
//! watches, a request costs nothing here; other owners' watchers do not count.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{sync::Notify, time::sleep};
use tunnel_api::{Owner, RequestEnded, StreamEnd, TunnelEvent, What};

use crate::{
    events::{Identity, Told},
    meters::Meters,
    watch::Interest,
};

/// What is written down of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessLog {
    /// Whether each request is a line in the log. (Those who watch hear of it in any case.)
    pub enabled: bool,
    /// Whether paths are told with their queries, in the log and to those who watch. There may be secrets in them.
    pub query: bool,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self { enabled: true, query: false }
    }
}

impl AccessLog {
    /// A request as it is told: with no more of it than is wanted, and no longer than may be held.
    pub(crate) fn of(self, request: Ended<'_>) -> Ended<'_> {
        let path = if self.query { request.path } else { without_query(request.path) };
        Ended { method: cut(request.method, METHOD), host: cut(request.host, HOST), path: cut(path, PATH), ..request }
    }
}

/// A request that has ended, in the words of whoever has it: [`RequestEnded`] has its own, which only those who watch need.
#[derive(Debug)]
pub(crate) struct Ended<'a> {
    pub(crate) client: SocketAddr,
    pub(crate) method: Cow<'a, str>,
    pub(crate) host: Cow<'a, str>,
    pub(crate) path: Cow<'a, str>,
    pub(crate) status: Option<u16>,
    pub(crate) end: StreamEnd,
    pub(crate) bytes_to_agent: u64,
    pub(crate) bytes_to_client: u64,
    pub(crate) first_byte: Option<Duration>,
    pub(crate) duration: Duration,
}

impl From<Ended<'_>> for RequestEnded {
    fn from(ended: Ended<'_>) -> Self {
        Self {
            client: ended.client,
            method: ended.method.into_owned(),
            host: ended.host.into_owned(),
            path: ended.path.into_owned(),
            status: ended.status,
            end: ended.end,
            bytes_to_agent: ended.bytes_to_agent,
            bytes_to_client: ended.bytes_to_client,
            first_byte: ended.first_byte,
            duration: ended.duration,
        }
    }
}

fn without_query(path: Cow<'_, str>) -> Cow<'_, str> {
    match path.find('?') {
        Some(end) => shortened(path, end),
        None => path,
    }
}

fn shortened(text: Cow<'_, str>, end: usize) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[..end]),
        Cow::Owned(mut text) => {
            text.truncate(end);
            Cow::Owned(text)
        }
    }
}

/// Whoever watches requests, by whose they are.
#[derive(Debug, Default)]
pub(crate) struct RequestWatchers {
    queues: RwLock<HashMap<Owner, Vec<Arc<Queue>>>>,
    /// So that nobody has to look where there is none.
    count: AtomicUsize,
}

/// One watcher's requests, until this is dropped.
#[derive(Debug)]
pub(crate) struct Requests {
    queue: Arc<Queue>,
    watchers: Arc<RequestWatchers>,
}

#[derive(Debug)]
struct Queue {
    interest: Interest,
    waiting: Mutex<VecDeque<Waiting>>,
    more: Notify,
    /// Half of what may be held is.
    half_full: Notify,
}

#[derive(Debug)]
enum Waiting {
    Request(Arc<Told>),
    /// Here so many are missing; the first of them would have had this number.
    Missed {
        number: u64,
        missed: u64,
    },
}

impl RequestWatchers {
    pub(crate) fn subscribe(self: &Arc<Self>, interest: Interest) -> Requests {
        let owner = interest.scope.owner.clone();
        let queue =
            Arc::new(Queue { interest, waiting: Mutex::default(), more: Notify::new(), half_full: Notify::new() });
        self.write().entry(owner).or_default().push(queue.clone());
        self.count.fetch_add(1, Ordering::Relaxed);
        Requests { queue, watchers: self.clone() }
    }

    /// Tells it to those who want it; where nobody does, it is not even made.
    pub(crate) fn tell(&self, about: &Identity, meters: &Meters, told: impl FnOnce() -> Told) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let queues = self.read();
        let mine = queues.get(&about.owner).into_iter().flatten();
        let mut wanting = mine.filter(|queue| queue.interest.covers(about)).peekable();
        if wanting.peek().is_none() {
            return;
        }
        let told = Arc::new(told());
        for queue in wanting {
            if !queue.push(told.clone()) {
                meters.request_missed();
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Owner, Vec<Arc<Queue>>>> {
        // Nothing panics while it is held.
        self.queues.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Owner, Vec<Arc<Queue>>>> {
        // Nothing panics while it is held.
        self.queues.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Whether there was room for it.
    fn push(&self, told: Arc<Told>) -> bool {
        let mut waiting = self.lock();
        let has_room = waiting.len() < HELD;
        match waiting.back_mut() {
            _ if has_room => waiting.push_back(Waiting::Request(told)),
            Some(Waiting::Missed { missed, .. }) => *missed += 1,
            _ => waiting.push_back(Waiting::Missed { number: told.number, missed: 1 }),
        }
        let held = waiting.len();
        drop(waiting);
        if held == 1 {
            self.more.notify_one();
        } else if held == HELD / 2 {
            self.half_full.notify_one();
        }
        has_room
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        // Nothing panics while it is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Requests {
    /// The number of what comes next, if there is anything.
    pub(crate) fn next_number(&self) -> Option<u64> {
        self.queue.lock().front().map(|next| match next {
            Waiting::Request(told) => told.number,
            Waiting::Missed { number, .. } => *number,
        })
    }

    /// What comes next, if there is anything: a request, or how many are missing.
    pub(crate) fn take(&self) -> Option<TunnelEvent> {
        let next = self.queue.lock().pop_front()?;
        Some(match next {
            Waiting::Request(told) => Arc::try_unwrap(told).map_or_else(|told| told.event.clone(), |told| told.event),
            Waiting::Missed { missed, .. } => {
                TunnelEvent { time: SystemTime::now(), tunnel: None, what: What::RequestsMissed { missed } }
            }
        })
    }

    /// Resolves when there may be something; what has come meanwhile counts. Asked when nothing is left. A moment passes after the
    /// first one, because telling many at once costs little more than telling one.
    pub(crate) async fn arrived(&self) {
        self.queue.more.notified().await;
        tokio::select! {
            () = sleep(GATHER) => {}
            () = self.queue.half_full.notified() => {}
        }
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        let owner = &self.queue.interest.scope.owner;
        let mut queues = self.watchers.write();
        if let Some(mine) = queues.get_mut(owner) {
            mine.retain(|queue| !Arc::ptr_eq(queue, &self.queue));
            if mine.is_empty() {
                queues.remove(owner);
            }
        }
        self.watchers.count.fetch_sub(1, Ordering::Relaxed);
    }
}

fn cut(text: Cow<'_, str>, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return text;
    }
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    Cow::Owned(format!("{}…", &text[..end]))
}

/// How many requests a watcher may be behind. One is some 300 bytes and its path, which all watchers share: 1.6 MB at the
/// worst.
const HELD: usize = 1024;

/// Nobody sees a request this much later.
const GATHER: Duration = Duration::from_millis(10);

/// Bytes of what a client chooses freely. Longer paths are few, and rarely read to their end.
const PATH: usize = 1024;
const HOST: usize = 255;
const METHOD: usize = 32;

#[cfg(test)]
pub(crate) mod tests {
    use tunnel_api::WatchFilter;

    use super::*;
    use crate::tunnels::Scope;

    pub(crate) fn request(path: &str) -> Ended<'_> {
        Ended {
            client: ([127, 0, 0, 1], 1234).into(),
            method: "GET".into(),
            host: "blog.localhost".into(),
            path: path.into(),
            status: Some(200),
            end: StreamEnd::Finished,
            bytes_to_agent: 0,
            bytes_to_client: 1200,
            first_byte: Some(Duration::from_millis(3)),
            duration: Duration::from_millis(4),
        }
    }

    #[test]
    fn a_query_is_told_only_where_that_is_wanted() {
        let of = |query| AccessLog { enabled: true, query }.of(request("/login?token=secret?")).path;
        assert_eq!((&*of(false), &*of(true)), ("/login", "/login?token=secret?"));
    }

    #[test]
    fn what_a_client_chooses_is_held_up_to_a_length() {
        let (method, host, path) = ("M".repeat(99), "h".repeat(999), "/ä".repeat(9999));
        let told = AccessLog::default().of(Ended { method: (&method).into(), host: (&host).into(), ..request(&path) });
        assert_eq!((told.method.len(), told.host.len()), (METHOD + '…'.len_utf8(), HOST + '…'.len_utf8()));
        assert!(told.path.len() <= PATH + '…'.len_utf8() && told.path.ends_with("/…"), "{}", told.path);
    }

    #[test]
    fn where_nobody_watches_nothing_is_made() {
        let watchers = Arc::<RequestWatchers>::default();
        let interest = |owner: &str| Interest {
            scope: Scope { owner: Owner::new(owner), backend: "test".into() },
            filter: WatchFilter::default(),
        };
        let about =
            Identity { id: "t-1".parse().unwrap(), owner: Owner::new("alice"), name: None, backend: "test".into() };
        let tell = || watchers.tell(&about, &Meters::default(), || panic!("it is made"));
        tell();
        let _bobs = watchers.subscribe(interest("bob"));
        tell();
        drop(watchers.subscribe(interest("alice")));
        tell();
        assert_eq!(watchers.read().len(), 1, "whoever has gone is forgotten");
    }
}
