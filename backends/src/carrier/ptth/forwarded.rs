//! The client's address on its way to the agent: RFC 7239.

use std::net::SocketAddr;

/// `for` is where the client comes from, `by` where it connected to.
#[cfg(feature = "serve")]
pub(super) fn forwarded(client: SocketAddr, public: SocketAddr) -> String {
    format!("for=\"{client}\";by=\"{public}\"")
}

/// The addresses in a header of ours: the client's, and where it connected to. Of one that has passed others, the first.
#[cfg(feature = "dial")]
pub(super) fn addresses(header: &str) -> Option<(SocketAddr, SocketAddr)> {
    let first = header.split(',').next()?;
    let node = |name: &str| {
        first.split(';').find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"'))?.parse().ok()
        })
    };
    Some((node("for")?, node("by")?))
}

/// Whose request it is, as far as a header says: the first one it has passed says where the client comes from. A port is not
/// always known; then it is 0.
#[cfg(feature = "dial")]
pub(super) fn client(header: &str) -> Option<SocketAddr> {
    let first = header.split(',').next()?;
    let node = first.split(';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        key.trim().eq_ignore_ascii_case("for").then(|| value.trim().trim_matches('"'))
    })?;
    if let Ok(addr) = node.parse() {
        return Some(addr);
    }
    let ip = node.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(node);
    Some(SocketAddr::new(ip.parse().ok()?, 0))
}

#[cfg(all(test, feature = "serve", feature = "dial"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (client, public) in
            [("192.0.2.1:2", "192.0.2.3:4"), ("[2001:db8::1]:2", "[::1]:4"), ("192.0.2.1:2", "[::1]:65535")]
        {
            let pair = (client.parse().unwrap(), public.parse().unwrap());
            assert_eq!(addresses(&forwarded(pair.0, pair.1)), Some(pair));
        }
    }

    #[test]
    fn what_names_no_address_is_not_believed() {
        for header in
            ["", "for=unknown;by=_x", "for=\"192.0.2.1:2\"", "by=\"192.0.2.1:2\"", "for", ";;=", "for=1.2.3.4"]
        {
            assert_eq!(addresses(header), None, "{header}");
        }
    }

    #[test]
    fn a_requests_client_is_the_first_one_named_whether_by_its_port_or_not() {
        for (header, addr) in [
            ("for=\"192.0.2.1:2\";by=\"192.0.2.3:4\"", Some("192.0.2.1:2")),
            ("for=192.0.2.1;proto=http, for=192.0.2.9", Some("192.0.2.1:0")),
            ("proto=https; For=\"[2001:db8::1]\"", Some("[2001:db8::1]:0")),
            ("for=\"[2001:db8::1]:2\"", Some("[2001:db8::1]:2")),
            ("for=unknown", None),
            ("by=192.0.2.1", None),
        ] {
            assert_eq!(client(header), addr.map(|addr| addr.parse().unwrap()), "{header}");
        }
    }
}
