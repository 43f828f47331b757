//! What requests may take, and that all of it is given back.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Method;
use http_body_util::Full;
use tokio::time::{Instant, timeout};
use tunnel_api::Owner;
use tunnel_backends::{
    quotas::{Limits, Quotas},
    testing::{Setup, pattern},
    uplink::{NoAnswer, NoStream},
};

use crate::{
    agent::{Agent, say},
    client::{answer, asked, get, next, request, rest, whole},
    site::{Site, keep, keep_with, somebody},
};

#[test]
fn nothing_is_left_of_ten_thousand_requests() {
    let quotas = Quotas::unlimited();
    let held_to = quotas.clone();
    keep_with(
        move || Setup::held_to(held_to),
        "somebody",
        async |site: Site| {
            let _agent = Agent::dial(&site).await.echo();
            site.until_sessions(1).await;
            let all = stream::iter(0..10_000).map(|number| {
                let site = &site;
                async move {
                    let bytes = pattern(number, number as usize % 300);
                    let asking = site
                        .uplink
                        .ask(site.uplink.admit(somebody())?, request(Method::POST, "/", Full::from(bytes.clone())));
                    let mut answered = asking.await?;
                    assert!(rest(answered.body_mut()).await.0 == bytes);
                    Ok::<_, NoAnswer>(())
                }
            });
            let failed = all.buffer_unordered(64).filter(|one| std::future::ready(one.is_err())).count().await;
            assert_eq!(failed, 0);
            site.until_streams(0).await;
            let used = quotas.in_use_by(&Owner::new("somebody"));
            assert_eq!((used.streams, used.waiting_clients), (0, 0));
        },
    );
}

/// Of what it would hear, its window; and nobody else waits for it.
#[test]
fn a_client_that_hears_nothing_costs_a_window_and_stops_nobody() {
    keep(async |site: Site| {
        let mut agent = Agent::dial(&site).await;
        let stopped = site.ask(get("/stopped"));
        let mut at_agent = agent.next().await;
        let mut says = at_agent.answer(200).unwrap();
        let mut answered = answer(stopped).await;
        let mut said = 0;
        while timeout(Duration::from_secs(1), say(&mut says, Bytes::from_static(&[7; 1024]))).await.is_ok() {
            said += 1024;
        }
        assert!((64 * 1024..=512 * 1024).contains(&said), "{said}");
        let beside = site.ask(get("/beside"));
        agent.next().await.serve(200, b"served").await;
        assert_eq!(whole(answer(beside).await.body_mut()).await, b"served");
        // And when it hears again, it hears all.
        let mut heard = 0;
        while heard < said {
            heard += next(answered.body_mut()).await.unwrap().unwrap().into_data().unwrap().len();
        }
        assert_eq!(heard, said);
    });
}

/// What its client says is not read while the agent does not listen.
#[test]
fn an_agent_that_hears_nothing_stops_its_client_alone() {
    keep(async |site: Site| {
        let mut agent = Agent::dial(&site).await;
        let (body, taken) = endless();
        let stopped = site.ask(request(Method::POST, "/stopped", body));
        let _at_agent = agent.next().await;
        let beside = site.ask(get("/beside"));
        agent.next().await.serve(200, b"served").await;
        assert_eq!(whole(answer(beside).await.body_mut()).await, b"served");
        let taken = taken.load(std::sync::atomic::Ordering::Relaxed);
        assert!(taken <= 256 * 1024, "{taken} bytes were taken");
        stopped.abort();
    });
}

#[test]
fn a_request_goes_no_faster_than_its_owner_may() {
    for upwards in [true, false] {
        let rate = Some(200_000);
        let limits = if upwards {
            Limits { bytes_per_second_to_agents: rate, ..Limits::default() }
        } else {
            Limits { bytes_per_second_to_clients: rate, ..Limits::default() }
        };
        let setup = move || Setup::held_to(Quotas::new(Limits::default(), limits));
        keep_with(setup, "somebody", async |site: Site| {
            let _agent = Agent::dial(&site).await.echo();
            site.until_sessions(1).await;
            let since = Instant::now();
            let bytes = pattern(1, 100_000);
            let asking = [(); 4].map(|()| site.ask(request(Method::POST, "/", Full::from(bytes.clone()))));
            for asking in asking {
                assert!(whole(answer(asking).await.body_mut()).await == bytes);
            }
            let took = since.elapsed();
            assert!((1500..6000).contains(&took.as_millis()), "{took:?}");
        });
    }
}

/// Whoever has to wait for its turn and is not asked holds up nobody.
#[test]
fn a_client_that_hears_nothing_takes_no_other_clients_turn() {
    let limits = Limits { bytes_per_second_to_clients: Some(1_000_000), ..Limits::default() };
    let setup = move || Setup::held_to(Quotas::new(Limits::default(), limits));
    keep_with(setup, "somebody", async |site: Site| {
        let _agent = Agent::dial(&site).await.echo();
        site.until_sessions(1).await;
        let bytes = pattern(1, 500_000);
        let mut stopped = Vec::new();
        for _ in 0..4 {
            let mut answered = answer(site.ask(request(Method::POST, "/", Full::from(bytes.clone())))).await;
            // So that it is waiting for more.
            next(answered.body_mut()).await.unwrap().unwrap();
            let mut more = Box::pin(async move {
                while next(answered.body_mut()).await.is_some() {}
                answered
            });
            let _ = timeout(Duration::from_millis(1), &mut more).await;
            stopped.push(more);
        }
        let asking = site.ask(request(Method::POST, "/", Full::from(pattern(2, 300_000))));
        assert_eq!(whole(answer(asking).await.body_mut()).await.len(), 300_000);
    });
}

#[test]
fn a_request_too_many_is_refused_and_counted() {
    let limits = Limits { streams: Some(1), ..Limits::default() };
    let setup = move || Setup::held_to(Quotas::new(Limits::default(), limits));
    keep_with(setup, "somebody", async |site: Site| {
        let mut agent = Agent::dial(&site).await;
        let first = site.ask(get("/first"));
        let at_agent = agent.next().await;
        let refused = asked(site.ask(get("/second"))).await.unwrap_err();
        assert!(matches!(refused, NoAnswer::NoStream(NoStream::LimitReached(_))), "{refused:?}");
        at_agent.serve(200, b"").await;
        drop(answer(first).await);
        site.until_streams(0).await;
        let third = site.ask(get("/third"));
        agent.next().await.serve(200, b"").await;
        assert_eq!(answer(third).await.status(), 200);
        assert_eq!(site.stage.info(&site.tunnel).await.unwrap().refused_clients, 1);
    });
}

#[test]
fn a_request_that_would_wait_is_refused_where_too_many_wait() {
    let limits = Limits { waiting_clients: Some(1), ..Limits::default() };
    let setup = move || Setup::held_to(Quotas::new(Limits::default(), limits));
    keep_with(setup, "somebody", async |site: Site| {
        let mut first = Box::pin(site.uplink.ask(site.uplink.admit(somebody()).unwrap(), get("/first")));
        assert!(timeout(Duration::from_millis(10), &mut first).await.is_err());
        let refused = asked(site.ask(get("/second"))).await.unwrap_err();
        assert!(matches!(refused, NoAnswer::NoStream(NoStream::LimitReached(_))), "{refused:?}");
    });
}

/// A body without end, and how much of it was taken.
fn endless()
-> (impl http_body::Body<Data = Bytes, Error = std::convert::Infallible> + Send, Arc<std::sync::atomic::AtomicUsize>) {
    let taken = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = taken.clone();
    let pieces = stream::repeat_with(move || {
        counted.fetch_add(4096, std::sync::atomic::Ordering::Relaxed);
        Ok(http_body::Frame::data(Bytes::from_static(&[1; 4096])))
    });
    (http_body_util::StreamBody::new(pieces), taken)
}
