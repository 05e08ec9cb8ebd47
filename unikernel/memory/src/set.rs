//! [`Set`]: what one CPU holds for itself, so that most calls touch nothing shared.
//!
//! Used by the page and slab layers; hosts keep pointers to sets and switch them, but never look inside.
//!
//! # Theory
//!
//! A CPU has two sets, one for threads and one for interrupt handlers; the host's interrupt entry makes the second
//! active and its exit the first. Threads are cooperative and handlers run with interrupts off, so whoever runs has the
//! active set to itself until it returns: all fields but those listed below are plain memory of that CPU, and the fast
//! paths need neither a locked instruction nor to mask interrupts.
//!
//! Other CPUs may, at any time,
//! - read `count` and `slots` (relaxed), to add up statistics and to tell a double free from a coincidence: they see
//!   values that were true a moment ago;
//! - store 0 to a magazine's `limit` (relaxed): the owner's next free finds its magazine "full" and takes the slow
//!   path, which drains it. Nothing else tells the fast path anything.
//!
//! A magazine holds objects of the CPU's *local* node only (the nearest that has memory). Objects of other nodes pass
//! through `remote`, a small direct-mapped table of magazines named by their tag, and are taken and sent home in
//! batches, one lock acquisition a batch. A full magazine gives all it has to the stack behind it
//! ([`cpu_stacks`](crate::cpu_stacks)), and an empty one takes half of what it can hold from there, or all where it gave
//! nothing since the last time. (Giving only the coldest half keeps more at hand, but closing up over the gap costs for
//! each object that stays what giving costs for each that goes: four instructions more a free in batches. What was put on
//! the stack last is taken from it first, so a CPU gets its warmest objects back.)
//!
//! Magazines of caches made while the service runs are made when a CPU first needs them, and found through `dynamic`.
//! They are never freed either; when a cache's id is given again, the CPU finds that the magazine's generation is
//! another, and fits it out anew. See [`registry`](crate::registry).
//!
//! Sets are never freed while the service lives, so a pointer to one found on the list of sets stays good.
//!
//! # What lost
//!
//! Measured, and slower: in instructions of the guest's loops of 64 bytes, or in nanoseconds of a process.
//!
//! | instead of                                       | was tried                                   | took           |
//! |--------------------------------------------------|---------------------------------------------|----------------|
//! | a full magazine giving all it has                | the half put in first                       | a free in batches 51, now 42 |
//! | the node low in the tag, a mark of 32 bits in memory | the node high, a mark of 64 in a register | a pair inlined 42, now 36 |
//! | remote magazines with a geometry of their own    | the geometry from the table of classes      | a remote free 88, now 57 |
//! | bulk frees compared with the geometry in memory, by fours | the geometry in registers, one by one | bulk of 16 32, now 28.5 |
//! | magazines filled with whole new slabs            | a slab a time through the depot             | 1 KiB 174, now 58 |
//! | a distance times a factor, compared with the factor ([`Grid`]) | the distance less one, compared with a third word | an instruction more everywhere |
//! | a branch where a process's pointer is out of range | a conditional move, five instructions fewer | a pair called 3.77 ns, with the branch 3.62 |
//! | a process's count stored as it is known          | the count changed in memory, an instruction less | a pair inlined 3.40 ns, now 3.15 |
//! | a process's grid read as one word                | the three words, two instructions fewer     | a pair inlined 3.06 ns, now 3.00 |
//! | a process's tags in front of its arena           | a table elsewhere, its address and the arena's size to load | a pair inlined 3.00 ns, called 3.55, now 2.89 and 3.28 |
//! | node and mark of a process's set as two words    | as one, an instruction more                 | a batch 2.78 ns, with two 2.64 |
//! | one node known at compile time, where there is one | the node compared, a load more            | a pair inlined 2.55 ns, now 2.41 |
//! | a stack behind each magazine, all objects of a new slab one CPU's | the depot's stack for all CPUs of a node | two threads' batches 8 to 22 ns a pair, now 4.4 as in one |
//! | pages of its own for a CPU's stacks | pieces of one page for several | the same 4.7 to 8.6 ns |
//! | a magazine filled whole where nothing was given since the last time | always by half           | a batch 37.1, now 34.6; of 8 KiB 8.8 ns, now 7.6 |
//! | nothing fetched ahead                            | the next object of the magazine, at each allocation | a pair inlined 2.64 ns, now 2.41; a mix of a million blocks the same |
//!
//! And in a model of these paths in C, with all their checks and no lock, nanoseconds of a called pair, and of one of a batch
//! of a thousand: an array that is copied to the depot and back, as here, 3.0 and 4.3; two magazines that change hands by
//! pointer (Bonwick and Adams, "Magazines and Vmem", 2001) 3.3 and 3.9; a list through the objects, its links XOR the
//! secret, 4.5 and 6.6.
//!
//! What a pair in a process waits for is its loads and stores, 19 with the loop's (on AMD's Zen 4, with its machine code
//! taken apart: one fewer is about a tenth of a nanosecond, and a dozen empty instructions more are nothing; that the count
//! goes through memory costs nothing, for it is renamed). A loop with two calls of empty functions takes 2.8 ns there, so
//! of a called pair no more than half a nanosecond is the allocator's. What is left and was tried without the rest of it:
//! a magazine without a limit is 0.08 ns.

use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering::Relaxed};
use core::{ptr, slice};

use quarry_topology::{CpuId, NodeId};

use crate::chunk_stack::ChunkStack;
use crate::class::{DYNAMIC_BASE, DYNAMIC_MAGAZINES, Geometry, KEY_UNIT, MAGAZINE_STRIDE, MAGAZINES, tag, tag_cache};
use crate::cpu_stacks::OwnChunks;
use crate::frame::ZoneId;
use crate::grid::Grid;
use crate::lock::Lock;
use crate::registry::CacheShape;

/// Slots of a magazine. With its head and the stack behind it it is 512 bytes, so finding one is a shift.
pub(crate) const SLOTS: usize = 58;

/// Slots of a magazine for objects of another node. With its head it is 256 bytes, so finding one is a mask.
pub(crate) const REMOTE_SLOTS: usize = 28;

/// Magazines for objects of other nodes.
pub(crate) const REMOTES: usize = 16;

/// Bytes from one of them to the next.
const REMOTE_STRIDE: usize = 256;

/// What a tag is multiplied by to have the sum of its cache and five times its node where a remote magazine's number is
/// in its offset.
const REMOTE_FACTOR: usize = REMOTE_STRIDE / tag(0, 1) as usize + 5 * REMOTE_STRIDE;

/// Orders of page blocks that have a list on every CPU: 0 to 3, as in Linux (`PAGE_ALLOC_COSTLY_ORDER`).
pub(crate) const LISTED_ORDERS: usize = 4;

/// Blocks a CPU's page list of one order can hold. With its head a list is 256 bytes, so finding one is a shift.
pub(crate) const LIST_BLOCKS: usize = 60;

/// The per-CPU state of the service; see the module head.
#[repr(C, align(64))]
pub struct Set {
    /// First, so that a magazine is found by a shift and an addition.
    pub(crate) magazines: [Magazine; MAGAZINES],
    /// Magazines of caches made while the service runs, by id; [`EMPTY`] where this CPU has not needed one. The last is
    /// that of all ids beyond [`DYNAMIC_MAGAZINES`] and stays so.
    pub(crate) dynamic: [AtomicPtr<Magazine>; DYNAMIC_MAGAZINES + 1],
    /// The page that the next of these magazines comes from, and how many from its start on are left.
    pub(crate) spare_magazines: AtomicPtr<Magazine>,
    pub(crate) spare_count: AtomicU32,
    /// Slots that a magazine of this set uses at most.
    pub(crate) used_slots: usize,
    /// The local node as tags have it: a tag XOR this is the cache's [`key`](crate::class::key) exactly for local
    /// objects.
    pub(crate) node_tag: u32,
    /// What the upper half of a free object's link word holds.
    pub(crate) mark: u32,
    /// Zone the page lists hold blocks of: the highest of the local node that has memory.
    pub(crate) zone: ZoneId,
    /// Whether it is a CPU's, and not [`Set::detached`].
    pub(crate) attached: bool,
    pub(crate) cpu: CpuId,
    /// The CPU's own node, which may have no memory.
    pub(crate) node: NodeId,
    /// Bytes of objects that came into this set less those that left it: what its CPU handed out is this less what
    /// it holds. Wraps, for objects are freed on other CPUs than they were allocated on.
    pub(crate) net_bytes: AtomicUsize,
    /// Frames that the page layer handed out here to callers of its own or put on the lists here, less those given back
    /// or taken off: what its CPU handed out is this less what is on the lists. Wraps.
    pub(crate) net_frames: AtomicUsize,
    /// Guards the stack behind each magazine; see [`cpu_stacks`](crate::cpu_stacks).
    pub(crate) stacks: Lock<OwnChunks>,
    /// How many chunks those stacks have, spare or not; written under that lock.
    pub(crate) held_chunks: AtomicU32,
    /// The next set of the service's list; written once.
    pub(crate) next: AtomicPtr<Set>,
    /// The next set of the hosted mode's pool; guarded by the pool's lock.
    #[cfg(feature = "hosted")]
    pub(crate) pooled: AtomicPtr<Set>,
    pub(crate) counters: Counters,
    pub(crate) pages: [PageList; LISTED_ORDERS],
    pub(crate) remote: [Remote; REMOTES],
}

impl Set {
    /// The magazine of a cache, by its [`key`](crate::class::key).
    ///
    /// # Safety
    ///
    /// The key is of a cache below [`MAGAZINES`].
    #[inline(always)]
    pub(crate) unsafe fn magazine(&self, key: u32) -> &Magazine {
        // SAFETY: the caller's promise; magazines come first in the set.
        unsafe { &*self.magazines.as_ptr().byte_add(key as usize * KEY_UNIT) }
    }

    /// The tag of a cache's objects of the local node.
    pub(crate) fn local_tag(&self, cache: usize) -> u16 {
        tag(self.node_tag as u8, cache)
    }

    /// The magazine of a cache made while the service runs, by its [slot](CacheShape::slot).
    ///
    /// # Safety
    ///
    /// `slot` is at most [`DYNAMIC_MAGAZINES`].
    #[inline(always)]
    pub(crate) unsafe fn dynamic_magazine(&self, slot: usize) -> &Magazine {
        // SAFETY: the caller's promise.
        let magazine = unsafe { self.dynamic.get_unchecked(slot) }.load(Relaxed);
        // SAFETY: what is stored there points to `EMPTY` or to a magazine that is never freed.
        unsafe { &*magazine }
    }

    /// The magazine that objects of a cache are found in; an empty one where the cache has none in this set.
    pub(crate) fn magazine_of(&self, cache: &CacheShape) -> &Magazine {
        if cache.id < MAGAZINES {
            return &self.magazines[cache.id];
        }
        // SAFETY: slots are at most `DYNAMIC_MAGAZINES`.
        unsafe { self.dynamic_magazine(cache.slot()) }
    }

    /// Asks the CPU to give back what its magazine of a cache holds, at its next free. Any CPU may.
    pub(crate) fn ask_back(&self, cache: &CacheShape) {
        let magazine = self.magazine_of(cache);
        if !ptr::eq(magazine, &raw const EMPTY) {
            // Relaxed: it is a request, and comes with nothing else.
            magazine.limit.store(0, Relaxed);
        }
    }

    /// All magazines, with the ids of their caches.
    pub(crate) fn each_magazine(&self) -> impl Iterator<Item = (usize, &Magazine)> {
        let dynamic = (0..DYNAMIC_MAGAZINES).map(|slot| {
            // SAFETY: the slot is below `DYNAMIC_MAGAZINES`.
            (DYNAMIC_BASE + slot, unsafe { self.dynamic_magazine(slot) })
        });
        let made = dynamic.filter(|(_, magazine)| !ptr::eq(*magazine, &raw const EMPTY));
        self.magazines.iter().enumerate().chain(made)
    }
}

/// What happened on the slow paths; read by statistics.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) refills: AtomicUsize,
    pub(crate) drains: AtomicUsize,
    pub(crate) remote_refills: AtomicUsize,
    pub(crate) remote_drains: AtomicUsize,
    pub(crate) page_refills: AtomicUsize,
    pub(crate) page_drains: AtomicUsize,
}

/// Adds one to a counter only its own CPU writes: a plain load and store, no locked instruction.
pub(crate) fn bump(counter: &AtomicUsize) {
    counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
}

/// A stack of free objects of one cache. What is in cells belongs to the set's CPU.
#[repr(C, align(64))]
pub(crate) struct Magazine {
    pub(crate) count: AtomicU32,
    /// A free finding `count` at or above it takes the slow path. 0 (by anybody) asks the owner to drain.
    pub(crate) limit: AtomicU32,
    pub(crate) grid: Grid,
    /// The tag of the objects in it.
    pub(crate) tag: Cell<u32>,
    /// What `limit` is when nobody asked for anything.
    pub(crate) capacity: Cell<u8>,
    /// Whether it was filled since it last gave what it has: then more is being allocated than freed.
    pub(crate) filled: Cell<bool>,
    pub(crate) link: Cell<u16>,
    /// Which of the caches that had this id it was fitted out for.
    pub(crate) generation: Cell<u32>,
    /// What it cannot hold; guarded by the set's lock of `stacks`.
    pub(crate) stack: UnsafeCell<ChunkStack>,
    pub(crate) slots: [AtomicPtr<u8>; SLOTS],
}

const _: () = assert!(size_of::<Magazine>() == MAGAZINE_STRIDE);

// SAFETY: the cells are read and written only by the CPU whose set the magazine is in, and by whoever has that set to
// itself; the stack, whose memory it owns, only under the set's lock for it; the rest is atomic. `EMPTY` is never written.
unsafe impl Sync for Magazine {}

/// The magazine of a CPU that has none: nothing is in it, and no pointer passes its check.
pub(crate) static EMPTY: Magazine = Magazine::empty();

impl Magazine {
    /// Takes the object put on last, where the caller has found `count` not to be 0.
    ///
    /// # Safety
    ///
    /// `count` is what the magazine's own count is, and not 0.
    #[inline(always)]
    pub(crate) unsafe fn take(&self, count: u32) -> *mut u8 {
        self.recount(count, u32::wrapping_sub);
        // SAFETY: `count` is at most the capacity, which is at most the number of slots.
        unsafe { self.slots.get_unchecked(count as usize - 1) }.load(Relaxed)
    }

    /// Puts an object on top, where the caller has found `count` to be below the limit.
    ///
    /// # Safety
    ///
    /// `count` is what the magazine's own count is, and below the limit.
    #[inline(always)]
    pub(crate) unsafe fn put(&self, count: u32, object: *mut u8) {
        // SAFETY: the limit is at most the number of slots.
        unsafe { self.slots.get_unchecked(count as usize) }.store(object, Relaxed);
        self.recount(count, u32::wrapping_add);
    }

    /// Stores the count, known to be `count`, changed by one. In a process what is known is used; in a guest it is
    /// changed in memory, which is an instruction less and a load more. See the head of this file.
    #[inline(always)]
    fn recount(&self, count: u32, changed: impl Fn(u32, u32) -> u32) {
        let count = if cfg!(feature = "hosted") { count } else { self.count.load(Relaxed) };
        self.count.store(changed(count, 1), Relaxed);
    }

    const fn empty() -> Self {
        Self {
            count: AtomicU32::new(0),
            limit: AtomicU32::new(0),
            grid: Grid::none(),
            tag: Cell::new(0),
            capacity: Cell::new(0),
            filled: Cell::new(false),
            link: Cell::new(0),
            generation: Cell::new(0),
            stack: UnsafeCell::new(ChunkStack::new()),
            slots: [const { AtomicPtr::new(ptr::null_mut()) }; SLOTS],
        }
    }

    /// Makes an empty magazine one for objects of that geometry and tag. Its limit is the caller's to set.
    pub(crate) fn fit_out(&self, geometry: &Geometry, tag: u16, generation: u32, capacity: u32) {
        self.grid.set(geometry);
        self.tag.set(tag.into());
        self.link.set(geometry.link as u16);
        self.generation.set(generation);
        self.capacity.set(capacity as u8);
    }
}

/// A stack of free objects of one cache of another node. What is in cells belongs to the set's CPU.
#[repr(C, align(64))]
pub(crate) struct Remote {
    /// Whose objects these are, 0 for nobody's.
    pub(crate) tag: AtomicU32,
    pub(crate) count: AtomicU32,
    /// Of kmalloc's caches, whose mark is in an object's first word; that of no object for others.
    pub(crate) grid: Grid,
    /// How many it may hold while it is for that tag.
    pub(crate) capacity: Cell<u32>,
    pub(crate) slots: [AtomicPtr<u8>; REMOTE_SLOTS],
    spare: u64,
}

const _: () = assert!(size_of::<Remote>() == REMOTE_STRIDE);

// SAFETY: as for `Magazine`.
unsafe impl Sync for Remote {}

impl Remote {
    const fn vacant() -> Self {
        Self {
            tag: AtomicU32::new(0),
            count: AtomicU32::new(0),
            capacity: Cell::new(0),
            grid: Grid::none(),
            slots: [const { AtomicPtr::new(ptr::null_mut()) }; REMOTE_SLOTS],
            spare: 0,
        }
    }

    /// Makes an empty one nobody's: no pointer passes its check.
    pub(crate) fn vacate(&self) {
        self.fit_out(0, &Geometry::NONE, 0);
    }

    /// Makes an empty one that for objects with a tag. A cache whose objects have their mark elsewhere than kmalloc's
    /// gives the geometry of no object.
    pub(crate) fn fit_out(&self, tag: u16, geometry: &Geometry, capacity: u32) {
        self.tag.store(tag.into(), Relaxed);
        self.capacity.set(capacity);
        self.grid.set(geometry);
    }

    /// Whether an address whose tag is this magazine's is that of an object.
    #[inline(always)]
    pub(crate) fn is_object(&self, address: usize) -> bool {
        self.grid.is_object(address)
    }

    /// Puts an object on top, where the caller has found `count` to be below the capacity.
    ///
    /// # Safety
    ///
    /// `count` is what the magazine's own count is, and below the capacity.
    #[inline(always)]
    pub(crate) unsafe fn put(&self, count: u32, object: *mut u8) {
        // SAFETY: the capacity is at most the number of slots.
        unsafe { self.slots.get_unchecked(count as usize) }.store(object, Relaxed);
        self.count.store(count + 1, Relaxed);
    }
}

/// A stack of free page blocks of one order.
#[repr(C, align(64))]
pub(crate) struct PageList {
    pub(crate) count: AtomicU32,
    /// A free finding `count` at or above it takes the slow path. 0 (by anybody) asks the owner to drain.
    pub(crate) limit: AtomicU32,
    /// The bits of the state of a block from this list while it is handed out: a `Page` of the list's order and the
    /// set's zone. In a set that is no CPU's, no state's.
    pub(crate) handed_out: Cell<u32>,
    pub(crate) spare: u32,
    pub(crate) blocks: [Cell<u32>; LIST_BLOCKS],
}

const _: () = assert!(size_of::<PageList>() == 256);

// SAFETY: `handed_out` is written before the set is anybody's; the blocks are read and written only by the CPU whose set
// it is, and by whoever has that set to itself; the rest is atomic.
unsafe impl Sync for PageList {}

impl Set {
    /// The set of a CPU that has none: every allocation finds it empty and every free finds it full.
    #[allow(clippy::large_stack_arrays, reason = "made for statics, at compile time")]
    pub const fn detached() -> Self {
        Self {
            node_tag: 0,
            zone: ZoneId(0),
            attached: false,
            cpu: CpuId(0),
            node: NodeId(0),
            mark: 0,
            net_bytes: AtomicUsize::new(0),
            net_frames: AtomicUsize::new(0),
            stacks: Lock::new(OwnChunks::new()),
            held_chunks: AtomicU32::new(0),
            next: AtomicPtr::new(ptr::null_mut()),
            #[cfg(feature = "hosted")]
            pooled: AtomicPtr::new(ptr::null_mut()),
            counters: Counters {
                refills: AtomicUsize::new(0),
                drains: AtomicUsize::new(0),
                remote_refills: AtomicUsize::new(0),
                remote_drains: AtomicUsize::new(0),
                page_refills: AtomicUsize::new(0),
                page_drains: AtomicUsize::new(0),
            },
            pages: [const {
                PageList {
                    count: AtomicU32::new(0),
                    limit: AtomicU32::new(0),
                    handed_out: Cell::new(u32::MAX),
                    spare: 0,
                    blocks: [const { Cell::new(0) }; LIST_BLOCKS],
                }
            }; LISTED_ORDERS],
            remote: [const { Remote::vacant() }; REMOTES],
            magazines: [const { Magazine::empty() }; MAGAZINES],
            dynamic: [const { AtomicPtr::new((&raw const EMPTY).cast_mut()) }; DYNAMIC_MAGAZINES + 1],
            spare_magazines: AtomicPtr::new(ptr::null_mut()),
            spare_count: AtomicU32::new(0),
            used_slots: 0,
        }
    }

    /// Whether it is a CPU's, and not the one for CPUs that have none.
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// The CPU this set is of.
    pub fn cpu(&self) -> CpuId {
        self.cpu
    }

    /// The magazine that objects with this tag share with others, one tag's at a time.
    #[inline(always)]
    pub(crate) fn remote(&self, tag: u16) -> &Remote {
        // The cache and five times the node, modulo the number of them, in the places of a magazine's offset.
        let offset = (usize::from(tag) * REMOTE_FACTOR) & ((REMOTES - 1) * REMOTE_STRIDE);
        // SAFETY: the offset is that of one of the magazines.
        unsafe { &*self.remote.as_ptr().byte_add(offset) }
    }

    /// Free objects of a cache in this set, of any node.
    pub(crate) fn cached(&self, cache: &CacheShape) -> u32 {
        let local = self.magazine_of(cache).count.load(Relaxed);
        let remote = self.remote.iter().filter(|remote| tag_cache(remote.tag.load(Relaxed) as u16) == cache.id);
        local + remote.map(|remote| remote.count.load(Relaxed)).sum::<u32>()
    }

    /// Notes that objects of that many bytes came in (or, negated, left) through a slow path.
    pub(crate) fn add_net(&self, bytes: usize) {
        self.net_bytes.store(self.net_bytes.load(Relaxed).wrapping_add(bytes), Relaxed);
    }

    /// Notes that frames went to (or, negated, came from) a caller of the page layer or the lists.
    pub(crate) fn add_frames(&self, frames: usize) {
        self.net_frames.store(self.net_frames.load(Relaxed).wrapping_add(frames), Relaxed);
    }
}

/// Where objects are put that are taken from elsewhere: on a stack of a set, or in an array.
#[derive(Clone, Copy)]
pub(crate) struct Places<'a> {
    count: &'a AtomicU32,
    slots: &'a [AtomicPtr<u8>],
}

impl<'a> Places<'a> {
    /// An array, of which `count` places are taken.
    pub(crate) fn of(array: &'a mut [*mut u8], count: &'a AtomicU32) -> Self {
        // SAFETY: the array is borrowed for as long as this lives, and a pointer is laid out as an atomic one.
        let slots = unsafe { slice::from_raw_parts(array.as_mut_ptr().cast(), array.len()) };
        Self { count, slots }
    }

    /// Puts objects behind those that are there; there must be room.
    #[inline]
    pub(crate) fn push_run(self, objects: &[*mut u8]) {
        let count = self.count.load(Relaxed) as usize;
        for (slot, &object) in self.slots.get(count..).unwrap_or_default().iter().zip(objects) {
            slot.store(object, Relaxed);
        }
        self.count.store((count + objects.len()) as u32, Relaxed);
    }
}

/// Stacks of objects differ only in where their count and slots are.
pub(crate) trait Stack {
    fn count(&self) -> &AtomicU32;
    fn slots(&self) -> &[AtomicPtr<u8>];

    /// Puts an object on top; there must be room.
    #[inline]
    fn push(&self, object: *mut u8) {
        let count = self.count().load(Relaxed);
        self.slots()[count as usize].store(object, Relaxed);
        self.count().store(count + 1, Relaxed);
    }

    /// Takes the object put on last.
    #[inline]
    fn pop(&self) -> Option<*mut u8> {
        let count = self.count().load(Relaxed).checked_sub(1)?;
        self.count().store(count, Relaxed);
        Some(self.slots()[count as usize].load(Relaxed))
    }

    /// Takes the objects put on last, as many as there are or `room` has places; returns how many.
    fn pop_run(&self, room: &mut [*mut u8]) -> usize {
        let count = self.count().load(Relaxed) as usize;
        if count == 0 {
            return 0;
        }
        let left = count - count.min(room.len());
        for (place, slot) in room.iter_mut().zip(&self.slots()[left..count]) {
            *place = slot.load(Relaxed);
        }
        self.count().store(left as u32, Relaxed);
        count - left
    }

    /// What objects are put on it through.
    #[inline]
    fn places(&self) -> Places<'_> {
        Places { count: self.count(), slots: self.slots() }
    }

    /// All objects on it, the one put on last at the end; they stay on it.
    #[inline]
    fn objects(&self) -> &[*mut u8] {
        let slots = &self.slots()[..self.count().load(Relaxed) as usize];
        // SAFETY: a slot is a pointer, and only the CPU that calls this writes it: not while it has the slice, for it
        // works on one stack at a time.
        unsafe { slice::from_raw_parts(slots.as_ptr().cast(), slots.len()) }
    }

    /// Empties it, after its objects have gone elsewhere.
    #[inline]
    fn clear(&self) {
        self.count().store(0, Relaxed);
    }

    /// Whether the object is in it, as far as another CPU can tell.
    fn holds(&self, object: *mut u8) -> bool {
        let count = (self.count().load(Relaxed) as usize).min(self.slots().len());
        self.slots()[..count].iter().any(|slot| slot.load(Relaxed) == object)
    }
}

impl Stack for Magazine {
    #[inline]
    fn count(&self) -> &AtomicU32 {
        &self.count
    }

    #[inline]
    fn clear(&self) {
        self.count.store(0, Relaxed);
        self.filled.set(false);
    }

    #[inline]
    fn slots(&self) -> &[AtomicPtr<u8>] {
        &self.slots
    }
}

impl Stack for Remote {
    #[inline]
    fn count(&self) -> &AtomicU32 {
        &self.count
    }

    #[inline]
    fn slots(&self) -> &[AtomicPtr<u8>] {
        &self.slots
    }
}
