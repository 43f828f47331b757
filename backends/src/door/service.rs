use std::{
    convert::Infallible,
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use hyper::body::Incoming;
use tower::{Service, ServiceExt};

use super::{HttpBody, introduce::Introduced};

/// What answers HTTP at the door. Requests carry [`ConnectionAddrs`](tunnel_api::ConnectionAddrs), [`Arrival`](super::Arrival) and
/// a [`Newcomer`](super::Newcomer) in their extensions, by TLS a [`ServerName`](super::ServerName), and a
/// [`PeerCertificate`](super::PeerCertificate) where the peer has shown one. It says of requests that it lets through that they are
/// [accepted](super::Newcomer::accept); a connection none of whose requests ever is counts as waiting, and goes.
///
/// Cheap to clone, unlike `tower`'s boxed services, of which each clones all that it is made of: one request is one future here,
/// whatever stands before whatever answers it.
#[derive(Clone)]
pub struct HttpService(Arc<dyn Answers>);

/// The future of an answer.
pub(crate) type Answering = BoxFuture<'static, Result<Response<HttpBody>, Infallible>>;

trait Answers: Send + Sync {
    fn answer(&self, request: Request<Incoming>, by: Option<Introduced>) -> Answering;
}

/// What clones itself for each request.
struct Cloned<S>(S);

impl<S> Answers for Cloned<S>
where
    S: Service<Request<Incoming>, Response = Response<HttpBody>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    fn answer(&self, mut request: Request<Incoming>, by: Option<Introduced>) -> Answering {
        if let Some(introduced) = by {
            introduced.put_into(request.extensions_mut());
        }
        self.0.clone().oneshot(request).boxed()
    }
}

impl<F> Answers for F
where
    F: Fn(Request<Incoming>, Option<Introduced>) -> Answering + Send + Sync,
{
    fn answer(&self, request: Request<Incoming>, by: Option<Introduced>) -> Answering {
        self(request, by)
    }
}

impl HttpService {
    /// Of a service of `tower`'s.
    pub fn new<S>(service: S) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<HttpBody>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
    {
        Self(Arc::new(Cloned(service)))
    }

    /// Of what answers itself, and has its future on the heap already. It takes the introduction as it is: to put that into a
    /// request's extensions takes an allocation for each thing that is said in it.
    pub(crate) fn answering(
        answer: impl Fn(Request<Incoming>, Option<Introduced>) -> Answering + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(answer))
    }

    /// The answer to this request. Where it is not introduced here, what its extensions say is what is known.
    pub(crate) fn answer(&self, request: Request<Incoming>, introduced: Option<Introduced>) -> Answering {
        self.0.answer(request, introduced)
    }
}

impl Service<Request<Incoming>> for HttpService {
    type Response = Response<HttpBody>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        self.answer(request, None)
    }
}

impl fmt::Debug for HttpService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpService").finish_non_exhaustive()
    }
}
