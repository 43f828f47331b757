//! What begins as a request and goes on as a connection: WebSocket, and whatever else is agreed on by a 101.

use std::{future::Future, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use h2::ext::Protocol;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE},
};
use hyper::upgrade::OnUpgrade;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use tunnel_api::StreamEnd;

use super::{headers, pages::whole, visit::Visit};
use crate::{
    door::{self, HttpBody},
    hop,
    relay::{BoxDuplex, Progress},
};

/// What a client wants to go on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// As the client has said it.
    protocol: String,
}

impl Wanted {
    /// HTTP/2 has no upgrades, and what HTTP/1.1 would be upgraded to by `h2c` is spoken at the door at once, or not at all.
    pub(super) fn of<B>(request: &Request<B>) -> Option<Self> {
        let headers = request.headers();
        if request.version() != Version::HTTP_11 || !hop::has_token(headers, &CONNECTION, "upgrade") {
            return None;
        }
        let protocols = headers.get_all(UPGRADE).iter().filter_map(|value| value.to_str().ok());
        let protocols = protocols.flat_map(|value| value.split(',')).map(str::trim);
        let mut protocols = protocols.filter(|protocol| !protocol.is_empty() && !protocol.eq_ignore_ascii_case("h2c"));
        Some(Self { protocol: protocols.next()?.to_owned() })
    }

    fn is_websocket(&self) -> bool {
        self.protocol.eq_ignore_ascii_case("websocket")
    }

    /// Says to an origin that speaks HTTP/1.1 what is wanted.
    pub(super) fn ask(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        if let Ok(protocol) = HeaderValue::from_str(&self.protocol) {
            headers.insert(UPGRADE, protocol);
        }
    }

    /// The same to an agent that speaks HTTP/2: an extended CONNECT (RFC 8441), which has no body. What of WebSocket's handshake
    /// is about HTTP/1.1 stays here; its answer is given. There is none for anything but a GET that wants nothing else.
    pub(super) fn connect(&self, head: &mut http::request::Parts) -> Option<Connect> {
        if head.method != Method::GET {
            return None;
        }
        let key = head.headers.get(SEC_WEBSOCKET_KEY).cloned();
        let (protocol, accept) = if self.is_websocket() {
            ("websocket", Some(accepted(key?.as_bytes())?))
        } else {
            (self.protocol.as_str(), None)
        };
        head.method = Method::CONNECT;
        head.extensions.insert(Protocol::from(protocol));
        head.headers.remove(SEC_WEBSOCKET_KEY);
        head.headers.remove(CONTENT_LENGTH);
        Some(Connect { wanted: self.clone(), accept })
    }
}

/// An upgrade that an agent is asked for in HTTP/2.
pub(super) struct Connect {
    wanted: Wanted,
    accept: Option<HeaderValue>,
}

impl Connect {
    /// The answer's head as HTTP/1.1 has it.
    pub(super) fn switching(&self, mut headers: HeaderMap) -> Response<HttpBody> {
        headers.remove(CONTENT_LENGTH);
        if let Some(accept) = &self.accept {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept.clone());
        }
        let protocol = HeaderValue::from_str(&self.wanted.protocol).ok();
        switching(headers, protocol)
    }
}

/// An answer that says what its connection goes on with.
pub(super) fn switching(mut headers: HeaderMap, protocol: Option<HeaderValue>) -> Response<HttpBody> {
    headers::to_client(&mut headers);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
    }
    let mut response = Response::new(whole(bytes::Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    response
}

/// Relays what comes after the 101, which the client gets first.
pub(super) fn go_on<R, E>(tasks: &TaskTracker, client: OnUpgrade, mut visit: Visit, progress: &Progress, relay: R)
where
    R: FnOnce(BoxDuplex) -> E + Send + 'static,
    E: Future<Output = (StreamEnd, Arc<Progress>)> + Send,
{
    let before = (progress.to_agent(), progress.to_client());
    let relaying = async move {
        let Ok(Ok(upgraded)) = timeout(LONGEST_SWITCH, client).await else { return };
        let Some(client) = door::taken_over(upgraded) else { return };
        let (end, after) = relay(client).await;
        visit.relayed(end, after.to_agent().saturating_sub(before.0), after.to_client().saturating_sub(before.1));
    };
    tasks.spawn(relaying.in_current_span());
}

/// RFC 6455, 4.2.2: what says that a server has understood. A key is 16 bytes.
fn accepted(key: &[u8]) -> Option<HeaderValue> {
    if BASE64_STANDARD.decode(key).ok()?.len() != 16 {
        return None;
    }
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, WEBSOCKET].concat());
    HeaderValue::from_str(&BASE64_STANDARD.encode(hash)).ok()
}

/// RFC 6455, 1.3.
const WEBSOCKET: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// For a client to take the 101.
const LONGEST_SWITCH: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, fields: &[(&str, &str)]) -> Request<()> {
        let request = Request::builder().version(version);
        fields.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(()).unwrap()
    }

    #[test]
    fn the_answer_to_a_key_is_the_rfcs() {
        assert_eq!(accepted(b"dGhlIHNhbXBsZSBub25jZQ==").unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(accepted(b"c2hvcnQ="), None);
    }

    #[test]
    fn an_upgrade_is_one_that_the_connection_is_about() {
        let v1 = Version::HTTP_11;
        let wanted = |version, fields: &[_]| Wanted::of(&request(version, fields)).map(|wanted| wanted.protocol);
        let upgrade = ("upgrade", "WebSocket");
        assert_eq!(wanted(v1, &[upgrade, ("connection", "keep-alive, Upgrade")]).as_deref(), Some("WebSocket"));
        assert_eq!(wanted(v1, &[upgrade]), None);
        assert_eq!(wanted(Version::HTTP_10, &[upgrade, ("connection", "upgrade")]), None);
        assert_eq!(wanted(v1, &[("upgrade", "h2c"), ("connection", "upgrade, http2-settings")]), None);
        assert_eq!(wanted(v1, &[("upgrade", "h2c, x"), ("connection", "upgrade")]).as_deref(), Some("x"));
    }

    #[test]
    fn a_websocket_is_asked_for_by_an_extended_connect() {
        let fields = [
            ("upgrade", "WebSocket"),
            ("connection", "upgrade"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
        ];
        let request = request(Version::HTTP_11, &fields);
        let wanted = Wanted::of(&request).unwrap();
        let (mut head, ()) = request.into_parts();
        let connect = wanted.connect(&mut head).unwrap();
        assert_eq!(head.method, Method::CONNECT);
        assert_eq!(head.extensions.get::<Protocol>(), Some(&Protocol::from("websocket")));
        assert!(!head.headers.contains_key("sec-websocket-key") && head.headers.contains_key("sec-websocket-version"));
        let switching = connect.switching(HeaderMap::new());
        assert_eq!(switching.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(
            (&switching.headers()["upgrade"], switching.status().as_u16()),
            (&HeaderValue::from_static("WebSocket"), 101)
        );
    }
}
