//! [`Watched`]: an allocator every call of which somebody watches.
//!
//! Used by the passes that [time](crate::stamped) calls and [count](crate::relayed) who makes them: they run a workload's
//! own loops over it, so what they tell is of the very code that is measured, and costs that nothing.

use alloc::sync::Arc;

use quarry_topology::NodeId;

use crate::ballast::Ballast;
use crate::places::Places;
use crate::subject::{Feature, Subject};

/// Who watches. A handle of one CPU; clones of a handle share what was seen.
pub(crate) trait Watch: Clone + Send + Sync + 'static {
    /// Makes a call that allocates, and looks at it.
    fn allocation<T>(&self, call: impl FnOnce() -> T) -> T;

    /// Makes a call that frees, and looks at it.
    fn release(&self, call: impl FnOnce());

    /// The handle of another CPU.
    fn for_cpu(&self, cpu: usize) -> Self;

    /// Says whether what this CPU does from here on is part of a sample.
    fn sampled(&self, _is: bool) {}
}

/// Every call of `subject`, watched.
#[derive(Clone)]
pub(crate) struct Watched<S, W> {
    pub(crate) subject: S,
    pub(crate) watch: W,
}

impl<S: Subject, W: Watch> Subject for Watched<S, W> {
    type Block = S::Block;
    type Objects = Watched<S::Objects, W>;

    const NAME: &'static str = S::NAME;

    const FEATURES: &'static [Feature] = S::FEATURES;

    #[inline(always)]
    fn allocate(&self, size: usize) -> Option<S::Block> {
        self.watch.allocation(|| self.subject.allocate(size))
    }

    #[inline(always)]
    fn free(&self, block: S::Block) {
        self.watch.release(|| self.subject.free(block));
    }

    #[inline(always)]
    fn allocate_inlined<const SIZE: usize>(&self) -> Option<S::Block> {
        self.watch.allocation(|| self.subject.allocate_inlined::<SIZE>())
    }

    #[inline(always)]
    fn free_inlined(&self, block: S::Block) {
        self.watch.release(|| self.subject.free_inlined(block));
    }

    #[inline(always)]
    fn allocate_constant<const SIZE: usize>(&self) -> Option<S::Block> {
        self.watch.allocation(|| self.subject.allocate_constant::<SIZE>())
    }

    #[inline(always)]
    fn allocate_on(&self, size: usize, node: NodeId) -> Option<S::Block> {
        self.watch.allocation(|| self.subject.allocate_on(size, node))
    }

    #[inline(always)]
    fn allocate_pages(&self, order: u32) -> Option<S::Block> {
        self.watch.allocation(|| self.subject.allocate_pages(order))
    }

    #[inline(always)]
    fn free_pages(&self, block: S::Block, order: u32) {
        self.watch.release(|| self.subject.free_pages(block, order));
    }

    #[inline(always)]
    fn allocate_zeroed(&self, size: usize) -> Option<S::Block> {
        self.watch.allocation(|| self.subject.allocate_zeroed(size))
    }

    #[inline(always)]
    fn allocate_atomic(&self, size: usize) -> Option<S::Block> {
        self.watch.allocation(|| self.subject.allocate_atomic(size))
    }

    #[inline(always)]
    fn allocate_bulk(&self, size: usize, places: &mut Places<S::Block>) -> bool {
        self.watch.allocation(|| self.subject.allocate_bulk(size, places))
    }

    #[inline(always)]
    fn free_bulk(&self, places: &mut Places<S::Block>) {
        self.watch.release(|| self.subject.free_bulk(places));
    }

    fn objects(&self, size: usize) -> Option<Self::Objects> {
        self.subject.objects(size).map(|subject| Watched { subject, watch: self.watch.clone() })
    }

    fn memory(&self) -> Option<u64> {
        self.subject.memory()
    }

    fn occupy(&self, leave: u64, cached: u64) -> Option<Arc<dyn Ballast>> {
        self.subject.occupy(leave, cached)
    }

    fn for_cpu(&self, cpu: usize) -> Self {
        Self { subject: self.subject.for_cpu(cpu), watch: self.watch.for_cpu(cpu) }
    }

    fn sampled(&self, is: bool) {
        self.watch.sampled(is);
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
