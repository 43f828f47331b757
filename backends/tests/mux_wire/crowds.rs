//! Many clients on one session.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::future::join_all;
use tunnel_backends::testing::{
    Heard,
    client::{hear_exactly, say_all},
    connect, hear, keep, pattern, say,
};

use crate::{
    agent::{Agent, Taken, echo},
    mux::{Mux, open, until_streams},
};

#[test]
fn a_thousand_clients_at_once_each_get_their_own_bytes() {
    keep(&Mux::default(), async |rig| {
        let (stage, tunnel) = open(rig).await;
        // The `h2` crate's servers allow 200 unless they are told otherwise.
        let _agent =
            Agent::dial_with(&tunnel, h2::server::Builder::new().max_concurrent_streams(1000)).await.serve(echo);
        let words = |number: u64| pattern(number, 2000);
        let mut clients = join_all((0..1000).map(async |number| {
            let mut client = connect(&tunnel.address).await;
            say(&mut client, &words(number)).await;
            let intact = hear_exactly(&mut client, 2000).await == words(number);
            (number, intact, client)
        }))
        .await;
        until_streams(&stage, &tunnel, 1000).await;
        let ended = join_all(clients.iter_mut().map(async |(number, intact, client)| {
            let last = words(*number + 1000);
            say_all(client, &last).await;
            (*number, *intact && hear(client).await == Heard::finished_after(&last))
        }))
        .await;
        let wrong: Vec<_> = ended.into_iter().filter_map(|(number, intact)| (!intact).then_some(number)).collect();
        assert!(wrong.is_empty(), "these got other bytes than their own: {wrong:?}");
    });
}

#[test]
fn no_more_clients_come_at_once_than_the_agent_allows_and_all_are_served() {
    keep(&Mux::default(), async |rig| {
        let (_stage, tunnel) = open(rig).await;
        let crowd = Arc::new(Crowd::default());
        let agent = Agent::dial_with(&tunnel, h2::server::Builder::new().max_concurrent_streams(100)).await;
        let counted = crowd.clone();
        let _agent = agent.serve(move |client| {
            let crowd = counted.clone();
            async move { crowd.serve(client).await }
        });
        let heard = join_all((0..300).map(async |number| {
            let words = pattern(number, 100);
            let mut client = connect(&tunnel.address).await;
            say_all(&mut client, &words).await;
            hear(&mut client).await == Heard::finished_after(&words)
        }))
        .await;
        assert_eq!(heard.iter().filter(|served| **served).count(), 300);
        let most = crowd.most.load(Ordering::SeqCst);
        assert!((2..=100).contains(&most), "{most} at once");
    });
}

/// Counts the clients that are there at once.
#[derive(Default)]
struct Crowd {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Crowd {
    async fn serve(&self, client: Taken) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        // So that the others are there by now.
        tokio::task::yield_now().await;
        echo(client).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
    }
}
