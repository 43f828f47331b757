use std::{
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use socket2::SockRef;
use tokio::{
    io::Interest,
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tunnel_api::{Caller, TunnelError, TunnelUri};

use super::paired::Paired;
use crate::{
    acceptor::Acceptor,
    carrier::{Admission, Carrier, DialFrom, WhereTo},
    hosts::Advertised,
    lease::Lease,
    meters::DialInRefused,
    ports::{Choice, PortPool},
    session::{BoxStream, Session, SessionGone},
    sockets,
    uplink::{ClientInfo, Uplink},
};

/// Gives each tunnel a dial-in port of its own.
#[derive(Debug)]
pub struct TcpCarrier {
    /// Where the ports come from.
    pub ports: Arc<PortPool>,
    /// The host that agents dial.
    pub advertised: Advertised,
}

impl Carrier for TcpCarrier {
    fn admit(
        &self,
        caller: &Caller,
        admission: Admission<'_>,
        uplink: Uplink,
    ) -> Result<(TunnelUri, Lease), TunnelError> {
        let host = admission.dial_in.host().cloned().map_or_else(|| self.advertised.host(caller), Ok)?;
        let choice = match admission.dial_in {
            WhereTo::AsBefore(before) => Choice::Exactly(before.port),
            _ => Choice::Unguessable { apart_from: admission.address.port() },
        };
        let (port, listener) = self.ports.listen(self.advertised.bound, choice, &caller.owner)?;
        let uri = TunnelUri::tcp(&host, port.port());

        let lease = Lease::serving(port, |stop, tasks| {
            let dial_ins = DialIns {
                acceptor: Acceptor::new(listener),
                dial_from: admission.dial_from,
                places: Arc::new(Semaphore::new(admission.connections as usize)),
                single_use: admission.single_use,
                proxy_protocol: admission.proxy_protocol,
                uplink,
                stop,
                tasks,
            };
            Box::new(dial_ins).accept()
        });
        Ok((uri, lease))
    }
}

/// The dial-in port of one tunnel.
struct DialIns {
    acceptor: Acceptor,
    dial_from: DialFrom,
    /// One for each dial-in that may wait for a client.
    places: Arc<Semaphore>,
    single_use: bool,
    proxy_protocol: bool,
    uplink: Uplink,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl DialIns {
    /// On the heap: a future that has what it is called on has room for it twice, and one is idle for each tunnel.
    async fn accept(mut self: Box<Self>) {
        loop {
            let (socket, agent) = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = self.uplink.retired() => return,
                accepted = self.acceptor.accept() => accepted,
            };
            if !self.dial_from.admits(agent.ip()) {
                self.uplink.turn_away(agent);
                sockets::reset(socket);
                continue;
            }
            match self.places.clone().try_acquire_owned() {
                Ok(place) if self.single_use => {
                    place.forget();
                    self.queue(socket, agent, None);
                }
                Ok(place) => self.queue(socket, agent, Some(place)),
                Err(_) => {
                    self.uplink.meters().dial_in_refused(DialInRefused::Full);
                    tracing::debug!(agent.addr = %agent, "dial-in reset: as many as may are waiting already");
                    sockets::reset(socket);
                }
            }
        }
    }

    fn queue(&self, socket: TcpStream, agent: SocketAddr, place: Option<OwnedSemaphorePermit>) {
        let (session, claims) = TcpSession::new(self.proxy_protocol);
        let membership = self.uplink.join(Arc::new(session), agent, None);
        let (stop, uplink) = (self.stop.clone(), self.uplink.clone());
        self.tasks.spawn(async move {
            let waits = (membership, place);
            tokio::select! {
                biased;
                claimed = claims => {
                    // The place is free again before the agent can learn that its dial-in is taken and send another one.
                    drop(waits);
                    hand_over(socket, claimed.ok());
                }
                () = died(&socket) => tracing::debug!(agent.addr = %agent, "waiting dial-in gone"),
                () = stop.cancelled() => sockets::reset(socket),
                () = uplink.retired() => sockets::reset(socket),
            }
        });
    }
}

/// To whoever claims it; one that died in the queue, or that nobody waits for any more, is reset.
fn hand_over(socket: TcpStream, claimant: Option<Claimant>) {
    match claimant {
        // Given back, or lost with a claimant that has just given up, it is reset as well.
        Some(claimant) if look(&socket) != Look::Dead => drop(claimant.send(Claimed(Some(socket)))),
        _ => sockets::reset(socket),
    }
}

/// A dial-in that waits for a client: a session with room for one stream. Its socket stays with the task that watches over
/// it and is claimed from there.
struct TcpSession {
    claim: Mutex<Option<oneshot::Sender<Claimant>>>,
    proxy_protocol: bool,
}

impl TcpSession {
    fn new(proxy_protocol: bool) -> (Self, oneshot::Receiver<Claimant>) {
        let (claim, claims) = oneshot::channel();
        (Self { claim: Mutex::new(Some(claim)), proxy_protocol }, claims)
    }

    async fn claim(&self) -> Option<TcpStream> {
        let claim = self.claim.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let (reply, socket) = oneshot::channel();
        claim.send(reply).ok()?;
        socket.await.ok()?.take()
    }
}

/// Who waits for a dial-in.
type Claimant = oneshot::Sender<Claimed>;

/// A dial-in on its way to its claimant. Its agent may have noticed: if it never gets there it is reset, and not closed as
/// if a client had come and gone.
struct Claimed(Option<TcpStream>);

impl Claimed {
    fn take(mut self) -> Option<TcpStream> {
        self.0.take()
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if let Some(socket) = self.0.take() {
            sockets::reset(socket);
        }
    }
}

#[async_trait]
impl Session for TcpSession {
    async fn open(&self, client: &ClientInfo) -> Result<BoxStream, SessionGone> {
        let socket = self.claim().await.ok_or(SessionGone)?;
        Ok(if self.proxy_protocol { Box::new(Paired::new(socket, client)) } else { Box::new(socket) })
    }

    fn room(&self) -> usize {
        1
    }
}

/// Resolves when a waiting dial-in is dead.
async fn died(socket: &TcpStream) {
    loop {
        match socket.ready(Interest::READABLE | Interest::ERROR).await {
            Ok(ready) if !ready.is_error() => {}
            _ => return,
        }
        // Looked at within `try_io`, which waits for the next event if there is nothing to see: between a look and a wait
        // something could happen unseen. (Of a combined interest `try_io` makes an empty one, and never calls.)
        let seen = socket.try_io(Interest::READABLE, || match look(socket) {
            Look::Silent => Err(io::ErrorKind::WouldBlock.into()),
            seen => Ok(seen),
        });
        match seen {
            Ok(Look::Spoke) => {
                // Bytes are waiting, so it stays readable; from here on only a reset is news.
                let _ = socket.ready(Interest::ERROR).await;
                return;
            }
            Ok(_) => return,
            Err(_) => {}
        }
    }
}

/// What can be seen of a waiting dial-in without consuming anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Reset, or closed with nothing sent.
    Dead,
    /// Nothing has come.
    Silent,
    /// It has sent something. If it has also closed, it is an agent whose server has said all it had to say.
    Spoke,
}

fn look(socket: &TcpStream) -> Look {
    match peeked(socket) {
        Ok(0) => Look::Dead,
        // Its bytes hide a reset that came after them.
        Ok(_) if !matches!(socket.take_error(), Ok(None)) => Look::Dead,
        Ok(_) => Look::Spoke,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Look::Silent,
        Err(_) => Look::Dead,
    }
}

fn peeked(socket: &TcpStream) -> io::Result<usize> {
    SockRef::from(socket).peek(&mut [MaybeUninit::uninit(); 1])
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn a_dial_in_that_is_lost_on_its_way_to_its_claimant_is_reset() {
        let listener = sockets::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut agent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let (claimant, claimed) = oneshot::channel();

        hand_over(socket, Some(claimant));
        drop(claimed);

        let heard = agent.read(&mut [0]).await.map_err(|error| error.kind());
        assert_eq!(heard, Err(io::ErrorKind::ConnectionReset));
    }
}
