use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{
    Extensions, Method, Request, Response, StatusCode,
    header::{self, AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION},
};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, service::Service};
use ipnet::IpNet;
use tokio::time::{Instant, sleep_until};
use tunnel_api::{ConnectionAddrs, Host};

use super::{
    Arrival, HttpBody, HttpService, PeerCertificate, Proxy, ServerName, encryption,
    forwarded::{is_trusted, origin},
    lobby::Newcomer,
    pace::{Pace, REQUEST},
    service::Answering,
    stay::{Stay, UnderWay},
};
use crate::{names::Names, web};

/// Tells the service whose request it is, marks what is secret in it before anybody can print it, and sees to what becomes of it.
pub(super) struct Introduce {
    inner: HttpService,
    addrs: ConnectionAddrs,
    arrival: Arrival,
    trusted_proxies: Arc<[IpNet]>,
    stay: Arc<Stay>,
    newcomer: Newcomer,
    by_tls: Arc<ByTls>,
    /// It had to be encrypted, and is not: nothing else about it matters.
    is_refused: bool,
    /// Whose requests are sent on to where they are encrypted.
    names: Option<Arc<Names>>,
    asked: AtomicBool,
    /// Where requests are what is counted.
    pace: Option<Mutex<Pace>>,
}

impl Introduce {
    pub(super) fn new(
        inner: HttpService,
        addrs: ConnectionAddrs,
        arrival: Arrival,
        trusted_proxies: Arc<[IpNet]>,
        stay: Arc<Stay>,
        newcomer: Newcomer,
    ) -> Self {
        let asked = AtomicBool::new(false);
        let (by_tls, is_refused, names, pace) = (Arc::default(), false, None, None);
        Self { inner, addrs, arrival, trusted_proxies, stay, newcomer, by_tls, is_refused, names, asked, pace }
    }

    pub(super) fn with(self, certificate: Option<PeerCertificate>, server_name: Option<ServerName>) -> Self {
        Self { by_tls: Arc::new(ByTls { certificate, server_name }), ..self }
    }

    pub(super) fn refusing_all_if(self, is_refused: bool, names: Option<Arc<Names>>) -> Self {
        Self { is_refused, names, ..self }
    }

    pub(super) fn pacing_requests(self, pace: Pace) -> Self {
        Self { pace: Some(Mutex::new(pace)), ..self }
    }

    /// Until when the next request has to wait.
    fn count(&self) -> Option<Instant> {
        self.pace.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner).count(REQUEST)
    }
}

impl Service<Request<Incoming>> for Introduce {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Introducing;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let under_way = self.stay.begin();
        let newcomer = self.newcomer.of_another_request();
        let is_first = !self.asked.swap(true, Ordering::Relaxed);
        for name in [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE] {
            if let header::Entry::Occupied(mut values) = request.headers_mut().entry(name) {
                values.iter_mut().for_each(|value| value.set_sensitive(true));
            }
        }
        let has_body = request.method() != Method::HEAD;
        let introducing = |answer| Introducing { answer, request: Some((under_way, newcomer.clone())), has_body };
        if self.is_refused {
            let elsewhere = self.names.as_ref().and_then(|names| web::by_tls(names, &request));
            let refusal = elsewhere.unwrap_or_else(|| encryption::refusal(&request));
            return introducing(std::future::ready(Ok(refusal)).boxed());
        }
        let peer = origin(request.headers(), self.addrs.peer, &self.trusted_proxies);
        let introduced = Introduced {
            addrs: ConnectionAddrs { peer, ..self.addrs },
            arrival: if is_first { self.arrival } else { Arrival(Instant::now()) },
            proxy: is_trusted(self.addrs.peer, &self.trusted_proxies).then_some(Proxy(self.addrs.peer)),
            newcomer: newcomer.clone(),
            by_tls: self.by_tls.clone(),
        };
        let Some(until) = self.count() else {
            return introducing(self.inner.answer(request, Some(introduced)));
        };
        let inner = self.inner.clone();
        introducing(
            async move {
                sleep_until(until).await;
                inner.answer(request, Some(introduced)).await
            }
            .boxed(),
        )
    }
}

/// What the door knows of a request.
pub(crate) struct Introduced {
    pub(crate) addrs: ConnectionAddrs,
    arrival: Arrival,
    pub(crate) proxy: Option<Proxy>,
    pub(crate) newcomer: Newcomer,
    by_tls: Arc<ByTls>,
}

/// What a connection has shown that came by TLS.
#[derive(Default)]
struct ByTls {
    certificate: Option<PeerCertificate>,
    server_name: Option<ServerName>,
}

impl Introduced {
    /// What was put into these, if anything was.
    pub(crate) fn of(extensions: &Extensions) -> Option<Self> {
        Some(Self {
            addrs: *extensions.get::<ConnectionAddrs>()?,
            arrival: *extensions.get::<Arrival>()?,
            proxy: extensions.get::<Proxy>().copied(),
            newcomer: extensions.get::<Newcomer>()?.clone(),
            by_tls: Arc::new(ByTls {
                certificate: extensions.get::<PeerCertificate>().cloned(),
                server_name: extensions.get::<ServerName>().cloned(),
            }),
        })
    }

    pub(super) fn put_into(self, extensions: &mut Extensions) {
        extensions.insert(self.addrs);
        extensions.insert(self.arrival);
        extensions.insert(self.newcomer);
        if let Some(proxy) = self.proxy {
            extensions.insert(proxy);
        }
        if let Some(certificate) = &self.by_tls.certificate {
            extensions.insert(certificate.clone());
        }
        if let Some(server_name) = &self.by_tls.server_name {
            extensions.insert(server_name.clone());
        }
    }

    /// The one that the client has named in TLS.
    pub(crate) fn server_name(&self) -> Option<&Host> {
        self.by_tls.server_name.as_ref()?.0.as_ref()
    }
}

/// A request that is being answered.
pub(super) struct Introducing {
    answer: Answering,
    /// Until it is.
    request: Option<(UnderWay, Newcomer)>,
    has_body: bool,
}

impl Future for Introducing {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let response = ready!(this.answer.as_mut().poll(cx))?;
        let (under_way, newcomer) = this.request.take().expect("a future is not polled after its end");
        let is_whole = !this.has_body || response.status() == StatusCode::NOT_MODIFIED;
        Poll::Ready(Ok(response.map(|body| Answer { body, is_whole, newcomer, _under_way: under_way })))
    }
}

/// An answer on its way. A web client's gives back what it costs: its request, if all of it is sent, and for each part of it what
/// the client says to let more come.
pub(super) struct Answer {
    body: HttpBody,
    /// All of it has gone out, or nothing was to.
    is_whole: bool,
    newcomer: Newcomer,
    _under_way: UnderWay,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = <HttpBody as Body>::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            None => self.is_whole = true,
            Some(Ok(frame)) if self.newcomer.is_clients() => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.newcomer.earn(ACKNOWLEDGED + (bytes / PER_FRAME) as u32);
            }
            Some(_) => {}
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

impl Drop for Answer {
    fn drop(&mut self) {
        if self.newcomer.is_clients() && (self.is_whole || self.body.is_end_stream()) {
            self.newcomer.earn(REQUEST);
        }
    }
}

/// A WINDOW_UPDATE for the stream and one for the connection: some clients say both for each DATA frame.
const ACKNOWLEDGED: u32 = 2;

/// The same by bytes, where they are cut into smaller frames on their way.
const PER_FRAME: usize = 4096;
