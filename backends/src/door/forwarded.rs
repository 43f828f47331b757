use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

/// Where a request comes from: its connection's far end, or, where that is a proxy of ours, the last address that the proxies
/// do not have themselves. What stands before that in the header was written by whoever it is, and is not believed.
///
/// `X-Forwarded-For` only: the proxies that people run add to it, and pass a client's own `Forwarded` on as it is.
pub(super) fn origin(headers: &HeaderMap, peer: SocketAddr, trusted: &[IpNet]) -> SocketAddr {
    if !is_trusted(peer, trusted) {
        return peer;
    }
    let hops: Vec<&[u8]> =
        headers.get_all(FORWARDED_FOR).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).collect();
    let mut origin = peer;
    for hop in hops.into_iter().rev() {
        // A hop that says nothing sensible hides those before it.
        let Some(hop) = address(hop) else { break };
        origin = hop;
        if !is_trusted(hop, trusted) {
            break;
        }
    }
    origin
}

/// Whether that is a proxy of ours.
pub(super) fn is_trusted(addr: SocketAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|proxies| proxies.contains(&addr.ip().to_canonical()))
}

/// An address, with its port or without one.
fn address(hop: &[u8]) -> Option<SocketAddr> {
    let hop = std::str::from_utf8(hop).ok()?.trim();
    let bare = hop.trim_start_matches('[').trim_end_matches(']');
    let ip = bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0));
    let addr = ip.or_else(|_| hop.parse::<SocketAddr>()).ok()?;
    Some(SocketAddr::new(addr.ip().to_canonical(), addr.port()))
}

const FORWARDED_FOR: &str = "x-forwarded-for";

#[cfg(test)]
mod tests {
    use super::*;

    fn origin_of(peer: &str, values: &[&'static str]) -> String {
        let headers: HeaderMap = values
            .iter()
            .map(|value| (http::HeaderName::from_static(FORWARDED_FOR), http::HeaderValue::from_static(value)))
            .collect();
        let trusted = ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        origin(&headers, SocketAddr::new(peer.parse().unwrap(), 7), &trusted).ip().to_string()
    }

    #[test]
    fn only_a_trusted_proxy_may_say_for_whom_it_asks() {
        assert_eq!(origin_of("192.0.2.1", &["198.51.100.1"]), "192.0.2.1");
        assert_eq!(origin_of("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(origin_of("::ffff:10.0.0.1", &["198.51.100.1:443"]), "198.51.100.1");
        assert_eq!(origin_of("::1", &["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(origin_of("::1", &["2001:db8::1"]), "2001:db8::1");
    }

    #[test]
    fn what_a_client_writes_before_the_proxies_is_not_believed() {
        assert_eq!(origin_of("10.0.0.1", &["127.0.0.1, 198.51.100.1"]), "198.51.100.1");
        assert_eq!(origin_of("10.0.0.1", &["203.0.113.9", "198.51.100.1, 10.0.0.2"]), "198.51.100.1");
        assert_eq!(origin_of("10.0.0.1", &["198.51.100.1, nonsense"]), "10.0.0.1");
        assert_eq!(origin_of("10.0.0.1", &["198.51.100.1, nonsense, 10.0.0.2"]), "10.0.0.2");
    }

    #[test]
    fn without_a_word_it_is_the_proxy() {
        assert_eq!(origin_of("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(origin_of("10.0.0.1", &[""]), "10.0.0.1");
    }
}
