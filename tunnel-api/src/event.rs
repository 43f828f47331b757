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
    /// To which tunnel; `None` for [`What::Ready`] and [`What::Lagged`].
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
}

impl WatchFilter {
    /// Whether a tunnel with this id and name is watched.
    pub fn admits(&self, id: &TunnelId, name: Option<&TunnelName>) -> bool {
        self.id.as_ref().is_none_or(|wanted| wanted == id)
            && self.name.as_ref().is_none_or(|wanted| Some(wanted) == name)
    }
}
