//! What is asked is what the agent is asked.

use http::{Method, Version};
use http_body_util::Full;
use tunnel_backends::{
    testing::{pattern, soon},
    uplink::{NoAnswer, NoStream},
};

use crate::{
    agent::Agent,
    client::{answer, asked, get, headers, request, rest, whole, words},
    frames::{END_STREAM, Frames},
    site::{HOST, Site, keep, somebody},
};

#[test]
fn a_request_comes_to_the_agent_as_it_is() {
    keep(async |site: Site| {
        let mut agent = Agent::dial(&site).await;
        let mut asks = request(Method::PATCH, "/a/b?c=%20d", Full::from("some words"));
        asks.headers_mut().extend(headers("x-one", "1"));
        asks.headers_mut().extend(headers("te", "gzip, trailers"));
        let asking = site.ask(asks);
        let mut at_agent = agent.next().await;
        let head = &at_agent.head;
        assert_eq!((head.method(), head.uri().to_string()), (&Method::PATCH, format!("http://{HOST}/a/b?c=%20d")));
        assert_eq!(
            (&head.headers()["x-one"], &head.headers()["te"]),
            (&"1".parse().unwrap(), &"trailers".parse().unwrap())
        );
        assert_eq!(at_agent.hear_all().await.unwrap(), b"some words");
        at_agent.serve(201, b"and others").await;
        let mut answered = answer(asking).await;
        assert_eq!(answered.status(), 201);
        assert_eq!(whole(answered.body_mut()).await, b"and others");
        drop(answered);
        site.until_streams(0).await;
    });
}

/// It must not cost the agent its session.
#[test]
fn what_is_about_the_clients_connection_stays_there() {
    keep(async |site: Site| {
        let _agent = Agent::dial(&site).await.echo();
        for (name, value) in [
            ("connection", "keep-alive, x-other"),
            ("keep-alive", "5"),
            ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("te", "gzip"),
        ] {
            let mut asks = get("/");
            asks.headers_mut().extend(headers(name, value));
            assert_eq!(answer(site.ask(asks)).await.status(), 200, "{name}");
        }
        assert_eq!(site.counts().await.0, 1);
    });
}

#[test]
fn a_request_without_a_body_ends_with_its_head() {
    keep(async |site: Site| {
        let mut agent = Frames::dial(&site.tunnel).await;
        let _asking = site.ask(get("/"));
        let head = soon("a request", agent.next()).await.expect("a request");
        assert!(head.is_last(), "{:x} without {END_STREAM:x}", head.flags);
    });
}

#[test]
fn what_a_client_says_is_heard_before_there_is_an_answer() {
    keep(async |site: Site| {
        let mut agent = Agent::dial(&site).await;
        let (mouth, asking) = site.post("/");
        let mut at_agent = agent.next().await;
        for _ in 0..3 {
            let bytes = pattern(1, 30_000);
            mouth.say(bytes.clone());
            assert!(at_agent.hear_exactly(30_000).await == bytes);
        }
        mouth.finish();
        assert_eq!(at_agent.hear_all().await.unwrap(), b"");
        at_agent.serve(200, b"heard").await;
        assert_eq!(whole(answer(asking).await.body_mut()).await, b"heard");
        site.until_streams(0).await;
    });
}

#[test]
fn both_go_on_after_the_answers_head() {
    keep(async |site: Site| {
        let mut agent = Agent::dial(&site).await;
        let (mouth, asking) = site.post("/");
        let mut at_agent = agent.next().await;
        let mut says = at_agent.answer(200).unwrap();
        let mut answered = answer(asking).await;
        for round in [&b"one"[..], b"two", b"three"] {
            mouth.say(round);
            assert_eq!(at_agent.hear_exactly(round.len()).await, round);
            says.send_data(round.into(), false).unwrap();
            let frame = crate::client::next(answered.body_mut()).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), round);
        }
        mouth.finish();
        assert_eq!(at_agent.hear_all().await.unwrap(), b"");
        says.send_data(bytes::Bytes::new(), true).unwrap();
        assert_eq!(whole(answered.body_mut()).await, b"");
        drop(answered);
        site.until_streams(0).await;
    });
}

#[test]
fn trailers_go_both_ways() {
    keep(async |site: Site| {
        let mut agent = Agent::dial(&site).await;
        for body in [&b""[..], b"body"] {
            let (mouth, asking) = site.post("/");
            mouth.say(body);
            mouth.trailers(headers("x-sum", "7"));
            mouth.finish();
            let mut at_agent = agent.next().await;
            assert_eq!(at_agent.hear_all().await.unwrap(), body);
            assert_eq!(at_agent.trailers().await, Some(headers("x-sum", "7")));
            let mut says = at_agent.answer(200).unwrap();
            says.send_data(body.into(), false).unwrap();
            says.send_trailers(headers("grpc-status", "0")).unwrap();
            let mut answered = answer(asking).await;
            let (bytes, trailers, end) = rest(answered.body_mut()).await;
            assert_eq!((&*bytes, trailers, end.is_ok()), (body, Some(headers("grpc-status", "0")), true));
            drop(answered);
            site.until_streams(0).await;
        }
    });
}

/// hyper tells a client to go on when its body is first looked at.
#[test]
fn a_body_is_not_looked_at_before_there_is_an_agent() {
    keep(async |site: Site| {
        let (mouth, asking) = site.post("/");
        tunnel_backends::testing::eventually("a client that waits", async || !asking.is_finished()).await;
        assert!(!mouth.was_looked_at());
        let mut agent = Agent::dial(&site).await;
        let at_agent = agent.next().await;
        tunnel_backends::testing::eventually("somebody to listen", async || mouth.was_looked_at()).await;
        at_agent.serve(200, b"").await;
        assert_eq!(answer(asking).await.status(), 200);
    });
}

/// In chunks over HTTP/1.1: hyper never says there that a body was whole, but tells what was not by an error.
#[test]
fn a_body_in_chunks_is_whole_when_it_ends() {
    keep(async |site: Site| {
        let mut agent = Agent::dial(&site).await;
        let (mouth, words) = words();
        let mut asks = request(Method::POST, "/", words);
        *asks.version_mut() = Version::HTTP_11;
        let asking = site.ask(asks);
        mouth.say("all of it");
        drop(mouth);
        let mut at_agent = agent.next().await;
        assert_eq!(at_agent.hear_all().await.unwrap(), b"all of it");
        at_agent.serve(200, b"").await;
        assert_eq!(answer(asking).await.status(), 200);
    });
}

#[test]
fn bytes_are_counted_each_way() {
    keep(async |site: Site| {
        let mut agent = Agent::dial(&site).await;
        let admitted = site.uplink.admit(somebody()).unwrap();
        let progress = admitted.progress();
        let uplink = site.uplink.clone();
        let asking =
            tokio::spawn(async move { uplink.ask(admitted, request(Method::PUT, "/", Full::from("four"))).await });
        let mut at_agent = agent.next().await;
        at_agent.hear_all().await.unwrap();
        at_agent.serve(200, b"seven..").await;
        let mut answered = answer(asking).await;
        whole(answered.body_mut()).await;
        assert_eq!((progress.to_agent(), progress.to_client()), (4, 7));
        drop(answered);
        site.until_streams(0).await;
        let info = site.stage.info(&site.tunnel).await.unwrap();
        assert_eq!((info.bytes_to_agent, info.bytes_to_client), (4, 7));
    });
}

#[test]
fn a_tunnel_that_is_closed_takes_no_requests() {
    keep(async |site: Site| {
        site.stage.close(tunnel_api::TunnelRef::Id(site.tunnel.id.clone())).await.unwrap();
        let answered = asked(site.ask(get("/"))).await;
        let expected = [NoAnswer::TunnelClosed, NoStream::Retired.into()];
        assert!(answered.as_ref().is_err_and(|error| expected.contains(error)), "{answered:?}");
    });
}
