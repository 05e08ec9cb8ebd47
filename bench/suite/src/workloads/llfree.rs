//! The benchmarks of `LLFree`, a page allocator without locks, on blocks of pages.
//!
//! Wrenger, Rommel, Halbuer, Dietrich and Lohmann, "`LLFree`: Scalable and Optionally-Persistent Page-Frame
//! Allocation", USENIX ATC 2023. The originals (`bench/`, `bench-module/` of llfree-rs) take half of all memory and measure one
//! pass over it; these take a part of it, sample after sample: on an emulated machine with more CPUs than the
//! host, where a turn at a lock may take milliseconds, more would take minutes.
//!
//! - `bulk`: every CPU allocates its part, then frees it in the same order.
//! - `rand`: every CPU allocates its part; the parts are shuffled among all CPUs, and every CPU frees what it got.
//! - `repeat`: every CPU holds its part and allocates and frees one more block, over and over.
//! - `frag`: every CPU allocates its part; all are shuffled; half of them are freed, so that memory is full of holes;
//!   then, over and over, a block at random is freed and another allocated. The original fills all memory and counts
//!   the huge pages that are free again. Here memory is not full, so they are counted before anything is freed as well,
//!   and what is watched is how many there are more than then: none while every hole is smaller, as many as were freed
//!   if blocks came together.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint::black_box;

use super::slab::ALLOCATE;
use super::{Body, places};
use crate::case::{Extent, Workload};
use crate::dimensions::{LLFREE_BATCH_BYTES as BATCH, LLFREE_HELD_BYTES as HELD};
use crate::exchange::Deck;
use crate::measure::{Run, Samples};
use crate::platform::{Barrier, Platform};
use crate::random::Random;
use crate::series::{Series, Track};
use crate::subject::Subject;

/// Order of a huge page, 2 MiB.
const HUGE: u32 = 9;

/// Measures a case of one of these workloads.
pub(super) fn sample<P: Platform, S: Subject>(run: Run<P>, subject: &S) -> Option<Samples> {
    let Extent::Order(order) = run.case.extent else { return None };
    let bytes = 4096 << order;
    let (platform, cpus, seed) = (run.platform, run.case.cpus, run.sampling.seed);
    match run.case.workload {
        Workload::LlfreeBulk | Workload::LlfreeRand => {
            let length = run.blocks(BATCH / bytes, bytes);
            let deck = (run.case.workload == Workload::LlfreeRand).then(|| Arc::new(Deck::new(cpus, length)));
            Some(run.sample(subject, move |subject, cpu| Batch {
                subject,
                platform,
                order,
                cpu,
                random: Random::new(seed, cpu as u64),
                blocks: (0..length).map(|_| None).collect(),
                deck: deck.clone(),
            }))
        }
        Workload::LlfreeRepeat => {
            // One less, for the block that comes and goes.
            let held = run.blocks(HELD / bytes, bytes) - 1;
            Some(run.sample(subject, move |subject, _| Repeat {
                order,
                held: (0..held).map(|_| subject.allocate_pages(order)).collect(),
                subject,
            }))
        }
        Workload::LlfreeFrag => {
            let length = run.blocks(HELD / bytes, bytes);
            let deck = Arc::new(Deck::new(cpus, length));
            let barrier = Arc::new(Barrier::new(cpus));
            Some(run.sample(subject, move |subject, cpu| {
                let mut random = Random::new(seed, cpu as u64);
                let mut blocks = (0..length).map(|_| subject.allocate_pages(order)).collect();
                barrier.wait(platform);
                let mut watch = Watch::new(&subject);
                // Nobody leaves before all have come, CPU 0 from its look.
                deck.deal(platform, cpu, &mut random, &mut blocks);
                for block in blocks.drain(length / 2..).flatten() {
                    subject.free_pages(block, order);
                }
                barrier.wait(platform);
                if cpu == 0 {
                    watch.look(&subject, 0);
                }
                Replace { subject, platform, order, random, blocks, barrier: barrier.clone(), watch }
            }))
        }
        _ => None,
    }
}

/// [`Workload::LlfreeBulk`] and, with a deck, [`Workload::LlfreeRand`].
struct Batch<S: Subject, P> {
    subject: S,
    platform: P,
    order: u32,
    cpu: usize,
    random: Random,
    blocks: Vec<Option<S::Block>>,
    deck: Option<Arc<Deck<Option<S::Block>>>>,
}

impl<S: Subject, P> Batch<S, P> {
    #[inline(never)]
    fn allocate(&mut self) {
        let (subject, order) = (self.subject.clone(), black_box(self.order));
        places::fill(&mut self.blocks, || subject.allocate_pages(order));
    }

    #[inline(never)]
    fn free(&mut self) {
        let (subject, order) = (self.subject.clone(), black_box(self.order));
        places::empty(&mut self.blocks, |block| subject.free_pages(block, order));
    }
}

impl<S: Subject, P: Platform> Body for Batch<S, P> {
    fn fixed_operations(&self) -> Option<u64> {
        Some(self.blocks.len() as u64)
    }

    #[inline(always)]
    fn run(&mut self, phase: usize, _operations: u64) -> u64 {
        if phase == ALLOCATE {
            self.allocate();
        } else {
            self.free();
        }
        0
    }

    fn after(&mut self, phase: usize) -> u64 {
        if phase != ALLOCATE {
            return 0;
        }
        let failures = places::missing(&self.blocks);
        if let Some(deck) = &self.deck {
            deck.deal(self.platform, self.cpu, &mut self.random, &mut self.blocks);
        }
        failures
    }
}

/// [`Workload::LlfreeRepeat`].
struct Repeat<S: Subject> {
    subject: S,
    order: u32,
    held: Vec<Option<S::Block>>,
}

impl<S: Subject> Body for Repeat<S> {
    #[inline(never)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let (subject, order) = (self.subject.clone(), black_box(self.order));
        let mut failures = 0;
        for _ in 0..operations {
            match subject.allocate_pages(order) {
                Some(block) => subject.free_pages(black_box(block), order),
                None => failures += 1,
            }
        }
        failures
    }

    fn finish(&mut self) {
        places::free_pages(&self.subject, &mut self.held, self.order);
    }
}

/// What becomes of huge pages.
struct Watch {
    /// Those free when no block was freed yet, where that is known.
    before: Option<u64>,
    /// Those free beyond that; fewer than none where other huge pages were broken up.
    track: Track<f64>,
}

impl Watch {
    fn new(subject: &impl Subject) -> Self {
        Self { before: subject.free_blocks(HUGE), track: Track::new() }
    }

    fn look(&mut self, subject: &impl Subject, operations: u64) {
        let Self { before, track } = self;
        track.offer(operations, || Some(subject.free_blocks(HUGE)? as f64 - (*before)? as f64));
    }
}

/// [`Workload::LlfreeFrag`].
struct Replace<S: Subject, P> {
    subject: S,
    platform: P,
    order: u32,
    random: Random,
    blocks: Vec<Option<S::Block>>,
    barrier: Arc<Barrier>,
    watch: Watch,
}

impl<S: Subject, P: Platform> Body for Replace<S, P> {
    #[inline(never)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let (subject, order) = (self.subject.clone(), black_box(self.order));
        let blocks = self.blocks.as_mut_slice();
        let mut random = self.random.clone();
        let mut failures = 0;
        for _ in 0..operations {
            let place = &mut blocks[random.below(blocks.len() as u64) as usize];
            failures +=
                places::replace(place, |block| subject.free_pages(block, order), || subject.allocate_pages(order));
        }
        self.random = random;
        failures
    }

    /// Nobody works while CPU 0 looks.
    fn after(&mut self, _phase: usize) -> u64 {
        self.barrier.wait(self.platform);
        0
    }

    fn watch(&mut self, operations: u64) {
        self.watch.look(&self.subject, operations);
    }

    fn watched(&mut self) -> Vec<Series> {
        let points = self.watch.track.points(|blocks| blocks);
        let series = Series { name: "huge pages (2 MiB) free again", unit: "blocks", over: "operations", points };
        [series].into_iter().filter(|series| !series.points.is_empty()).collect()
    }

    fn finish(&mut self) {
        places::free_pages(&self.subject, &mut self.blocks, self.order);
    }
}
