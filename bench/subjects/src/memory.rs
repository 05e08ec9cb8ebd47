//! [`Memory`]: a block that is an address.

use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::slice;

use quarry_suite::pattern;

/// A live allocation. One pointer wide, also as an option; gives its memory back only when asked to.
#[derive(Debug)]
#[repr(transparent)]
pub struct Memory(NonNull<u8>);

// `Option<NonNull<T>>` is a pointer that is null for `None`, and so is what is transparent over it.
const _: () = assert!(size_of::<Option<Memory>>() == size_of::<*mut u8>());

// SAFETY: the token owns its memory, which whoever made it bound to no CPU or thread.
unsafe impl Send for Memory {}

impl Memory {
    /// What an allocator just returned; `None` for null.
    ///
    /// # Safety
    ///
    /// Not null, it is the start of memory that is the caller's alone, a byte at least, and that any CPU may use and free.
    #[inline(always)]
    pub unsafe fn new(address: *mut u8) -> Option<Self> {
        NonNull::new(address).map(Self)
    }

    /// Gives the memory up, to be freed.
    #[inline(always)]
    pub fn into_raw(self) -> *mut u8 {
        self.0.as_ptr()
    }

    /// Address of its first byte.
    pub fn address(&self) -> usize {
        self.0.addr().get()
    }

    /// Writes the pattern of `seed` to the first `length` bytes.
    ///
    /// # Safety
    ///
    /// At least `length` bytes were asked for.
    pub unsafe fn fill(&mut self, length: usize, seed: u64) {
        // SAFETY: so many bytes are this token's, which is borrowed exclusively.
        let bytes = unsafe { slice::from_raw_parts_mut(self.0.as_ptr().cast::<MaybeUninit<u8>>(), length) };
        pattern::fill(bytes, seed);
    }

    /// Whether the first `length` bytes hold the pattern of `seed`.
    ///
    /// # Safety
    ///
    /// At least `length` bytes were asked for, and are initialised.
    pub unsafe fn check(&self, length: usize, seed: u64) -> bool {
        // SAFETY: so many bytes are this token's, and initialised.
        pattern::check(unsafe { slice::from_raw_parts(self.0.as_ptr(), length) }, seed)
    }

    /// Whether the first `length` bytes are 0.
    ///
    /// # Safety
    ///
    /// As for [`Self::check`].
    pub unsafe fn is_zero(&self, length: usize) -> bool {
        // SAFETY: so many bytes are this token's, and initialised.
        pattern::is_zero(unsafe { slice::from_raw_parts(self.0.as_ptr(), length) })
    }

    /// Writes to the first byte so often: [`pattern::touch`].
    #[inline(always)]
    pub fn touch(&mut self, writes: u32) {
        // SAFETY: the first byte is this token's, which is borrowed exclusively.
        pattern::touch(unsafe { self.0.cast::<MaybeUninit<u8>>().as_mut() }, writes);
    }
}

/// Those methods of a [`Subject`](quarry_suite::Subject) that say where its blocks are and what is in them, where blocks
/// are [`Memory`]: `address`, `fill`, `check`, `is_zero` and `touch`.
#[macro_export]
macro_rules! contents_of_memory {
    () => {
        fn address(&self, block: &$crate::Memory) -> usize {
            block.address()
        }

        fn fill(&self, block: &mut $crate::Memory, length: usize, seed: u64) {
            // SAFETY: the suite asks for no more than it asked the allocator for.
            unsafe { block.fill(length, seed) }
        }

        fn check(&self, block: &$crate::Memory, length: usize, seed: u64) -> bool {
            // SAFETY: as for `fill`, and the suite filled the bytes before it checks them.
            unsafe { block.check(length, seed) }
        }

        fn is_zero(&self, block: &$crate::Memory, length: usize) -> bool {
            // SAFETY: as for `check`; the allocator zeroed the bytes or the suite filled them.
            unsafe { block.is_zero(length) }
        }

        #[inline(always)]
        fn touch(&self, block: &mut $crate::Memory, writes: u32) {
            block.touch(writes);
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_no_memory() {
        // SAFETY: null may be handed over.
        assert!(unsafe { Memory::new(core::ptr::null_mut()) }.is_none());
    }

    #[test]
    fn what_is_written_is_found_and_nothing_else_is_touched() {
        let mut bytes = [0_u8; 40];
        let start = bytes.as_mut_ptr();
        // SAFETY: the array is this block's alone until it is given up.
        let mut block = unsafe { Memory::new(start) }.expect("the array has an address");
        assert_eq!(block.address(), start.addr());
        // SAFETY: the array has so many bytes, and all are initialised.
        unsafe {
            assert!(block.is_zero(40));
            block.fill(33, 7);
            assert!(block.check(33, 7) && !block.check(33, 8) && !block.is_zero(33));
        }
        block.touch(3);
        // SAFETY: as above.
        assert!(unsafe { !block.check(33, 7) }, "the first byte is another now");
        assert_eq!(block.into_raw(), start);
        assert_eq!((bytes[0], &bytes[33..]), (2, &[0; 7][..]));
    }
}
