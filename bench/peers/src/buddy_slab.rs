//! [`BuddySlab`]: the `buddy-slab-allocator` crate, the nearest relative of the hosted service: a kernel's buddy and
//! per-CPU slabs.
//!
//! It is given memory once, and asks its kernel (here: this file) which slab cache is the calling CPU's and how to
//! lock (`quarry-subjects`). Its slabs are the caches of the platform's CPUs, so only the platform's threads may use it.

use std::alloc::{Layout, alloc_zeroed};
use std::ptr::NonNull;
use std::slice;
use std::sync::Once;

use buddy_slab_allocator::interface::BuddySlabIf;
use buddy_slab_allocator::{GlobalAllocator, PerCpuSlab, SlabPoolTrait, StaticSlabPool};
use quarry_subjects::Memory;
use quarry_suite::{Empty, Feature, Subject};
use quarry_topology::NodeId;

use crate::malloc::malloc_alignment;
use crate::threads::{Threads, current_cpu};

const PAGE: usize = 4096;

/// Bytes the allocator is given.
const REGION: Layout = match Layout::from_size_align(4 << 30, 2 << 20) {
    Ok(layout) => layout,
    Err(_) => panic!("a size and a power of two"),
};

static ALLOCATOR: GlobalAllocator<PAGE> = GlobalAllocator::new();

static SLABS: StaticSlabPool<PAGE, { Threads::MOST }> = StaticSlabPool::new(slabs(), current_cpu);

#[allow(clippy::large_stack_arrays, reason = "made by the compiler, never on a stack")]
const fn slabs() -> [PerCpuSlab<PAGE>; Threads::MOST] {
    let mut slabs = [const { PerCpuSlab::new(0) }; Threads::MOST];
    let mut cpu = 0;
    while cpu < Threads::MOST {
        slabs[cpu] = PerCpuSlab::new(cpu as u16);
        cpu += 1;
    }
    slabs
}

struct Kernel;

#[ax_crate_interface::impl_interface]
impl BuddySlabIf for Kernel {
    fn virt_to_phys(vaddr: usize) -> usize {
        vaddr
    }

    fn slab_pool() -> &'static dyn SlabPoolTrait {
        &SLABS
    }
}

/// The `buddy-slab-allocator` crate. Whoever has one has started the allocator.
#[derive(Clone, Copy, Debug)]
pub struct BuddySlab(());

impl Default for BuddySlab {
    fn default() -> Self {
        static START: Once = Once::new();
        START.call_once(|| {
            // SAFETY: the layout has a size.
            let start =
                NonNull::new(unsafe { alloc_zeroed(REGION) }).expect("there are four gibibytes of address space");
            // SAFETY: the memory was just allocated and zeroed, and stays the allocator's for ever.
            let region = unsafe { slice::from_raw_parts_mut(start.as_ptr(), REGION.size()) };
            // SAFETY: as above.
            unsafe { ALLOCATOR.init(region) }.expect("it is enough, and nobody started it before");
        });
        Self(())
    }
}

/// A live allocation, with the size its free has to name.
#[derive(Debug)]
pub struct SizedMemory {
    memory: Memory,
    size: usize,
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, malloc_alignment(size)).expect("the suite's sizes are far below the limit")
}

impl Subject for BuddySlab {
    type Block = SizedMemory;
    type Objects = Empty;

    const NAME: &'static str = "buddy-slab";

    const FEATURES: &'static [Feature] =
        &[Feature::Sizes, Feature::Large, Feature::Inlined, Feature::Nodes, Feature::Pages];

    #[inline(never)]
    fn allocate(&self, size: usize) -> Option<SizedMemory> {
        let address = ALLOCATOR.alloc(layout(size)).ok()?;
        // SAFETY: the allocator hands out memory nobody else has.
        unsafe { Memory::new(address.as_ptr()) }.map(|memory| SizedMemory { memory, size })
    }

    #[inline(never)]
    fn free(&self, block: SizedMemory) {
        if let Some(address) = NonNull::new(block.memory.into_raw()) {
            // SAFETY: the token is used up, and carries the size it was allocated with.
            unsafe { ALLOCATOR.dealloc(address, layout(block.size)) }
        }
    }

    #[inline(always)]
    fn allocate_inlined<const SIZE: usize>(&self) -> Option<SizedMemory> {
        self.allocate(SIZE)
    }

    #[inline(always)]
    fn free_inlined(&self, block: SizedMemory) {
        self.free(block);
    }

    fn allocate_on(&self, size: usize, _node: NodeId) -> Option<SizedMemory> {
        self.allocate(size)
    }

    #[inline(never)]
    fn allocate_pages(&self, order: u32) -> Option<SizedMemory> {
        let size = PAGE << order;
        let address = ALLOCATOR.alloc_pages(1 << order, size).ok()?;
        // SAFETY: the pages are nobody else's.
        unsafe { Memory::new(address as *mut u8) }.map(|memory| SizedMemory { memory, size })
    }

    #[inline(never)]
    fn free_pages(&self, block: SizedMemory, order: u32) {
        ALLOCATOR.dealloc_pages(block.memory.into_raw() as usize, 1 << order);
    }

    fn address(&self, block: &SizedMemory) -> usize {
        block.memory.address()
    }

    fn fill(&self, block: &mut SizedMemory, length: usize, seed: u64) {
        assert!(length <= block.size, "the suite asks for no more than it asked the allocator for");
        // SAFETY: asserted.
        unsafe { block.memory.fill(length, seed) }
    }

    fn check(&self, block: &SizedMemory, length: usize, seed: u64) -> bool {
        assert!(length <= block.size, "the suite asks for no more than it asked the allocator for");
        // SAFETY: asserted, and the suite filled the bytes before it checks them.
        unsafe { block.memory.check(length, seed) }
    }

    fn is_zero(&self, block: &SizedMemory, length: usize) -> bool {
        assert!(length <= block.size, "the suite asks for no more than it asked the allocator for");
        // SAFETY: asserted, and whoever asks has had the bytes initialised.
        unsafe { block.memory.is_zero(length) }
    }

    #[inline(always)]
    fn touch(&self, block: &mut SizedMemory, writes: u32) {
        block.memory.touch(writes);
    }

    fn alignment(&self, size: usize) -> usize {
        malloc_alignment(size)
    }
}
