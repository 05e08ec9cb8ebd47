//! Objects of any size: pairs, batches, remote frees, a mix of sizes, nodes. Those of caches use its loops as well.
//!
//! The loops have the shape of those of Linux's `slab_test`, so that the figures compare.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint::black_box;

use quarry_topology::NodeId;

use super::{Body, places};
use crate::case::{Extent, Workload};
use crate::dimensions::BATCH;
pub(super) use crate::dimensions::MIX_SLOTS;
use crate::dimensions::{MIX_LARGE_RECKONED, MIX_LARGE_SLOTS};
use crate::exchange::Exchange;
use crate::measure::{Run, Samples, nodes};
use crate::platform::Platform;
use crate::random::{MIX_MAXIMUM, Random, log_uniform_size};
use crate::sizes::{WithSize, dispatch};
use crate::subject::Subject;

/// Measures a case of one of these workloads.
pub(super) fn sample<P: Platform, S: Subject>(run: Run<P>, subject: &S) -> Option<Samples> {
    let size = match run.case.extent {
        Extent::Size(size) => size,
        Extent::Order(_) => return None,
        Extent::Mixed => MIX_MAXIMUM,
    };
    match run.case.workload {
        Workload::Pair => Some(pair(run, subject, size)),
        Workload::PairZeroed => Some(run.sample(subject, move |subject, _| PairZeroed { subject, size })),
        Workload::PairInlined => dispatch(size, SampleInlined { run, subject }),
        Workload::PairConstant => dispatch(size, SampleConstant { run, subject }),
        Workload::Batch | Workload::BatchLifo | Workload::Remote => Some(batch(run, subject, size)),
        workload @ (Workload::Mix | Workload::MixLarge) => {
            let slots = match workload {
                Workload::Mix => run.blocks(MIX_SLOTS, size + 1),
                _ => run.blocks(MIX_LARGE_SLOTS, MIX_LARGE_RECKONED),
            };
            // A power of two, for the loop masks a random number.
            let slots = if slots.is_power_of_two() { slots } else { slots.next_power_of_two() / 2 };
            let seed = run.sampling.seed;
            Some(run.sample(subject, move |subject, cpu| Mix::new(subject, Random::new(seed, cpu as u64), slots)))
        }
        Workload::Node => {
            let (platform, variant) = (run.platform, run.case.variant?);
            Some(run.sample(subject, move |subject, cpu| OnNode {
                subject,
                size,
                nodes: nodes(platform, cpu, variant),
            }))
        }
        _ => None,
    }
}

struct SampleInlined<'a, P, S> {
    run: Run<P>,
    subject: &'a S,
}

impl<P: Platform, S: Subject> WithSize for SampleInlined<'_, P, S> {
    type Output = Samples;

    fn with<const SIZE: usize>(self) -> Samples {
        self.run.sample(self.subject, |subject, _| PairInlined::<S, SIZE> { subject })
    }
}

struct SampleConstant<'a, P, S> {
    run: Run<P>,
    subject: &'a S,
}

impl<P: Platform, S: Subject> WithSize for SampleConstant<'_, P, S> {
    type Output = Samples;

    fn with<const SIZE: usize>(self) -> Samples {
        self.run.sample(self.subject, |subject, _| PairConstant::<S, SIZE> { subject })
    }
}

/// Pairs of that size.
pub(super) fn pair<P: Platform, S: Subject>(run: Run<P>, subject: &S, size: usize) -> Samples {
    run.sample(subject, move |subject, _| Pair { subject, size })
}

/// Batches of that size, exchanged or turned round where the workload says so.
pub(super) fn batch<P: Platform, S: Subject>(run: Run<P>, subject: &S, size: usize) -> Samples {
    let (platform, cpus) = (run.platform, run.case.cpus);
    let length = run.blocks(BATCH, size);
    let exchange = (run.case.workload == Workload::Remote).then(|| Arc::new(Exchange::new(cpus)));
    run.sample(subject, move |subject, cpu| Batch {
        subject,
        platform,
        size,
        cpu,
        blocks: (0..length).map(|_| None).collect(),
        exchange: exchange.clone(),
        last_first: run.case.workload == Workload::BatchLifo,
    })
}

/// [`Workload::Pair`](crate::Workload::Pair).
struct Pair<S> {
    subject: S,
    size: usize,
}

impl<S: Subject> Body for Pair<S> {
    #[inline(never)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let (subject, size) = (self.subject.clone(), black_box(self.size));
        let mut failures = 0;
        for _ in 0..operations {
            match subject.allocate(size) {
                Some(block) => subject.free(black_box(block)),
                None => failures += 1,
            }
        }
        failures
    }
}

/// [`Workload::PairInlined`](crate::Workload::PairInlined).
struct PairInlined<S, const SIZE: usize> {
    subject: S,
}

impl<S: Subject, const SIZE: usize> Body for PairInlined<S, SIZE> {
    #[inline(never)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let subject = self.subject.clone();
        let mut failures = 0;
        for _ in 0..operations {
            match subject.allocate_inlined::<SIZE>() {
                Some(block) => subject.free_inlined(black_box(block)),
                None => failures += 1,
            }
        }
        failures
    }
}

/// [`Workload::PairConstant`](crate::Workload::PairConstant).
struct PairConstant<S, const SIZE: usize> {
    subject: S,
}

impl<S: Subject, const SIZE: usize> Body for PairConstant<S, SIZE> {
    #[inline(never)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let subject = self.subject.clone();
        let mut failures = 0;
        for _ in 0..operations {
            match subject.allocate_constant::<SIZE>() {
                Some(block) => subject.free(black_box(block)),
                None => failures += 1,
            }
        }
        failures
    }
}

/// [`Workload::PairZeroed`](crate::Workload::PairZeroed).
struct PairZeroed<S> {
    subject: S,
    size: usize,
}

impl<S: Subject> Body for PairZeroed<S> {
    #[inline(never)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let (subject, size) = (self.subject.clone(), black_box(self.size));
        let mut failures = 0;
        for _ in 0..operations {
            match subject.allocate_zeroed(size) {
                Some(block) => subject.free(black_box(block)),
                None => failures += 1,
            }
        }
        failures
    }
}

/// [`Workload::Batch`](crate::Workload::Batch), [`Workload::BatchLifo`](crate::Workload::BatchLifo) and, with an exchange,
/// [`Workload::Remote`](crate::Workload::Remote).
struct Batch<S: Subject, P> {
    subject: S,
    platform: P,
    size: usize,
    cpu: usize,
    blocks: Vec<Option<S::Block>>,
    exchange: Option<Arc<Exchange<Option<S::Block>>>>,
    /// Whether the block allocated last is freed first.
    last_first: bool,
}

/// The first phase of all workloads that have two.
pub(super) const ALLOCATE: usize = 0;

impl<S: Subject, P: Platform> Batch<S, P> {
    #[inline(never)]
    fn allocate(&mut self) {
        let (subject, size) = (self.subject.clone(), black_box(self.size));
        places::fill(&mut self.blocks, || subject.allocate(size));
    }

    #[inline(never)]
    fn free(&mut self) {
        let subject = self.subject.clone();
        places::empty(&mut self.blocks, |block| subject.free(block));
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
        if let Some(exchange) = &self.exchange {
            exchange.pass_on(self.platform, self.cpu, &mut self.blocks);
        }
        if self.last_first {
            self.blocks.reverse();
        }
        failures
    }
}

/// [`Workload::Mix`](crate::Workload::Mix) and [`Workload::MixLarge`](crate::Workload::MixLarge).
struct Mix<S: Subject> {
    subject: S,
    random: Random,
    /// A power of two of them.
    slots: Vec<Option<S::Block>>,
}

impl<S: Subject> Mix<S> {
    /// With every slot filled; `slots` is a power of two.
    fn new(subject: S, mut random: Random, slots: usize) -> Self {
        let slots = (0..slots).map(|_| subject.allocate(log_uniform_size(&mut random))).collect();
        Self { subject, random, slots }
    }
}

impl<S: Subject> Body for Mix<S> {
    #[inline(never)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let subject = self.subject.clone();
        let slots = self.slots.as_mut_slice();
        let mut random = self.random.clone();
        let mut failures = 0;
        for _ in 0..operations {
            let place = (random.next_u64() >> 32) as usize & (slots.len() - 1);
            let slot = &mut slots[place];
            // As `places::replace`, which compiles to another number of instructions here.
            if let Some(block) = slot.take() {
                subject.free(block);
            }
            *slot = subject.allocate(log_uniform_size(&mut random));
            failures += u64::from(slot.is_none());
        }
        self.random = random;
        failures
    }

    fn finish(&mut self) {
        places::free_objects(&self.subject, &mut self.slots);
    }
}

/// [`Workload::Node`](crate::Workload::Node): the nodes asked for in turn.
struct OnNode<S> {
    subject: S,
    size: usize,
    nodes: [NodeId; 2],
}

impl<S: Subject> Body for OnNode<S> {
    #[inline(never)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let (subject, size, nodes) = (self.subject.clone(), black_box(self.size), black_box(self.nodes));
        let mut failures = 0;
        for index in 0..operations {
            match subject.allocate_on(size, nodes[index as usize & 1]) {
                Some(block) => subject.free(black_box(block)),
                None => failures += 1,
            }
        }
        failures
    }
}
