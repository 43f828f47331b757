//! The live agent connections of one tunnel, and the places for streams they offer.
//!
//! "One connection per tunnel" is a session with room for one stream, a multiplexed session has room for many, and several
//! agents on one tunnel are several sessions: one set, no special cases.

use std::{
    fmt,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::Request;
use tokio::sync::{Notify, Semaphore};
use tunnel_api::{AgentLoss, What};

use crate::{
    events::TunnelNews,
    exchange::{BoxExchange, Requests},
    meters::Meters,
    presence::{Expiry, Lifetime, Presence, Watched},
    session::{BoxStream, Session, SessionGone},
    uplink::ClientInfo,
};

/// The sessions of one tunnel. Shared by its carrier, which adds them, and its uplink, which takes places in them.
pub(crate) struct Sessions {
    state: Mutex<State>,
    /// One permit for each place that is free now. Permits are handed out in the order in which they were asked for, so
    /// the client that has waited longest is served first.
    places: Semaphore,
    presence: Watched,
    news: TunnelNews,
    /// Told when a place becomes free, for whoever cannot use just any.
    freed: Notify,
}

/// One who waits for a place that is not in just any session.
struct Choosy<'a>(&'a Sessions);

impl<'a> Choosy<'a> {
    fn new(sessions: &'a Sessions) -> Self {
        sessions.lock().choosy += 1;
        Self(sessions)
    }
}

impl Drop for Choosy<'_> {
    fn drop(&mut self) {
        self.0.lock().choosy -= 1;
    }
}

#[derive(Default)]
struct State {
    members: Vec<Member>,
    streams: usize,
    /// Those who wait for `freed`: where there are none, nobody is told.
    choosy: usize,
    next_key: u64,
    /// How the last session that left came to do so.
    loss: AgentLoss,
    /// The tunnel is over: who comes and goes is no news any more.
    is_over: bool,
}

struct Member {
    key: u64,
    session: Arc<dyn Session>,
    used: usize,
}

impl Sessions {
    pub(crate) fn new(lifetime: Lifetime, news: TunnelNews) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            places: Semaphore::new(0),
            presence: Watched::new(Presence::new(lifetime)),
            news,
            freed: Notify::new(),
        })
    }

    /// Adds a session; it leaves when the membership is dropped. `took_over` is where the same agent was connected from before.
    pub(crate) fn join(
        self: &Arc<Self>,
        session: Arc<dyn Session>,
        agent: SocketAddr,
        took_over: Option<SocketAddr>,
    ) -> Membership {
        let room = session.room();
        let mut state = self.lock();
        let key = state.next_key;
        state.next_key += 1;
        state.members.push(Member { key, session, used: 0 });
        // Told before anybody can get a place.
        if !self.show_presence(&state, Some((agent, took_over))) && took_over.is_some() {
            self.tell(&state, || What::AgentConnected { agent, took_over });
        }
        drop(state);
        self.places.add_permits(room);
        self.freed.notify_waiters();
        Membership { sessions: self.clone(), key }
    }

    /// Waits for a place and takes it, in the session with the fewest streams.
    pub(crate) async fn take(self: &Arc<Self>) -> Place {
        loop {
            // The semaphore lives as long as we do and is never closed.
            let Ok(permit) = self.places.acquire().await else { return std::future::pending().await };
            permit.forget();
            if let Some(place) = self.pick(&[]) {
                return place;
            }
            // The place went with its session, after the permit was ours.
        }
    }

    /// Takes a place if one is free and nobody waits for it.
    pub(crate) fn take_at_once(self: &Arc<Self>) -> Option<Place> {
        // None is free while anybody waits: then a place that becomes free is theirs.
        while let Ok(permit) = self.places.try_acquire() {
            permit.forget();
            if let Some(place) = self.pick(&[]) {
                return Some(place);
            }
        }
        None
    }

    /// Waits for a place in a session that is none of these, and takes it. Whoever waits in [`take`](Self::take) goes first.
    pub(crate) async fn take_other(self: &Arc<Self>, tried: &[u64]) -> Place {
        let _choosy = Choosy::new(self);
        loop {
            // It waits from here on, so that none that becomes free meanwhile is missed.
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Ok(permit) = self.places.try_acquire()
                && let Some(place) = self.pick(tried)
            {
                permit.forget();
                return place;
            }
            freed.await;
        }
    }

    pub(crate) fn presence(&self) -> &Watched {
        &self.presence
    }

    pub(crate) fn touch(&self) {
        self.presence.change(Presence::touch);
    }

    pub(crate) fn resume(&self) {
        self.presence.change(Presence::resume);
    }

    /// Whoever still goes does so because the tunnel is over.
    pub(crate) fn close_books(&self) {
        self.lock().is_over = true;
    }

    /// Sessions that can take a client now, and streams that are running.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        let open = state.members.iter().filter(|member| member.used < member.session.room()).count();
        (open, state.streams)
    }

    /// Sessions, whether they have room or not.
    pub(crate) fn members(&self) -> usize {
        self.lock().members.len()
    }

    /// Where what happens is counted.
    pub(crate) fn meters(&self) -> &Meters {
        self.news.meters()
    }

    fn pick(self: &Arc<Self>, tried: &[u64]) -> Option<Place> {
        let mut state = self.lock();
        let member = state.least_used(tried)?;
        member.used += 1;
        let (key, session) = (member.key, member.session.clone());
        state.streams += 1;
        Some(Place { sessions: self.clone(), key, session })
    }

    fn leave(&self, key: u64, loss: AgentLoss) {
        let mut state = self.lock();
        let Some(index) = state.members.iter().position(|member| member.key == key) else { return };
        state.loss = loss;
        let gone = state.members.remove(index);
        // Permits that waiters have taken meanwhile find no place and are dropped there.
        self.places.forget_permits(gone.session.room().saturating_sub(gone.used));
        self.show_presence(&state, None);
    }

    fn give_back(&self, key: u64) {
        let mut state = self.lock();
        state.streams -= 1;
        if let Some(member) = state.members.iter_mut().find(|member| member.key == key) {
            member.used -= 1;
            self.places.add_permits(1);
            if state.choosy > 0 {
                self.freed.notify_waiters();
            }
        }
        // Where there is a session, it has been shown that there is.
        if state.members.is_empty() {
            self.show_presence(&state, None);
        }
    }

    /// Shows whether anybody is there, and tells it if that has changed. All of that happens while the state is held, so that
    /// the news come in order.
    fn show_presence(&self, state: &State, arrived: Option<(SocketAddr, Option<SocketAddr>)>) -> bool {
        let online = !state.members.is_empty() || state.streams > 0;
        self.presence.change(|presence| {
            if presence.online == online {
                return;
            }
            match arrived {
                Some((agent, took_over)) => {
                    presence.arrive();
                    self.tell(state, || What::AgentConnected { agent, took_over });
                }
                None => {
                    presence.leave();
                    if let Some(Expiry { time: expire_time, .. }) = presence.expiry {
                        self.tell(state, || What::AgentLost { expire_time, loss: state.loss });
                    }
                }
            }
        })
    }

    fn tell(&self, state: &State, what: impl FnOnce() -> What) {
        if !state.is_over {
            self.news.tell(what);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The session with the fewest streams, of those that can be counted on if there are any. The first unused one is as good
    /// as any, which makes this quick where each session serves one client.
    fn least_used(&mut self, tried: &[u64]) -> Option<&mut Member> {
        let mut best: Option<((bool, usize), usize)> = None;
        for (index, member) in self.members.iter().enumerate() {
            if tried.contains(&member.key) || member.used >= member.session.room() {
                continue;
            }
            let burden = (member.session.is_doubtful(), member.used);
            if best.is_none_or(|(least, _)| burden < least) {
                best = Some((burden, index));
                if burden == (false, 0) {
                    break;
                }
            }
        }
        best.map(|(_, index)| &mut self.members[index])
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sessions, streams) = self.counts();
        f.debug_struct("Sessions").field("open", &sessions).field("streams", &streams).finish_non_exhaustive()
    }
}

/// A session's stay among the sessions of its tunnel; it leaves when this is dropped.
#[derive(Debug)]
pub struct Membership {
    sessions: Arc<Sessions>,
    key: u64,
}

impl Membership {
    /// Leaves, and says why.
    pub fn leave(self, loss: AgentLoss) {
        self.sessions.leave(self.key, loss);
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.sessions.leave(self.key, AgentLoss::HungUp);
    }
}

/// One stream's place in a session; given back when this is dropped.
pub(crate) struct Place {
    sessions: Arc<Sessions>,
    key: u64,
    session: Arc<dyn Session>,
}

impl Place {
    /// Opens the stream. A session that cannot is not asked again.
    pub(crate) async fn open(&self, client: &ClientInfo) -> Result<BoxStream, SessionGone> {
        let opened = self.session.open(client).await;
        if opened.is_err() {
            self.sessions.leave(self.key, AgentLoss::HungUp);
        }
        opened
    }

    /// What sends requests there, if anything can.
    pub(crate) fn requests(&self) -> Option<&dyn Requests> {
        self.session.requests()
    }

    /// Sends a request. A session that cannot is not asked again.
    pub(crate) fn send(&self, head: Request<()>, ends: bool) -> Result<BoxExchange, SessionGone> {
        let sent = self.requests().map_or(Err(SessionGone), |requests| requests.send(head, ends));
        if sent.is_err() {
            self.sessions.leave(self.key, AgentLoss::HungUp);
        }
        sent
    }

    /// Names the session, for [`take_other`](Sessions::take_other).
    pub(crate) fn session_key(&self) -> u64 {
        self.key
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sessions.give_back(self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use tokio::time::timeout;

    use super::*;
    use crate::events::{Events, Identity};

    struct Idle(usize);

    #[async_trait]
    impl Session for Idle {
        async fn open(&self, _: &ClientInfo) -> Result<BoxStream, SessionGone> {
            Err(SessionGone)
        }

        fn room(&self) -> usize {
            self.0
        }
    }

    fn sessions() -> Arc<Sessions> {
        let about = Identity {
            id: "t-1".parse().unwrap(),
            owner: tunnel_api::Owner::new("local"),
            name: None,
            backend: "test".into(),
        };
        let lifetime = Lifetime { dial_within: Duration::from_secs(60), grace: None };
        Sessions::new(lifetime, Events::new(Arc::default(), Default::default()).of(Arc::new(about)))
    }

    fn agent() -> SocketAddr {
        "127.0.0.1:1".parse().unwrap()
    }

    async fn is_empty(sessions: &Arc<Sessions>) -> bool {
        timeout(Duration::from_millis(1), sessions.take()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_taken_once_and_given_back() {
        let sessions = sessions();
        let _member = sessions.join(Arc::new(Idle(1)), agent(), None);
        let place = sessions.take().await;
        assert!(is_empty(&sessions).await);
        drop(place);
        assert!(!is_empty(&sessions).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_places_of_a_session_go_with_it() {
        let sessions = sessions();
        let first = sessions.join(Arc::new(Idle(2)), agent(), None);
        let place = sessions.take().await;
        drop(first);
        assert!(is_empty(&sessions).await);
        drop(place);
        assert!(is_empty(&sessions).await, "a place of a session that has left came back");
        let _second = sessions.join(Arc::new(Idle(1)), agent(), None);
        let _place = sessions.take().await;
        assert!(is_empty(&sessions).await);
    }

    #[tokio::test(start_paused = true)]
    async fn streams_go_to_the_least_used_session() {
        let sessions = sessions();
        let _members =
            [sessions.join(Arc::new(Idle(9)), agent(), None), sessions.join(Arc::new(Idle(9)), agent(), None)];
        let mut keys = Vec::new();
        let mut places = Vec::new();
        for _ in 0..4 {
            places.push(sessions.take().await);
            keys.push(places[places.len() - 1].key);
        }
        assert_eq!(keys, [0, 1, 0, 1]);
    }

    struct Doubtful;

    #[async_trait]
    impl Session for Doubtful {
        async fn open(&self, _: &ClientInfo) -> Result<BoxStream, SessionGone> {
            Err(SessionGone)
        }

        fn room(&self) -> usize {
            9
        }

        fn is_doubtful(&self) -> bool {
            true
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_is_in_doubt_gets_clients_only_if_there_is_no_other() {
        let sessions = sessions();
        let _doubtful = sessions.join(Arc::new(Doubtful), agent(), None);
        let other = sessions.join(Arc::new(Idle(9)), agent(), None);
        let mut places = Vec::new();
        for _ in 0..3 {
            places.push(sessions.take().await);
        }
        assert!(places.iter().all(|place| place.key == 1));
        drop(other);
        assert_eq!(sessions.take().await.key, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_running_stream_is_presence_without_any_session() {
        let sessions = sessions();
        let member = sessions.join(Arc::new(Idle(1)), agent(), None);
        let place = sessions.take().await;
        drop(member);
        assert!(sessions.presence().now().online);
        drop(place);
        assert!(!sessions.presence().now().online);
        assert!(sessions.presence().now().was_dialled);
    }
}
