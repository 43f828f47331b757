use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use crate::{TunnelId, TunnelInfo, TunnelName};

/// One thing that is, or that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelEvent {
    /// When.
    pub time: SystemTime,
    /// To which tunnel; `None` for [`What::Ready`], [`What::Lagged`] and [`What::RequestsMissed`].
    pub tunnel: Option<TunnelId>,
    /// What.
    pub what: What,
}

/// What is, or what happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// Part of the present state.
    Present(Box<TunnelInfo>),
    /// The present state has been told; from here on it is news.
    Ready,
    /// A tunnel was opened.
    Opened(Box<TunnelInfo>),
    /// An agent dialled in where none was, or took over from itself.
    AgentConnected {
        /// Where it dialled from.
        agent: SocketAddr,
        /// Where it was connected from before, if it came again before its earlier connection was missed.
        took_over: Option<SocketAddr>,
    },
    /// The last agent connection is gone.
    AgentLost {
        /// When the tunnel closes unless an agent comes back.
        expire_time: SystemTime,
        /// How it went.
        loss: AgentLoss,
    },
    /// A client was given to an agent.
    ClientConnected {
        /// Numbers the streams of a tunnel.
        stream: u64,
        /// Where the client came from.
        client: SocketAddr,
    },
    /// A client's stream ended.
    ClientEnded {
        /// As in `ClientConnected`.
        stream: u64,
        /// Where the client came from.
        client: SocketAddr,
        /// How it ended.
        end: StreamEnd,
        /// Bytes from the client to the agent.
        bytes_to_agent: u64,
        /// Bytes from the agent to the client.
        bytes_to_client: u64,
        /// How long it took.
        duration: Duration,
    },
    /// A client's request was answered, or came to nothing. Told to those who asked for requests.
    RequestEnded(Box<RequestEnded>),
    /// The reader was too slow for the requests, and has missed so many of them; of anything else it has missed nothing.
    RequestsMissed {
        /// How many.
        missed: u64,
    },
    /// The tunnel closed.
    Closed {
        /// Why.
        reason: CloseReason,
    },
    /// The reader was too slow and has missed this many events. Forget what is known: the present state follows.
    Lagged {
        /// How many.
        missed: u64,
    },
}

/// A request, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestEnded {
    /// Where the client came from.
    pub client: SocketAddr,
    /// What it asked for.
    pub method: String,
    /// Of which host.
    pub host: String,
    /// The path, and the query only where the server's config says so.
    pub path: String,
    /// What it was answered; `None` if it went before there was an answer.
    pub status: Option<u16>,
    /// How it ended.
    pub end: StreamEnd,
    /// Bytes of the request's body, or of what followed it where it became a connection.
    pub bytes_to_agent: u64,
    /// Bytes of the answer's body, or of what followed it.
    pub bytes_to_client: u64,
    /// From the request's head to the answer's.
    pub first_byte: Option<Duration>,
    /// From the request's head to the end.
    pub duration: Duration,
}

/// How a stream ended: whole, or cut short by somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamEnd {
    /// Both sides said all they had to say.
    Finished,
    /// The client reset it or vanished.
    AbortedByClient,
    /// The agent reset it or vanished.
    AbortedByAgent,
    /// Nothing moved for too long.
    Stalled,
    /// The tunnel was closed while it ran.
    TunnelClosed,
}

/// How the last agent connection went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AgentLoss {
    /// Its end was heard: the agent hung up, or its process died.
    #[default]
    HungUp,
    /// Nothing was heard any more.
    Silent,
    /// It broke the rules of its wire.
    Misbehaved,
}

/// Why a tunnel closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// Somebody asked for it.
    Requested,
    /// Nobody dialled in in time.
    NotDialled,
    /// It was for one connection, and that has ended.
    Done,
    /// Its agents were gone for too long.
    AgentLost,
    /// The server stopped.
    Shutdown,
    /// The credential it was opened by was revoked or has expired.
    Revoked,
}

/// What to watch; empty for all of the caller's tunnels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchFilter {
    /// Only the tunnel with this id.
    pub id: Option<TunnelId>,
    /// Only the tunnel with this name, whenever it is open.
    pub name: Option<TunnelName>,
    /// Requests too, one by one.
    pub requests: bool,
    /// Nothing of clients one by one: neither [`What::ClientConnected`] nor [`What::ClientEnded`].
    pub no_clients: bool,
}

impl WatchFilter {
    /// Whether a tunnel with this id and name is watched.
    pub fn admits(&self, id: &TunnelId, name: Option<&TunnelName>) -> bool {
        self.id.as_ref().is_none_or(|wanted| wanted == id)
            && self.name.as_ref().is_none_or(|wanted| Some(wanted) == name)
    }
}
