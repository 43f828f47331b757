//! The line that the audit log has for each tunnel that is over (docs/operating.md). All its other lines are the server's.

use std::time::SystemTime;

use tracing::info;
use tunnel_api::{CloseReason, Owner, TunnelId, TunnelName};

use crate::meters::close_reason;

/// A tunnel that is over.
pub(crate) struct Closed<'t> {
    pub(crate) id: &'t TunnelId,
    pub(crate) name: Option<&'t TunnelName>,
    pub(crate) owner: &'t Owner,
    pub(crate) backend: &'t str,
    pub(crate) open_time: SystemTime,
    /// Of this process: streams and bytes are not recorded.
    pub(crate) streams: u64,
    pub(crate) to_agent: u64,
    pub(crate) to_client: u64,
}

impl Closed<'_> {
    pub(crate) fn tell(&self, reason: CloseReason) {
        info!(
            target: "audit",
            event = "close",
            tunnel.id = %self.id,
            tunnel.name = self.name.map(display),
            owner = %self.owner,
            backend = self.backend,
            reason = close_reason(reason),
            seconds = self.open_time.elapsed().unwrap_or_default().as_secs(),
            streams = self.streams,
            bytes.to_agent = self.to_agent,
            bytes.to_client = self.to_client,
            "tunnel closed"
        );
    }
}
