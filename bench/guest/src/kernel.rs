//! [`Kernel`]: the kernel's `kmalloc` and page layer as the suite measures them, and [`Objects`]: a `kmem_cache` of its.
//!
//! `allocate` and `free` are real calls with the size in a register, as from another crate, and `allocate_constant` is one
//! of a function that knows the size; the inlined pair is open to the optimiser, as within one image built with link-time
//! optimisation.

use alloc::sync::Arc;
use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicU64, Ordering};

use quarry_memory::{Gfp, KmemCache, Machine, Order, Service, SlabFlags};
use quarry_subjects::contents_of_memory;
use quarry_suite::{Ballast, Empty, Feature, Locks, Places, Pressed, Subject, Way};
use quarry_topology::NodeId;
use quarry_unikernel::log;
use quarry_unikernel::memory::service;

use crate::memory::{Memory, as_pointers, as_pointers_mut, memory};
use crate::pressure;

/// A handle on the kernel's memory service.
#[derive(Clone, Copy)]
pub(crate) struct Kernel;

impl Subject for Kernel {
    type Block = Memory;
    type Objects = Objects;

    const NAME: &'static str = "quarry";

    const FEATURES: &'static [Feature] = Feature::ALL;

    #[inline(never)]
    fn allocate(&self, size: usize) -> Option<Memory> {
        memory(service().kmalloc(size, Gfp::KERNEL))
    }

    #[inline(never)]
    fn free(&self, block: Memory) {
        // SAFETY: the token is used up, so nobody uses the object any more.
        unsafe { service().kfree(block.into_raw()) }
    }

    #[inline(always)]
    fn allocate_inlined<const SIZE: usize>(&self) -> Option<Memory> {
        memory(service().kmalloc(SIZE, Gfp::KERNEL))
    }

    #[inline(always)]
    fn free_inlined(&self, block: Memory) {
        // SAFETY: as in `free`.
        unsafe { service().kfree(block.into_raw()) }
    }

    #[inline(never)]
    fn allocate_constant<const SIZE: usize>(&self) -> Option<Memory> {
        memory(service().kmalloc(SIZE, Gfp::KERNEL))
    }

    fn allocate_on(&self, size: usize, node: NodeId) -> Option<Memory> {
        memory(service().kmalloc_node(size, Gfp::KERNEL, node))
    }

    #[inline(never)]
    fn allocate_pages(&self, order: u32) -> Option<Memory> {
        memory(service().get_free_pages(Gfp::KERNEL, Order::new(order)?))
    }

    #[inline(never)]
    fn free_pages(&self, block: Memory, order: u32) {
        service().free_pages(block.into_raw(), Order::new(order).expect("it was allocated with that order"));
    }

    #[inline(never)]
    fn allocate_zeroed(&self, size: usize) -> Option<Memory> {
        memory(service().kzalloc(size, Gfp::KERNEL))
    }

    #[inline(never)]
    fn allocate_atomic(&self, size: usize) -> Option<Memory> {
        memory(service().kmalloc(size, Gfp::ATOMIC))
    }

    /// There is no such call for what kmalloc gives; its objects are allocated one by one.
    fn free_bulk(&self, places: &mut Places<Memory>) {
        // SAFETY: the tokens are this function's to use up, and nobody sees them again.
        places.empty(|blocks| unsafe { service().kfree_bulk(as_pointers(blocks)) });
    }

    fn objects(&self, size: usize) -> Option<Objects> {
        Objects::new(size)
    }

    contents_of_memory!();

    fn node_of(&self, block: &Memory) -> Option<NodeId> {
        node_of(block)
    }

    fn in_use(&self) -> Option<u64> {
        Some(in_use())
    }

    fn held(&self) -> Option<u64> {
        Some(held())
    }

    fn locks(&self) -> Option<Locks> {
        Some(locks())
    }

    fn memory(&self) -> Option<u64> {
        Some(service().statistics().total)
    }

    fn occupy(&self, leave: u64, cached: u64) -> Option<Arc<dyn Ballast>> {
        Some(pressure::occupy(leave, cached))
    }

    fn fragmentation(&self) -> Option<f64> {
        Some(pressure::fragmentation())
    }

    fn free_blocks(&self, order: u32) -> Option<u64> {
        Some(pressure::free_in_blocks(order) >> order)
    }

    fn complaints(&self) -> u64 {
        // Relaxed: whoever ended a cache did it on this thread, or on one that has ended.
        CACHES_IN_USE.load(Ordering::Relaxed)
    }

    fn trim(&self) {
        trim(service());
    }
}

fn node_of(block: &Memory) -> Option<NodeId> {
    let page = service().virt_to_page(core::ptr::without_provenance(block.address()));
    page.and_then(|frame| service().page_to_node(frame))
}

/// Bytes callers have.
fn in_use() -> u64 {
    service().statistics().in_use()
}

/// How often locks of the service's shared layers were taken.
fn locks() -> Locks {
    let counts = service().lock_counts();
    Locks { zone: counts.zones, depot: counts.depots }
}

/// Bytes that are not free: what callers have, what the service keeps ready, and what it needs itself.
fn held() -> u64 {
    let rows = service().statistics();
    rows.total - rows.free - rows.deferred
}

/// Has this CPU and idle ones give back what they cache, and the depots what they keep.
fn trim<M: Machine>(service: &Service<M>) {
    service.drain_local();
    M::drain_others(service);
    service.shrink_depots();
    // Pages that depots gave up are on this CPU's lists now.
    service.drain_local();
}

/// Caches that were to be destroyed with objects in use.
static CACHES_IN_USE: AtomicU64 = AtomicU64::new(0);

/// A handle on a `kmem_cache`, made with `SLAB_NO_MERGE` and aligned to cache lines. The last one's drop destroys it.
#[derive(Clone)]
pub(crate) struct Objects(Arc<OwnCache>);

/// The cache, which is destroyed when this is dropped.
struct OwnCache(ManuallyDrop<KmemCache>);

impl Drop for OwnCache {
    fn drop(&mut self) {
        // SAFETY: it is taken once, here, and not used again.
        let cache = unsafe { ManuallyDrop::take(&mut self.0) };
        if let Err(remaining) = service().kmem_cache_destroy(cache) {
            log::error!("{remaining}");
            // The cache stays as it is: whoever has the objects may still use them.
            CACHES_IN_USE.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Objects {
    /// A cache for objects of that size; none where the service makes none.
    fn new(size: usize) -> Option<Self> {
        let flags = SlabFlags::HWCACHE_ALIGN | SlabFlags::NO_MERGE;
        match service().kmem_cache_create("suite", size, 0, flags, None) {
            Ok(cache) => Some(Self(Arc::new(OwnCache(ManuallyDrop::new(cache))))),
            Err(error) => {
                log::error!("no cache for objects of {size} bytes: {error}");
                None
            }
        }
    }

    #[inline(always)]
    fn cache(&self) -> &KmemCache {
        &self.0.0
    }
}

impl Subject for Objects {
    type Block = Memory;
    type Objects = Empty;

    const NAME: &'static str = Kernel::NAME;

    const FEATURES: &'static [Feature] = &[Feature::Nodes, Feature::Zeroed, Feature::Bulk, Feature::Atomic];

    #[inline(never)]
    fn allocate(&self, _size: usize) -> Option<Memory> {
        memory(service().kmem_cache_alloc(self.cache(), Gfp::KERNEL))
    }

    #[inline(never)]
    fn free(&self, block: Memory) {
        // SAFETY: the token is used up, so nobody uses the object any more.
        unsafe { service().kmem_cache_free(self.cache(), block.into_raw()) }
    }

    #[inline(always)]
    fn allocate_inlined<const SIZE: usize>(&self) -> Option<Memory> {
        memory(service().kmem_cache_alloc(self.cache(), Gfp::KERNEL))
    }

    #[inline(always)]
    fn free_inlined(&self, block: Memory) {
        // SAFETY: as in `free`.
        unsafe { service().kmem_cache_free(self.cache(), block.into_raw()) }
    }

    fn allocate_on(&self, _size: usize, node: NodeId) -> Option<Memory> {
        memory(service().kmem_cache_alloc_node(self.cache(), Gfp::KERNEL, node))
    }

    /// Caches have no pages.
    fn allocate_pages(&self, _order: u32) -> Option<Memory> {
        None
    }

    fn free_pages(&self, block: Memory, _order: u32) {
        self.free(block);
    }

    #[inline(never)]
    fn allocate_zeroed(&self, _size: usize) -> Option<Memory> {
        memory(service().kmem_cache_zalloc(self.cache(), Gfp::KERNEL))
    }

    #[inline(never)]
    fn allocate_atomic(&self, _size: usize) -> Option<Memory> {
        memory(service().kmem_cache_alloc(self.cache(), Gfp::ATOMIC))
    }

    #[inline(never)]
    fn allocate_bulk(&self, _size: usize, places: &mut Places<Memory>) -> bool {
        places.fill(|blocks| {
            // SAFETY: nobody needs what is in the places, and what the service writes there are objects of the caller's,
            // or nothing.
            let pointers = unsafe { as_pointers_mut(blocks) };
            service().kmem_cache_alloc_bulk(self.cache(), Gfp::KERNEL, pointers) == pointers.len()
        })
    }

    #[inline(never)]
    fn free_bulk(&self, places: &mut Places<Memory>) {
        // SAFETY: as in `Kernel::free_bulk`.
        places.empty(|blocks| unsafe { service().kmem_cache_free_bulk(self.cache(), as_pointers(blocks)) });
    }

    /// As `SLAB_HWCACHE_ALIGN` says: to a cache line, or to what several objects share one with.
    fn alignment(&self, size: usize) -> usize {
        size.next_power_of_two().clamp(8, 64)
    }

    contents_of_memory!();

    fn node_of(&self, block: &Memory) -> Option<NodeId> {
        node_of(block)
    }

    fn in_use(&self) -> Option<u64> {
        Some(in_use())
    }

    fn trim(&self) {
        trim(service());
    }

    fn held(&self) -> Option<u64> {
        Some(held())
    }

    fn locks(&self) -> Option<Locks> {
        Some(locks())
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
        memory(service().kmalloc(size, flags(way)))
    }

    fn allocate_pages_with(&self, way: Way, order: u32) -> Option<Memory> {
        memory(service().get_free_pages(flags(way), Order::new(order)?))
    }

    fn allocate_pages_near(&self, order: u32, node: NodeId) -> Option<Memory> {
        let flags = flags(Way::Optional).union(Gfp::THISNODE);
        let block = service().alloc_pages_node(node, flags, Order::new(order)?)?;
        memory(service().page_address(block))
    }
}
