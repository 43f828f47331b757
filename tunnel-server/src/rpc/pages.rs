//! Calls that a web page makes, in somebody's browser: they come from where that somebody is, which is more than the page's author
//! may have reached. Only our own pages may call.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tunnel_api::{ConnectionAddrs, Host};
use tunnel_backends::names::localhost;

use super::is_grpc;

/// The hosts that are the server's by its config.
#[derive(Debug, Clone)]
pub(crate) struct OwnHosts(Arc<[Host]>);

impl OwnHosts {
    pub(crate) fn new(configured: impl IntoIterator<Item = Host>) -> Self {
        Self(configured.into_iter().chain([localhost()]).collect())
    }
}

/// A mark on the answer to a page from elsewhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ForeignPage;

/// Lets calls in that come from no page, or from one of ours. (No other page is ever told that it may: there are no CORS headers.)
pub(super) async fn keep_out(State(own): State<OwnHosts>, request: Request, next: Next) -> Response {
    if !is_grpc(&request) || !request.headers().contains_key(header::ORIGIN) || own.is_page(&request) {
        return next.run(request).await;
    }
    let mut refusal = (StatusCode::FORBIDDEN, REFUSAL).into_response();
    refusal.extensions_mut().insert(ForeignPage);
    refusal
}

impl OwnHosts {
    /// Whether the page is from the host that it calls, and that host can be nobody else's. By DNS rebinding a name of anybody's may
    /// lead here, and then page and call are of one host: such a name is refused. An address is not looked up, and where there is
    /// encryption, rebinding fails on the certificate.
    fn is_page(&self, request: &Request) -> bool {
        let encrypted = request.extensions().get::<ConnectionAddrs>().is_some_and(|addrs| addrs.encrypted);
        let (Some(page), Some(called)) = (Site::of_page(request), Site::called(request, encrypted)) else {
            return false;
        };
        page == called && (encrypted || called.host.ip().is_some() || self.0.contains(&called.host))
    }
}

/// What a page may talk to without being asked: scheme, host and port (RFC 6454).
#[derive(Debug, PartialEq, Eq)]
struct Site {
    is_https: bool,
    host: Host,
    port: u16,
}

impl Site {
    /// (`null`, where the browser does not want to say, is no site.)
    fn of_page(request: &Request) -> Option<Self> {
        let mut origins = request.headers().get_all(header::ORIGIN).iter();
        let (Some(origin), None) = (origins.next(), origins.next()) else { return None };
        let (scheme, authority) = origin.to_str().ok()?.split_once("://")?;
        let is_https = match scheme {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        Self::at(is_https, authority)
    }

    fn called(request: &Request, is_https: bool) -> Option<Self> {
        if let Some(authority) = request.uri().authority() {
            return Self::at(is_https, authority.as_str());
        }
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return None };
        Self::at(is_https, host.to_str().ok()?)
    }

    fn at(is_https: bool, authority: &str) -> Option<Self> {
        let authority: Authority = authority.parse().ok().filter(|a: &Authority| !a.as_str().contains('@'))?;
        let default = if is_https { 443 } else { 80 };
        let port = match authority.as_str()[authority.host().len()..].strip_prefix(':') {
            Some(port) => port.parse().ok()?,
            None => default,
        };
        Some(Self { is_https, host: authority.host().parse().ok()?, port })
    }
}

const REFUSAL: &str = "calls from web pages of other sites are refused; and from this site's pages too, if it is called by a name \
                       that the server's config does not have (advertise.agents, advertise.clients, names.domain) and \
                       without TLS\n";

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn is_page(url: &str, encrypted: bool, origins: &[&str]) -> bool {
        let own = OwnHosts::new(["tunnels.example".parse().unwrap()]);
        let mut request = Request::builder().uri(url);
        for origin in origins {
            request = request.header(header::ORIGIN, *origin);
        }
        let local = "127.0.0.1:8010".parse().unwrap();
        let addrs = ConnectionAddrs { peer: local, local, encrypted };
        own.is_page(&request.extension(addrs).body(Body::empty()).unwrap())
    }

    #[test]
    fn our_own_pages_may_call() {
        for site in [
            "http://127.0.0.1:8010",
            "http://[2001:db8::1]:8010",
            "http://192.0.2.1",
            "http://localhost:8010",
            "http://tunnels.example:8010",
        ] {
            assert!(is_page(&format!("{site}/"), false, &[site]), "{site}");
        }
        // Where nobody else has the certificate, the name does not matter.
        assert!(is_page("https://any.example/", true, &["https://any.example"]));
        assert!(is_page("https://any.example:443/", true, &["https://ANY.example."]));
        assert!(is_page("http://192.0.2.1:80/", false, &["http://192.0.2.1"]));
    }

    #[test]
    fn no_page_from_elsewhere_may_call() {
        for (called, encrypted, origins) in [
            // Rebound: the page's own name leads to us now.
            ("http://evil.example:8010/", false, &["http://evil.example:8010"][..]),
            ("http://evil.localhost:8010/", false, &["http://evil.localhost:8010"]),
            ("http://127.0.0.1:8010/", false, &["http://evil.example:8010"]),
            // Another server on this host, such as a tunnel's client port.
            ("http://127.0.0.1:8010/", false, &["http://127.0.0.1:20000"]),
            ("http://127.0.0.1:8010/", false, &["http://127.0.0.1"]),
            // A page without TLS may have been changed on its way.
            ("https://tunnels.example/", true, &["http://tunnels.example"]),
            ("https://tunnels.example/", true, &["https://evil.example"]),
            ("http://127.0.0.1:8010/", false, &["https://127.0.0.1:8010"]),
            ("http://127.0.0.1:8010/", false, &["null"]),
            ("http://127.0.0.1:8010/", false, &[""]),
            ("http://127.0.0.1:8010/", false, &["http://127.0.0.1:8010", "http://127.0.0.1:8010"]),
            ("http://127.0.0.1:8010/", false, &["http://127.0.0.1:8010", "http://evil.example"]),
            ("http://127.0.0.1:8010/", false, &["http://127.0.0.1:8010 http://evil.example"]),
            ("http://127.0.0.1:8010/", false, &["http://evil@127.0.0.1:8010"]),
            ("http://127.0.0.1:8010/", false, &["http://127.0.0.1:8010/"]),
            ("http://127.0.0.1:8010/", false, &["http://127.0.0.1:"]),
            ("http://127.0.0.1:8010/", false, &["chrome-extension://abc"]),
            // Nobody knows what is called.
            ("/", false, &["http://127.0.0.1:8010"]),
        ] {
            assert!(!is_page(called, encrypted, origins), "{called} {origins:?}");
        }
    }
}
