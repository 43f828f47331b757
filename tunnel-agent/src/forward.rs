//! Passing clients on to a local service.

mod counts;
mod service;
mod straight;
mod target;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tunnel_backends::relay::{Duplex as _, Pace, RelayTimes, relay};

use crate::{TunnelListener, stream::OfferedConnection};

pub use counts::{ForwardCounts, ForwardMeter};
pub(crate) use service::{Service, what_to_check};
use straight::Forwarder;
pub(crate) use straight::Straight;
pub use target::{Target, TargetError};

impl TunnelListener {
    /// Forwards every client to `target`, such as `"127.0.0.1:3000"` or `"unix:/run/app.sock"`, until the tunnel is closed for
    /// good. Fails only if the target is none, and then at once. A client whose connection to the target fails is reset; that
    /// is one client's problem, and is logged once until it works again.
    ///
    /// Dropping the future stops taking clients; those that are being served go on.
    pub async fn forward_to<T>(&mut self, target: T) -> Result<(), TargetError>
    where
        T: TryInto<Target>,
        T::Error: Into<TargetError>,
    {
        let target = target.try_into().map_err(Into::into)?;
        self.forward(Forwarding::to(target)).await;
        Ok(())
    }

    /// As [`forward_to`](Self::forward_to), with more to choose and to look at.
    pub async fn forward(&mut self, forwarding: Forwarding) {
        let forwarder = Arc::new(Forwarder::new(forwarding, self.held.hang_up.clone()));
        let straight = self.straight.clone();
        let _leading = straight.lead_to(forwarder.clone());
        // Those that came before.
        while let Some(client) = self.offered().await {
            forwarder.take(client);
        }
        forwarder.served_all().await;
    }
}

/// Where clients are passed on to, and how.
///
/// ```no_run
/// # async fn example(mut tunnel: tunnel_agent::TunnelListener) -> Result<(), tunnel_agent::TargetError> {
/// use tunnel_agent::Forwarding;
///
/// let forwarding = Forwarding::to("127.0.0.1:3000".parse()?).with_proxy_header();
/// let meter = forwarding.meter();
/// tunnel.forward(forwarding).await;
/// println!("{} clients", meter.read().clients);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Forwarding {
    service: Service,
    with_proxy_header: bool,
    meter: ForwardMeter,
}

impl Forwarding {
    /// To that service.
    pub fn to(target: Target) -> Self {
        Self { service: Service::new(target), with_proxy_header: false, meter: ForwardMeter::default() }
    }

    /// The service gets a PROXY v2 header with the client's address before the client's bytes. It must expect one.
    #[must_use]
    pub fn with_proxy_header(mut self) -> Self {
        self.with_proxy_header = true;
        self
    }

    /// Counts what is forwarded, while it is.
    pub fn meter(&self) -> ForwardMeter {
        self.meter.clone()
    }

    async fn serve(&self, client: OfferedConnection, hang_up: &CancellationToken) {
        let counted = self.meter.client_came();
        let from = client.client_addr();
        let header = self.with_proxy_header.then(|| tunnel_backends::proxy::header(from, client.public_addr()));
        let Ok(mut service) = self.service.connect(header.as_deref()).await else {
            counted.was_turned_away();
            return client.refuse();
        };
        let Ok(client) = client.accept() else {
            // It has given up meanwhile, and has not finished.
            return service.abort_on_drop();
        };
        let end = relay(client, service, counted.progress(), &Pace::default(), &RelayTimes::default(), hang_up).await;
        tracing::debug!(client.addr = %from, ?end, "stream ended");
    }
}
