//! [`Stamped`]: an allocator whose every call is timed by itself.
//!
//! A pass of its own runs a workload's loops over it, so the distribution of latencies comes from the very code whose
//! throughput is measured, and costs the throughput nothing. Two readings of the clock are in every figure; what they
//! take with nothing in between is measured as well ([`clock_cost`]).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint::black_box;

use quarry_topology::NodeId;

use crate::ballast::Ballast;
use crate::histogram::{Counts, Histogram};
use crate::platform::Platform;
use crate::subject::{Feature, Subject};

/// Readings of the clock that [`clock_cost`] looks at.
const CLOCK_READINGS: u64 = 2001;

/// Every call of `subject`, timed.
#[derive(Clone)]
pub(crate) struct Stamped<S, P> {
    subject: S,
    platform: P,
    cpu: usize,
    /// Of each CPU.
    calls: Arc<Vec<Calls>>,
}

/// What the calls of one CPU took.
struct Calls {
    allocate: Counts,
    free: Counts,
}

impl<S: Subject, P: Platform> Stamped<S, P> {
    pub(crate) fn new(subject: S, platform: P, cpus: usize) -> Self {
        let calls = (0..cpus).map(|_| Calls { allocate: Counts::new(), free: Counts::new() }).collect();
        Self { subject, platform, cpu: 0, calls: Arc::new(calls) }
    }

    /// What allocations took, on all CPUs.
    pub(crate) fn allocations(&self) -> Histogram {
        self.sum(|calls| &calls.allocate)
    }

    /// What frees took, on all CPUs.
    pub(crate) fn frees(&self) -> Histogram {
        self.sum(|calls| &calls.free)
    }

    fn sum(&self, of: impl Fn(&Calls) -> &Counts) -> Histogram {
        let mut sum = Histogram::default();
        for calls in &*self.calls {
            sum.add(of(calls));
        }
        sum
    }

    #[inline(always)]
    fn timed<T>(&self, counts: impl Fn(&Calls) -> &Counts, call: impl FnOnce() -> T) -> T {
        let start = self.platform.ticks();
        let result = black_box(call());
        let end = self.platform.ticks();
        counts(&self.calls[self.cpu]).add(end.saturating_sub(start));
        result
    }

    #[inline(always)]
    fn allocation<T>(&self, call: impl FnOnce() -> T) -> T {
        self.timed(|calls| &calls.allocate, call)
    }

    #[inline(always)]
    fn release(&self, call: impl FnOnce()) {
        self.timed(|calls| &calls.free, call);
    }
}

/// What [`Stamped`] measures of no call at all: the median.
pub(crate) fn clock_cost(platform: impl Platform) -> u64 {
    let counts = Counts::new();
    for _ in 0..CLOCK_READINGS {
        let start = platform.ticks();
        black_box(());
        let end = platform.ticks();
        counts.add(end.saturating_sub(start));
    }
    let mut histogram = Histogram::default();
    histogram.add(&counts);
    histogram.percentile(50, 100)
}

impl<S: Subject, P: Platform> Subject for Stamped<S, P> {
    type Block = S::Block;
    type Objects = Stamped<S::Objects, P>;

    const NAME: &'static str = S::NAME;

    const FEATURES: &'static [Feature] = S::FEATURES;

    #[inline(always)]
    fn allocate(&self, size: usize) -> Option<S::Block> {
        self.allocation(|| self.subject.allocate(size))
    }

    #[inline(always)]
    fn free(&self, block: S::Block) {
        self.release(|| self.subject.free(block));
    }

    #[inline(always)]
    fn allocate_inlined<const SIZE: usize>(&self) -> Option<S::Block> {
        self.allocation(|| self.subject.allocate_inlined::<SIZE>())
    }

    #[inline(always)]
    fn free_inlined(&self, block: S::Block) {
        self.release(|| self.subject.free_inlined(block));
    }

    #[inline(always)]
    fn allocate_constant<const SIZE: usize>(&self) -> Option<S::Block> {
        self.allocation(|| self.subject.allocate_constant::<SIZE>())
    }

    #[inline(always)]
    fn allocate_on(&self, size: usize, node: NodeId) -> Option<S::Block> {
        self.allocation(|| self.subject.allocate_on(size, node))
    }

    #[inline(always)]
    fn allocate_pages(&self, order: u32) -> Option<S::Block> {
        self.allocation(|| self.subject.allocate_pages(order))
    }

    #[inline(always)]
    fn free_pages(&self, block: S::Block, order: u32) {
        self.release(|| self.subject.free_pages(block, order));
    }

    #[inline(always)]
    fn allocate_zeroed(&self, size: usize) -> Option<S::Block> {
        self.allocation(|| self.subject.allocate_zeroed(size))
    }

    #[inline(always)]
    fn allocate_atomic(&self, size: usize) -> Option<S::Block> {
        self.allocation(|| self.subject.allocate_atomic(size))
    }

    #[inline(always)]
    fn allocate_bulk(&self, size: usize, blocks: &mut [Option<S::Block>]) -> bool {
        self.allocation(|| self.subject.allocate_bulk(size, blocks))
    }

    #[inline(always)]
    fn free_bulk(&self, blocks: &mut [Option<S::Block>]) {
        self.release(|| self.subject.free_bulk(blocks));
    }

    fn objects(&self, size: usize) -> Option<Self::Objects> {
        let (platform, cpu, calls) = (self.platform, self.cpu, self.calls.clone());
        self.subject.objects(size).map(|subject| Stamped { subject, platform, cpu, calls })
    }

    fn memory(&self) -> Option<u64> {
        self.subject.memory()
    }

    fn occupy(&self, leave: u64, cached: u64) -> Option<Arc<dyn Ballast>> {
        self.subject.occupy(leave, cached)
    }

    fn for_cpu(&self, cpu: usize) -> Self {
        Self { subject: self.subject.for_cpu(cpu), cpu, ..self.clone() }
    }

    fn address(&self, block: &S::Block) -> usize {
        self.subject.address(block)
    }

    fn fill(&self, block: &mut S::Block, length: usize, seed: u64) {
        self.subject.fill(block, length, seed);
    }

    fn check(&self, block: &S::Block, length: usize, seed: u64) -> bool {
        self.subject.check(block, length, seed)
    }

    fn is_zero(&self, block: &S::Block, length: usize) -> bool {
        self.subject.is_zero(block, length)
    }

    #[inline(always)]
    fn touch(&self, block: &mut S::Block, writes: u32) {
        self.subject.touch(block, writes);
    }

    fn alignment(&self, size: usize) -> usize {
        self.subject.alignment(size)
    }

    fn node_of(&self, block: &S::Block) -> Option<NodeId> {
        self.subject.node_of(block)
    }
}
