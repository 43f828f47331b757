//! What it should come to. Each goal is one line: a reading of one of ours, and what it is held against.

use std::fmt::{self, Write as _};

use crate::{results::Results, subject::Subject, table::number};

/// A reading of ours and its bound.
#[derive(Debug, Clone, Copy)]
pub struct Goal {
    /// Whose.
    pub subject: Subject,
    /// Of what.
    pub reading: &'static str,
    /// Whether the bound is below or above.
    pub bound: Bound,
    /// How many times what it is held against.
    pub times: f64,
    /// What it is held against.
    pub against: Against,
    /// How many times that would be very good.
    pub stretch: Option<f64>,
}

/// On which side of the bound it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// That or more.
    AtLeast,
    /// That or less.
    AtMost,
}

/// What a reading is held against.
#[derive(Debug, Clone, Copy)]
pub enum Against {
    /// What this subject has in the same reading.
    Same(Subject),
    /// What this subject has in that reading.
    Other(Subject, &'static str),
    /// What the best of the peers has in the same reading.
    BestPeer,
    /// One of what the reading is in.
    Unit,
}

/// How a goal stands.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// The reading's median.
    pub measured: f64,
    /// How many times what it is held against that is.
    pub times: f64,
    /// Whether it is reached.
    pub is_reached: bool,
}

impl Goal {
    /// How it stands, if both have been measured.
    pub fn standing(&self, results: &Results) -> Option<Standing> {
        let measured = results.median(self.reading, self.subject)?;
        let against = match self.against {
            Against::Same(subject) => results.median(self.reading, subject)?,
            Against::Other(subject, reading) => results.median(reading, subject)?,
            Against::BestPeer => results.best_peer(self.reading)?,
            Against::Unit => 1.0,
        };
        let times = measured / against;
        let is_reached = match self.bound {
            Bound::AtLeast => times >= self.times,
            Bound::AtMost => times <= self.times,
        };
        Some(Standing { measured, times, is_reached })
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.bound == Bound::AtLeast { '≥' } else { '≤' };
        write!(f, "{} {} {sign} {}", self.subject, self.reading, self.times)?;
        match self.against {
            Against::Same(subject) => write!(f, " × {subject}"),
            Against::Other(subject, reading) => write!(f, " × {subject} {reading}"),
            Against::BestPeer => f.write_str(" × best peer"),
            Against::Unit => Ok(()),
        }
    }
}

/// All goals, what was measured, and whether they are reached.
pub fn report(results: &Results) -> String {
    let mut text = format!("\n{:<45} {:>9} {:>9} {:>9}\n", "goal", "measured", "times", "stretch");
    for goal in GOALS {
        let stretch = goal.stretch.map_or_else(|| "–".to_owned(), |stretch| stretch.to_string());
        // Writing to a string does not fail.
        let _ = match goal.standing(results) {
            Some(standing) => {
                let word = if standing.is_reached { "pass" } else { "FAIL" };
                let (measured, times) = (number(standing.measured), number(standing.times));
                writeln!(text, "{:<45} {measured:>9} {times:>9} {stretch:>9}  {word}", goal.to_string())
            }
            None => writeln!(text, "{:<45} {:>9} {:>9} {stretch:>9}  not measured", goal.to_string(), "–", "–"),
        };
    }
    text
}

const fn goal(subject: Subject, reading: &'static str, bound: Bound, times: f64, against: Against) -> Goal {
    Goal { subject, reading, bound, times, against, stretch: None }
}

impl Goal {
    const fn stretch(mut self, times: f64) -> Self {
        self.stretch = Some(times);
        self
    }
}

use Against::{BestPeer, Other, Same, Unit};
use Bound::{AtLeast, AtMost};
use Subject::{Direct, Http, Mux, NginxHttp, Rathole, Tcp};

/// In the order in which they were set. "As plain TCP" is within 5 % of it; others are unharmed where a ping beside them takes no
/// longer than half as long again; the window of a stream on a short path is 256 KiB; and a few descriptors are no connection's and
/// no tunnel's.
pub const GOALS: &[Goal] = &[
    goal(Tcp, "down-1", AtLeast, 1.8, Same(Rathole)).stretch(2.4),
    goal(Tcp, "down-1", AtLeast, 1.0, BestPeer),
    goal(Mux, "down-1", AtLeast, 0.75, Same(Rathole)).stretch(1.0),
    goal(Tcp, "up-1", AtLeast, 1.8, Same(Rathole)).stretch(2.4),
    goal(Tcp, "up-1", AtLeast, 1.0, BestPeer),
    goal(Mux, "up-1", AtLeast, 0.75, Same(Rathole)).stretch(1.0),
    goal(Tcp, "down-8", AtLeast, 2.0, Same(Rathole)).stretch(2.8),
    goal(Tcp, "down-8", AtLeast, 1.8, BestPeer),
    goal(Mux, "down-8", AtLeast, 0.75, Same(Rathole)).stretch(1.0),
    goal(Tcp, "up-8", AtLeast, 2.0, Same(Rathole)).stretch(2.8),
    goal(Tcp, "up-8", AtLeast, 1.8, BestPeer),
    goal(Mux, "up-8", AtLeast, 0.75, Same(Rathole)).stretch(1.0),
    goal(Tcp, "down-64", AtLeast, 1.2, BestPeer).stretch(1.8),
    goal(Mux, "down-64", AtLeast, 0.7, Same(Rathole)).stretch(0.9),
    goal(Tcp, "up-64", AtLeast, 1.2, BestPeer).stretch(1.8),
    goal(Mux, "up-64", AtLeast, 0.7, Same(Rathole)).stretch(0.9),
    goal(Tcp, "down-1-cpu", AtMost, 0.30, Same(Rathole)).stretch(0.12),
    goal(Tcp, "down-1-cpu", AtMost, 0.50, BestPeer),
    goal(Mux, "down-1-cpu", AtMost, 1.3, Same(Rathole)).stretch(1.0),
    goal(Tcp, "down-8-cpu", AtMost, 0.30, Same(Rathole)).stretch(0.12),
    goal(Tcp, "down-8-cpu", AtMost, 0.50, BestPeer),
    goal(Mux, "down-8-cpu", AtMost, 1.3, Same(Rathole)).stretch(1.0),
    goal(Tcp, "up-1-cpu", AtMost, 0.30, Same(Rathole)).stretch(0.12),
    goal(Tcp, "up-1-cpu", AtMost, 0.50, BestPeer),
    goal(Mux, "up-1-cpu", AtMost, 1.3, Same(Rathole)).stretch(1.0),
    goal(Tcp, "up-8-cpu", AtMost, 0.30, Same(Rathole)).stretch(0.12),
    goal(Tcp, "up-8-cpu", AtMost, 0.50, BestPeer),
    goal(Mux, "up-8-cpu", AtMost, 1.3, Same(Rathole)).stretch(1.0),
    goal(Tcp, "beside-1-p99", AtMost, 1.0, Same(Rathole)),
    goal(Mux, "beside-1-p99", AtMost, 1.5, Unit).stretch(0.9),
    goal(Tcp, "beside-8-p99", AtMost, 1.0, Same(Rathole)).stretch(0.5),
    goal(Mux, "beside-8-p99", AtMost, 8.0, Unit).stretch(5.0),
    goal(Mux, "beside-8-p99", AtMost, 0.3, Same(Rathole)),
    goal(Tcp, "pinned-p50", AtMost, 1.1, Same(Rathole)).stretch(0.9),
    goal(Mux, "pinned-p50", AtMost, 1.5, Same(Rathole)).stretch(1.2),
    goal(Tcp, "calls-32", AtLeast, 1.1, Same(Rathole)).stretch(1.3),
    goal(Mux, "calls-32", AtLeast, 1.2, Same(Rathole)).stretch(1.3),
    goal(Tcp, "web", AtLeast, 1.0, BestPeer).stretch(1.2),
    goal(Mux, "web", AtLeast, 0.8, Same(Rathole)).stretch(1.0),
    goal(Http, "web", AtLeast, 1.0, Same(NginxHttp)).stretch(1.3),
    goal(Http, "web-p99", AtMost, 1.0, Same(NginxHttp)),
    goal(Tcp, "idle-5000-server", AtMost, 4.0, Unit).stretch(2.0),
    goal(Tcp, "idle-5000-server-files", AtMost, 2.05, Unit),
    goal(Tcp, "idle-5000-agent", AtMost, 4.0, Unit).stretch(2.0),
    goal(Tcp, "idle-5000-agent-files", AtMost, 2.05, Unit),
    goal(Mux, "idle-1000-server", AtMost, 6.0, Unit).stretch(4.0),
    goal(Mux, "idle-1000-agent", AtMost, 6.0, Unit).stretch(4.0),
    goal(Tcp, "tunnels-5000-server", AtMost, 12.0, Unit).stretch(8.0),
    goal(Tcp, "tunnels-5000-server-files", AtMost, 3.05, Unit),
    goal(Mux, "tunnels-5000-server", AtMost, 24.0, Unit).stretch(16.0),
    goal(Tcp, "path-1", AtLeast, 0.95, Same(Direct)),
    goal(Mux, "path-1", AtLeast, 0.9, Same(Direct)).stretch(0.95),
    goal(Tcp, "path-8", AtLeast, 0.95, Same(Direct)),
    // The agent holds one session unless it is told otherwise.
    goal(Mux, "path-8", AtLeast, 0.8, Other(Direct, "path-1")),
    goal(Tcp, "stalled-server", AtMost, 2.0, Unit),
    goal(Tcp, "stalled-agent", AtMost, 2.0, Unit),
    goal(Tcp, "stalled-ping", AtMost, 1.5, Unit),
    goal(Mux, "stalled-server", AtMost, 1.0, Unit),
    goal(Mux, "stalled-agent", AtMost, 1.0, Unit),
    goal(Mux, "stalled-ping", AtMost, 1.5, Unit),
    goal(Tcp, "fairness-8", AtLeast, 0.97, Unit),
    goal(Mux, "fairness-8", AtLeast, 0.99, Unit),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Reading, Unit};

    #[test]
    fn a_goal_is_reached_on_its_side_of_the_bound() {
        let mut results = Results::default();
        let mut add = |subject, name: &str, unit, value| {
            results.add(subject, Reading { name: name.to_owned(), unit, value });
        };
        add(Tcp, "down-1", Unit::GibPerSecond, 3.0);
        add(Rathole, "down-1", Unit::GibPerSecond, 1.5);
        add(Mux, "beside-8-p99", Unit::Milliseconds, 9.0);
        results.sum_up();
        let standing = |at: usize| GOALS[at].standing(&results).map(|standing| standing.is_reached);
        assert_eq!(standing(0), Some(true), "{}", GOALS[0]);
        let in_ms = |goal: &&Goal| goal.reading == "beside-8-p99" && matches!(goal.against, Against::Unit);
        let in_ms = GOALS.iter().find(in_ms).unwrap();
        assert!(!in_ms.standing(&results).unwrap().is_reached, "{in_ms}");
        let unmeasured = GOALS.iter().find(|goal| goal.reading == "web").unwrap();
        assert!(unmeasured.standing(&results).is_none());
    }
}
