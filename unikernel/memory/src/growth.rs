//! [`Growth`]: memory the service owns but has not looked at yet, and how it takes it in, a section at a time.
//!
//! Used by the start (which hands over every free range) and by the page layer (which grows a zone that ran short). A
//! machine of 900 GiB would spend its boot writing frame tables; so the tables of a *section* (128 MiB) are filled when
//! its zone first needs it. Until then its frames count as *deferred*.
//!
//! # Theory
//!
//! A range is a run of free frames of one zone; filling takes the part of it in the section where it starts. The memory
//! of the section's table entries comes out of the section itself, first frames first, so metadata lies on its own
//! node. Everything here is guarded by the growth lock; lock order: depot, growth, zone.

use crate::frame::{FRAME_BYTES, Frames, Kind, Order, Pfn, State, ZoneId, for_each_block};
use crate::machine::Machine;
use crate::mobility::PAGEBLOCK_ORDER;
use crate::zone::{Zone, ZoneKind};

use core::sync::atomic::Ordering::Relaxed;

/// Frames of a section: 128 MiB. Its entries fill exactly 16 pages of tags, 16 of states and 96 of frames.
pub(crate) const SECTION_FRAMES: u32 = 1 << 15;

/// Ranges the service can be given, after splitting at zone borders.
pub(crate) const MAX_FREE_RANGES: usize = 768;

/// Free frames not filled yet.
#[derive(Clone, Copy)]
struct Range {
    zone: ZoneId,
    next: Pfn,
    end: Pfn,
}

/// The ranges not filled yet.
pub(crate) struct Growth {
    ranges: [Range; MAX_FREE_RANGES],
    count: usize,
}

impl Growth {
    pub(crate) const fn new() -> Self {
        Self { ranges: [Range { zone: ZoneId(0), next: Pfn(0), end: Pfn(0) }; MAX_FREE_RANGES], count: 0 }
    }

    /// Notes free frames, all of one zone. `false` when there is no room for another range.
    #[must_use]
    pub(crate) fn add(&mut self, zone: ZoneId, start: Pfn, end: Pfn) -> bool {
        if start >= end {
            return true;
        }
        let Some(slot) = self.ranges.get_mut(self.count) else { return false };
        *slot = Range { zone, next: start, end };
        self.count += 1;
        true
    }

    /// Takes frames off the end of the node's largest range, for what must exist before zones do; returns the first.
    pub(crate) fn carve(&mut self, node: quarry_topology::NodeId, frames: u32) -> Option<Pfn> {
        let range = self.ranges[..self.count]
            .iter_mut()
            .filter(|range| range.zone.node() == node && range.end.0 - range.next.0 >= frames)
            .max_by_key(|range| range.end.0 - range.next.0)?;
        range.end = Pfn(range.end.0 - frames);
        Some(range.end)
    }

    /// Frames of a zone not filled yet.
    pub(crate) fn remaining(&self, zone: ZoneId) -> u32 {
        self.ranges[..self.count]
            .iter()
            .filter(|range| range.zone == zone)
            .map(|range| range.end.0 - range.next.0)
            .sum()
    }

    /// The frame behind the highest one.
    pub(crate) fn end(&self) -> Pfn {
        self.ranges[..self.count].iter().map(|range| range.end).max().unwrap_or(Pfn(0))
    }

    /// Calls `each` with a frame of every pageblock in which two zones meet. Looks at each pair of ranges that may
    /// meet another inside a pageblock.
    pub(crate) fn for_each_shared_pageblock(&self, mut each: impl FnMut(Pfn)) {
        let ranges = self.ranges[..self.count].iter().filter(|range| range.next < range.end);
        for range in ranges.clone() {
            for pageblock in [range.next, Pfn(range.end.0 - 1)].map(|frame| frame.block(PAGEBLOCK_ORDER)) {
                let end = pageblock.offset(PAGEBLOCK_ORDER.frames());
                let whole = range.next <= pageblock && end <= range.end;
                let met = |other: &&Range| other.zone != range.zone && other.next < end && pageblock < other.end;
                if !whole && ranges.clone().any(|other| met(&other)) {
                    each(pageblock);
                }
            }
        }
    }

    /// Fills the next section of the zone and frees its frames into it. `false` when nothing of the zone is left.
    pub(crate) fn grow<M: Machine>(&mut self, machine: &M, zone: &Zone) -> bool {
        let Some(range) =
            self.ranges[..self.count].iter_mut().find(|range| range.zone == zone.id() && range.next < range.end)
        else {
            return false;
        };
        let start = range.next;
        let section_end = (start.0 & !(SECTION_FRAMES - 1)) + SECTION_FRAMES;
        let end = Pfn(range.end.0.min(section_end));
        range.next = end;
        zone.deferred.fetch_sub(end.0 - start.0, Relaxed);
        fill(machine, zone, start, end);
        true
    }
}

/// Backs and writes the table entries of `start..end`, then frees what the tables left.
fn fill<M: Machine>(machine: &M, zone: &Zone, start: Pfn, end: Pfn) {
    let frames = Frames::of(machine);
    let mut next = start;
    let mut backed = true;
    for page in frames.table_pages(start, end.0 - start.0).into_iter().flatten() {
        let mut take = || {
            let frame = next;
            (frame < end).then(|| {
                next = frame.offset(1);
                frame
            })
        };
        if machine.back(page * FRAME_BYTES, &mut take).is_err() {
            backed = false;
            break;
        }
    }
    zone.metadata.fetch_add(next.0 - start.0, Relaxed);
    if !backed {
        // A run too short to hold its own entries: all of it went into tables.
        return;
    }
    for frame in start.0..next.0 {
        frames.set_state(Pfn(frame), State::new(Kind::Reserved, Order::ZERO, zone.id()));
    }
    for frame in next.0..end.0 {
        frames.set_state(Pfn(frame), State::new(Kind::Inner, Order::ZERO, zone.id()));
    }
    zone.admit(machine, start, end);
    for_each_block(next, end, |block, order| zone.free(machine, block, order));
}

/// Cuts a run of frames at the borders of zone kinds.
pub(crate) fn for_each_zone(start: Pfn, end: Pfn, mut each: impl FnMut(ZoneKind, Pfn, Pfn)) {
    let mut next = start;
    while next < end {
        let kind = ZoneKind::of(next);
        let border = end.min(kind.end());
        each(kind, next, border);
        next = border;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn zone_pieces_cover_a_run_exactly(start in 1u32..1 << 22, length in 0u32..1 << 22) {
            let mut next = start;
            for_each_zone(Pfn(start), Pfn(start + length), |kind, from, to| {
                assert_eq!(from.0, next);
                assert!(from < to && ZoneKind::of(from) == kind && ZoneKind::of(Pfn(to.0 - 1)) == kind);
                next = to.0;
            });
            prop_assert_eq!(next, start + length);
        }
    }
}
