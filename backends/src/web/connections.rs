//! Where a tunnel carries connections, its origin is asked in HTTP/1.1 on one of them. Such a connection is kept for the client's
//! next requests, and closed with the client's own: it is that client's, and the agent has been told so.

use std::{
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, Uri, Version,
    header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
    request::Parts,
};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{sync::watch, task::AbortHandle, time::sleep};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::visit::{BodyError, ClientBody};
use crate::{
    door::Newcomer,
    uplink::{Admitted, ClientInfo, NoStream, StreamIo, Uplink},
};

/// What is said to an origin.
type Said = http_body_util::combinators::UnsyncBoxBody<Bytes, BodyError>;

/// Why an origin gave no answer.
#[derive(Debug)]
pub(super) enum NotAsked {
    /// It was not reached.
    NoStream(NoStream),
    /// It was, and broke off.
    Broken(hyper::Error),
}

/// The connections to origins that one connection of a client's keeps. They close when it is dropped.
#[derive(Clone, Default)]
pub(super) struct Kept(Arc<Mutex<Vec<Idle>>>);

struct Idle {
    origin: Origin,
    uplink: Uplink,
    /// A proxy of ours asks for many, each of whom is another client to the agent.
    client: IpAddr,
}

/// A connection to an origin.
struct Origin {
    number: u64,
    sender: SendRequest<Said>,
    /// Whoever drives it.
    driver: AbortHandle,
    is_idle: watch::Sender<bool>,
}

/// A connection on which something is asked. Dropping it aborts that.
pub(super) struct InUse {
    origin: Option<Origin>,
    kept: Kept,
    uplink: Uplink,
    client: IpAddr,
}

/// Asks `uplink`'s origin for this client, who is welcome once it is admitted. The answer's body keeps the connection when it has
/// come to its end.
pub(super) async fn ask(
    uplink: &Uplink,
    client: ClientInfo,
    request: Request<ClientBody>,
    newcomer: &Newcomer,
    tasks: &TaskTracker,
) -> Result<Response<OriginBody>, NotAsked> {
    let kept: Kept = newcomer.keep();
    let (mut head, body) = request.into_parts();
    to_origin(&mut head, &body);
    // What is safe and has no body can be asked again on another connection, where a kept one turns out to be stale.
    let again = (head.method.is_safe() && body.is_end_stream()).then(|| head.clone());
    let mut request = Request::from_parts(head, body.boxed_unsync());
    loop {
        let taken = kept.take(uplink, client.client_addr.ip());
        let was_kept = taken.is_some();
        let mut in_use = match taken {
            Some(origin) => {
                newcomer.welcome();
                origin
            }
            None => {
                let admitted = uplink.admit(client).map_err(NotAsked::NoStream)?;
                newcomer.welcome();
                InUse::connect(uplink, admitted, client.client_addr.ip(), &kept, tasks).await?
            }
        };
        let Some(origin) = &mut in_use.origin else { continue };
        match origin.sender.try_send_request(request).await {
            Ok(response) => return Ok(response.map(|body| OriginBody::new(body, in_use))),
            Err(mut failed) => {
                let unsent = failed.take_message();
                let error = failed.into_error();
                let once_more = unsent.or_else(|| again.clone().map(|head| Request::from_parts(head, nothing())));
                match once_more {
                    Some(once_more) if was_kept => request = once_more,
                    _ => return Err(NotAsked::Broken(error)),
                }
            }
        }
    }
}

/// The head as HTTP/1.1 has it.
fn to_origin(head: &mut Parts, body: &ClientBody) {
    head.version = Version::HTTP_11;
    let path = head.uri.path_and_query().cloned();
    head.uri = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    if !body.is_end_stream() && !head.headers.contains_key(CONTENT_LENGTH) {
        // hyper would leave the body of a GET out.
        head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if body.is_end_stream() && head.method == Method::GET {
        head.headers.remove(CONTENT_LENGTH);
    }
    debug_assert!(head.headers.contains_key(HOST), "a request that names no host is no tunnel's");
}

fn nothing() -> Said {
    Empty::new().map_err(|never: std::convert::Infallible| match never {}).boxed_unsync()
}

impl InUse {
    async fn connect(
        uplink: &Uplink,
        admitted: Admitted,
        client: IpAddr,
        kept: &Kept,
        tasks: &TaskTracker,
    ) -> Result<Self, NotAsked> {
        let stream = uplink.connect(admitted).await.map_err(NotAsked::NoStream)?;
        let handshake = http1::Builder::new().max_buf_size(LONGEST_HEAD).handshake(TokioIo::new(stream.into_io()));
        let (sender, connection) = handshake.await.map_err(NotAsked::Broken)?;
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let (is_idle, idle) = watch::channel(false);
        let driving = drive(connection, Arc::downgrade(&kept.0), number, idle, uplink.clone());
        let driver = tasks.spawn(driving.in_current_span()).abort_handle();
        let origin = Origin { number, sender, driver, is_idle };
        Ok(Self { origin: Some(origin), kept: kept.clone(), uplink: uplink.clone(), client })
    }

    /// What was asked has been answered to its end: the connection is kept if the origin keeps it, and closes otherwise.
    fn answered(&mut self) {
        let Some(origin) = self.origin.take() else { return };
        if origin.sender.is_closed() {
            return;
        }
        origin.is_idle.send_replace(true);
        self.kept.put(Idle { origin, uplink: self.uplink.clone(), client: self.client });
    }

    /// It is no connection of HTTP's any more.
    pub(super) fn became_something_else(&mut self) {
        self.origin = None;
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(origin) = &self.origin {
            origin.driver.abort();
        }
    }
}

impl Kept {
    fn take(&self, uplink: &Uplink, client: IpAddr) -> Option<InUse> {
        let mut idle = self.lock();
        loop {
            let place = idle.iter().rposition(|idle| idle.client == client && idle.uplink.is_same(uplink))?;
            let Idle { origin, uplink, client } = idle.remove(place);
            if !origin.sender.is_closed() {
                origin.is_idle.send_replace(false);
                return Some(InUse { origin: Some(origin), kept: self.clone(), uplink, client });
            }
        }
    }

    /// What is dropped here hears that nothing more is asked of it, and ends in order.
    fn put(&self, new: Idle) {
        let mut idle = self.lock();
        if idle.len() >= MOST_KEPT {
            idle.remove(0);
        }
        idle.push(new);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drives a connection to an origin to its end. Where nothing has been asked on it for long, or the tunnel takes no more clients, it
/// is kept no longer.
async fn drive(
    connection: http1::Connection<TokioIo<StreamIo>, Said>,
    kept: Weak<Mutex<Vec<Idle>>>,
    number: u64,
    idle: watch::Receiver<bool>,
    uplink: Uplink,
) {
    let mut connection = std::pin::pin!(connection.with_upgrades());
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => Some(ended),
        () = outstayed(idle, &uplink) => None,
    };
    if let Some(kept) = kept.upgrade() {
        let gone = {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.iter().position(|idle| idle.origin.number == number).map(|place| kept.remove(place))
        };
        drop(gone);
    }
    let ended = match ended {
        Some(ended) => ended,
        None => connection.await,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection to an origin ended");
    }
}

/// Ready when it has been idle for so long.
async fn outstayed(mut idle: watch::Receiver<bool>, uplink: &Uplink) {
    loop {
        if idle.wait_for(|is_idle| *is_idle).await.is_err() {
            // Nobody asks anything any more, and the connection has heard of it.
            return std::future::pending().await;
        }
        tokio::select! {
            () = sleep(LONGEST_IDLE) => return,
            () = uplink.retired() => return,
            changed = idle.changed() => if changed.is_err() {
                return std::future::pending().await;
            },
        }
    }
}

/// The body of an origin's answer. When it has come to its end, its connection is free for the next request; dropped before, the
/// connection is aborted.
pub(super) struct OriginBody {
    body: Incoming,
    in_use: InUse,
}

impl OriginBody {
    fn new(body: Incoming, in_use: InUse) -> Self {
        let mut whole = Self { body, in_use };
        whole.look_for_its_end();
        whole
    }

    /// The connection, where it has become something else.
    pub(super) fn became_something_else(mut self) {
        self.in_use.became_something_else();
    }

    fn look_for_its_end(&mut self) {
        if self.body.is_end_stream() {
            self.in_use.answered();
        }
    }
}

impl Body for OriginBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let frame = std::task::ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) if frame.is_data() => this.look_for_its_end(),
            Some(Ok(_)) | None => this.in_use.answered(),
            Some(Err(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Of an answer's head, and what is held of its body.
const LONGEST_HEAD: usize = 64 * 1024;

/// Each is a stream of the tunnel's owner.
const MOST_KEPT: usize = 8;

/// Without a request. Browsers keep theirs for minutes, and most origins close before.
const LONGEST_IDLE: Duration = Duration::from_secs(60);
