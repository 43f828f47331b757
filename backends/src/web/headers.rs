//! What a request's and an answer's head are on the other side. What is about one connection stays there (RFC 9110, 7.6.1), and the
//! agent is told who asks for what, by whom it can believe.
//!
//! There is no `Via`, though RFC 9110 (7.6.3) wants one of gateways: nginx, by default, and IIS do not compress what they answer to
//! a request that has it, and loops, which it is for, end at the tunnel's limit of streams.

use std::{
    fmt::{self, Write},
    net::SocketAddr,
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, InvalidHeaderValue, TE, TRANSFER_ENCODING},
};

use super::{host::Named, pages::TUNNEL_ERROR};
use crate::{hop, upgraded::NOT_UPGRADED};

/// Who asks, as the agent is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker<'a> {
    /// Where the client comes from.
    pub(super) client: SocketAddr,
    /// Where it connected to.
    pub(super) public: SocketAddr,
    /// A proxy of ours that it came through.
    pub(super) proxy: Option<SocketAddr>,
    /// Whom it asked.
    pub(super) named: &'a Named,
    pub(super) encrypted: bool,
}

impl Asker<'_> {
    /// What it speaks.
    pub(super) fn scheme(&self) -> &'static str {
        if self.encrypted { "https" } else { "http" }
    }

    fn port(&self) -> u16 {
        self.named.port.unwrap_or(if self.encrypted { 443 } else { 80 })
    }
}

/// Words of ours in a head: all of them are in one piece of memory, of which each is a part. That makes them cheap to copy, too.
pub(super) struct Words(BytesMut);

impl Words {
    /// For what is said of this one.
    pub(super) fn about(asker: &Asker<'_>) -> Self {
        Self(BytesMut::with_capacity(TOLD + 2 * asker.named.said.len()))
    }

    pub(super) fn say(&mut self, words: fmt::Arguments<'_>) -> Bytes {
        // Memory takes whatever is written there.
        let _ = self.0.write_fmt(words);
        self.0.split().freeze()
    }

    pub(super) fn repeat(&mut self, words: &[u8]) -> Bytes {
        self.0.extend_from_slice(words);
        self.0.split().freeze()
    }
}

/// Two addresses, one of them twice, and what stands between.
const TOLD: usize = 224;

/// Makes a client's header fields the agent's.
pub(super) fn to_agent(headers: &mut HeaderMap, asker: &Asker<'_>, words: &mut Words) {
    let takes_trailers = hop::strip(headers);
    // hyper answers it when the body is read.
    headers.remove(EXPECT);
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    join_cookies(headers);
    tell_who_asks(headers, asker, words);
}

/// Makes an agent's header fields the client's.
pub(super) fn to_client(headers: &mut HeaderMap) {
    // What came in chunks is as long as they are, whatever else is said (RFC 9112, 6.3).
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    say_length_once(headers);
    hop::strip(headers);
    // The one says that an answer is ours, and the other was for us.
    headers.remove(TUNNEL_ERROR);
    headers.remove(NOT_UPGRADED);
}

/// A length that is said more than once, in one field or in several, is said once (RFC 9110, 8.6); and not at all where it is not the
/// same one.
fn say_length_once(headers: &mut HeaderMap) {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let first = values.next();
    if values.next().is_none() && first.is_none_or(|length| !length.as_bytes().contains(&b',')) {
        return;
    }
    let lengths: Vec<String> = hop::tokens(headers, &CONTENT_LENGTH).map(str::to_owned).collect();
    if let [length, others @ ..] = &lengths[..]
        && !others.is_empty()
    {
        headers.remove(CONTENT_LENGTH);
        if others.iter().all(|other| other == length) {
            set(headers, CONTENT_LENGTH, HeaderValue::from_str(length));
        }
    }
}

/// `Forwarded` is ours alone: the proxies that people run pass on what a client wrote in it. What they write into `X-Forwarded-*`
/// is kept where we were told to trust them, and their own address is added.
fn tell_who_asks(headers: &mut HeaderMap, asker: &Asker<'_>, words: &mut Words) {
    let Asker { client, public, proxy, named, .. } = *asker;
    for name in headers_that_pass_for_ours(headers, proxy.is_some()) {
        headers.remove(name);
    }
    headers.reserve(SAID);
    let said = named.said.to_str().unwrap_or_default();
    let scheme = asker.scheme();
    let forwarded = words.say(format_args!("for=\"{client}\";by=\"{public}\";host=\"{said}\";proto={scheme}"));
    set(headers, FORWARDED, HeaderValue::from_maybe_shared(forwarded));
    let hops = match proxy {
        Some(proxy) => words.say(format_args!("{}{}", Hops(headers), proxy.ip())),
        None => words.say(format_args!("{}", client.ip())),
    };
    set(headers, FORWARDED_FOR, HeaderValue::from_maybe_shared(hops));
    let mut add = |name, value: &mut dyn FnMut() -> Result<HeaderValue, InvalidHeaderValue>| {
        if proxy.is_none() || !headers.contains_key(&name) {
            set(headers, name, value());
        }
    };
    add(FORWARDED_HOST, &mut || Ok(named.said.clone()));
    add(FORWARDED_PROTO, &mut || Ok(HeaderValue::from_static(scheme)));
    add(FORWARDED_PORT, &mut || match asker.port() {
        80 => Ok(HeaderValue::from_static("80")),
        443 => Ok(HeaderValue::from_static("443")),
        port => HeaderValue::from_maybe_shared(words.say(format_args!("{port}"))),
    });
}

/// The fields that [`tell_who_asks`] sets.
const SAID: usize = 5;

/// What proxies have said of where a request was, each followed by a comma.
struct Hops<'h>(&'h HeaderMap);

impl fmt::Display for Hops<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hops = self.0.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
        hops.map(str::trim).filter(|hop| !hop.is_empty()).try_for_each(|hop| write!(f, "{hop}, "))
    }
}

/// What says who asks and is none of ours: other fields of this kind, of which each framework believes some, where no proxy of ours has
/// come before; and whatever is spelled with `_` for `-`, which by CGI's rules, as in WSGI, Rack and PHP, is the same field.
fn headers_that_pass_for_ours(headers: &HeaderMap, has_proxy: bool) -> Vec<HeaderName> {
    let passes = |name: &&HeaderName| {
        let name = name.as_str();
        let is_kind = begins_like(name, "x-forwarded-") || name == FORWARDED.as_str();
        is_kind && (!has_proxy || name.contains('_'))
    };
    headers.keys().filter(passes).cloned().collect()
}

fn begins_like(name: &str, kind: &str) -> bool {
    let is_same = |(said, meant): (u8, u8)| said == meant || (said == b'_' && meant == b'-');
    name.len() >= kind.len() && name.bytes().zip(kind.bytes()).all(is_same)
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: Result<HeaderValue, InvalidHeaderValue>) {
    // It is made of addresses, and of a host that has been looked at.
    if let Ok(value) = value {
        headers.insert(name, value);
    }
}

/// HTTP/2 may have them one by one, and HTTP/1.1 may not (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let cookies: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(mut joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
        joined.set_sensitive(true);
        headers.insert(COOKIE, joined);
    }
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        fields.iter().map(pair).collect()
    }

    fn asked(fields: &[(&'static str, &'static str)], proxy: Option<&str>) -> HeaderMap {
        let named = Named {
            host: "blog.example".parse().unwrap(),
            said: HeaderValue::from_static("Blog.example:8010"),
            port: Some(8010),
        };
        let asker = Asker {
            client: "192.0.2.1:7".parse().unwrap(),
            public: "[2001:db8::1]:8010".parse().unwrap(),
            proxy: proxy.map(|proxy| proxy.parse().unwrap()),
            named: &named,
            encrypted: true,
        };
        let mut headers = headers(fields);
        to_agent(&mut headers, &asker, &mut Words::about(&asker));
        headers
    }

    #[test]
    fn what_is_about_one_connection_stays_there() {
        let own = [
            ("connection", "keep-alive, X-Mine, host, content-length"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic eDp5"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("expect", "100-continue"),
            ("x-mine", "1"),
        ];
        let kept =
            [("host", "blog.example"), ("content-length", "5"), ("trailer", "x-sum"), ("authorization", "Basic eDp5")];
        let told = asked(&[&own[..], &kept].concat(), None);
        for (name, _) in own {
            assert!(!told.contains_key(name), "{name} went on");
        }
        for (name, value) in kept {
            assert_eq!(told[name], value);
        }
    }

    #[test]
    fn whether_the_client_takes_trailers_goes_on() {
        assert_eq!(asked(&[("te", "gzip, Trailers"), ("connection", "te")], None)["te"], "trailers");
    }

    #[test]
    fn what_a_client_says_of_itself_is_not_believed() {
        let told = asked(
            &[
                ("forwarded", "for=10.0.0.1"),
                ("x-forwarded-for", "10.0.0.1"),
                ("x-forwarded-host", "evil.example"),
                ("x-forwarded-proto", "http"),
                ("x-forwarded-port", "1"),
            ],
            None,
        );
        for (name, value) in [
            ("forwarded", "for=\"192.0.2.1:7\";by=\"[2001:db8::1]:8010\";host=\"Blog.example:8010\";proto=https"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-host", "Blog.example:8010"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "8010"),
        ] {
            let values: Vec<_> = told.get_all(name).iter().collect();
            assert_eq!(values, [value], "{name}");
        }
    }

    #[test]
    fn what_a_proxy_of_ours_says_is_kept_and_added_to() {
        let told = asked(
            &[
                ("x-forwarded-for", "192.0.2.1"),
                ("x-forwarded-for", "10.0.0.2"),
                ("x-forwarded-proto", "http"),
                ("forwarded", "for=203.0.113.9"),
            ],
            Some("10.0.0.1:5"),
        );
        assert_eq!(told["x-forwarded-for"], "192.0.2.1, 10.0.0.2, 10.0.0.1");
        assert_eq!(told["x-forwarded-proto"], "http");
        assert_eq!(told["x-forwarded-host"], "Blog.example:8010");
        assert!(told["forwarded"].to_str().unwrap().starts_with("for=\"192.0.2.1:7\";"), "{told:?}");
    }

    #[test]
    fn what_only_some_take_for_a_proxys_is_not_believed_either() {
        let others = [
            ("x-forwarded-ssl", "on"),
            ("x-forwarded-prefix", "/x"),
            ("x_forwarded_for", "10.0.0.1"),
            ("x-forwarded_proto", "https"),
        ];
        let told = asked(&others, None);
        let told: Vec<_> = others.iter().filter(|(name, _)| told.contains_key(*name)).collect();
        assert!(told.is_empty(), "{told:?} went on");
        let told = asked(&others, Some("10.0.0.1:5"));
        let told: Vec<_> = others.iter().map(|(name, _)| *name).filter(|name| told.contains_key(*name)).collect();
        assert_eq!(told, ["x-forwarded-ssl", "x-forwarded-prefix"]);
    }

    #[test]
    fn an_answer_is_as_long_as_it_is() {
        let (length, chunked) = ("content-length", ("transfer-encoding", "chunked"));
        for (fields, said) in [
            (&[(length, "3"), chunked][..], None),
            (&[(length, "5"), (length, "5")], Some("5")),
            (&[(length, "5, 5")], Some("5")),
            (&[(length, "5"), (length, "7")], None),
            (&[(length, "5")], Some("5")),
        ] {
            let mut told = headers(&[]);
            for (name, value) in fields {
                told.append(*name, HeaderValue::from_static(value));
            }
            to_client(&mut told);
            let told: Vec<_> = told.get_all(length).iter().collect();
            assert_eq!(told, Vec::from_iter(said), "{fields:?}");
        }
    }

    #[test]
    fn cookies_are_one_field() {
        let told = asked(&[("cookie", "a=1"), ("cookie", "b=2")], None);
        assert_eq!(told.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn an_origin_does_not_pass_for_us() {
        let mut told = headers(&[("tunnel-error", "no-agent"), ("alt-svc", "h3"), ("connection", "x-a"), ("x-a", "1")]);
        to_client(&mut told);
        assert_eq!(told.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["alt-svc"]);
    }
}
