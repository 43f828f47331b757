//! The rounds of a run: in each one every measure is taken of every subject, one subject right after another, so that whatever
//! else the machine does meets all of them.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::{Path, PathBuf},
};

use crate::{
    measure::{Measure, Reading, Scale},
    results::Results,
    subject::{Running, Stage, Subject},
};

/// What is measured of whom.
#[derive(Debug)]
pub struct Plan {
    /// With their programs.
    pub subjects: Vec<(Subject, PathBuf)>,
    /// In this order.
    pub measures: Vec<Measure>,
    /// How much of each.
    pub scale: Scale,
    /// How many rounds.
    pub rounds: usize,
}

impl Plan {
    /// Carries it out. What fails is in the results, too.
    pub async fn carry_out(&self, stage: &Stage, results: &mut Results) {
        for round in 0..self.rounds {
            // Fresh ones in each round; within it they go on, as they would for their users.
            let mut running = BTreeMap::new();
            for &measure in &self.measures {
                for at in 0..self.subjects.len() {
                    // Nobody is always the first one.
                    let (subject, program) = &self.subjects[(at + round) % self.subjects.len()];
                    if !measure.applies_to(*subject) {
                        continue;
                    }
                    eprintln!("round {} of {}: {measure} of {subject}", round + 1, self.rounds);
                    match self.take(stage, measure, *subject, program, &mut running).await {
                        Ok(readings) => readings.into_iter().for_each(|reading| results.add(*subject, reading)),
                        Err(error) => {
                            let failure = format!("{measure} of {subject} in round {}: {error:#}", round + 1);
                            eprintln!("  failed: {failure}");
                            results.failures.push(failure);
                            running.remove(subject);
                        }
                    }
                }
            }
        }
        results.sum_up();
    }

    async fn take(
        &self,
        stage: &Stage,
        measure: Measure,
        subject: Subject,
        program: &Path,
        running: &mut BTreeMap<Subject, Running>,
    ) -> anyhow::Result<Vec<Reading>> {
        if measure.wants_its_own() {
            let own = subject.start(stage, program, measure.far()).await?;
            return measure.take(stage, subject, &own, &self.scale).await;
        }
        let running = match running.entry(subject) {
            Entry::Occupied(running) => running.into_mut(),
            Entry::Vacant(place) => place.insert(subject.start(stage, program, None).await?),
        };
        measure.take(stage, subject, running, &self.scale).await
    }
}
