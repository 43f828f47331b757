//! A client's upgrade. On HTTP/2 it is an extended CONNECT (RFC 8441), which apps know little of: they are served HTTP/1.1's form of it,
//! on a connection within this process, and what follows is relayed.

use std::future::poll_fn;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{
        CONNECTION, CONTENT_LENGTH, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, TE,
        TRANSFER_ENCODING, UPGRADE,
    },
};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tunnel_backends::{
    carrier::{RequestOffer, Responder},
    relay::{Pace, Progress, RelayTimes, relay},
};

use super::{App, RequestBody, Whole, peer, pipe::pipe, wire::Wire};
use crate::Peer;

pub(super) async fn serve(offer: RequestOffer, app: App, hang_up: &CancellationToken) {
    let Some(protocol) = offer.protocol().map(str::to_owned) else { return };
    let peer = peer(&offer);
    let (request, mut responder) = offer.accept();
    let Some(request) = as_http1(&request, &protocol) else { return };
    let (near, far) = pipe();
    let app = AbortOnDropHandle::new(tokio::spawn(serve_one(Wire::new(Box::new(far)), app, peer)));
    let asked = tokio::select! {
        biased;
        () = poll_fn(|cx| responder.poll_gone(cx)) => return,
        () = hang_up.cancelled() => return,
        asked = ask(Wire::new(Box::new(near)), request) => asked,
    };
    let (response, connection) = match asked {
        Ok(asked) => asked,
        Err(error) => return tracing::debug!(%error, "upgrade not answered"),
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // The app has its end of the connection, and need not be a future any more.
        app.detach();
        return join(response, responder, hang_up).await;
    }
    // It would not. Its answer is one as any other.
    let response = response.map(|body| Whole::new(body, http::Version::HTTP_11));
    if let Some(Err(error)) = hang_up.run_until_cancelled(responder.answer(response)).await {
        tracing::debug!(%error, "answer cut short");
    }
    drop((app, connection));
}

/// The app's end.
async fn serve_one(wire: Wire, app: App, peer: Option<Peer>) {
    let fate = wire.fate();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        app.clone().answer(request.map(|body| RequestBody::of_connection(body, http::Version::HTTP_11)), peer)
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    let connection = http.keep_alive(false).serve_connection(TokioIo::new(wire), service).with_upgrades();
    match connection.await {
        // Whoever has the connection now closes it as any other.
        Ok(()) => fate.is_whole(),
        Err(error) => tracing::debug!(%error, "upgrade cut short"),
    }
}

type Asked = (Response<Incoming>, AbortOnDropHandle<()>);

/// The client's.
async fn ask(wire: Wire, request: Request<Empty<Bytes>>) -> hyper::Result<Asked> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(wire)).await?;
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        // Whoever waits for an answer hears of it.
        let _ = connection.with_upgrades().await;
    }));
    Ok((sender.send_request(request).await?, connection))
}

async fn join(response: Response<Incoming>, responder: Responder, hang_up: &CancellationToken) {
    let (mut head, _) = response.into_parts();
    let upgraded = match head.extensions.remove::<hyper::upgrade::OnUpgrade>() {
        Some(upgrade) => upgrade.await,
        None => return,
    };
    let Ok(upgraded) = upgraded else { return };
    let mut response = Response::new(());
    *response.headers_mut() = head.headers;
    // HTTP/2 proves nothing by it.
    response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
    response.headers_mut().remove(CONTENT_LENGTH);
    // It fails where the client has gone.
    let Ok(client) = responder.connect(response) else { return };
    let app = Wire::taken_back(upgraded);
    let (progress, pace, times) = (Progress::default(), Pace::default(), RelayTimes::default());
    let end = relay(client, app, &progress, &pace, &times, hang_up).await;
    tracing::debug!(?end, "upgraded stream ended");
}

/// What the client would have said on HTTP/1.1.
fn as_http1<B>(request: &Request<B>, protocol: &str) -> Option<Request<Empty<Bytes>>> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let mut http1 = Request::new(Empty::new());
    *http1.method_mut() = Method::GET;
    *http1.uri_mut() = path.parse::<Uri>().ok()?;
    let headers = http1.headers_mut();
    headers.clone_from(request.headers());
    for name in [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, TE] {
        headers.remove(name);
    }
    if let Some(authority) = request.uri().authority() {
        headers.insert(HOST, authority.as_str().parse().ok()?);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol.parse().ok()?);
    if protocol.eq_ignore_ascii_case("websocket") {
        let or_else = |headers: &mut http::HeaderMap, name: HeaderName, value: HeaderValue| {
            headers.entry(name).or_insert(value);
        };
        let key = BASE64_STANDARD.encode(rand::random::<[u8; 16]>());
        or_else(headers, SEC_WEBSOCKET_KEY, key.parse().ok()?);
        or_else(headers, SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    Some(http1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extended_connect_becomes_what_http_1_has_for_it() {
        let connect = Request::connect("http://blog.example/chat?room=1")
            .header("sec-websocket-protocol", "chat")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let http1 = as_http1(&connect, "websocket").unwrap();
        assert_eq!((http1.method(), http1.uri().to_string()), (&Method::GET, "/chat?room=1".to_owned()));
        let mut headers: Vec<_> =
            http1.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        headers.sort_unstable();
        let (key, others): (Vec<_>, Vec<_>) = headers.into_iter().partition(|(name, _)| *name == "sec-websocket-key");
        assert_eq!(
            others,
            [
                ("connection", "upgrade"),
                ("host", "blog.example"),
                ("sec-websocket-protocol", "chat"),
                ("sec-websocket-version", "13"),
                ("upgrade", "websocket"),
            ]
        );
        assert_eq!(key.first().map(|(_, key)| key.len()), Some(24));
        let other = as_http1(&connect, "echo").unwrap();
        assert!(!other.headers().contains_key(SEC_WEBSOCKET_KEY));
    }
}
