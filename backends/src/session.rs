//! One live agent connection and its streams, as the uplink sees them: what every carrier brings.

use std::task::{Context, Poll};

use async_trait::async_trait;
use tokio::net::TcpStream;

use crate::{carrier::Declined, exchange::Requests, relay::Duplex, uplink::ClientInfo};

/// One live agent connection. Its carrier makes it and keeps it among the tunnel's sessions for as long as it lives.
#[async_trait]
pub trait Session: Send + Sync + 'static {
    /// Opens a stream for a client. Called by the uplink, at most [`room`](Self::room) times at once.
    ///
    /// It does not wait for the agent's answer: the client's first bytes go with the opening. An error means that this
    /// session opens no more streams and that nothing reached the agent: the uplink goes on to the next session. Dropping
    /// the future must not lose a stream that the agent may have noticed: it is aborted.
    async fn open(&self, client: &ClientInfo) -> Result<BoxStream, SessionGone>;

    /// How many streams at once.
    fn room(&self) -> usize;

    /// Where its wire is HTTP itself: what sends requests as such. They take places as streams do.
    fn requests(&self) -> Option<&dyn Requests> {
        None
    }

    /// Whether the agent has not answered for longer than it should. It may still be there; as long as there are others it
    /// gets no streams.
    fn is_doubtful(&self) -> bool {
        false
    }
}

/// The session can open no more streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent's connection is gone")]
pub struct SessionGone;

/// A stream from its opening on.
pub trait SessionStream: Duplex {
    /// Ready once the agent has taken the client, or has not. Until then it can be written to, and not read from.
    fn poll_accepted(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Declined>>;

    /// Ready once it takes up no place in its session any more. Asked when the relay is done with it; what has not ended by
    /// then, or is to be [aborted](Duplex::abort_on_drop), is aborted here.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// A stream of a session whose kind is known at run time only.
pub type BoxStream = Box<dyn SessionStream>;

/// A connection of its own: nobody is asked, and when it closes it is gone.
impl SessionStream for TcpStream {
    fn poll_accepted(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Declined>> {
        Poll::Ready(Ok(()))
    }

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}
