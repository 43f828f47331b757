//! One dial-in of a tunnel, from its dialling until it brings no more clients.

use std::{sync::Arc, time::Instant};

use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tunnel_api::TunnelUri;
use tunnel_backends::carrier::{ClientsPerDialIn, DialError, Dialler, Incoming, Offer};

use crate::stream::{Offered, Taker};

/// What a dial-in has to know.
pub(crate) struct DialIn {
    pub(crate) dialler: Arc<dyn Dialler>,
    pub(crate) uri: TunnelUri,
    /// Told when it is connected.
    pub(crate) connected: mpsc::Sender<()>,
    /// Streams that were given out and have not ended.
    pub(crate) running: TaskTracker,
    /// Nobody wants more clients.
    pub(crate) leave: CancellationToken,
}

/// What became of it.
pub(crate) struct Ended {
    /// When it was connected, if it was.
    pub(crate) connected: Option<Instant>,
    pub(crate) ended: Result<(), DialError>,
}

impl DialIn {
    /// Where it carries many clients and nobody wants more, it stays until the server has all that was said for those that there
    /// were. Where it carries one, it is that client's stream, or else is to be aborted.
    pub(crate) async fn run(self, taker: Taker) -> Ended {
        let dialled = tokio::select! {
            biased;
            dialled = self.dialler.dial(&self.uri) => dialled,
            () = self.is_unwanted() => return Ended { connected: None, ended: Ok(()) },
        };
        let mut clients = match dialled {
            Ok(clients) => clients,
            Err(error) => return Ended { connected: None, ended: Err(error) },
        };
        let since = Instant::now();
        // Nobody listens when all is over.
        let _ = self.connected.send(()).await;
        let more = tokio::select! {
            biased;
            () = self.is_unwanted() => Ok(More::Unwanted),
            more = self.hand_on_all(&taker, &mut *clients) => more,
        };
        // What waits there for a listener that has gone would count as running.
        drop(taker);
        if let Ok(More::Unwanted) = more {
            clients.part().await;
        }
        Ended { connected: Some(since), ended: more.map(drop) }
    }

    /// Not asked for each client where each has a dial-in of its own: those are aborted.
    async fn is_unwanted(&self) {
        match self.dialler.clients() {
            ClientsPerDialIn::One => std::future::pending().await,
            ClientsPerDialIn::Many => self.leave.cancelled().await,
        }
    }

    async fn hand_on_all(&self, taker: &Taker, clients: &mut dyn Incoming) -> Result<More, DialError> {
        while let Some(offer) = clients.next().await? {
            if !self.hand_on(taker, offer, clients).await {
                return Ok(More::Unwanted);
            }
        }
        Ok(More::None)
    }

    /// Hands on an offer and what has come with it, and says whether they are still taken.
    async fn hand_on(&self, taker: &Taker, first: Offer, clients: &mut dyn Incoming) -> bool {
        if !taker.take(Offered::new(first, self.running.token())).await {
            return false;
        }
        for _ in 1..AT_ONCE {
            let Some(offer) = clients.next_there() else { break };
            if !taker.take(Offered::new(offer, self.running.token())).await {
                return false;
            }
        }
        true
    }
}

/// Why a dial-in brings no more clients.
enum More {
    /// It has had all that it was for.
    None,
    /// Nobody takes them.
    Unwanted,
}

/// Offers that are handed on before anything else has its turn.
const AT_ONCE: usize = 64;
