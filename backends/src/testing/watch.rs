//! What is told about tunnels, in the order in which it is told.

use std::fmt;

use futures_util::StreamExt;
use tunnel_api::{CloseReason, StreamEnd, TunnelError, TunnelEvent, TunnelEvents, TunnelId, What};

use super::soon;

/// A watcher.
pub struct Watch {
    events: TunnelEvents,
    seen: Vec<TunnelEvent>,
}

/// How a client's stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// How.
    pub end: StreamEnd,
    /// Bytes from the client to the agent.
    pub to_agent: u64,
    /// Bytes from the agent to the client.
    pub to_client: u64,
}

impl Watch {
    pub(super) fn new(events: TunnelEvents) -> Self {
        Self { events, seen: Vec::new() }
    }

    /// The next item, whatever it is; nothing if the stream is over.
    pub async fn item(&mut self) -> Option<Result<TunnelEvent, TunnelError>> {
        soon(EventAfter(&self.seen), self.events.next()).await
    }

    /// The next event.
    pub async fn next(&mut self) -> TunnelEvent {
        let event = self.item().await.expect("a watch that goes on").expect("an event");
        self.seen.push(event.clone());
        event
    }

    /// What the next event says.
    pub async fn what(&mut self) -> What {
        self.next().await.what
    }

    /// Passes over events until one of them is picked.
    pub async fn until<T>(&mut self, mut pick: impl FnMut(&TunnelEvent) -> Option<T>) -> T {
        loop {
            if let Some(picked) = pick(&self.next().await) {
                return picked;
            }
        }
    }

    /// Passes over the present state.
    pub async fn ready(&mut self) {
        self.until(|event| (event.what == What::Ready).then_some(())).await;
    }

    /// Passes over events until this tunnel has an agent.
    pub async fn agent_connected(&mut self, tunnel: &TunnelId) {
        self.until(|event| match event.what {
            What::AgentConnected { .. } if event.tunnel.as_ref() == Some(tunnel) => Some(()),
            _ => None,
        })
        .await;
    }

    /// Passes over events until this tunnel has lost its agents.
    pub async fn agent_lost(&mut self, tunnel: &TunnelId) {
        self.until(|event| match event.what {
            What::AgentLost { .. } if event.tunnel.as_ref() == Some(tunnel) => Some(()),
            _ => None,
        })
        .await;
    }

    /// Passes over events until a stream has ended.
    pub async fn ended(&mut self) -> Ended {
        self.until(|event| match event.what {
            What::ClientEnded { end, bytes_to_agent, bytes_to_client, .. } => {
                Some(Ended { end, to_agent: bytes_to_agent, to_client: bytes_to_client })
            }
            _ => None,
        })
        .await
    }

    /// Passes over events until this tunnel has closed.
    pub async fn closed(&mut self, tunnel: &TunnelId) -> CloseReason {
        self.until(|event| match event.what {
            What::Closed { reason } if event.tunnel.as_ref() == Some(tunnel) => Some(reason),
            _ => None,
        })
        .await
    }
}

struct EventAfter<'a>(&'a [TunnelEvent]);

impl fmt::Display for EventAfter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an event after {:?}", self.0)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("seen", &self.seen).finish_non_exhaustive()
    }
}
