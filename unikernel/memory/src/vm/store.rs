//! [`Store`]: a node's reserve of things of one size that object pages need: descriptors, nodes of trees.
//!
//! Used by [`alloc`](super::alloc), which refills a store before it is empty, so that a page never fails for want of its
//! descriptor while a frame is free; and by `core`, which gives back the frames that a store does not need any more.
//!
//! # Theory
//!
//! A frame is cut into items; its last bytes, its [`Foot`], say how many of them are free, which is the first, and the
//! neighbours of the frame on its list. A frame with some free items is on the list `partial`, from which items are taken
//! first; one that has all of them on `whole`, from which frames go back; one that has none on no list. So each step is short,
//! and what is in use gathers in few frames. All of it is guarded by a lock that nothing else is taken under.
//!
//! While an item is free, its first word is the number of the next. The rest of it stays as it was, zero at first: compaction
//! may look at a descriptor that is free, but at none whose frame went back (the head of [`vm`](super) tells how).
//!
//! What stores hold is in the row `metadata`.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::frame::{FRAME_BYTES, FRAME_SHIFT, NIL, Pfn};
use crate::lock::Lock;
use crate::machine::Machine;

/// A store with fewer items is refilled when the next is wanted.
pub(crate) const LOW: u32 = 16;

/// Free items of one size.
pub(crate) struct Store {
    /// Bytes of an item.
    size: usize,
    lists: Lock<Lists>,
    /// Free items, and frames that have all of theirs.
    count: AtomicU32,
    whole: AtomicU32,
}

/// The first frames of the lists.
struct Lists {
    partial: u32,
    whole: u32,
}

/// A list of frames.
#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    /// With some free items, and some that are not.
    Partial,
    /// With free items alone.
    Whole,
}

impl Lists {
    fn first(&mut self, list: List) -> &mut u32 {
        match list {
            List::Partial => &mut self.partial,
            List::Whole => &mut self.whole,
        }
    }
}

/// The end of a store's frame.
#[repr(C)]
struct Foot {
    /// Neighbours on the frame's list, by number.
    next: u32,
    previous: u32,
    /// Number of the first free item, if there is one.
    first: u16,
    /// Free items.
    free: u16,
}

/// Bytes at the end of a frame that are no item's.
const FOOT_BYTES: usize = size_of::<Foot>().next_multiple_of(8);

impl Store {
    /// An empty store of items of a `T` each.
    pub(crate) const fn of<T>() -> Self {
        assert!(align_of::<T>() <= 8 && size_of::<T>().is_multiple_of(8) && size_of::<T>() >= size_of::<usize>());
        let lists = Lock::new(Lists { partial: NIL, whole: NIL });
        Self { size: size_of::<T>(), lists, count: AtomicU32::new(0), whole: AtomicU32::new(0) }
    }

    /// Whether it should be refilled.
    pub(crate) fn is_low(&self) -> bool {
        self.count.load(Relaxed) < LOW
    }

    /// Frames that could go back, about.
    pub(crate) fn spare_frames(&self) -> u32 {
        let beyond = self.count.load(Relaxed).saturating_sub(LOW) / self.items();
        beyond.min(self.whole.load(Relaxed))
    }

    /// Takes an item. What is in it, but for the first word, is what was in it last; zero where that was nothing.
    pub(crate) fn take<M: Machine, T>(&self, machine: &M) -> Option<NonNull<T>> {
        debug_assert_eq!(size_of::<T>(), self.size);
        let mut lists = self.lists.lock(machine);
        let frame = [lists.partial, lists.whole].into_iter().find(|&frame| frame != NIL)?;
        self.change(machine, &mut lists, Pfn(frame), |start, foot| {
            let item = start.wrapping_add(usize::from(foot.first) * self.size);
            // SAFETY: a free item of the frame, whose first word is the number of the next; the lock is held.
            foot.first = unsafe { item.cast::<usize>().read() } as u16;
            foot.free -= 1;
            self.count.fetch_sub(1, Relaxed);
            NonNull::new(item.cast())
        })
    }

    /// Gives an item back.
    ///
    /// # Safety
    ///
    /// It came from a store of the same items, and nobody uses its first word any more.
    pub(crate) unsafe fn give<M: Machine, T>(&self, machine: &M, item: NonNull<T>) {
        debug_assert_eq!(size_of::<T>(), self.size);
        let address = item.addr().get();
        let frame = Pfn(((address - machine.direct_map()) >> FRAME_SHIFT) as u32);
        let mut lists = self.lists.lock(machine);
        self.change(machine, &mut lists, frame, |_, foot| {
            // SAFETY: the caller's promise; an item is large and aligned enough (see `of`).
            unsafe { item.cast::<usize>().write(foot.first.into()) };
            foot.first = (address % FRAME_BYTES / self.size) as u16;
            foot.free += 1;
            self.count.fetch_add(1, Relaxed);
        });
    }

    /// Cuts a frame into items.
    ///
    /// # Safety
    ///
    /// The frame is the caller's alone, who gives it up.
    pub(crate) unsafe fn refill<M: Machine>(&self, machine: &M, frame: Pfn) {
        let (start, foot) = parts(machine, frame);
        // SAFETY: the caller's promise; items and foot are inside the frame and aligned, for sizes are multiples of 8.
        unsafe {
            start.write_bytes(0, FRAME_BYTES);
            for item in 0..self.items() as usize {
                start.add(item * self.size).cast::<usize>().write(item + 1);
            }
            foot.write(Foot { next: NIL, previous: NIL, first: 0, free: self.items() as u16 });
        }
        self.put_whole(machine, frame);
    }

    /// Takes a frame out all of whose items are free, if the store is not low without it. They stay as they are.
    pub(crate) fn take_whole<M: Machine>(&self, machine: &M) -> Option<Pfn> {
        let mut lists = self.lists.lock(machine);
        if lists.whole == NIL || self.count.load(Relaxed) < self.items() + LOW {
            return None;
        }
        let frame = Pfn(lists.whole);
        self.unlink(machine, &mut lists, frame, Some(List::Whole));
        self.count.fetch_sub(self.items(), Relaxed);
        Some(frame)
    }

    /// Puts in a frame all of whose items are free.
    pub(crate) fn put_whole<M: Machine>(&self, machine: &M, frame: Pfn) {
        let mut lists = self.lists.lock(machine);
        self.link(machine, &mut lists, frame, Some(List::Whole));
        self.count.fetch_add(self.items(), Relaxed);
    }

    #[cfg(feature = "hosted")]
    pub(crate) fn raw(&self) -> &crate::raw_lock::RawLock {
        self.lists.raw()
    }

    /// Items of a frame.
    const fn items(&self) -> u32 {
        ((FRAME_BYTES - FOOT_BYTES) / self.size) as u32
    }

    /// Changes how many items of a frame are free, and puts the frame on the list where it belongs then.
    fn change<M: Machine, R>(
        &self,
        machine: &M,
        lists: &mut Lists,
        frame: Pfn,
        change: impl FnOnce(*mut u8, &mut Foot) -> R,
    ) -> R {
        let (start, foot) = parts(machine, frame);
        // SAFETY: the foot of this store's frame, reached under the lock, which is held.
        let foot = unsafe { &mut *foot };
        let before = self.list_for(foot.free);
        let result = change(start, foot);
        let after = self.list_for(foot.free);
        if before != after {
            self.unlink(machine, lists, frame, before);
            self.link(machine, lists, frame, after);
        }
        result
    }

    /// The list for a frame with so many free items.
    fn list_for(&self, free: u16) -> Option<List> {
        match u32::from(free) {
            0 => None,
            free if free == self.items() => Some(List::Whole),
            _ => Some(List::Partial),
        }
    }

    fn note(&self, list: List, change: u32) {
        if list == List::Whole {
            self.whole.store(self.whole.load(Relaxed).wrapping_add(change), Relaxed);
        }
    }

    /// Takes a frame off a list that it is on.
    fn unlink<M: Machine>(&self, machine: &M, lists: &mut Lists, frame: Pfn, list: Option<List>) {
        let Some(list) = list else { return };
        // SAFETY: as in `change`; neighbours on a list are frames of this store, too.
        unsafe {
            let Foot { next, previous, .. } = *parts(machine, frame).1;
            match previous {
                NIL => *lists.first(list) = next,
                previous => (*parts(machine, Pfn(previous)).1).next = next,
            }
            if next != NIL {
                (*parts(machine, Pfn(next)).1).previous = previous;
            }
        }
        self.note(list, 1u32.wrapping_neg());
    }

    /// Puts a frame that is on no list on one, as its first.
    fn link<M: Machine>(&self, machine: &M, lists: &mut Lists, frame: Pfn, list: Option<List>) {
        let Some(list) = list else { return };
        let first = lists.first(list);
        // SAFETY: as in `unlink`.
        unsafe {
            let foot = parts(machine, frame).1;
            ((*foot).next, (*foot).previous) = (*first, NIL);
            if *first != NIL {
                (*parts(machine, Pfn(*first)).1).previous = frame.0;
            }
        }
        *first = frame.0;
        self.note(list, 1);
    }
}

/// Where a frame of a store begins, and its foot.
fn parts<M: Machine>(machine: &M, frame: Pfn) -> (*mut u8, *mut Foot) {
    let start = machine.direct_map() + (frame.index() << FRAME_SHIFT);
    let start = core::ptr::with_exposed_provenance_mut::<u8>(start);
    (start, start.wrapping_add(FRAME_BYTES - FOOT_BYTES).cast())
}
