use std::{io, net::SocketAddr};

use async_trait::async_trait;
use tunnel_api::TunnelUri;

use super::tcp::TcpDialler;
use crate::relay::BoxDuplex;

/// The agent's half of a carrier.
#[async_trait]
pub trait Dialler: Send + Sync + 'static {
    /// Dials the tunnel once and returns when a client has been given to this dial-in. Cancel-safe: dropping the future
    /// hangs up.
    ///
    /// `connected` is called when the server has taken the connection.
    async fn dial(&self, uri: &TunnelUri, connected: Box<dyn FnOnce() + Send>) -> Result<Dialled, DialError>;
}

/// A client's stream, as the agent gets it.
pub struct Dialled {
    /// Its bytes.
    pub io: BoxDuplex,
    /// Where the client comes from.
    pub client_addr: SocketAddr,
    /// Where it connected to.
    pub public_addr: SocketAddr,
}

/// Why a dial-in brought no client. It tells the agent what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// Nothing was heard from the server: it or the network is away.
    #[error("nothing answers at the tunnel's dial-in address")]
    Silent(#[source] io::Error),
    /// The server, or its host, answered and refused; or it hung up before a client came. The tunnel may be gone.
    #[error("the server refused the dial-in or hung up")]
    Refused(#[source] io::Error),
    /// We cannot: no descriptors, no such host, no route.
    #[error("cannot dial")]
    Failed(#[source] io::Error),
    /// Whoever answers does not speak this wire.
    #[error("the server does not speak this tunnel's protocol: {0}")]
    Protocol(&'static str),
    /// We have no dialler for this kind of tunnel.
    #[error("this agent cannot dial {scheme}:// tunnels; update it, or open the tunnel on another backend")]
    UnknownScheme {
        /// The URI's scheme.
        scheme: String,
    },
}

/// The one table of wires an agent can dial.
pub fn dialler_for(uri: &TunnelUri) -> Result<Box<dyn Dialler>, DialError> {
    match uri.scheme() {
        "tcp" => Ok(Box::new(TcpDialler::default())),
        scheme => Err(DialError::UnknownScheme { scheme: scheme.to_owned() }),
    }
}

impl std::fmt::Debug for Dialled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialled").field("client_addr", &self.client_addr).finish_non_exhaustive()
    }
}
