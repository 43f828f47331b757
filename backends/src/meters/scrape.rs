//! What is summed up when somebody asks: how the open tunnels stand.

use std::{collections::BTreeMap, fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};
use tunnel_api::TunnelState;

use crate::tunnels::Tunnels;

/// The open tunnels of a server, as metrics.
///
/// The table is held only while its tunnels are noted down; what each of them counts is asked afterwards, one by one.
#[derive(Debug)]
pub struct OpenTunnels {
    tunnels: Arc<Tunnels>,
    backends: Vec<Arc<str>>,
}

/// How one backend stands.
#[derive(Debug, Default, Clone, Copy)]
struct Stand {
    waiting: i64,
    online: i64,
    offline: i64,
    sessions: i64,
    streams: i64,
}

impl OpenTunnels {
    /// Those on this table, by backends of these names.
    pub fn new(tunnels: Arc<Tunnels>, backends: impl IntoIterator<Item: Into<Arc<str>>>) -> Self {
        Self { tunnels, backends: backends.into_iter().map(Into::into).collect() }
    }
}

impl Collector for OpenTunnels {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (open, mut moved) = self.tunnels.census();
        let mut stands: BTreeMap<&str, Stand> = self.backends.iter().map(|name| (&**name, Stand::default())).collect();
        for tunnel in &open {
            let counts = tunnel.uplink.counts();
            moved.to_agent += counts.to_agent;
            moved.to_client += counts.to_client;
            let stand = stands.entry(&tunnel.about().backend).or_default();
            match tunnel.state() {
                TunnelState::Waiting => stand.waiting += 1,
                TunnelState::Online => stand.online += 1,
                TunnelState::Offline => stand.offline += 1,
            }
            stand.sessions += i64::try_from(counts.members).unwrap_or(i64::MAX);
            stand.streams += i64::try_from(counts.streams).unwrap_or(i64::MAX);
        }

        let mut family = encoder.encode_descriptor("tunnel_tunnels", OPEN, None, MetricType::Gauge)?;
        for (backend, stand) in &stands {
            for (state, count) in [("waiting", stand.waiting), ("online", stand.online), ("offline", stand.offline)] {
                let labels = [("backend", *backend), ("state", state)];
                ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        let mut family = encoder.encode_descriptor("tunnel_sessions", SESSIONS, None, MetricType::Gauge)?;
        for (backend, stand) in &stands {
            ConstGauge::new(stand.sessions).encode(family.encode_family(&[("backend", *backend)])?)?;
        }
        let mut family = encoder.encode_descriptor("tunnel_streams", STREAMS, None, MetricType::Gauge)?;
        for (backend, stand) in &stands {
            ConstGauge::new(stand.streams).encode(family.encode_family(&[("backend", *backend)])?)?;
        }
        let mut family = encoder.encode_descriptor("tunnel_stream", BYTES, Some(&Unit::Bytes), MetricType::Counter)?;
        for (direction, bytes) in [("to_agent", moved.to_agent), ("to_client", moved.to_client)] {
            ConstCounter::new(bytes).encode(family.encode_family(&[("direction", direction)])?)?;
        }
        Ok(())
    }
}

const OPEN: &str = "Open tunnels, by backend and by whether an agent is there, was there, or never came.";
const SESSIONS: &str = "Agent connections (tcp: dial-ins that wait for a client).";
const STREAMS: &str = "Streams that are running.";
const BYTES: &str = "Bytes delivered, of all streams that are running or have ended.";
