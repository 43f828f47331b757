//! One open tunnel: what was agreed, how it stands, and the task that keeps it until it is over.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::{sync::SetOnce, time::sleep_until};
use tunnel_api::{
    AddressRequest, Carry, CloseReason, CredentialId, Labels, OpenTunnel, OpenedTunnel, PublicAddress, TunnelError,
    TunnelInfo, TunnelName, TunnelState, TunnelUri,
};

use crate::{
    carrier::DialFrom,
    events::{Identity, TunnelNews},
    quarantine::Claim,
    records::{Recorded, Unwritten},
    registry::{AfterRestart, DialIn, Record, text},
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
    pub(crate) uplink: Uplink,
    pub(crate) open_time: SystemTime,
    pub(crate) recording: Recording,
    /// Of whoever opened it last.
    credential: Mutex<Option<CredentialId>>,
    close: SetOnce<CloseReason>,
    closed: SetOnce<()>,
}

/// How a tunnel is recorded.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) recorded: Recorded,
    /// What becomes of it. One of which nothing is left is not recorded.
    pub(crate) after_restart: Option<AfterRestart>,
}

/// What a tunnel was opened with, as far as opening its name again has to match it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Terms {
    #[serde(with = "text")]
    pub(crate) address: AddressRequest,
    pub(crate) connections: u32,
    pub(crate) proxy_protocol: bool,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "text::serialize_some",
        deserialize_with = "text::deserialize_some"
    )]
    pub(crate) carry: Option<Carry>,
    /// As asked for; empty for the caller's own address.
    pub(crate) dial_from: Vec<IpNet>,
    pub(crate) client_allow: Vec<IpNet>,
    pub(crate) client_deny: Vec<IpNet>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "humantime_serde")]
    pub(crate) dial_within: Option<Duration>,
    pub(crate) labels: Labels,
}

impl Tunnel {
    pub(crate) fn new(
        news: TunnelNews,
        (uri, address): (TunnelUri, PublicAddress),
        terms: Terms,
        dial_from: DialFrom,
        uplink: Uplink,
        (open_time, recording, credential): (SystemTime, Recording, Option<CredentialId>),
    ) -> Self {
        Self {
            news,
            uri,
            address,
            terms,
            dial_from,
            uplink,
            open_time,
            recording,
            credential: Mutex::new(credential),
            close: SetOnce::new(),
            closed: SetOnce::new(),
        }
    }

    pub(crate) fn about(&self) -> &Arc<Identity> {
        self.news.about()
    }

    /// By which of its owner's credentials it was opened last.
    pub(crate) fn credential(&self) -> Option<CredentialId> {
        self.lock_credential().clone()
    }

    /// The part of its address that nobody else can have.
    pub(crate) fn claim(&self) -> Claim {
        Claim::of(&self.address)
    }

    /// What is recorded of it, if anything is.
    pub(crate) fn record(&self) -> Option<Record> {
        self.record_as(self.dial_from.networks(), self.credential())
    }

    fn record_as(&self, dial_from: Vec<IpNet>, credential: Option<CredentialId>) -> Option<Record> {
        let about = self.about();
        Some(Record::new(
            about.id.clone(),
            &about.backend,
            (about.owner.clone(), credential, about.name.clone()),
            (self.address.clone(), DialIn::of(&self.uri)),
            dial_from,
            (self.open_time, self.recording.after_restart?, self.terms.clone()),
        ))
    }

    /// It is opened again: by that credential, for agents from there. First it is recorded, so that what is acknowledged is
    /// not lost.
    pub(crate) async fn reopen(
        &self,
        dial_from: Vec<IpNet>,
        credential: Option<CredentialId>,
    ) -> Result<(), Unwritten> {
        let is_news = self.dial_from.networks() != dial_from || self.credential() != credential;
        if is_news && let Some(record) = self.record_as(dial_from.clone(), credential.clone()) {
            self.recording.recorded.write(record).await?;
        }
        self.dial_from.replace(dial_from);
        *self.lock_credential() = credential;
        self.uplink.touch();
        Ok(())
    }

    fn lock_credential(&self) -> MutexGuard<'_, Option<CredentialId>> {
        // Nothing panics while it is held.
        self.credential.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the keeper to end it. The first reason counts.
    pub(crate) fn close(&self, reason: CloseReason) {
        let _ = self.close.set(reason);
    }

    /// It is ending or has ended: nobody should find it any more.
    pub(crate) fn is_closing(&self) -> bool {
        self.close.initialized()
    }

    /// Resolves when everything it held is free.
    pub(crate) async fn closed(&self) {
        self.closed.wait().await;
    }

    pub(crate) fn info(&self) -> TunnelInfo {
        let counts = self.uplink.counts();
        let presence = self.uplink.presence().now();
        let about = self.about();
        TunnelInfo {
            id: about.id.clone(),
            name: about.name.clone(),
            addresses: vec![self.address.clone()],
            backend: about.backend.to_string(),
            state: presence.state(),
            sessions: u32::try_from(counts.sessions).unwrap_or(u32::MAX),
            streams: u32::try_from(counts.streams).unwrap_or(u32::MAX),
            bytes_to_agent: counts.to_agent,
            bytes_to_client: counts.to_client,
            strangers: counts.strangers,
            refused_clients: counts.refused_clients,
            open_time: self.open_time,
            expire_time: presence.expiry.map(|expiry| expiry.time),
            labels: self.terms.labels.clone(),
        }
    }

    pub(crate) fn state(&self) -> TunnelState {
        self.uplink.presence().now().state()
    }

    pub(crate) fn opened(&self) -> OpenedTunnel {
        OpenedTunnel {
            id: self.about().id.clone(),
            uri: self.uri.clone(),
            address: self.address.clone(),
            dial_by: self.uplink.presence().now().would_expire(),
            dial_from: self.dial_from.networks(),
            connections: self.terms.connections,
            carry: self.uplink.carry(),
            client_allow: self.terms.client_allow.clone(),
            client_deny: self.terms.client_deny.clone(),
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
        } else if has.carry.is_some() && asked.carry != has.carry {
            Some(has.carry.map_or_else(|| "no carry".to_owned(), |carry| format!("carry {carry}")))
        } else if asked.proxy_protocol != has.proxy_protocol {
            Some(format!("proxy_protocol {}", has.proxy_protocol))
        } else if asked.dial_from != has.dial_from {
            Some("another dial_from".to_owned())
        } else if (&asked.client_allow, &asked.client_deny) != (&has.client_allow, &has.client_deny) {
            Some("other client_allow or client_deny".to_owned())
        } else if asked.dial_within != has.dial_within {
            Some("another dial_within".to_owned())
        } else if asked.labels != has.labels {
            Some("other labels".to_owned())
        } else {
            None
        }
    }

    /// Lives until it is over, and says why. Then its streams are being aborted; whoever calls it releases what it holds, takes
    /// it off the table and calls [`mark_closed`](Self::mark_closed).
    pub(crate) async fn live_out(&self) -> CloseReason {
        let reason = tokio::select! {
            biased;
            reason = self.close.wait() => *reason,
            reason = self.live() => {
                self.close(reason);
                // Somebody else may have been first.
                self.close.get().copied().unwrap_or(reason)
            }
        };
        self.uplink.end();
        reason
    }

    pub(crate) fn mark_closed(&self) {
        // The keeper is the only one who says so, and does it once.
        let _ = self.closed.set(());
    }

    /// Waits until its agents have been away for too long.
    async fn live(&self) -> CloseReason {
        let presence = self.uplink.presence();
        loop {
            let now = presence.now();
            let expired = async {
                match now.expiry {
                    // On the heap: nearly always somebody is there.
                    Some(expiry) => Box::pin(sleep_until(expiry.deadline)).await,
                    None if now.online => std::future::pending().await,
                    None => {}
                }
            };
            tokio::select! {
                biased;
                () = presence.until(|presence| *presence != now) => {}
                () = expired => return match (now.was_dialled, now.expiry) {
                    (false, _) => CloseReason::NotDialled,
                    (true, Some(_)) => CloseReason::AgentLost,
                    (true, None) => CloseReason::Done,
                },
            }
        }
    }
}

impl Terms {
    pub(crate) fn of(request: OpenTunnel) -> Self {
        Self {
            address: request.address,
            connections: request.connections.unwrap_or(1).max(1),
            proxy_protocol: request.proxy_protocol,
            carry: request.carry,
            dial_from: request.dial_from,
            client_allow: request.client_allow,
            client_deny: request.client_deny,
            dial_within: request.dial_within,
            labels: request.labels,
        }
    }

    /// Whether the address is one that somebody wanted, by its port or name.
    pub(crate) fn asks_for_its_address(&self) -> bool {
        self.address.port.is_some() || self.address.host.is_some()
    }

    /// The request that they come from.
    pub(crate) fn request(&self, name: Option<TunnelName>) -> OpenTunnel {
        // Without the dots, so that a restored tunnel has all that its request had.
        let Self {
            address,
            connections,
            proxy_protocol,
            carry,
            dial_from,
            client_allow,
            client_deny,
            dial_within,
            labels,
        } = self.clone();
        OpenTunnel {
            // It is on its backend already, and who may dial in is recorded as it is in force.
            backend: None,
            caller_address: None,
            name,
            address,
            connections: Some(connections),
            proxy_protocol,
            carry,
            dial_within,
            dial_from,
            client_allow,
            client_deny,
            labels,
        }
    }
}
