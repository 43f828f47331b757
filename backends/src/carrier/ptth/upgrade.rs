//! PTTH's HTTP/1.1 side: the request by which an agent comes in, and every answer to it.

use std::{convert::Infallible, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{AUTHORIZATION, CONNECTION, RETRY_AFTER, UPGRADE, WWW_AUTHENTICATE},
};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use tokio::time::{Instant, timeout_at};
use tower::{ServiceExt, service_fn};
use tracing::Instrument;
use tunnel_api::ConnectionAddrs;

use super::{
    H2, PTTH, WELL_KNOWN,
    gate::{Admitted, Entry, Gate},
    resets::RESETS_A_SECOND,
    session::{self, Met},
};
use crate::{
    door::{self, Arrival, HttpBody, HttpService},
    hop,
};

impl Gate {
    /// What answers at the door: PTTH's requests here, all others by `http`.
    pub fn in_front_of(self: Arc<Self>, http: HttpService) -> HttpService {
        HttpService::new(service_fn(move |request: Request<Incoming>| {
            let (gate, http) = (self.clone(), http.clone());
            async move {
                if request.uri().path().starts_with(WELL_KNOWN) {
                    return Ok::<_, Infallible>(gate.answer(request));
                }
                http.oneshot(request).await
            }
        }))
    }

    fn answer(&self, mut request: Request<Incoming>) -> Response<HttpBody> {
        let upgraded = hyper::upgrade::on(&mut request);
        match self.let_in(&request) {
            Ok((entry, resets)) => {
                // One limit from here to the first answer in HTTP/2, whoever is slow.
                let deadline = Instant::now() + FIRST_UNIT;
                let tasks = entry.admitted.tasks.clone();
                tasks.spawn(go_on(upgraded, entry, resets, deadline).in_current_span());
                switching()
            }
            Err(refusal) => refusal.response(),
        }
    }

    /// Checks the credentials before anything that could tell one tunnel from another.
    fn let_in(&self, request: &Request<Incoming>) -> Result<(Entry, u32), Refusal> {
        let asked = Asked::of(request)?;
        let (id, ticket) = credentials(request.headers()).ok_or(Refusal::Unauthorized)?;
        let admitted = self.find(&id, &ticket).ok_or(Refusal::Unauthorized)?;
        // The door says who it is of every request.
        let peer = request.extensions().get::<ConnectionAddrs>().ok_or(Refusal::Unauthorized)?.peer;
        let since = request.extensions().get::<Arrival>().map_or_else(Instant::now, |arrival| arrival.0);
        if !admitted.dial_from.admits(peer.ip()) {
            admitted.uplink.turn_away(peer);
            return Err(Refusal::Unauthorized);
        }
        if !is_scope_of(asked.scope, &id, &admitted) {
            return Err(Refusal::Bad(
                "the path names another tunnel than the credentials; use the tunnel URI as it is",
            ));
        }
        if admitted.uplink.is_retired() {
            return Err(Refusal::Later(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping"));
        }
        let entry = admitted
            .enter(asked.agent.map(str::to_owned), peer, since)
            .ok_or(Refusal::Later(StatusCode::TOO_MANY_REQUESTS, "the tunnel has as many sessions as it may"))?;
        Ok((entry, asked.resets))
    }
}

/// From the 101 on.
async fn go_on(upgraded: OnUpgrade, entry: Entry, resets: u32, deadline: Instant) {
    // On the heap: a future has room for all that is ever in it, and sessions are idle for days.
    if let Some((agent, sender)) = Box::pin(meet(upgraded, &entry, deadline)).await {
        session::serve(agent, sender, &entry, resets).await;
    }
}

async fn meet(upgraded: OnUpgrade, entry: &Entry, deadline: Instant) -> Option<Met> {
    let Ok(Ok(upgraded)) = timeout_at(deadline, upgraded).await else {
        tracing::debug!(agent.addr = %entry.addr, "agent gone before its upgrade");
        return None;
    };
    // Every connection at the door is one of these.
    let Some((io, read_by)) = door::connection_of(upgraded) else {
        tracing::error!("a connection of another kind was upgraded");
        return None;
    };
    let met = session::meet(io, entry, deadline).await;
    // What HTTP/2 has in its place was made of other memory meanwhile, so that the next agent's request finds this: it is in use
    // already, where HTTP/2's buffers are large and mostly never touched.
    drop(read_by);
    met
}

/// What an agent asks for, apart from who it is.
struct Asked<'r> {
    scope: &'r str,
    agent: Option<&'r str>,
    resets: u32,
}

impl<'r> Asked<'r> {
    fn of(request: &'r Request<Incoming>) -> Result<Self, Refusal> {
        let headers = request.headers();
        if request.method() != Method::GET {
            return Err(Refusal::Bad("PTTH begins with a GET"));
        }
        if request.version() != Version::HTTP_11 {
            return Err(Refusal::Bad("PTTH begins with HTTP/1.1 here"));
        }
        if !hop::has_token(headers, &UPGRADE, PTTH) || !hop::has_token(headers, &CONNECTION, "upgrade") {
            return Err(Refusal::UpgradeRequired);
        }
        if headers.contains_key(ALPN) && !hop::has_token(headers, &ALPN, H2) {
            return Err(Refusal::Bad("this server speaks h2 after the upgrade; offer it in ALPN"));
        }
        let scope = request.uri().path().strip_prefix(WELL_KNOWN).unwrap_or_default().trim_end_matches('/');
        let mut asked = Self { scope, agent: None, resets: RESETS_A_SECOND };
        for (key, value) in request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='))
        {
            match key {
                "agent" if is_agent_name(value) => asked.agent = Some(value),
                "agent" => return Err(Refusal::Bad("agent is 1 to 64 letters, digits, '.', '_' and '-'")),
                "resets" => {
                    let resets = value.parse().ok().filter(|resets| (1..=MOST_RESETS).contains(resets));
                    asked.resets = resets.ok_or(Refusal::Bad("resets is a number a second, from 1 to 1000000"))?;
                }
                // For those who come after us.
                _ => {}
            }
        }
        Ok(asked)
    }
}

fn is_agent_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// The path says nothing, the tunnel's id, or its address as a percent-encoded origin, alone or among others.
fn is_scope_of(scope: &str, id: &str, admitted: &Admitted) -> bool {
    let address = admitted.address.to_string();
    scope.is_empty()
        || scope == id
        || scope.split(',').any(|origin| {
            origin.replace("%3A", ":").replace("%3a", ":").replace("%2F", "/").replace("%2f", "/") == address
        })
}

fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, encoded) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, ticket) = decoded.split_once(':')?;
    Some((id.to_owned(), ticket.to_owned()))
}

/// Why an agent is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// No credentials, or those of no tunnel that is open: always the same answer.
    Unauthorized,
    UpgradeRequired,
    Bad(&'static str),
    Later(StatusCode, &'static str),
}

impl Refusal {
    fn response(self) -> Response<HttpBody> {
        let (status, text, header) = match self {
            Self::Unauthorized => {
                let text = "no open tunnel has these credentials; open it again and dial the URI that gives";
                (StatusCode::UNAUTHORIZED, text, Some((WWW_AUTHENTICATE, "Basic realm=\"tunnel\"")))
            }
            Self::UpgradeRequired => {
                let text = "this is where agents of tunnels dial in: GET with Connection: upgrade and Upgrade: ptth";
                (StatusCode::UPGRADE_REQUIRED, text, Some((UPGRADE, PTTH)))
            }
            Self::Bad(text) => (StatusCode::BAD_REQUEST, text, None),
            Self::Later(status, text) => (status, text, Some((RETRY_AFTER, LATER))),
        };
        let mut response = answer(status, format!("{text}\n"));
        if let Some((name, value)) = header {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        if status == StatusCode::UPGRADE_REQUIRED {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        response
    }
}

fn switching() -> Response<HttpBody> {
    let mut response = answer(StatusCode::SWITCHING_PROTOCOLS, String::new());
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(PTTH));
    headers.insert(ALPN, HeaderValue::from_static(H2));
    response
}

fn answer(status: StatusCode, text: String) -> Response<HttpBody> {
    let body = Full::new(Bytes::from(text)).map_err(|never: Infallible| match never {});
    let mut response = Response::new(HttpBody::new(body));
    *response.status_mut() = status;
    response
}

/// RFC 7639.
const ALPN: HeaderName = HeaderName::from_static("alpn");

/// Between the request and the first answer in HTTP/2.
const FIRST_UNIT: Duration = Duration::from_secs(5);

const MOST_RESETS: u32 = 1_000_000;

/// In seconds.
const LATER: &str = "1";
