//! [`Memory`]: the block of the kernel's allocators, and many of them as the pointers they are.

use core::slice;

pub(crate) use quarry_subjects::Memory;

/// What the service returned; `None` for null.
#[inline(always)]
pub(crate) fn memory(address: *mut u8) -> Option<Memory> {
    // SAFETY: only `kernel` calls this, with what the service has just given it: memory that is nobody else's and bound to
    // no CPU.
    unsafe { Memory::new(address) }
}

/// The blocks as pointers, null where there is none.
pub(crate) fn as_pointers(blocks: &[Option<Memory>]) -> &[*mut u8] {
    // SAFETY: the elements have the same layout (`Memory` says so), and every `Option<Memory>` is a valid pointer.
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
