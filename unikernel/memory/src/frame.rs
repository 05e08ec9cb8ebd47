//! Frames: their numbers, and the sixteen bytes of metadata each has.
//!
//! Used by every module above it. The metadata lies in three tables indexed by frame number, split by who reads them:
//!
//! | table  | bytes | holds                                                     | read by                     |
//! |--------|-------|-----------------------------------------------------------|-----------------------------|
//! | tags   | 2     | node and cache of the objects in the frame, 0 for none    | `kfree`, at every call      |
//! | states | 2     | kind (4 bits), order (4 bits), zone (8 bits)              | buddy, page layer           |
//! | frames | 12    | two links and a word                                      | buddy lists, slab lists     |
//!
//! Thirty-two tags share a cache line, so a free of a random object misses the cache once, not twice.
//!
//! # What the fields mean in each kind of frame
//!
//! | kind       | order | links                | word                        | tag        | written under          |
//! |------------|-------|----------------------|-----------------------------|------------|------------------------|
//! | `Absent`   | -     | -                    | -                           | 0          | never (zeroed memory)  |
//! | `Reserved` | -     | -                    | -                           | 0          | growth lock            |
//! | `Free`     | yes   | free list            | -                           | 0          | zone lock              |
//! | `Listed`   | yes   | -                    | -                           | 0          | the set that lists it; the stock's lock |
//! | `Page`     | yes   | its owner's          | reference count             | 0 or LARGE | its owner              |
//! | `Placed`   | yes   | its owner's          | reference count             | 0 or LARGE | its owner              |
//! | `Movable`  | 0     | its owner's cookie   | owner                       | 0          | zone lock              |
//! | `Moving`   | 0     | its owner's cookie   | owner, whether it was freed | 0          | zone lock              |
//! | `Slab`     | yes   | partial slabs        | objects out, first free one | object tag | depot lock             |
//! | `Contig`   | -     | its record           | how many frames it has      | 0          | zone lock              |
//! | `Captured` | 0     | -                    | for which run               | 0          | zone lock              |
//! | `Inner`    | -     | -                    | -                           | as head's  | whoever owns the head  |
//!
//! `Placed` is a `Page` asked for as movable or reclaimable: it is given back to its zone, never to a CPU's list.
//!
//! A `Contig` frame is the first of a contiguous run, which is no block; [`contig`](crate::contig) says what its record is.
//!
//! Kind, order and word are those of a block's first frame (its head); the others are `Inner`, and of a large
//! allocation only the head has a tag. Every frame that is not `Absent` knows its zone. Loads and stores are relaxed:
//! who may write is decided by the lock or owner in the last column; the only foreign reader is the buddy, which asks
//! of a neighbour "is it the head of a free block of this order", an answer that only changes under the zone lock it
//! holds.

use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU16, AtomicU32, Ordering::Relaxed};

use crate::machine::{FrameTables, Machine};

/// Bytes of a frame (a page).
pub const FRAME_BYTES: usize = 4096;

/// log2 of [`FRAME_BYTES`].
pub const FRAME_SHIFT: u32 = 12;

/// Bytes of metadata a frame costs, everything told.
pub const METADATA_BYTES: usize = 2 * size_of::<AtomicU16>() + size_of::<Frame>();

const _: () = assert!(METADATA_BYTES == 16, "a frame costs sixteen bytes of metadata");

/// A page frame number: physical address divided by 4 KiB. 32 bits reach 16 TiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pfn(pub u32);

impl Pfn {
    /// The frame that holds a physical address.
    pub const fn containing(physical: u64) -> Self {
        Self((physical >> FRAME_SHIFT) as u32)
    }

    /// Physical address of the frame's first byte.
    pub const fn physical(self) -> u64 {
        (self.0 as u64) << FRAME_SHIFT
    }

    /// The frame `count` frames further on.
    #[must_use]
    pub const fn offset(self, count: u32) -> Self {
        Self(self.0 + count)
    }

    /// As an index of the frame tables.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// First frame of the naturally aligned block of this order that holds this frame.
    #[must_use]
    pub const fn block(self, order: Order) -> Self {
        Self(self.0 & !(order.frames() - 1))
    }
}

impl fmt::Display for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfn {:#x}", self.0)
    }
}

/// log2 of a number of contiguous frames, 0 to [`Order::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Order(u8);

impl Order {
    /// The largest block: 1,024 frames, 4 MiB. Linux's `MAX_PAGE_ORDER`.
    pub const MAX: Self = Self(10);

    /// How many orders there are.
    pub const COUNT: usize = Self::MAX.0 as usize + 1;

    /// A single frame.
    pub const ZERO: Self = Self(0);

    /// An order; `None` above [`Order::MAX`].
    pub const fn new(order: u32) -> Option<Self> {
        if order <= Self::MAX.0 as u32 { Some(Self(order as u8)) } else { None }
    }

    /// The smallest order whose block holds that many bytes; `None` when there is none.
    pub const fn for_bytes(bytes: usize) -> Option<Self> {
        let frames = bytes.div_ceil(FRAME_BYTES);
        if frames <= 1 {
            return Some(Self::ZERO);
        }
        Self::new(usize::BITS - (frames - 1).leading_zeros())
    }

    /// The plain number.
    pub const fn get(self) -> u32 {
        self.0 as u32
    }

    /// As an index of an array with [`Order::COUNT`] entries.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Frames of a block.
    pub const fn frames(self) -> u32 {
        1 << self.0
    }

    /// Bytes of a block.
    pub const fn bytes(self) -> usize {
        FRAME_BYTES << self.0
    }

    /// All orders, ascending.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> {
        (0..=Self::MAX.0).map(Self)
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "order {}", self.0)
    }
}

/// What a frame is used for. The module head says which fields mean what in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// No such frame, or its section has not been filled.
    Absent = 0,
    /// Holds metadata of the service.
    Reserved = 1,
    /// Head of a free block of the buddy.
    Free = 2,
    /// Head of a block on a CPU's page list, or a page of a stock of zeroed ones.
    Listed = 3,
    /// Head of a block the page layer has handed out.
    Page = 4,
    /// Head of a slab.
    Slab = 5,
    /// Part of a block whose head is further down.
    Inner = 6,
    /// Head of a block the page layer has handed out as movable or reclaimable.
    Placed = 7,
    /// A single frame whose owner lets it be moved.
    Movable = 8,
    /// A single frame that compaction has in hand: one being emptied, or one being filled.
    Moving = 9,
    /// First frame of a contiguous run that was handed out.
    Contig = 10,
    /// A single frame taken for a contiguous run that is being put together.
    Captured = 11,
}

impl Kind {
    const ALL: [Self; 12] = [
        Self::Absent,
        Self::Reserved,
        Self::Free,
        Self::Listed,
        Self::Page,
        Self::Slab,
        Self::Inner,
        Self::Placed,
        Self::Movable,
        Self::Moving,
        Self::Contig,
        Self::Captured,
    ];

    /// Whether it is the head of a block that callers of `alloc_pages` have.
    pub(crate) const fn is_page(self) -> bool {
        matches!(self, Self::Page | Self::Placed)
    }

    /// Whether callers of the page layer have it, in whatever way.
    pub(crate) const fn is_in_use(self) -> bool {
        self.is_page() || matches!(self, Self::Movable | Self::Moving)
    }

    /// Whether it is the head of a slab.
    pub(crate) const fn is_slab(self) -> bool {
        matches!(self, Self::Slab)
    }
}

/// Kind, order and zone of a frame, as its two bytes hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State(u16);

impl State {
    /// Composes a state.
    pub const fn new(kind: Kind, order: Order, zone: ZoneId) -> Self {
        Self(kind as u16 | (order.0 as u16) << 4 | (zone.0 as u16) << 8)
    }

    /// The state with those two bytes.
    pub(crate) const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// What the frame is used for.
    pub const fn kind(self) -> Kind {
        Kind::ALL[(self.0 & 0xf) as usize % Kind::ALL.len()]
    }

    /// Order of the block it heads.
    pub const fn order(self) -> Order {
        Order((self.0 >> 4 & 0xf) as u8)
    }

    /// Its zone.
    pub const fn zone(self) -> ZoneId {
        ZoneId((self.0 >> 8) as u8)
    }

    /// The two bytes.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The same block with another use.
    #[must_use]
    pub const fn with_kind(self, kind: Kind) -> Self {
        Self(self.0 & !0xf | kind as u16)
    }
}

/// A zone of a node: node times three plus kind, so neither needs a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ZoneId(pub u8);

/// The twelve bytes of a frame beside its tag and state.
#[repr(C)]
#[derive(Default)]
pub struct Frame {
    /// Next frame of the list the frame is on, [`NIL`] at the end.
    pub(crate) next: AtomicU32,
    /// Previous frame of the list, [`NIL`] at the start.
    pub(crate) previous: AtomicU32,
    /// Reference count, or a slab's free list.
    pub(crate) word: AtomicU32,
}

/// No frame, in a link: frame 0 is never managed, but a link to it is too likely by accident.
pub(crate) const NIL: u32 = u32::MAX;

/// Typed access to the frame tables of a machine.
///
/// All functions take frames whose section has been filled; that they do is what each caller's `SAFETY` argument rests
/// on: frame numbers come from free lists, from blocks handed out, or from an address whose tag or state said so.
#[derive(Clone, Copy)]
pub(crate) struct Frames(FrameTables);

impl Frames {
    #[inline]
    pub(crate) fn of<M: Machine>(machine: &M) -> Self {
        Self(machine.tables())
    }

    /// Of tables that a test made, large enough for the frames it uses.
    #[cfg(test)]
    pub(crate) fn in_tables(tables: FrameTables) -> Self {
        Self(tables)
    }

    #[inline]
    pub(crate) fn state(self, frame: Pfn) -> State {
        // SAFETY: the frame is in a filled section (see the type), so its state has memory; it is only accessed
        // atomically.
        State(unsafe { &*self.0.states.wrapping_add(frame.index()) }.load(Relaxed))
    }

    #[inline]
    pub(crate) fn set_state(self, frame: Pfn, state: State) {
        // SAFETY: as in `state`.
        unsafe { &*self.0.states.wrapping_add(frame.index()) }.store(state.0, Relaxed);
    }

    /// Gives frames side by side one state.
    pub(crate) fn set_states(self, frames: Range<Pfn>, state: State) {
        let count = frames.end.0.saturating_sub(frames.start.0) as usize;
        // SAFETY: as in `state`, and the states of frames side by side lie so.
        let states = unsafe { core::slice::from_raw_parts(self.0.states.wrapping_add(frames.start.index()), count) };
        // A section has 32768: the loop is unrolled, for stores of atomics are not put together.
        let (groups, rest) = states.as_chunks::<16>();
        for group in groups {
            for cell in group {
                cell.store(state.0, Relaxed);
            }
        }
        for cell in rest {
            cell.store(state.0, Relaxed);
        }
    }

    #[inline]
    pub(crate) fn set_tag(self, frame: Pfn, tag: u16) {
        // SAFETY: the frame is in a filled section (see the type), so its tag has memory; it is only accessed
        // atomically.
        unsafe { &*self.0.tags.wrapping_add(frame.index()) }.store(tag, Relaxed);
    }

    #[inline]
    pub(crate) fn tag(self, frame: Pfn) -> u16 {
        // SAFETY: as in `set_tag`.
        unsafe { &*self.0.tags.wrapping_add(frame.index()) }.load(Relaxed)
    }

    #[inline]
    pub(crate) fn frame<'a>(self, frame: Pfn) -> &'a Frame {
        // SAFETY: the frame is in a filled section (see the type), so its entry has memory, which is never given back,
        // and all its fields are atomics.
        unsafe { &*self.0.frames.wrapping_add(frame.index()) }
    }

    /// The pages of address space that hold the three entries of `frames` frames from `first` on.
    pub(crate) fn table_pages(self, first: Pfn, frames: u32) -> [core::ops::Range<usize>; 3] {
        let pages = |base: usize, entry: usize| {
            let start = base + first.index() * entry;
            let end = start + frames as usize * entry;
            start / FRAME_BYTES..end.div_ceil(FRAME_BYTES)
        };
        [
            pages(self.0.tags as usize, size_of::<AtomicU16>()),
            pages(self.0.states as usize, size_of::<AtomicU16>()),
            pages(self.0.frames as usize, size_of::<Frame>()),
        ]
    }
}

/// A doubly linked list of frames through their links; which lock guards it is its owner's to say.
pub(crate) struct FrameList {
    head: u32,
}

impl FrameList {
    pub(crate) const fn new() -> Self {
        Self { head: NIL }
    }

    #[inline]
    pub(crate) fn first(&self) -> Option<Pfn> {
        (self.head != NIL).then_some(Pfn(self.head))
    }

    #[inline]
    pub(crate) fn push(&mut self, frames: Frames, frame: Pfn) {
        let links = frames.frame(frame);
        links.next.store(self.head, Relaxed);
        links.previous.store(NIL, Relaxed);
        if self.head != NIL {
            frames.frame(Pfn(self.head)).previous.store(frame.0, Relaxed);
        }
        self.head = frame.0;
    }

    #[inline]
    pub(crate) fn pop(&mut self, frames: Frames) -> Option<Pfn> {
        let first = self.first()?;
        self.head = frames.frame(first).next.load(Relaxed);
        if self.head != NIL {
            frames.frame(Pfn(self.head)).previous.store(NIL, Relaxed);
        }
        Some(first)
    }

    /// Takes out a frame that is on this list.
    #[inline]
    pub(crate) fn remove(&mut self, frames: Frames, frame: Pfn) {
        let links = frames.frame(frame);
        let (next, previous) = (links.next.load(Relaxed), links.previous.load(Relaxed));
        if previous == NIL {
            self.head = next;
        } else {
            frames.frame(Pfn(previous)).next.store(next, Relaxed);
        }
        if next != NIL {
            frames.frame(Pfn(next)).previous.store(previous, Relaxed);
        }
    }
}

/// Cuts a run of frames into the fewest naturally aligned blocks.
pub(crate) fn for_each_block(start: Pfn, end: Pfn, mut each: impl FnMut(Pfn, Order)) {
    let mut next = start;
    while next < end {
        // As its alignment allows, and its length.
        let order = next.0.trailing_zeros().min((end.0 - next.0).ilog2());
        let order = Order(order.min(Order::MAX.get()) as u8);
        each(next, order);
        next = next.offset(order.frames());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blocks_cover_a_run_exactly_and_are_aligned(start in 1u32..1 << 22, length in 0u32..50_000) {
            let mut next = start;
            for_each_block(Pfn(start), Pfn(start + length), |block, order| {
                assert_eq!(block.0, next);
                assert_eq!(block.block(order), block);
                next += order.frames();
            });
            prop_assert_eq!(next, start + length);
        }
    }

    #[test]
    fn the_smallest_order_that_holds_the_bytes_is_chosen() {
        for (bytes, order) in [(0, 0), (1, 0), (4096, 0), (4097, 1), (8192, 1), (8193, 2), (4 << 20, 10)] {
            assert_eq!(Order::for_bytes(bytes).map(Order::get), Some(order), "{bytes} bytes");
        }
        assert_eq!(Order::for_bytes((4 << 20) + 1), None);
        assert_eq!(Order::for_bytes(usize::MAX), None);
    }

    #[test]
    fn a_state_keeps_kind_order_and_zone_apart() {
        for kind in Kind::ALL {
            for order in Order::all() {
                for zone in [0, 1, 191, 255] {
                    let state = State::new(kind, order, ZoneId(zone));
                    assert_eq!((state.kind(), state.order(), state.zone()), (kind, order, ZoneId(zone)));
                    assert_eq!(state.with_kind(Kind::Free), State::new(Kind::Free, order, ZoneId(zone)));
                }
            }
        }
    }
}
