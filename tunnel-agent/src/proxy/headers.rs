//! What is of one connection only, and stays there (RFC 9110, 7.6.1).

use http::{
    HeaderMap, HeaderValue, Request,
    header::{CONNECTION, CONTENT_LENGTH, TE, TRANSFER_ENCODING, UPGRADE},
};
use hyper::upgrade::OnUpgrade;
use tunnel_backends::hop;

/// Takes it out. What is to be upgraded says so still; and trailers are still welcome where they were.
pub(super) fn strip(headers: &mut HeaderMap, upgrade: Option<&HeaderValue>, is_http2: bool) {
    // What came in chunks is as long as they are, whatever else is said (RFC 9112, 6.3).
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    let takes_trailers = hop::strip(headers);
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    } else if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        if !is_http2 {
            headers.insert(CONNECTION, HeaderValue::from_static("te"));
        }
    }
}

/// What a request wants to become, and who is to take it from there, if it can.
pub(super) fn upgrade_asked<B>(request: &mut Request<B>) -> Option<(HeaderValue, OnUpgrade)> {
    let asks = hop::has_token(request.headers(), &CONNECTION, "upgrade");
    let protocol = request.headers().get(UPGRADE).filter(|_| asks)?.clone();
    Some((protocol, request.extensions_mut().remove::<OnUpgrade>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(headers: &[(&'static str, &'static str)], upgrade: Option<&str>, is_http2: bool) -> Vec<String> {
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            all.append(*name, HeaderValue::from_static(value));
        }
        strip(&mut all, upgrade.map(|value| value.parse().unwrap()).as_ref(), is_http2);
        let mut left: Vec<_> = all.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        left.sort_unstable();
        left
    }

    #[test]
    fn what_is_of_one_connection_stays_there() {
        let hop_by_hop = [
            ("connection", "close, X-Hop"),
            ("connection", "x-other"),
            ("x-hop", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ];
        assert_eq!(stripped(&hop_by_hop, None, false), ["accept: */*"]);
    }

    #[test]
    fn upgrades_and_the_wish_for_trailers_are_said_anew() {
        let trailers = [("te", "trailers, deflate"), ("connection", "te")];
        assert_eq!(stripped(&trailers, None, true), ["te: trailers"]);
        assert_eq!(stripped(&trailers, None, false), ["connection: te", "te: trailers"]);
        let upgrade = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
        assert_eq!(stripped(&upgrade, Some("websocket"), false), ["connection: upgrade", "upgrade: websocket"]);
    }
}
