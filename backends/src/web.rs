//! Web clients at the door: each request goes where its host says, whatever else came on its connection. A tunnel's host goes to
//! the tunnel's agents, whatever the path; what is nobody's in the domain gets a page; everything else is the server's own.
//!
//! Where to read: `host` says whose a request is, `headers` what it is on the other side. Over a wire that is HTTP it goes as
//! it is (`requests` below), otherwise by HTTP/1.1 on a connection to the origin (`connections`); what becomes a connection goes
//! on in `upgrades`. `visit` counts, and `pages` is what is answered where no agent answers.

mod connections;
mod headers;
mod host;
pub(crate) mod pages;
mod upgrades;
mod visit;

use std::{future::ready, sync::Arc, time::Duration};

use futures_util::FutureExt;
use http::{
    Method, Request, Response, StatusCode, Uri, Version,
    header::{CONTENT_LENGTH, HOST, UPGRADE},
    uri::{self, Authority, PathAndQuery, Scheme},
};
use http_body_util::Empty;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio_util::task::TaskTracker;
use tunnel_api::{Carry, ConnectionAddrs, StreamEnd};

use self::{
    connections::NotAsked,
    headers::{Asker, Words},
    host::{Ambiguous, Named},
    pages::{Page, Reader},
    upgrades::Wanted,
    visit::{AnswerBody, ClientBody, Visit},
};
use crate::{
    door::{Answering, HttpBody, HttpService, Introduced, Newcomer, Proxy},
    names::{self, Names, Spoken},
    upgraded::is_connection,
    uplink::{Answer, ClientInfo, NoAnswer, NoStream, StreamIo},
};

/// What answers the requests to tunnels' hosts.
#[derive(Debug)]
pub struct Web {
    names: Arc<Names>,
    terms: WebTerms,
    /// Connections to origins, and what requests have become.
    tasks: TaskTracker,
}

/// How web clients are served.
#[derive(Debug, Clone)]
pub struct WebTerms {
    /// How long a client may stop in the middle of a request's body that has an end.
    pub body_patience: Duration,
}

impl Default for WebTerms {
    fn default() -> Self {
        Self { body_patience: Duration::from_secs(60) }
    }
}

impl Web {
    /// For tunnels with these names.
    pub fn new(names: Arc<Names>, terms: WebTerms) -> Self {
        Self { names, terms, tasks: TaskTracker::new() }
    }

    /// What answers at the door: the requests to tunnels' hosts here, all others by `http`.
    pub fn in_front_of(self, http: HttpService) -> HttpService {
        let web = Arc::new(self);
        HttpService::answering(move |request, introduced| {
            let known = introduced.or_else(|| Introduced::of(request.extensions()));
            match web.route(&request, known.as_ref()) {
                Ok(Some(guest)) => web.clone().serve(request, guest),
                Ok(None) => http.answer(request, known),
                Err(page) => at_once(page.answer(Reader::of(&request))),
            }
        })
    }

    /// Whose a request is, if it is a tunnel's.
    fn route(&self, request: &Request<Incoming>, introduced: Option<&Introduced>) -> Result<Option<Guest>, Page> {
        let named = host::named(request).map_err(Page::Ambiguous)?;
        host::check_length(request.headers()).map_err(Page::Ambiguous)?;
        let Some(named) = named else { return Ok(None) };
        let Some(tunnel) = self.names.find(&named.host) else {
            let is_nobodys = self.names.has_in_domain(&named.host);
            return if is_nobodys { Err(Page::Unknown(named.host.to_string())) } else { Ok(None) };
        };
        if tunnel.spoken == Spoken::Tls {
            return Err(Page::NotHttp(named.host.to_string()));
        }
        // The door introduces every request.
        let Some(introduced) = introduced else { return Ok(None) };
        if introduced.server_name().is_some_and(|name| *name != named.host) {
            return Err(Page::Misdirected);
        }
        Ok(Some(Guest {
            tunnel,
            named,
            addrs: introduced.addrs,
            proxy: introduced.proxy,
            newcomer: introduced.newcomer.clone(),
        }))
    }

    fn serve(self: Arc<Self>, mut request: Request<Incoming>, guest: Guest) -> Answering {
        let reader = Reader::of(&request);
        let visit = Visit::new(guest.tunnel.clone(), guest.addrs.peer, &request);
        if let Err(page) = check(&request) {
            return at_once(refuse(visit, &page, StreamEnd::Finished, reader));
        }
        let wanted = Wanted::of(&request);
        let upgrade = wanted.map(|wanted| (wanted, hyper::upgrade::on(&mut request)));
        let body_patience = self.terms.body_patience;
        let request = ClientBody::new(request, visit.tally().clone(), guest.newcomer.clone(), body_patience);
        // On the heap, because allocations of a kilobyte and more cost several times as much as two of half.
        let going = Box::new(Going { web: self, guest, visit, reader });
        match going.guest.tunnel.uplink.carry() {
            Carry::Requests => going.request(request, upgrade),
            Carry::Connections => going.connect(request, upgrade).map(Ok).boxed(),
        }
    }
}

/// The answer to a request that should have been encrypted, where it is for a tunnel's host: it is sent there by TLS, unless it has
/// said already what nobody should have heard.
pub(crate) fn by_tls<B>(names: &Names, request: &Request<B>) -> Option<Response<HttpBody>> {
    let named = host::named(request).ok()??;
    names.find(&named.host).filter(|tunnel| tunnel.spoken == Spoken::Http)?;
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD);
    let port = named.port.filter(|port| *port != 80).map_or(String::new(), |port| format!(":{port}"));
    let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
    let url = is_safe.then(|| format!("https://{}{port}{path}", named.host));
    Some(Page::ByTls(url).answer(Reader::of(request)))
}

/// A request that is a tunnel's.
struct Guest {
    tunnel: Arc<names::Named>,
    named: Named,
    addrs: ConnectionAddrs,
    proxy: Option<Proxy>,
    newcomer: Newcomer,
}

impl Guest {
    fn client(&self) -> ClientInfo {
        ClientInfo { client_addr: self.addrs.peer, public_addr: self.addrs.local }
    }

    fn asker(&self) -> Asker<'_> {
        Asker {
            client: self.addrs.peer,
            public: self.addrs.local,
            proxy: self.proxy.map(|Proxy(addr)| addr),
            named: &self.named,
            encrypted: self.addrs.encrypted,
        }
    }
}

/// What no tunnel is asked. (TRACE would show a page's script what is kept from it; Apache alone answers it today.)
fn check<B>(request: &Request<B>) -> Result<(), Page> {
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(Page::Method);
    }
    if request.uri().path() == "*" {
        return Err(Page::Ambiguous(Ambiguous("the request is for the server as a whole")));
    }
    Ok(())
}

/// A request on its way.
struct Going {
    web: Arc<Web>,
    guest: Guest,
    visit: Visit,
    reader: Reader,
}

impl Going {
    /// As a request, where the wire to the agent is HTTP itself.
    fn request(self: Box<Self>, mut request: Request<ClientBody>, upgrade: Option<(Wanted, OnUpgrade)>) -> Answering {
        let Guest { tunnel, newcomer, .. } = &self.guest;
        let uplink = &tunnel.uplink;
        let admitted = match uplink.admit(self.guest.client()) {
            Ok(admitted) => admitted,
            Err(why) => return at_once(self.refused(&why)),
        };
        newcomer.welcome();
        let asker = self.guest.asker();
        let mut words = Words::about(&asker);
        request.headers_mut().remove(HOST);
        headers::to_agent(request.headers_mut(), &asker, &mut words);
        match whole_uri(&asker, request.uri(), &mut words) {
            Some(uri) => *request.uri_mut() = uri,
            None => return at_once(self.refuse(&Page::Ambiguous(UNREADABLE), StreamEnd::Finished)),
        }
        let upgrade = upgrade.filter(|_| http_body::Body::is_end_stream(request.body()));
        let (mut head, body) = request.into_parts();
        let connect = upgrade.and_then(|(wanted, client)| Some((wanted.connect(&mut head)?, client)));
        let Some((connect, client)) = connect else {
            let asking = uplink.ask(admitted, Request::from_parts(head, body));
            let answer = asking.map(move |answer| match answer {
                Ok(answer) => Ok(self.answer(answer)),
                Err(why) => Ok(self.unanswered(why)),
            });
            return answer.boxed();
        };
        let asking = uplink.ask(admitted, Request::from_parts(head, Empty::new()));
        let answer = asking.map(move |answer| match answer {
            Ok(answer) if is_connection(&answer) => Ok(self.switch(answer, &connect, client)),
            Ok(answer) => Ok(self.answer(answer)),
            Err(why) => Ok(self.unanswered(why)),
        });
        answer.boxed()
    }

    /// On a connection to the origin, where the agent takes those.
    async fn connect(
        mut self,
        mut request: Request<ClientBody>,
        upgrade: Option<(Wanted, OnUpgrade)>,
    ) -> Response<HttpBody> {
        let asker = self.guest.asker();
        headers::to_agent(request.headers_mut(), &asker, &mut Words::about(&asker));
        request.headers_mut().insert(HOST, self.guest.named.said.clone());
        if let Some((wanted, _)) = &upgrade {
            wanted.ask(request.headers_mut());
        }
        let Guest { tunnel, newcomer, .. } = &self.guest;
        let uplink = &tunnel.uplink;
        let mut answer = match connections::ask(uplink, self.guest.client(), request, newcomer, &self.web.tasks).await {
            Ok(answer) => answer,
            Err(NotAsked::NoStream(why)) => return self.refused(&why),
            Err(NotAsked::Broken(error)) => {
                tracing::debug!(%error, "no answer from an origin");
                return self.no_answer(NoAnswer::Aborted);
            }
        };
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return self.answer(answer);
        }
        let origin = hyper::upgrade::on(&mut answer);
        let (head, body) = answer.into_parts();
        let Some((_, client)) = upgrade else { return self.no_answer(NoAnswer::Aborted) };
        body.became_something_else();
        let Some(stream) = stream_of(origin).await else { return self.no_answer(NoAnswer::Aborted) };
        self.visit.answered(head.status);
        let (progress, protocol) = (stream.progress(), head.headers.get(UPGRADE).cloned());
        upgrades::go_on(&self.web.tasks, client, self.visit, &progress.clone(), async move |client| {
            (stream.relay(client).await, progress)
        });
        upgrades::switching(head.headers, protocol)
    }

    fn switch(mut self, answer: Answer, connect: &upgrades::Connect, client: OnUpgrade) -> Response<HttpBody> {
        let (head, body) = answer.into_parts();
        let Ok(stream) = body.into_stream() else { return self.no_answer(NoAnswer::Aborted) };
        self.visit.answered(StatusCode::SWITCHING_PROTOCOLS);
        let progress = stream.progress();
        upgrades::go_on(&self.web.tasks, client, self.visit, &progress.clone(), async move |client| {
            (stream.relay(client).await, progress)
        });
        connect.switching(head.headers)
    }

    /// What an agent has answered.
    fn answer<B>(mut self, answer: Response<B>) -> Response<HttpBody>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + Unpin + 'static,
        B::Error: Into<visit::BodyError>,
    {
        let (mut head, body) = answer.into_parts();
        // Both are our own connection's.
        (head.version, head.extensions) = (Version::default(), http::Extensions::new());
        headers::to_client(&mut head.headers);
        self.visit.answered(head.status);
        let is_bodiless = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let length = if is_bodiless || self.reader.is_head() { Some(0) } else { length };
        let body = AnswerBody::new(body, self.visit, length, self.web.tasks.clone());
        Response::from_parts(head, HttpBody::new(body))
    }

    fn unanswered(self, why: NoAnswer) -> Response<HttpBody> {
        match why {
            NoAnswer::NoStream(why) => self.refused(&why),
            NoAnswer::NoUpgrades => self.refuse(&Page::NoUpgrade, StreamEnd::Finished),
            why => self.no_answer(why),
        }
    }

    /// It came to an agent, and nothing came back.
    fn no_answer(self, why: NoAnswer) -> Response<HttpBody> {
        if self.visit.tally().has_stalled() {
            return self.refuse(&Page::TooSlow, StreamEnd::Stalled);
        }
        let host = self.guest.named.host.to_string();
        match why {
            NoAnswer::TunnelClosed => self.refuse(&Page::NoAgent(host), StreamEnd::TunnelClosed),
            why => {
                let by = self.visit.tally().broken_by();
                let end = if by == StreamEnd::AbortedByAgent { why.end() } else { by };
                self.refuse(&Page::NoAnswer, end)
            }
        }
    }

    /// It came to no agent.
    fn refused(self, why: &NoStream) -> Response<HttpBody> {
        let page = match why {
            NoStream::KeptOut => Page::KeptOut,
            NoStream::LimitReached(which) => Page::TooMany(which.to_string()),
            NoStream::NoAgent | NoStream::Retired => Page::NoAgent(self.guest.named.host.to_string()),
        };
        self.refuse(&page, StreamEnd::Finished)
    }

    fn refuse(self, page: &Page, end: StreamEnd) -> Response<HttpBody> {
        refuse(self.visit, page, end, self.reader)
    }
}

fn at_once(response: Response<HttpBody>) -> Answering {
    ready(Ok(response)).boxed()
}

fn refuse(mut visit: Visit, page: &Page, end: StreamEnd, reader: Reader) -> Response<HttpBody> {
    let response = page.answer(reader);
    visit.answered(response.status());
    visit.ended(end);
    response
}

/// What was asked for, as HTTP/2 has it.
fn whole_uri(asker: &Asker<'_>, uri: &Uri, words: &mut Words) -> Option<Uri> {
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut parts = uri::Parts::default();
    parts.scheme = Some(if asker.encrypted { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(Authority::from_maybe_shared(words.repeat(asker.named.said.as_bytes())).ok()?);
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).ok()
}

/// The stream below what an origin has agreed to.
async fn stream_of(origin: OnUpgrade) -> Option<crate::uplink::OpenStream> {
    let parts = origin.await.ok()?.downcast::<TokioIo<StreamIo>>().ok()?;
    parts.io.into_inner().into_stream(parts.read_buf)
}

const UNREADABLE: Ambiguous = Ambiguous("the request's target is no URL");
