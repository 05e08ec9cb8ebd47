//! [`Side`]: all boots of one build, their rows ordered by case.

use std::collections::HashMap;

use quarry_record::{Measurement, Run};

use crate::case::{Case, Metric};
use crate::session::Session;
use crate::tables::hand_overs;

/// The boots of one build.
#[derive(Clone, Debug, Default)]
pub(crate) struct Side {
    /// Their `run` records.
    pub(crate) runs: Vec<Run>,
    /// The cases, in the order they came first.
    pub(crate) cases: Vec<Case>,
    /// For each case the rows of each boot that measured it.
    rows: HashMap<Case, Vec<(usize, Measurement)>>,
}

impl Side {
    /// Of runs in the order of their boots.
    pub(crate) fn new<'s>(sessions: impl IntoIterator<Item = &'s Session>) -> Self {
        let mut side = Self::default();
        for (boot, session) in sessions.into_iter().enumerate() {
            side.runs.extend(session.run.clone());
            for result in &session.results {
                let case = Case::from(result);
                let rows = side.rows.entry(case.clone()).or_default();
                if rows.is_empty() {
                    side.cases.push(case);
                }
                rows.push((boot, result.clone()));
            }
        }
        side
    }

    /// How often there was a boot.
    pub(crate) fn boots(&self) -> usize {
        self.runs.len()
    }

    /// The case's figures, boot by boot, without the boots that do not have any.
    pub(crate) fn figures(&self, case: &Case, metric: Metric) -> Vec<Vec<f64>> {
        let mut boots: Vec<(usize, Vec<f64>)> = Vec::new();
        for (boot, row) in self.rows.get(case).into_iter().flatten() {
            let figures = metric.figures(row);
            match boots.last_mut() {
                _ if figures.is_empty() => {}
                // Twice in one boot: more samples of the same.
                Some((last, all)) if last == boot => all.extend(figures),
                _ => boots.push((*boot, figures)),
            }
        }
        boots.into_iter().map(|(_, figures)| figures).collect()
    }

    /// The case's hand-overs of each boot that has any, in percent of its operations.
    pub(crate) fn hand_overs(&self, case: &Case) -> Vec<f64> {
        self.rows.get(case).into_iter().flatten().filter_map(|(_, row)| hand_overs(row)).collect()
    }

    /// Whether every boot counts instructions.
    pub(crate) fn counts_instructions(&self) -> bool {
        self.runs.iter().all(|run| run.icount)
    }
}
