use anyhow::{Context as _, bail};
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::{task::JoinSet, time::sleep};
use tunnel_api::{Caller, OpenTunnel, TunnelBackend, rpc::Connect, tls::ClientTls};
use tunnel_backends::carrier::{Incoming, dialler_for};

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

/// Each with an agent that has dialled in and waits, and does nothing else: whoever opens tunnels calls on one connection. The
/// agents are here, so this is about the server.
pub(super) async fn idle_tunnels(subject: Subject, running: &Running, scale: &Scale) -> anyhow::Result<Vec<Reading>> {
    let url = running.rpc.as_deref().context("no RPC")?;
    let (server, mut agents, mut readings) = (running.server(), JoinSet::new(), Vec::new());
    let before = server.holdings();
    let (backend, name) = (Connect::to(url).connect().await?, subject.backend().context("one of ours")?);
    for &size in &scale.crowds {
        let mut new = stream::iter(agents.len()..size).map(|_| dialled(&backend, name)).buffer_unordered(AT_ONCE);
        while let Some(mut agent) = new.try_next().await? {
            agents.spawn(async move { agent.next().await.map(drop) });
        }
        drop(new);
        sleep(scale.settle).await;
        if let Some(gone) = agents.join_next().now_or_never().flatten() {
            bail!("an agent is gone: {gone:?}");
        }
        let each = server.holdings() - before;
        readings.extend(costs(&format!("tunnels-{size}-server"), each.memory, each.descriptors, size));
    }
    Ok(readings)
}

/// A tunnel as the RPC opens it unless it is asked for more.
async fn dialled(server: &dyn TunnelBackend, backend: &str) -> anyhow::Result<Box<dyn Incoming>> {
    let request = OpenTunnel { backend: Some(backend.to_owned()), ..OpenTunnel::default() };
    let opened = server.open_tunnel(&Caller::embedded(), request).await?;
    Ok(dialler_for(&opened.uri, &ClientTls::default())?.dial(&opened.uri).await?)
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
