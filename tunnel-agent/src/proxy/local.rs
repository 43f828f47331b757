//! The local service, and connections to it that are kept for the next request.

use std::{
    error::Error as _,
    fmt,
    future::Future,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Extensions, Request, Response, Uri, uri::Authority};
use http_body::{Body, Frame, SizeHint};
use hyper_util::{
    client::legacy::{
        Client, Error,
        connect::{CaptureConnection, capture_connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tower::BoxError;

use super::PassedBody;
use crate::{
    Target,
    forward::{Service, what_to_check},
    serve::{
        Whole,
        wire::{Fate, Wire},
    },
};

#[derive(Clone)]
pub(super) struct Local {
    service: Arc<Service>,
    authority: Authority,
    http1: Client<Connector, PassedBody>,
    http2: Client<Connector, PassedBody>,
}

/// Why there is no answer.
pub(super) enum NoAnswer {
    /// The client has broken off its request.
    OfClient(BoxError),
    /// The service gives none, and this is what to tell.
    OfService(String),
}

impl Local {
    pub(super) fn at(target: Target) -> Self {
        let service = Arc::new(Service::new(target));
        let client = |is_http2| {
            Client::builder(TokioExecutor::new())
                .timer(TokioTimer::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(MOST_IDLE)
                .http2_only(is_http2)
                .http2_initial_stream_window_size(WINDOW)
                .http2_initial_connection_window_size(CONNECTION_WINDOW)
                .set_host(false)
                .build(Connector(service.clone()))
        };
        Self { authority: authority(service.target()), http1: client(false), http2: client(true), service }
    }

    /// What its `Host` would be.
    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Sent again only where nothing of it was sent: on a connection that the service had closed meanwhile. Dropping the future, or the
    /// answer's body before its end, aborts the request.
    pub(super) async fn ask(
        &self,
        mut request: Request<PassedBody>,
        by_h2c: bool,
    ) -> Result<Response<Answer>, NoAnswer> {
        let client = if by_h2c { &self.http2 } else { &self.http1 };
        // On HTTP/2 a reset is enough, and the connection is others' too.
        let connection = (!by_h2c).then(|| capture_connection(&mut request));
        let mut answered = pin!(client.request(request));
        // Dropped before what it aborts, which would be closed in order otherwise.
        let asking = Asking(connection);
        let response = answered.as_mut().await.map_err(|error| no_answer(error, by_h2c))?;
        let version = response.version();
        Ok(response.map(|body| {
            let mut answer = Answer { body: Whole::new(body, version), asking };
            if answer.is_end_stream() {
                // It is over, and its connection may be the next request's already.
                answer.asking.0 = None;
            }
            answer
        }))
    }
}

/// A request that is being answered. Dropped before that is over, it aborts the connection, which hyper would close in order.
struct Asking(Option<CaptureConnection>);

impl Drop for Asking {
    fn drop(&mut self) {
        let Some(connection) = self.0.take() else { return };
        let mut extras = Extensions::new();
        if let Some(connection) = &*connection.connection_metadata() {
            connection.get_extras(&mut extras);
        }
        if let Some(fate) = extras.get::<Fate>() {
            fate.cut();
        }
    }
}

/// The body of the service's answer.
pub(super) struct Answer {
    /// Dropped before the body, as above.
    asking: Asking,
    body: Whole,
}

impl Answer {
    /// The connection is to be upgraded: its end is not the answer's.
    pub(super) fn let_go(mut self) {
        self.asking.0 = None;
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.asking.0 = None;
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

fn no_answer(error: Error, by_h2c: bool) -> NoAnswer {
    let io = find::<io::Error>(&error);
    if error.is_connect()
        && let Some(io) = io
    {
        return NoAnswer::OfService(what_to_check(io).to_owned());
    }
    let hyper = find::<hyper::Error>(&error);
    if hyper.is_some_and(hyper::Error::is_user) {
        return NoAnswer::OfClient(error.into());
    }
    tracing::debug!(%error, cause = error.source(), "no answer from the local service");
    NoAnswer::OfService(match (by_h2c, hyper) {
        (true, _) => {
            "the local service does not answer in HTTP/2 without TLS (h2c); does it speak that there?".to_owned()
        }
        (false, Some(hyper)) if hyper.is_parse() => {
            "what the local service answers is not HTTP/1.1; does it speak TLS there, or only HTTP/2?".to_owned()
        }
        _ => "the local service took the request and hung up without an answer; its own log may say why".to_owned(),
    })
}

fn find<E: std::error::Error + 'static>(error: &Error) -> Option<&E> {
    std::iter::successors(error.source(), |error| (*error).source()).find_map(|error| error.downcast_ref())
}

/// As people write it: an address of this machine is `localhost`.
fn authority(target: &Target) -> Authority {
    let place = target.to_string();
    let place = if place.starts_with("unix:") { "localhost" } else { &place };
    let named = place.strip_prefix("127.0.0.1:").map(|port| format!("localhost:{port}"));
    // A host that is looked up but none in a URI has no authority.
    named.as_deref().unwrap_or(place).parse().unwrap_or_else(|_| Authority::from_static("localhost"))
}

/// Connects; a failure is logged, once until it works again.
#[derive(Clone)]
struct Connector(Arc<Service>);

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Wire>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Wire>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move { Ok(TokioIo::new(Wire::new(service.connect(None).await?))) })
    }
}

/// Many services close what has been idle for 2 to 5 s, and a request that meets such an end fails. A new connection within one
/// machine costs next to nothing.
const IDLE: Duration = Duration::from_secs(1);

/// What one client may have unread of an answer by HTTP/2.
const WINDOW: u32 = 256 * 1024;

/// All clients share that connection, so a slow one must not use up what the others need. (hyper's adaptive window is as large for the
/// connection as for a stream.) And of it the `h2` crate makes what it bears of small frames that are unread, a hundred at 64 KiB,
/// beyond which it breaks everybody's connection.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// After a rush; each costs a descriptor on either side.
const MOST_IDLE: usize = 256;

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").field("target", self.service.target()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_services_own_host_is_as_people_write_it() {
        for (target, host) in [
            ("3000", "localhost:3000"),
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("app.internal:80", "app.internal:80"),
            #[cfg(unix)]
            ("unix:/run/app.sock", "localhost"),
        ] {
            assert_eq!(authority(&target.parse().unwrap()).as_str(), host);
        }
    }
}
