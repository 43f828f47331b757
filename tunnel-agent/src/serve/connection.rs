//! The requests on a connection, by HTTP/1.1 or HTTP/2, whichever the client speaks.

use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio_util::sync::CancellationToken;

use super::{App, RequestBody, wire::Wire};
use crate::{Peer, stream::OfferedConnection};

/// Dropping the future aborts the connection; what has been upgraded goes on until it is hung up.
pub(super) async fn serve(offered: OfferedConnection, app: App, hang_up: CancellationToken) {
    let peer = Peer { client_addr: offered.client_addr() };
    // It may have gone meanwhile.
    let Ok(stream) = offered.accept() else { return };
    let app = app.asked_by(Some(peer));
    let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        let version = request.version();
        let request = request.map(|body| RequestBody::of_connection(body, version));
        app.clone().answer(request)
    });
    let wire = Wire::new(Box::new(stream)).until(hang_up);
    let fate = wire.fate();
    let mut http = Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new());
    http.http2().timer(TokioTimer::new());
    match http.serve_connection_with_upgrades(TokioIo::new(wire), service).await {
        // In order, or by an upgrade: whoever has the connection now closes it as any other.
        Ok(()) => fate.is_whole(),
        Err(error) => tracing::debug!(client.addr = %peer.client_addr, error, "connection cut short"),
    }
}
