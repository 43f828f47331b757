//! The local service, and connections to it that are kept for the next request.

use std::{
    error::Error as _,
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Uri, uri::Authority};
use hyper_util::{
    client::legacy::{Client, Error},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tower::BoxError;

use super::{
    answer::Answer,
    connections::{Connections, IDLE, NotAnswered},
    said::Said,
};
use crate::{
    Target,
    forward::{Service, what_to_check},
    serve::wire::Wire,
};

#[derive(Clone)]
pub(super) struct Local {
    service: Arc<Service>,
    authority: Authority,
    http1: Arc<Connections>,
    http2: Client<Connector, Said>,
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
        let http2 = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .http2_only(true)
            .http2_initial_stream_window_size(WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .set_host(false)
            .build(Connector(service.clone()));
        Self { authority: authority(service.target()), http1: Arc::default(), http2, service }
    }

    /// What its `Host` would be.
    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Sent again only where nothing of it was sent: on a connection that the service had closed meanwhile. Dropping the future, or the
    /// answer's body before its end, aborts the request.
    pub(super) async fn ask(
        &self,
        request: Box<Request<Said>>,
        by_h2c: bool,
    ) -> Result<http::Response<Answer>, NoAnswer> {
        if by_h2c {
            let response = Box::pin(self.http2.request(*request)).await.map_err(no_answer_by_h2c)?;
            // A reset is enough, and the connection is others' too.
            return Ok(response.map(Answer::by_http2));
        }
        match self.http1.ask(&self.service, request).await {
            Ok((response, in_use)) => Ok(response.map(|body| Answer::by_http1(body, in_use))),
            Err(NotAnswered::NotReached(error)) => Err(NoAnswer::OfService(what_to_check(&error).to_owned())),
            Err(NotAnswered::Broken(error)) => Err(broken(error)),
        }
    }
}

fn broken(error: hyper::Error) -> NoAnswer {
    if error.is_user() {
        return NoAnswer::OfClient(error.into());
    }
    tracing::debug!(%error, cause = error.source(), "no answer from the local service");
    NoAnswer::OfService(
        if error.is_parse() {
            "what the local service answers is not HTTP/1.1; does it speak TLS there, or only HTTP/2?"
        } else {
            "the local service took the request and hung up without an answer; its own log may say why"
        }
        .to_owned(),
    )
}

fn no_answer_by_h2c(error: Error) -> NoAnswer {
    if error.is_connect()
        && let Some(io) = find::<io::Error>(&error)
    {
        return NoAnswer::OfService(what_to_check(io).to_owned());
    }
    if find::<hyper::Error>(&error).is_some_and(hyper::Error::is_user) {
        return NoAnswer::OfClient(error.into());
    }
    tracing::debug!(%error, cause = error.source(), "no answer from the local service");
    let why = "the local service does not answer in HTTP/2 without TLS (h2c); does it speak that there?";
    NoAnswer::OfService(why.to_owned())
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

/// What one client may have unread of an answer by HTTP/2.
const WINDOW: u32 = 256 * 1024;

/// All clients share that connection, so a slow one must not use up what the others need. (hyper's adaptive window is as large for the
/// connection as for a stream.) And of it the `h2` crate makes what it bears of small frames that are unread, a hundred at 64 KiB,
/// beyond which it breaks everybody's connection.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

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
