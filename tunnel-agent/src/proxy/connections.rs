//! Connections to the local service in HTTP/1.1. One whose answer has come to its end is kept for the next request.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep_until};
use tracing::Instrument;

use super::said::Said;
use crate::{
    forward::Service,
    serve::wire::{Fate, Wire},
};

/// Those that are free: in the order in which they became so, and the last one is taken first.
#[derive(Default)]
pub(super) struct Connections(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    free: Vec<Free>,
    /// Somebody closes what is free for too long.
    is_looked_after: bool,
}

struct Free {
    since: Instant,
    /// There until it is taken.
    connection: Option<Connection>,
}

struct Connection {
    sender: SendRequest<Said>,
    /// Whoever asks drives it, which needs no task that is woken and wakes. It is gone where the connection has ended, and where a task
    /// drives it.
    driver: Option<Driver>,
    fate: Fate,
}

type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// A connection on which something is asked. Dropped before that is over, it is aborted: hyper would close it in order.
pub(super) struct InUse {
    connection: Option<Connection>,
    connections: Arc<Connections>,
}

/// Why there is no answer.
pub(super) enum NotAnswered {
    /// There is no connection.
    NotReached(io::Error),
    /// There was one.
    Broken(hyper::Error),
}

impl Connections {
    /// Sent again only where nothing of it was sent: on a connection that the service had closed meanwhile. Dropping the future aborts
    /// the request.
    pub(super) async fn ask(
        self: &Arc<Self>,
        service: &Service,
        mut request: Box<Request<Said>>,
    ) -> Result<(Response<Incoming>, InUse), NotAnswered> {
        loop {
            let (mut connection, was_kept) = match self.take() {
                Some(connection) => (connection, true),
                // Rare, and large.
                None => (Box::pin(Connection::open(service)).await?, false),
            };
            let says_more = !request.body().is_end_stream();
            let mut answered = pin!(connection.sender.try_send_request(*request));
            if says_more {
                // It goes on while nobody takes the answer, or after it.
                connection.spawn();
            }
            // Dropped before what it aborts, which would be closed in order otherwise.
            let mut in_use = InUse { connection: Some(connection), connections: self.clone() };
            let answered = poll_fn(|cx| {
                in_use.drive(cx);
                answered.as_mut().poll(cx)
            });
            match answered.await {
                Ok(response) => return Ok((response, in_use)),
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if was_kept => *request = unsent,
                    _ => return Err(NotAnswered::Broken(failed.into_error())),
                },
            }
        }
    }

    /// One that still brings its last request to an end (the service may answer before it has heard all) is left where it is.
    fn take(&self) -> Option<Connection> {
        let mut kept = self.lock();
        let mut place = kept.free.len();
        while let Some(before) = place.checked_sub(1) {
            place = before;
            let free = &kept.free[place];
            if free.since.elapsed() >= IDLE {
                // So are those before it.
                kept.free.drain(..=place);
                return None;
            }
            let sender = free.connection.as_ref().map(|connection| &connection.sender);
            if sender.is_some_and(SendRequest::is_ready) {
                return kept.free.remove(place).connection.take();
            }
            if sender.is_none_or(SendRequest::is_closed) {
                kept.free.remove(place);
            }
        }
        None
    }

    fn put(self: &Arc<Self>, mut connection: Connection) {
        if !connection.sender.is_ready() {
            // It has something to bring to an end still.
            connection.spawn();
        }
        let free = Free { since: Instant::now(), connection: Some(connection) };
        let mut kept = self.lock();
        if kept.free.len() >= MOST_IDLE {
            return;
        }
        kept.free.push(free);
        if !std::mem::replace(&mut kept.is_looked_after, true) {
            tokio::spawn(look_after(Arc::downgrade(self)).in_current_span());
        }
    }

    /// Closes what has been free for too long; when the next one will have been, if there is one.
    fn close_idle(&self) -> Option<Instant> {
        let mut kept = self.lock();
        let kept = &mut *kept;
        let idle = kept.free.iter().take_while(|free| free.since.elapsed() >= IDLE).count();
        kept.free.drain(..idle);
        let next = kept.free.first().map(|free| free.since + IDLE);
        kept.is_looked_after = next.is_some();
        next
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    async fn open(service: &Service) -> Result<Self, NotAnswered> {
        let wire = Wire::new(service.connect(None).await.map_err(NotAnswered::NotReached)?);
        let fate = wire.fate();
        let (sender, driver) = http1::handshake(TokioIo::new(wire)).await.map_err(NotAnswered::Broken)?;
        Ok(Self { sender, driver: Some(Box::pin(driver.with_upgrades())), fate })
    }

    /// From now on it is driven by a task of its own, to its end.
    fn spawn(&mut self) {
        if let Some(driver) = self.driver.take() {
            tokio::spawn(async move { ended(driver.await) }.in_current_span());
        }
    }
}

fn ended(end: hyper::Result<()>) {
    if let Err(error) = end {
        tracing::debug!(%error, "connection to the local service ended");
    }
}

impl InUse {
    /// As far as it goes; to be done before it is looked for what comes of it.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        let Some(connection) = &mut self.connection else { return };
        if let Some(driver) = &mut connection.driver
            && let Poll::Ready(end) = driver.as_mut().poll(cx)
        {
            connection.driver = None;
            ended(end);
        }
    }

    /// What was asked has been answered to its end: the connection is free, unless the service closes it.
    pub(super) fn is_over(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        if !connection.sender.is_closed() {
            self.connections.put(connection);
        }
    }

    /// It is to be upgraded: its end is not the answer's.
    pub(super) fn let_go(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            connection.spawn();
        }
    }
}

impl Drop for Free {
    fn drop(&mut self) {
        // Nothing is asked on it: it ends in order. (A task sees to that by itself, and may have something to say still.)
        if let Some(connection) = &self.connection
            && connection.driver.is_some()
        {
            connection.fate.is_whole();
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            connection.fate.cut();
        }
    }
}

/// For as long as there is any.
async fn look_after(connections: Weak<Connections>) {
    while let Some(next) = connections.upgrade().and_then(|connections| connections.close_idle()) {
        sleep_until(next).await;
    }
}

/// Many services close what has been idle for 2 to 5 s, and a request that meets such an end fails. A new connection within one
/// machine costs next to nothing.
pub(super) const IDLE: Duration = Duration::from_secs(1);

/// After a rush; each costs a descriptor on either side.
pub(super) const MOST_IDLE: usize = 256;
