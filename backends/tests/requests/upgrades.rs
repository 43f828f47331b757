//! Requests that become connections: extended CONNECT (RFC 8441).

use bytes::Bytes;
use h2::ext::Protocol;
use http::{Method, Request, Version};
use http_body_util::Empty;
use tokio::{net::TcpStream, task::JoinHandle};
use tunnel_api::StreamEnd;
use tunnel_backends::{
    sockets,
    testing::{Heard, client::hear_exactly, hear, say, soon},
    uplink::{Answer, NoAnswer},
};

use crate::{
    agent::Agent,
    client::{answer, asked, whole},
    frames::{CANCEL, Frame, Frames},
    knock::Knock,
    resets::TAKES_PROTOCOLS,
    site::{HOST, Site, keep},
};

/// A request for that protocol.
pub(crate) fn upgrade(protocol: &'static str) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = format!("http://{HOST}/chat?room=1").parse().expect("a URI");
    *request.version_mut() = Version::HTTP_11;
    request.extensions_mut().insert(Protocol::from_static(protocol));
    request
}

fn takes_protocols() -> h2::server::Builder {
    let mut settings = h2::server::Builder::new();
    settings.enable_connect_protocol();
    settings
}

/// A client of an answer that has become a connection.
async fn connected(answered: Answer) -> (TcpStream, JoinHandle<StreamEnd>) {
    let stream = answered.into_body().into_stream().expect("a connection");
    let listener = sockets::listen(([127, 0, 0, 1], 0).into()).expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a client");
    let (socket, _) = listener.accept().await.expect("a client");
    (client, tokio::spawn(stream.relay(socket)))
}

#[test]
fn an_agent_that_takes_no_upgrades_is_not_asked_for_one() {
    keep(async |site: Site| {
        let mut agent = Agent::dial(&site).await;
        assert_eq!(asked(site.ask(upgrade("websocket"))).await.unwrap_err(), NoAnswer::NoUpgrades);
        site.until_streams(0).await;
        let asking = site.ask(crate::client::get("/"));
        assert_eq!(agent.next().await.head.method(), Method::GET);
        asking.abort();
    });
}

#[test]
fn an_upgrade_becomes_a_connection() {
    keep(async |site: Site| {
        let mut agent = Agent::dial_with(&site, &mut takes_protocols()).await;
        let asking = site.ask(upgrade("websocket"));
        let mut at_agent = agent.next().await;
        let head = &at_agent.head;
        assert_eq!((head.method(), head.uri().to_string()), (&Method::CONNECT, format!("http://{HOST}/chat?room=1")));
        assert_eq!(head.extensions().get::<Protocol>().unwrap().as_str(), "websocket");
        let mut says = at_agent.answer(200).unwrap();
        let (mut client, relaying) = connected(answer(asking).await).await;
        say(&mut client, b"question").await;
        assert_eq!(at_agent.hear_exactly(8).await, b"question");
        says.send_data("answer".into(), false).unwrap();
        assert_eq!(hear_exactly(&mut client, 6).await, b"answer");
        // Each direction ends by itself.
        says.send_data("that is all".into(), true).unwrap();
        assert_eq!(hear(&mut client).await, Heard::finished_after(b"that is all"));
        say(&mut client, b"and that").await;
        assert_eq!(at_agent.hear_exactly(8).await, b"and that");
        drop(client);
        assert_eq!(at_agent.hear_all().await.unwrap(), b"");
        assert_eq!(soon("the end", relaying).await.unwrap(), StreamEnd::Finished);
        site.until_streams(0).await;
        let info = site.stage.info(&site.tunnel).await.unwrap();
        assert_eq!((info.bytes_to_agent, info.bytes_to_client), (16, 17));
    });
}

#[test]
fn an_upgrade_that_is_refused_is_a_plain_answer() {
    keep(async |site: Site| {
        let mut agent = Agent::dial_with(&site, &mut takes_protocols()).await;
        let asking = site.ask(upgrade("websocket"));
        agent.next().await.serve(403, b"no").await;
        let mut answered = answer(asking).await;
        assert_eq!((answered.status().as_u16(), &*whole(answered.body_mut()).await), (403, &b"no"[..]));
        drop(answered);
        site.until_streams(0).await;
    });
}

#[test]
fn a_connection_that_is_aborted_is_aborted_on_the_other_side() {
    keep(async |site: Site| {
        let mut agent = Frames::dial_with(&site.tunnel, &Knock::at(&site.tunnel.uri), &[TAKES_PROTOCOLS]).await;
        let asking = site.ask(upgrade("websocket"));
        let stream = agent.client().await;
        agent.say(&Frame::taken(stream)).await;
        let (mut client, relaying) = connected(answer(asking).await).await;
        agent.say(&Frame::data(stream, b"so far")).await;
        agent.say(&Frame::reset(stream, CANCEL)).await;
        assert_eq!(hear(&mut client).await, Heard::reset_after(b"so far"));
        assert_eq!(soon("the end", relaying).await.unwrap(), StreamEnd::AbortedByAgent);
        let asking = site.ask(upgrade("websocket"));
        let stream = agent.client().await;
        agent.say(&Frame::taken(stream)).await;
        let (client, relaying) = connected(answer(asking).await).await;
        sockets::reset(client);
        agent.until_reset(stream).await;
        assert_eq!(soon("the end", relaying).await.unwrap(), StreamEnd::AbortedByClient);
        site.until_streams(0).await;
    });
}

#[test]
fn an_upgrade_that_was_left_untouched_goes_to_another_session() {
    keep(async |site: Site| {
        let mut first = Frames::dial_with(&site.tunnel, &Knock::at(&site.tunnel.uri), &[TAKES_PROTOCOLS]).await;
        site.until_sessions(1).await;
        let mut second = Agent::dial_with(&site, &mut takes_protocols()).await;
        site.until_sessions(2).await;
        let asking = site.ask(upgrade("websocket"));
        let stream = first.client().await;
        first.say(&Frame::reset(stream, crate::frames::REFUSED_STREAM)).await;
        let mut at_agent = second.next().await;
        at_agent.answer(200).unwrap();
        let (mut client, _relaying) = connected(answer(asking).await).await;
        say(&mut client, b"here").await;
        assert_eq!(at_agent.hear_exactly(4).await, b"here");
    });
}
