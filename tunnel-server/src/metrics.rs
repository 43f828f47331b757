//! What `/metrics` shows: how the tunnels stand, what has happened to them, what callers were told, and how the process does.
//! docs/operating.md lists it all.

mod process;

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};
use tunnel_backends::{
    meters::{Meters, OpenTunnels, SECONDS},
    tunnels::Tunnels,
};

/// Everything that a server shows.
pub(crate) fn registry<'n>(
    meters: &Meters,
    calls: &Calls,
    tunnels: &Arc<Tunnels>,
    backends: impl Iterator<Item = &'n str>,
) -> Registry {
    let mut registry = Registry::default();
    registry.register("tunnel_build", "The program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    registry.register_collector(Box::new(OpenTunnels::new(tunnels.clone(), backends)));
    meters.register(&mut registry);
    calls.register(&mut registry);
    registry.register_collector(Box::new(process::Process::new()));
    registry
}

/// What callers were told. Cheap to clone; all clones count the same.
#[derive(Debug, Clone)]
pub(crate) struct Calls {
    opens: Family<[(&'static str, &'static str); 1], Counter>,
    refusals: Family<[(&'static str, &'static str); 2], Counter>,
    open_times: Histogram,
}

impl Default for Calls {
    fn default() -> Self {
        let opens = Family::<_, Counter>::default();
        drop(opens.get_or_create(&[("result", "ok")]));
        Self { opens, refusals: Family::default(), open_times: Histogram::new(SECONDS) }
    }
}

impl Calls {
    fn register(&self, to: &mut Registry) {
        to.register("tunnel_opens", "Calls of OpenTunnel, by what came of them", self.opens.clone());
        to.register("tunnel_refusals", "What was refused, and why", self.refusals.clone());
        to.register_with_unit(
            "tunnel_open",
            "How long OpenTunnel took to answer",
            Unit::Seconds,
            self.open_times.clone(),
        );
    }

    /// `result` is "ok" or the reason of a refusal.
    pub(crate) fn opened(&self, result: &'static str, took: Duration) {
        self.opens.get_or_create(&[("result", result)]).inc();
        self.open_times.observe(took.as_secs_f64());
    }

    pub(crate) fn refused(&self, what: &'static str, reason: &'static str) {
        self.refusals.get_or_create(&[("what", what), ("reason", reason)]).inc();
    }
}
