//! [`Subject`]: the allocator being measured, as the workloads see it.
//!
//! Implemented by the guest over the kernel's `kmalloc`, by `quarry-peers` over hosted allocators and by the tests over
//! an arena that can be told to misbehave; [`Pressed`] by those that know several ways to ask. [`Empty`] allocates nothing and times the loops themselves.

use alloc::sync::Arc;
use core::hint::black_box;
use core::mem::MaybeUninit;

use quarry_topology::NodeId;

use crate::ballast::Ballast;
use crate::pattern;
use crate::places::Places;

/// A handle on the allocator being measured. Cheap to clone: every CPU has its own ([`Self::for_cpu`]).
///
/// A block is a token that stands for memory: it is not `Copy`, so that safe code can neither free one twice nor write
/// to one it gave back, and it should be one pointer wide and have no `Drop`, so that the timed loops stay bare.
/// Whether a call is inlined is the implementor's choice per method: `allocate` and `free` should be real calls with
/// the size in a register, as an allocator in another crate or behind a shared library is called; the `_inlined` pair
/// should be open to the optimiser.
pub trait Subject: Clone + Send + Sync + 'static {
    /// Memory handed out, to be given back by exactly one `free`.
    type Block: Send + 'static;

    /// The same allocator, handing out objects of one size from a cache of their own. [`Empty`] where it has none.
    type Objects: Subject;

    /// Name of the allocator in the results.
    const NAME: &'static str;

    /// What it can do. Workloads that need more are left out.
    const FEATURES: &'static [Feature];

    /// The same of this one, where handles of a type stand for several allocators.
    fn features(&self) -> &'static [Feature] {
        Self::FEATURES
    }

    /// At least `size` bytes (`size` > 0), or `None` when there are none. Called.
    fn allocate(&self, size: usize) -> Option<Self::Block>;

    /// Gives a block back that came from [`Self::allocate`], [`Self::allocate_inlined`], [`Self::allocate_constant`] or
    /// [`Self::allocate_on`]. Called.
    fn free(&self, block: Self::Block);

    /// Like [`Self::allocate`] with a size known at compile time. Inlined.
    fn allocate_inlined<const SIZE: usize>(&self) -> Option<Self::Block>;

    /// Like [`Self::free`]. Inlined.
    fn free_inlined(&self, block: Self::Block);

    /// Like [`Self::allocate`] with a size known at compile time. Called, unlike [`Self::allocate_inlined`]; by default
    /// with the size in a register.
    fn allocate_constant<const SIZE: usize>(&self) -> Option<Self::Block> {
        self.allocate(SIZE)
    }

    /// At least `size` bytes on `node`, or elsewhere when that node has none.
    fn allocate_on(&self, size: usize, node: NodeId) -> Option<Self::Block>;

    /// `1 << order` contiguous pages of 4 KiB, aligned to their size.
    fn allocate_pages(&self, order: u32) -> Option<Self::Block>;

    /// Gives back a block that came from [`Self::allocate_pages`] with the same `order`.
    fn free_pages(&self, block: Self::Block, order: u32);

    /// Like [`Self::allocate`], and the first `size` bytes are 0. With [`Feature::Zeroed`].
    fn allocate_zeroed(&self, _size: usize) -> Option<Self::Block> {
        None
    }

    /// Like [`Self::allocate`], and may be called in interrupt handlers, as may [`Self::free`]. With
    /// [`Feature::Atomic`].
    fn allocate_atomic(&self, _size: usize) -> Option<Self::Block> {
        None
    }

    /// Fills all places, which are empty, or none; tells which. With [`Feature::Bulk`].
    fn allocate_bulk(&self, size: usize, places: &mut Places<Self::Block>) -> bool {
        places.fill(|places| {
            for place in &mut *places {
                *place = self.allocate(size);
            }
            let complete = places.iter().all(Option::is_some);
            if !complete {
                places.iter_mut().filter_map(Option::take).for_each(|block| self.free(block));
            }
            complete
        })
    }

    /// Gives back all blocks there are. With [`Feature::Bulk`].
    fn free_bulk(&self, places: &mut Places<Self::Block>) {
        places.empty(|places| places.iter_mut().filter_map(Option::take).for_each(|block| self.free(block)));
    }

    /// A cache of objects of `size` bytes, which ends with the last handle on it. With [`Feature::Caches`].
    fn objects(&self, _size: usize) -> Option<Self::Objects> {
        None
    }

    /// A handle on the same allocator as it is when nothing was ever asked of it, where it can be started anew: each case
    /// begins with one, so that no case depends on those before it. No block is live.
    #[must_use]
    fn fresh(&self) -> Self {
        self.clone()
    }

    /// The handle of one CPU, which calls this before anything else.
    #[must_use]
    fn for_cpu(&self, _cpu: usize) -> Self {
        self.clone()
    }

    /// Says that what this CPU does from here on is part of a sample, or is no more. Nothing to an allocator; for those
    /// who watch one.
    fn sampled(&self, _is: bool) {}

    /// Address of the block's first byte.
    fn address(&self, block: &Self::Block) -> usize;

    /// Writes the pattern of `seed` (see [`crate::pattern`]) to the first `length` bytes. `length` is what was asked
    /// for.
    fn fill(&self, block: &mut Self::Block, length: usize, seed: u64);

    /// Whether the first `length` bytes still hold the pattern of `seed`.
    fn check(&self, block: &Self::Block, length: usize, seed: u64) -> bool;

    /// Whether the first `length` bytes are 0.
    fn is_zero(&self, block: &Self::Block, length: usize) -> bool;

    /// Writes to the block's first byte so often, as a program does that uses its memory, with [`pattern::touch`]:
    /// whoever shares the cache line notices. Inlined.
    ///
    /// [`pattern::touch`]: crate::pattern::touch
    fn touch(&self, block: &mut Self::Block, writes: u32);

    /// The alignment promised for a block of `size` bytes. As Linux's `kmalloc`: a power of two is naturally
    /// aligned, everything else to 8 bytes.
    fn alignment(&self, size: usize) -> usize {
        if size.is_power_of_two() { size } else { 8 }
    }

    /// The node a block's memory is on, where that is known.
    fn node_of(&self, _block: &Self::Block) -> Option<NodeId> {
        None
    }

    /// Bytes handed out and not given back, counted by the allocator itself, where it does so exactly and nobody else
    /// uses it: what a check pass took must be back when it ends.
    fn in_use(&self) -> Option<u64> {
        None
    }

    /// Bytes of memory the allocator has taken for itself and its blocks, caches included, where that is known. With
    /// [`Feature::Held`].
    fn held(&self) -> Option<u64> {
        None
    }

    /// Bytes of memory there are, whoever has them, where that is known.
    fn memory(&self) -> Option<u64> {
        None
    }

    /// Takes memory until `leave` bytes are free; the last `cached` bytes it takes are such that the allocator gets them
    /// back when it is short of memory. With [`Feature::Pressure`].
    fn occupy(&self, _leave: u64, _cached: u64) -> Option<Arc<dyn Ballast>> {
        None
    }

    /// How often the locks of the allocator's shared layers were taken so far, where it counts that.
    fn locks(&self) -> Option<Locks> {
        None
    }

    /// Of all free memory, the part that cannot be had in blocks of order 9, 0 to 1, where that is known: the unusable
    /// free space index of Mel Gorman's thesis, which Linux has as `unusable_index` in its debugfs.
    fn fragmentation(&self) -> Option<f64> {
        None
    }

    /// How many blocks of `1 << order` pages there are in free memory, where that can be seen without taking any. What lies
    /// on lists of CPUs is in none.
    fn free_blocks(&self, _order: u32) -> Option<u64> {
        None
    }

    /// What the allocator itself found wrong so far, where nobody else can see it: caches that ended with objects in
    /// use. What this grows by while a case runs are errors of the case.
    fn complaints(&self) -> u64 {
        0
    }

    /// Gives back what it only caches, as far as it can: so that [`Self::held`] begins low.
    fn trim(&self) {}
}

/// Bytes above which not every allocator has blocks: see [`Feature::Large`].
pub const LARGE: usize = 128 << 10;

/// Something not every allocator can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Blocks of any size, up to [`LARGE`] at least.
    Sizes,
    /// Blocks of more than that as well.
    Large,
    /// Pairs inlined into a loop, with a size known at compile time.
    Inlined,
    /// Memory of a node that is asked for.
    Nodes,
    /// Blocks of pages.
    Pages,
    /// Zeroed memory.
    Zeroed,
    /// Many objects in one call.
    Bulk,
    /// Caches of objects of one size.
    Caches,
    /// Memory for interrupt handlers.
    Atomic,
    /// Memory can be made short, and what is free can be looked at.
    Pressure,
    /// It tells what memory it holds.
    Held,
}

impl Feature {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Sizes,
        Self::Large,
        Self::Inlined,
        Self::Nodes,
        Self::Pages,
        Self::Zeroed,
        Self::Bulk,
        Self::Caches,
        Self::Atomic,
        Self::Pressure,
        Self::Held,
    ];
}

/// In which way memory is asked for, when there may be none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Waits for it, and may be refused in the end. `GFP_KERNEL`.
    Patient,
    /// Never waits; may use some of what is reserved. `GFP_ATOMIC`.
    Atomic,
    /// Waits as long as it takes, and is never refused. `__GFP_NOFAIL`.
    Unfailing,
    /// Is refused rather than wait: the caller can do without. `__GFP_NORETRY`.
    Optional,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Patient, Self::Atomic, Self::Unfailing, Self::Optional];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Patient => "patient",
            Self::Atomic => "atomic",
            Self::Unfailing => "unfailing",
            Self::Optional => "optional",
        }
    }
}

/// An allocator that can be asked in several ways. What it gives goes back as [`Subject`] says.
pub trait Pressed: Subject {
    /// [`Subject::allocate`] in that way.
    fn allocate_with(&self, way: Way, size: usize) -> Option<Self::Block>;

    /// [`Subject::allocate_pages`] in that way.
    fn allocate_pages_with(&self, way: Way, order: u32) -> Option<Self::Block>;

    /// `1 << order` pages of `node` and no other, in the way of those who can do without.
    fn allocate_pages_near(&self, order: u32, node: NodeId) -> Option<Self::Block>;
}

/// How often locks were taken, modulo 2^32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Locks {
    /// Those of zones, which guard free page blocks.
    pub zone: u32,
    /// Those of depots, which guard free objects.
    pub depot: u32,
}

impl Locks {
    /// How often they were taken after `earlier`, if less than 2^32 times.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self { zone: self.zone.wrapping_sub(earlier.zone), depot: self.depot.wrapping_sub(earlier.depot) }
    }
}

/// Allocates nothing: what is left of a timed loop run over it is the loop, and that is the baseline of the results.
#[derive(Clone, Copy, Debug)]
pub struct Empty;

/// A block of [`Empty`]. Not null, so that loops take the branch they take over a real allocator.
#[derive(Debug)]
pub struct EmptyBlock(core::num::NonZeroUsize);

impl EmptyBlock {
    #[inline(always)]
    fn new(size: usize) -> Option<Self> {
        core::num::NonZeroUsize::new(black_box(size)).map(Self)
    }
}

impl Subject for Empty {
    type Block = EmptyBlock;
    type Objects = Self;

    const NAME: &'static str = "empty";

    const FEATURES: &'static [Feature] = Feature::ALL;

    #[inline(always)]
    fn allocate(&self, size: usize) -> Option<EmptyBlock> {
        EmptyBlock::new(size)
    }

    #[inline(always)]
    fn free(&self, block: EmptyBlock) {
        black_box(block);
    }

    #[inline(always)]
    fn allocate_inlined<const SIZE: usize>(&self) -> Option<EmptyBlock> {
        EmptyBlock::new(SIZE)
    }

    #[inline(always)]
    fn free_inlined(&self, block: EmptyBlock) {
        black_box(block);
    }

    #[inline(always)]
    fn allocate_constant<const SIZE: usize>(&self) -> Option<EmptyBlock> {
        EmptyBlock::new(SIZE)
    }

    #[inline(always)]
    fn allocate_on(&self, size: usize, node: NodeId) -> Option<EmptyBlock> {
        black_box(node);
        EmptyBlock::new(size)
    }

    #[inline(always)]
    fn allocate_pages(&self, order: u32) -> Option<EmptyBlock> {
        EmptyBlock::new(4096 << order)
    }

    #[inline(always)]
    fn free_pages(&self, block: EmptyBlock, _order: u32) {
        black_box(block);
    }

    #[inline(always)]
    fn allocate_zeroed(&self, size: usize) -> Option<EmptyBlock> {
        EmptyBlock::new(size)
    }

    #[inline(always)]
    fn allocate_atomic(&self, size: usize) -> Option<EmptyBlock> {
        EmptyBlock::new(size)
    }

    /// Nothing: a bulk call has no loop of the workload's.
    #[inline(always)]
    fn allocate_bulk(&self, size: usize, places: &mut Places<EmptyBlock>) -> bool {
        black_box((size, places));
        true
    }

    #[inline(always)]
    fn free_bulk(&self, places: &mut Places<EmptyBlock>) {
        black_box(places);
    }

    fn objects(&self, _size: usize) -> Option<Self> {
        Some(Self)
    }

    fn occupy(&self, _leave: u64, _cached: u64) -> Option<Arc<dyn Ballast>> {
        Some(Arc::new(()))
    }

    fn address(&self, block: &EmptyBlock) -> usize {
        block.0.get()
    }

    fn is_zero(&self, _block: &EmptyBlock, _length: usize) -> bool {
        true
    }

    /// The same writes, to a byte of the stack.
    #[inline(always)]
    fn touch(&self, _block: &mut EmptyBlock, writes: u32) {
        pattern::touch(&mut MaybeUninit::uninit(), writes);
    }

    fn fill(&self, _block: &mut EmptyBlock, _length: usize, _seed: u64) {}

    fn check(&self, _block: &EmptyBlock, _length: usize, _seed: u64) -> bool {
        true
    }
}
