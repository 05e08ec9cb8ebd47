//! [`Object`]: memory of the service that is filled, compared and freed in safe code.
//!
//! Used by every test that allocates. The few unsafe lines are here, so that tests read as what they claim.

use core::mem::{self, MaybeUninit};
use core::ptr::NonNull;
use core::slice;

use quarry_suite::pattern;
use quarry_unikernel::memory::service;
use quarry_unikernel::memory_service::{Gfp, NodeId};

/// Bytes that belong to one owner; freed when dropped. May be made and dropped in an interrupt handler, unless it is
/// of `vmalloc`.
#[derive(Debug)]
pub(crate) struct Object {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: it owns its memory, and the service takes memory back on any CPU.
unsafe impl Send for Object {}

impl Object {
    /// `kmalloc`.
    pub(crate) fn new(length: usize, gfp: Gfp) -> Option<Self> {
        // SAFETY: it was just allocated.
        unsafe { Self::adopt(service().kmalloc(length, gfp), length) }
    }

    /// `kmalloc_node`.
    pub(crate) fn on_node(length: usize, gfp: Gfp, node: NodeId) -> Option<Self> {
        // SAFETY: it was just allocated.
        unsafe { Self::adopt(service().kmalloc_node(length, gfp, node), length) }
    }

    /// `vmalloc`.
    pub(crate) fn mapped(length: usize) -> Option<Self> {
        // SAFETY: it was just allocated.
        unsafe { Self::adopt(service().vmalloc(length, Gfp::KERNEL), length) }
    }

    /// Takes over what an allocating call returned; `None` for null.
    ///
    /// # Safety
    ///
    /// `start` is null, or came from the kmalloc family or `vmalloc` with at least `length` bytes, and is nobody
    /// else's.
    pub(crate) unsafe fn adopt(start: *mut u8, length: usize) -> Option<Self> {
        NonNull::new(start).map(|start| Self { start, length })
    }

    /// The pointer, and with it the duty to free it.
    pub(crate) fn release(self) -> *mut u8 {
        let start = self.start.as_ptr();
        mem::forget(self);
        start
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    pub(crate) fn address(&self) -> usize {
        self.start.as_ptr().addr()
    }

    /// Node its first byte is on; `None` for `vmalloc`.
    pub(crate) fn node(&self) -> Option<NodeId> {
        service().page_to_node(service().virt_to_page(self.as_ptr())?)
    }

    /// Physical address of its first byte; `None` for `vmalloc`.
    pub(crate) fn physical(&self) -> Option<u64> {
        service().virt_to_page(self.as_ptr()).map(|frame| frame.physical() + self.address() as u64 % 4096)
    }

    /// Fills it with the suite's pattern of `seed`, in which every byte depends on its place.
    pub(crate) fn fill(&mut self, seed: u64) {
        // SAFETY: the bytes are the object's, and the borrow is exclusive.
        let bytes = unsafe { slice::from_raw_parts_mut(self.start.as_ptr().cast::<MaybeUninit<u8>>(), self.length) };
        pattern::fill(bytes, seed);
    }

    /// Whether the first `length` bytes are what [`Self::fill`] wrote with this seed, here or to what was copied here.
    pub(crate) fn starts_with(&self, seed: u64, length: usize) -> bool {
        assert!(length <= self.length, "an object has only so many bytes");
        // SAFETY: the bytes are the object's, and were written before anybody asks for a pattern in them.
        pattern::check(unsafe { slice::from_raw_parts(self.start.as_ptr(), length) }, seed)
    }

    /// Whether it is what [`Self::fill`] wrote with this seed.
    pub(crate) fn holds(&self, seed: u64) -> bool {
        self.starts_with(seed, self.length)
    }

    /// Whether all of it is zero; asked of memory that was asked for with zeroes.
    pub(crate) fn is_zero(&self) -> bool {
        // SAFETY: the bytes are within the object and were initialised by whoever promised zeroes.
        (0..self.length).all(|index| unsafe { self.start.as_ptr().add(index).read_volatile() } == 0)
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: the object is this owner's alone, and goes.
        unsafe { service().kvfree(self.start.as_ptr()) };
    }
}
