//! What an allocator holds for so many live bytes, when nothing tells any more how they came: `footprint`.
//!
//! Before the first sample memory is filled with objects; the samples replace them at random, so often in all that the
//! order they came in is forgotten. What is held is looked at when no CPU works: when memory was filled, and after each
//! sample. The last look is the footprint of the row.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use spin::Mutex;

use super::{Body, places};
use crate::case::Variant;
use crate::measure::{Footprint, Run, Samples};
use crate::platform::{Barrier, Platform};
use crate::random::{MIX_MEAN, Random, log_uniform_size};
use crate::series::{Series, Track};
use crate::subject::Subject;

/// How often an object is replaced on average until nothing tells how the first ones came.
const REPLACEMENTS: u64 = 5;

/// Fewest replacements of a CPU in a sample, for the clock's sake.
const FEWEST_OPERATIONS: u64 = 1000;

/// Measures a case.
pub(super) fn sample<P: Platform, S: Subject>(run: Run<P>, subject: &S) -> Option<Samples> {
    let Variant::Live(mebibytes) = run.case.variant? else { return None };
    let cpus = run.case.cpus;
    let bytes = ((mebibytes as u64) << 20) / cpus as u64;
    let objects = (bytes.min(run.sampling.most_bytes) / MIX_MEAN as u64).max(2);
    let operations = (REPLACEMENTS * objects).div_ceil(run.sampling.samples as u64).max(FEWEST_OPERATIONS);
    let shared = Arc::new(Shared {
        live: (0..cpus).map(|_| AtomicU64::new(0)).collect(),
        barrier: Barrier::new(cpus),
        last: Mutex::new(None),
    });
    subject.trim();
    let held_before = subject.held();
    let (platform, seed) = (run.platform, run.sampling.seed);
    let team = shared.clone();
    let mut samples = run.sample(subject, move |subject, cpu| {
        let mut replace = Replace {
            subject,
            platform,
            cpu,
            random: Random::new(seed, cpu as u64),
            objects: Vec::with_capacity(objects as usize),
            operations,
            held_before: None,
            track: Track::new(),
            shared: team.clone(),
        };
        replace.fill(objects);
        replace
    });
    let end_held = subject.held().zip(held_before).map(|(end, before)| end.saturating_sub(before));
    let last = shared.last.lock().filter(|last| last.operations >= REPLACEMENTS * objects * cpus as u64);
    samples.footprint = last.zip(end_held).map(|(Look { live, held, .. }, end_held)| Footprint {
        peak_live: live,
        peak_held: held,
        end_held,
    });
    Some(samples)
}

/// What the CPUs share.
struct Shared {
    /// Bytes that live, of each CPU. Written by that CPU before the barrier, and read by CPU 0 after it.
    live: Vec<AtomicU64>,
    barrier: Barrier,
    /// CPU 0's last look.
    last: Mutex<Option<Look>>,
}

/// What is seen at once. Bytes.
#[derive(Clone, Copy)]
struct Look {
    /// Replacements of all CPUs before it.
    operations: u64,
    live: u64,
    held: u64,
}

/// [`Workload::Footprint`](crate::Workload::Footprint).
struct Replace<S: Subject, P> {
    subject: S,
    platform: P,
    cpu: usize,
    random: Random,
    /// With the sizes that were asked for.
    objects: Vec<Option<(S::Block, u32)>>,
    /// Of a sample.
    operations: u64,
    /// What the allocator held before the first object, the suite's own lists among it. Known to CPU 0.
    held_before: Option<u64>,
    track: Track<Look>,
    shared: Arc<Shared>,
}

impl<S: Subject, P: Platform> Replace<S, P> {
    /// So many objects, of all CPUs at once.
    fn fill(&mut self, objects: u64) {
        // What is cached now would come back as objects, and not be counted.
        self.subject.trim();
        self.shared.barrier.wait(self.platform);
        if self.cpu == 0 {
            self.held_before = self.subject.held();
        }
        self.shared.barrier.wait(self.platform);
        let (subject, random) = (&self.subject, &mut self.random);
        self.objects.extend((0..objects).map(|_| take(subject, log_uniform_size(random))));
        self.meet();
        if self.cpu == 0 {
            self.look(0);
        }
    }

    /// Says what lives of this CPU's, and waits until all have.
    fn meet(&self) {
        let live = self.objects.iter().flatten().map(|(_, size)| u64::from(*size)).sum();
        self.shared.live[self.cpu].store(live, Relaxed);
        self.shared.barrier.wait(self.platform);
    }

    /// CPU 0 has a look, while the others wait.
    fn look(&mut self, operations: u64) {
        let (Some(held), Some(before)) = (self.subject.held(), self.held_before) else { return };
        let live = self.shared.live.iter().map(|live| live.load(Relaxed)).sum();
        let look = Look { operations, live, held: held.saturating_sub(before) };
        self.track.offer(operations, || Some(look));
        *self.shared.last.lock() = Some(look);
    }
}

#[inline(always)]
fn take<S: Subject>(subject: &S, size: usize) -> Option<(S::Block, u32)> {
    subject.allocate(size).map(|block| (block, size as u32))
}

impl<S: Subject, P: Platform> Body for Replace<S, P> {
    fn fixed_operations(&self) -> Option<u64> {
        Some(self.operations)
    }

    #[inline(never)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let subject = self.subject.clone();
        let objects = self.objects.as_mut_slice();
        let mut random = self.random.clone();
        let mut failures = 0;
        for _ in 0..operations {
            let place = &mut objects[random.below(objects.len() as u64) as usize];
            failures += places::replace(
                place,
                |(block, _)| subject.free(block),
                || take(&subject, log_uniform_size(&mut random)),
            );
        }
        self.random = random;
        failures
    }

    /// Nobody works while CPU 0 looks.
    fn after(&mut self, _phase: usize) -> u64 {
        self.meet();
        0
    }

    fn watch(&mut self, operations: u64) {
        self.look(operations);
    }

    fn watched(&mut self) -> Vec<Series> {
        let points = self.track.points(|look| look.held as f64 / look.live.max(1) as f64);
        let series = Series { name: "memory held per live byte", unit: "bytes", over: "operations", points };
        [series].into_iter().filter(|series| !series.points.is_empty()).collect()
    }

    fn finish(&mut self) {
        for (block, _) in self.objects.drain(..).flatten() {
            self.subject.free(block);
        }
    }
}
