//! [`Quarry`]: the hosted memory service, as a program would use it: the one instance of the process.

use quarry_memory::hosted::{ProcessHeap, ProcessMachine};
use quarry_memory::{Gfp, Machine, NodeId, Order};
use quarry_subjects::{Memory, contents_of_memory};
use quarry_suite::{Empty, Feature, Subject};

static SERVICE: ProcessHeap = ProcessHeap;

/// The hosted memory service.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quarry;

impl Subject for Quarry {
    type Block = Memory;
    type Objects = Empty;

    const NAME: &'static str = "quarry";

    const FEATURES: &'static [Feature] =
        &[Feature::Sizes, Feature::Large, Feature::Inlined, Feature::Nodes, Feature::Pages];

    #[inline(never)]
    fn allocate(&self, size: usize) -> Option<Memory> {
        // SAFETY: kmalloc hands out memory nobody else has; the suite asks for no block of size 0.
        unsafe { Memory::new(SERVICE.service().kmalloc(size, Gfp::KERNEL)) }
    }

    #[inline(never)]
    fn free(&self, block: Memory) {
        // SAFETY: the token is used up, so nobody uses the object any more.
        unsafe { SERVICE.service().kfree(block.into_raw()) }
    }

    #[inline(always)]
    fn allocate_inlined<const SIZE: usize>(&self) -> Option<Memory> {
        // SAFETY: as in `allocate`.
        unsafe { Memory::new(SERVICE.service().kmalloc(SIZE, Gfp::KERNEL)) }
    }

    #[inline(always)]
    fn free_inlined(&self, block: Memory) {
        // SAFETY: as in `free`.
        unsafe { SERVICE.service().kfree(block.into_raw()) }
    }

    fn allocate_on(&self, size: usize, node: NodeId) -> Option<Memory> {
        // SAFETY: as in `allocate`.
        unsafe { Memory::new(SERVICE.service().kmalloc_node(size, Gfp::KERNEL, node)) }
    }

    #[inline(never)]
    fn allocate_pages(&self, order: u32) -> Option<Memory> {
        // SAFETY: the pages are nobody else's.
        unsafe { Memory::new(SERVICE.service().get_free_pages(Gfp::KERNEL, Order::new(order)?)) }
    }

    #[inline(never)]
    fn free_pages(&self, block: Memory, order: u32) {
        let order = Order::new(order).expect("it was allocated with that order");
        SERVICE.service().free_pages(block.into_raw(), order);
    }

    contents_of_memory!();

    fn in_use(&self) -> Option<u64> {
        Some(SERVICE.service().statistics().in_use())
    }

    fn held(&self) -> Option<u64> {
        let rows = SERVICE.service().statistics();
        Some(rows.total - rows.free - rows.deferred)
    }

    fn trim(&self) {
        let service = SERVICE.service();
        service.drain_local();
        ProcessMachine::drain_others(service);
        service.shrink_depots();
        // Pages that depots gave up are on this CPU's lists now.
        service.drain_local();
    }
}
