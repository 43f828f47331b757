//! Whoever watches hears what is, and then what happens.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use tunnel_api::{AgentLoss, CloseReason, Labels, OpenTunnel, StreamEnd, TunnelRef, TunnelState, WatchFilter, What};

use super::{
    Rig, Stage, TestAgent,
    client::{Heard, connect, hear, hear_exactly, say, say_all},
    eventually,
    rig::{WAITING, named, tunnel_name},
};

/// All of it, and then that it was all.
pub async fn a_watcher_hears_the_present_state_first(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let mut watch = stage.watch_from_the_present_on(WatchFilter::default()).await;
    assert_eq!(watch.what().await, What::Ready, "nothing is open");

    let open = BTreeSet::from([stage.open(WAITING).await.id, stage.open_named("named").await.id]);
    let mut watch = stage.watch_from_the_present_on(WatchFilter::default()).await;
    let mut present = BTreeSet::new();
    while let What::Present(info) = watch.what().await {
        present.insert(info.id);
    }
    assert_eq!(present, open);
}

/// From the first thing to the last.
pub async fn a_tunnels_life_is_told_in_order(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let mut watch = stage.watch().await;
    let tunnel = stage.open(WAITING).await;
    let What::Opened(info) = watch.what().await else { panic!("not opened: {watch:?}") };
    assert_eq!((info.id, info.state), (tunnel.id.clone(), TunnelState::Waiting));

    let mut agent = TestAgent::dial(&tunnel.uri, 1);
    let What::AgentConnected { agent: agent_addr, took_over: None } = watch.what().await else {
        panic!("no agent: {watch:?}")
    };
    assert!(agent_addr.ip().is_loopback());

    let mut client = connect(&tunnel.address).await;
    let mut stream = agent.accept().await;
    let client_addr = client.local_addr().expect("the client's address");
    assert_eq!(watch.what().await, What::ClientConnected { stream: 1, client: client_addr });
    // Or it would be lost for the moment between this client and the next dial-in.
    eventually("the agent to be ready for more", async || {
        stage.info(&tunnel).await.is_some_and(|info| info.sessions > 0)
    })
    .await;

    say_all(&mut client, b"request").await;
    assert_eq!(hear(&mut stream.io).await, Heard::finished_after(b"request"));
    say_all(&mut stream.io, b"answer").await;
    assert_eq!(hear(&mut client).await, Heard::finished_after(b"answer"));
    stream.close();
    match watch.what().await {
        What::ClientEnded { stream: 1, client, end, bytes_to_agent, bytes_to_client, .. } => {
            assert_eq!((client, end, bytes_to_agent, bytes_to_client), (client_addr, StreamEnd::Finished, 7, 6));
        }
        other => panic!("not ended: {other:?}"),
    }

    agent.kill().await;
    let What::AgentLost { expire_time, loss: AgentLoss::HungUp } = watch.what().await else {
        panic!("not lost: {watch:?}")
    };
    assert_eq!(stage.info(&tunnel).await.and_then(|info| info.expire_time), Some(expire_time));

    stage.close(TunnelRef::Id(tunnel.id.clone())).await.expect("the tunnel closes");
    let last = watch.next().await;
    assert_eq!((last.tunnel, last.what), (Some(tunnel.id), What::Closed { reason: CloseReason::Requested }));
}

/// Also those who were there first.
pub async fn an_agent_is_told_of_before_its_clients(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let mut watch = stage.watch().await;
    for _ in 0..20 {
        let tunnel = stage.open(WAITING).await;
        assert!(matches!(watch.what().await, What::Opened(_)), "{watch:?}");
        let _client = connect(&tunnel.address).await;
        let agent = TestAgent::dial(&tunnel.uri, 1);
        assert!(matches!(watch.what().await, What::AgentConnected { .. }), "{watch:?}");
        assert!(matches!(watch.what().await, What::ClientConnected { .. }), "{watch:?}");
        stage.close(TunnelRef::Id(tunnel.id.clone())).await.expect("the tunnel closes");
        agent.kill().await;
        watch.closed(&tunnel.id).await;
    }
}

/// By id, and by name whenever that is open.
pub async fn a_filter_admits_only_what_it_names(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let first = stage.open(WAITING).await;
    let by_id = WatchFilter { id: Some(first.id.clone()), ..WatchFilter::default() };
    let by_name = WatchFilter { name: Some(tunnel_name("wanted")), ..WatchFilter::default() };
    let mut id_watch = stage.watch_from_the_present_on(by_id).await;
    let mut name_watch = stage.watch_from_the_present_on(by_name).await;
    id_watch.ready().await;
    name_watch.ready().await;

    stage.open_named("other").await;
    let wanted = stage.open_named("wanted").await;
    stage.close(TunnelRef::Id(first.id.clone())).await.expect("the tunnel closes");
    assert_eq!(id_watch.next().await.tunnel, Some(first.id));
    assert_eq!(name_watch.next().await.tunnel, Some(wanted.id));
}

/// Of the tunnel it hears all the rest, in order.
pub async fn a_watcher_may_leave_out_the_clients(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let mut all = stage.watch().await;
    let tunnel = stage.open(WAITING).await;
    let filter = WatchFilter { id: Some(tunnel.id.clone()), no_clients: true, ..WatchFilter::default() };
    let mut watch = stage.watch_from_the_present_on(filter).await;
    assert!(matches!(watch.what().await, What::Present(_)), "{watch:?}");
    assert_eq!(watch.what().await, What::Ready);

    let mut agent = TestAgent::dial(&tunnel.uri, 1);
    assert!(matches!(watch.what().await, What::AgentConnected { .. }), "{watch:?}");
    let client = connect(&tunnel.address).await;
    let stream = agent.accept().await;
    while !matches!(all.what().await, What::ClientConnected { .. }) {}
    drop(client);
    stream.close();
    while !matches!(all.what().await, What::ClientEnded { .. }) {}
    stage.close(TunnelRef::Id(tunnel.id.clone())).await.expect("the tunnel closes");
    agent.kill().await;
    loop {
        match watch.what().await {
            // Between this client and the next dial-in there may be nobody for a moment.
            What::AgentLost { .. } | What::AgentConnected { .. } => {}
            last => break assert_eq!(last, What::Closed { reason: CloseReason::Requested }),
        }
    }
}

/// What it missed is not made up for; what is open now is.
pub async fn a_slow_watcher_is_told_and_starts_anew(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let mut slow = stage.watch().await;
    // Each is two events at the least, and 4,096 are held.
    for _ in 0..105 {
        join_all((0..20).map(|_| async {
            let tunnel = stage.open(WAITING).await;
            stage.close(TunnelRef::Id(tunnel.id)).await.expect("the tunnel closes");
        }))
        .await;
    }
    let open = stage.open(WAITING).await;

    let What::Lagged { missed } = slow.what().await else { panic!("not told: {slow:?}") };
    assert!(missed > 0);
    let What::Present(info) = slow.what().await else { panic!("no present state: {slow:?}") };
    assert_eq!(info.id, open.id);
    assert_eq!(slow.what().await, What::Ready);
    stage.close(TunnelRef::Id(open.id.clone())).await.expect("the tunnel closes");
    assert_eq!(slow.what().await, What::Closed { reason: CloseReason::Requested });
}

/// Whoever asks sees the same as whoever watches.
pub async fn a_list_shows_how_a_tunnel_stands(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let mut watch = stage.watch().await;
    let labels = Labels::from([("team".to_owned(), "blue".to_owned())]);
    let tunnel = stage.try_open(OpenTunnel { labels: labels.clone(), ..named("shown") }).await.expect("a tunnel");
    let info = stage.info(&tunnel).await.expect("a tunnel that is listed");
    assert_eq!((info.state, info.sessions, info.streams), (TunnelState::Waiting, 0, 0));
    assert_eq!((info.name, info.labels), (Some(tunnel_name("shown")), labels));
    assert_eq!(info.addresses.first(), Some(&tunnel.address));
    let expire_time = info.expire_time.expect("a time by which it has to be dialled");
    let later = expire_time.duration_since(tunnel.dial_by).expect("no earlier than was said");
    assert!(later < Duration::from_secs(1), "{later:?} later than was said");

    let mut agent = TestAgent::dial(&tunnel.uri, 1);
    watch.agent_connected(&tunnel.id).await;
    let info = stage.info(&tunnel).await.expect("a tunnel that is listed");
    assert_eq!((info.state, info.sessions, info.expire_time), (TunnelState::Online, 1, None));

    let mut client = connect(&tunnel.address).await;
    say(&mut client, b"12345").await;
    let mut stream = agent.accept().await;
    hear_exactly(&mut stream.io, 5).await;
    say(&mut stream.io, b"123").await;
    hear_exactly(&mut client, 3).await;
    eventually("one stream to be listed with what it has carried", async || {
        let info = stage.info(&tunnel).await.expect("a tunnel that is listed");
        (info.streams, info.bytes_to_agent, info.bytes_to_client) == (1, 5, 3)
    })
    .await;

    stream.abort().await;
    agent.kill().await;
    watch.agent_lost(&tunnel.id).await;
    let info = stage.info(&tunnel).await.expect("a tunnel that is listed");
    assert_eq!((info.state, info.sessions, info.streams), (TunnelState::Offline, 0, 0));
    assert_eq!((info.bytes_to_agent, info.bytes_to_client), (5, 3));
}
