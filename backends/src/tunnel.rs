//! One open tunnel: what was agreed, how it stands, and the task that keeps it until it is over.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tunnel_api::{
    AddressRequest, CloseReason, Labels, OpenTunnel, OpenedTunnel, PublicAddress, TunnelError, TunnelInfo, TunnelState,
    TunnelUri, What,
};

use crate::{
    carrier::DialFrom,
    events::{Identity, TunnelNews},
    lease::Lease,
    uplink::Uplink,
};

/// An open tunnel.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) news: TunnelNews,
    pub(crate) uri: TunnelUri,
    pub(crate) address: PublicAddress,
    pub(crate) terms: Terms,
    pub(crate) dial_from: DialFrom,
    pub(crate) lifetime: Lifetime,
    pub(crate) uplink: Uplink,
    pub(crate) open_time: SystemTime,
    standing: Mutex<Standing>,
    close: CancellationToken,
    close_reason: OnceLock<CloseReason>,
    closed: CancellationToken,
}

/// What a tunnel was opened with, as far as opening its name again has to match it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) address: AddressRequest,
    pub(crate) connections: u32,
    pub(crate) proxy_protocol: bool,
    /// As asked for; empty for the caller's own address.
    pub(crate) dial_from: Vec<IpNet>,
    pub(crate) dial_within: Option<Duration>,
    pub(crate) labels: Labels,
}

/// How long a tunnel lives without agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lifetime {
    /// Before the first one.
    pub(crate) dial_within: Duration,
    /// After the last one; `None` if it closes with it.
    pub(crate) grace: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Standing {
    state: TunnelState,
    expire_time: Option<SystemTime>,
}

impl Tunnel {
    pub(crate) fn new(
        news: TunnelNews,
        (uri, address): (TunnelUri, PublicAddress),
        terms: Terms,
        dial_from: DialFrom,
        lifetime: Lifetime,
        uplink: Uplink,
    ) -> Self {
        let open_time = SystemTime::now();
        let expire_time = Some(open_time + lifetime.dial_within);
        Self {
            news,
            uri,
            address,
            terms,
            dial_from,
            lifetime,
            uplink,
            open_time,
            standing: Mutex::new(Standing { state: TunnelState::Waiting, expire_time }),
            close: CancellationToken::new(),
            close_reason: OnceLock::new(),
            closed: CancellationToken::new(),
        }
    }

    pub(crate) fn about(&self) -> &Arc<Identity> {
        self.news.about()
    }

    /// Asks the keeper to end it. The first reason counts.
    pub(crate) fn close(&self, reason: CloseReason) {
        let _ = self.close_reason.set(reason);
        self.close.cancel();
    }

    /// It is ending or has ended: nobody should find it any more.
    pub(crate) fn is_closing(&self) -> bool {
        self.close.is_cancelled()
    }

    /// Resolves when everything it held is free.
    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    pub(crate) fn info(&self) -> TunnelInfo {
        let counts = self.uplink.counts();
        let standing = *self.standing();
        let about = self.about();
        TunnelInfo {
            id: about.id.clone(),
            name: about.name.clone(),
            addresses: vec![self.address.clone()],
            backend: about.backend.to_string(),
            state: standing.state,
            sessions: u32::try_from(counts.sessions).unwrap_or(u32::MAX),
            streams: u32::try_from(counts.streams).unwrap_or(u32::MAX),
            bytes_to_agent: counts.to_agent,
            bytes_to_client: counts.to_client,
            strangers: counts.strangers,
            open_time: self.open_time,
            expire_time: standing.expire_time,
            labels: self.terms.labels.clone(),
        }
    }

    pub(crate) fn opened(&self) -> OpenedTunnel {
        let unless_dialled = self.lifetime.grace.unwrap_or(self.lifetime.dial_within);
        OpenedTunnel {
            id: self.about().id.clone(),
            uri: self.uri.clone(),
            address: self.address.clone(),
            dial_by: self.standing().expire_time.unwrap_or_else(|| SystemTime::now() + unless_dialled),
            dial_from: self.dial_from.networks(),
            connections: self.terms.connections,
        }
    }

    /// Opening its name again: fine if what is asked for is what there is.
    pub(crate) fn check_same(&self, backend: &str, asked: &Terms) -> Result<(), TunnelError> {
        let difference = if *self.about().backend != *backend {
            Some(format!("backend {}", self.about().backend))
        } else {
            self.difference(asked)
        };
        match difference {
            None => Ok(()),
            Some(difference) => Err(TunnelError::NameConflict {
                name: self.about().name.as_ref().map(ToString::to_string).unwrap_or_default(),
                difference,
            }),
        }
    }

    fn difference(&self, asked: &Terms) -> Option<String> {
        let has = &self.terms;
        let address_fits = asked.address.scheme.as_deref().is_none_or(|scheme| scheme == self.address.scheme())
            && asked.address.host.as_ref().is_none_or(|host| host == self.address.host())
            && asked.address.port.is_none_or(|port| port == self.address.port());
        if !address_fits {
            Some(format!("address {}", self.address))
        } else if asked.connections != has.connections {
            Some(format!("connections {}", has.connections))
        } else if asked.proxy_protocol != has.proxy_protocol {
            Some(format!("proxy_protocol {}", has.proxy_protocol))
        } else if asked.dial_from != has.dial_from {
            Some("another dial_from".to_owned())
        } else if asked.dial_within != has.dial_within {
            Some("another dial_within".to_owned())
        } else if asked.labels != has.labels {
            Some("other labels".to_owned())
        } else {
            None
        }
    }

    /// Lives until it is over, and says why. What it holds is released when this returns; whoever calls it takes it off
    /// the table then and calls [`mark_closed`](Self::mark_closed).
    pub(crate) async fn keep(&self, leases: Vec<Lease>) -> CloseReason {
        let ended = tokio::select! {
            biased;
            () = self.close.cancelled() => None,
            reason = self.live() => Some(reason),
        };
        if let Some(reason) = ended {
            self.close(reason);
        }
        self.uplink.end();
        for lease in leases {
            lease.release().await;
        }
        // Somebody has set it, at the latest we did.
        self.close_reason.get().copied().unwrap_or(CloseReason::Requested)
    }

    pub(crate) fn mark_closed(&self) {
        self.closed.cancel();
    }

    /// Follows the agents' coming and going; returns when they have been away for too long.
    async fn live(&self) -> CloseReason {
        let mut presence = self.uplink.presence();
        let mut arrivals = 0;
        let mut told_lost = true;
        loop {
            let now = *presence.borrow_and_update();
            if now.online {
                // Before it is told, so that whoever then asks hears the same.
                self.stand(TunnelState::Online, None);
            }
            if now.arrivals > arrivals {
                arrivals = now.arrivals;
                told_lost = false;
                if let Some(agent) = now.agent {
                    self.news.tell(|| What::AgentConnected { agent, took_over: None });
                }
            }
            if now.online {
                if presence.changed().await.is_err() {
                    return CloseReason::AgentLost;
                }
                continue;
            }
            let dialled = arrivals > 0;
            let Some(patience) = (if dialled { self.lifetime.grace } else { Some(self.lifetime.dial_within) }) else {
                return CloseReason::Done;
            };
            let expire_time = SystemTime::now() + patience;
            self.stand(if dialled { TunnelState::Offline } else { TunnelState::Waiting }, Some(expire_time));
            if !std::mem::replace(&mut told_lost, true) {
                self.news.tell(|| What::AgentLost { expire_time, loss: now.loss });
            }
            let deadline = Instant::now() + patience;
            tokio::select! {
                biased;
                _ = presence.changed() => {}
                () = sleep_until(deadline) => {
                    return if dialled { CloseReason::AgentLost } else { CloseReason::NotDialled };
                }
            }
        }
    }

    fn stand(&self, state: TunnelState, expire_time: Option<SystemTime>) {
        *self.standing() = Standing { state, expire_time };
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        // Nothing panics while it is held.
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Terms {
    pub(crate) fn of(request: OpenTunnel) -> Self {
        Self {
            address: request.address,
            connections: request.connections.unwrap_or(1).max(1),
            proxy_protocol: request.proxy_protocol,
            dial_from: request.dial_from,
            dial_within: request.dial_within,
            labels: request.labels,
        }
    }
}
