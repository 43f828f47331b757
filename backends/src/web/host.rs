//! Of which host a request is, decided once: the same value finds the tunnel, is compared with the connection's server name and
//! is told to the agent. Whatever two readers could take for two hosts, or for bodies of two lengths, is refused.

use std::fmt;

use http::{
    HeaderMap, HeaderValue, Request, Version,
    header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
    uri::{Authority, Scheme},
};
use tunnel_api::Host;

/// The host that a request names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// In its one canonical form.
    pub(super) host: Host,
    /// As the client has said it, which is how its agent is told of it.
    pub(super) said: HeaderValue,
    /// Where that has one.
    pub(super) port: Option<u16>,
}

/// Why a request is refused whatever it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ambiguous(pub(super) &'static str);

impl fmt::Display for Ambiguous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The host of this request; `None` where none has to be named and none is: then it is no tunnel's.
pub(super) fn named<B>(request: &Request<B>) -> Result<Option<Named>, Ambiguous> {
    let target = request.uri().authority();
    check_target(request, target)?;
    let mut headers = request.headers().get_all(HOST).iter();
    let header = headers.next();
    if headers.next().is_some() {
        return Err(Ambiguous("the request has more than one Host"));
    }
    let header = header.map(|value| parse(value.as_bytes()).map(|parsed| (parsed, value.clone()))).transpose()?;
    let target = target.map(|authority| parse(authority.as_str().as_bytes()).map(|parsed| (parsed, authority)));
    match (target.transpose()?, header) {
        (Some(((host, _), _)), Some(((other, _), _))) if host != other => {
            Err(Ambiguous("the request's target and its Host are two hosts"))
        }
        // HTTP/1.0 knew no Host; whoever writes a whole URL there means to talk to a proxy.
        (Some(_) | None, None) if request.version() < Version::HTTP_11 => Ok(None),
        (Some(_) | None, None) if request.version() < Version::HTTP_2 => Err(Ambiguous("the request has no Host")),
        (Some(((host, port), authority)), _) => {
            let said = HeaderValue::from_str(authority.as_str()).map_err(|_| UNREADABLE)?;
            Ok(Some(Named { host, said, port }))
        }
        (None, Some(((host, port), said))) => Ok(Some(Named { host, said, port })),
        (None, None) => Ok(None),
    }
}

/// A target is a path, or a whole URL, and a proxy's only for CONNECT (RFC 9112, 3.2).
fn check_target<B>(request: &Request<B>, authority: Option<&Authority>) -> Result<(), Ambiguous> {
    let is_connect = request.method() == http::Method::CONNECT;
    let scheme = request.uri().scheme();
    if scheme.is_some_and(|scheme| *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS) {
        return Err(Ambiguous("the request's target is neither of http nor of https"));
    }
    let is_no_target = request.version() < Version::HTTP_2 && authority.is_some() && scheme.is_none() && !is_connect;
    if is_no_target { Err(Ambiguous("the request's target is neither a path nor a URL")) } else { Ok(()) }
}

/// `host`, `host:port`, `[v6]:port`, and nothing else. The port is no part of who is meant.
fn parse(authority: &[u8]) -> Result<(Host, Option<u16>), Ambiguous> {
    let text = std::str::from_utf8(authority).map_err(|_| UNREADABLE)?;
    if text.len() > LONGEST || !text.is_ascii() {
        return Err(UNREADABLE);
    }
    let end_of_host = text.find(']').map_or(0, |bracket| bracket + 1);
    let (host, port) = match text[end_of_host..].find(':') {
        Some(colon) => (&text[..end_of_host + colon], &text[end_of_host + colon + 1..]),
        None => (text, ""),
    };
    let port = match port {
        "" => None,
        digits if digits.bytes().all(|digit| digit.is_ascii_digit()) => Some(digits.parse().map_err(|_| UNREADABLE)?),
        _ => return Err(UNREADABLE),
    };
    Ok((host.parse().map_err(|_| UNREADABLE)?, port))
}

/// How long the body is must be said in one way. (hyper knows what to do with everything that RFC 9112 allows, and refuses what it
/// does not; this is what it would let through of what others read otherwise.)
pub(super) fn check_length(headers: &HeaderMap) -> Result<(), Ambiguous> {
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_plain = encodings.next().is_none_or(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if !is_plain || encodings.next().is_some() {
        return Err(Ambiguous("the request's Transfer-Encoding is not just chunked"));
    }
    let lengths = headers.get_all(CONTENT_LENGTH).iter().count();
    if lengths > 1 || (lengths == 1 && headers.contains_key(TRANSFER_ENCODING)) {
        return Err(Ambiguous("the request says more than once how long it is"));
    }
    Ok(())
}

const UNREADABLE: Ambiguous = Ambiguous("the request's host is neither a name nor an address");

/// Names have at most 253 characters (RFC 1035, 3.1).
const LONGEST: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(version: Version, target: &str, hosts: &[&[u8]]) -> Result<Option<String>, Ambiguous> {
        let mut request = Request::builder().version(version).uri(target);
        for host in hosts {
            request = request.header(HOST, HeaderValue::from_bytes(host).unwrap());
        }
        named(&request.body(()).unwrap()).map(|named| named.map(|named| named.host.to_string()))
    }

    fn found(host: &str) -> Result<Option<String>, Ambiguous> {
        Ok(Some(host.to_owned()))
    }

    #[test]
    fn one_host_in_any_spelling_is_one_host() {
        for (said, host) in [
            ("blog.example", "blog.example"),
            ("BLOG.Example.", "blog.example"),
            ("blog.example:8010", "blog.example"),
            ("blog.example:", "blog.example"),
            ("127.0.0.1:8010", "127.0.0.1"),
            ("[::1]:8010", "[::1]"),
            ("[0:0::1]", "[::1]"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(of(Version::HTTP_11, "/", &[said.as_bytes()]), found(host), "{said}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let long = format!("{}.example", "a.".repeat(150));
        for said in [
            "",
            " ",
            "a b",
            "a,b",
            "a, a",
            "a@b",
            "user:pw@b",
            "a:b",
            "a:-1",
            "a:65536",
            "a:80:80",
            "a/",
            "/a",
            "a?b",
            "a#b",
            "a\\b",
            "bücher.example",
            "[::1",
            "::1",
            "[::1]x",
            "[::1]:x",
            "a..b",
            ".a",
            "a%2eb",
            "1.2.3",
            "*",
            &long,
        ] {
            let refused = of(Version::HTTP_11, "/", &[said.as_bytes()]);
            assert_eq!(refused, Err(UNREADABLE), "{said:?}");
        }
    }

    #[test]
    fn there_is_one_host_and_it_is_the_targets() {
        let v1 = Version::HTTP_11;
        assert!(of(v1, "/", &[]).is_err());
        assert!(of(v1, "/", &[b"a.example", b"b.example"]).is_err());
        assert!(of(v1, "/", &[b"a.example", b"a.example"]).is_err());
        assert!(of(v1, "http://a.example/", &[]).is_err());
        assert!(of(v1, "http://a.example/", &[b"b.example"]).is_err());
        assert_eq!(of(v1, "http://A.example:80/", &[b"a.example."]), found("a.example"));
        assert!(of(v1, "ftp://a.example/", &[b"a.example"]).is_err());
        assert!(of(v1, "a.example", &[b"a.example"]).is_err());
        assert!(of(v1, "http://u@a.example/", &[b"a.example"]).is_err());
    }

    #[test]
    fn in_http_2_it_is_the_authority_and_a_host_beside_it_is_the_same() {
        let v2 = Version::HTTP_2;
        assert_eq!(of(v2, "http://a.example/", &[]), found("a.example"));
        assert_eq!(of(v2, "https://a.example/", &[b"A.example:443"]), found("a.example"));
        assert!(of(v2, "http://a.example/", &[b"b.example"]).is_err());
        assert!(of(v2, "http://a.example/", &[b"a.example", b"a.example"]).is_err());
        assert_eq!(of(v2, "/", &[b"a.example"]), found("a.example"));
        assert_eq!(of(v2, "/", &[]), Ok(None));
    }

    #[test]
    fn http_1_0_need_not_say_it_and_may() {
        assert_eq!(of(Version::HTTP_10, "/", &[]), Ok(None));
        assert_eq!(of(Version::HTTP_10, "http://a.example/", &[]), Ok(None));
        assert_eq!(of(Version::HTTP_10, "/", &[b"a.example"]), found("a.example"));
    }

    #[test]
    fn a_length_is_said_in_one_way() {
        let check = |fields: &[(&'static str, &'static str)]| {
            let pairs = fields
                .iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
            check_length(&pairs.collect())
        };
        let (length, encoding) = ("content-length", "transfer-encoding");
        for fine in [&[][..], &[(length, "5")], &[(encoding, "chunked")], &[(encoding, "Chunked")]] {
            assert_eq!(check(fine), Ok(()), "{fine:?}");
        }
        for ambiguous in [
            &[(length, "5"), (length, "5")][..],
            &[(length, "5"), (encoding, "chunked")],
            &[(encoding, "chunked"), (encoding, "chunked")],
            &[(encoding, "gzip, chunked")],
            &[(encoding, "chunked, identity")],
            &[(encoding, "xchunked")],
            &[(encoding, "")],
        ] {
            assert!(check(ambiguous).is_err(), "{ambiguous:?}");
        }
    }
}
