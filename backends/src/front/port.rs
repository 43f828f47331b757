//! Clients that connect to a TCP port of the tunnel's own.

use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use tokio::{
    io::Interest,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tunnel_api::{AddressRequest, Caller, Owner, PublicAddress, TunnelError};

use crate::{
    acceptor::Acceptor,
    front::Front,
    hosts::Advertised,
    lease::Lease,
    meters::ClientRefused,
    ports::{Choice, PortLease, PortPool},
    sockets,
    uplink::{Admitted, ClientInfo, OpenStream, Uplink},
};

/// Gives each tunnel a public port of its own.
#[derive(Debug)]
pub struct PortFront {
    /// Where the ports come from.
    pub ports: Arc<PortPool>,
    /// The host that clients connect to.
    pub advertised: Advertised,
    /// How many clients of one tunnel may wait for an agent. When they do, no more are accepted, and the kernel's backlog
    /// holds the rest: each waiting client costs a descriptor and a task, each one in the backlog only kernel memory.
    pub waiting_clients: usize,
}

#[async_trait]
impl Front for PortFront {
    fn schemes(&self) -> &'static [&'static str] {
        &["tcp"]
    }

    async fn publish(
        &self,
        caller: &Caller,
        wanted: &AddressRequest,
        uplink: Uplink,
    ) -> Result<(PublicAddress, Lease), TunnelError> {
        let host = self.advertised.host(caller)?;
        if wanted.host.as_ref().is_some_and(|wanted| *wanted != host) {
            let why =
                format!("the host of this server's addresses is {host}; ask for that one or leave the host empty");
            return Err(TunnelError::invalid("address", why));
        }
        let choice = wanted.port.map_or(Choice::LongestFree, Choice::Exactly);
        let (port, listener) = self.ports.listen(self.advertised.bound, choice, &caller.owner)?;
        let address = PublicAddress::tcp(host, port.port());
        Ok((address, self.serve(port, listener, uplink)))
    }

    async fn publish_again(
        &self,
        owner: &Owner,
        address: &PublicAddress,
        uplink: Uplink,
    ) -> Result<Lease, TunnelError> {
        let choice = Choice::Exactly(address.port());
        let (port, listener) = self.ports.listen(self.advertised.bound, choice, owner)?;
        Ok(self.serve(port, listener, uplink))
    }
}

impl PortFront {
    fn serve(&self, port: PortLease, listener: TcpListener, uplink: Uplink) -> Lease {
        Lease::serving(port, |stop, tasks| {
            let waiting = Arc::new(Semaphore::new(self.waiting_clients));
            Box::new(Clients { acceptor: Acceptor::new(listener), waiting, uplink, stop, tasks }).accept()
        })
    }
}

/// The public port of one tunnel.
struct Clients {
    acceptor: Acceptor,
    waiting: Arc<Semaphore>,
    uplink: Uplink,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Clients {
    /// On the heap: a future that has what it is called on has room for it twice, and one is idle for each tunnel.
    async fn accept(mut self: Box<Self>) {
        loop {
            let (place, (socket, client)) = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = self.uplink.retired() => return,
                next = next_client(&self.waiting, &mut self.acceptor) => next,
            };
            let Ok(public) = self.acceptor.local_addr_of(&socket) else { continue };
            let info = ClientInfo { client_addr: client, public_addr: public };
            match self.uplink.admit(info) {
                Ok(admitted) => drop(self.tasks.spawn(serve(socket, client, admitted, self.uplink.clone(), place))),
                Err(reason) => refuse(socket, client, &self.uplink, ClientRefused::of(&reason)),
            }
        }
    }
}

/// The place comes first: a client is accepted only when there is one for it.
async fn next_client(
    waiting: &Arc<Semaphore>,
    acceptor: &mut Acceptor,
) -> (OwnedSemaphorePermit, (TcpStream, SocketAddr)) {
    let Ok(place) = waiting.clone().acquire_owned().await else {
        // It is never closed.
        return std::future::pending().await;
    };
    (place, acceptor.accept().await)
}

fn refuse(socket: TcpStream, client: SocketAddr, uplink: &Uplink, reason: ClientRefused) {
    uplink.meters().client_refused(reason);
    tracing::debug!(client.addr = %client, reason = reason.label(), "client refused");
    sockets::reset(socket);
}

async fn serve(socket: TcpStream, client: SocketAddr, admitted: Admitted, uplink: Uplink, place: OwnedSemaphorePermit) {
    let stream = match wait_for_stream(&socket, admitted, &uplink).await {
        Ok(stream) => stream,
        Err(reason) => return refuse(socket, client, &uplink, reason),
    };
    drop(place);
    stream.relay(socket).await;
}

/// A client that gives up while it waits must not cost a dial-in. (One that has sent its end only may still want to hear.)
async fn wait_for_stream(socket: &TcpStream, admitted: Admitted, uplink: &Uplink) -> Result<OpenStream, ClientRefused> {
    // One that gave up in the backlog: tokio has heard of no event yet, but the socket knows.
    if !matches!(socket.take_error(), Ok(None)) {
        return Err(ClientRefused::GaveUp);
    }
    tokio::select! {
        biased;
        _ = socket.ready(Interest::ERROR) => Err(ClientRefused::GaveUp),
        stream = uplink.connect(admitted) => stream.map_err(|reason| ClientRefused::of(&reason)),
    }
}
