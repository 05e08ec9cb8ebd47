//! [`Descriptor`], what is known of an object page beside its frame; and [`Queues`], the queues of a node's pages.
//!
//! Used by the other modules of [`vm`](super), whose head tells who may change what under which lock.

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering, Ordering::Relaxed};

use crate::frame::Pfn;

use super::tree::Leaf;

/// Which queue a page is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Queue {
    /// None: it is wired, busy, or nobody has put it on one.
    None = 0,
    /// In use lately.
    Active = 1,
    /// Not used since it was looked at last: freed or laundered next.
    Inactive = 2,
    /// Clean and used by nobody: available memory that still has its contents.
    Cache = 3,
}

/// In [`Descriptor::queue`]: the page layer has taken the frame of a cached page, and the object has yet to forget it.
pub(super) const GHOST: u8 = 4;

/// Flags of a page.
pub(super) mod flag {
    /// Somebody works with the page: nobody else may, and it stays where it is.
    pub(in crate::vm) const BUSY: u32 = 1 << 0;
    /// It is busy for a guard or a pager, which alone may end that.
    pub(in crate::vm) const GUARDED: u32 = 1 << 1;
    /// The pager does not have what is in it.
    pub(in crate::vm) const DIRTY: u32 = 1 << 2;
    /// What is in it is the object's.
    pub(in crate::vm) const VALID: u32 = 1 << 3;
    /// All zeroes when it was allocated, and not written since as far as is known. `PG_ZERO`.
    pub(in crate::vm) const ZERO: u32 = 1 << 4;
    /// Used since it was looked at last.
    pub(in crate::vm) const REFERENCED: u32 = 1 << 5;
    /// A pager has yet to complete what it was asked for.
    pub(in crate::vm) const PAGING: u32 = 1 << 6;
    /// The pager could not read it.
    pub(in crate::vm) const FAILED: u32 = 1 << 7;
}

/// An object page. Its memory is a [`Store`](super::store::Store)'s, and a descriptor until the store gives its frame back.
///
/// All fields are relaxed, for the locks order them; but the flags, which who waits for a pager looks at without a lock: their
/// Release and Acquire order what the pager wrote.
#[repr(C)]
pub(crate) struct Descriptor {
    /// Towards older pages of the queue; or the next ghost; or the link of the store.
    next: AtomicPtr<Descriptor>,
    previous: AtomicPtr<Descriptor>,
    /// The object's core; null while the page is of none.
    pub(super) object: AtomicPtr<()>,
    pub(super) index: AtomicU64,
    frame: AtomicU32,
    flags: AtomicU32,
    pub(super) wired: AtomicU32,
    queue: AtomicU8,
}

impl Leaf for Descriptor {
    fn index(&self) -> u64 {
        self.index.load(Relaxed)
    }
}

impl Descriptor {
    pub(super) fn frame(&self) -> Pfn {
        Pfn(self.frame.load(Relaxed))
    }

    pub(super) fn set_frame(&self, frame: Pfn) {
        self.frame.store(frame.0, Relaxed);
    }

    pub(super) fn has(&self, flags: u32) -> bool {
        self.flags.load(Ordering::Acquire) & flags != 0
    }

    /// Clears and sets flags: under the object's lock, or by whose the page is.
    pub(super) fn change(&self, set: u32, clear: u32) {
        let mut flags = self.flags.load(Relaxed);
        while let Err(now) = self.flags.compare_exchange_weak(flags, flags & !clear | set, Ordering::Release, Relaxed) {
            flags = now;
        }
    }

    pub(super) fn is_wired(&self) -> bool {
        self.wired.load(Relaxed) > 0
    }

    /// Whether it must stay where it is and as it is.
    pub(super) fn is_held(&self) -> bool {
        self.has(flag::BUSY) || self.is_wired()
    }

    pub(super) fn queue(&self) -> Queue {
        match self.queue.load(Relaxed) {
            1 => Queue::Active,
            2 => Queue::Inactive,
            3 => Queue::Cache,
            _ => Queue::None,
        }
    }

    pub(super) fn is_ghost(&self) -> bool {
        self.queue.load(Relaxed) == GHOST
    }

    /// Whether it is the object's alone: neither cached nor gone.
    pub(super) fn is_resident(&self) -> bool {
        self.queue.load(Relaxed) < Queue::Cache as u8
    }

    pub(super) fn set_ghost(&self) {
        self.queue.store(GHOST, Relaxed);
    }

    /// A descriptor out of a store becomes that of a page.
    pub(super) fn reset(&self, index: u64, frame: Pfn, flags: u32, wired: bool) {
        self.index.store(index, Relaxed);
        self.flags.store(flags, Relaxed);
        self.wired.store(wired.into(), Relaxed);
        self.queue.store(Queue::None as u8, Relaxed);
        self.set_frame(frame);
    }

    /// The next ghost of its object.
    pub(super) fn link(&self) -> &AtomicPtr<Self> {
        &self.next
    }
}

/// A doubly linked list of pages, the newest first.
struct List {
    newest: *mut Descriptor,
    oldest: *mut Descriptor,
}

/// The queues of a node's pages.
pub(crate) struct Queues {
    lists: [List; 3],
}

// SAFETY: pages on the lists live, and their links are reached under the lock around this.
unsafe impl Send for Queues {}

impl Queues {
    pub(super) const fn new() -> Self {
        Self { lists: [const { List { newest: ptr::null_mut(), oldest: ptr::null_mut() } }; 3] }
    }

    /// Puts a page that is on no queue on one, as its newest.
    pub(super) fn push(&mut self, page: &Descriptor, queue: Queue) {
        debug_assert_eq!(page.queue(), Queue::None);
        page.queue.store(queue as u8, Relaxed);
        let Some(list) = self.list(queue) else { return };
        let this = ptr::from_ref(page).cast_mut();
        page.next.store(list.newest, Relaxed);
        page.previous.store(ptr::null_mut(), Relaxed);
        // SAFETY: pages on the list live.
        match unsafe { list.newest.as_ref() } {
            None => list.oldest = this,
            Some(newest) => newest.previous.store(this, Relaxed),
        }
        list.newest = this;
    }

    /// Takes a page off the queue it is on.
    pub(super) fn remove(&mut self, page: &Descriptor) {
        let Some(list) = self.list(page.queue()) else { return };
        let (next, previous) = (page.next.load(Relaxed), page.previous.load(Relaxed));
        // SAFETY: neighbours on the list live.
        match unsafe { previous.as_ref() } {
            None => list.newest = next,
            Some(previous) => previous.next.store(next, Relaxed),
        }
        // SAFETY: as above.
        match unsafe { next.as_ref() } {
            None => list.oldest = previous,
            Some(next) => next.previous.store(previous, Relaxed),
        }
        page.queue.store(Queue::None as u8, Relaxed);
    }

    /// The page that is on a queue longest.
    pub(super) fn oldest(&self, queue: Queue) -> Option<NonNull<Descriptor>> {
        NonNull::new(self.lists.get((queue as usize).checked_sub(1)?)?.oldest)
    }

    fn list(&mut self, queue: Queue) -> Option<&mut List> {
        self.lists.get_mut((queue as usize).checked_sub(1)?)
    }
}
