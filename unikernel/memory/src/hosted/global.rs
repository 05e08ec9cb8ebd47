//! [`Hosted`] as the global allocator of an ordinary program.
//!
//! Small and large requests are kmalloc's; what is beyond its [`MAX_SIZE`] is [`huge`]'s. The layout says which, so a
//! free need not search. A panic of the service (a double free, say) ends the process: an allocator must not unwind.

use core::alloc::{GlobalAlloc, Layout};
use core::{mem, ptr};

use super::{Hosted, huge};
use crate::class::MAX_SLAB_SIZE;
use crate::gfp::Gfp;
use crate::kmalloc::{MAX_SIZE, aligned_size};

const FLAGS: Gfp = Gfp::KERNEL.union(Gfp::NOWARN);

// SAFETY: blocks come from the service's kmalloc and from `huge`, which hand out memory nobody else has, of at least
// the size asked for; kmalloc aligns as `aligned_size` promises, `huge` as asked; nothing unwinds, by
// `ending_on_panic`.
unsafe impl<const PROCESS: bool> GlobalAlloc for Hosted<PROCESS> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let size = rounded(layout);
        if size > MAX_SLAB_SIZE {
            return self.alloc_large(layout, FLAGS);
        }
        ending_on_panic(|| self.service.kmalloc(size, FLAGS))
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if rounded(layout) > MAX_SIZE {
            // SAFETY: the caller gives the block up; the layout says that it is huge.
            return ending_on_panic(|| unsafe { huge::free(&self.service, block) });
        }
        // SAFETY: the caller gives the block up.
        ending_on_panic(|| unsafe { self.service.kfree(block) });
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let size = rounded(layout);
        if size > MAX_SLAB_SIZE {
            return self.alloc_large(layout, FLAGS | Gfp::ZERO);
        }
        ending_on_panic(|| self.service.kzalloc(size, FLAGS))
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let rounded_size = aligned_size(size, layout.align());
        if rounded(layout).max(rounded_size) > MAX_SIZE {
            // SAFETY: the caller's promise.
            return unsafe { self.realloc_huge(block, layout, size) };
        }
        // SAFETY: the caller's promise.
        ending_on_panic(|| unsafe { self.service.krealloc(block, rounded_size, FLAGS) })
    }
}

impl<const PROCESS: bool> Hosted<PROCESS> {
    #[cold]
    #[inline(never)]
    fn alloc_large(&self, layout: Layout, flags: Gfp) -> *mut u8 {
        let size = rounded(layout);
        ending_on_panic(|| {
            if size > MAX_SIZE {
                huge::allocate(&self.service, layout.size(), layout.align())
            } else {
                self.service.kmalloc(size, flags)
            }
        })
    }

    /// # Safety
    ///
    /// As for `GlobalAlloc::realloc`.
    #[cold]
    #[inline(never)]
    unsafe fn realloc_huge(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(new_layout) = Layout::from_size_align(size, layout.align()) else { return ptr::null_mut() };
        if rounded(layout) > MAX_SIZE && rounded(new_layout) > MAX_SIZE {
            // SAFETY: the caller's promise; the layout says that the block is huge.
            let resized = ending_on_panic(|| unsafe { huge::resize(&self.service, block, size, layout.align()) });
            if !resized.is_null() {
                return resized;
            }
        }
        // SAFETY: as the caller promises for the block; the new one is another and holds at least what is copied.
        unsafe {
            let new = self.alloc(new_layout);
            if !new.is_null() {
                ptr::copy_nonoverlapping(block, new, layout.size().min(size));
                self.dealloc(block, layout);
            }
            new
        }
    }
}

/// The size that is asked of kmalloc for a layout; above [`MAX_SIZE`] exactly for those that are huge.
#[inline(always)]
fn rounded(layout: Layout) -> usize {
    aligned_size(layout.size(), layout.align())
}

/// Runs `work`; a panic in it prints its message and then ends the process.
#[inline(always)]
fn ending_on_panic<R>(work: impl FnOnce() -> R) -> R {
    struct Abort;
    impl Drop for Abort {
        fn drop(&mut self) {
            std::process::abort();
        }
    }
    let abort = Abort;
    let result = work();
    mem::forget(abort);
    result
}
