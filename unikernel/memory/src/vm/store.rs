//! [`Store`]: a node's reserve of things of one size that object pages need: descriptors, nodes of trees.
//!
//! Used by [`alloc`](super::alloc), which refills a store before it is empty, so that a page never fails for want of its
//! descriptor while a frame is free.
//!
//! # Theory
//!
//! A stack of free items under a lock that nothing else is taken under. What was once a store's frame stays one: so an item's
//! memory may be looked at at any time (compaction does), and what stores take is bounded by the most object pages there ever
//! were. It is in the row `metadata`. While an item is free, its first word is the stack's link.

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::frame::FRAME_BYTES;
use crate::lock::Lock;
use crate::machine::Machine;

/// A store with fewer items is refilled when the next is wanted.
pub(crate) const LOW: u32 = 16;

/// Free items of one size.
pub(crate) struct Store {
    /// Bytes of an item.
    size: usize,
    first: Lock<First>,
    count: AtomicU32,
}

struct First(*mut Item);

// SAFETY: items on the stack are the store's alone, and reached under its lock.
unsafe impl Send for First {}

struct Item {
    next: *mut Item,
}

impl Store {
    /// An empty store of items of a `T` each.
    pub(crate) const fn of<T>() -> Self {
        assert!(align_of::<T>() <= 8 && size_of::<T>().is_multiple_of(8) && size_of::<T>() >= size_of::<Item>());
        Self { size: size_of::<T>(), first: Lock::new(First(ptr::null_mut())), count: AtomicU32::new(0) }
    }

    /// Whether it should be refilled.
    pub(crate) fn is_low(&self) -> bool {
        self.count.load(Relaxed) < LOW
    }

    /// Takes an item. What is in it, but for the first word, is what was in it last; zero where that was nothing.
    pub(crate) fn take<M: Machine, T>(&self, machine: &M) -> Option<NonNull<T>> {
        debug_assert_eq!(size_of::<T>(), self.size);
        let mut first = self.first.lock(machine);
        let item = NonNull::new(first.0)?;
        // SAFETY: items on the stack are initialised, and the lock is held.
        first.0 = unsafe { item.as_ref() }.next;
        self.count.fetch_sub(1, Relaxed);
        Some(item.cast())
    }

    /// Gives an item back.
    ///
    /// # Safety
    ///
    /// It came from a store of the same items, and nobody uses its first word any more.
    pub(crate) unsafe fn give<M: Machine, T>(&self, machine: &M, item: NonNull<T>) {
        debug_assert_eq!(size_of::<T>(), self.size);
        let item = item.cast::<Item>();
        let mut first = self.first.lock(machine);
        // SAFETY: the caller's promise; an item is large and aligned enough (see `of`).
        unsafe { item.write(Item { next: first.0 }) };
        first.0 = item.as_ptr();
        self.count.fetch_add(1, Relaxed);
    }

    /// Cuts a frame into items.
    ///
    /// # Safety
    ///
    /// `frame` is the start of a frame that is the caller's alone, and stays the store's for good.
    pub(crate) unsafe fn refill<M: Machine>(&self, machine: &M, frame: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { frame.write_bytes(0, FRAME_BYTES) };
        for at in 0..FRAME_BYTES / self.size {
            // SAFETY: inside the frame.
            let item = unsafe { frame.add(at * self.size) }.cast::<Item>();
            let mut first = self.first.lock(machine);
            // SAFETY: as above, and aligned, for sizes are multiples of 8.
            unsafe { item.write(Item { next: first.0 }) };
            first.0 = item;
            self.count.fetch_add(1, Relaxed);
        }
    }

    #[cfg(feature = "hosted")]
    pub(crate) fn tickets(&self) -> &crate::tickets::Tickets {
        self.first.tickets()
    }
}
