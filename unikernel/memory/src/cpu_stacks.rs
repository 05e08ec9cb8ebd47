//! [`Stacks`]: behind each magazine of a CPU a stack, on which stays what the magazine cannot hold.
//!
//! Used by the slab layer, whose module head says what states an object has.
//!
//! # Theory
//!
//! A CPU that allocates and frees more than a magazine at a time exchanges batches with its own stacks, not with the
//! depot that it shares with the other CPUs of its node: it gets back what it freed itself, which is in its processor's
//! caches, and the lock it takes is in them too. (With the depot alone in this place, two threads that worked for
//! themselves handed each other their objects, and a pair of a batch of 64 bytes took 10.8 ns in two threads of a
//! process where it took 4.9 in one.) The depot gets what has no room here, and what is of another node than the CPU's
//! local one.
//!
//! One lock guards all stacks of a set. Its CPU takes it for each exchange; others take it to empty the stacks when
//! memory is short or a cache ends, to count, to look for a double free, and to take an object there rather than fail.
//! What is on a stack is therefore a shared layer's, as what is in a depot is: marked as free, and counted with the
//! depots.
//!
//! How many chunks a set holds is written under the lock and looked at without it: by those who would find nothing, so
//! that they do not wait for a lock of each set and cache, all at the same time, when memory is short.
//!
//! All stacks of a set are made of the same chunks, of which there are so many at most. Where they are used up and one
//! more is needed, the caches give what they have on their stacks to their depots, in turn, until there is one: what
//! lay there longest is not known, but whoever goes on using a cache has its objects again soon.
//!
//! Lock order: stacks, depot. No two sets' locks are held together.

use core::ptr;
use core::sync::atomic::Ordering::Relaxed;

use quarry_topology::NodeId;

use crate::chunk_stack::{CHUNK_OBJECTS, ChunkList, ChunkStack};
use crate::chunks::CHUNKS_A_PAGE;
use crate::class::{DYNAMIC_BASE, DYNAMIC_MAGAZINES, MAGAZINES};
use crate::depot::{DepotCounts, DepotState, SlabView};
use crate::frame::{FrameList, Pfn};
use crate::lock::Guard;
use crate::machine::Machine;
use crate::registry::CacheShape;
use crate::service::Service;
use crate::set::{EMPTY, Magazine, Places, Set};

/// Chunks of objects that a CPU's stack and the depot exchange at a time, at most.
const HANDED_OVER: u32 = 8;

/// Caches that have magazines, whose turn it can be.
pub(crate) const TURNS: usize = MAGAZINES + DYNAMIC_MAGAZINES;

/// The chunks that a set's stacks are made of.
pub(crate) struct OwnChunks {
    spare: ChunkList,
    /// Whose turn it was last to give up chunks for another cache.
    turn: usize,
}

// SAFETY: the chunks are the set's own memory, reached only under its lock.
unsafe impl Send for OwnChunks {}

impl OwnChunks {
    pub(crate) const fn new() -> Self {
        Self { spare: ChunkList::new(), turn: 0 }
    }
}

/// What a stack needs to have room for more objects.
enum Needs {
    Nothing,
    /// So many chunks.
    NewChunks(u32),
    /// So many chunks, which only others' stacks can give up.
    OthersChunks(u32),
    /// More than it may have.
    More,
}

/// The stacks of a set, locked.
pub(crate) struct Stacks<'a, M: Machine> {
    set: &'a Set,
    chunks: Guard<'a, OwnChunks, M>,
}

impl<M: Machine> Stacks<'_, M> {
    /// How many objects of a cache there are.
    pub(crate) fn count(&mut self, cache: &CacheShape) -> u32 {
        self.of(cache).map_or(0, |(stack, _)| stack.count())
    }

    /// Whether an object of a cache is there.
    pub(crate) fn holds(&mut self, cache: &CacheShape, object: *mut u8) -> bool {
        self.of(cache).is_some_and(|(stack, _)| stack.holds(object))
    }

    /// As [`ChunkStack::take`].
    #[inline]
    pub(crate) fn take(&mut self, cache: &CacheShape, wanted: u32, places: Places) -> u32 {
        self.of(cache).map_or(0, |(stack, chunks)| stack.take(wanted, &mut chunks.spare, places))
    }

    /// As [`ChunkStack::put_all`].
    #[inline]
    pub(crate) fn put_all(&mut self, cache: &CacheShape, objects: &[*mut u8]) -> bool {
        self.of(cache).is_some_and(|(stack, chunks)| stack.put_all(objects, &mut chunks.spare))
    }

    /// What there must be for so many objects more, where all in all there may be `capacity`, and `most` chunks.
    fn needs(&mut self, cache: &CacheShape, objects: usize, capacity: u32, most: u32) -> Needs {
        let Some((stack, chunks)) = self.of(cache) else { return Needs::More };
        stack.set_capacity(capacity);
        let own = stack.chunks() + chunks.spare.count();
        match stack.missing(objects, &chunks.spare) {
            Some(0) => Needs::Nothing,
            Some(missing) if self.may_grow(missing, most) => Needs::NewChunks(missing),
            Some(missing) if self.set.held_chunks.load(Relaxed) > own => Needs::OthersChunks(missing),
            _ => Needs::More,
        }
    }

    /// Whether so many chunks more, of which all stacks may have `most`, are spare or can be new.
    pub(crate) fn has_chunks(&self, chunks: u32, most: u32) -> bool {
        self.chunks.spare.count() >= chunks || self.may_grow(chunks, most)
    }

    /// Whether there may be so many chunks more, in whole pages, where there may be `most` in all.
    fn may_grow(&self, chunks: u32, most: u32) -> bool {
        self.set.held_chunks.load(Relaxed) + chunks.next_multiple_of(CHUNKS_A_PAGE as u32) <= most
    }

    /// Notes that chunks came or, negated, went.
    fn note_chunks(&self, chunks: u32) {
        let held = self.set.held_chunks.load(Relaxed);
        self.set.held_chunks.store(held.wrapping_add(chunks), Relaxed);
    }

    /// The id of the next cache in turn, which may be nobody's.
    pub(crate) fn next_in_turn(&mut self) -> usize {
        let turn = (self.chunks.turn + 1) % TURNS;
        self.chunks.turn = turn;
        if turn < MAGAZINES { turn } else { turn - MAGAZINES + DYNAMIC_BASE }
    }

    /// Takes a chunk.
    ///
    /// # Safety
    ///
    /// As for [`ChunkList::push`], and until [`Self::release`] gives it back.
    unsafe fn accept(&mut self, chunk: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { self.chunks.spare.push(chunk) };
        self.note_chunks(1);
    }

    /// Hands full chunks of a cache's objects to its depot, whose stack may hold so many objects; says whether there
    /// were any. A part of them, so that the next few batches have room, too.
    pub(crate) fn hand_over(&mut self, cache: &CacheShape, depot: &mut DepotState, capacity: u32) -> bool {
        let Some((stack, chunks)) = self.of(cache) else { return false };
        if stack.count() <= CHUNK_OBJECTS {
            return false;
        }
        let part = (stack.count() / CHUNK_OBJECTS).div_ceil(2).min(HANDED_OVER);
        let (gone, come) = depot.take_chunks(part, capacity, stack, &mut chunks.spare);
        self.note_chunks(come.wrapping_sub(gone));
        gone > 0
    }

    /// Takes full chunks of a cache's objects from its depot, as far as the stack may hold `capacity` objects and all
    /// have `most` chunks; says whether there were any.
    fn restock(&mut self, cache: &CacheShape, depot: &mut DepotState, capacity: u32, most: u32) -> bool {
        let held = self.set.held_chunks.load(Relaxed);
        let Some((stack, chunks)) = self.of(cache) else { return false };
        stack.set_capacity(capacity);
        let room = most.saturating_sub(held) + chunks.spare.count();
        let (come, gone) = depot.give_chunks(HANDED_OVER.min(room), stack, &mut chunks.spare);
        self.note_chunks(come - gone);
        come > 0
    }

    /// Puts on the objects of a slab that is [handed out](SlabView::hand_out_whole), from a number on; the depot gets
    /// those that there is no room for.
    pub(crate) fn put_slab(
        &mut self,
        cache: &CacheShape,
        depot: &mut DepotState,
        view: SlabView,
        slab: Pfn,
        first: u32,
    ) {
        let (mut surplus, mut run) = (FrameList::new(), [ptr::null_mut(); CHUNK_OBJECTS as usize]);
        let (mut count, objects) = (0, cache.geometry.objects);
        for index in first..objects {
            run[count] = view.object(slab, index);
            count += 1;
            if count == run.len() || index + 1 == objects {
                if !self.put_all(cache, &run[..count]) {
                    depot.give(view, &run[..count], true, &mut surplus);
                }
                count = 0;
            }
        }
        debug_assert!(surplus.first().is_none(), "objects before these are in use");
    }

    /// Gives up the objects of a cache.
    pub(crate) fn give_up(&mut self, cache: &CacheShape, objects: impl FnMut(&[*mut u8])) {
        if let Some((stack, chunks)) = self.of(cache) {
            stack.give_up(objects, &mut chunks.spare);
        }
    }

    /// Gives up the chunks that are spare.
    pub(crate) fn release(&mut self, chunks: &mut ChunkList) {
        self.note_chunks(self.chunks.spare.count().wrapping_neg());
        chunks.take(u32::MAX, &mut self.chunks.spare);
    }

    /// The stack for a cache's local objects, and the chunks; `None` where the set has no magazine for them.
    #[inline]
    fn of(&mut self, cache: &CacheShape) -> Option<(&mut ChunkStack, &mut OwnChunks)> {
        let magazine = self.set.magazine_of(cache);
        if ptr::eq(magazine, &raw const EMPTY) {
            return None;
        }
        // SAFETY: the magazine is this set's, whose lock is held, and `&mut self` makes it the only borrow through it.
        Some((unsafe { &mut *magazine.stack.get() }, &mut self.chunks))
    }
}

impl Set {
    /// Takes the lock of the stacks.
    #[inline]
    pub(crate) fn lock_stacks<'a, M: Machine>(&'a self, machine: &'a M) -> Stacks<'a, M> {
        Stacks { set: self, chunks: self.stacks.lock(machine) }
    }

    /// Makes a new magazine that of the caches with a slot. Under the lock, so that whoever finds it there finds its
    /// stack, too, as it was made.
    pub(crate) fn install_magazine<M: Machine>(&self, machine: &M, slot: usize, magazine: *mut Magazine) {
        let _stacks = self.lock_stacks(machine);
        self.dynamic[slot].store(magazine, Relaxed);
    }

    /// Whether its stacks have memory, as far as another CPU can tell; else nothing is on them.
    pub(crate) fn has_stacks(&self) -> bool {
        self.held_chunks.load(Relaxed) > 0
    }

    /// Whether objects of a node are those that its stacks are for.
    #[inline]
    pub(crate) fn stacks_objects_of(&self, node: NodeId) -> bool {
        self.attached && self.zone.node() == node
    }
}

impl<M: Machine> Service<M> {
    /// Takes objects off a set's own stack, which is filled from the depot where it is empty, or else from the depot
    /// itself.
    #[inline]
    pub(crate) fn take_local(
        &self,
        stacks: &mut Stacks<'_, M>,
        cache: &CacheShape,
        wanted: u32,
        places: Places,
    ) -> u32 {
        let own = stacks.take(cache, wanted, places);
        if own > 0 {
            return own;
        }
        let set = stacks.set;
        let Some(depot) = self.depot(set.zone.node(), cache.id) else { return 0 };
        let mut depot = depot.lock(self.machine());
        if depot.has_chunks()
            && stacks.restock(
                cache,
                &mut depot,
                self.cpu_stack_capacity(set, &cache.geometry),
                self.cpu_chunk_limit(set),
            )
        {
            drop(depot);
            stacks.take(cache, wanted, places)
        } else {
            depot.take(self.slab_view(cache), wanted, places)
        }
    }

    /// Takes objects of a node off the stacks of whichever CPU has any; returns how many there were. For those who
    /// would have none otherwise.
    #[cold]
    pub(crate) fn take_anybodys(&self, cache: &CacheShape, node: NodeId, wanted: u32, places: Places) -> u32 {
        let mut of_node = self.sets().filter(|set| set.has_stacks() && set.stacks_objects_of(node));
        let taken = of_node.find_map(|set| match set.lock_stacks(self.machine()).take(cache, wanted, places) {
            0 => None,
            taken => Some(taken),
        });
        taken.unwrap_or(0)
    }

    /// The calling CPU's own stacks, and whether they have room for so many objects of a cache, which is made where
    /// they may have more chunks.
    pub(crate) fn with_stack_room<'a>(
        &'a self,
        set: &'a Set,
        cache: &CacheShape,
        objects: usize,
    ) -> (Stacks<'a, M>, bool) {
        let (capacity, most) = (self.cpu_stack_capacity(set, &cache.geometry), self.cpu_chunk_limit(set));
        // Twice, where others have to give up what is then not enough by itself.
        for _ in 0..2 {
            let mut stacks = set.lock_stacks(self.machine());
            match stacks.needs(cache, objects, capacity, most) {
                Needs::Nothing => return (stacks, true),
                Needs::More => return (stacks, false),
                Needs::NewChunks(chunks) => {
                    drop(stacks);
                    self.bring_own_chunks(set, chunks);
                }
                Needs::OthersChunks(chunks) => {
                    drop(stacks);
                    self.give_up_others_chunks(set, cache, chunks, most);
                }
            }
        }
        let mut stacks = set.lock_stacks(self.machine());
        let fits = matches!(stacks.needs(cache, objects, capacity, most), Needs::Nothing);
        (stacks, fits)
    }

    /// Brings the stacks so many chunks, in whole pages, as far as there is memory to spare.
    #[cold]
    fn bring_own_chunks(&self, set: &Set, chunks: u32) {
        for _ in 0..chunks.div_ceil(CHUNKS_A_PAGE as u32) {
            let Some(page) = self.new_chunk_page(set.zone.node()) else { return };
            let mut stacks = set.lock_stacks(self.machine());
            for chunk in page {
                // SAFETY: the chunk is new, and comes back when the stacks give it up.
                unsafe { stacks.accept(chunk) };
            }
        }
    }

    /// What is in a cache's depots, each with what the CPUs whose node it is have on their stacks.
    pub(crate) fn depot_counts(&self, cache: &CacheShape) -> impl Iterator<Item = (NodeId, DepotCounts)> {
        self.depots(cache.id).map(|(node, depot)| {
            let mut counts = depot.counts(self.machine());
            for set in self.sets().filter(|set| set.has_stacks() && set.stacks_objects_of(node)) {
                counts.stacked += set.lock_stacks(self.machine()).count(cache);
            }
            (node, counts)
        })
    }

    /// Whether a cache's object is on any CPU's stack.
    pub(crate) fn is_stacked(&self, cache: &CacheShape, object: *mut u8) -> bool {
        let mut sets = self.sets().filter(|set| set.has_stacks());
        sets.any(|set| set.lock_stacks(self.machine()).holds(cache, object))
    }
}
