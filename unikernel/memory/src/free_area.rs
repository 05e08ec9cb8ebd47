//! [`FreeAreas`]: a zone's free blocks, as a binary buddy allocator that keeps blocks of different mobility apart.
//!
//! Used by the zone, whose lock guards all of it.
//!
//! # Theory
//!
//! Free memory is a set of naturally aligned blocks of 2^order frames, each on the list of its order and of its
//! pageblock's mobility; a block's *buddy* is the other half of the block twice its size. Invariants:
//!
//! - a frame is the head of a block on some list of order k exactly when its state is `Free` of order k;
//! - it is on the list of the mobility its pageblock has; the pageblocks of a block of several have the same;
//! - two buddies of the same order below the largest are never both on a list (they would have been merged);
//! - `free_frames` is the sum over all blocks; bit k of an area's `occupied` says that its `lists[k]` is not empty;
//! - a pageblock is noted as whole exactly when it is inside a block on some list.
//!
//! # What a request takes
//!
//! 1. The smallest block that is enough, of its own mobility.
//! 2. Whole pageblocks of another, the largest block first: they become the request's mobility.
//! 3. (Here the page layer fills a section never touched, if there is one: it comes as movable whole pageblocks.)
//! 4. A part of another's pageblock. The largest free block there is shows the pageblock most worth having. It is
//!    *claimed* (becomes the request's mobility, with all its free blocks) when at least half of its frames are free or
//!    compatible with the request, and the request is not movable or the block is of order 4 or more: a movable page
//!    in a wrong place can still be moved, others cannot. Compatible with a movable request are pages that can be
//!    moved; with others, in a movable pageblock, pages that cannot.
//! 5. Else the smallest block of another that is enough is used, and the pageblock stays what it is.
//!
//! Steps 2, 4 and 5 are Linux's `rmqueue` with and without `ALLOC_NOFRAGMENT`. An operation is at most
//! [`Order::COUNT`] steps a block, and a claim one look at each frame of a pageblock.

mod run;

use core::sync::atomic::Ordering::Relaxed;

pub(crate) use run::{Search, seeming_block};

use crate::frame::{FrameList, Frames, Kind, NIL, Order, Pfn, State, ZoneId, for_each_block};
use crate::mobility::{Mobility, PAGEBLOCK_ORDER, Pageblocks};
use crate::zone::Broken;

/// What a request wants of a zone.
#[derive(Clone, Copy)]
pub(crate) struct Demand {
    pub(crate) order: Order,
    pub(crate) mobility: Mobility,
    pub(crate) reach: Reach,
}

/// How far a request goes when its own mobility has no block.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// To whole pageblocks of another mobility.
    WholePageblocks,
    /// To parts of them.
    Anything,
}

/// What requests took that was not of their own mobility.
#[derive(Clone, Copy, Default)]
pub(crate) struct Stolen {
    /// Pageblocks whose mobility changed.
    pub(crate) pageblocks: u32,
    /// Blocks used for one mobility in pageblocks that stay of another.
    pub(crate) mixed: u32,
}

/// Smallest free block for which a movable request claims a pageblock.
const CLAIM_ORDER: u32 = PAGEBLOCK_ORDER.get() / 2;

/// All free blocks of a zone.
pub(crate) struct FreeAreas {
    zone: ZoneId,
    pageblocks: Pageblocks,
    areas: [FreeArea; Mobility::COUNT],
    free_frames: u32,
}

/// Free blocks of one mobility.
struct FreeArea {
    lists: [FrameList; Order::COUNT],
    counts: [u32; Order::COUNT],
    occupied: u32,
}

impl FreeAreas {
    pub(crate) const fn new(zone: ZoneId, pageblocks: Pageblocks) -> Self {
        Self { zone, pageblocks, areas: [const { FreeArea::new() }; Mobility::COUNT], free_frames: 0 }
    }

    pub(crate) fn free_frames(&self) -> u32 {
        self.free_frames
    }

    /// Free blocks of each order, by mobility.
    pub(crate) fn counts(&self) -> [[u32; Order::COUNT]; Mobility::COUNT] {
        [self.areas[0].counts, self.areas[1].counts, self.areas[2].counts]
    }

    /// Whether [`Self::take`] would find a block.
    pub(crate) fn can_serve(&self, demand: Demand) -> bool {
        let Demand { order, mobility, .. } = demand;
        self.areas[mobility as usize].smallest(order).is_some() || self.largest_of_others(demand).is_some()
    }

    /// Takes a block, the module head says which, and up to `wanted` in all if more of them lie side by side: all in
    /// state `Inner`. Returns the first, and how many there are.
    pub(crate) fn take(
        &mut self,
        frames: Frames,
        demand: Demand,
        wanted: u32,
        stolen: &mut Stolen,
    ) -> Option<(Pfn, u32)> {
        let Demand { order, mobility, .. } = demand;
        if let Some(found) = self.areas[mobility as usize].smallest(order) {
            return Some(self.take_first(frames, mobility, found, order, wanted));
        }
        let (other, largest) = self.largest_of_others(demand)?;
        let block = self.areas[other as usize].lists[largest.index()].first().expect("the area says it has a block");
        let claimed = if largest >= PAGEBLOCK_ORDER {
            self.relabel(frames, block, largest, mobility);
            largest.frames() / PAGEBLOCK_ORDER.frames()
        } else if mobility != Mobility::Movable || largest.get() >= CLAIM_ORDER {
            u32::from(self.claim(frames, block.block(PAGEBLOCK_ORDER), mobility))
        } else {
            0
        };
        stolen.pageblocks += claimed;
        if claimed > 0 {
            return Some(self.take_first(frames, mobility, largest, order, wanted));
        }
        stolen.mixed += 1;
        let by_size = |&other: &Mobility| self.areas[other as usize].smallest(order).map_or(u32::MAX, Order::get);
        let other = mobility.fallbacks().into_iter().min_by_key(by_size)?;
        let found = self.areas[other as usize].smallest(order)?;
        // One at a time, for the next may belong elsewhere.
        Some(self.take_first(frames, other, found, order, 1))
    }

    /// Gives a block back, merging it with its free buddies.
    pub(crate) fn give(&mut self, frames: Frames, given: Pfn, given_order: Order) {
        let (mut block, mut order) = (given, given_order);
        self.free_frames += order.frames();
        while order < Order::MAX {
            let neighbour = buddy(block, order);
            if frames.state(neighbour) != State::new(Kind::Free, order, self.zone) {
                break;
            }
            self.take_off(frames, neighbour, order, self.pageblocks.mobility(neighbour));
            frames.set_state(block, State::new(Kind::Inner, Order::ZERO, self.zone));
            block = Pfn(block.0 & neighbour.0);
            order = Order::new(order.get() + 1).expect("below the largest order");
        }
        self.link(frames, block, order);
        if order >= PAGEBLOCK_ORDER {
            // The pageblocks of its buddies were whole before.
            self.pageblocks.set_whole(given.block(PAGEBLOCK_ORDER), given_order.max(PAGEBLOCK_ORDER), true);
        }
    }

    /// Whether there is a free block of at least that order, of any mobility.
    pub(crate) fn has_block(&self, order: Order) -> bool {
        self.areas.iter().any(|area| area.smallest(order).is_some())
    }

    /// Takes the first `wanted` frames of a free block, at most all, each `Inner`; returns how many.
    pub(crate) fn take_part(&mut self, frames: Frames, block: Pfn, order: Order, wanted: u32) -> u32 {
        let taken = wanted.min(order.frames());
        // All its pageblocks are alike.
        let mobility = self.pageblocks.mobility(block);
        self.take_off(frames, block, order, mobility);
        self.free_frames -= taken;
        if order >= PAGEBLOCK_ORDER {
            let touched = if taken > PAGEBLOCK_ORDER.frames() { order } else { PAGEBLOCK_ORDER };
            self.pageblocks.set_whole(block, touched, false);
        }
        for_each_block(block.offset(taken), block.offset(order.frames()), |rest, order| {
            self.link_alike(frames, rest, order, mobility);
        });
        taken
    }

    /// The largest free block of other mobilities within reach, in the order of fallbacks among equals.
    fn largest_of_others(&self, demand: Demand) -> Option<(Mobility, Order)> {
        let least = match demand.reach {
            Reach::WholePageblocks => demand.order.max(PAGEBLOCK_ORDER),
            Reach::Anything => demand.order,
        };
        let [first, second] =
            demand.mobility.fallbacks().map(|other| Some((other, self.areas[other as usize].largest(least)?)));
        match (first, second) {
            (Some(first), Some(second)) => Some(if second.1 > first.1 { second } else { first }),
            (first, second) => first.or(second),
        }
    }

    /// Takes up to `wanted` blocks of `order` off the first block of the list of `found`.
    fn take_first(
        &mut self,
        frames: Frames,
        mobility: Mobility,
        found: Order,
        order: Order,
        wanted: u32,
    ) -> (Pfn, u32) {
        let block = self.areas[mobility as usize].lists[found.index()].first().expect("the area says it has a block");
        let taken = self.take_part(frames, block, found, wanted << order.get());
        (block, taken >> order.get())
    }

    /// Makes the pageblocks of a free block, which are wholly its own, of another mobility.
    fn relabel(&mut self, frames: Frames, block: Pfn, order: Order, mobility: Mobility) {
        self.remove(frames, block, order);
        self.pageblocks.set_mobility(block, mobility);
        self.insert(frames, block, order);
    }

    /// Makes a pageblock of another mobility, if enough of it is free or compatible; says whether it did.
    fn claim(&mut self, frames: Frames, pageblock: Pfn, mobility: Mobility) -> bool {
        if self.pageblocks.is_shared(pageblock) {
            return false;
        }
        let (mut free, mut movable) = (0, 0);
        for_each_head(frames, pageblock, |_, state| match state.kind() {
            Kind::Free => free += state.order().frames(),
            Kind::Movable | Kind::Moving => movable += 1,
            _ => {}
        });
        let compatible = match (mobility, self.pageblocks.mobility(pageblock)) {
            (Mobility::Movable, _) => movable,
            (_, Mobility::Movable) => PAGEBLOCK_ORDER.frames() - free - movable,
            _ => 0,
        };
        if free + compatible < PAGEBLOCK_ORDER.frames() / 2 {
            return false;
        }
        for_each_head(frames, pageblock, |block, state| {
            if state.kind() == Kind::Free {
                self.unlink(frames, block, state.order(), self.pageblocks.mobility(block));
                self.areas[mobility as usize].push(frames, block, state.order());
            }
        });
        self.pageblocks.set_mobility(pageblock, mobility);
        true
    }

    /// Puts a block on the list where it belongs, and notes its pageblocks.
    fn insert(&mut self, frames: Frames, block: Pfn, order: Order) {
        if order >= PAGEBLOCK_ORDER {
            self.pageblocks.set_whole(block, order, true);
        }
        self.link(frames, block, order);
    }

    /// Takes a block off its list, and notes its pageblocks; it is `Inner` then.
    fn remove(&mut self, frames: Frames, block: Pfn, order: Order) {
        if order >= PAGEBLOCK_ORDER {
            self.pageblocks.set_whole(block, order, false);
        }
        self.take_off(frames, block, order, self.pageblocks.mobility(block));
    }

    /// [`Self::insert`] for those who note pageblocks. A block of several makes them alike.
    #[inline(always)]
    fn link(&mut self, frames: Frames, block: Pfn, order: Order) {
        let mobility = self.pageblocks.mobility(block);
        for pageblock in 1..order.frames() / PAGEBLOCK_ORDER.frames() {
            self.pageblocks.set_mobility(block.offset(pageblock * PAGEBLOCK_ORDER.frames()), mobility);
        }
        self.link_alike(frames, block, order, mobility);
    }

    /// [`Self::link`] of a block whose pageblocks are of that mobility.
    #[inline(always)]
    fn link_alike(&mut self, frames: Frames, block: Pfn, order: Order, mobility: Mobility) {
        frames.set_state(block, State::new(Kind::Free, order, self.zone));
        self.areas[mobility as usize].push(frames, block, order);
    }

    /// [`Self::remove`] for those who note pageblocks.
    #[inline(always)]
    fn take_off(&mut self, frames: Frames, block: Pfn, order: Order, mobility: Mobility) {
        self.unlink(frames, block, order, mobility);
        frames.set_state(block, State::new(Kind::Inner, Order::ZERO, self.zone));
    }

    fn unlink(&mut self, frames: Frames, block: Pfn, order: Order, mobility: Mobility) {
        let area = &mut self.areas[mobility as usize];
        area.lists[order.index()].remove(frames, block);
        area.counts[order.index()] -= 1;
        if area.counts[order.index()] == 0 {
            area.occupied &= !(1 << order.get());
        }
    }

    /// Checks the invariants of the module head on every block; the error names the first that is broken.
    pub(crate) fn validate(&self, frames: Frames) -> Result<(), Broken> {
        let mut total = 0;
        for mobility in Mobility::ALL {
            for order in Order::all() {
                total += self.validate_list(frames, mobility, order)? * order.frames();
            }
        }
        if total != self.free_frames {
            return Err(self.broken(Pfn(0), Order::ZERO, "the blocks do not add up to the free frames"));
        }
        Ok(())
    }

    fn validate_list(&self, frames: Frames, mobility: Mobility, order: Order) -> Result<u32, Broken> {
        let area = &self.areas[mobility as usize];
        let mut count = 0;
        let mut next = area.lists[order.index()].first();
        while let Some(block) = next {
            let broken = |what| Err(self.broken(block, order, what));
            if frames.state(block) != State::new(Kind::Free, order, self.zone) {
                return broken("a listed block's state does not say that it is free");
            }
            if block.block(order) != block {
                return broken("a block is not aligned");
            }
            if order < Order::MAX && frames.state(buddy(block, order)) == frames.state(block) {
                return broken("two free buddies were not merged");
            }
            let pageblocks = (0..order.frames()).step_by(PAGEBLOCK_ORDER.frames() as usize);
            if pageblocks.clone().any(|at| self.pageblocks.mobility(block.offset(at)) != mobility) {
                return broken("a block is not on the list of its pageblock's mobility");
            }
            if pageblocks.into_iter().any(|at| self.pageblocks.is_whole(block.offset(at)) != (order >= PAGEBLOCK_ORDER))
            {
                return broken("a pageblock is said to be whole and is not, or is and is not said to be");
            }
            count += 1;
            let link = frames.frame(block).next.load(Relaxed);
            next = (link != NIL).then_some(Pfn(link));
        }
        let broken = |what| Err(self.broken(Pfn(0), order, what));
        if count != area.counts[order.index()] {
            return broken("the count of blocks is not what the list holds");
        }
        if (area.occupied >> order.get() & 1 == 1) != (count > 0) {
            return broken("the bit map of lists does not say which are empty");
        }
        Ok(count)
    }

    fn broken(&self, block: Pfn, order: Order, what: &'static str) -> Broken {
        Broken { zone: self.zone, block, order, what }
    }
}

impl FreeArea {
    const fn new() -> Self {
        Self { lists: [const { FrameList::new() }; Order::COUNT], counts: [0; Order::COUNT], occupied: 0 }
    }

    /// Order of the smallest free block of at least `order`.
    #[inline]
    fn smallest(&self, order: Order) -> Option<Order> {
        let large_enough = self.occupied >> order.get();
        (large_enough != 0).then(|| Order::new(order.get() + large_enough.trailing_zeros())).flatten()
    }

    /// Order of the largest free block, if that is at least `order`.
    fn largest(&self, order: Order) -> Option<Order> {
        self.occupied.checked_ilog2().and_then(Order::new).filter(|&largest| largest >= order)
    }

    fn push(&mut self, frames: Frames, block: Pfn, order: Order) {
        self.lists[order.index()].push(frames, block);
        self.counts[order.index()] += 1;
        self.occupied |= 1 << order.get();
    }
}

/// Calls `each` with every frame of a pageblock that is not inside a free block, and with the heads of free blocks.
fn for_each_head(frames: Frames, pageblock: Pfn, mut each: impl FnMut(Pfn, State)) {
    let end = pageblock.offset(PAGEBLOCK_ORDER.frames());
    let mut frame = pageblock;
    while frame < end {
        let state = frames.state(frame);
        each(frame, state);
        frame = frame.offset(if state.kind() == Kind::Free { state.order().frames() } else { 1 });
    }
}

fn buddy(block: Pfn, order: Order) -> Pfn {
    Pfn(block.0 ^ order.frames())
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU64};
    use std::boxed::Box;
    use std::vec::Vec;

    use super::*;
    use crate::frame::Frame;
    use crate::machine::FrameTables;

    const ZONE: ZoneId = ZoneId(5);
    const PAGEBLOCK: u32 = PAGEBLOCK_ORDER.frames();
    const ANYTHING: Reach = Reach::Anything;

    /// A zone of so many pageblocks, all free and movable; the first largest block is nobody's.
    fn areas(pageblocks: u32) -> (Frames, FreeAreas) {
        let end = Order::MAX.frames() + pageblocks * PAGEBLOCK;
        let entries = end.next_multiple_of(Order::MAX.frames());
        let frames = Frames::in_tables(FrameTables {
            tags: leak((0..entries).map(|_| AtomicU16::new(0))),
            states: leak((0..entries).map(|_| AtomicU16::new(0))),
            frames: leak((0..entries).map(|_| Frame::default())),
        });
        let needed = Pageblocks::needed(Pfn(entries));
        let bytes = (0..needed).map(|_| AtomicU8::new(0));
        let words = (0..needed.div_ceil(64)).map(|_| AtomicU64::new(0));
        let table = Pageblocks::new(Box::leak(bytes.collect()), Box::leak(words.collect()));
        let mut areas = FreeAreas::new(ZONE, table);
        for pageblock in (Order::MAX.frames()..end).step_by(PAGEBLOCK as usize).map(Pfn) {
            table.admit(pageblock);
            areas.give(frames, pageblock, PAGEBLOCK_ORDER);
        }
        (frames, areas)
    }

    fn leak<T>(entries: impl Iterator<Item = T>) -> *const T {
        Box::leak(entries.collect::<Box<[T]>>()).as_ptr()
    }

    fn order(order: u32) -> Order {
        Order::new(order).expect("the tests use orders that exist")
    }

    /// Takes a block that is there, in a state of that kind; also returns what was stolen for it.
    fn take(areas: &mut FreeAreas, frames: Frames, order: Order, mobility: Mobility, kind: Kind) -> (Pfn, u32, u32) {
        let mut stolen = Stolen::default();
        let demand = Demand { order, mobility, reach: ANYTHING };
        let (block, _) = areas.take(frames, demand, 1, &mut stolen).expect("there is a block");
        frames.set_state(block, State::new(kind, order, ZONE));
        areas.validate(frames).unwrap_or_else(|broken| panic!("{broken}"));
        (block, stolen.pageblocks, stolen.mixed)
    }

    /// Two pageblocks full of single pages of a mobility and kind, but for the first `free` frames of the second.
    fn nearly_full(mobility: Mobility, kind: Kind, free: u32) -> (Frames, FreeAreas) {
        let (frames, mut areas) = areas(2);
        let mut taken: Vec<_> =
            (0..2 * PAGEBLOCK).map(|_| take(&mut areas, frames, Order::ZERO, mobility, kind).0).collect();
        taken.sort_unstable();
        for &frame in &taken[PAGEBLOCK as usize..][..free as usize] {
            areas.give(frames, frame, Order::ZERO);
        }
        (frames, areas)
    }

    #[test]
    fn the_largest_block_of_others_is_stolen_with_all_its_pageblocks() {
        let (frames, mut areas) = areas(3);
        let (block, stolen, _) = take(&mut areas, frames, Order::ZERO, Mobility::Unmovable, Kind::Page);
        assert_eq!((block, stolen), (Pfn(Order::MAX.frames()), 2));
        let counts = areas.counts();
        assert_eq!(counts[Mobility::Movable as usize], core::array::from_fn(|order| u32::from(order == 9)));
        let (_, stolen, _) = take(&mut areas, frames, order(9), Mobility::Unmovable, Kind::Page);
        assert_eq!(stolen, 0, "its own are enough");
    }

    #[test]
    fn whole_pageblocks_are_not_parts() {
        let (frames, mut areas) = nearly_full(Mobility::Movable, Kind::Movable, PAGEBLOCK / 2);
        let demand = |reach| Demand { order: Order::ZERO, mobility: Mobility::Unmovable, reach };
        assert!(!areas.can_serve(demand(Reach::WholePageblocks)) && areas.can_serve(demand(ANYTHING)));
        let mut stolen = Stolen::default();
        assert_eq!(areas.take(frames, demand(Reach::WholePageblocks), 1, &mut stolen), None);
    }

    #[test]
    fn a_pageblock_is_claimed_when_half_of_it_is_free_or_compatible() {
        use Mobility::{Movable, Reclaimable, Unmovable};
        for (had_by, kind, free, wanted_by, claimed) in [
            // What can move is in the way of what cannot.
            (Movable, Kind::Movable, PAGEBLOCK / 2, Unmovable, true),
            (Movable, Kind::Movable, PAGEBLOCK / 2 - 1, Unmovable, false),
            (Movable, Kind::Movable, PAGEBLOCK / 2 - 1, Reclaimable, false),
            // Movable in name only: its owner cannot be asked.
            (Movable, Kind::Placed, 1, Unmovable, true),
            // Nothing says that what is in them is compatible.
            (Reclaimable, Kind::Placed, PAGEBLOCK / 2, Unmovable, true),
            (Reclaimable, Kind::Placed, PAGEBLOCK / 2 - 1, Unmovable, false),
            (Unmovable, Kind::Page, PAGEBLOCK / 2 - 1, Reclaimable, false),
            // Movable pages strayed there before.
            (Unmovable, Kind::Movable, 16, Movable, true),
            (Unmovable, Kind::Page, PAGEBLOCK / 2, Movable, true),
            // A movable page does not need it so badly.
            (Unmovable, Kind::Movable, 8, Movable, false),
        ] {
            let (frames, mut areas) = nearly_full(had_by, kind, free);
            let (block, stolen, mixed) = take(&mut areas, frames, Order::ZERO, wanted_by, Kind::Placed);
            let case = (had_by, kind, free, wanted_by);
            assert_eq!((stolen, mixed), (u32::from(claimed), u32::from(!claimed)), "{case:?}");
            assert_eq!(areas.pageblocks.mobility(block), if claimed { wanted_by } else { had_by }, "{case:?}");
        }
    }

    #[test]
    fn what_is_used_without_a_claim_is_the_smallest_that_is_enough() {
        let (frames, mut areas) = nearly_full(Mobility::Reclaimable, Kind::Placed, 8);
        let first = Pfn(Order::MAX.frames() + 6);
        areas.give(frames, first, Order::ZERO);
        areas.give(frames, first.offset(1), Order::ZERO);
        let (page, ..) = take(&mut areas, frames, Order::ZERO, Mobility::Movable, Kind::Movable);
        assert_eq!(page.block(order(1)), first);
        let (block, ..) = take(&mut areas, frames, order(2), Mobility::Movable, Kind::Placed);
        assert_ne!(block.block(PAGEBLOCK_ORDER), first.block(PAGEBLOCK_ORDER), "two frames are not enough");
    }

    #[test]
    fn a_shared_pageblock_is_used_but_never_claimed() {
        let (frames, mut areas) = areas(2);
        let shared = Pfn(Order::MAX.frames());
        let (block, ..) = take(&mut areas, frames, Order::MAX, Mobility::Unmovable, Kind::Page);
        areas.pageblocks.mark_shared(shared);
        areas.give(frames, block, order(8));
        let (page, stolen, mixed) = take(&mut areas, frames, Order::ZERO, Mobility::Movable, Kind::Movable);
        assert_eq!((page.block(PAGEBLOCK_ORDER), stolen, mixed), (shared, 0, 1));
    }

    #[test]
    fn blocks_that_merge_across_pageblocks_make_them_alike() {
        let (frames, mut areas) = areas(2);
        let (first, ..) = take(&mut areas, frames, order(9), Mobility::Movable, Kind::Placed);
        let (second, stolen, _) = take(&mut areas, frames, order(9), Mobility::Unmovable, Kind::Page);
        assert_eq!(stolen, 1);
        areas.give(frames, first, order(9));
        areas.give(frames, second, order(9));
        areas.validate(frames).unwrap_or_else(|broken| panic!("{broken}"));
        assert_eq!(areas.counts().iter().map(|counts| counts[10]).sum::<u32>(), 1);
    }
}
