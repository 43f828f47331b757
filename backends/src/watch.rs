//! One watcher of tunnels: it hears what is, then what happens, and of requests what it has room for.

use std::{sync::Arc, time::SystemTime};

use futures_util::{Stream, stream};
use tokio::sync::broadcast::{self, error::TryRecvError};
use tunnel_api::{TunnelError, TunnelEvent, WatchFilter, What};

use crate::{
    events::{HELD, Identity, Told},
    requests::Requests,
    tunnels::{Scope, Tunnels},
};

/// Whose tunnels, and which of them.
#[derive(Debug, Clone)]
pub(crate) struct Interest {
    pub(crate) scope: Scope,
    pub(crate) filter: WatchFilter,
}

impl Interest {
    pub(crate) fn covers(&self, about: &Identity) -> bool {
        self.scope.covers_identity(about) && self.filter.admits(&about.id, about.name.as_ref())
    }
}

/// One watcher.
pub(crate) struct Watch {
    tunnels: Arc<Tunnels>,
    interest: Interest,
    /// If it has asked for them.
    requests: Option<Requests>,
}

/// Where a watcher is.
enum Step {
    /// Told next, before anything new.
    Tell(std::vec::IntoIter<TunnelEvent>, News),
    /// The server drains, and that is all that is told.
    Drains,
    /// The last item has been given.
    Over,
}

/// What has happened since.
struct News {
    told: broadcast::Receiver<Arc<Told>>,
    /// Taken from there already, and told when its turn among the requests has come.
    next: Option<Arc<Told>>,
}

impl Watch {
    pub(crate) fn new(tunnels: Arc<Tunnels>, interest: Interest) -> Self {
        let requests = interest.filter.requests.then(|| tunnels.events().watch_requests(interest.clone()));
        Self { tunnels, interest, requests }
    }

    pub(crate) fn events(self) -> impl Stream<Item = Result<TunnelEvent, TunnelError>> + Send {
        let step = self.present_state();
        stream::unfold((self, step), |(watch, step)| async move {
            let (mut first, mut news) = match step {
                Step::Tell(first, news) => (first, news),
                Step::Drains => return Some((Err(TunnelError::draining()), (watch, Step::Over))),
                Step::Over => return None,
            };
            if let Some(event) = first.next() {
                return Some((Ok(event), (watch, Step::Tell(first, news))));
            }
            match watch.next(&mut news).await {
                Some(Ok(event)) => Some((Ok(event), (watch, Step::Tell(first, news)))),
                Some(Err(missed)) => {
                    let step = watch.present_state();
                    Some((Ok(event(What::Lagged { missed })), (watch, step)))
                }
                None => Some((Err(TunnelError::draining()), (watch, Step::Over))),
            }
        })
    }

    /// The next event that is this watcher's; how many were missed; or nothing, when the server drains.
    ///
    /// Requests are told in their turn, so that a tunnel's come before its end.
    async fn next(&self, news: &mut News) -> Option<Result<TunnelEvent, u64>> {
        loop {
            while news.next.is_none() {
                match news.told.try_recv() {
                    Ok(told) => news.next = Some(told).filter(|told| self.interest.covers(&told.about)),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Lagged(missed)) => return Some(Err(missed)),
                    Err(TryRecvError::Closed) => return None,
                }
            }
            let request = self.requests.as_ref().and_then(|requests| Some((requests.next_number()?, requests)));
            match (&news.next, request) {
                (Some(told), Some((number, requests))) if number < told.number && !news.is_overdue() => {
                    return requests.take().map(Ok);
                }
                (Some(_), _) => return news.next.take().map(|told| Ok(told.event.clone())),
                (None, Some((_, requests))) => return requests.take().map(Ok),
                (None, None) => {}
            }
            tokio::select! {
                biased;
                told = news.told.recv() => match told {
                    Ok(told) => news.next = Some(told).filter(|told| self.interest.covers(&told.about)),
                    Err(broadcast::error::RecvError::Lagged(missed)) => return Some(Err(missed)),
                    Err(broadcast::error::RecvError::Closed) => return None,
                },
                () = self.requests_arrived() => {}
                () = self.tunnels.drained() => return None,
            }
        }
    }

    async fn requests_arrived(&self) {
        match &self.requests {
            Some(requests) => requests.arrived().await,
            None => std::future::pending().await,
        }
    }

    /// What is open now, and the news from this very moment on.
    fn present_state(&self) -> Step {
        let (mut present, told) = self.tunnels.present(&self.interest);
        // What is missing then was not closed by anybody: it may come back with the server.
        if self.tunnels.check_not_draining().is_err() {
            return Step::Drains;
        }
        present.push(event(What::Ready));
        Step::Tell(present.into_iter(), News { told, next: None })
    }
}

impl News {
    /// Whether they have waited behind requests for so long that some could be lost.
    fn is_overdue(&self) -> bool {
        self.told.len() > HELD / 2
    }
}

/// An event that is about no tunnel.
fn event(what: What) -> TunnelEvent {
    TunnelEvent { time: SystemTime::now(), tunnel: None, what }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::StreamExt;
    use tunnel_api::{CloseReason, Owner, TunnelEvents};

    use super::*;
    use crate::{events::TunnelNews, meters::Meters, requests::tests::request, tunnels::TunnelsConfig};

    fn news(tunnels: &Tunnels, id: &str, owner: &str) -> TunnelNews {
        let name = format!("name-of-{id}").parse().ok();
        tunnels.news(Identity { id: id.parse().unwrap(), owner: Owner::new(owner), name, backend: "test".into() })
    }

    /// From the first news on.
    async fn watch(tunnels: &Arc<Tunnels>, owner: &str, filter: WatchFilter) -> TunnelEvents {
        let mut watch = tunnels.watch(Scope { owner: Owner::new(owner), backend: "test".into() }, filter);
        assert_eq!(next(&mut watch).await, What::Ready);
        watch
    }

    fn with_requests() -> WatchFilter {
        WatchFilter { requests: true, ..WatchFilter::default() }
    }

    async fn next(watch: &mut TunnelEvents) -> What {
        watch.next().await.unwrap().unwrap().what
    }

    fn told(path: &str) -> What {
        What::RequestEnded(Box::new(request(path).into()))
    }

    fn closed() -> What {
        What::Closed { reason: CloseReason::Requested }
    }

    #[tokio::test]
    async fn a_server_that_drains_does_not_say_what_there_is() {
        let tunnels = Tunnels::new();
        tunnels.drain(Duration::ZERO).await;
        let mut watch =
            tunnels.watch(Scope { owner: Owner::new("alice"), backend: "test".into() }, WatchFilter::default());
        let told = watch.next().await.unwrap();
        assert!(matches!(told, Err(TunnelError::Unavailable { .. })), "{told:?}");
        assert!(watch.next().await.is_none());
    }

    #[tokio::test]
    async fn a_request_is_told_with_the_tunnel_that_it_went_to() {
        let tunnels = Tunnels::new();
        let mut watch = watch(&tunnels, "alice", with_requests()).await;
        news(&tunnels, "t-1", "alice").tell_request(request("/a?b"));
        let event = watch.next().await.unwrap().unwrap();
        assert_eq!((event.tunnel, event.what), ("t-1".parse().ok(), told("/a")));
    }

    #[tokio::test]
    async fn who_has_not_asked_for_requests_hears_of_none() {
        let tunnels = Tunnels::new();
        let mut watch = watch(&tunnels, "alice", WatchFilter::default()).await;
        let tunnel = news(&tunnels, "t-1", "alice");
        tunnel.tell_request(request("/"));
        tunnel.tell(closed);
        assert_eq!(next(&mut watch).await, closed());
    }

    #[tokio::test]
    async fn another_owners_requests_are_not_told() {
        let tunnels = Tunnels::new();
        let mut watch = watch(&tunnels, "alice", with_requests()).await;
        news(&tunnels, "t-2", "bob").tell_request(request("/bobs"));
        news(&tunnels, "t-1", "alice").tell_request(request("/alices"));
        assert_eq!(next(&mut watch).await, told("/alices"));
    }

    #[tokio::test]
    async fn a_filter_by_id_or_name_admits_only_that_tunnels_requests() {
        let tunnels = Tunnels::new();
        let (id, name) = ("t-1".parse().ok(), "name-of-t-1".parse().ok());
        let mut by_id = watch(&tunnels, "alice", WatchFilter { id, ..with_requests() }).await;
        let mut by_name = watch(&tunnels, "alice", WatchFilter { name, ..with_requests() }).await;
        news(&tunnels, "t-2", "alice").tell_request(request("/others"));
        news(&tunnels, "t-1", "alice").tell_request(request("/its"));
        assert_eq!((next(&mut by_id).await, next(&mut by_name).await), (told("/its"), told("/its")));
    }

    #[tokio::test]
    async fn a_tunnels_requests_are_told_before_its_end() {
        let tunnels = Tunnels::new();
        let mut watch = watch(&tunnels, "alice", with_requests()).await;
        let tunnel = news(&tunnels, "t-1", "alice");
        for path in ["/1", "/2"] {
            tunnel.tell_request(request(path));
        }
        tunnel.tell(closed);
        tunnel.tell_request(request("/late"));
        for expected in [told("/1"), told("/2"), closed(), told("/late")] {
            assert_eq!(next(&mut watch).await, expected);
        }
    }

    #[tokio::test]
    async fn a_slow_reader_loses_requests_that_are_counted_and_nothing_else() {
        let meters = Arc::new(Meters::default());
        let tunnels = Tunnels::with(TunnelsConfig { meters: meters.clone(), ..TunnelsConfig::default() });
        let mut slow = watch(&tunnels, "alice", with_requests()).await;
        let tunnel = news(&tunnels, "t-1", "alice");
        for number in 0..3000 {
            tunnel.tell_request(request(&format!("/{number}")));
        }
        tunnel.tell(closed);

        let mut heard = 0;
        let missed = loop {
            match next(&mut slow).await {
                What::RequestEnded(request) => assert_eq!(request.path, format!("/{heard}")),
                What::RequestsMissed { missed } => break missed,
                other => panic!("{other:?}"),
            }
            heard += 1;
        };
        assert_eq!((heard, heard + missed, meters.requests_missed()), (1024, 3000, missed));
        assert_eq!(next(&mut slow).await, closed());
        // It reads on, and there is room again.
        tunnel.tell_request(request("/next"));
        assert_eq!(next(&mut slow).await, told("/next"));
    }

    #[tokio::test]
    async fn a_slow_reader_takes_nothing_from_another_one() {
        let tunnels = Tunnels::new();
        let _slow = watch(&tunnels, "alice", with_requests()).await;
        let mut quick = watch(&tunnels, "alice", with_requests()).await;
        let tunnel = news(&tunnels, "t-1", "alice");
        for number in 0..3000 {
            tunnel.tell_request(request(&format!("/{number}")));
            assert_eq!(next(&mut quick).await, told(&format!("/{number}")));
        }
    }

    #[tokio::test]
    async fn news_are_not_lost_behind_requests() {
        let tunnels = Tunnels::new();
        let mut slow = watch(&tunnels, "alice", with_requests()).await;
        let tunnel = news(&tunnels, "t-1", "alice");
        for _ in 0..HELD / 4 {
            tunnel.tell_request(request("/"));
        }
        for _ in 0..HELD - 1 {
            tunnel.tell(closed);
        }
        let (mut requests, mut news) = (0, 0);
        while (requests, news) != (HELD / 4, 3 * HELD - 1) {
            // As many come as are read.
            if news < 2 * HELD {
                tunnel.tell(closed);
            }
            match next(&mut slow).await {
                What::RequestEnded(_) => requests += 1,
                What::Closed { .. } => news += 1,
                other => panic!("after {requests} and {news}: {other:?}"),
            }
        }
    }
}
