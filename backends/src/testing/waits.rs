//! A client may come before the agent does.

use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::{
    Rig, Setup, Stage, TestAgent,
    client::{Heard, connect, hear, hear_exactly, say, say_all},
    echo, eventually,
    rig::WAITING,
};
use crate::{composed::Times, sockets};

/// What it has said meanwhile is not lost.
pub async fn a_client_that_comes_before_the_agent_is_served(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let tunnel = stage.open(WAITING).await;
    let mut client = connect(&tunnel.address).await;
    say(&mut client, b"anybody there?").await;
    let mut agent = TestAgent::dial(&tunnel.uri, 1);
    let mut stream = agent.accept().await;
    assert_eq!(hear_exactly(&mut stream.io, 14).await, b"anybody there?");
    say(&mut stream.io, b"yes").await;
    assert_eq!(hear_exactly(&mut client, 3).await, b"yes");
}

/// It has said all, and still wants to hear.
pub async fn a_client_that_half_closes_while_it_waits_is_served(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let tunnel = stage.open(WAITING).await;
    let before = tasks();
    let mut client = connect(&tunnel.address).await;
    say_all(&mut client, b"all I have to say").await;
    eventually("the server to take the client", async || tasks() > before).await;
    let _agent = TestAgent::dial(&tunnel.uri, 1).serve(echo);
    assert_eq!(hear(&mut client).await, Heard::finished_after(b"all I have to say"));
}

/// Not ended: it must not look like an empty answer.
pub async fn a_client_that_waits_too_long_is_reset(rig: &dyn Rig) {
    let patience = Duration::from_millis(150);
    let stage = Stage::with(rig, Setup::timed(Times { client_wait: patience, ..Times::default() }));
    let tunnel = stage.open(WAITING).await;
    let since = Instant::now();
    let mut client = connect(&tunnel.address).await;
    assert_eq!(hear(&mut client).await, Heard::reset_after(&[]));
    assert!(since.elapsed() >= patience, "reset after {:?}", since.elapsed());
}

/// Even where there is to be one dial-in only.
pub async fn a_client_that_gives_up_costs_no_dial_in(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let tunnel = stage.open(1).await;
    let before = tasks();
    let client = connect(&tunnel.address).await;
    eventually("the server to take the client", async || tasks() > before).await;
    sockets::reset(client);
    eventually("the server to miss the client", async || tasks() == before).await;

    let mut agent = TestAgent::dial(&tunnel.uri, 1);
    let client = connect(&tunnel.address).await;
    let stream = agent.accept().await;
    assert_eq!(stream.client_addr, client.local_addr().expect("the client's address"));
}

/// The server's tasks are on this runtime: this is how a client's being waited for shows.
fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}
