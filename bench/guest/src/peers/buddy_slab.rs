//! [`BuddySlab`]: the `buddy-slab-allocator` crate, our nearest relative: a buddy and per-CPU slabs.
//!
//! It is given memory once and for all, and asks its kernel (here: this file) which slab cache is the calling CPU's and
//! how to lock (`quarry-subjects`).

use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::NonNull;
use core::slice;

use buddy_slab_allocator::interface::BuddySlabIf;
use buddy_slab_allocator::{GlobalAllocator, PerCpuSlab, SlabPoolTrait, SlabTrait};
use quarry_suite::Feature;
use quarry_topology::CpuId;
use quarry_unikernel::cpus;
use spin::Once;

use super::region::Region;
use super::subject::{MOST_BYTES, Peer};

const PAGE: usize = 4096;

static ALLOCATOR: GlobalAllocator<PAGE> = GlobalAllocator::new();

/// The slab caches of the CPUs, made when the allocator starts: each is 100 KB, too much for those that never are.
static SLABS: Once<Vec<PerCpuSlab<PAGE>>> = Once::new();

struct Pool;

impl Pool {
    fn of(cpu: usize) -> &'static PerCpuSlab<PAGE> {
        &SLABS.get().expect("it has started")[cpu]
    }
}

impl SlabPoolTrait for Pool {
    #[inline]
    fn current_slab(&self) -> &dyn SlabTrait {
        Self::of(self.current_cpu_id())
    }

    #[inline]
    fn owner_slab(&self, cpu: usize) -> &dyn SlabTrait {
        Self::of(cpu)
    }

    #[inline]
    fn current_cpu_id(&self) -> usize {
        cpus::current().index()
    }
}

struct Kernel;

#[ax_crate_interface::impl_interface]
impl BuddySlabIf for Kernel {
    fn virt_to_phys(vaddr: usize) -> usize {
        vaddr
    }

    fn slab_pool() -> &'static dyn SlabPoolTrait {
        &Pool
    }
}

/// The `buddy-slab-allocator` crate. Whoever has one has started the allocator.
pub(super) struct BuddySlab(());

impl Peer for BuddySlab {
    const NAME: &'static str = "buddy-slab";

    const FEATURES: &'static [Feature] = &[Feature::Sizes, Feature::Large, Feature::Pages, Feature::Held];

    fn start() -> Self {
        static START: Once = Once::new();
        START.call_once(|| {
            let last = cpus::online().map(CpuId::index).max().unwrap_or(0);
            SLABS.call_once(|| (0..=last).map(|cpu| PerCpuSlab::new(cpu as u16)).collect());
            let mut region = Region::take(MOST_BYTES);
            let bytes = region.left();
            let start = region.next(bytes).expect("all that is left is there");
            // It cannot be stopped, so its memory is never given back.
            core::mem::forget(region);
            // SAFETY: the memory is the allocator's for ever, and any bytes will do.
            let memory = unsafe { slice::from_raw_parts_mut(start.as_ptr(), bytes) };
            // SAFETY: as above.
            unsafe { ALLOCATOR.init(memory) }.expect("the region is large enough, and nobody started it before");
        });
        Self(())
    }

    fn allocate(&self, layout: Layout) -> Option<NonNull<u8>> {
        ALLOCATOR.alloc(layout).ok()
    }

    unsafe fn free(&self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { ALLOCATOR.dealloc(block, layout) }
    }

    fn allocate_pages(&self, order: u32) -> Option<NonNull<u8>> {
        let address = ALLOCATOR.alloc_pages(1 << order, PAGE << order).ok()?;
        NonNull::new(core::ptr::with_exposed_provenance_mut(address))
    }

    unsafe fn free_pages(&self, block: NonNull<u8>, order: u32) {
        ALLOCATOR.dealloc_pages(block.addr().get(), 1 << order);
    }

    fn held(&self) -> u64 {
        ALLOCATOR.allocated_bytes() as u64
    }
}
