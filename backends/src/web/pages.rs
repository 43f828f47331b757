//! What is answered where no agent answers: what is wrong and what to do about it, for whoever came and for whoever runs the
//! service. A page for browsers, JSON for programs that ask for it, and text for everybody else, who is somebody with curl.

use std::convert::Infallible;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{
        ACCEPT, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER,
        X_CONTENT_TYPE_OPTIONS,
    },
};
use http_body_util::{BodyExt, Empty, Full};

use super::host::Ambiguous;
use crate::{door::HttpBody, grpc::answer_type};

/// Why a request gets a page and not an agent's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Page {
    /// What it wants is not clear.
    Ambiguous(Ambiguous),
    /// No tunnel has this host.
    Unknown(String),
    /// The connection was made for another host than the request is for.
    Misdirected,
    /// The host's clients speak TLS with its agent.
    NotHttp(String),
    /// It has to come by TLS: there, if it can be sent there.
    ByTls(Option<String>),
    /// The tunnel is not for this client.
    KeptOut,
    /// There are as many as may be.
    TooMany(String),
    /// No agent is there.
    NoAgent(String),
    /// An agent was asked and gave no answer.
    NoAnswer,
    /// The agent does not take what is no request.
    NoUpgrade,
    /// The client stopped in the middle of its request.
    TooSlow,
    /// No tunnel is asked this.
    Method,
}

/// How a page is to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reader {
    wants: Wants,
    is_head: bool,
    closes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wants {
    Html,
    Json,
    Text,
    /// With this content type.
    Grpc(&'static str),
}

impl Reader {
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        Self {
            wants: Wants::of(request.headers()),
            is_head: request.method() == Method::HEAD,
            closes: request.version() < Version::HTTP_2,
        }
    }

    pub(crate) fn is_head(self) -> bool {
        self.is_head
    }
}

impl Wants {
    fn of(headers: &HeaderMap) -> Self {
        let has = |name: HeaderName, what: &str| {
            headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).any(|value| value.contains(what))
        };
        if let Some(answer_type) = answer_type(headers) {
            Self::Grpc(answer_type)
        } else if has(ACCEPT, "text/html") {
            Self::Html
        } else if has(ACCEPT, "json") {
            Self::Json
        } else {
            Self::Text
        }
    }
}

/// A page's text: what it is called by, what is wrong, and what to do.
struct Text {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    visitor: String,
    owner: &'static str,
}

impl Page {
    /// The answer to whoever reads it.
    pub(crate) fn answer(&self, reader: Reader) -> Response<HttpBody> {
        let text = self.text();
        let mut response = match reader.wants {
            // What is no good as HTTP is refused as such.
            Wants::Grpc(content_type) if !matches!(self, Self::Ambiguous(_)) => grpc(&text, content_type),
            _ => text.response(reader),
        };
        let headers = response.headers_mut();
        headers.insert(TUNNEL_ERROR, HeaderValue::from_static(text.code));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(later) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(later));
        }
        match self {
            Self::Method => {
                headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
            }
            Self::ByTls(Some(url)) => {
                // It is a host that has been looked at, and a path that came in a request.
                if let Ok(url) = HeaderValue::from_str(url) {
                    headers.insert(LOCATION, url);
                }
            }
            // What follows on the connection is not to be guessed.
            Self::Ambiguous(_) | Self::TooSlow if reader.closes => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }

    fn retry_after(&self) -> Option<&'static str> {
        match self {
            Self::NoAgent(_) => Some("5"),
            Self::TooMany(_) => Some("1"),
            _ => None,
        }
    }

    fn text(&self) -> Text {
        let text = |status, code, title, visitor: &str, owner| Text {
            status,
            code,
            title,
            visitor: visitor.to_owned(),
            owner,
        };
        match self {
            Self::Ambiguous(why) => text(
                StatusCode::BAD_REQUEST,
                "bad-request",
                "This request cannot be understood",
                &format!("{why}, so that it is not clear whose it is."),
                "Whatever sent it has to say one host and one length.",
            ),
            Self::Unknown(host) => text(
                StatusCode::NOT_FOUND,
                "unknown-host",
                "There is nothing here",
                &format!("No tunnel has the name {host}. Check the address."),
                "Names are given when a tunnel is opened, for example by `tunnel http 3000 --name blog`.",
            ),
            Self::Misdirected => text(
                StatusCode::MISDIRECTED_REQUEST,
                "misdirected",
                "This connection was made for another site",
                "Ask again on a connection of its own; browsers do by themselves.",
                "The TLS server name of a connection and the host of its requests have to be the same.",
            ),
            Self::NotHttp(host) => text(
                StatusCode::MISDIRECTED_REQUEST,
                "not-http",
                "This name is not for HTTP",
                &format!("{host} speaks TLS with its own certificate. Connect by TLS, with {host} as the server name."),
                "To have requests come here, open the tunnel with an http address.",
            ),
            Self::ByTls(Some(url)) => text(
                StatusCode::PERMANENT_REDIRECT,
                "by-tls",
                "This site is encrypted",
                &format!("Go to {url}"),
                "Give out the https address.",
            ),
            Self::ByTls(None) => text(
                StatusCode::FORBIDDEN,
                "by-tls",
                "This site is encrypted",
                "Send it again to the https address; what was sent here could be read on its way.",
                "Give out the https address.",
            ),
            Self::KeptOut => text(
                StatusCode::FORBIDDEN,
                "kept-out",
                "This site is not open to you",
                "It is not open to your network address.",
                "The tunnel's client_allow and client_deny say who may come.",
            ),
            Self::TooMany(which) => text(
                StatusCode::TOO_MANY_REQUESTS,
                "limit-reached",
                "Too many visitors at once",
                "Try again in a moment.",
                "",
            )
            .for_owner(&format!("A limit was reached: {which}.")),
            Self::NoAgent(host) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "no-agent",
                "This site is not connected",
                &format!("{host} exists, but whatever serves it is not connected right now. Try again later."),
                "Start its agent, for example by `tunnel http 3000`; it will be there within seconds.",
            ),
            Self::NoAnswer => text(
                StatusCode::BAD_GATEWAY,
                "no-answer",
                "This site did not answer",
                "It is connected, but it broke off before it answered. Try again later.",
                "The agent is connected. See whether the local service behind it runs, and what the agent says.",
            ),
            Self::NoUpgrade => text(
                StatusCode::NOT_IMPLEMENTED,
                "no-upgrade",
                "This site takes no WebSockets here",
                "The site's agent does not take connections that are no requests.",
                "An agent takes them where its HTTP/2 server allows extended CONNECT (RFC 8441), or where its tunnel was opened \
                 with carry = connections.",
            ),
            Self::TooSlow => text(
                StatusCode::REQUEST_TIMEOUT,
                "too-slow",
                "This request did not come to its end",
                "Nothing more of it has come for a minute.",
                "",
            ),
            Self::Method => text(
                StatusCode::METHOD_NOT_ALLOWED,
                "method",
                "No site is asked this",
                "CONNECT and TRACE are for proxies, and this is none.",
                "",
            ),
        }
    }
}

impl Text {
    /// There is more to say to whoever runs the service than a text that is always the same.
    fn for_owner(mut self, what: &str) -> Self {
        self.visitor = format!("{} {what}", self.visitor);
        self
    }

    fn response(&self, reader: Reader) -> Response<HttpBody> {
        let (media, body) = match reader.wants {
            Wants::Html => ("text/html; charset=utf-8", self.html()),
            Wants::Json => ("application/json", self.json()),
            Wants::Text | Wants::Grpc(_) => ("text/plain; charset=utf-8", self.plain()),
        };
        let length = HeaderValue::from(body.len());
        let body = if reader.is_head { Bytes::new() } else { Bytes::from(body) };
        let mut response = Response::new(whole(body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
        response.headers_mut().insert(CONTENT_LENGTH, length);
        response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }

    fn plain(&self) -> String {
        let Self { status, title, visitor, owner, .. } = self;
        let owner = if owner.is_empty() { String::new() } else { format!("If it is yours: {owner}\n") };
        format!("{} {title}\n\n{visitor}\n{owner}", status.as_u16())
    }

    fn json(&self) -> String {
        let Self { status, code, title, visitor, owner } = self;
        let mut page = serde_json::json!({
            "error": code, "status": status.as_u16(), "title": title, "detail": visitor
        });
        if !owner.is_empty() {
            page["owner"] = (*owner).into();
        }
        format!("{page}\n")
    }

    fn html(&self) -> String {
        let Self { status, title, .. } = self;
        let status = status.as_u16();
        let (visitor, owner) = (escaped(&self.visitor), escaped(self.owner));
        let owner = if owner.is_empty() { owner } else { format!("<p class=\"owner\">If it is yours: {owner}</p>") };
        format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{status} {title}</title>\
             <style>{STYLE}</style><main><p class=\"status\">{status}</p><h1>{title}</h1><p>{visitor}</p>{owner}</main></html>\n"
        )
    }
}

/// A gRPC status without a message before it, which its callers are shown as such: headers alone.
fn grpc(text: &Text, content_type: &'static str) -> Response<HttpBody> {
    let mut response = Response::new(HttpBody::new(Empty::new().map_err(|never: Infallible| match never {})));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert("grpc-status", HeaderValue::from_static(grpc_status(text.status)));
    let message = percent_encoded(&format!("{}: {}", text.title, text.visitor));
    if let Ok(message) = HeaderValue::from_str(&message) {
        headers.insert("grpc-message", message);
    }
    response
}

fn grpc_status(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => "3",
        StatusCode::NOT_FOUND => "5",
        StatusCode::FORBIDDEN => "7",
        StatusCode::TOO_MANY_REQUESTS => "8",
        StatusCode::NOT_IMPLEMENTED | StatusCode::METHOD_NOT_ALLOWED => "12",
        // Whoever asks again may be answered.
        _ => "14",
    }
}

/// As gRPC wants its messages: printable ASCII but `%`.
fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
        encoded
    })
}

/// Hosts have been looked at; what else there is might be anything.
fn escaped(text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut parts = escaped.split('`');
    let mut html = parts.next().unwrap_or_default().to_owned();
    for (n, part) in parts.enumerate() {
        html.push_str(if n % 2 == 0 { "<code>" } else { "</code>" });
        html.push_str(part);
    }
    html
}

/// A body that is known.
pub(super) fn whole(bytes: Bytes) -> HttpBody {
    HttpBody::new(Full::new(bytes).map_err(|never: Infallible| match never {}))
}

/// No answer of an agent's has it.
pub(super) const TUNNEL_ERROR: HeaderName = HeaderName::from_static("tunnel-error");

const STYLE: &str = "\
    :root{color-scheme:light dark}\
    body{margin:0;font:1.05rem/1.6 system-ui,sans-serif;display:grid;min-height:100vh;place-items:center}\
    main{max-width:34rem;padding:2rem}\
    h1{font-size:1.6rem;line-height:1.25;margin:.2rem 0 1rem}\
    .status{margin:0;opacity:.6;letter-spacing:.08em}\
    .owner{opacity:.75;border-top:1px solid;padding-top:1rem;font-size:.95rem}\
    code{font-size:.95em}";

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(method: Method, fields: &[(&str, &str)], page: Page) -> (Response<()>, String) {
        let request = fields
            .iter()
            .fold(Request::builder().method(method), |request, (name, value)| request.header(*name, *value));
        let (head, body) = page.answer(Reader::of(&request.body(()).unwrap())).into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (Response::from_parts(head, ()), String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn each_reader_gets_what_it_can_read() {
        let page = || Page::NoAgent("blog.example".to_owned());
        for (accept, media, has) in [
            ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8", "<code>tunnel http 3000</code>"),
            ("application/json", "application/json", "\"error\":\"no-agent\""),
            ("*/*", "text/plain; charset=utf-8", "503 This site is not connected"),
        ] {
            let (head, body) = asked(Method::GET, &[("accept", accept)], page()).await;
            assert_eq!(
                (head.status(), &head.headers()[CONTENT_TYPE]),
                (StatusCode::SERVICE_UNAVAILABLE, &HeaderValue::from_static(media))
            );
            assert!(body.contains(has) && body.contains("blog.example"), "{accept}: {body}");
            assert_eq!(head.headers()[TUNNEL_ERROR], "no-agent");
            assert_eq!(head.headers()[RETRY_AFTER], "5");
            assert_eq!(head.headers()[CACHE_CONTROL], "no-store");
        }
    }

    #[tokio::test]
    async fn a_head_request_gets_the_same_without_the_page() {
        let (head, body) = asked(Method::HEAD, &[], Page::NoAnswer).await;
        let (_, whole) = asked(Method::GET, &[], Page::NoAnswer).await;
        assert_eq!((body.as_str(), &head.headers()[CONTENT_LENGTH]), ("", &HeaderValue::from(whole.len())));
    }

    #[tokio::test]
    async fn a_grpc_client_gets_a_status() {
        let (head, body) = asked(Method::POST, &[("content-type", "application/grpc+proto")], Page::NoAnswer).await;
        assert_eq!(
            (head.status(), &head.headers()["grpc-status"], body.as_str()),
            (StatusCode::OK, &HeaderValue::from_static("14"), "")
        );
        assert!(head.headers()["grpc-message"].to_str().unwrap().starts_with("This site did not answer"));
    }

    #[tokio::test]
    async fn nothing_of_a_request_gets_into_a_page_as_markup() {
        let (_, body) = asked(Method::GET, &[("accept", "text/html")], Page::TooMany("<script>".to_owned())).await;
        assert!(!body.contains("<script>") && body.contains("&lt;script&gt;"), "{body}");
    }
}
