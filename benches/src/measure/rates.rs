use tokio::time::sleep;

use super::{GIB, MIB, Reading, Scale, Unit};
use crate::{
    load::{self, Bulk, Way},
    spread::fairness,
    subject::{Running, Stage},
};

pub(super) async fn bulk(stage: &Stage, running: &Running, way: Way, scale: &Scale) -> anyhow::Result<Vec<Reading>> {
    let name = if way == Way::Down { "down" } else { "up" };
    let sides = [("server", running.server()), ("agent", running.agent())];
    let mut readings = Vec::new();
    for &transfers in &scale.transfers {
        let mut bulk = Bulk::start(running.target, stage.origin, way, transfers).await?;
        sleep(scale.spell.warm_up).await;
        let before = sides.each_ref().map(|(_, side)| side.processor_time());
        let rates = bulk.rates(scale.spell.time).await?;
        let used = sides.each_ref().map(|(_, side)| side.processor_time());
        let rate = rates.iter().sum::<f64>() / GIB;
        readings.push(Reading::new(format!("{name}-{transfers}"), Unit::GibPerSecond, rate));
        if !running.server().is_empty() {
            let moved = rate * scale.spell.time.as_secs_f64();
            let costs = [0, 1].map(|side| used[side].saturating_sub(before[side]).as_secs_f64() / moved);
            let mut cost = |of: &str, value| {
                readings.push(Reading::new(format!("{name}-{transfers}-cpu{of}"), Unit::SecondsPerGib, value));
            };
            cost("", costs[0] + costs[1]);
            cost("-server", costs[0]);
            cost("-agent", costs[1]);
        }
        // What goes up is counted by the origin, for all together.
        if way == Way::Down && transfers == 8 {
            readings.push(Reading::new("fairness-8", Unit::Fairness, fairness(&rates)));
        }
    }
    Ok(readings)
}

pub(super) async fn far(stage: &Stage, running: &Running, scale: &Scale) -> anyhow::Result<Vec<Reading>> {
    let mut readings = Vec::new();
    for transfers in [1, 8] {
        let mut bulk = Bulk::start(running.target, stage.origin, Way::Down, transfers).await?;
        sleep(scale.far_warm_up).await;
        let rate = bulk.rates(scale.spell.time).await?.iter().sum::<f64>() / MIB;
        readings.push(Reading::new(format!("path-{transfers}"), Unit::MibPerSecond, rate));
    }
    Ok(readings)
}

pub(super) async fn calls(running: &Running, scale: &Scale) -> anyhow::Result<Vec<Reading>> {
    let mut readings = Vec::new();
    for &callers in &scale.callers {
        let calls = load::calls(running.target, callers, scale.spell).await?;
        if calls.failed > 0 {
            eprintln!("  {} calls of {callers} callers have failed", calls.failed);
        }
        readings.push(Reading::new(format!("calls-{callers}"), Unit::PerSecond, calls.rate));
    }
    Ok(readings)
}

pub(super) async fn web(running: &Running, scale: &Scale) -> anyhow::Result<Vec<Reading>> {
    let web = load::requests(running.target, &running.host, scale.web_clients, scale.spell).await?;
    Ok(vec![
        Reading::new("web", Unit::PerSecond, web.rate),
        Reading::new("web-p50", Unit::Milliseconds, web.p50.as_secs_f64() * 1000.0),
        Reading::new("web-p99", Unit::Milliseconds, web.p99.as_secs_f64() * 1000.0),
    ])
}
