//! What answers the requests, whatever it is.

use std::{
    any::Any,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use axum::extract::ConnectInfo;
use bytes::Bytes;
use futures_util::future::Either;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use tower::{BoxError, Service, ServiceExt};

use super::RequestBody;
use crate::{Peer, Proxy, proxy};

/// What answers, of whatever type it was.
#[derive(Clone)]
pub(crate) enum App {
    /// Without the boxes that others need, and it wants to know nobody: it has thousands of requests a second.
    Proxy(Proxy),
    Other(Arc<dyn Answers>),
}

/// An app whose types are hidden.
pub(crate) trait Answers: Send + Sync {
    fn answer(&self, request: Request<RequestBody>) -> Answering;
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<AnswerBody>, BoxError>> + Send>>;

impl App {
    pub(crate) fn new<S, B>(app: S) -> Self
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        match (&app as &dyn Any).downcast_ref::<Proxy>() {
            Some(proxy) => Self::Proxy(proxy.clone()),
            None => Self::Other(Arc::new(Cloned(Mutex::new(app)))),
        }
    }

    /// Told who asks, as axum's `ConnectInfo` and on its own.
    pub(super) fn answer(
        self,
        mut request: Request<RequestBody>,
        peer: Option<Peer>,
    ) -> impl Future<Output = Result<Response<AnswerBody>, BoxError>> + Send {
        match self {
            Self::Proxy(proxy) => Either::Left(proxy.answer(request)),
            Self::Other(app) => {
                if let Some(peer) = peer {
                    request.extensions_mut().insert(peer);
                    request.extensions_mut().insert(ConnectInfo(peer));
                }
                Either::Right(app.answer(request))
            }
        }
    }
}

/// A service of which each request has a clone.
struct Cloned<S>(Mutex<S>);

impl<S, B> Answers for Cloned<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn answer(&self, request: Request<RequestBody>) -> Answering {
        let app = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(async move {
            let response = app.oneshot(request).await.map_err(Into::into)?;
            Ok(response.map(|body| AnswerBody::Other(body.map_err(Into::into).boxed_unsync())))
        })
    }
}

/// The body of an answer.
pub(crate) enum AnswerBody {
    OfProxy(proxy::Answer),
    Other(UnsyncBoxBody<Bytes, BoxError>),
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Self::OfProxy(body) => Pin::new(body).poll_frame(cx).map_err(BoxError::from),
            Self::Other(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::OfProxy(body) => body.is_end_stream(),
            Self::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::OfProxy(body) => body.size_hint(),
            Self::Other(body) => body.size_hint(),
        }
    }
}
