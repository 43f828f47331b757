//! A listener of its own for those who look after the server: metrics, and whether it lives and serves.
//!
//! It is apart from the one port, so that it answers while that is flooded, and can stay on loopback where that does not.
//! Nothing here waits for anybody: a connection gets one answer and [`LIFE`] for all of it, and beyond [`MOST`] of them the oldest
//! makes room, so that a scraper that is slow or stuck keeps nobody out. Those who may not ask have their own few places, and take
//! none of anybody's who may.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Bytes,
    http::{HeaderValue, Method, Request, Response, StatusCode, header},
};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use prometheus_client::{encoding::text, registry::Registry};
use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tunnel_backends::acceptor::Acceptor;

/// The admin listener.
#[derive(Debug)]
pub(crate) struct Admin {
    addr: SocketAddr,
    desk: Arc<Desk>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What answers.
#[derive(Debug)]
struct Desk {
    registry: Registry,
    /// Empty: this host only.
    allow: Vec<IpNet>,
    is_draining: AtomicBool,
}

impl Admin {
    /// Answers those of `allow` from now on (this host, if that is empty).
    pub(crate) fn open(listener: TcpListener, allow: Vec<IpNet>, registry: Registry) -> io::Result<Self> {
        let acceptor = Acceptor::new(listener);
        let addr = acceptor.local_addr()?;
        let desk = Arc::new(Desk { registry, allow, is_draining: AtomicBool::new(false) });
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let accepting = accept(acceptor, desk.clone(), tasks.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(accepting));
        Ok(Self { addr, desk, stop, tasks })
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on `/readyz` says that the server takes nothing new.
    pub(crate) fn say_draining(&self) {
        self.desk.is_draining.store(true, Ordering::Relaxed);
    }

    /// Answers who is being answered, for a moment, and is gone.
    pub(crate) async fn close(self) {
        self.stop.cancel();
        self.tasks.close();
        let _ = timeout(GOODBYE, self.tasks.wait()).await;
    }
}

async fn accept(mut acceptor: Acceptor, desk: Arc<Desk>, tasks: TaskTracker) {
    let (mut scrapers, mut strangers) = (VecDeque::<AbortHandle>::new(), VecDeque::new());
    loop {
        let (socket, peer) = acceptor.accept().await;
        let (open, most) = if desk.admits(peer) { (&mut scrapers, MOST) } else { (&mut strangers, MOST_STRANGERS) };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= most
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(tasks.spawn(serve(socket, peer, desk.clone())).abort_handle());
    }
}

async fn serve(socket: TcpStream, peer: SocketAddr, desk: Arc<Desk>) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .half_close(true)
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(
            TokioIo::new(socket),
            service_fn(|request| {
                let response = desk.answer(&request, peer);
                async { Ok::<_, Infallible>(response) }
            }),
        );
    match timeout(LIFE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(peer.addr = %peer, %error, "admin connection ended"),
        Err(_) => tracing::debug!(peer.addr = %peer, "admin connection took too long"),
    }
}

impl Desk {
    fn answer(&self, request: &Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        if !self.admits(peer) {
            return plain(StatusCode::FORBIDDEN, "admin.allow in the server's config does not have your address\n");
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "there is only something to GET here\n");
        }
        match request.uri().path() {
            "/metrics" => self.metrics(),
            "/healthz" => plain(StatusCode::OK, "ok\n"),
            "/readyz" if self.is_draining.load(Ordering::Relaxed) => {
                plain(StatusCode::SERVICE_UNAVAILABLE, "the server is draining\n")
            }
            "/readyz" => plain(StatusCode::OK, "ready\n"),
            _ => plain(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz here\n"),
        }
    }

    fn admits(&self, peer: SocketAddr) -> bool {
        if self.allow.is_empty() {
            peer.ip().is_loopback()
        } else {
            self.allow.iter().any(|net| net.contains(&peer.ip()))
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let mut text = String::with_capacity(16 * 1024);
        if text::encode(&mut text, &self.registry).is_err() {
            // A String takes everything.
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n");
        }
        let mut response = Response::new(Full::from(text));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS));
        response
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Connections at once. A descriptor and at most 8 KiB each, and 30 KiB more where an answer is not taken.
const MOST: usize = 32;

/// Who are told that they may not ask.
const MOST_STRANGERS: usize = 8;

/// From accept to the last byte of the answer.
const LIFE: Duration = Duration::from_secs(10);

/// For answers that are on their way when the server stops.
const GOODBYE: Duration = Duration::from_secs(1);

/// hyper takes no less.
const LONGEST_HEAD: usize = 8 * 1024;
