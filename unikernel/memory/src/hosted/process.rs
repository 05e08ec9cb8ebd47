//! [`ProcessHeap`]: the one instance of a process whose threads' state is at a place known at compile time.
//!
//! For programs whose allocator the service is, where a call is so short that each load of it counts. There is one such
//! instance because the place is one: nobody outside this module can make another, so no call of one instance finds the
//! set of another.

use core::alloc::{GlobalAlloc, Layout};
use core::ops::Deref;

use super::{DEFAULT_TOPOLOGY, Hosted, HostedMachine};

/// The memory service of the whole process: its global allocator, or any other use of the service that is one in a
/// process.
///
/// What it can do is what [`Hosted`] can, on the machine of [`Hosted::new`]; each `kmalloc` and `kfree` needs two loads
/// fewer to find the calling thread's set, and where more than 128 MiB are in use, huge pages are asked for. All values of this type are the same instance, as those of
/// [`std::alloc::System`] are. It starts with its first allocation, and there may be up to [`MAX_INSTANCES`] of
/// [`Hosted`] beside it; what one allocated another must not free. A program that wants several instances, or a machine
/// of another shape, makes a [`Hosted`].
///
/// ```
/// use quarry_memory::Gfp;
/// use quarry_memory::hosted::ProcessHeap;
///
/// #[global_allocator]
/// static ALLOCATOR: ProcessHeap = ProcessHeap;
///
/// fn main() {
///     let words = vec!["from", "the", "memory", "service"];
///     assert!(ALLOCATOR.service().statistics().in_use() >= size_of_val(words.as_slice()) as u64);
///     // Another name of the same instance.
///     let object = ProcessHeap.service().kmalloc(64, Gfp::KERNEL);
///     // SAFETY: nobody uses the object any more.
///     unsafe { ALLOCATOR.service().kfree(object) };
/// }
/// ```
///
/// [`MAX_INSTANCES`]: super::MAX_INSTANCES
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessHeap;

/// The machine of the [`ProcessHeap`], for types that name it: `Service<ProcessMachine>`.
pub type ProcessMachine = HostedMachine<true>;

/// The only instance of its type.
static INSTANCE: Hosted<true> = Hosted::on(DEFAULT_TOPOLOGY);

impl Deref for ProcessHeap {
    type Target = Hosted<true>;

    #[inline(always)]
    fn deref(&self) -> &Hosted<true> {
        &INSTANCE
    }
}

// SAFETY: `Hosted` keeps the trait's promises, and all calls go to the same instance of it.
unsafe impl GlobalAlloc for ProcessHeap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { INSTANCE.alloc(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { INSTANCE.dealloc(block, layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { INSTANCE.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { INSTANCE.realloc(block, layout, size) }
    }
}
