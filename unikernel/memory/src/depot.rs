//! [`Depot`]: the free objects of one cache on one node, and its slabs.
//!
//! Used by the slab layer alone, whose module head says what states an object has. Here are the two that the depot's
//! lock guards: on the stack, and on a slab's free list.
//!
//! # Theory
//!
//! The stack holds objects that came in batches and will go in batches: those for which a CPU's own
//! [stack](crate::cpu_stacks) has no room, and those that CPUs of other nodes send home. An exchange is one lock
//! acquisition and a copy of pointers, or with a CPU of the node no more than whole chunks of them that change hands;
//! objects are not touched. The [stack](crate::chunk_stack) grows for each batch that found too little room, by
//! [chunks](crate::chunks) that are got with the lock released, so the next finds more. Slabs stand behind it. A slab
//! with free objects is on `partial` (some in use) or `empty` (none); a full one is on no list. A few empty slabs are
//! kept; the others are handed to the caller, who gives their frames back to the page layer after the lock is released.
//!
//! A depot that was shrunk says so until it is used again: everybody short of memory shrinks all depots, at the same
//! time, and would wait for the lock of each for nothing.
//!
//! A slab's frame word holds the number of objects not on its free list (upper half) and the first free one (lower
//! half). The list runs through the objects' link words ([`Geometry::link`]): lower 16 bits the next object's number,
//! upper 48 the secret.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use core::{mem, ptr};

use crate::chunk_stack::{CHUNK_OBJECTS, ChunkList, ChunkStack};
use crate::class::Geometry;
use crate::frame::{FRAME_SHIFT, FrameList, Frames, Pfn};
use crate::lock::{Guard, Lock};
use crate::machine::Machine;
use crate::set::Places;

/// Bits of the link word of an object on a slab's free list that say which is next; the secret has the others.
pub(crate) const LINK_MASK: u64 = 0xffff;

/// Bytes from a link word's start to the half that the mark is in.
const MARK_OFFSET: usize = 4;

/// End of a slab's free list.
const NO_OBJECT: u32 = 0xffff;

/// Empty slabs a depot keeps.
const KEPT_EMPTY: u32 = 2;

/// One cache on one node; see the module head.
pub(crate) struct Depot {
    state: Lock<DepotState>,
    /// Whether the lock was taken for anything else since it was last shrunk. Written under the lock.
    used: AtomicBool,
}

pub(crate) struct DepotState {
    stack: ChunkStack,
    spare: ChunkList,
    partial: FrameList,
    empty: FrameList,
    empty_slabs: u32,
    slabs: u32,
    free_in_slabs: u32,
}

// SAFETY: the pointers are to memory the depot owns; they are reached only under its lock.
unsafe impl Send for DepotState {}

/// What a depot holds, for statistics.
#[derive(Clone, Copy, Default)]
pub(crate) struct DepotCounts {
    pub(crate) slabs: u32,
    pub(crate) stacked: u32,
    pub(crate) free_in_slabs: u32,
    pub(crate) empty_slabs: u32,
}

/// What a depot must know of the service to work on its slabs.
#[derive(Clone, Copy)]
pub(crate) struct SlabView {
    pub(crate) frames: Frames,
    pub(crate) geometry: Geometry,
    pub(crate) direct_map: usize,
    pub(crate) secret: u64,
}

/// The half of the secret that marks free objects.
pub(crate) const fn mark_of(secret: u64) -> u32 {
    (secret >> 32) as u32
}

/// The mark's place in an object whose link word is at `link`.
#[inline(always)]
pub(crate) fn mark_at(object: *mut u8, link: u32) -> *mut u32 {
    object.wrapping_add(link as usize + MARK_OFFSET).cast()
}

impl Depot {
    pub(crate) const fn new() -> Self {
        Self {
            state: Lock::new(DepotState {
                stack: ChunkStack::new(),
                spare: ChunkList::new(),
                partial: FrameList::new(),
                empty: FrameList::new(),
                empty_slabs: 0,
                slabs: 0,
                free_in_slabs: 0,
            }),
            used: AtomicBool::new(false),
        }
    }

    /// Takes the depot's lock.
    pub(crate) fn lock<'a, M: Machine>(&'a self, machine: &'a M) -> Guard<'a, DepotState, M> {
        let state = self.state.lock(machine);
        self.used.store(true, Relaxed);
        state
    }

    /// Whether there may be something to [shrink](Self::shrink), as far as can be told without the lock: it was used
    /// since that was done last. Whoever knows of a use finds it so.
    pub(crate) fn is_used(&self) -> bool {
        self.used.load(Relaxed)
    }

    /// [Shrinks](DepotState::shrink) it, if it was used since that was done last.
    pub(crate) fn shrink<M: Machine>(
        &self,
        machine: &M,
        view: SlabView,
        surplus: &mut FrameList,
        chunks: &mut ChunkList,
    ) {
        if self.is_used() {
            let mut state = self.state.lock(machine);
            state.shrink(view, surplus, chunks);
            self.used.store(false, Relaxed);
        }
    }

    pub(crate) fn counts<M: Machine>(&self, machine: &M) -> DepotCounts {
        let state = self.state.lock(machine);
        DepotCounts {
            slabs: state.slabs,
            stacked: state.stack.count(),
            free_in_slabs: state.free_in_slabs,
            empty_slabs: state.empty_slabs,
        }
    }

    pub(crate) fn raw(&self) -> &crate::raw_lock::RawLock {
        self.state.raw()
    }
}

impl SlabView {
    fn address(self, slab: Pfn) -> usize {
        self.direct_map + (slab.index() << FRAME_SHIFT)
    }

    /// The frame that an address in the direct map lies in.
    pub(crate) fn frame_of(self, address: *mut u8) -> Pfn {
        Pfn(((address.addr() - self.direct_map) >> FRAME_SHIFT) as u32)
    }

    fn slab_of(self, object: *mut u8) -> Pfn {
        self.frame_of(object).block(self.geometry.order)
    }

    fn word(self, slab: Pfn) -> (u32, u32) {
        let word = self.frames.frame(slab).word.load(Relaxed);
        (word >> 16, word & 0xffff)
    }

    fn set_word(self, slab: Pfn, out: u32, first_free: u32) {
        self.frames.frame(slab).word.store(out << 16 | first_free, Relaxed);
    }

    /// The word of an object that is the service's while the object is free.
    #[inline]
    pub(crate) fn link(self, object: *mut u8) -> *mut u64 {
        object.wrapping_add(self.geometry.link as usize).cast()
    }

    /// The half of an object's link word that holds the [mark](mark_of) while the object is free.
    #[inline]
    fn mark_place(self, object: *mut u8) -> *mut u32 {
        mark_at(object, self.geometry.link)
    }

    /// Whether an object's link word says that it is free.
    ///
    /// # Safety
    ///
    /// The object is one of a slab, so that it can be read. Its user, or the CPU that caches it, may write the word
    /// meanwhile.
    pub(crate) unsafe fn is_marked(self, object: *mut u8) -> bool {
        // SAFETY: the caller's promise. Volatile: it is read as the machine reads it, for another CPU may write it.
        unsafe { self.mark_place(object).read_volatile() == mark_of(self.secret) }
    }

    /// Marks an object as free.
    ///
    /// # Safety
    ///
    /// The object is one of a slab, and the caller's.
    pub(crate) unsafe fn mark(self, object: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { self.mark_place(object).write(mark_of(self.secret)) };
    }

    /// Takes the mark from an object that is to be handed out, or its first free would look like the second.
    ///
    /// # Safety
    ///
    /// The object is one of a slab, and the caller's.
    #[inline]
    pub(crate) unsafe fn unmark(self, object: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { self.mark_place(object).write(0) };
    }

    pub(crate) fn object(self, slab: Pfn, index: u32) -> *mut u8 {
        ptr::with_exposed_provenance_mut(self.address(slab) + self.geometry.offset(index) as usize)
    }

    /// Writes the free list of a new slab: all objects, the lowest address first.
    pub(crate) fn format(self, slab: Pfn) {
        let mut next = NO_OBJECT;
        for index in 0..self.geometry.objects {
            // SAFETY: the slab's frames are the caller's alone and no object of it has been handed out.
            unsafe { self.link(self.object(slab, index)).write(self.secret | u64::from(next)) };
            next = index;
        }
        self.set_word(slab, 0, next);
    }
}

impl SlabView {
    /// Makes a block a slab all of whose objects are handed out, but marked as free still: they are `take`'s, the
    /// lowest address last.
    pub(crate) fn hand_out_whole(self, slab: Pfn, mut take: impl FnMut(*mut u8)) {
        for index in 0..self.geometry.objects {
            let object = self.object(slab, index);
            // SAFETY: the slab's frames are the caller's alone and no object of it has been handed out.
            unsafe { self.mark(object) };
            take(object);
        }
        self.take_whole(slab);
    }

    /// Makes a block a slab all of whose objects are somebody's.
    pub(crate) fn take_whole(self, slab: Pfn) {
        self.set_word(slab, self.geometry.objects, NO_OBJECT);
    }
}

impl DepotState {
    /// Notes slabs all of whose objects are [handed out](SlabView::hand_out_whole).
    pub(crate) fn add_whole_slabs(&mut self, slabs: u32) {
        self.slabs += slabs;
    }

    /// Takes up to `wanted` objects off the stack, then out of slabs.
    pub(crate) fn take(&mut self, view: SlabView, wanted: u32, places: Places) -> u32 {
        let mut taken = self.stack.take(wanted, &mut self.spare, places);
        while taken < wanted {
            let Some(slab) = self.partial.first().or_else(|| self.reopen_empty(view)) else { break };
            taken += self.take_from_slab(view, slab, wanted - taken, places);
        }
        taken
    }

    fn reopen_empty(&mut self, view: SlabView) -> Option<Pfn> {
        let slab = self.empty.pop(view.frames)?;
        self.empty_slabs -= 1;
        self.partial.push(view.frames, slab);
        Some(slab)
    }

    fn take_from_slab(&mut self, view: SlabView, slab: Pfn, wanted: u32, places: Places) -> u32 {
        let (out, mut first) = view.word(slab);
        let mut taken = 0;
        while taken < wanted && first != NO_OBJECT {
            let object = view.object(slab, first);
            // SAFETY: the object is on the slab's free list, so its link word is the slab's to read.
            let word = unsafe { view.link(object).read() };
            let next = (word & LINK_MASK) as u32;
            let written = word ^ view.secret > LINK_MASK;
            if written || next != NO_OBJECT && next >= view.geometry.objects {
                written_after_free(object);
            }
            places.push_run(&[object]);
            first = next;
            taken += 1;
        }
        view.set_word(slab, out + taken, first);
        self.free_in_slabs -= taken;
        if first == NO_OBJECT {
            self.partial.remove(view.frames, slab);
        }
        taken
    }

    /// Puts objects back into their slabs; slabs beyond the empty ones worth keeping are put on `surplus`.
    fn give_to_slabs(&mut self, view: SlabView, objects: &[*mut u8], keep: bool, surplus: &mut FrameList) {
        // Objects that were taken together often lie in one slab, whose word is then read and written once.
        for together in objects.chunk_by(|one, next| view.slab_of(*one) == view.slab_of(*next)) {
            let slab = view.slab_of(together[0]);
            let (out, first) = view.word(slab);
            let mut next = first;
            for &object in together {
                // SAFETY: the object is free and its caller's, so its link word is the service's to write.
                unsafe { view.link(object).write(view.secret | u64::from(next)) };
                next = view.geometry.index(object.addr());
            }
            let count = together.len() as u32;
            view.set_word(slab, out - count, next);
            self.free_in_slabs += count;
            if out == count {
                if first != NO_OBJECT {
                    self.partial.remove(view.frames, slab);
                }
                if keep && self.empty_slabs < KEPT_EMPTY {
                    self.empty.push(view.frames, slab);
                    self.empty_slabs += 1;
                } else {
                    self.slabs -= 1;
                    self.free_in_slabs -= view.geometry.objects;
                    surplus.push(view.frames, slab);
                }
            } else if first == NO_OBJECT {
                self.partial.push(view.frames, slab);
            }
        }
    }

    /// Adds a formatted slab that nobody has an object of yet: an empty one, and so it stays when what was wanted came
    /// back to the stack meanwhile.
    pub(crate) fn add_slab(&mut self, view: SlabView, slab: Pfn) {
        self.empty.push(view.frames, slab);
        self.empty_slabs += 1;
        self.slabs += 1;
        self.free_in_slabs += view.geometry.objects;
    }

    /// Puts objects on the stack or, where there is no room or nothing is to be kept, back into their slabs; slabs not
    /// worth keeping are put on `surplus`. Says how many chunks more would have kept more of them on the stack.
    pub(crate) fn give(&mut self, view: SlabView, objects: &[*mut u8], keep: bool, surplus: &mut FrameList) -> u32 {
        let stacked = if keep { self.stack.put(objects, &mut self.spare) } else { 0 };
        let homeless = &objects[stacked..];
        if homeless.is_empty() {
            return 0;
        }
        self.give_to_slabs(view, homeless, keep, surplus);
        if keep && objects.len() > 1 { self.wanted_chunks() } else { 0 }
    }

    /// How many more chunks the stack should have, where it is too small: one, until it may not have the objects.
    fn wanted_chunks(&self) -> u32 {
        (!self.stack.is_as_large_as_it_may(&self.spare)).into()
    }

    /// Puts all of the objects on the stack, if there is room; says whether there was.
    pub(crate) fn stack(&mut self, objects: &[*mut u8]) -> bool {
        self.stack.put_all(objects, &mut self.spare)
    }

    /// Takes full chunks of objects, up to so many and as far as the stack may have them, which are `capacity` objects;
    /// gives a spare chunk for each that there is one for. Returns how many it took and gave.
    pub(crate) fn take_chunks(
        &mut self,
        chunks: u32,
        capacity: u32,
        from: &mut ChunkStack,
        spare: &mut ChunkList,
    ) -> (u32, u32) {
        self.stack.set_capacity(capacity);
        let taken = from.hand_over(chunks, &mut self.stack);
        (taken, spare.take(taken, &mut self.spare))
    }

    /// Whether there are full chunks on the stack beside its top.
    pub(crate) fn has_chunks(&self) -> bool {
        self.stack.count() > CHUNK_OBJECTS
    }

    /// Gives full chunks of objects, up to so many and as far as the other stack may have them, and takes spare ones in
    /// return, as far as there are any. Returns how many it gave and took.
    pub(crate) fn give_chunks(&mut self, chunks: u32, to: &mut ChunkStack, spare: &mut ChunkList) -> (u32, u32) {
        let given = self.stack.hand_over(chunks, to);
        (given, self.spare.take(given, spare))
    }

    /// Gives the stack, which may hold so many objects, a chunk more; says whether it has a use for it.
    ///
    /// # Safety
    ///
    /// As for [`ChunkList::push`].
    pub(crate) unsafe fn accept(&mut self, chunk: *mut u8, capacity: u32) -> bool {
        self.stack.set_capacity(capacity);
        let useful = self.wanted_chunks() > 0;
        if useful {
            // SAFETY: the caller's promise.
            unsafe { self.spare.push(chunk) };
        }
        useful
    }

    /// Gives up the stack, its objects and all empty slabs: these are put on `surplus`, the stack's memory on `chunks`.
    #[inline(never)]
    pub(crate) fn shrink(&mut self, view: SlabView, surplus: &mut FrameList, chunks: &mut ChunkList) {
        let mut stack = mem::replace(&mut self.stack, ChunkStack::new());
        stack.give_up(|objects| self.give_to_slabs(view, objects, false, surplus), chunks);
        chunks.take(u32::MAX, &mut self.spare);
        while let Some(slab) = self.empty.pop(view.frames) {
            self.empty_slabs -= 1;
            self.slabs -= 1;
            self.free_in_slabs -= view.geometry.objects;
            surplus.push(view.frames, slab);
        }
    }

    /// Whether all objects of all its slabs are in it.
    pub(crate) fn is_complete(&self, view: SlabView) -> bool {
        self.slabs * view.geometry.objects == self.stack.count() + self.free_in_slabs
    }

    /// Whether the object is on the stack or on its slab's free list.
    pub(crate) fn holds(&self, view: SlabView, object: *mut u8) -> bool {
        if self.stack.holds(object) {
            return true;
        }
        let slab = view.slab_of(object);
        let wanted = view.geometry.index(object.addr());
        let mut next = view.word(slab).1;
        for _ in 0..view.geometry.objects {
            if next == wanted {
                return true;
            }
            if next >= view.geometry.objects {
                return false;
            }
            // SAFETY: the object is on the slab's free list, so its link word is the slab's to read.
            next = (unsafe { view.link(view.object(slab, next)).read() } & LINK_MASK) as u32;
        }
        false
    }
}

#[cold]
#[inline(never)]
fn written_after_free(object: *mut u8) -> ! {
    panic!("the free object at {object:p} was written to: somebody used it after kfree");
}
