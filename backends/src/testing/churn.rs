//! What is left when all is over: nothing.
//!
//! Tasks and descriptors can only be counted where nothing else runs, so this one promise is not in the list of
//! [`conformance!`](crate::conformance): a backend runs it from a test target of its own.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use tokio::{io::AsyncReadExt, join, runtime::Handle};
use tunnel_api::{OpenedTunnel, PublicAddress, TunnelRef};

use super::{
    AgentStream, Rig, Setup, Stage, TestAgent,
    client::{Heard, connect, hear, pattern, say, say_all},
    echo, eventually,
    rig::{all_free, free_ports},
};
use crate::{
    ports::{PortPool, PortRange},
    quotas::{InUse, Limits, Quotas},
    sockets,
};

/// Tasks, descriptors and ports, after 500 clients of all sorts on 50 tunnels.
pub async fn everything_is_returned(rig: &dyn Rig) {
    let before = Left::now();
    let (public, dial_in) = two_ranges();
    let pool =
        |ports: &std::ops::RangeInclusive<u16>| PortPool::new(PortRange::Between(ports.clone()), BTreeSet::new());
    let (public_ports, dial_in_ports) = (pool(&public), pool(&dial_in));
    // Limits that nobody meets, and a pace that everybody waits for now and then.
    let rate = Some(8 * 1024 * 1024);
    let limits = Limits {
        tunnels: Some(1000),
        streams: Some(1000),
        waiting_clients: Some(1000),
        bytes_per_second_to_agents: rate,
        bytes_per_second_to_clients: rate,
        ..Limits::default()
    };
    let quotas = Quotas::new(limits, limits);
    let setup = Setup {
        public_ports: public_ports.clone(),
        dial_in_ports: dial_in_ports.clone(),
        quotas: quotas.clone(),
        ..Setup::default()
    };
    let stage = Stage::with(rig, setup);
    for round in 0..ROUNDS {
        churn(&stage, round).await;
    }
    assert_eq!(stage.list().await, []);
    eventually("all counts to be back at nothing", async || quotas.in_use() == InUse::default()).await;
    drop(stage);

    eventually("all tasks to have ended and all descriptors to be closed", async || Left::now() == before).await;
    assert!(all_free(&public_ports, &public), "a public port is not free");
    assert!(all_free(&dial_in_ports, &dial_in), "a dial-in port is not free");
}

/// Tunnels of every kind, each with an agent and clients of every kind; closed one way or the other.
async fn churn(stage: &Stage, round: usize) {
    let mut tunnels = vec![stage.open_named(&format!("round-{round}")).await];
    for _ in 0..3 {
        tunnels.push(stage.open(WAITING).await);
    }
    // Nobody dials this one, and a client waits there in vain.
    let undialled = stage.open(1).await;
    let mut waiting = connect(&undialled.address).await;
    join_all(tunnels.iter().enumerate().map(|(number, tunnel)| use_up(stage, tunnel, number + round))).await;
    stage.close(TunnelRef::Uri(undialled.uri)).await.expect("the tunnel closes");
    assert_eq!(hear(&mut waiting).await, Heard::reset_after(&[]));
}

async fn use_up(stage: &Stage, tunnel: &OpenedTunnel, number: usize) {
    let agent = TestAgent::dial(&tunnel.uri, WAITING).serve(origin);
    join_all((0..CLIENTS).map(|kind| client(&tunnel.address, kind))).await;
    // Some have streams running when the agent dies or the tunnel closes, whichever comes first.
    let mut running = connect(&tunnel.address).await;
    say(&mut running, b"echo").await;
    running.read_exact(&mut [0; 4]).await.expect("an echo");
    if number.is_multiple_of(2) {
        agent.kill().await;
    }
    stage.close(TunnelRef::Id(tunnel.id.clone())).await.expect("the tunnel closes");
    assert_eq!(hear(&mut running).await, Heard::reset_after(&[]));
}

async fn client(address: &PublicAddress, kind: usize) {
    let mut client = connect(address).await;
    match kind % 6 {
        0 => sockets::reset(client),
        1 => drop(client),
        2 => {
            say(&mut client, b"echo").await;
            sockets::reset(client);
        }
        3 => {
            say(&mut client, b"abort").await;
            assert_eq!(hear(&mut client).await, Heard::reset_after(&[]));
        }
        4 => {
            say(&mut client, b"close").await;
            assert_eq!(hear(&mut client).await, Heard::finished_after(b"bye"));
        }
        _ => {
            let words = [b"echo".to_vec(), pattern(kind as u64, 100_000)].concat();
            let (mut hears, mut says) = client.split();
            let ((), heard) = join!(say_all(&mut says, &words), hear(&mut hears));
            assert_eq!(heard, Heard::finished_after(&words));
        }
    }
}

/// Does what the first byte says.
async fn origin(mut stream: AgentStream) {
    let mut first = [0];
    match stream.io.read_exact(&mut first).await {
        Ok(_) if first == *b"e" => {
            if tokio::io::AsyncWriteExt::write_all(&mut stream.io, &first).await.is_ok() {
                echo(stream).await;
            }
        }
        Ok(_) if first == *b"c" => {
            say_all(&mut stream.io, b"bye").await;
            stream.close();
        }
        _ => stream.abort().await,
    }
}

/// Two ranges that do not overlap.
fn two_ranges() -> (std::ops::RangeInclusive<u16>, std::ops::RangeInclusive<u16>) {
    let both = free_ports(24);
    let middle = both.start() + 12;
    (*both.start()..=middle - 1, middle..=*both.end())
}

/// What this process holds.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    tasks: usize,
    descriptors: usize,
}

impl Left {
    fn now() -> Self {
        let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Self { tasks: Handle::current().metrics().num_alive_tasks(), descriptors }
    }
}

const ROUNDS: usize = 10;
const CLIENTS: usize = 12;
const WAITING: u32 = 4;
