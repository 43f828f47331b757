use futures_util::FutureExt;
use tokio::time::sleep;

use super::{Reading, Scale, Unit};
use crate::{
    load::{Bulk, Pings, Way, ping},
    machine::{Side, cores::Pinned},
    subject::{Running, Stage},
};

pub(super) async fn idle(running: &Running, scale: &Scale) -> anyhow::Result<Vec<Reading>> {
    both_sizes("ping", running, scale).await
}

pub(super) async fn beside(stage: &Stage, running: &Running, scale: &Scale) -> anyhow::Result<Vec<Reading>> {
    let mut readings = Vec::new();
    for transfers in [1, 8] {
        let mut bulk = Bulk::start(running.target, stage.origin, Way::Down, transfers).await?;
        sleep(scale.spell.warm_up).await;
        let name = format!("beside-{transfers}");
        let (_, pings) = bulk.rates_during(both_sizes(&name, running, scale).boxed()).await?;
        readings.extend(pings?);
    }
    Ok(readings)
}

/// With the origin and the one who pings on the same core, too: what is left is the work, and not how the kernel spreads it.
pub(super) async fn pinned(stage: &Stage, running: &Running, scale: &Scale) -> anyhow::Result<Vec<Reading>> {
    let origin = Side::of([stage.origin_process.id()]);
    let all = running.server().and(&running.agent()).and(&origin);
    let (_pinned, core) = Pinned::to_one_core(all.processes())?;
    let pings = ping(running.target, 1, scale.spell, Some(core)).await?;
    Ok(vec![half("pinned", &pings)])
}

async fn both_sizes(name: &str, running: &Running, scale: &Scale) -> anyhow::Result<Vec<Reading>> {
    let mut readings = Vec::new();
    for (size, of) in [(1, ""), (1024, "-1k")] {
        let pings = ping(running.target, size, scale.spell, None).await?;
        let name = format!("{name}{of}");
        readings.push(half(&name, &pings));
        readings.push(Reading::new(format!("{name}-p99"), Unit::Milliseconds, pings.p99.as_secs_f64() * 1000.0));
    }
    Ok(readings)
}

fn half(name: &str, pings: &Pings) -> Reading {
    Reading::new(format!("{name}-p50"), Unit::Milliseconds, pings.p50.as_secs_f64() * 1000.0)
}
