use std::{fmt, io, net::SocketAddr, time::Duration};

use async_trait::async_trait;
use tunnel_api::{
    TunnelUri,
    tls::{ClientTls, HandshakeError},
};

use super::{
    Declined,
    ptth::{PtthDialler, RequestOffer},
    tcp::TcpDialler,
};
use crate::relay::BoxDuplex;

/// The agent's half of a carrier. One serves one tunnel for as long as its agent lives.
#[async_trait]
pub trait Dialler: Send + Sync + 'static {
    /// Dials the tunnel once; returns when the server has taken the connection. Cancel-safe: dropping the future hangs up.
    async fn dial(&self, uri: &TunnelUri) -> Result<Box<dyn Incoming>, DialError>;

    /// How many clients come through one dial-in, which says how many there should be.
    fn clients(&self) -> ClientsPerDialIn;
}

/// How many clients come through one dial-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientsPerDialIn {
    /// One, and then another dial-in is needed.
    One,
    /// Any number.
    Many,
}

/// A dial-in: clients come through it, or their requests.
#[async_trait]
pub trait Incoming: Send {
    /// The next one; `None` when this dial-in has had all that it was for. Dropping the future may cost a client that has
    /// just come, who then sees a reset.
    async fn next(&mut self) -> Result<Option<Offer>, DialError>;

    /// The next one, if it has come already: many come at once where many clients share a wire, and a wait for each costs.
    fn next_there(&mut self) -> Option<Offer> {
        None
    }

    /// Takes no more clients, and returns when those that were taken have ended, and the server has all that was said for them.
    /// (Dropping it takes no more either, and says the same; only nobody knows when that has arrived.)
    async fn part(self: Box<Self>) {}
}

/// What comes through a dial-in. Dropping it leaves it to another agent.
#[derive(Debug)]
pub enum Offer {
    /// A client's connection.
    Connection(ConnectionOffer),
    /// A client's request, where the wire is HTTP itself.
    Request(RequestOffer),
}

/// A client, offered to the agent. Dropping it declines it as untouched.
pub struct ConnectionOffer {
    /// Where the client comes from.
    pub client_addr: SocketAddr,
    /// Where it connected to.
    pub public_addr: SocketAddr,
    answer: Option<Box<dyn Answer>>,
}

/// How a carrier tells the server what becomes of a client.
pub trait Answer: Send {
    /// Takes the client. Fails if it has gone meanwhile.
    fn accept(self: Box<Self>) -> io::Result<BoxDuplex>;

    /// Does not.
    fn decline(self: Box<Self>, why: Declined);
}

impl ConnectionOffer {
    /// A client that waits for this answer.
    pub fn new(client_addr: SocketAddr, public_addr: SocketAddr, answer: impl Answer + 'static) -> Self {
        Self { client_addr, public_addr, answer: Some(Box::new(answer)) }
    }

    /// Takes the client. Fails if it has gone meanwhile.
    pub fn accept(mut self) -> io::Result<BoxDuplex> {
        // It is there until it is used, which consumes the offer.
        self.answer.take().expect("an unused answer").accept()
    }

    /// Does not.
    pub fn decline(mut self, why: Declined) {
        if let Some(answer) = self.answer.take() {
            answer.decline(why);
        }
    }
}

impl Drop for ConnectionOffer {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            answer.decline(Declined::Untouched);
        }
    }
}

/// Why a dial-in failed or ended. It tells the agent what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// Nothing was heard from the server: it or the network is away.
    #[error("nothing answers at the tunnel's dial-in address")]
    Silent(#[source] io::Error),
    /// The server, or its host, answered and refused; or it hung up. The tunnel may be gone.
    #[error("the server refused the dial-in or hung up")]
    Refused(#[source] io::Error),
    /// The server knows no tunnel with this URI.
    #[error("the server knows no such tunnel")]
    UnknownTunnel,
    /// The server wants us to try again later.
    #[error("the server takes no more dial-ins now: {why}")]
    Busy {
        /// What it said.
        why: String,
        /// Not before.
        after: Duration,
    },
    /// We cannot: no descriptors, no such host, no route.
    #[error("cannot dial")]
    Failed(#[source] io::Error),
    /// Whoever answers is not the server that is trusted, or there is no TLS with it.
    #[error("no TLS with the server")]
    Tls(#[from] HandshakeError),
    /// Whoever answers does not speak this wire.
    #[error("the server does not speak this tunnel's protocol: {0}")]
    Protocol(String),
    /// We have no dialler for this kind of tunnel.
    #[error("this agent cannot dial {scheme}:// tunnels; update it, or open the tunnel on another backend")]
    UnknownScheme {
        /// The URI's scheme.
        scheme: String,
    },
}

/// The one table of wires an agent can dial; `tls` is for those that are encrypted.
pub fn dialler_for(uri: &TunnelUri, tls: &ClientTls) -> Result<Box<dyn Dialler>, DialError> {
    match uri.scheme() {
        "tcp" => Ok(Box::new(TcpDialler)),
        "ptth" | "ptths" => Ok(Box::new(PtthDialler::new(tls.clone()))),
        scheme => Err(DialError::UnknownScheme { scheme: scheme.to_owned() }),
    }
}

impl fmt::Debug for ConnectionOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionOffer").field("client_addr", &self.client_addr).finish_non_exhaustive()
    }
}
