//! Samples of one [`Case`]: CPUs started together, a loop timed between two barriers, over and over.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::case::{Case, Effort, Extent, Placement, Workload};
use crate::loops::{Batch, Body, Exchange, MIX_SLOTS, Mix, OnNode, Page, Pair, PairInlined};
use crate::platform::{Barrier, Platform};
use crate::random::Random;
use crate::sizes::{WithSize, dispatch};
use crate::subject::Subject;

/// Objects in a batch, memory permitting: many times what the allocators' per-CPU caches hold.
const BATCH: usize = 4096;

/// Operations of a sample under [`Effort::Fixed`].
const FIXED_OPERATIONS: u64 = 10_000;

/// How often a sample of a workload of fixed length is run before the first that counts.
const WARM_UPS: usize = 3;

/// How much sampling is done.
#[derive(Clone, Copy)]
pub(crate) struct Sampling {
    pub(crate) samples: usize,
    pub(crate) effort: Effort,
    pub(crate) seed: u64,
}

/// What was measured of one case.
pub(crate) struct Samples {
    /// Operations of one CPU in one sample.
    pub(crate) operations: u64,
    /// For each phase the samples, in ticks per operation.
    pub(crate) phases: Vec<Vec<f64>>,
    /// Allocations that failed.
    pub(crate) failures: u64,
}

/// Two readings of the clock.
#[derive(Clone, Copy)]
struct Span {
    start: u64,
    end: u64,
}

/// What one CPU brings home: spans, phase after phase, sample after sample.
struct Yield {
    operations: u64,
    spans: Vec<Span>,
    failures: u64,
}

/// Measures `case` over `subject`. `None` when the case cannot be: an inlined size without code.
pub(crate) fn measure<P: Platform, S: Subject>(
    platform: P,
    subject: S,
    case: Case,
    sampling: Sampling,
) -> Option<Samples> {
    let run = Run { platform, case, sampling };
    match (case.workload, case.extent) {
        (Workload::Pair, Extent::Size(size)) => Some(run.sample(move |_| Pair { subject, size })),
        (Workload::PairInlined, Extent::Size(size)) => dispatch(size, SampleInlined { run, subject }),
        (Workload::Batch | Workload::Remote, Extent::Size(size)) => Some(run.sample_batch(subject, size)),
        (Workload::Mix, Extent::Mixed) => {
            let slots = run.mix_slots();
            let seed = sampling.seed;
            Some(run.sample(move |cpu| Mix::new(subject, Random::new(seed, cpu as u64), slots)))
        }
        (Workload::Node, Extent::Size(size)) => {
            let placement = case.placement?;
            Some(run.sample(move |cpu| OnNode { subject, size, nodes: nodes(platform, cpu, placement) }))
        }
        (Workload::Page, Extent::Order(order)) => Some(run.sample(move |_| Page { subject, order })),
        _ => None,
    }
}

/// The two nodes asked for in turn. On a machine with one, every placement is local.
pub(crate) fn nodes(platform: impl Platform, cpu: usize, placement: Placement) -> [quarry_topology::NodeId; 2] {
    let local = platform.local_node(cpu);
    let remote = platform.remote_node(cpu).unwrap_or(local);
    match placement {
        Placement::Local => [local, local],
        Placement::Remote => [remote, remote],
        Placement::Alternating => [local, remote],
    }
}

#[derive(Clone, Copy)]
struct Run<P> {
    platform: P,
    case: Case,
    sampling: Sampling,
}

struct SampleInlined<P, S> {
    run: Run<P>,
    subject: S,
}

impl<P: Platform, S: Subject> WithSize for SampleInlined<P, S> {
    type Output = Samples;

    fn with<const SIZE: usize>(self) -> Samples {
        let subject = self.subject;
        self.run.sample(move |_| PairInlined::<S, SIZE> { subject })
    }
}

/// What the CPUs of a case share.
struct Team {
    barrier: Barrier,
    /// Operations of the next sample while their number is being found; only changed between two barriers.
    operations: AtomicU64,
    /// Whether that number was found; the same.
    calibrated: AtomicU64,
}

impl<P: Platform> Run<P> {
    fn sample_batch<S: Subject>(self, subject: S, size: usize) -> Samples {
        let Self { platform, case, .. } = self;
        let share = (platform.memory() / case.cpus as u64 / size as u64) as usize;
        let length = BATCH.min(share).max(1);
        let exchange = (case.workload == Workload::Remote).then(|| Arc::new(Exchange::new(case.cpus)));
        self.sample(move |cpu| Batch {
            subject,
            platform,
            size,
            cpu,
            blocks: (0..length).map(|_| None).collect(),
            exchange: exchange.clone(),
        })
    }

    fn mix_slots(self) -> usize {
        let share = (self.platform.memory() / self.case.cpus as u64 / 4096) as usize;
        if share >= MIX_SLOTS { MIX_SLOTS } else { share.next_power_of_two().max(2) / 2 }
    }

    fn sample<B: Body>(self, make: impl Fn(usize) -> B + Send + Sync + 'static) -> Samples {
        let cpus = self.case.cpus;
        let team = Team {
            barrier: Barrier::new(cpus),
            operations: AtomicU64::new(64),
            calibrated: AtomicU64::new(u64::from(self.sampling.effort == Effort::Fixed)),
        };
        let yields = self.platform.on_cpus(cpus, move |cpu| {
            let mut body = make(cpu);
            let result = self.work(&team, cpu, &mut body);
            body.finish();
            result
        });
        self.gather(&yields)
    }

    /// The whole work of one CPU.
    fn work(self, team: &Team, cpu: usize, body: &mut impl Body) -> Yield {
        let phases = self.case.phases().len();
        let mut failures = 0;
        let operations = self.find_operations(team, cpu, body, &mut failures);
        let mut spans = Vec::with_capacity(self.sampling.samples * phases);
        for _ in 0..self.sampling.samples {
            for phase in 0..phases {
                spans.push(self.timed(team, body, phase, operations, &mut failures));
            }
        }
        Yield { operations, spans, failures }
    }

    #[inline(always)]
    fn timed(self, team: &Team, body: &mut impl Body, phase: usize, operations: u64, failures: &mut u64) -> Span {
        team.barrier.wait(self.platform);
        let start = self.platform.ticks();
        *failures += body.run(phase, operations);
        let end = self.platform.ticks();
        *failures += body.after(phase);
        Span { start, end }
    }

    /// Warms up and finds how many operations make a sample: CPU 0 judges, all do the same.
    fn find_operations(self, team: &Team, cpu: usize, body: &mut impl Body, failures: &mut u64) -> u64 {
        let fixed = body.fixed_operations();
        if let Some(operations) = fixed.or((self.sampling.effort == Effort::Fixed).then_some(FIXED_OPERATIONS)) {
            for _ in 0..WARM_UPS {
                for phase in 0..self.case.phases().len() {
                    self.timed(team, body, phase, operations, failures);
                }
            }
            return operations;
        }
        loop {
            let operations = team.operations.load(Ordering::Relaxed);
            let span = self.timed(team, body, 0, operations, failures);
            if cpu == 0 {
                self.judge(team, operations, span);
            }
            // Orders CPU 0's verdict before everyone's reading of it, and the reading before the next verdict.
            team.barrier.wait(self.platform);
            if team.calibrated.load(Ordering::Relaxed) != 0 {
                return team.operations.load(Ordering::Relaxed);
            }
        }
    }

    fn judge(self, team: &Team, operations: u64, span: Span) {
        let Effort::Microseconds(target) = self.sampling.effort else { return };
        let target = (u128::from(target) * u128::from(self.platform.ticks_per_second()) / 1_000_000) as u64;
        let elapsed = span.end.saturating_sub(span.start).max(1);
        if elapsed.saturating_mul(2) >= target {
            team.calibrated.store(1, Ordering::Relaxed);
        }
        // Never more than eightfold at a time: the first rounds are cold.
        let factor = (target as f64 / elapsed as f64).min(8.0);
        team.operations.store(((operations as f64 * factor) as u64).max(16), Ordering::Relaxed);
    }

    /// Turns the spans of all CPUs into costs per operation.
    fn gather(self, yields: &[Yield]) -> Samples {
        let phases = self.case.phases().len();
        let operations = yields.first().map_or(0, |first| first.operations);
        let cost = |index: usize| {
            let spans = yields.iter().map(|one| one.spans[index]);
            let total = match self.sampling.effort {
                // What an operation takes the CPU that does it, on the mean over CPUs.
                Effort::Microseconds(_) => spans.map(|span| span.end.saturating_sub(span.start)).sum::<u64>(),
                // All CPUs share one clock that stands for their instructions, so only the whole can be divided.
                Effort::Fixed => {
                    let start = spans.clone().map(|span| span.start).min().unwrap_or(0);
                    spans.map(|span| span.end).max().unwrap_or(0).saturating_sub(start)
                }
            };
            total as f64 / (operations * yields.len() as u64) as f64
        };
        Samples {
            operations,
            phases: (0..phases)
                .map(|phase| (0..self.sampling.samples).map(|sample| cost(sample * phases + phase)).collect())
                .collect(),
            failures: yields.iter().map(|one| one.failures).sum(),
        }
    }
}
