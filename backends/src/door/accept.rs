use std::{net::SocketAddr, pin::pin, sync::Arc};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Arrival, DoorTerms, HttpService,
    lobby::{Lobby, Seat},
    meet::Met,
    room::Room,
};
use crate::{acceptor::Acceptor, meters::DoorRefused, seldom::unless_cancelled, sockets};

/// What all connections share.
pub(super) struct Hall {
    lobby: Lobby,
    /// Where web clients' connections are between requests.
    pub(super) lounge: Arc<Room>,
    pub(super) terms: DoorTerms,
    pub(super) http: HttpService,
    /// No new requests.
    pub(super) stop: CancellationToken,
    /// Nothing any more.
    cut: CancellationToken,
}

impl Hall {
    pub(super) fn new(
        terms: DoorTerms,
        http: HttpService,
        stop: CancellationToken,
        cut: CancellationToken,
    ) -> Arc<Self> {
        let proxies = &terms.trusted_proxies;
        let lobby = Lobby::new(terms.waiting, terms.waiting_per_source, proxies.clone(), terms.meters.clone());
        let lounge = Room::new(terms.kept_alive, terms.kept_alive_per_source, proxies.clone());
        Arc::new(Self { lobby, lounge, terms, http, stop, cut })
    }
}

pub(super) async fn accept(mut acceptor: Acceptor, hall: Arc<Hall>, tasks: TaskTracker) {
    loop {
        let (socket, peer) = tokio::select! {
            biased;
            () = hall.stop.cancelled() => return,
            accepted = acceptor.accept() => accepted,
        };
        let arrival = Arrival(Instant::now());
        let seat = hall.lobby.enter(peer.ip());
        let was_full = seat.was_anothers();
        let (hall, cut) = (hall.clone(), hall.cut.clone());
        tasks.spawn(async move {
            let received = pin!(receive(socket, peer, arrival, seat, hall));
            unless_cancelled(&cut, received).await
        });
        if was_full {
            // Let whoever had the seat hang up, or a crowd takes up more descriptors than there are seats.
            tokio::task::yield_now().await;
        }
    }
}

/// The seat in the lobby is kept until a request is accepted, or the connection is known to be for a tunnel.
async fn receive(socket: TcpStream, peer: SocketAddr, arrival: Arrival, seat: Seat, hall: Arc<Hall>) {
    let Ok(local) = socket.local_addr().map(sockets::canonical) else { return };
    // Whatever ends before it should is reset, however it ends.
    let _ = sockets::reset_unless_finished(&socket);
    let met = tokio::select! {
        biased;
        () = hall.stop.cancelled() => return,
        () = seat.evicted() => Err(DoorRefused::Evicted),
        met = timeout(hall.terms.first_unit, hall.meet(socket, peer)) => met.map_err(|_| DoorRefused::Timeout),
    };
    match met {
        Ok(Ok(Met::Guest(guest))) => hall.serve(*guest, peer, local, arrival, seat).await,
        Ok(Ok(Met::Passenger(passenger))) => hall.pass(passenger, peer, local, seat).await,
        Ok(Err(error)) => {
            hall.terms.meters.door_refused(error.counted_as());
            let cause = std::error::Error::source(&error);
            tracing::debug!(peer.addr = %peer, %error, cause, "connection refused at the door");
        }
        Err(why) => hall.terms.meters.door_refused(why),
    }
}
