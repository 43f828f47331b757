use std::{
    error::Error,
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use tonic::{body::Body, transport::Channel};
use tower::{Service, ServiceExt};

use super::{
    dial::{BoxError, Dialler},
    way::{Forgotten, NoHttp2, Way},
    web::Web,
};

/// What calls go out on.
#[derive(Clone)]
pub(super) enum Line {
    /// Set up elsewhere.
    Channel(Channel),
    Chosen(Arc<Chosen>),
}

/// HTTP/2, or where that does not get through, gRPC-Web over HTTP/1.1.
pub(super) struct Chosen {
    http2: Channel,
    http1: Web,
    way: Way,
}

impl Line {
    /// To the server at `url`; `http2` is made of the same dialler.
    pub(super) fn chosen(http2: Channel, dialler: Dialler, url: Uri) -> Self {
        let way = dialler.way.clone();
        Self::Chosen(Arc::new(Chosen { http2, http1: Web::new(dialler.for_http1(), url), way }))
    }
}

impl Service<Request<Body>> for Line {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.clone() {
            Self::Channel(channel) => Box::pin(async move { Ok(channel.oneshot(request).await?) }),
            Self::Chosen(chosen) => Box::pin(async move { chosen.call(request).await }),
        }
    }
}

impl Chosen {
    async fn call(&self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        // One small message, whichever call it is: it can be sent twice.
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let request = || Request::from_parts(head.clone(), Full::new(body.clone()));
        loop {
            if !self.way.has_no_http2() {
                // What breaks on a connection of HTTP/2 that was there before may have been done.
                let was_there = self.way.has_http2();
                let answer = self.http2.clone().oneshot(request().map(Body::new)).await;
                let why = match &answer {
                    Ok(response) if wants_http1(response.status()) => response.status().to_string(),
                    Err(error) if is::<NoHttp2>(error) || (!was_there && self.way.has_no_http2()) => error.to_string(),
                    _ => return Ok(answer?),
                };
                self.way.is_without_http2();
                tracing::debug!(why, "HTTP/2 does not get through: calls go by gRPC-Web over HTTP/1.1");
            }
            match self.http1.call(request()).await {
                // Nothing was sent. Each time a connection that was there has gone, so this comes to an end.
                Err(error) if is::<Forgotten>(&error) => {}
                answer => {
                    if answer.is_err() {
                        self.way.forget_unless_http1();
                    }
                    return Ok(answer?);
                }
            }
        }
    }
}

/// Whether this is where it comes from.
fn is<E: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    error.is::<E>() || error.source().is_some_and(is::<E>)
}

/// The server's answer, or a proxy's, to a call that has lost its HTTP/2 on the way. Nothing of it was done. (464 is one of AWS.)
fn wants_http1(status: StatusCode) -> bool {
    matches!(status, StatusCode::HTTP_VERSION_NOT_SUPPORTED | StatusCode::UPGRADE_REQUIRED) || status.as_u16() == 464
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Channel(_) => "Line::Channel",
            Self::Chosen(_) => "Line::Chosen",
        })
    }
}
