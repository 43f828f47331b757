use std::{convert::Infallible, net::IpAddr};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use ipnet::IpNet;

use super::HttpBody;
use crate::sockets;

/// Whose connections are encrypted, and whose need not be.
#[derive(Debug, Clone)]
pub struct Encryption {
    /// Proxies that end TLS in front of us: what comes from there was encrypted on its way.
    pub terminated_by: Vec<IpNet>,
    /// From where connections may come plain; all others are refused.
    pub plain_from: Vec<IpNet>,
}

/// Nothing is demanded.
impl Default for Encryption {
    fn default() -> Self {
        Self { terminated_by: Vec::new(), plain_from: sockets::everybody() }
    }
}

impl Encryption {
    /// Demanded of everybody but this host.
    pub fn demanded(terminated_by: Vec<IpNet>) -> Self {
        Self { terminated_by, plain_from: sockets::loopback() }
    }

    /// How a plain connection from there is to be taken.
    pub(super) fn of_plain(&self, peer: IpAddr) -> Plain {
        let peer = peer.to_canonical();
        let is_in = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&peer));
        if is_in(&self.terminated_by) {
            Plain::Encrypted
        } else if is_in(&self.plain_from) {
            Plain::Welcome
        } else {
            Plain::Refused
        }
    }
}

/// How a plain connection is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plain {
    /// A proxy has ended its TLS.
    Encrypted,
    Welcome,
    Refused,
}

/// What is answered to every request on a connection that should have been encrypted.
pub(super) fn refusal(request: &Request<Incoming>) -> Response<HttpBody> {
    if let Some(content_type) = called_by(request.headers()) {
        return unauthenticated(content_type, request.version());
    }
    let text = Full::new(Bytes::from_static(REFUSAL.as_bytes()));
    let mut response = Response::new(HttpBody::new(text.map_err(|never: Infallible| match never {})));
    *response.status_mut() = StatusCode::FORBIDDEN;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    hang_up(&mut response, request.version());
    response
}

/// The content type of answers to a call, if this is one: of gRPC, or of gRPC-Web in either spelling.
fn called_by(headers: &HeaderMap) -> Option<&'static str> {
    let content_type = headers.get(header::CONTENT_TYPE)?.to_str().ok()?.to_ascii_lowercase();
    let kind = content_type.strip_prefix("application/grpc")?;
    Some(match kind.strip_prefix("-web") {
        None => "application/grpc",
        Some(spelling) if spelling.starts_with("-text") => "application/grpc-web-text+proto",
        Some(_) => "application/grpc-web+proto",
    })
}

/// A gRPC status without a message before it: headers alone.
fn unauthenticated(content_type: &'static str, version: Version) -> Response<HttpBody> {
    let mut response = Response::new(HttpBody::new(Empty::new().map_err(|never: Infallible| match never {})));
    hang_up(&mut response, version);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert("grpc-status", HeaderValue::from_static("16"));
    // It has nothing in it that would have to be percent-encoded.
    headers.insert("grpc-message", HeaderValue::from_static(REFUSAL.trim_ascii_end()));
    response
}

fn hang_up(response: &mut Response<HttpBody>, version: Version) {
    if version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

const REFUSAL: &str = "this server wants encryption: use https:// instead of http://, and ptths:// tunnel URIs\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_encryption_is_demanded_only_this_host_and_the_proxies_may_come_plain() {
        let demanded = Encryption::demanded(vec!["10.0.0.0/8".parse().unwrap()]);
        for (peer, taken) in [
            ("127.0.0.1", Plain::Welcome),
            ("::1", Plain::Welcome),
            ("::ffff:127.0.0.1", Plain::Welcome),
            ("10.1.2.3", Plain::Encrypted),
            ("::ffff:10.1.2.3", Plain::Encrypted),
            ("192.0.2.1", Plain::Refused),
            ("2001:db8::1", Plain::Refused),
        ] {
            assert_eq!(demanded.of_plain(peer.parse().unwrap()), taken, "{peer}");
        }
    }

    #[test]
    fn where_nothing_is_demanded_everybody_may_come_plain() {
        for peer in ["127.0.0.1", "192.0.2.1", "2001:db8::1"] {
            assert_eq!(Encryption::default().of_plain(peer.parse().unwrap()), Plain::Welcome, "{peer}");
        }
    }

    #[test]
    fn a_call_is_refused_in_what_it_speaks() {
        let called_by = |text: &str| called_by(&HeaderMap::from_iter([(header::CONTENT_TYPE, text.parse().unwrap())]));
        for (content_type, answer) in [
            ("application/grpc", Some("application/grpc")),
            ("application/grpc+proto", Some("application/grpc")),
            ("application/grpc-web", Some("application/grpc-web+proto")),
            ("Application/grpc-web+proto", Some("application/grpc-web+proto")),
            ("application/grpc-web-text", Some("application/grpc-web-text+proto")),
            ("text/plain", None),
        ] {
            assert_eq!(called_by(content_type), answer, "{content_type}");
        }
    }

    #[test]
    fn a_proxy_on_this_host_ends_tls_too() {
        let demanded = Encryption::demanded(vec!["127.0.0.1/32".parse().unwrap()]);
        assert_eq!(demanded.of_plain("127.0.0.1".parse().unwrap()), Plain::Encrypted);
    }
}
