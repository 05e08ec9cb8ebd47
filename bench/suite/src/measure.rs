//! Samples of one [`Case`]: CPUs started together, a loop timed between two barriers, over and over.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::case::{Case, Variant};
use crate::dimensions::{FIRST_TRY, WARM_UPS};
use crate::platform::{Barrier, Platform};
use crate::series::Series;
use crate::spans::{PhaseSamples, Span};
use crate::subject::{Locks, Subject};
use crate::workloads::Body;

/// How much sampling is done.
#[derive(Clone, Copy)]
pub(crate) struct Sampling {
    pub(crate) samples: usize,
    pub(crate) length: Length,
    /// Bytes each CPU may hold.
    pub(crate) most_bytes: u64,
    /// Blocks each CPU may hold.
    pub(crate) most_blocks: usize,
    pub(crate) seed: u64,
    /// Whether each CPU has the allocator give back what it caches before the first sample: where memory is weighed, so
    /// that blocks do not come from what the workload's own lists left behind.
    pub(crate) trims: bool,
    /// After how many seconds no sample is begun that was not announced yet.
    pub(crate) patience: Option<u64>,
}

/// How long a sample is, unless the workload decides.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// As long as takes about this.
    Microseconds(u64),
    /// So many operations.
    Operations(u64),
    /// The same, by a clock that counts the instructions of all CPUs together.
    Counted(u64),
}

/// What was measured of one case.
pub(crate) struct Samples {
    /// Operations of all CPUs in one sample.
    pub(crate) operations: u64,
    pub(crate) phases: Vec<PhaseSamples>,
    /// What was watched, by CPU 0.
    pub(crate) series: Vec<Series>,
    /// What memory was held, where the workload is about that and came to its end.
    pub(crate) footprint: Option<Footprint>,
    /// How often locks were taken for all of it.
    pub(crate) locks: Option<Locks>,
    /// Allocations that failed.
    pub(crate) failures: u64,
    /// Whether there are fewer samples than were wanted, because they took too long.
    pub(crate) is_cut: bool,
}

/// What memory the allocator held beyond what it did before. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Asked for and not given back: when that was most; in `footprint` when all objects had been replaced.
    pub peak_live: u64,
    /// Held then.
    pub peak_held: u64,
    /// Still held when all was given back.
    pub end_held: u64,
}

/// What one CPU brings home: spans, phase after phase, sample after sample.
struct Yield {
    operations: u64,
    spans: Vec<Span>,
    series: Vec<Series>,
    locks: Option<Locks>,
    failures: u64,
}

/// The two nodes asked for in turn. On a machine with one, all is local.
pub(crate) fn nodes(platform: impl Platform, cpu: usize, variant: Variant) -> [quarry_topology::NodeId; 2] {
    let local = platform.local_node(cpu);
    let remote = platform.remote_node(cpu).unwrap_or(local);
    match variant {
        Variant::Remote => [remote, remote],
        Variant::Alternating => [local, remote],
        _ => [local, local],
    }
}

/// A case about to be measured.
#[derive(Clone, Copy)]
pub(crate) struct Run<P> {
    pub(crate) platform: P,
    pub(crate) case: Case,
    pub(crate) sampling: Sampling,
}

/// What the CPUs of a case share.
struct Team {
    barrier: Barrier,
    /// The line that samples start from, where that must not be asleep.
    start: Barrier,
    /// Operations of the next sample while their number is being found; only changed between two barriers.
    operations: AtomicU64,
    /// Whether that number was found; the same.
    calibrated: AtomicU64,
    /// The last sample to take. CPU 0 lowers it, before a barrier that all pass before that sample.
    last_sample: AtomicUsize,
}

impl<P: Platform> Run<P> {
    /// So many blocks of that size, or as many as a CPU may hold; at least 2.
    pub(crate) fn blocks(&self, wanted: usize, size: usize) -> usize {
        let most = ((self.sampling.most_bytes / size as u64) as usize).min(self.sampling.most_blocks);
        wanted.min(most).max(2)
    }

    /// Has every CPU do what `make` makes for it, sample after sample.
    pub(crate) fn sample<S: Subject, B: Body>(
        self,
        subject: &S,
        make: impl Fn(S, usize) -> B + Send + Sync + 'static,
    ) -> Samples {
        let cpus = self.case.cpus;
        let team = Team {
            barrier: Barrier::new(cpus),
            start: Barrier::new(cpus),
            operations: AtomicU64::new(FIRST_TRY),
            calibrated: AtomicU64::new(0),
            last_sample: AtomicUsize::new(self.sampling.samples),
        };
        let subject = subject.clone();
        let mut yields = self.platform.on_cpus(cpus, move |cpu| {
            let subject = subject.for_cpu(cpu);
            if cpu == 0 {
                self.platform.is_at(self.case, 0, self.sampling.samples);
            }
            // Where allocations are slow this alone may take long.
            let mut body = make(subject.clone(), cpu);
            let result = self.work(&team, cpu, &subject, &mut body);
            body.finish();
            result
        });
        self.gather(&mut yields)
    }

    /// The whole work of one CPU.
    fn work(self, team: &Team, cpu: usize, subject: &impl Subject, body: &mut impl Body) -> Yield {
        let phases = self.case.phases().len();
        let begun = self.platform.ticks();
        let mut failures = 0;
        let mut spans = Vec::with_capacity(self.sampling.samples * phases);
        if self.sampling.trims {
            subject.trim();
        }
        let operations = self.find_operations(team, cpu, body, &mut failures);
        subject.sampled(true);
        let locks = subject.locks().filter(|_| cpu == 0);
        for sample in 1..=self.sampling.samples {
            if cpu == 0 {
                self.look_up(team, begun, sample);
            }
            for phase in 0..phases {
                spans.push(self.timed(team, cpu, body, phase, operations, &mut failures));
            }
            if cpu == 0 {
                body.watch(sample as u64 * operations * self.case.cpus as u64);
            }
            // Relaxed: the sample's barriers order it.
            if sample >= team.last_sample.load(Ordering::Relaxed) {
                break;
            }
        }
        subject.sampled(false);
        // Nobody gives back what CPU 0 is still looking at.
        team.barrier.wait(self.platform);
        if cpu == 0 && self.counts_together() {
            self.platform.lengthen_turns();
        }
        let locks = locks.and_then(|before| Some(subject.locks()?.since(before)));
        Yield { operations, spans, series: body.watched(), locks, failures }
    }

    /// CPU 0's look at the clock before a sample: says that it lives, and makes this sample the last when the case has taken
    /// long enough.
    fn look_up(self, team: &Team, begun: u64, sample: usize) {
        self.platform.is_at(self.case, sample, self.sampling.samples);
        let limit = self.sampling.patience.map(|seconds| seconds.saturating_mul(self.platform.ticks_per_second()));
        if limit.is_some_and(|limit| self.platform.ticks().saturating_sub(begun) > limit) {
            team.last_sample.store(sample, Ordering::Relaxed);
        }
    }

    /// Whether a clock counts the instructions of several CPUs, so that a sample has in it whatever any of them does
    /// between the first one's start and the last one's end.
    fn counts_together(self) -> bool {
        self.case.cpus > 1 && matches!(self.sampling.length, Length::Counted(_)) && self.platform.takes_turns()
    }

    #[inline(always)]
    fn timed(
        self,
        team: &Team,
        cpu: usize,
        body: &mut impl Body,
        phase: usize,
        operations: u64,
        failures: &mut u64,
    ) -> Span {
        team.barrier.wait(self.platform);
        if self.counts_together() {
            // Who slept at the barrier has been woken when all stand here, not within the sample.
            if cpu == 0 {
                team.start.come_last(self.platform);
                self.platform.shorten_turns();
            } else {
                team.start.spin(self.platform);
            }
        }
        let start = self.platform.ticks();
        *failures += body.run(phase, operations);
        let end = self.platform.ticks();
        if self.counts_together() {
            // Who is done sleeps until all are, and does not go on within the others' sample.
            team.barrier.wait(self.platform);
        }
        *failures += body.after(phase);
        Span { start, end }
    }

    /// Warms up and finds how many operations make a sample: CPU 0 judges, all do the same.
    fn find_operations(self, team: &Team, cpu: usize, body: &mut impl Body, failures: &mut u64) -> u64 {
        let given = match self.sampling.length {
            Length::Microseconds(_) => None,
            Length::Operations(operations) | Length::Counted(operations) => Some(operations),
        };
        let granule = body.granule();
        let given = given.map(|operations| operations.next_multiple_of(granule));
        if let Some(operations) = body.fixed_operations().or(given) {
            // What is only checked may be cold.
            let warm_ups = if matches!(self.sampling.length, Length::Operations(_)) { 0 } else { WARM_UPS };
            for _ in 0..warm_ups {
                for phase in 0..self.case.phases().len() {
                    self.timed(team, cpu, body, phase, operations, failures);
                }
            }
            return operations;
        }
        loop {
            let operations = team.operations.load(Ordering::Relaxed).next_multiple_of(granule);
            let span = self.timed(team, cpu, body, 0, operations, failures);
            if cpu == 0 {
                self.platform.is_at(self.case, 0, self.sampling.samples);
                self.judge(team, operations, span);
            }
            // Orders CPU 0's verdict before everyone's reading of it, and the reading before the next verdict.
            team.barrier.wait(self.platform);
            if team.calibrated.load(Ordering::Relaxed) != 0 {
                return team.operations.load(Ordering::Relaxed).next_multiple_of(granule);
            }
        }
    }

    fn judge(self, team: &Team, operations: u64, span: Span) {
        let Length::Microseconds(target) = self.sampling.length else { return };
        let target = (u128::from(target) * u128::from(self.platform.ticks_per_second()) / 1_000_000) as u64;
        let elapsed = span.end.saturating_sub(span.start).max(1);
        if elapsed.saturating_mul(2) >= target {
            team.calibrated.store(1, Ordering::Relaxed);
        }
        // Never more than eightfold at a time: the first rounds are cold.
        let factor = (target as f64 / elapsed as f64).min(8.0);
        team.operations.store(((operations as f64 * factor) as u64).max(16), Ordering::Relaxed);
    }

    /// Turns the spans of all CPUs into samples.
    fn gather(self, yields: &mut [Yield]) -> Samples {
        let series = yields.first_mut().map(|first| core::mem::take(&mut first.series)).unwrap_or_default();
        let yields = &*yields;
        let locks = yields.first().and_then(|first| first.locks);
        let phases = self.case.phases().len();
        let operations = yields.iter().map(|one| one.operations).sum();
        let taken = yields.first().map_or(0, |first| first.spans.len() / phases);
        // All CPUs share one clock that stands for their instructions, so only the whole can be divided.
        let one_clock = matches!(self.sampling.length, Length::Counted(_));
        let of_phase = |phase: usize| {
            let mut samples = PhaseSamples::default();
            for sample in 0..taken {
                let index = sample * phases + phase;
                samples.add(yields.iter().map(|one| &one.spans[index]), operations, one_clock);
            }
            samples
        };
        Samples {
            operations,
            phases: (0..phases).map(of_phase).collect(),
            series,
            footprint: None,
            locks,
            failures: yields.iter().map(|one| one.failures).sum(),
            is_cut: taken < self.sampling.samples,
        }
    }
}
