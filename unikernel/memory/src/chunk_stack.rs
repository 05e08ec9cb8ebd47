//! [`ChunkStack`]: the free objects that a depot has at hand, as pointers in chunks of memory.
//!
//! Used by [`depot`](crate::depot), whose lock guards all of it.
//!
//! # Theory
//!
//! The stack is a chain of chunks, each of which holds [`CHUNK_OBJECTS`] pointers and leads to the chunk below. Chunks below
//! the top are full. Those that ran empty are kept on a chain of spare ones, for what was put there once will come again,
//! until the depot gives everything up. So it takes memory for as many objects as there ever were at a time, an eighth of
//! the smallest objects' own at the worst; no pointer is ever moved within it, and nothing takes longer with its size.
//!
//! It never allocates: its owner, who cannot under the lock either, asks [how much it wants](ChunkStack::wanted_chunks) and
//! brings chunks when it next comes by.

use core::{ptr, slice};

/// Bytes of a chunk: there is room for a full magazine in it. Depots are many, and most need one or two.
pub(crate) const CHUNK_BYTES: usize = 512;

/// Pointers in a chunk: an even number, as batches are, so that no copy has a pointer by itself at its end.
pub(crate) const CHUNK_OBJECTS: u32 = (CHUNK_BYTES / size_of::<*mut u8>()) as u32 - 2;

/// A stack grows by this part of itself, and at least a chunk.
const GROWTH: u32 = 8;

#[repr(C)]
struct Chunk {
    below: *mut Chunk,
    spare: usize,
    objects: [*mut u8; CHUNK_OBJECTS as usize],
}

const _: () = assert!(size_of::<Chunk>() == CHUNK_BYTES);

/// Chunks that stacks gave up, chained through themselves.
pub(crate) struct ChunkList(*mut Chunk);

impl ChunkList {
    pub(crate) const fn new() -> Self {
        Self(ptr::null_mut())
    }

    /// # Safety
    ///
    /// The chunk is one that [`ChunkStack::give_up`] gave, and the list's alone from here on.
    unsafe fn push(&mut self, chunk: *mut Chunk) {
        // SAFETY: the caller's promise.
        unsafe { (&raw mut (*chunk).below).write(self.0) };
        self.0 = chunk;
    }

    pub(crate) fn pop(&mut self) -> Option<*mut u8> {
        let chunk = self.0;
        // SAFETY: the list's chunks are its alone.
        self.0 = unsafe { chunk.as_ref() }?.below;
        Some(chunk.cast())
    }
}

/// A stack of free objects; see the module head.
pub(crate) struct ChunkStack {
    /// Null where there is none yet.
    top: *mut Chunk,
    in_top: u32,
    spare: *mut Chunk,
    /// Chunks of both chains.
    chunks: u32,
    count: u32,
    /// Objects it may hold.
    capacity: u32,
}

impl ChunkStack {
    pub(crate) const fn new() -> Self {
        Self { top: ptr::null_mut(), in_top: 0, spare: ptr::null_mut(), chunks: 0, count: 0, capacity: 0 }
    }

    /// How many objects are on it.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// How many more objects there is room for.
    #[inline]
    pub(crate) fn room(&self) -> u32 {
        self.capacity.min(self.chunks * CHUNK_OBJECTS) - self.count
    }

    /// How many more chunks it should have, where it is too small: a part of what it has, and no more than it may use.
    pub(crate) fn wanted_chunks(&self) -> u32 {
        if self.chunks == 0 {
            return 1;
        }
        (self.chunks / GROWTH).max(1).min(self.capacity.div_ceil(CHUNK_OBJECTS).saturating_sub(self.chunks))
    }

    /// Gives it a chunk, and says how many objects it may hold in all.
    ///
    /// # Safety
    ///
    /// The chunk has [`CHUNK_BYTES`], is aligned for pointers, and is the stack's alone until [`Self::give_up`] hands it
    /// back.
    pub(crate) unsafe fn add_chunk(&mut self, chunk: *mut u8, capacity: u32) {
        let chunk = chunk.cast::<Chunk>();
        // SAFETY: the caller's promise.
        unsafe { (&raw mut (*chunk).below).write(self.spare) };
        self.spare = chunk;
        self.chunks += 1;
        self.capacity = capacity.max(self.count);
    }

    /// Puts on as many of the objects as there is room for, the first ones, and returns how many these are.
    #[inline]
    pub(crate) fn put(&mut self, objects: &[*mut u8]) -> usize {
        let fitting = objects.len().min(self.room() as usize);
        let mut rest = &objects[..fitting];
        while !rest.is_empty() {
            if self.top.is_null() || self.in_top == CHUNK_OBJECTS {
                self.raise();
            }
            let here = rest.len().min((CHUNK_OBJECTS - self.in_top) as usize);
            // SAFETY: the top chunk is the stack's, has that much room, and is no part of what the caller has.
            unsafe {
                let place = (&raw mut (*self.top).objects).cast::<*mut u8>().add(self.in_top as usize);
                ptr::copy_nonoverlapping(rest.as_ptr(), place, here);
            }
            self.in_top += here as u32;
            rest = &rest[here..];
        }
        self.count += fitting as u32;
        fitting
    }

    /// Takes off up to `wanted` objects, those put on last, and hands them to `take`, chunk by chunk: of each the one put
    /// on last at the end. Returns how many.
    #[inline]
    pub(crate) fn take(&mut self, wanted: u32, mut take: impl FnMut(&[*mut u8])) -> u32 {
        let taken = wanted.min(self.count);
        self.count -= taken;
        let mut left = taken;
        while left > 0 {
            if self.in_top == 0 {
                self.lower();
            }
            let here = left.min(self.in_top);
            self.in_top -= here;
            // SAFETY: the top chunk is the stack's, and so many of its entries were valid until now.
            take(unsafe {
                let objects = (&raw const (*self.top).objects).cast::<*mut u8>();
                slice::from_raw_parts(objects.add(self.in_top as usize), here as usize)
            });
            left -= here;
        }
        taken
    }

    /// Gives up everything: the objects to `objects`, chunk by chunk, and its memory to `chunks`.
    pub(crate) fn give_up(&mut self, mut objects: impl FnMut(&[*mut u8]), chunks: &mut ChunkList) {
        let Self { top, in_top, spare, .. } = core::mem::replace(self, Self::new());
        let mut used = in_top as usize;
        for chain in [top, spare] {
            let mut next = chain;
            while !next.is_null() {
                let this = next;
                // SAFETY: a chunk of the stack's, which stays so until it is handed over below.
                let held = unsafe { &*this };
                if chain == top {
                    objects(&held.objects[..used]);
                    used = CHUNK_OBJECTS as usize;
                }
                next = held.below;
                // SAFETY: the stack has forgotten the chunk.
                unsafe { chunks.push(this) };
            }
        }
    }

    /// Whether an object is on it.
    pub(crate) fn holds(&self, object: *mut u8) -> bool {
        let mut used = self.in_top as usize;
        let mut next = self.top;
        // SAFETY: chunks of the stack's.
        while let Some(chunk) = unsafe { next.as_ref() } {
            if chunk.objects[..used].contains(&object) {
                return true;
            }
            used = CHUNK_OBJECTS as usize;
            next = chunk.below;
        }
        false
    }

    /// Makes a spare chunk the top. There is one, for there is room and the top is full.
    fn raise(&mut self) {
        let chunk = self.spare;
        debug_assert!(!chunk.is_null(), "there is room");
        // SAFETY: a chunk of the stack's.
        unsafe {
            self.spare = (*chunk).below;
            (&raw mut (*chunk).below).write(self.top);
        }
        self.top = chunk;
        self.in_top = 0;
    }

    /// Makes the chunk below an empty top the top. There is one, for there are objects and none is in the top.
    fn lower(&mut self) {
        let chunk = self.top;
        // SAFETY: a chunk of the stack's.
        unsafe {
            self.top = (*chunk).below;
            (&raw mut (*chunk).below).write(self.spare);
        }
        debug_assert!(!self.top.is_null(), "there are objects");
        self.spare = chunk;
        self.in_top = CHUNK_OBJECTS;
    }
}

#[cfg(all(test, feature = "hosted"))]
mod tests {
    use std::alloc::{Layout, alloc, dealloc};
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const CHUNK: Layout = Layout::new::<Chunk>();

    fn object(number: usize) -> *mut u8 {
        ptr::without_provenance_mut(8 * (number + 1))
    }

    #[derive(Clone, Debug)]
    enum Step {
        AddChunk,
        Put(usize),
        Take(u32),
        GiveUp,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => Just(Step::AddChunk),
            8 => (0usize..900).prop_map(Step::Put),
            8 => (0u32..900).prop_map(Step::Take),
            1 => Just(Step::GiveUp),
        ]
    }

    proptest! {
        #[test]
        fn it_holds_what_was_put_on_and_not_taken_off(steps in prop::collection::vec(step(), 1..60), capacity in 1u32..3000) {
            let mut stack = ChunkStack::new();
            let mut model: Vec<*mut u8> = Vec::new();
            let (mut next, mut chunks) = (0, 0);
            for step in steps.into_iter().chain([Step::GiveUp]) {
                match step {
                    Step::AddChunk if stack.wanted_chunks() > 0 => {
                        // SAFETY: a new chunk, which is freed when the stack gives it up.
                        unsafe { stack.add_chunk(alloc(CHUNK), capacity) };
                        chunks += 1;
                    }
                    Step::AddChunk => prop_assert!(chunks * CHUNK_OBJECTS >= capacity),
                    Step::Put(count) => {
                        let objects: Vec<_> = (next..next + count).map(object).collect();
                        next += count;
                        let most = capacity.min(chunks * CHUNK_OBJECTS) as usize - model.len();
                        prop_assert_eq!(stack.put(&objects), count.min(most));
                        model.extend(&objects[..count.min(most)]);
                    }
                    Step::Take(wanted) => {
                        let mut taken = Vec::new();
                        let count = stack.take(wanted, |objects| taken.extend_from_slice(objects)) as usize;
                        prop_assert_eq!(count, (wanted as usize).min(model.len()));
                        let mut expected = model.split_off(model.len() - count);
                        expected.sort_unstable();
                        taken.sort_unstable();
                        prop_assert_eq!(taken, expected);
                    }
                    Step::GiveUp => {
                        let mut given = Vec::new();
                        let mut list = ChunkList::new();
                        stack.give_up(|objects| given.extend_from_slice(objects), &mut list);
                        while let Some(chunk) = list.pop() {
                            // SAFETY: allocated above, and handed back.
                            unsafe { dealloc(chunk, CHUNK) };
                            chunks -= 1;
                        }
                        given.sort_unstable();
                        prop_assert_eq!(given, core::mem::take(&mut model));
                        prop_assert_eq!(chunks, 0);
                    }
                }
                prop_assert_eq!((stack.count() as usize, stack.chunks), (model.len(), chunks));
                prop_assert!(model.iter().all(|object| stack.holds(*object)));
                prop_assert!(!stack.holds(object(next)));
            }
        }
    }
}
