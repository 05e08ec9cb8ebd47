//! [`Mobility`]: what can be done about memory that is in the way, and the table that says it of every pageblock.
//!
//! Used by zones, which keep free blocks apart by it, and by the page layer, which reads it off an allocation's flags.
//!
//! # Theory
//!
//! A *pageblock* is a naturally aligned block of 2 MiB. One page that stays for ever keeps its whole pageblock from
//! being free again, so pages of one mobility are put together: into pageblocks of that mobility while there are any.
//! (Linux's `MIGRATE_*` types; Gorman and Whitcroft, "The what, the why and the where to of anti-fragmentation", 2006.)
//!
//! The table has a byte for each pageblock up to the last frame the service manages (0.002 bytes a frame), in memory
//! carved from a node at start. Its mobility is written under the lock of the zone the pageblock is in. A
//! pageblock in which two zones meet, because a node ends inside, is *shared*: unmovable for ever, so that neither
//! zone's lock has to guard the other's lists. That a pageblock is filled is noted under the growth lock.
//!
//! A bit map beside it says which pageblocks are *whole*: inside a single free block. It is written under the lock of
//! the pageblock's zone, and zones may share a word. Who reads it without that lock (relaxed) takes it for a hint: it is
//! how a run of many pageblocks is found without a look at any frame.

use core::ops::Range;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use quarry_topology::NodeId;

use crate::frame::{Kind, Order, Pfn};
use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::service::Service;
use crate::zone::ZoneKind;

/// Order of a pageblock: 512 frames, 2 MiB. Linux's `pageblock_order`.
pub const PAGEBLOCK_ORDER: Order = Order::new(9).expect("a pageblock is no larger than the largest block");

/// What can be done about a page that is in the way. In the order of `/proc/pagetypeinfo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mobility {
    /// Nothing: kernel objects. Linux's `MIGRATE_UNMOVABLE`.
    Unmovable = 0,
    /// Its owner reaches it only through something that can be redirected. Linux's `MIGRATE_MOVABLE`.
    Movable = 1,
    /// A shrinker can free it. Linux's `MIGRATE_RECLAIMABLE`.
    Reclaimable = 2,
}

impl Mobility {
    /// How many there are.
    pub const COUNT: usize = 3;

    /// All of them, in the order of `/proc/pagetypeinfo`.
    pub const ALL: [Self; Self::COUNT] = [Self::Unmovable, Self::Movable, Self::Reclaimable];

    /// What an allocation with these flags declares its memory to be. Movable wins over reclaimable.
    pub const fn of(gfp: Gfp) -> Self {
        if gfp.contains(Gfp::MOVABLE) {
            Self::Movable
        } else if gfp.contains(Gfp::RECLAIMABLE) {
            Self::Reclaimable
        } else {
            Self::Unmovable
        }
    }

    /// As `/proc/pagetypeinfo` names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unmovable => "Unmovable",
            Self::Movable => "Movable",
            Self::Reclaimable => "Reclaimable",
        }
    }

    /// Whose memory to take when there is none of one's own, the least bad first. Linux's `fallbacks`.
    pub(crate) const fn fallbacks(self) -> [Self; Self::COUNT - 1] {
        match self {
            Self::Unmovable => [Self::Reclaimable, Self::Movable],
            Self::Movable => [Self::Reclaimable, Self::Unmovable],
            Self::Reclaimable => [Self::Unmovable, Self::Movable],
        }
    }

    /// Kind of the head of a block handed out to callers of the page layer.
    pub(crate) const fn page_kind(self) -> Kind {
        match self {
            Self::Unmovable => Kind::Page,
            Self::Movable | Self::Reclaimable => Kind::Placed,
        }
    }
}

/// What is known of every pageblock; a handle to the one table of a service.
#[derive(Clone, Copy)]
pub(crate) struct Pageblocks {
    bytes: &'static [AtomicU8],
    whole: &'static [AtomicU64],
}

const PAGEBLOCK: u32 = PAGEBLOCK_ORDER.frames();

/// Bits of a pageblock's byte. All zero before any of its frames was filled.
const MOBILITY: u8 = 0b11;
const FILLED: u8 = 1 << 2;
const SHARED: u8 = 1 << 3;

impl Pageblocks {
    /// Pageblocks that hold the frames below `end`: as many bytes the table needs, and a word for each 64 of them.
    pub(crate) const fn needed(end: Pfn) -> usize {
        end.0.div_ceil(PAGEBLOCK) as usize
    }

    /// The table, of as many zeroed bytes as [`Self::needed`] says, and zeroed words.
    pub(crate) const fn new(bytes: &'static [AtomicU8], whole: &'static [AtomicU64]) -> Self {
        Self { bytes, whole }
    }

    /// A fresh pageblock's first frames were filled: it is movable, for whatever comes first may claim a whole one.
    pub(crate) fn admit(self, frame: Pfn) {
        let byte = self.byte(frame);
        let before = byte.load(Relaxed);
        if before & (FILLED | SHARED) == 0 {
            byte.store(FILLED | Mobility::Movable as u8, Relaxed);
        } else {
            byte.store(before | FILLED, Relaxed);
        }
    }

    /// Two zones meet in the pageblock. Only at start.
    pub(crate) fn mark_shared(self, frame: Pfn) {
        self.byte(frame).store(SHARED | Mobility::Unmovable as u8, Relaxed);
    }

    /// Whether two zones meet in it, so that it stays as it is.
    pub(crate) fn is_shared(self, frame: Pfn) -> bool {
        self.byte(frame).load(Relaxed) & SHARED != 0
    }

    /// Whether some of its frames were filled.
    pub(crate) fn is_filled(self, frame: Pfn) -> bool {
        self.byte(frame).load(Relaxed) & FILLED != 0
    }

    #[inline]
    pub(crate) fn mobility(self, frame: Pfn) -> Mobility {
        // No byte has all bits of it.
        const OF_BITS: [Mobility; 4] = [Mobility::ALL[0], Mobility::ALL[1], Mobility::ALL[2], Mobility::ALL[0]];
        OF_BITS[(self.byte(frame).load(Relaxed) & MOBILITY) as usize]
    }

    /// Changes the mobility of a filled pageblock that is not shared.
    pub(crate) fn set_mobility(self, frame: Pfn, mobility: Mobility) {
        debug_assert!(self.is_filled(frame) && !self.is_shared(frame), "{frame} is in no pageblock that may change");
        self.byte(frame).store(FILLED | mobility as u8, Relaxed);
    }

    /// Notes that the pageblocks of a block, of at least the pageblocks' order, are whole, or are not any more.
    #[inline]
    pub(crate) fn set_whole(self, block: Pfn, order: Order, whole: bool) {
        const { assert!(Order::MAX.get() == PAGEBLOCK_ORDER.get() + 1, "a block has one pageblock or two") };
        let first = block.index() >> PAGEBLOCK_ORDER.get();
        // A block is aligned to its size, so all its bits are of one word.
        let bits = (1 | u64::from(order > PAGEBLOCK_ORDER) << 1) << (first % 64);
        let word = &self.whole[first / 64];
        if whole {
            word.fetch_or(bits, Relaxed)
        } else {
            word.fetch_and(!bits, Relaxed)
        };
    }

    /// Whether a pageblock is whole.
    pub(crate) fn is_whole(self, frame: Pfn) -> bool {
        let index = frame.index() >> PAGEBLOCK_ORDER.get();
        self.whole[index / 64].load(Relaxed) >> (index % 64) & 1 != 0
    }

    /// The first of at least `wanted` whole pageblocks side by side, among those that have frames in `range`.
    pub(crate) fn find_whole(self, range: Range<Pfn>, wanted: u32) -> Option<Pfn> {
        let end = (range.end.0.div_ceil(PAGEBLOCK) as usize).min(self.bytes.len());
        let mut at = range.start.index() >> PAGEBLOCK_ORDER.get();
        let mut start = at;
        while at < end {
            let bits = self.whole[at / 64].load(Relaxed) >> (at % 64);
            let ones = bits.trailing_ones();
            at += ones as usize;
            if at - start >= wanted as usize {
                return (start + wanted as usize <= end).then(|| Pfn((start as u32) * PAGEBLOCK));
            }
            if !at.is_multiple_of(64) || ones == 0 {
                // A pageblock that is not; with it all the others up to the next one that is, or the end of the word.
                at += ((bits >> ones).trailing_zeros() as usize).clamp(1, 64 - at % 64);
                start = at;
            }
        }
        None
    }

    #[inline]
    fn byte(self, frame: Pfn) -> &'static AtomicU8 {
        &self.bytes[frame.index() >> PAGEBLOCK_ORDER.get()]
    }
}

/// Free blocks and pageblocks of one zone by mobility: what `/proc/pagetypeinfo` shows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageTypeInfo {
    /// Its node.
    pub node: NodeId,
    /// Its kind.
    pub kind: ZoneKind,
    /// Free blocks of each order, by mobility in the order of [`Mobility::ALL`].
    pub free_blocks: [[u32; Order::COUNT]; Mobility::COUNT],
    /// Pageblocks, by mobility in the order of [`Mobility::ALL`]; those whose section is not filled yet are not in it.
    pub pageblocks: [u32; Mobility::COUNT],
}

impl<M: Machine> Service<M> {
    /// What `/proc/pagetypeinfo` shows, for every zone that has RAM, by node and address. Looks at every pageblock.
    pub fn page_type_info(&self) -> impl Iterator<Item = PageTypeInfo> {
        self.zones().filter_map(|info| {
            let zone = self.nodes().get(info.node)?.zone(info.kind);
            Some(PageTypeInfo {
                node: info.node,
                kind: info.kind,
                free_blocks: zone.free_blocks_by_mobility(self.machine()),
                pageblocks: zone.count_pageblocks(self.machine()),
            })
        })
    }

    /// Mobility of the pageblock a frame is in; `None` when the service does not manage the frame. Linux's
    /// `get_pageblock_migratetype`.
    pub fn mobility_of(&self, frame: Pfn) -> Option<Mobility> {
        let zone = self.manages(frame).then(|| crate::frame::Frames::of(self.machine()).state(frame).zone())?;
        Some(self.nodes().zone(zone)?.pageblocks().mobility(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::boxed::Box;
    use std::vec;
    use std::vec::Vec;

    fn table(whole: &[bool]) -> Pageblocks {
        let bytes = (0..whole.len()).map(|_| AtomicU8::new(0)).collect::<Box<[_]>>();
        let words = (0..whole.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect::<Box<[_]>>();
        let table = Pageblocks::new(Box::leak(bytes), Box::leak(words));
        for (number, _) in whole.iter().enumerate().filter(|(_, whole)| **whole) {
            table.set_whole(Pfn(number as u32 * PAGEBLOCK), PAGEBLOCK_ORDER, true);
        }
        table
    }

    proptest! {
        #[test]
        fn whole_pageblocks_side_by_side_are_found_where_they_are(
            lengths in prop::collection::vec((0usize..140, 0usize..140), 1..6),
            (start, end, wanted) in (0u32..500, 0u32..900, 1u32..150),
        ) {
            let runs = lengths.into_iter().flat_map(|(no, yes)| [vec![false; no], vec![true; yes]]);
            let whole: Vec<bool> = runs.flatten().collect();
            let is_run = |first: &u32| {
                let run = *first as usize..(first + wanted) as usize;
                run.end <= end as usize && whole.get(run).is_some_and(|run| run.iter().all(|&whole| whole))
            };
            let expected = (start..900).find(is_run).map(|first| Pfn(first * PAGEBLOCK));
            prop_assert_eq!(table(&whole).find_whole(Pfn(start * PAGEBLOCK)..Pfn(end * PAGEBLOCK), wanted), expected);
        }
    }

    #[test]
    fn the_pageblocks_of_a_block_are_whole_together() {
        let table = table(&[false; 130]);
        table.set_whole(Pfn(128 * PAGEBLOCK), Order::MAX, true);
        assert!(table.is_whole(Pfn(128 * PAGEBLOCK)) && table.is_whole(Pfn(130 * PAGEBLOCK - 1)));
        table.set_whole(Pfn(128 * PAGEBLOCK), Order::MAX, false);
        assert_eq!(table.find_whole(Pfn(0)..Pfn(130 * PAGEBLOCK), 1), None);
    }
}
