//! Clients that break off faster than agents bear resets.

use tokio::time::Instant;
use tunnel_backends::testing::soon;

use crate::{
    client::answer,
    frames::{Frame, Frames, HEADERS, RST_STREAM},
    knock::Knock,
    site::{Site, keep},
};

#[test]
fn requests_that_are_broken_off_do_not_reset_an_agents_streams_faster_than_it_bears() {
    keep(async |site: Site| {
        let mut agent = Frames::dial(&site.tunnel).await;
        paced(&site, &mut agent, async |site, agent| {
            let (mouth, asking) = site.post("/");
            agent.client().await;
            drop(mouth);
            asking.await.unwrap().unwrap_err();
        })
        .await;
    });
}

#[test]
fn requests_whose_clients_go_do_not_reset_an_agents_streams_faster_than_it_bears() {
    keep(async |site: Site| {
        let mut agent = Frames::dial(&site.tunnel).await;
        paced(&site, &mut agent, async |site, agent| {
            let (_mouth, asking) = site.post("/");
            agent.client().await;
            asking.abort();
            assert!(asking.await.unwrap_err().is_cancelled());
        })
        .await;
    });
}

#[test]
fn answers_that_are_dropped_do_not_reset_an_agents_streams_faster_than_it_bears() {
    keep(async |site: Site| {
        let mut agent = Frames::dial(&site.tunnel).await;
        paced(&site, &mut agent, async |site, agent| {
            let (_mouth, asking) = site.post("/");
            let stream = agent.client().await;
            agent.say(&Frame::taken(stream)).await;
            drop(answer(asking).await);
        })
        .await;
    });
}

#[test]
fn connections_that_are_dropped_do_not_reset_an_agents_streams_faster_than_it_bears() {
    keep(async |site: Site| {
        let mut agent = Frames::dial_with(&site.tunnel, &Knock::at(&site.tunnel.uri), &[TAKES_PROTOCOLS]).await;
        paced(&site, &mut agent, async |site, agent| {
            let asking = site.ask(crate::upgrades::upgrade("websocket"));
            let stream = agent.client().await;
            agent.say(&Frame::taken(stream)).await;
            drop(answer(asking).await.into_body().into_stream().unwrap());
        })
        .await;
    });
}

/// Breaks off more of them than an agent bears at once.
async fn paced(site: &Site, agent: &mut Frames, break_off: impl AsyncFn(&Site, &mut Frames)) {
    let since = Instant::now();
    for _ in 0..MANY {
        break_off(site, agent).await;
    }
    // All that has been said to the agent comes before this.
    let (_mouth, _asking) = site.post("/last");
    let mut resets = 0;
    let mut heads = 0;
    while heads == 0 {
        let frame = soon("a frame", agent.next()).await.expect("a session that goes on");
        resets += usize::from(frame.kind == RST_STREAM);
        heads += usize::from(frame.kind == HEADERS);
    }
    let most = 500 + 25 * (since.elapsed().as_secs() as usize + 1);
    assert!((100..=most).contains(&resets), "{resets} after {:?}", since.elapsed());
    // Those that wait for their turn keep their places.
    let held = site.counts().await.1 as usize;
    assert!(held > MANY - most, "{held} places are held");
}

/// SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 8441, 3).
pub(crate) const TAKES_PROTOCOLS: (u16, u32) = (8, 1);

const MANY: usize = 700;
