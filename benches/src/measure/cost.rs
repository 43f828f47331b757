use std::net::SocketAddr;

use anyhow::Context as _;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{net::TcpStream, time::sleep};
use tunnel_agent::{Agent, AgentState, Tunnel, TunnelListener};
use tunnel_api::{Caller, OpenTunnel, TunnelBackend, rpc::Connect};

use super::{KIB, MIB, Reading, Scale, Unit};
use crate::{
    load::{Bulk, Crowd, Stalled, Way, ping},
    subject::{Running, Stage, Subject},
};

pub(super) async fn idle_connections(
    subject: Subject,
    running: &Running,
    scale: &Scale,
) -> anyhow::Result<Vec<Reading>> {
    let (mut crowd, mut readings) = (Crowd::default(), Vec::new());
    let sides = [("server", running.server()), ("agent", running.agent())];
    let before = sides.each_ref().map(|(_, side)| side.holdings());
    for &size in &scale.crowds {
        let size = if subject == Subject::Mux { size.min(SESSION) } else { size };
        crowd.grow_to(size, running.target).await?;
        sleep(scale.settle).await;
        for ((name, side), before) in sides.iter().zip(before) {
            let each = side.holdings() - before;
            readings.extend(costs(&format!("idle-{size}-{name}"), each.memory, each.descriptors, size));
        }
    }
    Ok(readings)
}

/// Each with an agent that has dialled in and waits. The agents are here, so this is about the server.
pub(super) async fn idle_tunnels(subject: Subject, running: &Running, scale: &Scale) -> anyhow::Result<Vec<Reading>> {
    let url = running.rpc.as_deref().context("no RPC")?;
    let (server, mut tunnels, mut readings) = (running.server(), Vec::new(), Vec::new());
    let before = server.holdings();
    let agent = Agent::connect(url).await?;
    let backend = Connect::to(url).connect().await?;
    for &size in &scale.crowds {
        let new = stream::iter(tunnels.len()..size).map(|_| async {
            match subject {
                Subject::Tcp => single_use(&backend).await,
                _ => multiplexed(&agent).await,
            }
        });
        tunnels.extend(new.buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await?);
        sleep(scale.settle).await;
        let each = server.holdings() - before;
        readings.extend(costs(&format!("tunnels-{size}-server"), each.memory, each.descriptors, size));
    }
    Ok(readings)
}

/// What keeps a tunnel open.
#[derive(Debug)]
enum Held {
    Dialled(#[allow(dead_code, reason = "held, and nothing else")] TcpStream),
    Listening(#[allow(dead_code, reason = "held, and nothing else")] Box<TunnelListener>),
}

/// As the RPC opens it unless it is asked for more, and dialled by a plain connection.
async fn single_use(backend: &dyn TunnelBackend) -> anyhow::Result<Held> {
    let request = OpenTunnel { backend: Some("tcp".to_owned()), ..OpenTunnel::default() };
    let opened = backend.open_tunnel(&Caller::embedded(), request).await?;
    let host = opened.uri.host().ip().context("an address of this machine")?;
    Ok(Held::Dialled(TcpStream::connect(SocketAddr::new(host, opened.uri.port())).await?))
}

async fn multiplexed(agent: &Agent) -> anyhow::Result<Held> {
    let tunnel = agent.open(Tunnel::tcp().backend("mux")).await?;
    tunnel.state().wait_for(|state| *state == AgentState::Online).await?;
    Ok(Held::Listening(Box::new(tunnel)))
}

fn costs(name: &str, memory: f64, descriptors: f64, among: usize) -> [Reading; 2] {
    [
        Reading::new(name, Unit::KibEach, memory / KIB / among as f64),
        Reading::new(format!("{name}-files"), Unit::DescriptorsEach, descriptors / among as f64),
    ]
}

/// Four readers who have stopped, and one who pings beside them.
pub(super) async fn stalled(stage: &Stage, running: &Running, scale: &Scale) -> anyhow::Result<Vec<Reading>> {
    // Whatever is allocated with the first transfers stays; it is not the stopped ones'.
    drop(Bulk::start(running.target, stage.origin, Way::Down, STALLED).await?);
    sleep(scale.settle).await;
    let alone = ping(running.target, 1, scale.spell, None).await?;
    let sides = [("server", running.server()), ("agent", running.agent())];
    let before = sides.each_ref().map(|(_, side)| side.holdings().memory);
    let _stalled = Stalled::start(running.target, STALLED).await?;
    sleep(scale.settle).await;
    let growth = sides.iter().zip(before).map(|((name, side), before)| {
        Reading::new(format!("stalled-{name}"), Unit::Mib, (side.holdings().memory - before) / MIB)
    });
    let mut readings: Vec<_> = growth.collect();
    let beside = ping(running.target, 1, scale.spell, None).await?;
    let slower = beside.p50.as_secs_f64() / alone.p50.as_secs_f64();
    readings.push(Reading::new("stalled-ping", Unit::TimesBefore, slower));
    Ok(readings)
}

/// An agent's connection has room for 4,096 streams, and the agent makes one unless it is told otherwise.
const SESSION: usize = 4000;
const STALLED: usize = 4;
const AT_ONCE: usize = 32;
