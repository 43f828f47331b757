//! What a server counts of itself, for whoever collects metrics. One for each server; its parts count into it.
//!
//! Nothing here is on the way of users' bytes: those are counted by the relay, and summed up when somebody asks
//! (`scrape`). Labels have few values, all known beforehand and there from the start, so that a count of
//! nothing reads 0; names, ids, hosts and addresses are never labels.

mod scrape;

use std::time::Duration;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use tunnel_api::{CloseReason, StreamEnd};

use crate::uplink::NoStream;

pub use scrape::OpenTunnels;

/// The counts of one server.
#[derive(Debug)]
pub struct Meters {
    tunnels_closed: Labelled,
    streams_ended: Labelled,
    clients_waiting: Gauge,
    clients_refused: Labelled,
    dial_ins_refused: Labelled,
    door_waiting: Gauge,
    door_refused: Labelled,
    door_idle: Gauge,
    door_idle_closed: Labelled,
    handshakes: Histogram,
    streams_taken: Histogram,
    requests: Family<[(&'static str, &'static str); 2], Counter>,
    requests_missed: Counter,
    answers: Histogram,
}

/// A counter for each value of one label.
type Labelled = Family<[(&'static str, &'static str); 1], Counter>;

impl Default for Meters {
    fn default() -> Self {
        let all = |label, values: &[&'static str]| {
            let family = Labelled::default();
            for value in values {
                drop(family.get_or_create(&[(label, *value)]));
            }
            family
        };
        let requests = Family::<_, Counter>::default();
        for (status, end) in STATUSES.into_iter().flat_map(|status| STREAM_ENDS.map(|end| (status, end))) {
            drop(requests.get_or_create(&[("status", status), ("end", stream_end(end))]));
        }
        Self {
            tunnels_closed: all("reason", &CLOSE_REASONS.map(close_reason)),
            streams_ended: all("end", &STREAM_ENDS.map(stream_end)),
            clients_waiting: Gauge::default(),
            clients_refused: all("reason", &ClientRefused::ALL.map(ClientRefused::label)),
            dial_ins_refused: all("reason", &DialInRefused::ALL.map(DialInRefused::label)),
            door_waiting: Gauge::default(),
            door_refused: all("reason", &DoorRefused::ALL.map(DoorRefused::label)),
            door_idle: Gauge::default(),
            door_idle_closed: all("reason", &IdleClosed::ALL.map(IdleClosed::label)),
            handshakes: Histogram::new(SECONDS),
            streams_taken: Histogram::new(SECONDS),
            requests,
            requests_missed: Counter::default(),
            answers: Histogram::new(SECONDS),
        }
    }
}

impl Meters {
    /// Shows them under their names.
    pub fn register(&self, to: &mut Registry) {
        to.register("tunnel_tunnels_closed", "Tunnels that have closed, by reason", self.tunnels_closed.clone());
        to.register("tunnel_streams_ended", "Streams that have ended, by how", self.streams_ended.clone());
        to.register("tunnel_clients_waiting", "Clients that wait for an agent", self.clients_waiting.clone());
        to.register(
            "tunnel_clients_refused",
            "Clients that were reset before an agent had them, by reason",
            self.clients_refused.clone(),
        );
        to.register(
            "tunnel_dial_ins_refused",
            "Dial-ins that were reset or turned away, by reason",
            self.dial_ins_refused.clone(),
        );
        to.register(
            "tunnel_door_waiting",
            "Connections at the one port that have not shown what they are",
            self.door_waiting.clone(),
        );
        to.register(
            "tunnel_door_refused",
            "Connections at the one port that went without having shown what they are, by reason",
            self.door_refused.clone(),
        );
        to.register(
            "tunnel_door_idle",
            "Connections of web clients at the one port that are between requests",
            self.door_idle.clone(),
        );
        to.register(
            "tunnel_door_idle_closed",
            "Connections at the one port that were closed between requests, by reason",
            self.door_idle_closed.clone(),
        );
        to.register_with_unit(
            "tunnel_agent_handshake",
            "From the accept of an agent's connection to its session (mux)",
            Unit::Seconds,
            self.handshakes.clone(),
        );
        to.register_with_unit(
            "tunnel_stream_opening",
            "From the accept of a client to an agent's having taken it",
            Unit::Seconds,
            self.streams_taken.clone(),
        );
        to.register(
            "tunnel_requests",
            "Requests of clients that have ended, by the class of their answer and by how",
            self.requests.clone(),
        );
        to.register_with_unit(
            "tunnel_request_answer",
            "From a request's head to its answer's",
            Unit::Seconds,
            self.answers.clone(),
        );
        to.register(
            "tunnel_requests_missed",
            "Requests that were not told to somebody who watches them, because it was too slow",
            self.requests_missed.clone(),
        );
    }

    pub(crate) fn tunnel_closed(&self, reason: CloseReason) {
        self.tunnels_closed.get_or_create(&[("reason", close_reason(reason))]).inc();
    }

    pub(crate) fn stream_ended(&self, end: StreamEnd) {
        self.streams_ended.get_or_create(&[("end", stream_end(end))]).inc();
    }

    /// A client waits until the value is dropped.
    pub(crate) fn client_waits(&self) -> Waits {
        Waits::new(&self.clients_waiting)
    }

    pub(crate) fn client_refused(&self, why: ClientRefused) {
        self.clients_refused.get_or_create(&[("reason", why.label())]).inc();
    }

    pub(crate) fn dial_in_refused(&self, why: DialInRefused) {
        self.dial_ins_refused.get_or_create(&[("reason", why.label())]).inc();
    }

    /// A connection waits at the door until the value is dropped.
    pub(crate) fn waits_at_the_door(&self) -> Waits {
        Waits::new(&self.door_waiting)
    }

    pub(crate) fn door_refused(&self, why: DoorRefused) {
        self.door_refused.get_or_create(&[("reason", why.label())]).inc();
    }

    /// A web client's connection is between requests until the value is dropped.
    pub(crate) fn idles_at_the_door(&self) -> Waits {
        Waits::new(&self.door_idle)
    }

    pub(crate) fn idle_closed(&self, why: IdleClosed) {
        self.door_idle_closed.get_or_create(&[("reason", why.label())]).inc();
    }

    pub(crate) fn agent_joined(&self, after: Duration) {
        self.handshakes.observe(after.as_secs_f64());
    }

    pub(crate) fn stream_taken(&self, after: Duration) {
        self.streams_taken.observe(after.as_secs_f64());
    }

    pub(crate) fn request_ended(&self, status: Option<u16>, end: StreamEnd, answered_after: Option<Duration>) {
        let labels = [("status", status_class(status)), ("end", stream_end(end))];
        self.requests.get_or_create(&labels).inc();
        if let Some(after) = answered_after {
            self.answers.observe(after.as_secs_f64());
        }
    }

    pub(crate) fn request_missed(&self) {
        self.requests_missed.inc();
    }

    #[cfg(test)]
    pub(crate) fn requests_missed(&self) -> u64 {
        self.requests_missed.get()
    }
}

/// One that is counted as waiting, or as idle.
#[derive(Debug)]
pub(crate) struct Waits(Gauge);

impl Waits {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Why a client gets no agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientRefused {
    NoAgent,
    Retired,
    GaveUp,
    KeptOut,
    LimitReached,
}

impl ClientRefused {
    const ALL: [Self; 5] = [Self::NoAgent, Self::Retired, Self::GaveUp, Self::KeptOut, Self::LimitReached];

    pub(crate) fn of(reason: &NoStream) -> Self {
        match reason {
            NoStream::NoAgent => Self::NoAgent,
            NoStream::Retired => Self::Retired,
            NoStream::KeptOut => Self::KeptOut,
            NoStream::LimitReached(_) => Self::LimitReached,
        }
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::NoAgent => "no_agent",
            Self::Retired => "retired",
            Self::GaveUp => "gave_up",
            Self::KeptOut => "kept_out",
            Self::LimitReached => "limit_reached",
        }
    }
}

/// Why a dial-in is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DialInRefused {
    /// It is not from where this tunnel's agent may dial.
    Stranger,
    /// As many as may are there.
    Full,
}

impl DialInRefused {
    const ALL: [Self; 2] = [Self::Stranger, Self::Full];

    fn label(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::Full => "full",
        }
    }
}

/// Why a connection did not come in at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DoorRefused {
    /// It made room for another one.
    Evicted,
    /// It took too long.
    Timeout,
    /// It speaks nothing we know.
    Unknown,
    /// What it said has no end.
    TooLong,
    /// It speaks TLS, and not with us.
    Tls,
    /// It had to be encrypted, and is not.
    Plain,
    /// It went by itself.
    Gone,
}

impl DoorRefused {
    const ALL: [Self; 7] =
        [Self::Evicted, Self::Timeout, Self::Unknown, Self::TooLong, Self::Tls, Self::Plain, Self::Gone];

    fn label(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Timeout => "timeout",
            Self::Unknown => "unknown_protocol",
            Self::TooLong => "too_long",
            Self::Tls => "tls",
            Self::Plain => "plain",
            Self::Gone => "gone",
        }
    }
}

/// Why a connection is closed that made no more requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IdleClosed {
    /// It made room for another one.
    Evicted,
    /// It made none for too long.
    Timeout,
}

impl IdleClosed {
    const ALL: [Self; 2] = [Self::Evicted, Self::Timeout];

    fn label(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Timeout => "timeout",
        }
    }
}

/// As it is called in metrics and in the audit log.
pub(crate) fn close_reason(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Requested => "requested",
        CloseReason::NotDialled => "not_dialled",
        CloseReason::Done => "done",
        CloseReason::AgentLost => "agent_lost",
        CloseReason::Shutdown => "shutdown",
        CloseReason::Revoked => "revoked",
    }
}

/// As it is called in metrics and in the access log.
pub(crate) fn stream_end(end: StreamEnd) -> &'static str {
    match end {
        StreamEnd::Finished => "finished",
        StreamEnd::AbortedByClient => "aborted_by_client",
        StreamEnd::AbortedByAgent => "aborted_by_agent",
        StreamEnd::Stalled => "stalled",
        StreamEnd::TunnelClosed => "tunnel_closed",
    }
}

fn status_class(status: Option<u16>) -> &'static str {
    match status {
        Some(100..200) => "1xx",
        Some(200..300) => "2xx",
        Some(300..400) => "3xx",
        Some(400..500) => "4xx",
        Some(500..600) => "5xx",
        Some(_) => "other",
        None => "none",
    }
}

const STATUSES: [&str; 7] = ["1xx", "2xx", "3xx", "4xx", "5xx", "other", "none"];

const CLOSE_REASONS: [CloseReason; 6] = [
    CloseReason::Requested,
    CloseReason::NotDialled,
    CloseReason::Done,
    CloseReason::AgentLost,
    CloseReason::Shutdown,
    CloseReason::Revoked,
];

const STREAM_ENDS: [StreamEnd; 5] = [
    StreamEnd::Finished,
    StreamEnd::AbortedByClient,
    StreamEnd::AbortedByAgent,
    StreamEnd::Stalled,
    StreamEnd::TunnelClosed,
];

/// From what happens within this host to as long as anything may take.
pub const SECONDS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
