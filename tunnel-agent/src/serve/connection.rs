//! The requests on a connection, by HTTP/1.1 or HTTP/2, whichever the client speaks.

use http::{
    HeaderValue, Request, Response,
    header::{CONTENT_TYPE, TRAILER},
};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio_util::sync::CancellationToken;
use tower::BoxError;

use super::{AnswerBody, App, RequestBody, wire::Wire};
use crate::{Peer, stream::OfferedConnection};

/// Dropping the future aborts the connection; what has been upgraded goes on until it is hung up.
pub(super) async fn serve(offered: OfferedConnection, app: App, hang_up: CancellationToken) {
    let peer = Peer { client_addr: offered.client_addr() };
    // It may have gone meanwhile.
    let Ok(stream) = offered.accept() else { return };
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let version = request.version();
        let request = request.map(|body| RequestBody::of_connection(body, version));
        answer(app.clone(), request, peer)
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

async fn answer(app: App, request: Request<RequestBody>, peer: Peer) -> Result<Response<AnswerBody>, BoxError> {
    app.answer(request, Some(peer)).await.map(announcing_trailers)
}

/// In HTTP/1.1 hyper says what follows an answer's body only if its head has announced it, and gRPC ends every answer so. (What a
/// service adds to that of its own is lost here, and on connections only.)
fn announcing_trailers(mut response: Response<AnswerBody>) -> Response<AnswerBody> {
    let headers = response.headers_mut();
    let is_grpc = headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if is_grpc && !headers.contains_key(TRAILER) {
        headers.insert(TRAILER, HeaderValue::from_static("grpc-status, grpc-message, grpc-status-details-bin"));
    }
    response
}
