//! A tunnel's way to its agents: what fronts call to get a stream for a client, whatever the carrier.

mod account;
mod asking;
mod milestone;
mod opening;
mod seeking;
mod stream_io;

use std::{
    fmt,
    future::poll_fn,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::SetOnce,
    time::{Instant, timeout_at},
};
use tunnel_api::{Carry, StreamEnd, What};

pub use self::asking::{Answer, AnswerBody, NoAnswer, UpgradedStream};
pub(crate) use self::stream_io::StreamIo;
use self::{
    account::{Account, Totals},
    milestone::Milestone,
    opening::{AfterHeard, Opening},
    seeking::Seeking,
};
use crate::{
    clients::ClientFilter,
    events::TunnelNews,
    meters::{DialInRefused, Meters},
    presence::{Lifetime, Watched},
    quotas::{Counted, Permit, Refused, Share},
    relay::{Duplex, Pace, Progress, RelayEnd, RelayTimes, Side, relay},
    requests::Ended,
    seldom::unless_cancelled,
    session::{BoxStream, Session},
    sessions::{Membership, Place, Sessions},
};

/// A client, as the agent may be told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientInfo {
    /// Where it comes from.
    pub client_addr: SocketAddr,
    /// Where it connected to.
    pub public_addr: SocketAddr,
}

/// A tunnel's way to its agents. Cheap to clone; all clones are the same uplink.
#[derive(Clone)]
pub struct Uplink(Arc<Inner>);

struct Inner {
    terms: UplinkTerms,
    sessions: Arc<Sessions>,
    news: TunnelNews,
    clients: ClientFilter,
    share: Share,
    pace: Pace,
    totals: Totals,
    retired: SetOnce<()>,
    ended: Milestone,
}

/// What an uplink is held to.
#[derive(Debug, Clone, Copy)]
pub struct UplinkTerms {
    /// How long a client waits for an agent.
    pub client_wait: Duration,
    /// After its first stream it takes no more: the tunnel is for one connection.
    pub single_use: bool,
    /// What travels to its agents.
    pub carry: Carry,
    /// The relay's times.
    pub relay: RelayTimes,
}

/// A client that may come; counted until this is dropped, or the stream has gone that it gets for it.
#[derive(Debug)]
#[must_use = "it is to be connected"]
pub struct Admitted {
    client: ClientInfo,
    counted: Permit,
    progress: Arc<Progress>,
}

impl Admitted {
    /// What goes each way for it, from now on.
    pub fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }
}

/// Why a client gets no stream.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NoStream {
    /// No agent came in time.
    #[error("no agent is there")]
    NoAgent,
    /// The tunnel takes no more clients.
    #[error("the tunnel is taken or closed")]
    Retired,
    /// The tunnel is not for this client.
    #[error("the tunnel's client_allow and client_deny keep it out")]
    KeptOut,
    /// There are as many as may be.
    #[error(transparent)]
    LimitReached(#[from] Refused),
}

impl Uplink {
    pub(crate) fn new(
        terms: UplinkTerms,
        lifetime: Lifetime,
        news: TunnelNews,
        clients: ClientFilter,
        share: Share,
    ) -> Self {
        Self(Arc::new(Inner {
            terms,
            sessions: Sessions::new(lifetime, news.clone()),
            news,
            clients,
            pace: share.pace(),
            share,
            totals: Totals::default(),
            retired: SetOnce::new(),
            ended: Milestone::default(),
        }))
    }

    // ---- for fronts ----

    /// Whether this client may come at all: the tunnel is for it, and it is not one too many. Asked at once for each client, so
    /// that a crowd that may not costs nothing more; no agent hears of who is refused.
    pub fn admit(&self, client: ClientInfo) -> Result<Admitted, NoStream> {
        let admitted = self.check_admitted(client).and_then(|()| {
            let counted = self.0.share.take(Counted::Streams)?;
            Ok(Admitted { client, counted, progress: Arc::default() })
        });
        self.count_refused(admitted)
    }

    /// A stream for this client: waits, within bounds, for a session with room and opens it there. One that would have to wait
    /// where too many do is refused at once.
    ///
    /// Dropping the future gives up the place in the queue.
    pub async fn connect(&self, admitted: Admitted) -> Result<OpenStream, NoStream> {
        let Admitted { client, counted, progress } = admitted;
        let since = Instant::now();
        let deadline = since + self.0.terms.client_wait;
        tokio::select! {
            biased;
            () = self.retired() => Err(NoStream::Retired),
            opened = timeout_at(deadline, self.open_somewhere(&client)) => {
                let opened = self.count_refused(opened.map_err(|_| NoStream::NoAgent)?)?;
                let opening = Opening::new(opened, client, self.0.sessions.clone(), (since, deadline));
                Ok(OpenStream::new(Account::begin(self, progress, counted), client, opening))
            }
        }
    }

    /// Whether it is the same tunnel's.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What travels to the agents.
    pub fn carry(&self) -> Carry {
        self.0.terms.carry
    }

    /// Tells what became of a request.
    pub(crate) fn tell_request(&self, request: Ended<'_>) {
        self.0.news.tell_request(request);
    }

    /// Resolves when the tunnel takes no more clients and no more agents: listeners should close.
    pub async fn retired(&self) {
        self.0.retired.wait().await;
    }

    fn count_refused<T>(&self, admitted: Result<T, NoStream>) -> Result<T, NoStream> {
        if admitted.is_err() {
            self.0.totals.refused.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    /// Said once a tunnel: whoever misses somebody should find out why.
    fn check_admitted(&self, client: ClientInfo) -> Result<(), NoStream> {
        let client = client.client_addr;
        if self.0.clients.admits(client.ip()) {
            return Ok(());
        }
        if !self.0.totals.kept_out.swap(true, Ordering::Relaxed) {
            let tunnel = self.0.news.id();
            tracing::info!(tunnel.id = %tunnel, client.addr = %client, "client reset: the tunnel is not for it (client_allow, client_deny)");
        }
        Err(NoStream::KeptOut)
    }

    async fn open_somewhere(&self, client: &ClientInfo) -> Result<(BoxStream, Place), NoStream> {
        let mut seeking = Seeking::new(self);
        loop {
            let place = seeking.next().await?;
            if let Ok(io) = place.open(client).await {
                return Ok((io, place));
            }
        }
    }

    // ---- for carriers ----

    /// Adds a session to which streams may go from now on, until the membership is dropped.
    ///
    /// `took_over` is where the same agent was connected from before, if this session replaces another one.
    pub fn join(&self, session: Arc<dyn Session>, agent: SocketAddr, took_over: Option<SocketAddr>) -> Membership {
        self.0.sessions.join(session, agent, took_over)
    }

    /// Whether it takes no more clients and no more agents.
    pub fn is_retired(&self) -> bool {
        self.0.retired.initialized()
    }

    /// Somebody dialled in who may not. Counted, and said once a tunnel: whoever runs the agent has to know that its
    /// address is not the one that is let in.
    pub fn turn_away(&self, stranger: SocketAddr) {
        self.meters().dial_in_refused(DialInRefused::Stranger);
        if self.0.totals.strangers.fetch_add(1, Ordering::Relaxed) == 0 {
            let tunnel = self.0.news.id();
            tracing::info!(tunnel.id = %tunnel, agent.addr = %stranger, "dial-in reset: it is not from where this tunnel's agent may dial (dial_from)");
        }
    }

    /// Where what happens is counted.
    pub(crate) fn meters(&self) -> &Meters {
        self.0.news.meters()
    }

    // ---- for the tunnel ----

    pub(crate) fn presence(&self) -> &Watched {
        self.0.sessions.presence()
    }

    pub(crate) fn touch(&self) {
        self.0.sessions.touch();
    }

    /// The tunnel was open before the server was started.
    pub(crate) fn resume(&self) {
        self.0.sessions.resume();
    }

    /// No more clients and no more agents; what runs goes on.
    pub(crate) fn retire(&self) {
        // It may have been before.
        let _ = self.0.retired.set(());
    }

    /// What runs is aborted.
    pub(crate) fn end(&self) {
        self.0.sessions.close_books();
        self.retire();
        self.0.ended.pass();
        self.0.totals.wake_all();
    }

    pub(crate) fn counts(&self) -> UplinkCounts {
        let (sessions, streams) = self.0.sessions.counts();
        let (to_agent, to_client) = self.0.totals.bytes();
        UplinkCounts {
            sessions,
            members: self.0.sessions.members(),
            streams,
            all_streams: self.0.totals.streams.load(Ordering::Relaxed),
            to_agent,
            to_client,
            strangers: self.0.totals.strangers.load(Ordering::Relaxed),
            refused_clients: self.0.totals.refused.load(Ordering::Relaxed),
        }
    }
}

/// How an uplink stands.
pub(crate) struct UplinkCounts {
    /// That can take a client now.
    pub(crate) sessions: usize,
    /// All sessions.
    pub(crate) members: usize,
    /// That are running.
    pub(crate) streams: usize,
    /// That ever began.
    pub(crate) all_streams: u64,
    pub(crate) to_agent: u64,
    pub(crate) to_client: u64,
    pub(crate) strangers: u64,
    pub(crate) refused_clients: u64,
}

/// A stream that was opened for a client, to be relayed.
pub struct OpenStream {
    opening: Opening,
    client: ClientInfo,
    account: Account,
    since: Instant,
    /// What the agent has said that is for the client still.
    heard: Bytes,
}

impl OpenStream {
    fn new(account: Account, client: ClientInfo, opening: Opening) -> Self {
        let news = &account.uplink.0.news;
        news.tell_client(|| What::ClientConnected { stream: account.number, client: client.client_addr });
        Self { opening, client, account, since: Instant::now(), heard: Bytes::new() }
    }

    /// The same, to read from and to write to.
    pub(crate) fn into_io(self) -> StreamIo {
        StreamIo::new(self)
    }

    /// What goes through it, as it does.
    pub(crate) fn progress(&self) -> Arc<Progress> {
        self.account.progress.clone()
    }

    /// Relays until the stream ends, and reports how it did. Returns when its place is free again.
    pub async fn relay(self, client: impl Duplex) -> StreamEnd {
        let Self { mut opening, client: who, account, since, heard } = self;
        let inner = &*account.uplink.0;
        let run = async |stream: &mut dyn Duplex| {
            let relayed =
                relay(client, stream, &account.progress, &inner.pace, &inner.terms.relay, inner.ended.token()).await;
            let end = stream_end(relayed);
            inner.tell_end(&account, who, end, since);
            end
        };
        // Where nobody has to be asked, the relay has the connection itself.
        if let Some((mut stream, _place)) = heard.is_empty().then(|| opening.settled()).flatten() {
            let end = run(&mut stream).await;
            inner.unless_ended(poll_fn(|cx| stream.poll_gone(cx))).await;
            return end;
        }
        let end = if heard.is_empty() {
            run(&mut opening).await
        } else {
            run(&mut AfterHeard { heard, opening: &mut opening }).await
        };
        inner.unless_ended(poll_fn(|cx| opening.poll_gone(cx))).await;
        end
    }
}

impl Inner {
    /// A client's stream is over.
    fn tell_end(&self, account: &Account, who: ClientInfo, end: StreamEnd, since: Instant) {
        self.news.meters().stream_ended(end);
        self.news.tell_client(|| What::ClientEnded {
            stream: account.number,
            client: who.client_addr,
            end,
            bytes_to_agent: account.progress.to_agent(),
            bytes_to_client: account.progress.to_client(),
            duration: since.elapsed(),
        });
        tracing::debug!(tunnel.id = %self.news.id(), client.addr = %who.client_addr, ?end, "stream ended");
    }

    /// A stream may take its time to go. When the tunnel is over nobody waits for it.
    async fn unless_ended(&self, gone: impl Future<Output = ()>) {
        unless_cancelled(self.ended.token(), pin!(gone)).await;
    }
}

fn stream_end(end: RelayEnd) -> StreamEnd {
    match end {
        RelayEnd::Finished => StreamEnd::Finished,
        RelayEnd::Aborted(Side::Client) => StreamEnd::AbortedByClient,
        RelayEnd::Aborted(Side::Agent) => StreamEnd::AbortedByAgent,
        RelayEnd::Stalled => StreamEnd::Stalled,
        RelayEnd::Cancelled => StreamEnd::TunnelClosed,
    }
}

impl fmt::Debug for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uplink")
            .field("tunnel", self.0.news.id())
            .field("sessions", &self.0.sessions)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for OpenStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenStream")
            .field("client", &self.client)
            .field("number", &self.account.number)
            .finish_non_exhaustive()
    }
}
