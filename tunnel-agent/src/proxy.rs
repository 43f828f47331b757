//! An app that asks a local service: a reverse proxy's inner half. The outer one is the tunnel server, which has said who asks.

mod answer;
mod connections;
mod headers;
mod local;
mod page;
mod said;

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, TRANSFER_ENCODING},
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::Body;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::upgrade::OnUpgrade;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Service};
use tracing::Instrument;
use tunnel_backends::relay::{Pace, Progress, RelayTimes, relay};

use crate::{
    RequestBody, Target,
    serve::{AnswerBody, wire::Wire},
};
pub(crate) use answer::Answer;
use headers::{strip, upgrade_asked};
use local::{Local, NoAnswer};
use said::Said;

/// A tower service that passes requests to a local HTTP service, with pooled connections. [`Agent::serve`](crate::Agent::serve) takes
/// one as its app:
///
/// ```no_run
/// # async fn example(agent: tunnel_agent::Agent) -> Result<(), Box<dyn std::error::Error>> {
/// use tunnel_agent::{Proxy, Tunnel};
///
/// let served = agent.serve(Tunnel::http().name("blog"), Proxy::to("3000".parse()?)).await?;
/// println!("{}", served.address());
/// served.closed().await;
/// # Ok(())
/// # }
/// ```
///
/// The service is spoken to in HTTP/1.1, and in HTTP/2 without TLS (h2c) where a request is gRPC's, for which there is no other way, or
/// where [`h2c`](Self::h2c) says so. Bodies are streamed both ways, trailers too; upgrades (WebSocket and any other) are passed on in
/// HTTP/1.1. A request whose service does not answer is answered with 502 and a page that says what to do. A request is sent again only
/// if nothing of it had been. Whichever side breaks off, the other one sees an abort.
#[derive(Clone, Debug)]
pub struct Proxy(Arc<Passing>);

#[derive(Debug, Clone)]
struct Passing {
    local: Local,
    host: HostHeader,
    speaks_h2c: bool,
}

/// Which `Host` the local service sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostHeader {
    /// The one the client asked for.
    #[default]
    Asked,
    /// The service's own place, such as `localhost:3000`: for services that answer to nothing else.
    Target,
    /// This one.
    Fixed(Authority),
}

impl Proxy {
    /// To that service.
    pub fn to(target: Target) -> Self {
        Self(Arc::new(Passing { local: Local::at(target), host: HostHeader::Asked, speaks_h2c: false }))
    }

    /// With this `Host`.
    #[must_use]
    pub fn host_header(self, host: HostHeader) -> Self {
        self.but(|passing| passing.host = host)
    }

    /// In HTTP/2 without TLS, whatever the request; but for upgrades.
    #[must_use]
    pub fn h2c(self) -> Self {
        self.but(|passing| passing.speaks_h2c = true)
    }

    fn but(self, change: impl FnOnce(&mut Passing)) -> Self {
        let mut passing = Arc::unwrap_or_clone(self.0);
        change(&mut passing);
        Self(Arc::new(passing))
    }

    /// Answers what comes out of a tunnel: as the service does, without its boxes. (But a request is in one, or it would be there twice
    /// for each `async fn` that it is handed on to.)
    pub(crate) fn answer(
        self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<AnswerBody>, BoxError>> + Send {
        let request = Box::new(request.map(Said::ByClient));
        async move { self.0.pass(request).await.map(|response| response.map(AnswerBody::OfProxy)) }
    }
}

type PassedBody = UnsyncBoxBody<Bytes, BoxError>;

impl<B> Service<Request<B>> for Proxy
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<PassedBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    /// Always: how many requests there are at once is the session's to bound.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let passing = self.0.clone();
        let request = Box::new(request.map(Said::by_other));
        Box::pin(async move {
            let response = passing.pass(request).await;
            response.map(|response| response.map(|body| body.map_err(Into::into).boxed_unsync()))
        })
    }
}

impl Passing {
    async fn pass(&self, mut request: Box<Request<Said>>) -> Result<Response<Answer>, BoxError> {
        let reads = page::Reads::of(request.headers());
        let upgrade = upgrade_asked(&mut request);
        let by_h2c = upgrade.is_none() && (self.speaks_h2c || is_grpc(request.headers()));
        self.prepare(&mut request, upgrade.as_ref().map(|(protocol, _)| protocol), by_h2c)?;
        match self.local.ask(request, by_h2c).await {
            Ok(response) => answer(response, upgrade.map(|(_, client)| client)),
            // The client has broken off: there is nobody to answer.
            Err(NoAnswer::OfClient(error)) => Err(error),
            Err(NoAnswer::OfService(why)) => Ok(bad_gateway(&why, reads)),
        }
    }

    /// As the service is to see it.
    fn prepare(
        &self,
        request: &mut Request<Said>,
        upgrade: Option<&HeaderValue>,
        by_h2c: bool,
    ) -> Result<(), http::Error> {
        let own = self.local.authority();
        let asked = || request.uri().authority().cloned().or_else(|| authority_of(request.headers()));
        let host = match &self.host {
            HostHeader::Asked => asked().unwrap_or_else(|| own.clone()),
            HostHeader::Target => own.clone(),
            HostHeader::Fixed(host) => host.clone(),
        };
        let is_whole = request.body().is_end_stream();
        let headers = request.headers_mut();
        strip(headers, upgrade, by_h2c);
        // It was answered by the server, which has the body.
        headers.remove(EXPECT);
        if by_h2c {
            headers.remove(HOST);
        } else {
            headers.insert(HOST, HeaderValue::from_str(host.as_str())?);
            if !is_whole && !headers.contains_key(CONTENT_LENGTH) {
                // hyper would leave the body of a GET out.
                headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        }
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = if by_h2c {
            Uri::builder().scheme(Scheme::HTTP).authority(host).path_and_query(path).build()?
        } else if request.method() == Method::CONNECT {
            own.clone().into()
        } else {
            path.into()
        };
        *request.version_mut() = if by_h2c { Version::HTTP_2 } else { Version::HTTP_11 };
        // They say how it came here.
        *request.extensions_mut() = Extensions::new();
        Ok(())
    }
}

fn answer(mut response: Response<Answer>, client: Option<OnUpgrade>) -> Result<Response<Answer>, BoxError> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        strip(response.headers_mut(), None, true);
        *response.version_mut() = Version::default();
        return Ok(response);
    }
    let client = client.ok_or("the local service has switched protocols without being asked")?;
    let protocol = response.headers().get(http::header::UPGRADE).cloned();
    let service = hyper::upgrade::on(&mut response);
    // It lasts as long as the client's side does, which the tunnel's end cuts off.
    tokio::spawn(join(client, service).in_current_span());
    strip(response.headers_mut(), protocol.as_ref(), false);
    Ok(response.map(|answer| {
        answer.let_go();
        Answer::of_ours(Bytes::new())
    }))
}

async fn join(client: OnUpgrade, service: OnUpgrade) {
    let (client, service) = match tokio::try_join!(client, service) {
        Ok((client, service)) => (Wire::taken_back(client), Wire::taken_back(service)),
        Err(error) => return tracing::debug!(%error, "upgrade came to nothing"),
    };
    let (progress, pace, times) = (Progress::default(), Pace::default(), RelayTimes::default());
    let end = relay(client, service, &progress, &pace, &times, &CancellationToken::new()).await;
    tracing::debug!(?end, "upgraded stream ended");
}

fn bad_gateway(why: &str, reads: page::Reads) -> Response<Answer> {
    let (content_type, text) = page::bad_gateway(why, reads);
    let mut response = Response::new(Answer::of_ours(text));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// gRPC needs HTTP/2 to the service itself. (gRPC-Web does not.)
fn is_grpc(headers: &HeaderMap) -> bool {
    let says = |value: &HeaderValue| {
        let value = value.as_bytes();
        let rest =
            value.get(..GRPC.len()).filter(|start| start.eq_ignore_ascii_case(GRPC)).map(|_| &value[GRPC.len()..]);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";"))
    };
    headers.get(CONTENT_TYPE).is_some_and(says)
}

fn authority_of(headers: &HeaderMap) -> Option<Authority> {
    headers.get(HOST)?.to_str().ok()?.parse().ok()
}

const GRPC: &[u8] = b"application/grpc";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_from_what_only_begins_like_it() {
        for (content_type, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/GRPC; charset=x", true),
            ("application/grpc-web+proto", false),
            ("application/json", false),
        ] {
            let headers = [(CONTENT_TYPE, content_type.parse().unwrap())].into_iter().collect();
            assert_eq!(is_grpc(&headers), is, "{content_type}");
        }
    }
}
