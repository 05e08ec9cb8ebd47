//! [`Memory`]: the block of the kernel's allocators, and many of them as the pointers they are.

use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::slice;

use quarry_suite::pattern;

/// Memory of the service. Gives it back only when asked to.
#[repr(transparent)]
pub(crate) struct Memory(NonNull<u8>);

// SAFETY: the token owns its memory, and nothing about the service's memory is bound to a CPU.
unsafe impl Send for Memory {}

impl Memory {
    /// What the service returned; `None` for null.
    #[inline(always)]
    pub(crate) fn new(address: *mut u8) -> Option<Self> {
        NonNull::new(address).map(Self)
    }

    /// Gives the memory up, to be freed.
    #[inline(always)]
    pub(crate) fn into_raw(self) -> *mut u8 {
        self.0.as_ptr()
    }

    pub(crate) fn address(&self) -> usize {
        self.0.as_ptr().addr()
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

    /// # Safety
    ///
    /// At least `length` bytes were asked for, and are initialised.
    pub(crate) unsafe fn is_zero(&self, length: usize) -> bool {
        // SAFETY: so many bytes are this token's, and initialised.
        pattern::is_zero(unsafe { slice::from_raw_parts(self.0.as_ptr(), length) })
    }

    #[inline(always)]
    pub(crate) fn touch(&mut self, writes: u32) {
        // SAFETY: nobody asks for no bytes at all, so the first is this token's, which is borrowed exclusively.
        pattern::touch(unsafe { self.0.cast::<MaybeUninit<u8>>().as_mut() }, writes);
    }
}

// `Option<NonNull<T>>` is a pointer that is null for `None`, and so is what is transparent over it.
const _: () = assert!(size_of::<Option<Memory>>() == size_of::<*mut u8>());

/// The blocks as pointers, null where there is none.
pub(crate) fn as_pointers(blocks: &[Option<Memory>]) -> &[*mut u8] {
    // SAFETY: the elements have the same layout, and every `Option<Memory>` is a valid pointer.
    unsafe { slice::from_raw_parts(blocks.as_ptr().cast(), blocks.len()) }
}

/// The same, to be filled in.
///
/// # Safety
///
/// What is written there is null or memory of the service that nobody else has, and no block is overwritten that
/// somebody still needs.
pub(crate) unsafe fn as_pointers_mut(blocks: &mut [Option<Memory>]) -> &mut [*mut u8] {
    // SAFETY: the elements have the same layout; the caller vouches for what is written.
    unsafe { slice::from_raw_parts_mut(blocks.as_mut_ptr().cast(), blocks.len()) }
}
