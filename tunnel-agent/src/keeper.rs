//! Keeps one tunnel alive behind its listener: dial-ins waiting, the tunnel open, the address the same.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tunnel_api::{
    AddressRequest, Caller, CloseReason, OpenedTunnel, TunnelBackend, TunnelError, TunnelEvents, TunnelRef,
    WatchFilter, What,
};
use tunnel_backends::carrier::{DialError, Dialled, Dialler};

use crate::{
    AgentState, Tunnel, TunnelStream,
    backoff::{Backoff, Failure},
    stream::Offered,
};

/// How a listener tells its keeper to stop.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    /// No more clients; what runs may end.
    pub(crate) leave: CancellationToken,
    /// Everything at once.
    pub(crate) close: CancellationToken,
}

/// One tunnel's keeper. A task of its own, from the listener's start until the tunnel is over.
pub(crate) struct Keeper {
    backend: Arc<dyn TunnelBackend>,
    dialler: Arc<dyn Dialler>,
    tunnel: Tunnel,
    opened: OpenedTunnel,
    streams: mpsc::Sender<Offered>,
    state: watch::Sender<AgentState>,
    stop: Stop,
    /// Streams that were given out and have not ended.
    running: TaskTracker,
    dial_ins: JoinSet<Result<Dialled, DialError>>,
    /// Told by each dial-in when it is connected.
    connected: (mpsc::Sender<()>, mpsc::Receiver<()>),
    demand: Demand,
    backoff: Backoff,
}

/// What ended the dialling.
enum Over {
    /// Our listener wants no more.
    Left,
    /// Somebody closed the tunnel.
    Closed,
}

impl Keeper {
    pub(crate) fn new(
        backend: Arc<dyn TunnelBackend>,
        dialler: Box<dyn Dialler>,
        tunnel: Tunnel,
        opened: OpenedTunnel,
        streams: mpsc::Sender<Offered>,
        state: watch::Sender<AgentState>,
        stop: Stop,
    ) -> Self {
        let most = tunnel.most_waiting().min(opened.connections as usize).max(1);
        Self {
            backend,
            dialler: dialler.into(),
            tunnel,
            opened,
            streams,
            state,
            stop,
            running: TaskTracker::new(),
            dial_ins: JoinSet::new(),
            connected: mpsc::channel(1),
            demand: Demand::new(most),
            backoff: Backoff::default(),
        }
    }

    pub(crate) async fn run(mut self) {
        let close = self.stop.close.clone();
        tokio::select! {
            biased;
            () = close.cancelled() => self.give_up().await,
            over = self.serve() => {
                self.dial_ins.abort_all();
                if matches!(over, Over::Left) {
                    self.leave(&close).await;
                }
            }
        }
        self.state.send_replace(AgentState::Closed);
    }

    /// Lets what runs end, then closes the tunnel; a named one stays ours.
    async fn leave(&mut self, close: &CancellationToken) {
        self.running.close();
        let ended = tokio::select! {
            biased;
            () = close.cancelled() => false,
            () = self.running.wait() => true,
        };
        if !(ended && self.tunnel.is_named()) {
            self.give_up().await;
        }
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
        let leave = self.stop.leave.clone();
        self.fill();
        let mut events = self.watch().await;
        if was_closed(&mut events).await {
            return Over::Closed;
        }
        // While we find out how the tunnel stands after a failure, nothing is dialled; what is connected goes on.
        let mut inquiry: Option<Inquiry> = None;
        loop {
            if inquiry.is_none() {
                self.fill();
            }
            tokio::select! {
                biased;
                () = leave.cancelled() => return Over::Left,
                reason = closed(&mut events) => {
                    if reason == Some(CloseReason::Requested) {
                        return Over::Closed;
                    }
                }
                Some(()) = self.connected.1.recv() => self.show(AgentState::Online),
                Some(dialled) = self.dial_ins.join_next() => match dialled {
                    Ok(Ok(client)) => {
                        self.demand.client_came();
                        self.backoff.reset();
                        if !self.hand_on(client, &leave).await {
                            return Over::Left;
                        }
                    }
                    Ok(Err(error)) => {
                        tracing::debug!(%error, cause = ?std::error::Error::source(&error), "dial-in failed");
                        // A pool's dial-ins fail together; the first one asks for all.
                        if inquiry.is_none() {
                            inquiry = Some(self.inquire(Failure::of(&error)));
                        }
                        if self.dial_ins.is_empty() {
                            self.show(AgentState::Dialling);
                        }
                    }
                    // Panicked in a dialler of ours; the next one is dialled anew.
                    Err(error) => tracing::debug!(%error, "dial-in lost"),
                },
                standing = found_out(&mut inquiry) => {
                    inquiry = match standing {
                        Standing::Open => None,
                        Standing::Unknown => Some(self.inquire(Failure::Silent)),
                        Standing::Gone => {
                            if let Ok(Some(CloseReason::Requested)) = timeout(TOLD, closed(&mut events)).await {
                                return Over::Closed;
                            }
                            self.open_again().await.err().map(|error| {
                                tracing::warn!(%error, "cannot open the tunnel again; trying on");
                                self.inquire(Failure::Refused)
                            })
                        }
                    };
                    if inquiry.is_none() && events.is_none() {
                        events = self.watch().await;
                    }
                }
            }
        }
    }

    /// As many dial-ins as should wait.
    fn fill(&mut self) {
        while self.dial_ins.len() < self.demand.target() {
            self.dial();
        }
    }

    fn dial(&mut self) {
        let (dialler, uri, connected) = (self.dialler.clone(), self.opened.uri.clone(), self.connected.0.clone());
        self.dial_ins.spawn(async move {
            let connected = Box::new(move || {
                // One message is enough to be told that we are connected.
                let _ = connected.try_send(());
            });
            dialler.dial(&uri, connected).await
        });
    }

    /// The application takes clients at its own pace; while it takes none, no dial-in is replaced and the rest wait at the
    /// server.
    async fn hand_on(&mut self, client: Dialled, leave: &CancellationToken) -> bool {
        let stream = Offered::new(TunnelStream::new(client, self.running.token()));
        tokio::select! {
            biased;
            () = leave.cancelled() => false,
            sent = self.streams.send(stream) => sent.is_ok(),
        }
    }

    /// After a failure: waits as long as one should, then asks how the tunnel stands.
    fn inquire(&mut self, failure: Failure) -> Inquiry {
        let (backend, uri, wait) = (self.backend.clone(), self.opened.uri.clone(), self.backoff.after(failure));
        Box::pin(async move {
            sleep(wait).await;
            match backend.get_tunnel_address(&Caller::embedded(), &uri).await {
                Ok(_) => Standing::Open,
                Err(TunnelError::NotFound) => Standing::Gone,
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
        self.opened = self.backend.open_tunnel(&Caller::embedded(), request).await?;
        self.dial_ins.abort_all();
        while self.dial_ins.join_next().await.is_some() {}
        self.show(AgentState::Dialling);
        tracing::info!(address = %self.opened.address, "tunnel opened again");
        Ok(())
    }

    /// News of our tunnel, where the backend has any.
    async fn watch(&self) -> Option<TunnelEvents> {
        let filter = WatchFilter { id: Some(self.opened.id.clone()), name: None };
        timeout(CLOSE, self.backend.watch_tunnels(&Caller::embedded(), &filter)).await.ok()?.ok()
    }
}

/// How the tunnel stands, as far as the server says.
enum Standing {
    Open,
    Gone,
    Unknown,
}

type Inquiry = Pin<Box<dyn Future<Output = Standing> + Send>>;

async fn found_out(inquiry: &mut Option<Inquiry>) -> Standing {
    match inquiry {
        Some(inquiry) => inquiry.await,
        None => std::future::pending().await,
    }
}

/// Whether somebody closed the tunnel between its opening and our watching it: then it is no part of the present state.
async fn was_closed(events: &mut Option<TunnelEvents>) -> bool {
    let Some(news) = events else { return false };
    let told = async {
        let mut present = false;
        while let Some(Ok(event)) = news.next().await {
            match event.what {
                What::Present(_) => present = true,
                What::Closed { reason } => return reason == CloseReason::Requested,
                What::Ready => return !present,
                _ => {}
            }
        }
        false
    };
    timeout(CLOSE, told).await.unwrap_or(false)
}

/// Why the tunnel was closed; `None` when there will be no news. Then it is not asked again: it would never resolve.
async fn closed(events: &mut Option<TunnelEvents>) -> Option<CloseReason> {
    let Some(news) = events else { return std::future::pending().await };
    loop {
        match news.next().await {
            Some(Ok(event)) => {
                if let What::Closed { reason } = event.what {
                    return Some(reason);
                }
            }
            Some(Err(_)) | None => {
                *events = None;
                return None;
            }
        }
    }
}

/// How many dial-ins should wait: a few while it is quiet, more with each client that comes hard on the heels of another.
#[derive(Debug)]
struct Demand {
    most: usize,
    rush: usize,
    last: Option<Instant>,
}

impl Demand {
    fn new(most: usize) -> Self {
        Self { most, rush: 0, last: None }
    }

    fn target(&self) -> usize {
        (QUIET + self.rush).min(self.most)
    }

    fn client_came(&mut self) {
        let now = Instant::now();
        let hard_on_its_heels = self.last.is_some_and(|last| now - last < HEELS);
        self.rush = if hard_on_its_heels { (self.rush + 1).min(self.most) } else { 0 };
        self.last = Some(now);
    }
}

/// A browser opens six connections at once.
const QUIET: usize = 8;

/// Clients that come within this of each other are a rush.
const HEELS: Duration = Duration::from_millis(100);

/// How long closing a tunnel may take when we go.
const CLOSE: Duration = Duration::from_secs(5);

/// How long we wait for the news that would explain why a tunnel is gone.
const TOLD: Duration = Duration::from_secs(1);
