use std::{error::Error, time::Duration};

use http::Uri;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tokio::time::timeout;
use tower::{Service, ServiceExt, service_fn, util::BoxCloneSyncService};

use super::{
    way::{NoHttp2, Way},
    wire::Wire,
};
use crate::{Host, tls::ClientTls};

/// Makes the connections to a server, whenever one is needed.
#[derive(Debug, Clone)]
pub(super) struct Dialler {
    http: HttpConnector,
    host: Host,
    tls: Option<ClientTls>,
    pub(super) way: Way,
}

pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// A dialler for one protocol, as hyper and tonic take it.
pub(super) type Connector = BoxCloneSyncService<Uri, TokioIo<Wire>, BoxError>;

impl Dialler {
    pub(super) fn new(host: Host, tls: Option<ClientTls>) -> Self {
        let mut http = HttpConnector::new();
        // It takes https URLs, too: the TLS is ours.
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(ATTEMPT));
        // HTTP/1.1 has no ping, so a host that vanished is noticed within 20 s by the kernel: the server's or, where a proxy is
        // between, that one's; whether the server behind it lives is for the proxy to know. Calls that have one answer have a
        // time limit besides. (HTTP/2 has pings of its own.)
        http.set_keepalive(Some(KEEPALIVE));
        http.set_keepalive_interval(Some(KEEPALIVE));
        http.set_keepalive_retries(Some(3));
        Self { http, host, tls, way: Way::default() }
    }

    /// Fails where the server chooses HTTP/1.1 by ALPN. Where it chooses nothing, or there is no TLS, its first bytes will tell.
    pub(super) fn for_http2(self) -> Connector {
        BoxCloneSyncService::new(service_fn(move |uri| self.clone().dial_http2(uri)))
    }

    pub(super) fn for_http1(self) -> Connector {
        BoxCloneSyncService::new(service_fn(move |uri| self.clone().dial_http1(uri)))
    }

    /// Bounded as a whole by the endpoint's `connect_timeout`.
    async fn dial_http2(mut self, uri: Uri) -> Result<TokioIo<Wire>, BoxError> {
        // tonic would try again and again for a call that waits.
        if self.way.has_no_http2() {
            return Err(NoHttp2.into());
        }
        let socket = self.http.ready().await?.call(uri).await?.into_inner();
        let Some(tls) = &self.tls else { return Ok(TokioIo::new(Wire::plain(socket, self.way))) };
        let stream = tls.connect_for_any(socket, &self.host, &[H2, HTTP1]).await?;
        if stream.get_ref().1.alpn_protocol() == Some(HTTP1) {
            self.way.is_without_http2();
            return Err(NoHttp2.into());
        }
        Ok(TokioIo::new(Wire::tls(stream, self.way)))
    }

    async fn dial_http1(mut self, uri: Uri) -> Result<TokioIo<Wire>, BoxError> {
        let way = self.way.clone();
        way.check_http1()?;
        let dial = async move {
            let socket = self.http.ready().await?.call(uri).await?.into_inner();
            Ok::<_, BoxError>(match &self.tls {
                None => Wire::plain_http1(socket, &way),
                Some(tls) => Wire::tls_http1(tls.connect(socket, &self.host, HTTP1).await?, &way),
            })
        };
        let dialled = timeout(ATTEMPT, dial).await.map_err(|_| "no answer within 4 s")?;
        dialled.map(TokioIo::new)
    }
}

/// A server that is there answers within this even on a bad path.
pub(super) const ATTEMPT: Duration = Duration::from_secs(4);

const KEEPALIVE: Duration = Duration::from_secs(5);

/// As ALPN has them.
const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";
