//! Between the messages of `tunnel.v1` and the values of this crate, both ways side by side so that they stay inverse.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;

use super::v1;
use crate::{
    AgentLoss, Carry, CloseReason, OpenTunnel, OpenedTunnel, RequestEnded, StreamEnd, TunnelError, TunnelEvent,
    TunnelInfo, TunnelName, TunnelState, What, canonical_network,
};

/// A peer broke the contract of the .proto. Only a client meets this: a server's own refusals name the field.
#[derive(Debug, thiserror::Error)]
#[error("the server's answer has no valid {0}")]
pub(super) struct Malformed(&'static str);

// ---- OpenTunnel ----

pub(super) fn open_request(request: v1::OpenTunnelRequest) -> Result<OpenTunnel, TunnelError> {
    let dial_within = request
        .dial_within
        .map(|d| Duration::try_from(d).map_err(|_| TunnelError::invalid("dial_within", "must not be negative")))
        .transpose()?;
    let wanted = OpenTunnel {
        backend: non_empty(request.backend),
        address: field("address", &request.address)?,
        name: non_empty(request.name).map(|name| field("name", &name)).transpose()?,
        connections: (request.connections != 0).then_some(request.connections),
        proxy_protocol: request.proxy_protocol,
        dial_within,
        carry: carry(request.carry)?,
        dial_from: networks("dial_from", &request.dial_from)?,
        client_allow: networks("client_allow", &request.client_allow)?,
        client_deny: networks("client_deny", &request.client_deny)?,
        caller_address: non_empty(request.caller_address).map(|ip| field("caller_address", &ip)).transpose()?,
        labels: request.labels.into_iter().collect(),
    };
    wanted.check_bounds()?;
    Ok(wanted)
}

pub(super) fn into_open_request(wanted: OpenTunnel) -> v1::OpenTunnelRequest {
    v1::OpenTunnelRequest {
        backend: wanted.backend.unwrap_or_default(),
        address: wanted.address.to_string(),
        name: wanted.name.map(|name| name.to_string()).unwrap_or_default(),
        connections: wanted.connections.unwrap_or_default(),
        carry: wanted.carry.map_or(v1::Carry::Unspecified, into_carry).into(),
        proxy_protocol: wanted.proxy_protocol,
        dial_within: wanted.dial_within.and_then(|d| d.try_into().ok()),
        dial_from: texts(&wanted.dial_from),
        client_allow: texts(&wanted.client_allow),
        client_deny: texts(&wanted.client_deny),
        caller_address: wanted.caller_address.map(|ip| ip.to_string()).unwrap_or_default(),
        labels: wanted.labels.into_iter().collect(),
    }
}

pub(super) fn open_response(opened: &OpenedTunnel) -> v1::OpenTunnelResponse {
    v1::OpenTunnelResponse {
        id: opened.id.to_string(),
        uri: opened.uri.expose().to_owned(),
        address: opened.address.to_string(),
        dial_by: Some(opened.dial_by.into()),
        dial_from: texts(&opened.dial_from),
        connections: opened.connections,
        carry: into_carry(opened.carry).into(),
        client_allow: texts(&opened.client_allow),
        client_deny: texts(&opened.client_deny),
    }
}

pub(super) fn from_open_response(answer: &v1::OpenTunnelResponse) -> Result<OpenedTunnel, Malformed> {
    Ok(OpenedTunnel {
        id: valid("id", &answer.id)?,
        uri: valid("uri", &answer.uri)?,
        address: valid("address", &answer.address)?,
        dial_by: time("dial_by", answer.dial_by)?,
        dial_from: valid_all("dial_from", &answer.dial_from)?,
        connections: answer.connections,
        client_allow: valid_all("client_allow", &answer.client_allow)?,
        client_deny: valid_all("client_deny", &answer.client_deny)?,
        // A server that does not say knows of connections only.
        carry: carry(answer.carry).map_err(|_| Malformed("carry"))?.unwrap_or(Carry::Connections),
    })
}

fn carry(carry: i32) -> Result<Option<Carry>, TunnelError> {
    match v1::Carry::try_from(carry) {
        Ok(v1::Carry::Unspecified) => Ok(None),
        Ok(v1::Carry::Requests) => Ok(Some(Carry::Requests)),
        Ok(v1::Carry::Connections) => Ok(Some(Carry::Connections)),
        Err(_) => Err(TunnelError::invalid("carry", "not one that this server knows")),
    }
}

fn into_carry(carry: Carry) -> v1::Carry {
    match carry {
        Carry::Requests => v1::Carry::Requests,
        Carry::Connections => v1::Carry::Connections,
    }
}

// ---- TunnelInfo ----

pub(super) fn tunnel_info(info: TunnelInfo) -> v1::TunnelInfo {
    v1::TunnelInfo {
        id: info.id.to_string(),
        name: info.name.map(|name| name.to_string()).unwrap_or_default(),
        addresses: info.addresses.iter().map(ToString::to_string).collect(),
        backend: info.backend,
        state: state(info.state).into(),
        sessions: info.sessions,
        streams: info.streams,
        bytes_to_agent: info.bytes_to_agent,
        bytes_to_client: info.bytes_to_client,
        strangers: info.strangers,
        refused_clients: info.refused_clients,
        open_time: Some(info.open_time.into()),
        expire_time: info.expire_time.map(Into::into),
        labels: info.labels.into_iter().collect(),
    }
}

pub(super) fn from_tunnel_info(info: v1::TunnelInfo) -> Result<TunnelInfo, Malformed> {
    let name: Option<TunnelName> = non_empty(info.name.clone()).map(|name| valid("name", &name)).transpose()?;
    Ok(TunnelInfo {
        id: valid("id", &info.id)?,
        name,
        addresses: info.addresses.iter().map(|a| valid("addresses", a)).collect::<Result<_, _>>()?,
        state: from_state(info.state())?,
        backend: info.backend,
        sessions: info.sessions,
        streams: info.streams,
        bytes_to_agent: info.bytes_to_agent,
        bytes_to_client: info.bytes_to_client,
        strangers: info.strangers,
        refused_clients: info.refused_clients,
        open_time: time("open_time", info.open_time)?,
        expire_time: info.expire_time.map(|t| time("expire_time", Some(t))).transpose()?,
        labels: info.labels.into_iter().collect(),
    })
}

fn state(state: TunnelState) -> v1::TunnelState {
    match state {
        TunnelState::Waiting => v1::TunnelState::Waiting,
        TunnelState::Online => v1::TunnelState::Online,
        TunnelState::Offline => v1::TunnelState::Offline,
    }
}

fn from_state(state: v1::TunnelState) -> Result<TunnelState, Malformed> {
    match state {
        v1::TunnelState::Waiting => Ok(TunnelState::Waiting),
        v1::TunnelState::Online => Ok(TunnelState::Online),
        v1::TunnelState::Offline => Ok(TunnelState::Offline),
        v1::TunnelState::Unspecified => Err(Malformed("state")),
    }
}

// ---- events ----

pub(super) fn event(event: TunnelEvent) -> v1::WatchTunnelsResponse {
    use v1::watch_tunnels_response::Event;
    let what = match event.what {
        What::Present(info) => Event::Present(tunnel_info(*info)),
        What::Ready => Event::Ready(v1::Ready {}),
        What::Opened(info) => Event::Opened(tunnel_info(*info)),
        What::AgentConnected { agent, took_over } => Event::AgentConnected(v1::AgentConnected {
            agent: agent.to_string(),
            took_over: took_over.map(|addr| addr.to_string()).unwrap_or_default(),
        }),
        What::AgentLost { expire_time, loss } => {
            Event::AgentLost(v1::AgentLost { expire_time: Some(expire_time.into()), loss: agent_loss(loss).into() })
        }
        What::ClientConnected { stream, client } => {
            Event::ClientConnected(v1::ClientConnected { stream, client: client.to_string() })
        }
        What::ClientEnded { stream, client, end, bytes_to_agent, bytes_to_client, duration } => {
            Event::ClientEnded(v1::ClientEnded {
                stream,
                client: client.to_string(),
                end: stream_end(end).into(),
                bytes_to_agent,
                bytes_to_client,
                duration: duration.try_into().ok(),
            })
        }
        What::RequestEnded(request) => Event::RequestEnded(request_ended(*request)),
        What::RequestsMissed { missed } => Event::RequestsMissed(v1::RequestsMissed { missed }),
        What::Closed { reason } => Event::Closed(v1::Closed { reason: close_reason(reason).into() }),
        What::Lagged { missed } => Event::Lagged(v1::Lagged { missed }),
    };
    v1::WatchTunnelsResponse {
        time: Some(event.time.into()),
        id: event.tunnel.map(|id| id.to_string()).unwrap_or_default(),
        event: Some(what),
    }
}

pub(super) fn from_event(event: v1::WatchTunnelsResponse) -> Result<TunnelEvent, Malformed> {
    use v1::watch_tunnels_response::Event;
    let what = match event.event.ok_or(Malformed("event"))? {
        Event::Present(info) => What::Present(Box::new(from_tunnel_info(info)?)),
        Event::Ready(_) => What::Ready,
        Event::Opened(info) => What::Opened(Box::new(from_tunnel_info(info)?)),
        Event::AgentConnected(e) => What::AgentConnected {
            agent: valid("agent", &e.agent)?,
            took_over: if e.took_over.is_empty() { None } else { Some(valid("took_over", &e.took_over)?) },
        },
        Event::AgentLost(e) => {
            What::AgentLost { expire_time: time("expire_time", e.expire_time)?, loss: from_agent_loss(e.loss()) }
        }
        Event::ClientConnected(e) => What::ClientConnected { stream: e.stream, client: socket(&e.client)? },
        Event::ClientEnded(e) => What::ClientEnded {
            stream: e.stream,
            client: socket(&e.client)?,
            end: from_stream_end(e.end())?,
            bytes_to_agent: e.bytes_to_agent,
            bytes_to_client: e.bytes_to_client,
            duration: e.duration.and_then(|d| d.try_into().ok()).ok_or(Malformed("duration"))?,
        },
        Event::RequestEnded(e) => What::RequestEnded(Box::new(from_request_ended(e)?)),
        Event::RequestsMissed(e) => What::RequestsMissed { missed: e.missed },
        Event::Closed(e) => What::Closed { reason: from_close_reason(e.reason())? },
        Event::Lagged(e) => What::Lagged { missed: e.missed },
    };
    let tunnel = non_empty(event.id).map(|id| valid("id", &id)).transpose()?;
    Ok(TunnelEvent { time: time("time", event.time)?, tunnel, what })
}

fn request_ended(request: RequestEnded) -> v1::RequestEnded {
    v1::RequestEnded {
        client: request.client.to_string(),
        method: request.method,
        host: request.host,
        path: request.path,
        status: request.status.map(u32::from).unwrap_or_default(),
        end: stream_end(request.end).into(),
        bytes_to_agent: request.bytes_to_agent,
        bytes_to_client: request.bytes_to_client,
        first_byte: request.first_byte.and_then(|d| d.try_into().ok()),
        duration: request.duration.try_into().ok(),
    }
}

fn from_request_ended(request: v1::RequestEnded) -> Result<RequestEnded, Malformed> {
    let status = u16::try_from(request.status).map_err(|_| Malformed("status"))?;
    Ok(RequestEnded {
        client: socket(&request.client)?,
        end: from_stream_end(request.end())?,
        method: request.method,
        host: request.host,
        path: request.path,
        status: (status != 0).then_some(status),
        bytes_to_agent: request.bytes_to_agent,
        bytes_to_client: request.bytes_to_client,
        first_byte: request.first_byte.and_then(|d| d.try_into().ok()),
        duration: request.duration.and_then(|d| d.try_into().ok()).ok_or(Malformed("duration"))?,
    })
}

fn stream_end(end: StreamEnd) -> v1::StreamEnd {
    match end {
        StreamEnd::Finished => v1::StreamEnd::Finished,
        StreamEnd::AbortedByClient => v1::StreamEnd::AbortedByClient,
        StreamEnd::AbortedByAgent => v1::StreamEnd::AbortedByAgent,
        StreamEnd::Stalled => v1::StreamEnd::Stalled,
        StreamEnd::TunnelClosed => v1::StreamEnd::TunnelClosed,
    }
}

fn from_stream_end(end: v1::StreamEnd) -> Result<StreamEnd, Malformed> {
    match end {
        v1::StreamEnd::Finished => Ok(StreamEnd::Finished),
        v1::StreamEnd::AbortedByClient => Ok(StreamEnd::AbortedByClient),
        v1::StreamEnd::AbortedByAgent => Ok(StreamEnd::AbortedByAgent),
        v1::StreamEnd::Stalled => Ok(StreamEnd::Stalled),
        v1::StreamEnd::TunnelClosed => Ok(StreamEnd::TunnelClosed),
        v1::StreamEnd::Unspecified => Err(Malformed("end")),
    }
}

fn close_reason(reason: CloseReason) -> v1::CloseReason {
    match reason {
        CloseReason::Requested => v1::CloseReason::Requested,
        CloseReason::NotDialled => v1::CloseReason::NotDialled,
        CloseReason::Done => v1::CloseReason::Done,
        CloseReason::AgentLost => v1::CloseReason::AgentLost,
        CloseReason::Shutdown => v1::CloseReason::Shutdown,
        CloseReason::Revoked => v1::CloseReason::Revoked,
    }
}

fn from_close_reason(reason: v1::CloseReason) -> Result<CloseReason, Malformed> {
    match reason {
        v1::CloseReason::Requested => Ok(CloseReason::Requested),
        v1::CloseReason::NotDialled => Ok(CloseReason::NotDialled),
        v1::CloseReason::Done => Ok(CloseReason::Done),
        v1::CloseReason::AgentLost => Ok(CloseReason::AgentLost),
        v1::CloseReason::Shutdown => Ok(CloseReason::Shutdown),
        v1::CloseReason::Revoked => Ok(CloseReason::Revoked),
        v1::CloseReason::Unspecified => Err(Malformed("reason")),
    }
}

fn agent_loss(loss: AgentLoss) -> v1::AgentLoss {
    match loss {
        AgentLoss::HungUp => v1::AgentLoss::HungUp,
        AgentLoss::Silent => v1::AgentLoss::Silent,
        AgentLoss::Misbehaved => v1::AgentLoss::Misbehaved,
    }
}

/// A server that does not say is one that only knows of ends.
fn from_agent_loss(loss: v1::AgentLoss) -> AgentLoss {
    match loss {
        v1::AgentLoss::HungUp | v1::AgentLoss::Unspecified => AgentLoss::HungUp,
        v1::AgentLoss::Silent => AgentLoss::Silent,
        v1::AgentLoss::Misbehaved => AgentLoss::Misbehaved,
    }
}

// ---- scalars ----

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// A field of a request: what is wrong with it goes back to the caller, what it held does not.
fn field<T: FromStr<Err: std::fmt::Display>>(name: &'static str, text: &str) -> Result<T, TunnelError> {
    text.parse().map_err(|error: T::Err| TunnelError::invalid(name, error.to_string()))
}

fn networks(field: &'static str, texts: &[String]) -> Result<Vec<IpNet>, TunnelError> {
    let network = |text: &String| text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let networks = texts.iter().map(|text| network(text).map(canonical_network)).collect::<Result<_, _>>();
    networks.map_err(|_| TunnelError::invalid(field, "write networks as 192.0.2.0/24 or plain addresses"))
}

fn texts(networks: &[IpNet]) -> Vec<String> {
    networks.iter().map(ToString::to_string).collect()
}

/// A field of an answer.
fn valid<T: FromStr>(name: &'static str, text: &str) -> Result<T, Malformed> {
    text.parse().map_err(|_| Malformed(name))
}

fn valid_all<T: FromStr>(name: &'static str, texts: &[String]) -> Result<Vec<T>, Malformed> {
    texts.iter().map(|text| valid(name, text)).collect()
}

fn socket(text: &str) -> Result<SocketAddr, Malformed> {
    valid("client", text)
}

fn time(name: &'static str, time: Option<prost_types::Timestamp>) -> Result<SystemTime, Malformed> {
    time.and_then(|t| t.try_into().ok()).ok_or(Malformed(name))
}
