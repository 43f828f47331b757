//! Answering what comes through a tunnel with an app: requests as they are, and the requests on connections.

mod app;
mod body;
mod connection;
mod hands;
mod pipe;
mod upgrade;
pub(crate) mod wire;

use std::{future::poll_fn, pin::pin, sync::Arc};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tunnel_api::{PublicAddress, TunnelId};
use tunnel_backends::{carrier::RequestOffer, seldom::unless_cancelled};

use crate::{
    AgentState, Peer, Requests,
    held::Held,
    stream::{Offered, OfferedRequest},
};

pub(crate) use app::{AnswerBody, App};
pub use body::RequestBody;
pub(crate) use body::Whole;
use hands::Hands;

/// A tunnel that an app answers, from [`Agent::serve`](crate::Agent::serve) on.
///
/// Dropping it takes no more clients; what is being answered goes on, and then the tunnel is closed. (A named tunnel is not closed
/// but left: its address stays ours until its time is up.) [`leave`](Self::leave) and [`close`](Self::close) wait for nobody.
pub struct ServedTunnel {
    held: Held,
}

impl ServedTunnel {
    pub(crate) fn new(held: Held) -> Self {
        Self { held }
    }

    /// What lists and events call the tunnel. One that a server had forgotten is opened again under another id.
    pub fn id(&self) -> &TunnelId {
        self.held.id()
    }

    /// The public address, to be advertised.
    pub fn address(&self) -> &PublicAddress {
        self.held.address()
    }

    /// Follows how the tunnel stands.
    pub fn state(&self) -> watch::Receiver<AgentState> {
        self.held.state()
    }

    /// Follows the requests of the tunnel's clients, as the server tells them when they have ended. There is one reader; asking again
    /// takes them from the one before.
    pub fn requests(&self) -> Requests {
        self.held.requests()
    }

    /// Resolves when the tunnel is closed for good.
    pub async fn closed(&self) {
        self.held.closed().await;
    }

    /// Leaves a named tunnel to whoever opens it next, and closes any other. Clients that are being answered are cut off, which they
    /// see as an abort. It returns when what was answered before has arrived; then the program may exit.
    pub async fn leave(self) {
        self.held.leave().await;
    }

    /// Closes the tunnel, a named one too, and cuts its clients off. When it returns, the address is free.
    pub async fn close(self) {
        self.held.hang_up.cancel();
        self.held.close().await;
    }
}

/// Whoever takes what comes for an app, until it is dropped.
pub(crate) struct Serving(Arc<Served>);

/// An app, what cuts off those whom it answers, and who has them answered.
struct Served {
    app: App,
    hang_up: CancellationToken,
    hands: Hands,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.hands.dismiss();
    }
}

impl Serving {
    pub(crate) fn new(app: App, hang_up: CancellationToken) -> Arc<Self> {
        Arc::new(Self(Arc::new(Served { app, hang_up, hands: Hands::default() })))
    }

    /// Has it answered at once: there are as many as the session has streams, which the server was told. The keeper counts them.
    pub(crate) fn take(&self, offered: Offered) {
        let serving = self.0.clone();
        // Dropping what is left of either aborts it.
        match offered {
            Offered::Connection(connection) => {
                tokio::spawn(async move {
                    let Served { app, hang_up, .. } = &*serving;
                    let served = pin!(connection::serve(connection, app.clone(), hang_up.clone()));
                    unless_cancelled(hang_up, served).await;
                });
            }
            Offered::Request(OfferedRequest { offer, open }) if offer.protocol().is_some() => {
                tokio::spawn(async move {
                    upgrade::serve(offer, serving.app.clone(), &serving.hang_up).await;
                    drop(open);
                });
            }
            Offered::Request(request) => {
                if let Err(request) = serving.hands.give(request) {
                    tokio::spawn(async move {
                        let answering = pin!(serving.answer_one_after_another(request));
                        unless_cancelled(&serving.hang_up, answering).await;
                    });
                }
            }
        }
    }
}

impl Served {
    async fn answer_one_after_another(&self, first: OfferedRequest) {
        let mut next = Some(first);
        while let Some(OfferedRequest { offer, open }) = next {
            answer(offer, &self.app).await;
            drop(open);
            next = self.hands.next().await;
        }
    }
}

/// A panic of the app's ends the task, which aborts the request and nothing else.
async fn answer(offer: RequestOffer, app: &App) {
    let peer = peer(&offer);
    let (request, mut responder) = offer.accept();
    let answered = tokio::select! {
        biased;
        () = poll_fn(|cx| responder.poll_gone(cx)) => return,
        answered = app.clone().answer(request.map(RequestBody::of_stream), peer) => answered,
    };
    let end = match answered {
        Ok(response) => responder.answer(response).await,
        Err(error) => return tracing::debug!(%error, "request not answered"),
    };
    if let Err(error) = end {
        tracing::debug!(%error, "answer cut short");
    }
}

fn peer(offer: &RequestOffer) -> Option<Peer> {
    offer.client_addr.map(|client_addr| Peer { client_addr })
}

impl std::fmt::Debug for ServedTunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServedTunnel")
            .field("address", self.address())
            .field("state", &*self.state().borrow())
            .finish_non_exhaustive()
    }
}
