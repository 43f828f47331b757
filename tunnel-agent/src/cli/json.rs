//! Tunnels and events for programs: one object a line, with the field names of the .proto.

use std::{collections::BTreeMap, net::SocketAddr, time::SystemTime};

use serde::{Serialize, Serializer};
use tunnel_api::{AgentLoss, CloseReason, StreamEnd, TunnelEvent, TunnelInfo, TunnelState, What};

use super::{failure::Failure, units};

/// What `tunnel tcp` has opened.
#[derive(Debug, Serialize)]
pub(crate) struct Opened {
    pub(crate) id: String,
    pub(crate) address: String,
    pub(crate) name: Option<String>,
    pub(crate) target: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct Tunnel<'a> {
    id: &'a str,
    name: Option<&'a str>,
    addresses: Vec<String>,
    backend: &'a str,
    state: &'static str,
    sessions: u32,
    streams: u32,
    bytes_to_agent: u64,
    bytes_to_client: u64,
    strangers: u64,
    refused_clients: u64,
    open_time: Time,
    expire_time: Option<Time>,
    labels: &'a BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Event<'a> {
    time: Time,
    id: Option<&'a str>,
    #[serde(flatten)]
    what: Happened<'a>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Happened<'a> {
    Present {
        tunnel: Tunnel<'a>,
    },
    Ready,
    Opened {
        tunnel: Tunnel<'a>,
    },
    AgentConnected {
        agent: SocketAddr,
        #[serde(skip_serializing_if = "Option::is_none")]
        took_over: Option<SocketAddr>,
    },
    AgentLost {
        expire_time: Time,
        loss: &'static str,
    },
    ClientConnected {
        stream: u64,
        client: SocketAddr,
    },
    ClientEnded {
        stream: u64,
        client: SocketAddr,
        end: &'static str,
        bytes_to_agent: u64,
        bytes_to_client: u64,
        seconds: f64,
    },
    RequestEnded {
        client: SocketAddr,
        method: &'a str,
        host: &'a str,
        path: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        end: &'static str,
        bytes_to_agent: u64,
        bytes_to_client: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        first_byte_seconds: Option<f64>,
        seconds: f64,
    },
    RequestsMissed {
        missed: u64,
    },
    Closed {
        reason: &'static str,
    },
    Lagged {
        missed: u64,
    },
    /// Of a later version than ours.
    Unknown,
}

/// One line.
pub(crate) fn line(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map(|line| line + "\n").map_err(|error| Failure::new(error.to_string()))
}

impl<'a> From<&'a TunnelInfo> for Tunnel<'a> {
    fn from(info: &'a TunnelInfo) -> Self {
        Self {
            id: info.id.as_str(),
            name: info.name.as_ref().map(tunnel_api::TunnelName::as_str),
            addresses: info.addresses.iter().map(ToString::to_string).collect(),
            backend: &info.backend,
            state: match info.state {
                TunnelState::Waiting => "waiting",
                TunnelState::Online => "online",
                TunnelState::Offline => "offline",
            },
            sessions: info.sessions,
            streams: info.streams,
            bytes_to_agent: info.bytes_to_agent,
            bytes_to_client: info.bytes_to_client,
            strangers: info.strangers,
            refused_clients: info.refused_clients,
            open_time: Time(info.open_time),
            expire_time: info.expire_time.map(Time),
            labels: &info.labels,
        }
    }
}

impl<'a> From<&'a TunnelEvent> for Event<'a> {
    fn from(event: &'a TunnelEvent) -> Self {
        let id = event.tunnel.as_ref().map(tunnel_api::TunnelId::as_str);
        Self { time: Time(event.time), id, what: Happened::from(&event.what) }
    }
}

impl<'a> From<&'a What> for Happened<'a> {
    fn from(what: &'a What) -> Self {
        match what {
            What::Present(info) => Self::Present { tunnel: Tunnel::from(&**info) },
            What::Ready => Self::Ready,
            What::Opened(info) => Self::Opened { tunnel: Tunnel::from(&**info) },
            What::AgentConnected { agent, took_over } => Self::AgentConnected { agent: *agent, took_over: *took_over },
            What::AgentLost { expire_time, loss } => {
                Self::AgentLost { expire_time: Time(*expire_time), loss: loss_name(*loss) }
            }
            What::ClientConnected { stream, client } => Self::ClientConnected { stream: *stream, client: *client },
            What::ClientEnded { stream, client, end, bytes_to_agent, bytes_to_client, duration } => Self::ClientEnded {
                stream: *stream,
                client: *client,
                end: end_name(*end),
                bytes_to_agent: *bytes_to_agent,
                bytes_to_client: *bytes_to_client,
                seconds: duration.as_secs_f64(),
            },
            What::RequestEnded(request) => Self::RequestEnded {
                client: request.client,
                method: &request.method,
                host: &request.host,
                path: &request.path,
                status: request.status,
                end: end_name(request.end),
                bytes_to_agent: request.bytes_to_agent,
                bytes_to_client: request.bytes_to_client,
                first_byte_seconds: request.first_byte.map(|time| time.as_secs_f64()),
                seconds: request.duration.as_secs_f64(),
            },
            What::RequestsMissed { missed } => Self::RequestsMissed { missed: *missed },
            What::Closed { reason } => Self::Closed { reason: reason_name(*reason) },
            What::Lagged { missed } => Self::Lagged { missed: *missed },
            _ => Self::Unknown,
        }
    }
}

fn loss_name(loss: AgentLoss) -> &'static str {
    match loss {
        AgentLoss::HungUp => "hung_up",
        AgentLoss::Silent => "silent",
        AgentLoss::Misbehaved => "misbehaved",
    }
}

fn end_name(end: StreamEnd) -> &'static str {
    match end {
        StreamEnd::Finished => "finished",
        StreamEnd::AbortedByClient => "aborted_by_client",
        StreamEnd::AbortedByAgent => "aborted_by_agent",
        StreamEnd::Stalled => "stalled",
        StreamEnd::TunnelClosed => "tunnel_closed",
    }
}

fn reason_name(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Requested => "requested",
        CloseReason::NotDialled => "not_dialled",
        CloseReason::Done => "done",
        CloseReason::AgentLost => "agent_lost",
        CloseReason::Shutdown => "shutdown",
        CloseReason::Revoked => "revoked",
    }
}

/// RFC 3339.
#[derive(Debug)]
struct Time(SystemTime);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&units::milliseconds(self.0))
    }
}
