//! Bodies as hyper has them from real clients: how what is whole can be told from what was broken off. hyper shows an HTTP/2 client's
//! RST_STREAM with NO_ERROR, and an HTTP/1.1 connection's being dropped, as it shows an end.

use std::{convert::Infallible, io};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, uri::Scheme};
use http_body_util::{BodyExt, Empty, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tunnel_backends::{sockets, testing::soon, uplink::Uplink};

use crate::{
    aborts::until_aborted,
    agent::Agent,
    client::headers,
    frames::{Frame, Frames},
    site::{HOST, Site, keep, somebody},
};

type AnyBody = UnsyncBoxBody<Bytes, io::Error>;

/// A client's connection to a web server that asks the tunnel's agents.
struct Web {
    socket: Option<TcpStream>,
    /// The server's side.
    server: JoinSet<()>,
}

impl Web {
    async fn connect(site: &Site, version: Version) -> Self {
        let listener = sockets::listen(([127, 0, 0, 1], 0).into()).expect("a port");
        let socket = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a client");
        let (accepted, _) = listener.accept().await.expect("a client");
        let uplink = site.uplink.clone();
        let mut server = JoinSet::new();
        server.spawn(async move {
            let service = service_fn(move |request| pass_on(uplink.clone(), request));
            let io = TokioIo::new(accepted);
            match version {
                Version::Http1 => {
                    let connection = hyper::server::conn::http1::Builder::new().serve_connection(io, service);
                    let _ = connection.await;
                }
                Version::Http2 => {
                    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = connection.serve_connection(io, service).await;
                }
            }
        });
        Self { socket: Some(socket), server }
    }

    async fn say(&mut self, text: &str) {
        let socket = self.socket.as_mut().expect("a socket");
        soon("words to be taken", socket.write_all(text.as_bytes())).await.expect("a server");
    }

    async fn hear(&mut self, expected: &str) {
        let mut heard = vec![0; expected.len()];
        let socket = self.socket.as_mut().expect("a socket");
        soon(expected, socket.read_exact(&mut heard)).await.expect("an answer");
        assert_eq!(String::from_utf8_lossy(&heard), expected);
    }
}

enum Version {
    Http1,
    Http2,
}

async fn pass_on(uplink: Uplink, request: Request<Incoming>) -> Result<Response<AnyBody>, Infallible> {
    let (mut head, body) = request.into_parts();
    let mut uri = head.uri.into_parts();
    (uri.scheme, uri.authority) = (Some(Scheme::HTTP), Some(HOST.parse().expect("an authority")));
    head.uri = Uri::from_parts(uri).expect("a URI");
    let request = Request::from_parts(head, body);
    let answer = match uplink.admit(somebody()) {
        Ok(admitted) => uplink.ask(admitted, request).await,
        Err(error) => Err(error.into()),
    };
    Ok(match answer {
        Ok(answer) => answer.map(BodyExt::boxed_unsync),
        Err(_) => {
            let nothing = Empty::new().map_err(|never: Infallible| match never {});
            let mut answer = Response::new(nothing.boxed_unsync());
            *answer.status_mut() = StatusCode::BAD_GATEWAY;
            answer
        }
    })
}

/// What an HTTP/1.1 client says that says all.
const WHOLE: [&str; 4] = [
    "POST / HTTP/1.1\r\nhost: blog\r\ncontent-length: 5\r\n\r\nwords",
    "POST / HTTP/1.1\r\nhost: blog\r\ntransfer-encoding: chunked\r\n\r\n5\r\nwords\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: blog\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n5\r\nwords\r\n0\r\nx-sum: 7\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: blog\r\ncontent-length: 0\r\n\r\n",
];

/// And that breaks off.
const PARTS: [&str; 3] = [
    "POST / HTTP/1.1\r\nhost: blog\r\ncontent-length: 6\r\n\r\nwords",
    "POST / HTTP/1.1\r\nhost: blog\r\ntransfer-encoding: chunked\r\n\r\n5\r\nwords\r\n",
    "POST / HTTP/1.1\r\nhost: blog\r\ntransfer-encoding: chunked\r\n\r\n6\r\nwords",
];

#[test]
fn what_a_client_of_http1_says_is_whole_where_it_said_all() {
    keep(async |site: Site| {
        let mut agent = Agent::dial(&site).await;
        for said in WHOLE {
            let mut web = Web::connect(&site, Version::Http1).await;
            web.say(said).await;
            let mut at_agent = agent.next().await;
            let heard = at_agent.hear_all().await.unwrap();
            assert_eq!(heard.is_empty(), said.contains("length: 0"), "{said}");
            assert_eq!(at_agent.trailers().await.is_some(), said.contains("x-sum"), "{said}");
            at_agent.serve(200, b"heard").await;
            web.hear("HTTP/1.1 200 OK\r\n").await;
            drop(web);
            site.until_streams(0).await;
        }
    });
}

#[test]
fn what_a_client_of_http1_breaks_off_is_an_abort_to_the_agent() {
    keep(async |site: Site| {
        let mut agent = Frames::dial(&site.tunnel).await;
        for said in PARTS {
            let endings: [fn(TcpStream); 2] = [drop, sockets::reset];
            for end in endings {
                for is_answered in [false, true] {
                    let mut web = Web::connect(&site, Version::Http1).await;
                    web.say(said).await;
                    let stream = agent.client().await;
                    agent.hear_exactly(stream, 5).await;
                    if is_answered {
                        agent.say(&Frame::taken(stream)).await;
                        web.hear("HTTP/1.1 200 OK\r\n").await;
                    }
                    end(web.socket.take().expect("a socket"));
                    until_aborted(&mut agent, stream).await;
                    site.until_streams(0).await;
                }
            }
        }
    });
}

/// Whoever has its connection drops it.
#[test]
fn what_a_client_of_http1_was_still_saying_when_it_was_dropped_is_an_abort_to_the_agent() {
    keep(async |site: Site| {
        let mut agent = Frames::dial(&site.tunnel).await;
        for said in PARTS.iter().cycle().take(60) {
            let mut web = Web::connect(&site, Version::Http1).await;
            web.say(said).await;
            let stream = agent.client().await;
            agent.hear_exactly(stream, 5).await;
            agent.say(&Frame::taken(stream)).await;
            web.hear("HTTP/1.1 200 OK\r\n").await;
            web.server.abort_all();
            until_aborted(&mut agent, stream).await;
            site.until_streams(0).await;
        }
    });
}

#[test]
fn what_a_client_of_http2_says_is_whole_where_it_said_all() {
    keep(async |site: Site| {
        let mut agent = Agent::dial(&site).await;
        let mut web = Web::connect(&site, Version::Http2).await;
        let mut client = Client::begin(&mut web).await;
        for trailers in [None, Some(headers("x-sum", "7"))] {
            let (mut says, answer) = client.ask();
            says.send_data("words".into(), false).unwrap();
            client.end(&mut says, trailers.clone());
            let mut at_agent = agent.next().await;
            assert_eq!(at_agent.hear_all().await.unwrap(), b"words");
            assert_eq!(at_agent.trailers().await, trailers);
            at_agent.serve(200, b"heard").await;
            assert_eq!(soon("an answer", answer).await.unwrap().status(), 200);
            site.until_streams(0).await;
        }
    });
}

/// Some of these hyper shows as an end.
#[test]
fn what_a_client_of_http2_breaks_off_is_an_abort_to_the_agent() {
    keep(async |site: Site| {
        let mut agent = Frames::dial(&site.tunnel).await;
        let mut web = Web::connect(&site, Version::Http2).await;
        let mut client = Client::begin(&mut web).await;
        for reason in [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR] {
            for is_answered in [false, true] {
                let (mut says, answer) = client.ask();
                says.send_data("words".into(), false).unwrap();
                let stream = agent.client().await;
                agent.hear_exactly(stream, 5).await;
                if is_answered {
                    agent.say(&Frame::taken(stream)).await;
                    soon("an answer", answer).await.unwrap();
                }
                says.send_reset(reason);
                until_aborted(&mut agent, stream).await;
                site.until_streams(0).await;
            }
        }
    });
}

/// An HTTP/2 client.
struct Client {
    sender: h2::client::SendRequest<Bytes>,
    _connection: JoinSet<()>,
}

impl Client {
    async fn begin(web: &mut Web) -> Self {
        let socket = web.socket.take().expect("a socket");
        let (sender, connection) = h2::client::handshake(socket).await.expect("a server that speaks HTTP/2");
        let mut task = JoinSet::new();
        task.spawn(async { drop(connection.await) });
        Self { sender, _connection: task }
    }

    fn ask(&mut self) -> (h2::SendStream<Bytes>, h2::client::ResponseFuture) {
        let request = Request::builder().method(Method::POST).uri("http://blog/").body(()).expect("a request");
        let (answer, says) = self.sender.send_request(request, false).expect("a server that is there");
        (says, answer)
    }

    fn end(&self, says: &mut h2::SendStream<Bytes>, trailers: Option<HeaderMap>) {
        let ended = match trailers {
            Some(trailers) => says.send_trailers(trailers),
            None => says.send_data(Bytes::new(), true),
        };
        ended.expect("a server that is there");
    }
}
