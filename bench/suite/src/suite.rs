//! The whole suite: every case of a plan measured, checked, and handed to whoever asked, row by row.

use alloc::vec::Vec;

use crate::case::{Case, Settings, Workload};
use crate::check::check;
use crate::measure::{Sampling, measure};
use crate::platform::Platform;
use crate::statistics::Summary;
use crate::subject::{Empty, Subject};

/// Samples of an empty loop.
const EMPTY_SAMPLES: usize = 21;

/// One row of results.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub case: Case,
    /// Which part of it, where it has parts.
    pub phase: Option<&'static str>,
    /// Operations of all samples and CPUs together. A pair is one; in a batch each allocation and each free is one.
    pub operations: u64,
    /// What an operation cost the CPU that did it, in ticks of the platform's clock, sample by sample as they were
    /// taken: the mean over the CPUs. Gross: the loop is in it.
    pub samples: Vec<f64>,
    /// The same, summarised.
    pub ticks: Summary,
    /// What the loop costs when it allocates nothing, in ticks per operation: the median on one CPU.
    pub empty_ticks: f64,
    /// What went wrong in the timed loops (failed allocations) and in the checking pass of the case (anything), counted
    /// with the first row of the case.
    pub errors: u64,
}

/// Whether there is a second node to ask for.
fn several_nodes(platform: impl Platform) -> bool {
    (0..platform.cpu_count()).any(|cpu| platform.remote_node(cpu).is_some())
}

/// The cases [`run`] will measure, in order.
pub fn plan(platform: impl Platform, settings: &Settings) -> Vec<Case> {
    settings.plan(platform.cpu_count(), several_nodes(platform))
}

/// How many rows the cases of a plan have together.
pub fn row_count(plan: &[Case]) -> usize {
    plan.iter().map(|case| case.phases().len()).sum()
}

/// Measures and checks every case of the plan; `sink` gets each row as soon as it is known.
pub fn run<P: Platform, S: Subject>(platform: P, subject: S, settings: &Settings, sink: &mut dyn FnMut(&Row)) {
    let sampling = Sampling { samples: settings.samples.max(1), effort: settings.effort, seed: settings.seed };
    let mut baselines = Baselines { platform, sampling, known: Vec::new() };
    for case in plan(platform, settings) {
        let errors = check(platform, subject, case, settings.seed);
        let Some(measured) = measure(platform, subject, case, sampling) else { continue };
        let mut errors = errors + measured.failures;
        for (index, (&phase, samples)) in case.phases().iter().zip(measured.phases).enumerate() {
            let Some(ticks) = Summary::of(&mut samples.clone()) else { continue };
            sink(&Row {
                case,
                phase,
                operations: measured.operations * (case.cpus * samples.len()) as u64,
                samples,
                ticks,
                empty_ticks: baselines.of(case, index),
                errors: core::mem::take(&mut errors),
            });
        }
    }
}

/// What the loops cost by themselves: measured once each, for it depends neither on the size nor on other CPUs.
struct Baselines<P> {
    platform: P,
    sampling: Sampling,
    known: Vec<(Workload, Vec<f64>)>,
}

impl<P: Platform> Baselines<P> {
    fn of(&mut self, case: Case, phase: usize) -> f64 {
        if !self.known.iter().any(|(workload, _)| *workload == case.workload) {
            let sampling = Sampling { samples: self.sampling.samples.min(EMPTY_SAMPLES), ..self.sampling };
            let measured = measure(self.platform, Empty, Case { cpus: 1, ..case }, sampling);
            let medians = measured.into_iter().flat_map(|measured| measured.phases).map(|mut samples| {
                // `measure` takes at least one sample.
                Summary::of(&mut samples).unwrap_or_default().median
            });
            self.known.push((case.workload, medians.collect()));
        }
        let known = self.known.iter().find(|(workload, _)| *workload == case.workload);
        known.and_then(|(_, medians)| medians.get(phase)).copied().unwrap_or_default()
    }
}
