//! Many at once, and some of them badly behaved.

use std::{io::ErrorKind, time::Duration};

use futures_util::future::join_all;
use tokio::{io::AsyncWriteExt, join, net::TcpStream};
use tunnel_api::{OpenedTunnel, PublicAddress};

use super::{
    AgentStream, Rig, Setup, Stage, TestAgent,
    client::{Heard, connect, hear, hear_exactly, pattern, say, say_all},
    echo,
    rig::WAITING,
    within,
};
use crate::{composed::Times, sockets};

/// More than may wait for an agent at once: those that are served do not count, and the rest stays in the backlog.
pub async fn many_clients_at_once_each_get_their_own_bytes(rig: &dyn Rig) {
    let (_stage, tunnel) = open(rig).await;
    let _agent = TestAgent::dial(&tunnel.uri, POOL).serve(echo);
    let words = |number: u64| pattern(number, 10_000);
    let served = join_all((0..200).map(async |number| {
        let mut client = connect(&tunnel.address).await;
        say(&mut client, &words(number)).await;
        let intact = hear_exactly(&mut client, words(number).len()).await == words(number);
        (number, client, intact)
    }))
    .await;
    // All of them are still there.
    let ended = join_all(served.into_iter().map(async |(number, mut client, intact)| {
        say_all(&mut client, &words(number + 1000)).await;
        let rest = hear(&mut client).await;
        (number, intact && rest == Heard::finished_after(&words(number + 1000)))
    }))
    .await;
    let wrong: Vec<_> = ended.into_iter().filter_map(|(number, intact)| (!intact).then_some(number)).collect();
    assert!(wrong.is_empty(), "these got other bytes than their own: {wrong:?}");
}

/// It costs what is on its way to it, and no more.
pub async fn a_stopped_reader_stops_nobody_else(rig: &dyn Rig) {
    let (_stage, tunnel) = open(rig).await;
    let mut agent = TestAgent::dial(&tunnel.uri, POOL);
    let mut stopped = connect(&tunnel.address).await;
    say(&mut stopped, b"!").await;
    let flooding = tokio::spawn(flood(agent.accept().await));
    // The flood has reached it, and it reads no further.
    hear_exactly(&mut stopped, FLOOD.len()).await;

    let _agent = agent.serve(echo);
    let others = (0..4).map(|number| ask(&tunnel.address, number, 3 * 1024 * 1024));
    for other in within(Duration::from_secs(5), "others to be served", join_all(others)).await {
        other.expect("an answer beside a stopped reader");
    }
    assert_eq!(hear_exactly(&mut stopped, FLOOD.len()).await, FLOOD, "the stopped reader cannot go on");
    flooding.abort();
}

/// They take dial-ins; the agent keeps others waiting.
pub async fn silent_clients_disturb_nobody(rig: &dyn Rig) {
    let (_stage, tunnel) = open(rig).await;
    let _agent = TestAgent::dial(&tunnel.uri, POOL).serve(echo);
    let silent = join_all((0..50).map(|_| connect(&tunnel.address))).await;
    for number in 0..5 {
        let served = within(Duration::from_secs(1), "an answer", ask(&tunnel.address, number, 1000)).await;
        served.expect("an answer beside silent clients");
    }
    assert_eq!(silent.len(), 50);
}

/// Port scanners do, and load balancers that look whether anybody is there.
pub async fn clients_that_reset_at_once_disturb_nobody(rig: &dyn Rig) {
    let (_stage, tunnel) = open(rig).await;
    let _agent = TestAgent::dial(&tunnel.uri, POOL).serve(echo);
    for client in join_all((0..100).map(|_| connect(&tunnel.address))).await {
        sockets::reset(client);
    }
    for number in 0..5 {
        let served = within(Duration::from_secs(1), "an answer", ask(&tunnel.address, number, 1000)).await;
        served.expect("an answer beside clients that reset");
    }
}

/// All of them, and whoever comes after it is told too.
pub async fn an_agent_killed_in_the_middle_resets_its_clients(rig: &dyn Rig) {
    let times = Times { client_wait: Duration::from_millis(100), ..Times::default() };
    let stage = Stage::with(rig, Setup::timed(times));
    let tunnel = stage.open(POOL).await;
    let mut watch = stage.watch().await;
    let agent = TestAgent::dial(&tunnel.uri, POOL).serve(flood);
    let mut clients = join_all((0..8).map(|_| being_flooded(&tunnel.address))).await;
    agent.kill().await;
    let ends = join_all(clients.iter_mut().map(hear)).await.into_iter().map(|heard| heard.end);
    assert_eq!(ends.collect::<Vec<_>>(), [Err(ErrorKind::ConnectionReset); 8]);

    watch.agent_lost(&tunnel.id).await;
    let mut late = connect(&tunnel.address).await;
    assert_eq!(hear(&mut late).await, Heard::reset_after(&[]));
}

/// Each has its own agents and its own clients.
pub async fn tunnels_do_not_mix(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let mut agents = Vec::new();
    let mut asked = Vec::new();
    for number in 0..8_u8 {
        let tunnel = stage.open(WAITING).await;
        agents.push(TestAgent::dial(&tunnel.uri, WAITING).serve(move |mut stream| async move {
            say_all(&mut stream.io, &[number]).await;
            stream.close();
        }));
        asked.push((number, tunnel.address));
    }
    for (number, address) in asked.iter().chain(asked.iter().rev()) {
        let mut client = connect(address).await;
        say_all(&mut client, b"?").await;
        assert_eq!(hear(&mut client).await, Heard::finished_after(&[*number]));
    }
}

async fn open(rig: &dyn Rig) -> (Stage, OpenedTunnel) {
    let stage = Stage::new(rig);
    let tunnel = stage.open(POOL).await;
    (stage, tunnel)
}

/// Whether an echo gives a client its own bytes back.
async fn ask(address: &PublicAddress, number: u64, size: usize) -> Result<(), Heard> {
    let sent = pattern(number, size);
    let mut client = connect(address).await;
    let (mut hears, mut says) = client.split();
    let ((), heard) = join!(say_all(&mut says, &sent), hear(&mut hears));
    if heard == Heard::finished_after(&sent) { Ok(()) } else { Err(heard) }
}

async fn being_flooded(address: &PublicAddress) -> TcpStream {
    let mut client = connect(address).await;
    say(&mut client, b"!").await;
    hear_exactly(&mut client, FLOOD.len()).await;
    client
}

/// An origin that never stops.
async fn flood(mut stream: AgentStream) {
    while stream.io.write_all(FLOOD).await.is_ok() {}
}

const FLOOD: &[u8] = &[b'~'; 4096];

/// How many dial-ins wait where many clients come.
const POOL: u32 = 16;
