//! Keeps one tunnel alive behind its listener: dial-ins waiting, the tunnel open, the address the same.

use std::{io, pin::Pin, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tunnel_api::{
    AddressRequest, Caller, CloseReason, OpenedTunnel, TunnelBackend, TunnelError, TunnelEvents, TunnelRef,
    WatchFilter, tls::ClientTls,
};
use tunnel_backends::carrier::{ClientsPerDialIn, DialError, Dialler, dialler_for};

use crate::{
    AgentState, Tunnel,
    backoff::{Backoff, Failure},
    demand::Demand,
    dial_in::{DialIn, Ended},
    news::{closed, standing, was_closed},
    requests::Feed,
    stream::Taker,
};

/// How a listener tells its keeper to stop.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    /// No more clients; what runs may end.
    pub(crate) leave: CancellationToken,
    /// Everything at once.
    pub(crate) close: CancellationToken,
}

/// How a tunnel is dialled.
pub(crate) struct Dialling {
    pub(crate) tls: ClientTls,
    pub(crate) dialler: Arc<dyn Dialler>,
}

/// One tunnel's keeper. A task of its own, from the listener's start until the tunnel is over.
pub(crate) struct Keeper {
    backend: Arc<dyn TunnelBackend>,
    dialling: Dialling,
    tunnel: Tunnel,
    opened: OpenedTunnel,
    /// Gone when no more are taken.
    taker: Option<Taker>,
    state: watch::Sender<AgentState>,
    /// For whoever wants to hear of requests.
    feed: Arc<Feed>,
    stop: Stop,
    /// Streams that were given out and have not ended.
    running: TaskTracker,
    dial_ins: JoinSet<Ended>,
    /// Told by each dial-in when it is connected.
    connected: (mpsc::Sender<()>, mpsc::Receiver<()>),
    /// Dial-ins that are.
    live: usize,
    /// The server did not know the tunnel when it was last dialled.
    was_unknown: bool,
    /// The last dial-in found no TLS with the server: that was said.
    has_no_tls: bool,
    demand: Demand,
    backoff: Backoff,
}

/// What ended the dialling.
enum Over {
    /// Our listener wants no more.
    Left,
    /// Somebody closed the tunnel.
    Closed,
    /// The server refuses our credentials.
    Refused,
}

impl Over {
    /// What a tunnel's end means for us; nothing where it is to be opened again.
    fn by(reason: CloseReason) -> Option<Self> {
        match reason {
            CloseReason::Requested => Some(Self::Closed),
            CloseReason::Revoked => {
                tracing::warn!("the tunnel was closed: its credentials were revoked");
                Some(Self::Refused)
            }
            _ => None,
        }
    }
}

impl Keeper {
    #[expect(clippy::too_many_arguments, reason = "its one caller has each of them once")]
    pub(crate) fn new(
        backend: Arc<dyn TunnelBackend>,
        dialling: Dialling,
        tunnel: Tunnel,
        opened: OpenedTunnel,
        taker: Taker,
        state: watch::Sender<AgentState>,
        feed: Arc<Feed>,
        stop: Stop,
    ) -> Self {
        let most = tunnel.most_waiting().min(opened.connections as usize).max(1);
        Self {
            backend,
            dialling,
            tunnel,
            opened,
            taker: Some(taker),
            state,
            feed,
            stop,
            running: TaskTracker::new(),
            dial_ins: JoinSet::new(),
            connected: mpsc::channel(64),
            live: 0,
            was_unknown: false,
            has_no_tls: false,
            demand: Demand::new(most),
            backoff: Backoff::default(),
        }
    }

    pub(crate) async fn run(mut self) {
        let close = self.stop.close.clone();
        let mut end = AgentState::Closed;
        tokio::select! {
            biased;
            () = close.cancelled() => self.give_up().await,
            over = self.serve() => match over {
                Over::Left => self.leave(&close).await,
                Over::Closed => self.dial_ins.abort_all(),
                Over::Refused => {
                    self.dial_ins.abort_all();
                    end = AgentState::Refused;
                }
            }
        }
        self.state.send_replace(end);
    }

    /// Lets what runs end and arrive, then closes the tunnel; a named one stays ours.
    async fn leave(&mut self, close: &CancellationToken) {
        // A client that was sent in the moment in which the listener went stays in the channel for as long as anybody could send
        // another one, and counts as running. (Who still listens takes the channel's end for news, and reads the state.)
        self.taker = None;
        if self.dialling.dialler.clients() == ClientsPerDialIn::One {
            // Those that have no client yet; the others are their clients' streams.
            self.dial_ins.abort_all();
        }
        self.running.close();
        let is_named = self.tunnel.is_named();
        let all_has_arrived = async {
            self.running.wait().await;
            let _ = timeout(PARTED, self.parted()).await;
            if !is_named {
                let _ = timeout(DELIVERED, self.delivered()).await;
            }
        };
        let ended = tokio::select! {
            biased;
            () = close.cancelled() => false,
            () = all_has_arrived => true,
        };
        if !(ended && is_named) {
            self.give_up().await;
        }
    }

    /// What was said on connections that many clients shared has arrived: whoever exits before that may take it along.
    async fn parted(&mut self) {
        loop {
            tokio::select! {
                dial_in = self.dial_ins.join_next() => if dial_in.is_none() { break },
                // There may be one that has to tell it before it can part.
                Some(()) = self.connected.1.recv() => {}
            }
        }
    }

    /// Clients have what was said to them: to close the tunnel cuts off whoever is still there.
    async fn delivered(&self) {
        let mut wait = LOOK_AGAIN;
        while self.clients_still_there().await.is_some_and(|clients| clients > 0) {
            sleep(wait).await;
            wait = (wait * 2).min(LOOK_AGAIN_AT_LAST);
        }
    }

    /// As the server knows it.
    async fn clients_still_there(&self) -> Option<u32> {
        standing(&mut self.watch().await?).await.map(|info| info.streams)
    }

    async fn give_up(&self) {
        let tunnel = TunnelRef::Id(self.opened.id.clone());
        let us = Caller::embedded();
        match timeout(CLOSE, self.backend.close_tunnel(&us, &tunnel)).await {
            Ok(Ok(()) | Err(TunnelError::NotFound)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "tunnel not closed; it will expire"),
            Err(_) => tracing::debug!("tunnel not closed in time; it will expire"),
        }
    }

    /// Dials in, hands on who comes, and comes back when something was away.
    async fn serve(&mut self) -> Over {
        let (leave, feed) = (self.stop.leave.clone(), self.feed.clone());
        self.fill();
        let mut events = self.watch().await;
        if let Some(over) = was_closed(&mut events).await.and_then(Over::by) {
            return over;
        }
        // While we find out how the tunnel stands after a failure, nothing is dialled; what is connected goes on.
        let mut inquiry: Option<Inquiry> = None;
        let mut watching: Option<Watching> = None;
        loop {
            if inquiry.is_none() {
                self.fill();
            }
            if events.is_none() && watching.is_none() {
                watching = Some(self.watch_again());
            }
            tokio::select! {
                biased;
                () = leave.cancelled() => return Over::Left,
                () = feed.becomes_wanted() => {
                    // What is told now has to be asked for anew.
                    (events, watching) = (self.watch().await, None);
                    if let Some(over) = was_closed(&mut events).await.and_then(Over::by) {
                        return over;
                    }
                }
                reason = closed(&mut events, &feed) => {
                    if let Some(over) = reason.and_then(Over::by) {
                        return over;
                    }
                }
                Some(()) = self.connected.1.recv() => {
                    (self.live, self.was_unknown, self.has_no_tls) = (self.live + 1, false, false);
                    self.show(AgentState::Online);
                }
                Some(dial_in) = self.dial_ins.join_next() => match self.dial_in_ended(dial_in) {
                    // A pool's dial-ins fail together; the first one asks for all.
                    Some(error) if inquiry.is_none() => inquiry = Some(self.inquire(&error)),
                    _ => {}
                },
                news = done(&mut watching) => (events, watching) = (news, None),
                standing = done(&mut inquiry) => {
                    inquiry = match standing {
                        Standing::Open => None,
                        Standing::Unknown => Some(self.ask_again(Failure::Silent)),
                        Standing::Refused(error) => return refused(&error),
                        Standing::Gone => {
                            let told = timeout(TOLD, closed(&mut events, &feed)).await.ok().flatten();
                            if let Some(over) = told.and_then(Over::by) {
                                return over;
                            }
                            match self.open_again().await {
                                Ok(()) => {
                                    // They were of the tunnel that is no more.
                                    events = None;
                                    None
                                }
                                Err(error) if is_refusal(&error) => return refused(&error),
                                Err(error) => {
                                    tracing::warn!(%error, "cannot open the tunnel again; trying on");
                                    Some(self.ask_again(Failure::Refused))
                                }
                            }
                        }
                    };
                    if inquiry.is_none() && events.is_none() {
                        (events, watching) = (self.watch().await, None);
                    }
                }
            }
        }
    }

    /// As many dial-ins as there should be.
    fn fill(&mut self) {
        let wanted = match self.dialling.dialler.clients() {
            ClientsPerDialIn::One => self.demand.target(),
            ClientsPerDialIn::Many => self.tunnel.session_count(),
        };
        while self.dial_ins.len() < wanted
            && let Some(taker) = self.taker.clone()
        {
            self.dial(taker);
        }
    }

    /// The application takes clients at its own pace. One that it has not taken keeps its dial-in from being replaced, so
    /// that the rest wait at the server.
    fn dial(&mut self, taker: Taker) {
        let dial_in = DialIn {
            dialler: self.dialling.dialler.clone(),
            uri: self.opened.uri.clone(),
            connected: self.connected.0.clone(),
            running: self.running.clone(),
            leave: self.stop.leave.clone(),
        };
        self.dial_ins.spawn(dial_in.run(taker));
    }

    /// Keeps the books, and gives what has to be looked into.
    fn dial_in_ended(&mut self, dial_in: Result<Ended, JoinError>) -> Option<DialError> {
        let dial_in = match dial_in {
            Ok(dial_in) => dial_in,
            Err(error) => {
                // It was a dialler of ours that panicked; the next one is dialled anew.
                tracing::debug!(%error, "dial-in lost");
                return None;
            }
        };
        self.live = self.live.saturating_sub(usize::from(dial_in.connected.is_some()));
        match (dial_in.ended, self.dialling.dialler.clients()) {
            (Ok(()), ClientsPerDialIn::One) => {
                self.demand.client_came();
                self.backoff.reset();
                None
            }
            (Ok(()), ClientsPerDialIn::Many) => {
                tracing::debug!("session over; the next one takes its place");
                if self.live == 0 {
                    self.show(AgentState::Dialling);
                }
                // Whoever hangs up at once would be dialled for ever.
                let is_short = dial_in.connected.is_some_and(|since| since.elapsed() < SHORT);
                is_short.then(|| DialError::Refused(io::Error::other("it hung up at once")))
            }
            (Err(error), _) => {
                tracing::debug!(%error, cause = ?std::error::Error::source(&error), "dial-in failed");
                if let DialError::Tls(why) = &error
                    && !std::mem::replace(&mut self.has_no_tls, true)
                {
                    // It heals only if somebody does something about it.
                    tracing::warn!("cannot dial in: {why}; trying on");
                }
                if self.live == 0 {
                    self.show(AgentState::Dialling);
                }
                Some(error)
            }
        }
    }

    /// After a failure: waits as long as one should, then finds out how the tunnel stands.
    fn inquire(&mut self, error: &DialError) -> Inquiry {
        match (error, self.dialling.dialler.clients()) {
            // The server has said so, to the one who had the ticket. (One that says so of what it has just given out is not
            // asked at that pace.)
            (DialError::UnknownTunnel, _) => {
                let again = std::mem::replace(&mut self.was_unknown, true);
                let wait = if again { self.backoff.after(Failure::Refused) } else { Duration::ZERO };
                Box::pin(async move {
                    sleep(wait).await;
                    Standing::Gone
                })
            }
            // The next dial-in will tell.
            (_, ClientsPerDialIn::Many) => {
                let least = if let DialError::Busy { after, .. } = error { *after } else { Duration::ZERO };
                let wait = self.backoff.after(Failure::of(error)).max(least);
                Box::pin(async move {
                    sleep(wait).await;
                    Standing::Open
                })
            }
            // Whose port it is now cannot be seen from outside.
            (_, ClientsPerDialIn::One) => self.ask_again(Failure::of(error)),
        }
    }

    fn ask_again(&mut self, failure: Failure) -> Inquiry {
        let (backend, uri, wait) = (self.backend.clone(), self.opened.uri.clone(), self.backoff.after(failure));
        Box::pin(async move {
            sleep(wait).await;
            match backend.get_tunnel_address(&Caller::embedded(), &uri).await {
                Ok(_) => Standing::Open,
                Err(TunnelError::NotFound) => Standing::Gone,
                Err(error) if is_refusal(&error) => Standing::Refused(error),
                Err(error) => {
                    tracing::debug!(%error, "the tunnel server does not answer");
                    Standing::Unknown
                }
            }
        })
    }

    fn show(&self, state: AgentState) {
        self.state.send_if_modified(|shown| std::mem::replace(shown, state) != state);
    }

    /// The same tunnel, at the same address.
    async fn open_again(&mut self) -> Result<(), TunnelError> {
        let address = AddressRequest::exactly(&self.opened.address);
        let request =
            self.tunnel.request(Some(address)).map_err(|error| TunnelError::invalid("name", error.to_string()))?;
        let opened = self.backend.open_tunnel(&Caller::embedded(), request).await?;
        if opened.uri.scheme() != self.opened.uri.scheme() {
            // The server has another default backend than it had.
            let unknown = |error: DialError| TunnelError::invalid("backend", error.to_string());
            self.dialling.dialler = dialler_for(&opened.uri, &self.dialling.tls).map_err(unknown)?.into();
        }
        self.opened = opened;
        self.dial_ins.shutdown().await;
        while self.connected.1.try_recv().is_ok() {}
        self.live = 0;
        self.show(AgentState::Dialling);
        tracing::info!(address = %self.opened.address, "tunnel opened again");
        Ok(())
    }

    /// News of our tunnel, where the backend has any.
    async fn watch(&self) -> Option<TunnelEvents> {
        timeout(CLOSE, self.backend.watch_tunnels(&Caller::embedded(), &self.our_news())).await.ok()?.ok()
    }

    /// The same after a while, where the news broke off: the connection that carries clients may well outlive the one that
    /// carries news.
    fn watch_again(&self) -> Watching {
        let (backend, news, wait) = (self.backend.clone(), self.our_news(), WATCH_AGAIN.mul_f64(rand::random()));
        Box::pin(async move {
            sleep(wait).await;
            match timeout(CLOSE, backend.watch_tunnels(&Caller::embedded(), &news)).await {
                Ok(Ok(events)) => Some(events),
                // It never has any.
                Ok(Err(TunnelError::Unsupported { .. })) => std::future::pending().await,
                _ => None,
            }
        })
    }

    fn our_news(&self) -> WatchFilter {
        WatchFilter {
            id: Some(self.opened.id.clone()),
            requests: self.feed.is_wanted(),
            no_clients: true,
            ..WatchFilter::default()
        }
    }
}

/// How the tunnel stands, as far as the server says.
enum Standing {
    Open,
    Gone,
    Unknown,
    Refused(TunnelError),
}

/// Whether the server refuses us and not merely this call: the next one would fare no better.
fn is_refusal(error: &TunnelError) -> bool {
    matches!(error, TunnelError::Unauthenticated { .. } | TunnelError::NotGranted { .. })
}

fn refused(error: &TunnelError) -> Over {
    tracing::warn!(%error, "the tunnel server refuses our credentials");
    Over::Refused
}

type Inquiry = Pin<Box<dyn Future<Output = Standing> + Send>>;
type Watching = Pin<Box<dyn Future<Output = Option<TunnelEvents>> + Send>>;

async fn done<T>(work: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// A session that is over within this is a failure, even if nothing else was wrong with it.
const SHORT: Duration = Duration::from_secs(1);

/// How long closing a tunnel may take when we go.
const CLOSE: Duration = Duration::from_secs(5);

/// How long the server may take to hear all that was said before we went.
const PARTED: Duration = Duration::from_secs(5);

/// How long clients may take, when we go, to hear what the server has for them: some megabytes at most.
const DELIVERED: Duration = Duration::from_secs(30);

/// Whether clients are still there is asked again after this, then more and more seldom.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The most seldom.
const LOOK_AGAIN_AT_LAST: Duration = Duration::from_secs(1);

/// News that broke off are asked for again within this.
const WATCH_AGAIN: Duration = Duration::from_secs(5);

/// How long we wait for the news that would explain why a tunnel is gone.
const TOLD: Duration = Duration::from_secs(1);
