//! [`ChunkStack`]: free objects at hand, as pointers in chunks of memory.
//!
//! Used by [`depot`](crate::depot) and [`cpu_stacks`](crate::cpu_stacks), which guard a stack, and the chunks that it
//! is made of, by a lock of theirs.
//!
//! # Theory
//!
//! The stack is a chain of chunks, each of which holds [`CHUNK_OBJECTS`] pointers and leads to the chunk below. Chunks
//! below the top are full, and the top is not empty: a chunk is taken from the owner's list of spare ones when there is
//! more than fits the top, and goes back there with its last object. So the stacks of one owner share what memory they
//! need at a time, an eighth of the smallest objects' own at the worst; no pointer is ever moved within a stack, and
//! nothing takes longer with its size.
//!
//! It never allocates: its owner, who cannot under the lock either, asks [how many chunks are
//! missing](ChunkStack::missing) and brings them when it next comes by.

use core::{ptr, slice};

use crate::set::Places;

/// Bytes of a chunk: there is room for a full magazine in it. Stacks are many, and most need one or two.
pub(crate) const CHUNK_BYTES: usize = 512;

/// Pointers in a chunk: an even number, as batches are, so that no copy has a pointer by itself at its end.
pub(crate) const CHUNK_OBJECTS: u32 = (CHUNK_BYTES / size_of::<*mut u8>()) as u32 - 2;

#[repr(C)]
struct Chunk {
    below: *mut Chunk,
    used: usize,
    objects: [*mut u8; CHUNK_OBJECTS as usize],
}

const _: () = assert!(size_of::<Chunk>() == CHUNK_BYTES);

/// Chunks without objects, chained through themselves.
pub(crate) struct ChunkList {
    first: *mut Chunk,
    count: u32,
}

impl ChunkList {
    pub(crate) const fn new() -> Self {
        Self { first: ptr::null_mut(), count: 0 }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Puts a chunk on the list.
    ///
    /// # Safety
    ///
    /// The chunk has [`CHUNK_BYTES`], is aligned for pointers, and is the list's alone until [`Self::pop`] gives it.
    pub(crate) unsafe fn push(&mut self, chunk: *mut u8) {
        let chunk = chunk.cast::<Chunk>();
        // SAFETY: the caller's promise.
        unsafe { (&raw mut (*chunk).below).write(self.first) };
        self.first = chunk;
        self.count += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<*mut u8> {
        let chunk = self.first;
        if chunk.is_null() {
            return None;
        }
        // SAFETY: the list's chunks are its alone.
        self.first = unsafe { (&raw const (*chunk).below).read() };
        self.count -= 1;
        Some(chunk.cast())
    }

    /// Takes up to so many chunks of another list's; returns how many.
    pub(crate) fn take(&mut self, wanted: u32, other: &mut Self) -> u32 {
        for taken in 0..wanted {
            let Some(chunk) = other.pop() else { return taken };
            // SAFETY: it was the other list's alone.
            unsafe { self.push(chunk) };
        }
        wanted
    }
}

/// A stack of free objects; see the module head.
pub(crate) struct ChunkStack {
    /// Null where there is no object.
    top: *mut Chunk,
    count: u32,
    /// Objects it may hold.
    capacity: u32,
}

impl ChunkStack {
    pub(crate) const fn new() -> Self {
        Self { top: ptr::null_mut(), count: 0, capacity: 0 }
    }

    /// How many objects are on it.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// How many chunks it has.
    pub(crate) fn chunks(&self) -> u32 {
        self.count.div_ceil(CHUNK_OBJECTS)
    }

    /// Says how many objects it may hold.
    pub(crate) fn set_capacity(&mut self, capacity: u32) {
        self.capacity = capacity;
    }

    /// Whether it has, with these spare chunks, as much memory as it may have objects. Not before that was said.
    pub(crate) fn is_as_large_as_it_may(&self, spare: &ChunkList) -> bool {
        self.capacity > 0 && self.count + self.room(spare) >= self.capacity
    }

    /// How many chunks more than there are spare ones so many more objects need; `None` where it may not hold them.
    pub(crate) fn missing(&self, objects: usize, spare: &ChunkList) -> Option<u32> {
        let all = u32::try_from(objects).ok()?.checked_add(self.count)?;
        let chunks = all.div_ceil(CHUNK_OBJECTS) - self.chunks();
        (all <= self.capacity).then(|| chunks.saturating_sub(spare.count))
    }

    /// Puts on as many of the objects as there is room for, the first ones, and returns how many these are.
    #[inline]
    pub(crate) fn put(&mut self, objects: &[*mut u8], spare: &mut ChunkList) -> usize {
        let room = self.room(spare).min(self.capacity.saturating_sub(self.count));
        let fitting = objects.len().min(room as usize);
        let mut rest = &objects[..fitting];
        while !rest.is_empty() {
            let mut used = self.in_top();
            if used == CHUNK_OBJECTS {
                self.raise(spare);
                used = 0;
            }
            let here = rest.len().min((CHUNK_OBJECTS - used) as usize);
            // SAFETY: the top chunk is the stack's, has that much room, and is no part of what the caller has.
            unsafe {
                let place = (&raw mut (*self.top).objects).cast::<*mut u8>().add(used as usize);
                ptr::copy_nonoverlapping(rest.as_ptr(), place, here);
                (&raw mut (*self.top).used).write(used as usize + here);
            }
            self.count += here as u32;
            rest = &rest[here..];
        }
        fitting
    }

    /// Puts on all of the objects, if there is room for them; says whether there was.
    #[inline]
    pub(crate) fn put_all(&mut self, objects: &[*mut u8], spare: &mut ChunkList) -> bool {
        let fits = objects.len() as u32 <= self.capacity.saturating_sub(self.count)
            && objects.len() as u32 <= self.room(spare);
        if fits {
            self.put(objects, spare);
        }
        fits
    }

    /// Takes off up to `wanted` objects, those put on last, chunk by chunk: of each the one put on last at the end.
    /// Returns how many.
    #[inline(never)]
    pub(crate) fn take(&mut self, wanted: u32, spare: &mut ChunkList, places: Places) -> u32 {
        let taken = wanted.min(self.count);
        let mut left = taken;
        while left > 0 {
            let run = self.take_run(left, spare);
            places.push_run(run);
            left -= run.len() as u32;
        }
        taken
    }

    /// Takes off up to `wanted` objects that are in one chunk, the one put on last at the end; none where there are
    /// none.
    #[inline]
    fn take_run<'a>(&'a mut self, wanted: u32, spare: &'a mut ChunkList) -> &'a [*mut u8] {
        if self.count == 0 {
            return &[];
        }
        let used = self.in_top();
        let here = wanted.min(used);
        let left = (used - here) as usize;
        // SAFETY: the top chunk is the stack's, and so many of its entries were valid until now. They stay as they are
        // until something is put on a stack that has the chunk, which the borrow of this one and of the spare chunks
        // keeps out.
        let run = unsafe {
            (&raw mut (*self.top).used).write(left);
            let objects = (&raw const (*self.top).objects).cast::<*mut u8>();
            slice::from_raw_parts(objects.add(left), here as usize)
        };
        self.count -= here;
        if left == 0 {
            self.lower(spare);
        }
        run
    }

    /// Moves up to `chunks` full chunks, those right below the top, to another stack, as far as that may hold their
    /// objects; returns how many.
    pub(crate) fn hand_over(&mut self, chunks: u32, other: &mut Self) -> u32 {
        for moved in 0..chunks {
            // SAFETY: chunks of the stack's.
            let Some(top) = (unsafe { self.top.as_mut() }) else { return moved };
            // SAFETY: as above.
            let Some(chunk) = (unsafe { top.below.as_mut() }) else { return moved };
            if other.count + CHUNK_OBJECTS > other.capacity {
                return moved;
            }
            top.below = chunk.below;
            self.count -= CHUNK_OBJECTS;
            // SAFETY: chunks of the other stack's. Only its top may be less than full.
            let below = match unsafe { other.top.as_mut() } {
                Some(top) => &mut top.below,
                None => &mut other.top,
            };
            chunk.below = *below;
            *below = chunk;
            other.count += CHUNK_OBJECTS;
        }
        chunks
    }

    /// Gives up everything: the objects to `objects`, chunk by chunk, and its memory to the spare chunks.
    pub(crate) fn give_up(&mut self, mut objects: impl FnMut(&[*mut u8]), spare: &mut ChunkList) {
        while self.count > 0 {
            objects(self.take_run(CHUNK_OBJECTS, spare));
        }
        self.capacity = 0;
    }

    /// Whether an object is on it.
    pub(crate) fn holds(&self, object: *mut u8) -> bool {
        let mut next = self.top;
        // SAFETY: chunks of the stack's.
        while let Some(chunk) = unsafe { next.as_ref() } {
            if chunk.objects[..chunk.used].contains(&object) {
                return true;
            }
            next = chunk.below;
        }
        false
    }

    /// Everything in it.
    #[cfg(test)]
    pub(crate) fn contents(&self) -> [u64; 3] {
        let Self { top, count, capacity } = self;
        [top.addr() as u64, (*count).into(), (*capacity).into()]
    }

    /// How many objects are in the top chunk; as many as fit it where there is none.
    fn in_top(&self) -> u32 {
        // SAFETY: a chunk of the stack's.
        unsafe { self.top.as_ref() }.map_or(CHUNK_OBJECTS, |top| top.used as u32)
    }

    /// How many objects more there is memory for.
    fn room(&self, spare: &ChunkList) -> u32 {
        CHUNK_OBJECTS - self.in_top() + spare.count * CHUNK_OBJECTS
    }

    /// Makes a spare chunk the top. There is one, for there is room and the top is full.
    fn raise(&mut self, spare: &mut ChunkList) {
        let chunk = spare.pop().expect("there is room").cast::<Chunk>();
        // SAFETY: a chunk of the stack's.
        unsafe { (&raw mut (*chunk).below).write(self.top) };
        self.top = chunk;
    }

    /// Makes the chunk below a top that ran empty the top.
    fn lower(&mut self, spare: &mut ChunkList) {
        let chunk = self.top;
        // SAFETY: a chunk of the stack's, which forgets it.
        unsafe {
            self.top = (*chunk).below;
            spare.push(chunk.cast());
        }
    }
}

#[cfg(all(test, feature = "hosted"))]
mod tests {
    use core::sync::atomic::AtomicU32;
    use std::alloc::{Layout, alloc, dealloc};
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const LAYOUT: Layout = Layout::new::<Chunk>();
    const CHUNK: usize = CHUNK_OBJECTS as usize;

    fn object(number: usize) -> *mut u8 {
        ptr::without_provenance_mut(8 * (number + 1))
    }

    #[derive(Clone, Debug)]
    enum Step {
        AddChunk,
        Put(usize),
        PutAll(usize),
        Take(u32),
        HandOver(u32),
        GiveUp,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::AddChunk),
            4 => (0usize..900).prop_map(Step::Put),
            4 => (0usize..200).prop_map(Step::PutAll),
            8 => (0u32..900).prop_map(Step::Take),
            2 => (0u32..6).prop_map(Step::HandOver),
            1 => Just(Step::GiveUp),
        ]
    }

    proptest! {
        /// Two stacks that share their chunks, each beside a model of it.
        #[test]
        fn it_holds_what_was_put_on_and_not_taken_off(
            steps in prop::collection::vec((0usize..2, step()), 1..80),
            capacity in prop_oneof![1u32..300, 1u32..3000],
        ) {
            let mut stacks = [ChunkStack::new(), ChunkStack::new()];
            let mut models: [Vec<*mut u8>; 2] = [Vec::new(), Vec::new()];
            let mut spare = ChunkList::new();
            let (mut next, mut chunks) = (0, 0);
            for (which, step) in steps.into_iter().chain([(0, Step::GiveUp), (1, Step::GiveUp)]) {
                let (stack, model) = (&mut stacks[which], &mut models[which]);
                stack.set_capacity(capacity);
                let in_use = |objects: usize| (objects as u32).div_ceil(CHUNK_OBJECTS);
                let room = (capacity as usize)
                    .min(((in_use(model.len()) + spare.count()) * CHUNK_OBJECTS) as usize)
                    - model.len();
                match step {
                    Step::AddChunk => {
                        // SAFETY: a new chunk, which is freed at the end.
                        unsafe { spare.push(alloc(LAYOUT)) };
                        chunks += 1;
                    }
                    Step::Put(count) => {
                        let objects: Vec<_> = (next..next + count).map(object).collect();
                        next += count;
                        prop_assert_eq!(stack.put(&objects, &mut spare), count.min(room));
                        model.extend(&objects[..count.min(room)]);
                    }
                    Step::PutAll(count) => {
                        let objects: Vec<_> = (next..next + count).map(object).collect();
                        next += count;
                        let missing = stack.missing(count, &spare);
                        prop_assert_eq!(missing.is_some(), model.len() + count <= capacity as usize);
                        let wanted = in_use(model.len() + count) - in_use(model.len());
                        prop_assert!(missing.is_none_or(|missing| missing == wanted.saturating_sub(spare.count())));
                        prop_assert_eq!(stack.put_all(&objects, &mut spare), count <= room);
                        if count <= room {
                            model.extend(objects);
                        }
                    }
                    Step::Take(wanted) => {
                        let (mut taken, count) = (vec![ptr::null_mut(); wanted as usize], AtomicU32::new(0));
                        let places = Places::of(&mut taken, &count);
                        let count = stack.take(wanted, &mut spare, places) as usize;
                        taken.truncate(count);
                        prop_assert_eq!(count, (wanted as usize).min(model.len()));
                        let mut expected = model.split_off(model.len() - count);
                        expected.sort_unstable();
                        taken.sort_unstable();
                        prop_assert_eq!(taken, expected);
                    }
                    Step::HandOver(count) => {
                        let [first, second] = &mut stacks;
                        let (from, to) = if which == 0 { (first, second) } else { (second, first) };
                        to.set_capacity(capacity);
                        let full = (from.count().saturating_sub(1)) / CHUNK_OBJECTS;
                        let fitting = capacity.saturating_sub(to.count()) / CHUNK_OBJECTS;
                        let moved = from.hand_over(count, to);
                        prop_assert_eq!(moved, count.min(full).min(fitting));
                        // Where the top chunk begins.
                        let top = |model: &[*mut u8]| model.len().saturating_sub(1) / CHUNK * CHUNK;
                        for _ in 0..moved {
                            let end = top(&models[which]);
                            let gone: Vec<_> = models[which].drain(end - CHUNK..end).collect();
                            let place = top(&models[1 - which]);
                            models[1 - which].splice(place..place, gone);
                        }
                    }
                    Step::GiveUp => {
                        let mut given = Vec::new();
                        stack.give_up(|objects| given.extend_from_slice(objects), &mut spare);
                        given.sort_unstable();
                        model.sort_unstable();
                        prop_assert_eq!(given, core::mem::take(model));
                    }
                }
                for (stack, model) in stacks.iter().zip(&models) {
                    prop_assert_eq!(stack.count() as usize, model.len());
                    prop_assert!(model.iter().all(|object| stack.holds(*object)));
                    prop_assert!(!stack.holds(object(next)));
                }
                let used: u32 = models.iter().map(|model| in_use(model.len())).sum();
                prop_assert_eq!(used + spare.count(), chunks, "no chunk is lost or kept without objects");
            }
            let mut freed = 0;
            while let Some(chunk) = spare.pop() {
                // SAFETY: allocated above, and no stack's any more.
                unsafe { dealloc(chunk, LAYOUT) };
                freed += 1;
            }
            prop_assert_eq!(freed, chunks);
        }
    }
}
