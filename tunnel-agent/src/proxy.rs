//! An app that asks a local service: a reverse proxy's inner half. The outer one is the tunnel server, which has said who asks.

mod headers;
mod local;
mod page;

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, TRANSFER_ENCODING},
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use hyper::upgrade::OnUpgrade;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Service};
use tracing::Instrument;
use tunnel_backends::relay::{Pace, Progress, RelayTimes, relay};

use crate::{Target, serve::wire::Wire};
use headers::{strip, upgrade_asked};
use local::{Answer, Local, NoAnswer};

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
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        Box::pin(async move { passing.pass(request).await })
    }
}

impl Passing {
    async fn pass(&self, mut request: Request<PassedBody>) -> Result<Response<PassedBody>, BoxError> {
        let reads = page::Reads::of(request.headers());
        let upgrade = upgrade_asked(&mut request);
        let by_h2c = upgrade.is_none() && (self.speaks_h2c || is_grpc(request.headers()));
        let request = match self.prepared(request, upgrade.as_ref().map(|(protocol, _)| protocol), by_h2c) {
            Ok(request) => request,
            Err(error) => return Err(error.into()),
        };
        match self.local.ask(request, by_h2c).await {
            Ok(response) => answer(response, upgrade.map(|(_, client)| client)),
            // The client has broken off: there is nobody to answer.
            Err(NoAnswer::OfClient(error)) => Err(error),
            Err(NoAnswer::OfService(why)) => Ok(bad_gateway(&why, reads)),
        }
    }

    /// As the service is to see it.
    fn prepared(
        &self,
        request: Request<PassedBody>,
        upgrade: Option<&HeaderValue>,
        by_h2c: bool,
    ) -> Result<Request<PassedBody>, http::Error> {
        let (head, body) = request.into_parts();
        let asked = head.uri.authority().cloned().or_else(|| authority_of(&head.headers));
        let own = self.local.authority();
        let host = match &self.host {
            HostHeader::Asked => asked.unwrap_or_else(|| own.clone()),
            HostHeader::Target => own.clone(),
            HostHeader::Fixed(host) => host.clone(),
        };
        let mut headers = head.headers;
        strip(&mut headers, upgrade, by_h2c);
        // It was answered by the server, which has the body.
        headers.remove(EXPECT);
        headers.remove(HOST);
        let mut uri = Uri::builder().scheme(Scheme::HTTP);
        if by_h2c {
            uri = uri.authority(host);
        } else {
            // This one says only which connections are alike; what the service sees is the header.
            headers.insert(HOST, HeaderValue::from_str(host.as_str())?);
            if !body.is_end_stream() && !headers.contains_key(CONTENT_LENGTH) {
                // hyper would leave the body of a GET out.
                headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            uri = uri.authority(own.clone());
        }
        let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let mut request = Request::new(body);
        *request.method_mut() = head.method;
        *request.uri_mut() = uri.path_and_query(path).build()?;
        *request.version_mut() = if by_h2c { Version::HTTP_2 } else { Version::HTTP_11 };
        *request.headers_mut() = headers;
        Ok(request)
    }
}

fn answer(mut response: Response<Answer>, client: Option<OnUpgrade>) -> Result<Response<PassedBody>, BoxError> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        strip(response.headers_mut(), None, true);
        *response.version_mut() = Version::default();
        return Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()));
    }
    let client = client.ok_or("the local service has switched protocols without being asked")?;
    let protocol = response.headers().get(http::header::UPGRADE).cloned();
    let service = hyper::upgrade::on(&mut response);
    // It lasts as long as the client's side does, which the tunnel's end cuts off.
    tokio::spawn(join(client, service).in_current_span());
    strip(response.headers_mut(), protocol.as_ref(), false);
    Ok(response.map(|answer| {
        answer.let_go();
        Empty::new().map_err(|never| match never {}).boxed_unsync()
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

fn bad_gateway(why: &str, reads: page::Reads) -> Response<PassedBody> {
    let (content_type, text) = page::bad_gateway(why, reads);
    let mut response = Response::new(Full::from(text).map_err(|never| match never {}).boxed_unsync());
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
