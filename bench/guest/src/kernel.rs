//! [`Kernel`]: the kernel's `kmalloc` and page layer as the suite measures them.
//!
//! `allocate` and `free` are real calls with the size in a register, as from another crate; the inlined pair is open to
//! the optimiser, as within one image built with link-time optimisation.

use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::slice;

use quarry_memory::{Gfp, Order};
use quarry_suite::{Empty, Feature, Pressed, Subject, Way, pattern};
use quarry_topology::NodeId;
use quarry_unikernel::memory::service;

/// A handle on the kernel's memory service.
#[derive(Clone, Copy)]
pub(crate) struct Kernel;

/// Memory of the service. Gives it back only when asked to.
pub(crate) struct Memory(NonNull<u8>);

// SAFETY: the token owns its memory, and nothing about the service's memory is bound to a CPU.
unsafe impl Send for Memory {}

impl Subject for Kernel {
    type Block = Memory;
    type Objects = Empty;

    const NAME: &'static str = "quarry";

    const FEATURES: &'static [Feature] = &[Feature::Sizes, Feature::Inlined, Feature::Nodes, Feature::Pages];

    #[inline(never)]
    fn allocate(&self, size: usize) -> Option<Memory> {
        NonNull::new(service().kmalloc(size, Gfp::KERNEL)).map(Memory)
    }

    #[inline(never)]
    fn free(&self, block: Memory) {
        // SAFETY: the token is used up, so nobody uses the object any more.
        unsafe { service().kfree(block.0.as_ptr()) }
    }

    #[inline(always)]
    fn allocate_inlined<const SIZE: usize>(&self) -> Option<Memory> {
        NonNull::new(service().kmalloc(SIZE, Gfp::KERNEL)).map(Memory)
    }

    #[inline(always)]
    fn free_inlined(&self, block: Memory) {
        // SAFETY: as in `free`.
        unsafe { service().kfree(block.0.as_ptr()) }
    }

    fn allocate_on(&self, size: usize, node: NodeId) -> Option<Memory> {
        NonNull::new(service().kmalloc_node(size, Gfp::KERNEL, node)).map(Memory)
    }

    #[inline(never)]
    fn allocate_pages(&self, order: u32) -> Option<Memory> {
        NonNull::new(service().get_free_pages(Gfp::KERNEL, Order::new(order)?)).map(Memory)
    }

    #[inline(never)]
    fn free_pages(&self, block: Memory, order: u32) {
        service().free_pages(block.0.as_ptr(), Order::new(order).expect("it was allocated with that order"));
    }

    fn address(&self, block: &Memory) -> usize {
        block.0.as_ptr().addr()
    }

    fn fill(&self, block: &mut Memory, length: usize, seed: u64) {
        // SAFETY: the suite asks for no more than it asked the allocator for, and the token is borrowed exclusively.
        let bytes = unsafe { slice::from_raw_parts_mut(block.0.as_ptr().cast::<MaybeUninit<u8>>(), length) };
        pattern::fill(bytes, seed);
    }

    fn check(&self, block: &Memory, length: usize, seed: u64) -> bool {
        // SAFETY: as for `fill`, and the suite filled the bytes before it checks them.
        let bytes = unsafe { slice::from_raw_parts(block.0.as_ptr(), length) };
        pattern::check(bytes, seed)
    }

    fn is_zero(&self, block: &Memory, length: usize) -> bool {
        // SAFETY: as for `check`; the service zeroed the bytes or the suite filled them.
        pattern::is_zero(unsafe { slice::from_raw_parts(block.0.as_ptr(), length) })
    }

    fn node_of(&self, block: &Memory) -> Option<NodeId> {
        service().virt_to_page(block.0.as_ptr()).and_then(|frame| service().page_to_node(frame))
    }

    fn in_use(&self) -> Option<u64> {
        Some(service().statistics().in_use())
    }
}

/// The flags that ask in that way. Refusals are counted, not reported.
const fn flags(way: Way) -> Gfp {
    match way {
        Way::Patient => Gfp::KERNEL.union(Gfp::NOWARN),
        Way::Atomic => Gfp::ATOMIC.union(Gfp::NOWARN),
        Way::Unfailing => Gfp::KERNEL.union(Gfp::NOFAIL),
        Way::Optional => Gfp::KERNEL.union(Gfp::NORETRY).union(Gfp::NOWARN),
    }
}

impl Pressed for Kernel {
    fn allocate_with(&self, way: Way, size: usize) -> Option<Memory> {
        NonNull::new(service().kmalloc(size, flags(way))).map(Memory)
    }

    fn allocate_pages_with(&self, way: Way, order: u32) -> Option<Memory> {
        NonNull::new(service().get_free_pages(flags(way), Order::new(order)?)).map(Memory)
    }
}
