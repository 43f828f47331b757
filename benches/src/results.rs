//! What was read over all rounds, and what it comes to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    machine::{congestion, cores},
    measure::{Reading, Unit},
    spread::median,
    subject::Subject,
};

/// All of a run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// Where it was.
    pub machine: Machine,
    /// Subjects that were left out, and why.
    pub left_out: BTreeMap<String, String>,
    /// What went wrong in a round: that subject has a reading less.
    pub failures: Vec<String>,
    /// A row for each reading's name and subject.
    pub rows: Vec<Row>,
}

/// What the numbers depend on.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// How many the run could use.
    pub cores: usize,
    /// Its version.
    pub kernel: String,
    /// The one of all sockets.
    pub congestion_control: String,
    /// As root or not.
    pub subjects_run_as_root: bool,
}

impl Machine {
    /// This one.
    pub fn here(subjects_run_as_root: bool) -> Self {
        let uname = rustix::system::uname();
        let kernel = format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy());
        Self { cores: cores::count(), kernel, congestion_control: congestion::control(), subjects_run_as_root }
    }
}

/// What one subject had in one reading.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    /// Of what.
    pub reading: String,
    /// In what.
    pub unit: Unit,
    /// Whose.
    pub subject: String,
    /// One for each round.
    pub values: Vec<f64>,
    /// The one in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// Its median over rathole's, if that has one.
    pub to_rathole: Option<f64>,
    /// Its median over that of the best peer, if there are peers.
    pub to_best_peer: Option<f64>,
}

impl Results {
    /// One more.
    pub fn add(&mut self, subject: Subject, reading: Reading) {
        let is_it = |row: &&mut Row| row.reading == reading.name && row.subject == subject.name();
        if let Some(row) = self.rows.iter_mut().find(is_it) {
            row.values.push(reading.value);
            return;
        }
        self.rows.push(Row {
            reading: reading.name,
            unit: reading.unit,
            subject: subject.name().to_owned(),
            values: vec![reading.value],
            median: 0.0,
            min: 0.0,
            max: 0.0,
            to_rathole: None,
            to_best_peer: None,
        });
    }

    /// Works out medians and ratios, when all readings are there.
    pub fn sum_up(&mut self) {
        for row in &mut self.rows {
            row.median = median(&row.values).unwrap_or_default();
            row.min = row.values.iter().copied().fold(f64::INFINITY, f64::min);
            row.max = row.values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        }
        for at in 0..self.rows.len() {
            let (reading, median) = (self.rows[at].reading.clone(), self.rows[at].median);
            let ratio = |other: Option<f64>| other.filter(|&other| other != 0.0).map(|other| median / other);
            self.rows[at].to_rathole = ratio(self.median(&reading, Subject::Rathole));
            self.rows[at].to_best_peer = ratio(self.best_peer(&reading));
        }
    }

    /// What a subject had in the middle.
    pub fn median(&self, reading: &str, subject: Subject) -> Option<f64> {
        self.rows.iter().find(|row| row.reading == reading && row.subject == subject.name()).map(|row| row.median)
    }

    /// What the best of the peers had. Those that pass requests only are peers of our front for requests, and compared with by
    /// name.
    pub fn best_peer(&self, reading: &str) -> Option<f64> {
        let peers = Subject::ALL.iter().filter(|subject| subject.is_peer() && !subject.is_web());
        let medians = peers.filter_map(|&peer| self.median(reading, peer));
        let grows = self.rows.iter().find(|row| row.reading == reading)?.unit.grows();
        medians.reduce(if grows { f64::max } else { f64::min })
    }

    /// The names of the readings, in the order in which they were first taken.
    pub fn readings(&self) -> Vec<(&str, Unit)> {
        let mut names: Vec<(&str, Unit)> = Vec::new();
        for row in &self.rows {
            if !names.iter().any(|(name, _)| *name == row.reading) {
                names.push((&row.reading, row.unit));
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(values: &[(Subject, &str, Unit, f64)]) -> Results {
        let mut results = Results::default();
        for &(subject, name, unit, value) in values {
            results.add(subject, Reading { name: name.to_owned(), unit, value });
        }
        results.sum_up();
        results
    }

    #[test]
    fn the_best_peer_has_most_of_what_is_good_and_least_of_what_is_not() {
        let results = results(&[
            (Subject::Tcp, "down-1", Unit::GibPerSecond, 4.0),
            (Subject::Rathole, "down-1", Unit::GibPerSecond, 1.0),
            (Subject::Bore, "down-1", Unit::GibPerSecond, 2.0),
            (Subject::Tcp, "ping-p50", Unit::Milliseconds, 1.0),
            (Subject::Rathole, "ping-p50", Unit::Milliseconds, 2.0),
            (Subject::Bore, "ping-p50", Unit::Milliseconds, 4.0),
        ]);
        assert_eq!(results.best_peer("down-1"), Some(2.0));
        assert_eq!(results.best_peer("ping-p50"), Some(2.0));
        let row = results.rows.iter().find(|row| row.subject == "tcp").unwrap();
        assert_eq!((row.to_rathole, row.to_best_peer), (Some(4.0), Some(2.0)));
    }

    #[test]
    fn rounds_add_up_to_one_row() {
        let each = [3.0, 1.0, 2.0].map(|value| (Subject::Mux, "calls-1", Unit::PerSecond, value));
        let results = results(&each);
        let [row] = &results.rows[..] else { panic!("{results:?}") };
        assert_eq!((row.median, row.min, row.max), (2.0, 1.0, 3.0));
        assert_eq!(row.to_rathole, None);
    }
}
