//! Clients of TLS whose TLS ends at the agent: what they say is passed on untouched, with what was read to find out whose they are.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use tokio::{io::Interest, net::TcpStream};

use super::{
    accept::Hall,
    alert::{Alert, refuse},
    lobby::{Outstayed, Seat},
};
use crate::{
    meters::{ClientRefused, DoorRefused},
    names::Named,
    replay::Replay,
    uplink::{ClientInfo, OpenStream},
};

/// A client that belongs to a tunnel.
#[derive(Debug)]
pub(super) struct Passenger {
    pub(super) named: Arc<Named>,
    pub(super) socket: TcpStream,
    /// What it has said already.
    pub(super) said: Bytes,
}

impl Hall {
    /// Its seat in the lobby is given up when there is a place for it among those of the tunnel's clients that wait for an agent.
    pub(super) async fn pass(&self, passenger: Passenger, peer: SocketAddr, local: SocketAddr, seat: Seat) {
        let Passenger { named, socket, said } = passenger;
        let client = ClientInfo { client_addr: peer, public_addr: local };
        match self.connect(&named, &socket, client, seat).await {
            Ok(stream) => drop(stream.relay(Replay::new(said, socket)).await),
            Err(Turned::Evicted) => self.terms.meters.door_refused(DoorRefused::Evicted),
            Err(Turned::Away(why)) => {
                named.uplink.meters().client_refused(why);
                tracing::debug!(client.addr = %peer, host = %named.host, reason = why.label(), "client refused");
                refuse(socket, alert_of(why)).await;
            }
        }
    }

    /// A client that gives up while it waits costs no agent anything. (One that has sent its end only may still want to hear.)
    async fn connect(
        &self,
        named: &Named,
        socket: &TcpStream,
        client: ClientInfo,
        seat: Seat,
    ) -> Result<OpenStream, Turned> {
        let admitted = named.uplink.admit(client).map_err(|why| Turned::Away(ClientRefused::of(&why)))?;
        let gone = || async {
            let _ = socket.ready(Interest::ERROR).await;
            Turned::Away(ClientRefused::GaveUp)
        };
        let place = tokio::select! {
            biased;
            place = named.place_to_wait() => place,
            why = gone() => return Err(why),
            () = self.stop.cancelled() => return Err(Turned::Away(ClientRefused::Retired)),
            why = seat.outstayed(self.terms.idle) => return Err(match why {
                Outstayed::Evicted => Turned::Evicted,
                Outstayed::Idle => Turned::Away(ClientRefused::NoAgent),
            }),
        };
        seat.newcomer().accept();
        drop(seat);
        let stream = tokio::select! {
            biased;
            why = gone() => return Err(why),
            stream = named.uplink.connect(admitted) => stream,
        };
        drop(place);
        stream.map_err(|why| Turned::Away(ClientRefused::of(&why)))
    }
}

/// Why it gets no stream.
enum Turned {
    /// Somebody else has its seat.
    Evicted,
    Away(ClientRefused),
}

fn alert_of(why: ClientRefused) -> Alert {
    match why {
        ClientRefused::KeptOut => Alert::AccessDenied,
        ClientRefused::NoAgent | ClientRefused::Retired | ClientRefused::GaveUp | ClientRefused::LimitReached => {
            Alert::InternalError
        }
    }
}
