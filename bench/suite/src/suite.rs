//! The whole suite: every case of a plan measured, checked, and handed to whoever asked, row by row.
//!
//! A case takes up to four passes over the same loops: one over [`Checked`], which finds errors and weighs memory; the
//! bare one, which is what is measured; one over [`Empty`], which is what the loop costs; and one [`Watched`] by
//! [`Stamps`], which time single calls, or by [`Relays`], which see CPUs hand over, where calls have no time of their own.

use alloc::vec::Vec;

use quarry_trace::Trace;

use crate::case::{Case, Extent, Phase, Variant, Workload};
use crate::checked::{Checked, Findings, Memory};
use crate::dimensions::{EMPTY_SAMPLES, FIXED_OPERATIONS, LATENCY_SAMPLES};
use crate::histogram::Histogram;
use crate::measure::{Footprint, Length, Run, Samples, Sampling};
use crate::platform::Platform;
use crate::random::MIX_MAXIMUM;
use crate::relayed::{Refusal, Relays, Turns, judge};
use crate::series::Series;
use crate::settings::{Effort, Means, Settings};
use crate::spans::PhaseSamples;
use crate::stamped::{Stamps, clock_cost};
use crate::statistics::Summary;
use crate::subject::{Empty, Feature, Locks, Subject};
use crate::watched::Watched;
use crate::workloads;

/// Samples of the pass that checks: the second is of used blocks.
const CHECKED_SAMPLES: usize = 2;

/// Most operations of a checked sample.
const CHECKED_OPERATIONS: u64 = 4096;

/// One row of results.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub case: Case,
    /// Which part of it, where it has parts.
    pub phase: Phase,
    /// Operations of all samples and CPUs together. A pair is one; in a batch each allocation and each free is one.
    pub operations: u64,
    /// What an operation cost the CPU that did it, in ticks of the platform's clock, sample by sample as they were
    /// taken: the mean over the CPUs. Gross: the loop is in it.
    pub samples: Vec<f64>,
    /// The same, summarised.
    pub ticks: Summary,
    /// What the loop costs when it allocates nothing, in ticks per operation: the median on one CPU.
    pub empty_ticks: f64,
    /// Operations a tick, of all CPUs together.
    pub operations_per_tick: Summary,
    /// How evenly the CPUs got on: Jain's index of their speeds, the median. `None` where but one works.
    pub fairness: Option<f64>,
    /// Of all frees, those on another CPU than the one that allocated, where that is known.
    pub remote_frees: Option<f64>,
    /// What single calls took, in ticks.
    pub latency: Option<Latency>,
    /// How often CPUs handed over, where several take turns; of as many operations as were measured, in a pass of its
    /// own.
    pub turns: Option<Turns>,
    /// How many samples were wanted, where they took so long that there are fewer.
    pub samples_wanted: Option<usize>,
    /// Why the figures are no good, though nothing went wrong. Counts as an error.
    pub refusal: Option<Refusal>,
    /// How often the allocator's locks were taken, in a million operations of all phases.
    pub locks: Option<LockRates>,
    /// What memory was held.
    pub footprint: Option<Footprint>,
    /// What was watched while the case ran: memory while it was checked, and what the workload itself watches while it
    /// was measured. With the first row of the case.
    pub series: Vec<Series>,
    /// What went wrong in the timed loops (failed allocations) and in the checking pass of the case (anything), counted
    /// with the first row of the case; and the row's own refusal.
    pub errors: u64,
}

impl Row {
    /// A row of samples, each of so many operations of all CPUs together. What else can be told of them is not known
    /// yet. `None` when there is no sample.
    pub fn of_samples(case: Case, phase: Phase, operations: u64, samples: PhaseSamples) -> Option<Self> {
        let PhaseSamples { costs, mut throughputs, mut fairness, .. } = samples;
        let all_work = case.cpus > 1 && case.all_work(phase);
        Some(Self {
            case,
            phase,
            operations: operations * costs.len() as u64,
            ticks: Summary::of(&mut costs.clone())?,
            samples: costs,
            empty_ticks: 0.0,
            operations_per_tick: Summary::of(&mut throughputs)?,
            fairness: Summary::of(&mut fairness).filter(|_| all_work).map(|fairness| fairness.median),
            remote_frees: None,
            latency: None,
            locks: None,
            footprint: None,
            series: Vec::new(),
            turns: None,
            samples_wanted: None,
            refusal: None,
            errors: 0,
        })
    }
}

/// What single calls took. Ticks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latency {
    /// The calls of the phase. Reading the clock is in each.
    pub calls: Histogram,
    /// What no call at all takes: the median.
    pub clock: u64,
}

/// Locks taken in a million operations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LockRates {
    /// Those of zones.
    pub zone: f64,
    /// Those of depots.
    pub depot: f64,
}

impl LockRates {
    fn of(locks: Locks, operations: u64) -> Self {
        let rate = |times: u32| f64::from(times) * 1e6 / operations as f64;
        Self { zone: rate(locks.zone), depot: rate(locks.depot) }
    }
}

/// Whether there is a second node to ask for.
fn several_nodes(platform: impl Platform) -> bool {
    (0..platform.cpu_count()).any(|cpu| platform.remote_node(cpu).is_some())
}

/// The cases [`run`] will measure over an allocator with those features, in order.
pub fn plan(platform: impl Platform, features: &'static [Feature], settings: &Settings) -> Vec<Case> {
    let several_nodes = several_nodes(platform);
    settings.plan(&Means {
        cpus: platform.cpu_count(),
        several_nodes,
        features,
        interrupts: platform.has_interrupts(),
        memory: platform.memory(),
    })
}

/// How many rows the cases of a plan have together.
pub fn row_count(plan: &[Case]) -> usize {
    plan.iter().map(|case| case.phases().len()).sum()
}

/// Measures and checks every case of the plan over `subject`, and hands each row to `sink` when it is there.
pub fn run<P: Platform, S: Subject>(platform: P, subject: &S, settings: &Settings, sink: &mut dyn FnMut(&Row)) {
    run_cases(platform, subject, settings, &plan(platform, subject.features(), settings), sink);
}

/// The same with those cases; what the allocator cannot do is left out. Of the settings, what they say of samples.
pub fn run_cases<P: Platform, S: Subject>(
    platform: P,
    subject: &S,
    settings: &Settings,
    cases: &[Case],
    sink: &mut dyn FnMut(&Row),
) {
    let clock = clock_cost(platform);
    let mut baselines = Baselines { known: Vec::new() };
    let trace = workloads::trace_of(settings, cases);
    for &case in cases {
        if !case.is_possible(subject.features(), platform.has_interrupts()) {
            continue;
        }
        let subject = &subject.fresh();
        let passes = Passes { platform, settings, case, trace: &trace };
        let complaints = subject.complaints();
        let Some((findings, footprint, series)) = passes.checked(&subject.fresh()) else { continue };
        // Figures are of an allocator that no check has used: what it took then it would not have to take now.
        let subject = &subject.fresh();
        let Some(measured) = passes.measured(subject) else { continue };
        // Where memory is what the case is about, a pass with so few blocks tells nothing of it.
        let (footprint, mut series) =
            if case.workload == Workload::Footprint { (measured.footprint, Vec::new()) } else { (footprint, series) };
        series.extend(measured.series);
        let stamped = settings.latencies.then(|| passes.stamped(subject)).flatten();
        let relayed = passes.relayed(subject);
        let taken = measured.phases.first().map_or(0, |samples| samples.costs.len());
        let all = measured.operations * (taken * case.phases().len()) as u64;
        let locks = measured.locks.map(|locks| LockRates::of(locks, all));
        let mut errors = findings.errors + measured.failures + (subject.complaints() - complaints);
        for (index, (&phase, samples)) in case.phases().iter().zip(measured.phases).enumerate() {
            let overlap = Summary::of(&mut samples.overlaps.clone()).unwrap_or_default().median;
            let Some(row) = Row::of_samples(case, phase, measured.operations, samples) else { continue };
            let calls = stamped.as_ref().map(|stamped| stamped.of(phase));
            let turns = relayed.as_ref().map(|relayed| relayed.turns(phase));
            // Where some CPUs do nothing by design there is nobody to hand over to.
            let refusal = turns.filter(|_| case.all_work(phase)).and_then(|turns| judge(turns, overlap).err());
            sink(&Row {
                empty_ticks: baselines.of(passes, index),
                remote_frees: Some(findings.remote_frees),
                latency: calls.filter(|calls| calls.count() > 0).map(|calls| Latency { calls, clock }),
                locks,
                footprint,
                series: core::mem::take(&mut series),
                turns,
                samples_wanted: measured.is_cut.then_some(settings.samples),
                refusal,
                errors: core::mem::take(&mut errors) + u64::from(refusal.is_some()),
                ..row
            });
        }
    }
}

/// The passes a case takes.
#[derive(Clone, Copy)]
struct Passes<'a, P> {
    platform: P,
    settings: &'a Settings,
    case: Case,
    trace: &'a Trace,
}

impl<P: Platform> Passes<'_, P> {
    fn sampling(&self) -> Sampling {
        let length = match self.settings.effort {
            Effort::Microseconds(microseconds) => Length::Microseconds(microseconds),
            Effort::Fixed => Length::Counted(FIXED_OPERATIONS),
        };
        Sampling {
            samples: self.settings.samples.max(1),
            length,
            most_bytes: self.platform.memory() / self.case.cpus as u64,
            most_blocks: self.settings.most_blocks,
            seed: self.settings.seed,
            trims: false,
            // By a clock that counts instructions all is as it is in every run.
            patience: self.settings.patience.filter(|_| self.settings.effort != Effort::Fixed),
        }
    }

    fn run(&self, sampling: Sampling) -> Run<P> {
        Run { platform: self.platform, case: self.case, sampling }
    }

    fn measured(&self, subject: &impl Subject) -> Option<Samples> {
        workloads::sample(self.run(self.sampling()), subject, self.trace)
    }

    /// Finds errors and weighs memory.
    fn checked<S: Subject>(&self, subject: &S) -> Option<(Findings, Option<Footprint>, Vec<Series>)> {
        let length = match self.case.extent {
            Extent::Size(size) => size,
            Extent::Order(order) => 4096 << order,
            Extent::Mixed => MIX_MAXIMUM,
        };
        let most_bytes = self.settings.checked_bytes.min(self.platform.memory() / self.case.cpus as u64);
        let operations = (self.settings.checked_bytes / length as u64).clamp(8, CHECKED_OPERATIONS);
        let sampling = Sampling {
            samples: CHECKED_SAMPLES,
            length: Length::Operations(operations),
            most_bytes,
            most_blocks: self.settings.most_blocks,
            seed: self.settings.seed,
            trims: true,
            patience: None,
        };
        let memory = Memory::new();
        subject.trim();
        let held_before = subject.held();
        let in_use_before = subject.in_use();
        let checked = Checked::new(subject.clone(), self.case.cpus, memory.clone());
        let tally = checked.tally();
        let failures = workloads::sample(self.run(sampling), &checked, self.trace)?.failures;
        drop(checked);
        let mut findings = tally.findings();
        // Where the subject is everybody's allocator, what the pass kept for itself must be gone before it is asked.
        drop(tally);
        findings.errors += failures + u64::from(in_use_before.is_some_and(|before| subject.in_use() != Some(before)));
        let footprint = held_before.zip(findings.peak).zip(subject.held()).map(|((before, peak), after)| Footprint {
            peak_live: peak.0,
            peak_held: peak.1,
            end_held: after.saturating_sub(before),
        });
        Some((findings, footprint, memory.series()))
    }

    fn stamped<S: Subject>(&self, subject: &S) -> Option<Calls> {
        // By a clock that counts instructions single calls have no latency.
        if self.settings.effort == Effort::Fixed {
            return None;
        }
        let sampling = self.sampling();
        let stamps = Stamps::new(self.platform, self.case.cpus);
        let watched = Watched { subject: subject.clone(), watch: stamps.clone() };
        let samples = sampling.samples.min(LATENCY_SAMPLES);
        workloads::sample(self.run(Sampling { samples, ..sampling }), &watched, self.trace)?;
        Some(Calls { allocations: stamps.allocations(), frees: stamps.frees() })
    }

    /// Sees several CPUs hand over to each other, where they take turns.
    fn relayed<S: Subject>(&self, subject: &S) -> Option<Relays> {
        if self.settings.effort != Effort::Fixed || self.case.cpus == 1 || !self.platform.takes_turns() {
            return None;
        }
        let relays = Relays::new(self.case.cpus);
        let watched = Watched { subject: subject.clone(), watch: relays.clone() };
        workloads::sample(self.run(self.sampling()), &watched, self.trace)?;
        Some(relays)
    }
}

/// What single calls took.
struct Calls {
    allocations: Histogram,
    frees: Histogram,
}

impl Calls {
    fn of(&self, phase: Phase) -> Histogram {
        match phase {
            Phase::Allocate => self.allocations.clone(),
            Phase::Free => self.frees.clone(),
            Phase::Whole => self.allocations.merged(&self.frees),
        }
    }
}

/// What the loops cost by themselves: measured once each, for it depends neither on the size nor on other CPUs.
struct Baselines {
    known: Vec<(Loop, Vec<f64>)>,
}

/// What a loop is told apart by.
type Loop = (Workload, Option<Variant>);

impl Baselines {
    fn of<P: Platform>(&mut self, passes: Passes<'_, P>, phase: usize) -> f64 {
        let name = (passes.case.workload, passes.case.variant);
        if !self.known.iter().any(|(known, _)| *known == name) {
            let alone = Passes { case: Case { cpus: 1, ..passes.case }, ..passes };
            let sampling = alone.sampling();
            let sampling = Sampling { samples: sampling.samples.min(EMPTY_SAMPLES), ..sampling };
            let measured = workloads::sample(alone.run(sampling), &Empty, passes.trace);
            let medians = measured.into_iter().flat_map(|measured| measured.phases).map(|mut samples| {
                // At least one sample is taken.
                Summary::of(&mut samples.costs).unwrap_or_default().median
            });
            self.known.push((name, medians.collect()));
        }
        let known = self.known.iter().find(|(known, _)| *known == name);
        known.and_then(|(_, medians)| medians.get(phase)).copied().unwrap_or_default()
    }
}
