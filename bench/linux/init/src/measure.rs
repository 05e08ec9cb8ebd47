//! Cases of the suite as requests to the module, and how long a sample of each is.
//!
//! Plans, sample counts and lengths are those of `quarry-suite` over Quarry's own allocator (its `measure` and
//! `workloads`), so that rows of both stand side by side. What the suite does beside, checks of every byte and footprints, is
//! not done here.

use anyhow::{Context, Result, bail};
use quarry_suite::dimensions::{EMPTY_SAMPLES, FIRST_TRY, FIXED_OPERATIONS, LATENCY_SAMPLES, WARM_UPS};
use quarry_suite::{
    Case, Effort, Feature, Latency, Phase, PhaseSamples, Platform, Row, Settings, Span, Summary, Variant, Workload,
};

use crate::loops::{Length, Limits, Loop, MEASURED, remote_frees};
use crate::machine::Machine;
use crate::module::{Answer, Calls, Kind, Request, Runner};

/// What Linux's allocators can do, as far as the module has loops for it.
const FEATURES: &[Feature] = &[
    Feature::Sizes,
    Feature::Large,
    Feature::Inlined,
    Feature::Nodes,
    Feature::Pages,
    Feature::Zeroed,
    Feature::Atomic,
    Feature::Bulk,
    Feature::Caches,
];

/// Threads of a request are new: their first sample is cold, however long ago its length was found.
const WARM_UPS_WHEN_TIMED: usize = 1;

/// Samples of a try at finding how many operations take how long. The shortest counts.
const TRIES: usize = 3;

/// Most operations of a sample that is to take a certain time: a loop faster than that is none.
const MOST_OPERATIONS: u64 = 1 << 30;

/// The names of [`MEASURED`].
pub(crate) fn names() -> String {
    MEASURED.iter().map(|workload| workload.name()).collect::<Vec<_>>().join(", ")
}

/// The cases to measure, in order.
pub(crate) fn plan(machine: Machine, settings: &Settings) -> Vec<Case> {
    let cases = quarry_suite::plan(machine, FEATURES, settings);
    cases.into_iter().filter(|case| MEASURED.contains(&case.workload)).collect()
}

/// Measures every case and hands its rows to `sink`. Timing no call at all takes `clock` ticks.
///
/// # Errors
///
/// When the module does not do it, or `sink` fails.
pub(crate) fn run(
    machine: Machine,
    runner: &mut impl Runner,
    clock: u64,
    settings: &Settings,
    cases: &[Case],
    sink: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<()> {
    let mut bench = Bench { machine, runner, settings, loops: Vec::new() };
    for &case in cases {
        let (operations, answer) = bench.measure(case, Kind::Bare, settings.samples.max(1))?;
        let calls = bench.calls(case)?;
        let mut failures = answer.failures;
        for (index, &phase) in case.phases().iter().enumerate() {
            let counted = settings.effort == Effort::Fixed;
            let samples = samples(case, &answer, index, operations, counted);
            let row = Row::of_samples(case, phase, operations * case.cpus as u64, samples);
            sink(Row {
                empty_ticks: bench.empty_ticks(case, index)?,
                remote_frees: remote_frees(case),
                latency: calls.as_ref().and_then(|calls| latency(calls, phase, clock)),
                errors: std::mem::take(&mut failures),
                ..row.expect("the module gave as many samples as asked for, which is one at least")
            })?;
        }
    }
    Ok(())
}

/// What the calls of a phase took, if there were any.
fn latency(calls: &Calls, phase: Phase, clock: u64) -> Option<Latency> {
    let calls = match phase {
        Phase::Allocate => calls.allocations.clone(),
        Phase::Free => calls.frees.clone(),
        Phase::Whole => calls.allocations.merged(&calls.frees),
    };
    (calls.count() > 0).then_some(Latency { calls, clock })
}

/// The samples of one phase in an answer: it has phase after phase, sample after sample, CPU after CPU.
fn samples(case: Case, answer: &Answer, phase: usize, operations: u64, counted: bool) -> PhaseSamples {
    let phases = case.phases().len();
    let of_cpu = answer.spans.len() / case.cpus;
    let mut samples = PhaseSamples::default();
    for at in (phase..of_cpu).step_by(phases) {
        let of_sample = answer.spans.iter().skip(at).step_by(of_cpu);
        samples.add(of_sample, operations * case.cpus as u64, counted);
    }
    samples
}

struct Bench<'a, R> {
    machine: Machine,
    runner: &'a mut R,
    settings: &'a Settings,
    /// What loops cost by themselves, phase by phase.
    loops: Vec<(Workload, Option<Variant>, Vec<f64>)>,
}

impl<R: Runner> Bench<'_, R> {
    /// Runs a case: operations of one CPU in one sample, and what came of it.
    fn measure(&mut self, case: Case, kind: Kind, samples: usize) -> Result<(u64, Answer)> {
        let (request, length) = self.request(case, kind)?;
        let granule = match length {
            Length::Fixed(operations) | Length::Granule(operations) => operations,
        };
        let (operations, warm_ups) = match (length, self.settings.effort) {
            (Length::Fixed(operations), _) => (operations, WARM_UPS),
            (Length::Granule(_), Effort::Fixed) => (FIXED_OPERATIONS.next_multiple_of(granule), WARM_UPS),
            (Length::Granule(_), Effort::Microseconds(target)) => {
                (self.calibrate(&request, granule, target)?, WARM_UPS_WHEN_TIMED)
            }
        };
        let answer = self.runner.run(&Request { operations, samples, warm_ups, ..request })?;
        let expected = samples * case.cpus * case.phases().len();
        if answer.spans.len() != expected {
            bail!("the module gave {} spans of {case}, not {expected}", answer.spans.len());
        }
        Ok((operations, answer))
    }

    /// What single calls took, in a pass of its own. By a clock that counts instructions they have no latency.
    fn calls(&mut self, case: Case) -> Result<Option<Calls>> {
        if !self.settings.latencies || self.settings.effort == Effort::Fixed {
            return Ok(None);
        }
        let (_, answer) = self.measure(case, Kind::Stamped, self.settings.samples.clamp(1, LATENCY_SAMPLES))?;
        Ok(answer.calls)
    }

    /// Finds how many operations take about that long: CPU 0 judges.
    fn calibrate(&mut self, request: &Request, granule: u64, microseconds: u64) -> Result<u64> {
        let target = (u128::from(microseconds) * u128::from(self.machine.tsc_hz()) / 1_000_000) as u64;
        let mut operations = FIRST_TRY.next_multiple_of(granule);
        loop {
            let tries = Request { operations, samples: TRIES, warm_ups: WARM_UPS_WHEN_TIMED, ..request.clone() };
            let of_cpu_0 = self.runner.run(&tries)?.spans.into_iter().take(TRIES);
            let elapsed = of_cpu_0.map(Span::ticks).min().unwrap_or(0).max(1);
            // Never more than eightfold at a time: caches grow with what they are used for.
            let factor = (target as f64 / elapsed as f64).min(8.0);
            let next = ((operations as f64 * factor) as u64).max(16).next_multiple_of(granule);
            if elapsed.saturating_mul(2) >= target || next > MOST_OPERATIONS {
                return Ok(next);
            }
            operations = next;
        }
    }

    /// What to ask of the module, for one sample of no length yet.
    fn request(&self, case: Case, kind: Kind) -> Result<(Request, Length)> {
        let bytes = self.machine.memory() / case.cpus as u64;
        let limits = Limits { bytes, blocks: self.settings.most_blocks };
        let found = Loop::of(case, limits).with_context(|| format!("the module has no loop for {case}"))?;
        let Loop { name: workload, size, order, count, length } = found;
        let (cpus, seed) = (case.cpus, self.settings.seed);
        let request =
            Request { workload, kind, size, order, count, cpus, operations: 0, samples: 1, warm_ups: 0, seed };
        Ok((request, length))
    }

    /// Ticks of an operation when nothing is allocated: measured once for each loop, on one CPU.
    fn empty_ticks(&mut self, case: Case, phase: usize) -> Result<f64> {
        let known = |(workload, variant, _): &&(Workload, Option<Variant>, Vec<f64>)| {
            (*workload, *variant) == (case.workload, case.variant)
        };
        if let Some((_, _, ticks)) = self.loops.iter().find(known) {
            return Ok(ticks[phase]);
        }
        let case = Case { cpus: 1, ..case };
        let (operations, answer) = self.measure(case, Kind::Empty, self.settings.samples.clamp(1, EMPTY_SAMPLES))?;
        let median = |index| {
            let mut costs = samples(case, &answer, index, operations, true).costs;
            Summary::of(&mut costs).expect("the module gave at least one sample, as asked for").median
        };
        let ticks: Vec<f64> = (0..case.phases().len()).map(median).collect();
        let of_phase = ticks[phase];
        self.loops.push((case.workload, case.variant, ticks));
        Ok(of_phase)
    }
}

#[cfg(test)]
mod tests;
