//! [`Memory`]: the block of every allocator that is told nothing but the address when it is freed.

use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::slice;

use quarry_suite::pattern;

/// A live allocation.
#[derive(Debug)]
pub struct Memory(NonNull<u8>);

// SAFETY: the token owns its memory, and any thread may use and free what any allocator here hands out.
unsafe impl Send for Memory {}

impl Memory {
    /// What an allocator just returned; `None` for null.
    ///
    /// # Safety
    ///
    /// Not null, it is the start of memory that is the caller's alone.
    #[inline(always)]
    pub(crate) unsafe fn new(address: *mut u8) -> Option<Self> {
        NonNull::new(address).map(Self)
    }

    /// Gives the memory up, to be freed.
    #[inline(always)]
    pub(crate) fn into_raw(self) -> *mut u8 {
        self.0.as_ptr()
    }

    pub(crate) fn address(&self) -> usize {
        self.0.as_ptr() as usize
    }

    /// # Safety
    ///
    /// At least `length` bytes were asked for.
    pub(crate) unsafe fn fill(&mut self, length: usize, seed: u64) {
        // SAFETY: so many bytes are this token's, which is borrowed exclusively.
        let bytes = unsafe { slice::from_raw_parts_mut(self.0.as_ptr().cast::<MaybeUninit<u8>>(), length) };
        pattern::fill(bytes, seed);
    }

    /// # Safety
    ///
    /// At least `length` bytes were asked for, and filled.
    pub(crate) unsafe fn check(&self, length: usize, seed: u64) -> bool {
        // SAFETY: so many bytes are this token's, and initialised.
        let bytes = unsafe { slice::from_raw_parts(self.0.as_ptr(), length) };
        pattern::check(bytes, seed)
    }

    #[inline(always)]
    pub(crate) fn touch(&mut self, writes: u32) {
        // SAFETY: nobody asks for no bytes at all, so the first is this token's, which is borrowed exclusively.
        pattern::touch(unsafe { self.0.cast::<MaybeUninit<u8>>().as_mut() }, writes);
    }

    /// # Safety
    ///
    /// At least `length` bytes were asked for, and are initialised.
    pub(crate) unsafe fn is_zero(&self, length: usize) -> bool {
        // SAFETY: so many bytes are this token's, and initialised.
        pattern::is_zero(unsafe { slice::from_raw_parts(self.0.as_ptr(), length) })
    }
}

/// The alignment the peers promise: that of C's `max_align_t`, and 8 for what is smaller.
pub(crate) fn malloc_alignment(size: usize) -> usize {
    if size < 16 { 8 } else { 16 }
}
