use std::{fmt, time::Duration};

use tunnel_api::TunnelError;

use super::Whose;

/// How much somebody may have; what is `None` has no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// Tunnels open.
    pub tunnels: Option<usize>,
    /// Clients being served, and those that wait for an agent.
    pub streams: Option<usize>,
    /// Clients that wait for an agent.
    pub waiting_clients: Option<usize>,
    /// Calls that open a tunnel, a second. Those of one second may come at once, and always one.
    pub opens_per_second: Option<f64>,
    /// Bytes a second from clients to agents.
    pub bytes_per_second_to_agents: Option<u64>,
    /// Bytes a second from agents to clients.
    pub bytes_per_second_to_clients: Option<u64>,
}

impl Limits {
    /// Of each limit the higher one.
    #[must_use]
    pub fn or_more(self, other: Self) -> Self {
        fn more<T: PartialOrd>(one: Option<T>, other: Option<T>) -> Option<T> {
            one.zip(other).map(|(one, other)| if one < other { other } else { one })
        }
        Self {
            tunnels: more(self.tunnels, other.tunnels),
            streams: more(self.streams, other.streams),
            waiting_clients: more(self.waiting_clients, other.waiting_clients),
            opens_per_second: more(self.opens_per_second, other.opens_per_second),
            bytes_per_second_to_agents: more(self.bytes_per_second_to_agents, other.bytes_per_second_to_agents),
            bytes_per_second_to_clients: more(self.bytes_per_second_to_clients, other.bytes_per_second_to_clients),
        }
    }
}

/// What is counted while it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// An open tunnel.
    Tunnels,
    /// A client, from when it asks for a stream until that has gone.
    Streams,
    /// A client for which no agent had room at once.
    WaitingClients,
}

/// How much is in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InUse {
    /// Tunnels open.
    pub tunnels: usize,
    /// Clients being served, and those that wait.
    pub streams: usize,
    /// Those that wait.
    pub waiting_clients: usize,
}

/// A limit has been reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    pub(super) whose: Whose,
    pub(super) why: Why,
    pub(super) retry_after: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Why {
    /// So many are in use, of so many.
    Full { what: Counted, used: usize, limit: usize },
    /// What is left is for those who have little.
    Reserved { what: Counted, limit: usize },
    /// More opens a second than so many.
    TooFast { rate: f64 },
}

impl Refused {
    /// The limit's name in the config, for logs and counts: one of a handful.
    pub fn limit(&self) -> &'static str {
        match (&self.whose, &self.why) {
            (Whose::Everybody, why) => why.key(),
            (Whose::Owner(_), Why::TooFast { .. }) => "owner.opens_per_second",
            (Whose::Owner(_), Why::Full { what, .. } | Why::Reserved { what, .. }) => match what {
                Counted::Tunnels => "owner.tunnels",
                Counted::Streams => "owner.streams",
                Counted::WaitingClients => "owner.waiting_clients",
            },
        }
    }

    /// When to try again.
    pub fn retry_after(&self) -> Duration {
        self.retry_after
    }
}

impl Why {
    fn key(&self) -> &'static str {
        match self {
            Self::TooFast { .. } => "opens_per_second",
            Self::Full { what, .. } | Self::Reserved { what, .. } => what.key(),
        }
    }
}

impl Counted {
    fn key(self) -> &'static str {
        match self {
            Self::Tunnels => "tunnels",
            Self::Streams => "streams",
            Self::WaitingClients => "waiting_clients",
        }
    }

    fn phrase(self) -> &'static str {
        match self {
            Self::Tunnels => "tunnels open",
            Self::Streams => "clients served or waiting",
            Self::WaitingClients => "clients waiting for an agent",
        }
    }
}

/// Such as: `alice has 100 tunnels open, and limits.owner.tunnels allows 100; close one, or try again later`.
impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whose, limit) = (&self.whose, self.limit());
        match self.why {
            Why::Full { what, used, limit: most } => {
                let remedy = match (what, whose) {
                    (Counted::Tunnels, Whose::Owner(_)) => "; close one, or try again later",
                    (Counted::Tunnels, Whose::Everybody) => "; try again later",
                    _ => "",
                };
                write!(f, "{whose} has {used} {}, and limits.{limit} allows {most}{remedy}", what.phrase())
            }
            Why::Reserved { what, limit: most } => write!(
                f,
                "{whose} has nearly as many {} as limits.{limit} allows ({most}), and keeps the last ones for owners \
                 who have few; try again later",
                what.phrase()
            ),
            Why::TooFast { rate } => write!(
                f,
                "{whose} opens more than {rate} tunnels a second, as many as limits.{limit} allows; try again in {} ms",
                self.retry_after.as_millis().max(1)
            ),
        }
    }
}

impl std::error::Error for Refused {}

impl From<Refused> for TunnelError {
    fn from(refused: Refused) -> Self {
        Self::LimitReached { limit: refused.to_string(), retry_after: Some(refused.retry_after) }
    }
}
