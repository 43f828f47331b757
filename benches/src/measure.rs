//! What is measured. A measure puts load on one subject and gives readings, each of which has a name of its own
//! (`docs/performance.md` says what they are).

mod cost;
mod latency;
mod rates;

use std::{fmt, time::Duration};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{
    load::{Spell, Way},
    subject::{Far, Running, Stage, Subject},
};

/// One kind of load and what is read of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Measure {
    /// Bytes a second to the clients, the processor time they cost, and how evenly they are shared.
    Down,
    /// The same to the origin.
    Up,
    /// How long a byte and a kibibyte take there and back, with nothing else going on.
    Ping,
    /// The same for a byte, with all processes on one core.
    Pinned,
    /// The same beside bulk.
    Beside,
    /// Connections a second.
    Calls,
    /// Requests a second on connections that are kept.
    Web,
    /// What an idle connection costs.
    Idle,
    /// What an idle tunnel costs.
    Tunnels,
    /// What readers that have stopped cost, and what they do to others.
    Stalled,
    /// Bytes a second on a path of 50 ms between server and agent.
    Path,
}

impl Measure {
    /// All there are.
    pub const ALL: &[Self] = &[
        Self::Down,
        Self::Up,
        Self::Ping,
        Self::Pinned,
        Self::Beside,
        Self::Calls,
        Self::Web,
        Self::Idle,
        Self::Tunnels,
        Self::Stalled,
        Self::Path,
    ];

    /// Whether it says anything about that subject.
    pub fn applies_to(self, subject: Subject) -> bool {
        match self {
            Self::Web => true,
            _ if subject.is_web() => false,
            Self::Idle | Self::Stalled => subject != Subject::Direct,
            Self::Tunnels => matches!(subject, Subject::Tcp | Subject::Mux),
            _ => true,
        }
    }

    /// Whether it needs processes that have done nothing else: what they hold is looked at, or they are elsewhere.
    pub fn wants_its_own(self) -> bool {
        matches!(self, Self::Idle | Self::Tunnels | Self::Stalled | Self::Path)
    }

    /// How far apart server and agent are.
    pub fn far(self) -> Option<Far> {
        (self == Self::Path).then_some(Far::FIFTY_MS)
    }

    /// Takes it.
    ///
    /// # Errors
    /// If the subject does not do what it is for.
    pub async fn take(
        self,
        stage: &Stage,
        subject: Subject,
        running: &Running,
        scale: &Scale,
    ) -> anyhow::Result<Vec<Reading>> {
        match self {
            Self::Down => rates::bulk(stage, running, Way::Down, scale).await,
            Self::Up => rates::bulk(stage, running, Way::Up, scale).await,
            Self::Ping => latency::idle(running, scale).await,
            Self::Pinned => latency::pinned(stage, running, scale).await,
            Self::Beside => latency::beside(stage, running, scale).await,
            Self::Calls => rates::calls(running, scale).await,
            Self::Web => rates::web(running, scale).await,
            Self::Idle => cost::idle_connections(subject, running, scale).await,
            Self::Tunnels => cost::idle_tunnels(subject, running, scale).await,
            Self::Stalled => cost::stalled(stage, running, scale).await,
            Self::Path => rates::far(stage, running, scale).await,
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.to_possible_value().expect("none is hidden").get_name())
    }
}

/// How much of everything.
#[derive(Debug, Clone)]
pub struct Scale {
    /// For each reading.
    pub spell: Spell,
    /// On long paths windows have to grow first.
    pub far_warm_up: Duration,
    /// How long a crowd is idle before it is looked at.
    pub settle: Duration,
    /// How many bulk transfers at once, one after another.
    pub transfers: Vec<usize>,
    /// How many callers at once, likewise.
    pub callers: Vec<usize>,
    /// How many web clients.
    pub web_clients: usize,
    /// How many idle connections and idle tunnels, growing.
    pub crowds: Vec<usize>,
}

impl Scale {
    /// As the goals have it, with so long for each reading.
    pub fn full(time: Duration) -> Self {
        Self {
            spell: Spell { warm_up: (time / 4).min(Duration::from_secs(1)), time },
            far_warm_up: time.max(Duration::from_secs(3)),
            settle: Duration::from_secs(2),
            transfers: vec![1, 8, 64],
            callers: vec![1, 32],
            web_clients: 64,
            crowds: vec![1000, 5000],
        }
    }

    /// Enough to see that everything works, and not enough to say how fast it is.
    pub fn tiny() -> Self {
        let time = Duration::from_millis(50);
        Self {
            spell: Spell { warm_up: time, time },
            far_warm_up: Duration::from_millis(300),
            settle: Duration::from_millis(100),
            transfers: vec![1, 8],
            callers: vec![1, 4],
            web_clients: 4,
            crowds: vec![5, 20],
        }
    }
}

/// One number.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Of what.
    pub name: String,
    /// In what, and which way is better.
    pub unit: Unit,
    /// How much.
    pub value: f64,
}

impl Reading {
    fn new(name: impl Into<String>, unit: Unit, value: f64) -> Self {
        Self { name: name.into(), unit, value }
    }
}

/// What a reading is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Gibibytes a second.
    #[serde(rename = "GiB/s")]
    GibPerSecond,
    /// Mebibytes a second.
    #[serde(rename = "MiB/s")]
    MibPerSecond,
    /// Seconds of processor time for each gibibyte.
    #[serde(rename = "CPU s/GiB")]
    SecondsPerGib,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Things a second.
    #[serde(rename = "/s")]
    PerSecond,
    /// Kibibytes for each connection or tunnel.
    #[serde(rename = "KiB each")]
    KibEach,
    /// Descriptors for each connection or tunnel.
    #[serde(rename = "descriptors each")]
    DescriptorsEach,
    /// Mebibytes.
    #[serde(rename = "MiB")]
    Mib,
    /// How much longer something takes than before.
    #[serde(rename = "× before")]
    TimesBefore,
    /// Jain's index.
    #[serde(rename = "Jain")]
    Fairness,
}

impl Unit {
    /// Whether more is better.
    pub fn grows(self) -> bool {
        matches!(self, Self::GibPerSecond | Self::MibPerSecond | Self::PerSecond | Self::Fairness)
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * KIB;
const GIB: f64 = 1024.0 * MIB;
