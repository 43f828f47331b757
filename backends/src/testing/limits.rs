//! Nobody gets more than their share, and a tunnel's clients are those it is for.

use std::{
    io::ErrorKind,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tunnel_api::{AddressRequest, OpenTunnel, Owner, PublicAddress, TunnelError, TunnelRef};

use super::{
    Rig, Setup, Stage, TestAgent,
    client::{Heard, connect, hear, hear_exactly, pattern, say, say_all, try_connect},
    echo, eventually,
    rig::{WAITING, named, request},
};
use crate::{
    composed::Times,
    quotas::{InUse, Limits, Quotas},
    sockets,
};

/// Whichever of the two lists keeps it out. Which lists are in force is in the answer.
pub async fn a_client_that_a_tunnel_is_not_for_is_reset_and_no_agent_hears_of_it(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a network")).collect::<Vec<_>>();
    let cases = [
        (nets(&["192.0.2.0/24"]), nets(&[]), false),
        (nets(&[]), nets(&["127.0.0.0/8"]), false),
        (nets(&["127.0.0.0/8"]), nets(&["127.0.0.1/32"]), false),
        (nets(&["127.0.0.1/32"]), nets(&["127.0.0.2/32"]), true),
    ];
    for (client_allow, client_deny, is_for_us) in cases {
        let wanted = OpenTunnel { client_allow, client_deny, ..request(WAITING) };
        let tunnel = stage.try_open(wanted.clone()).await.expect("a tunnel");
        assert_eq!((&tunnel.client_allow, &tunnel.client_deny), (&wanted.client_allow, &wanted.client_deny));
        let mut agent = TestAgent::dial(&tunnel.uri, WAITING);
        let mut watch = stage.watch().await;
        if is_for_us {
            let mut client = connect(&tunnel.address).await;
            let mut stream = agent.accept().await;
            say(&mut stream.io, b"welcome").await;
            assert_eq!(hear_exactly(&mut client, 7).await, b"welcome");
        } else {
            assert_reset(&tunnel.address).await;
            assert!(agent.accepted().is_none(), "the agent has heard of a client: {wanted:?}");
        }
        let refused = stage.info(&tunnel).await.map(|info| info.refused_clients);
        assert_eq!(refused, Some(u64::from(!is_for_us)), "{wanted:?}");
        stage.close(TunnelRef::Id(tunnel.id.clone())).await.expect("the tunnel closes");
        watch.closed(&tunnel.id).await;
    }
}

/// Whatever they are called, and whichever of them it closes to get another one.
pub async fn an_owner_has_no_more_tunnels_than_it_may(rig: &dyn Rig) {
    let (stage, _) = limited(rig, Limits { tunnels: Some(2), ..Limits::default() });
    let alice = stage.called_by("alice");
    let tunnels = [alice.open(WAITING).await, alice.open_named("blog").await];
    // What is open is not one more.
    assert_eq!(alice.open_named("blog").await.id, tunnels[1].id);
    for tunnel in tunnels {
        for wanted in [request(WAITING), named("another")] {
            let refusal = alice.try_open(wanted).await;
            assert_limit(refusal, "alice has 2 tunnels open, and limits.owner.tunnels allows 2; close one");
        }
        alice.close(TunnelRef::Id(tunnel.id)).await.expect("the tunnel closes");
        alice.open(WAITING).await;
    }
}

/// Whoever comes then is let in.
pub async fn opens_that_come_too_fast_are_told_when_to_come_again(rig: &dyn Rig) {
    let (stage, _) = limited(rig, Limits { opens_per_second: Some(4.0), ..Limits::default() });
    let alice = stage.called_by("alice");
    for _ in 0..4 {
        alice.open(WAITING).await;
    }
    let refusal = alice.try_open(request(WAITING)).await;
    let after = assert_limit(refusal, "more than 4 tunnels a second, as many as limits.owner.opens_per_second allows");
    assert!(after <= Duration::from_millis(250), "{after:?}");
    tokio::time::sleep(after).await;
    alice.open(WAITING).await;
}

/// Its agents hear nothing of the one that is too many.
pub async fn a_client_too_many_is_reset_and_the_next_one_is_served_when_there_is_room(rig: &dyn Rig) {
    let (stage, quotas) = limited(rig, Limits { streams: Some(2), ..Limits::default() });
    let alice = stage.called_by("alice");
    // Of all its tunnels together.
    let tunnels = [alice.open(WAITING).await, alice.open(WAITING).await];
    let mut agents = tunnels.each_ref().map(|tunnel| TestAgent::dial(&tunnel.uri, WAITING));
    let mut running = Vec::new();
    for (tunnel, agent) in tunnels.iter().zip(&mut agents) {
        running.push((connect(&tunnel.address).await, agent.accept().await));
    }
    assert_reset(&tunnels[0].address).await;
    assert!(agents[0].accepted().is_none());
    assert_eq!(alice.info(&tunnels[0]).await.map(|info| info.refused_clients), Some(1));

    drop(running.pop());
    eventually("the stream to be gone", async || quotas.in_use_by(&Owner::new("alice")).streams == 1).await;
    let mut next = connect(&tunnels[0].address).await;
    let mut stream = agents[0].accept().await;
    say(&mut stream.io, b"welcome").await;
    assert_eq!(hear_exactly(&mut next, 7).await, b"welcome");
}

/// One that need not wait is served.
pub async fn a_client_that_would_wait_is_reset_where_too_many_wait(rig: &dyn Rig) {
    let (stage, quotas) = limited(rig, Limits { waiting_clients: Some(2), ..Limits::default() });
    let alice = stage.called_by("alice");
    let (asleep, awake) = (alice.open(WAITING).await, alice.open(WAITING).await);
    let waiting = [connect(&asleep.address).await, connect(&asleep.address).await];
    let count = || quotas.in_use_by(&Owner::new("alice"));
    eventually("both to wait", async || count().waiting_clients == 2).await;
    assert_reset(&asleep.address).await;

    let mut agent = TestAgent::dial(&awake.uri, WAITING);
    eventually("the agent to be there", async || alice.info(&awake).await.is_some_and(|info| info.sessions > 0)).await;
    let _served = connect(&awake.address).await;
    let _stream = agent.accept().await;
    assert_eq!((count().waiting_clients, count().streams), (2, 3));

    // One who gives up makes room.
    let [gives_up, _waits] = waiting;
    sockets::reset(gives_up);
    eventually("one to wait", async || count() == InUse { tunnels: 2, streams: 2, waiting_clients: 1 }).await;
    let mut agent = TestAgent::dial(&asleep.uri, WAITING);
    let _stream = agent.accept().await;
    eventually("nobody to wait", async || count().waiting_clients == 0).await;
}

/// Neither by its own limits nor by what all share.
pub async fn an_owner_at_its_limits_holds_up_nobody_else(rig: &dyn Rig) {
    let quotas = Quotas::new(
        Limits { tunnels: Some(20), streams: Some(20), waiting_clients: Some(20), ..Limits::default() },
        Limits { opens_per_second: Some(1000.0), ..Limits::default() },
    );
    let stage = Stage::with(rig, Setup::held_to(quotas.clone()));
    let (greedy, modest) = (stage.called_by("greedy"), stage.called_by("modest"));
    let tunnel = greedy.open(WAITING).await;
    while greedy.try_open(request(WAITING)).await.is_ok() {}
    let crowd = join_all((0..40).map(|_| try_connect(&tunnel.address))).await;
    eventually("the greedy one to have all it can", async || {
        let refused = greedy.info(&tunnel).await.map(|info| info.refused_clients);
        quotas.in_use().waiting_clients == 18 && refused == Some(22)
    })
    .await;

    let tunnel = modest.open(WAITING).await;
    let since = Instant::now();
    let mut client = connect(&tunnel.address).await;
    say_all(&mut client, b"anybody there?").await;
    let _agent = TestAgent::dial(&tunnel.uri, WAITING).serve(echo);
    assert_eq!(hear(&mut client).await, Heard::finished_after(b"anybody there?"));
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    drop(crowd);
}

/// Nothing new comes in until there is room.
pub async fn a_limit_that_is_lowered_cuts_nothing(rig: &dyn Rig) {
    let (stage, quotas) = limited(rig, Limits::default());
    let alice = stage.called_by("alice");
    let tunnels = [alice.open(WAITING).await, alice.open(WAITING).await];
    let _agent = TestAgent::dial(&tunnels[0].uri, WAITING).serve(echo);
    let mut clients = [connect(&tunnels[0].address).await, connect(&tunnels[0].address).await];
    for client in &mut clients {
        say(client, b"one").await;
        assert_eq!(hear_exactly(client, 3).await, b"one");
    }
    quotas.set_owner_default(Limits { tunnels: Some(1), streams: Some(1), ..Limits::default() });

    assert_limit(alice.try_open(request(WAITING)).await, "alice has 2 tunnels open, and limits.owner.tunnels allows 1");
    assert_reset(&tunnels[0].address).await;
    for client in &mut clients {
        say(client, b"two").await;
        assert_eq!(hear_exactly(client, 3).await, b"two");
    }
    assert_eq!(alice.list().await.len(), 2);
}

/// Each way, and not one byte is lost over it.
pub async fn a_stream_goes_no_faster_than_its_owner_may(rig: &dyn Rig) {
    const RATE: usize = 1024 * 1024;
    let rate = Some(RATE as u64);
    let limits = Limits { bytes_per_second_to_agents: rate, bytes_per_second_to_clients: rate, ..Limits::default() };
    let (stage, _) = limited(rig, limits);
    let tunnel = stage.called_by("alice").open(WAITING).await;
    let _agent = TestAgent::dial(&tunnel.uri, WAITING).serve(echo);
    let words = pattern(1, RATE);
    let since = Instant::now();
    let mut client = connect(&tunnel.address).await;
    let (mut hears, mut says) = client.split();
    let ((), heard) = tokio::join!(say_all(&mut says, &words), hear(&mut hears));
    assert_eq!(heard, Heard::finished_after(&words));
    // A second's worth; a quarter comes at once, and the last read is not waited for.
    assert!(since.elapsed() > Duration::from_millis(650), "{:?}", since.elapsed());
}

/// Opens that fail or are dropped half-way, clients that give up or wait in vain, agents that die.
pub async fn what_fails_or_is_given_up_is_not_counted(rig: &dyn Rig) {
    let quotas = Quotas::new(Limits::default(), Limits::default());
    let times = Times { client_wait: Duration::from_millis(100), ..Times::default() };
    let stage = Stage::with(rig, Setup { quotas: quotas.clone(), ..Setup::timed(times) });
    let alice = stage.called_by("alice");
    let nothing = async |what: &str| {
        let owner = Owner::new("alice");
        let is_nothing = async || [quotas.in_use(), quotas.in_use_by(&owner)] == [InUse::default(); 2];
        eventually(format!("nothing to be in use after {what}"), is_nothing).await;
    };

    let taken = stage.open(WAITING).await;
    let port = AddressRequest::tcp_port(taken.address.port());
    let failed = alice.try_open(OpenTunnel { address: port, ..request(WAITING) }).await;
    assert!(matches!(failed, Err(TunnelError::AddressTaken { .. })), "{failed:?}");
    stage.close(TunnelRef::Id(taken.id)).await.expect("the tunnel closes");
    nothing("an open that failed").await;

    for polls in 0.. {
        let mut opening = Box::pin(alice.try_open(request(WAITING)));
        let mut opened = None;
        for _ in 0..polls {
            if let Poll::Ready(result) = opening.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                opened = Some(result.expect("a tunnel"));
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(opening);
        if let Some(opened) = opened {
            alice.close(TunnelRef::Id(opened.id)).await.expect("the tunnel closes");
            break;
        }
        nothing("an open that was dropped").await;
    }
    nothing("a tunnel that was closed").await;

    let tunnel = alice.open(WAITING).await;
    let (gives_up, mut in_vain) = (connect(&tunnel.address).await, connect(&tunnel.address).await);
    eventually("both to be counted", async || quotas.in_use().streams == 2).await;
    sockets::reset(gives_up);
    assert_eq!(hear(&mut in_vain).await, Heard::reset_after(&[]));

    let mut agent = TestAgent::dial(&tunnel.uri, WAITING);
    let mut cut_off = connect(&tunnel.address).await;
    let stream = agent.accept().await;
    drop(stream);
    agent.kill().await;
    assert_eq!(hear(&mut cut_off).await, Heard::reset_after(&[]));
    eventually("only the tunnel to be in use", async || quotas.in_use() == InUse { tunnels: 1, ..InUse::default() })
        .await;

    let mut running = connect(&tunnel.address).await;
    let mut agent = TestAgent::dial(&tunnel.uri, WAITING);
    let _stream = agent.accept().await;
    alice.close(TunnelRef::Id(tunnel.id)).await.expect("the tunnel closes");
    assert_eq!(hear(&mut running).await, Heard::reset_after(&[]));
    nothing("a tunnel that was closed while it was used").await;
}

/// A client there is reset, perhaps before it knows that it was connected.
async fn assert_reset(address: &PublicAddress) {
    match try_connect(address).await {
        Ok(mut client) => assert_eq!(hear(&mut client).await, Heard::reset_after(&[])),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

/// Each owner is held to these.
fn limited(rig: &dyn Rig, limits: Limits) -> (Stage, Arc<Quotas>) {
    let quotas = Quotas::new(Limits::default(), limits);
    (Stage::with(rig, Setup::held_to(quotas.clone())), quotas)
}

/// Gives when to try again.
fn assert_limit<T: std::fmt::Debug>(refusal: Result<T, TunnelError>, words: &str) -> Duration {
    match refusal {
        Err(TunnelError::LimitReached { limit, retry_after: Some(after) }) if limit.contains(words) => after,
        other => panic!("{other:?} instead of a refusal that says {words:?} and when to try again"),
    }
}
