//! Little memory left, and memory that ages: `pressure` and `fragmentation`.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Body, places};
use crate::ballast::Ballast;
use crate::case::{Variant, Workload};
use crate::measure::{Run, Samples};
use crate::platform::{Barrier, Platform};
use crate::random::{MIX_MAXIMUM, MIX_MEAN, Random, log_uniform_size};
use crate::series::{Series, Track};
use crate::subject::Subject;

/// Measures a case of one of these workloads.
pub(super) fn sample<P: Platform, S: Subject>(run: Run<P>, subject: &S) -> Option<Samples> {
    match (run.case.workload, run.case.variant) {
        (Workload::Pressure, Some(Variant::Used(percent))) => pressure(run, subject, percent),
        (Workload::Fragmentation, _) => fragmentation(run, subject),
        _ => None,
    }
}

/// Of all memory, what the objects take of which one is replaced after another: more than 1 %, so that at 99 % in use
/// they need some of what is cached. Thousandths.
const PRESSURE_OBJECTS: u64 = 12;

/// Of all memory, what is cached and can be given up: a good deal more. Thousandths.
const PRESSURE_CACHED: u64 = 40;

/// Of so many operations one reads a page.
const PAGE_EVERY: u64 = 8;

fn pressure<P: Platform, S: Subject>(run: Run<P>, subject: &S, percent: u8) -> Option<Samples> {
    let memory = subject.memory().unwrap_or(run.platform.memory());
    let ballast = subject.occupy(memory / 100 * (100 - u64::from(percent)), memory / 1000 * PRESSURE_CACHED)?;
    let bytes = memory / 1000 * PRESSURE_OBJECTS / run.case.cpus as u64;
    let slots = slots(&run, bytes, MIX_MEAN, MIX_MAXIMUM + 1);
    let seed = run.sampling.seed;
    Some(run.sample(subject, move |subject, cpu| {
        let mut random = Random::new(seed, cpu as u64);
        let slots = (0..slots).map(|_| subject.allocate(log_uniform_size(&mut random))).collect();
        Pressure { subject, random, slots, ballast: ballast.clone() }
    }))
}

/// So many slots as `bytes` fill with blocks of that mean, or as a CPU may hold if all are largest; at least 2.
fn slots<P: Platform>(run: &Run<P>, bytes: u64, mean: usize, largest: usize) -> usize {
    let most = run.sampling.most_bytes / largest as u64;
    (bytes / mean as u64).min(most).max(2) as usize
}

/// [`Workload::Pressure`](crate::Workload::Pressure).
struct Pressure<S: Subject> {
    subject: S,
    random: Random,
    slots: Vec<Option<S::Block>>,
    ballast: Arc<dyn Ballast>,
}

impl<S: Subject> Body for Pressure<S> {
    fn granule(&self) -> u64 {
        PAGE_EVERY
    }

    #[inline(never)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let subject = self.subject.clone();
        let slots = self.slots.as_mut_slice();
        let mut random = self.random.clone();
        let mut failures = 0;
        for _ in 0..operations / PAGE_EVERY {
            for _ in 0..PAGE_EVERY {
                let slot = &mut slots[random.below(slots.len() as u64) as usize];
                failures += places::replace(
                    slot,
                    |block| subject.free(block),
                    || subject.allocate(log_uniform_size(&mut random)),
                );
            }
            self.ballast.cache_page();
        }
        self.random = random;
        failures
    }

    fn finish(&mut self) {
        places::free_objects(&self.subject, &mut self.slots);
    }
}

/// Most memory that is left for `fragmentation` to age.
const MOST_AGEING: u64 = 2 << 30;

/// Mean bytes of what it takes: see [`Kind::draw`].
const AGEING_MEAN: usize = 5460;

/// The largest.
const AGEING_LARGEST: usize = 4096 << 3;

/// Of its slots, those whose blocks live for a short time: one of so many.
const SHORT_LIVED: usize = 8;

fn fragmentation<P: Platform, S: Subject>(run: Run<P>, subject: &S) -> Option<Samples> {
    // What caches give up while memory is short was not held for the blocks.
    subject.trim();
    let leave = (subject.memory().unwrap_or(run.platform.memory()) / 8).min(MOST_AGEING);
    let ballast = subject.occupy(leave, 0)?;
    let cpus = run.case.cpus;
    let slots = slots(&run, leave / 10 * 8 / cpus as u64, AGEING_MEAN, AGEING_LARGEST);
    let shared = Arc::new(Ageing {
        live: (0..cpus).map(|_| AtomicU64::new(0)).collect(),
        held_before: subject.held(),
        barrier: Barrier::new(cpus),
    });
    let (platform, seed) = (run.platform, run.sampling.seed);
    let samples = run.sample(subject, move |subject, cpu| {
        let mut churn = Churn {
            subject,
            platform,
            cpu,
            random: Random::new(seed, cpu as u64),
            slots: Vec::with_capacity(slots),
            shared: shared.clone(),
            track: Track::new(),
        };
        churn.slots.extend((0..slots).map(|_| take(&churn.subject, Kind::draw(&mut churn.random))));
        churn
    });
    drop(ballast);
    Some(samples)
}

/// How a block is asked for.
#[derive(Clone, Copy)]
enum Kind {
    Object(usize),
    Pages(u32),
}

impl Kind {
    /// Half of all are objects, a quarter single pages, and the rest blocks of orders 1 to 3, fewer the larger they are.
    #[inline(always)]
    fn draw(random: &mut Random) -> Self {
        match random.below(16) {
            0..=7 => Self::Object(log_uniform_size(random)),
            8..=11 => Self::Pages(0),
            12..=13 => Self::Pages(1),
            14 => Self::Pages(2),
            _ => Self::Pages(3),
        }
    }

    fn bytes(self) -> u64 {
        match self {
            Self::Object(size) => size as u64,
            Self::Pages(order) => 4096 << order,
        }
    }
}

#[inline(always)]
fn take<S: Subject>(subject: &S, kind: Kind) -> Option<(S::Block, Kind)> {
    let block = match kind {
        Kind::Object(size) => subject.allocate(size),
        Kind::Pages(order) => subject.allocate_pages(order),
    };
    block.map(|block| (block, kind))
}

#[inline(always)]
fn give<S: Subject>(subject: &S, (block, kind): (S::Block, Kind)) {
    match kind {
        Kind::Object(_) => subject.free(block),
        Kind::Pages(order) => subject.free_pages(block, order),
    }
}

/// What the CPUs share.
struct Ageing {
    /// Bytes that live, of each CPU. Written by that CPU before the barrier, and read by CPU 0 after it.
    live: Vec<AtomicU64>,
    /// What the allocator held before the first block.
    held_before: Option<u64>,
    barrier: Barrier,
}

/// [`Workload::Fragmentation`](crate::Workload::Fragmentation).
struct Churn<S: Subject, P> {
    subject: S,
    platform: P,
    cpu: usize,
    random: Random,
    /// The first of them are replaced most often.
    slots: Vec<Option<(S::Block, Kind)>>,
    shared: Arc<Ageing>,
    track: Track<Look>,
}

/// What is seen at once.
#[derive(Clone, Copy)]
struct Look {
    /// Of free memory, what is in no large block.
    unusable: f64,
    held_per_live: f64,
}

impl<S: Subject, P: Platform> Body for Churn<S, P> {
    #[inline(never)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let subject = self.subject.clone();
        let slots = self.slots.as_mut_slice();
        let mut random = self.random.clone();
        let (all, short) = (slots.len(), slots.len().div_ceil(SHORT_LIVED));
        let mut failures = 0;
        for _ in 0..operations {
            let among = if random.below(4) == 0 { all } else { short };
            let slot = &mut slots[random.below(among as u64) as usize];
            // As `places::replace`, which compiles to another number of instructions here.
            if let Some(owned) = slot.take() {
                give(&subject, owned);
            }
            *slot = take(&subject, Kind::draw(&mut random));
            failures += u64::from(slot.is_none());
        }
        self.random = random;
        failures
    }

    fn after(&mut self, _phase: usize) -> u64 {
        let live = self.slots.iter().flatten().map(|(_, kind)| kind.bytes()).sum();
        self.shared.live[self.cpu].store(live, Relaxed);
        self.shared.barrier.wait(self.platform);
        0
    }

    fn watch(&mut self, operations: u64) {
        let (subject, shared) = (&self.subject, &self.shared);
        self.track.offer(operations, || {
            let live: u64 = shared.live.iter().map(|live| live.load(Relaxed)).sum();
            let held = subject.held()?.saturating_sub(shared.held_before?);
            Some(Look { unusable: subject.fragmentation()?, held_per_live: held as f64 / live.max(1) as f64 })
        });
    }

    fn watched(&mut self) -> Vec<Series> {
        let series = |name, unit, points| Series { name, unit, over: "operations", points };
        let series = [
            series("free memory not in blocks of 2 MiB", "%", self.track.points(|look| look.unusable * 100.0)),
            series("memory held per live byte", "bytes", self.track.points(|look| look.held_per_live)),
        ];
        series.into_iter().filter(|series| !series.points.is_empty()).collect()
    }

    fn finish(&mut self) {
        for owned in self.slots.drain(..).flatten() {
            give(&self.subject, owned);
        }
    }
}
