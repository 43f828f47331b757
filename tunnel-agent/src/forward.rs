use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::net::{TcpStream, lookup_host};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tunnel_backends::{
    relay::{Progress, RelayTimes, relay},
    sockets,
};

use crate::{TunnelListener, stream::Offered};

impl TunnelListener {
    /// Forwards every client to `target`, such as `127.0.0.1:3000`, until the tunnel is closed for good. A client whose
    /// connection to the target fails is reset; that is one client's problem, and is logged once until it works again.
    ///
    /// Dropping the future stops taking clients; those that are being served go on.
    pub async fn forward_to(&mut self, target: impl Into<String>) {
        let target = Target::new(target.into());
        let clients = TaskTracker::new();
        while let Some(client) = self.offered().await {
            let (target, hang_up) = (target.clone(), self.hang_up.clone());
            clients.spawn(async move { target.serve(client, &hang_up).await });
        }
        clients.close();
        clients.wait().await;
    }
}

/// The local service.
#[derive(Clone)]
struct Target {
    name: Arc<str>,
    is_down: Arc<AtomicBool>,
}

impl Target {
    fn new(name: String) -> Self {
        Self { name: name.into(), is_down: Arc::default() }
    }

    async fn serve(&self, client: Offered, hang_up: &CancellationToken) {
        let from = client.client_addr();
        let service = match self.connect().await {
            Ok(service) => service,
            Err(error) => {
                if !self.is_down.swap(true, Ordering::Relaxed) {
                    tracing::warn!(target = %self.name, %error, "the local service does not answer; is it running there?");
                }
                return client.refuse();
            }
        };
        if self.is_down.swap(false, Ordering::Relaxed) {
            tracing::info!(target = %self.name, "the local service answers again");
        }
        // It may have gone meanwhile.
        let Ok(client) = client.accept() else { return };
        let end = relay(client, service, &Progress::default(), &RelayTimes::default(), hang_up).await;
        tracing::debug!(client.addr = %from, ?end, "stream ended");
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let addrs: Vec<SocketAddr> = lookup_host(&*self.name).await?.collect();
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for addr in addrs {
            match sockets::connect(addr, CONNECT).await {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// A local service answers at once or not at all.
const CONNECT: Duration = Duration::from_secs(4);
