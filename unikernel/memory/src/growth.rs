//! [`Growth`]: memory the service owns but has not looked at yet, and how it takes it in, a section at a time.
//!
//! Used by the start (which hands over every free range) and by the page layer (which grows a zone that ran short). A
//! machine of 900 GiB would spend its boot writing frame tables; so the tables of a *section* (128 MiB) are filled when
//! its zone first needs it. Until then its frames count as *deferred*.
//!
//! # Theory
//!
//! A range is a run of free frames of one zone; filling takes the part of it in the section where it starts. The memory
//! of the section's table entries comes off the end of the range, last frame first: so metadata lies on its own node,
//! and what is filled is whole, from section to section: a run of gigabytes can come free of it. Everything here is
//! guarded by the growth lock; lock order: depot, growth, zone.
//!
//! A contiguous run of a section or more that is to come from a range is cut out of it without being filled
//! ([`Growth::take_run`]): only the table entries of its first frame get memory. The frames behind it stay `Absent`,
//! and the run comes back as a range. While it is in use it is on a list, for who asks which run a frame is in. A
//! shorter run has the sections filled that hold it ([`Growth::fill_for`]), wherever in the range they are.

use crate::frame::{FRAME_BYTES, Frames, Kind, NIL, Order, Pfn, State, ZoneId, for_each_block};
use crate::machine::Machine;
use crate::mobility::PAGEBLOCK_ORDER;
use crate::run::RunDemand;
use crate::zone::{Zone, ZoneKind};

use core::sync::atomic::Ordering::Relaxed;

/// Frames of a section: 128 MiB. Its entries fill exactly 16 pages of tags, 16 of states and 96 of frames.
pub(crate) const SECTION_FRAMES: u32 = 1 << 15;

/// Ranges the service can be given, after splitting at zone borders.
pub(crate) const MAX_FREE_RANGES: usize = 768;

/// Free frames not filled yet.
#[derive(Clone, Copy, Debug)]
struct Range {
    zone: ZoneId,
    next: Pfn,
    end: Pfn,
}

impl Range {
    const fn is_empty(&self) -> bool {
        self.next.0 >= self.end.0
    }

    const fn frames(&self) -> u32 {
        self.end.0 - self.next.0
    }
}

/// The ranges not filled yet.
pub(crate) struct Growth {
    ranges: [Range; MAX_FREE_RANGES],
    count: usize,
    /// The last run that was cut out and is in use; each names the one before in its first frame's `previous`.
    last_run: u32,
}

impl Growth {
    pub(crate) const fn new() -> Self {
        Self {
            ranges: [Range { zone: ZoneId(0), next: Pfn(0), end: Pfn(0) }; MAX_FREE_RANGES],
            count: 0,
            last_run: NIL,
        }
    }

    /// Notes free frames, all of one zone. `false` when there is no room for another range.
    #[must_use]
    pub(crate) fn add(&mut self, zone: ZoneId, start: Pfn, end: Pfn) -> bool {
        if start >= end {
            return true;
        }
        let Some(slot) = self.vacant_slot() else { return false };
        self.ranges[slot] = Range { zone, next: start, end };
        true
    }

    /// A slot for one more range.
    fn vacant_slot(&mut self) -> Option<usize> {
        let used = self.ranges[..self.count].iter().position(Range::is_empty);
        if used.is_some() || self.count == self.ranges.len() {
            return used;
        }
        self.count += 1;
        Some(self.count - 1)
    }

    /// Takes frames off the end of the node's largest range, for what must exist before zones do; returns the first.
    pub(crate) fn carve(&mut self, node: quarry_topology::NodeId, frames: u32) -> Option<Pfn> {
        let range = self.ranges[..self.count]
            .iter_mut()
            .filter(|range| range.zone.node() == node && range.frames() >= frames)
            .max_by_key(|range| range.frames())?;
        range.end = Pfn(range.end.0 - frames);
        Some(range.end)
    }

    /// Frames of a zone not filled yet.
    pub(crate) fn remaining(&self, zone: ZoneId) -> u32 {
        self.ranges[..self.count].iter().filter(|range| range.zone == zone).map(Range::frames).sum()
    }

    /// The frame behind the highest one.
    pub(crate) fn end(&self) -> Pfn {
        self.ranges[..self.count].iter().map(|range| range.end).max().unwrap_or(Pfn(0))
    }

    /// Calls `each` with a frame of every pageblock in which two zones meet. Looks at each pair of ranges that may
    /// meet another inside a pageblock.
    pub(crate) fn for_each_shared_pageblock(&self, mut each: impl FnMut(Pfn)) {
        let ranges = self.ranges[..self.count].iter().filter(|range| !range.is_empty());
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
        let Some((slot, range)) = self.ranges_of(zone).next() else { return false };
        let section_end = Pfn(section_start(range.next) + SECTION_FRAMES);
        self.fill(machine, zone, slot, range.next, section_end)
    }

    /// Fills the sections that hold a run which is wanted, where all of it is in a range; `false` when there is no such
    /// range.
    pub(crate) fn fill_for<M: Machine>(&mut self, machine: &M, zone: &Zone, demand: &RunDemand) -> bool {
        let holds = |(slot, range): (usize, Range)| {
            let start = demand.first_start(range.next).filter(|&start| demand.behind(start) <= range.end)?;
            Some((slot, start))
        };
        let Some((slot, start)) = self.ranges_of(zone).find_map(holds) else { return false };
        let last = Pfn(demand.behind(start).0 - 1);
        self.fill(machine, zone, slot, Pfn(section_start(start)), Pfn(section_start(last) + SECTION_FRAMES))
    }

    /// Fills as much of the zone's ranges as a run could need of them that is filled for the rest; `false` when there
    /// is nothing of it.
    pub(crate) fn fill_ends<M: Machine>(&mut self, machine: &M, zone: &Zone, demand: &RunDemand) -> bool {
        let frames = Frames::of(machine);
        let is_filled = |frame: Pfn| {
            let state = (frame.0 < machine.frame_limit()).then(|| frames.state(frame));
            state.is_some_and(|state| state.kind() != Kind::Absent && state.zone() == zone.id())
        };
        let mut filled = false;
        for slot in 0..self.count {
            for upper_end in [false, true] {
                let range = self.ranges[slot];
                let reachable = range.next < demand.end && demand.low < range.end;
                if range.zone != zone.id() || range.is_empty() || !reachable {
                    continue;
                }
                let length = demand.frames.next_multiple_of(SECTION_FRAMES).min(range.frames());
                let (beside, part) = if upper_end {
                    (range.end, Pfn(range.end.0 - length)..range.end)
                } else {
                    // Below the first frame there is none: it wraps to one beyond the tables.
                    (Pfn(range.next.0.wrapping_sub(1)), range.next..range.next.offset(length))
                };
                filled |= is_filled(beside) && self.fill(machine, zone, slot, part.start, part.end);
            }
        }
        filled
    }

    /// Cuts a run of at least a section out of a range. Its first frame's table entries can be written then; the state
    /// of all of its frames is `Absent`.
    pub(crate) fn take_run<M: Machine>(&mut self, machine: &M, zone: &Zone, demand: &RunDemand) -> Option<Pfn> {
        let of_sections = RunDemand { alignment: demand.alignment.max(SECTION_FRAMES.into()), ..*demand };
        let holds = |demand: &RunDemand, range: Range| {
            let start = demand.first_start(range.next)?;
            (demand.behind(start) <= range.end).then_some(start)
        };
        let mut found = self.ranges_of(zone).filter_map(|(slot, range)| {
            let start = holds(&of_sections, range).or_else(|| holds(demand, range))?;
            Some((slot, start))
        });
        let (slot, start) = found.next()?;
        drop(found);
        let mut cut = self.cut(slot, start, demand.behind(start))?;
        // The run itself is not to be used up.
        let part = core::mem::replace(&mut cut.part, Range { zone: zone.id(), next: start, end: start });
        let before = cut.frames() + part.frames();
        let backed = cut.back(machine, start, 1);
        let left = cut.frames() + if backed { 0 } else { part.frames() };
        zone.metadata.fetch_add(before - part.frames() - cut.frames(), Relaxed);
        zone.deferred.fetch_sub(before - left, Relaxed);
        self.put(&cut);
        if !backed {
            self.merge(part).expect("it was cut out of a range, which has a slot");
            return None;
        }
        Some(start)
    }

    /// Takes back a run that [`Self::take_run`] gave.
    pub(crate) fn give_run<M: Machine>(&mut self, machine: &M, zone: &Zone, start: Pfn, frames: u32) {
        let run = Range { zone: zone.id(), next: start, end: start.offset(frames) };
        zone.deferred.fetch_add(frames, Relaxed);
        if self.merge(run).is_err() {
            // No room to note it: it is filled after all.
            let nothing = Range { zone: zone.id(), next: start, end: start };
            fill(machine, zone, Cut { slot: 0, lower: nothing, part: run, upper: nothing });
        }
    }

    /// Notes a run that [`Self::take_run`] gave: the word of its first frame says how long it is.
    pub(crate) fn note_run<M: Machine>(&mut self, machine: &M, head: Pfn) {
        Frames::of(machine).frame(head).previous.store(self.last_run, Relaxed);
        self.last_run = head.0;
    }

    /// Forgets a run that was noted.
    pub(crate) fn forget_run<M: Machine>(&mut self, machine: &M, head: Pfn) {
        let link = |run: Pfn| &Frames::of(machine).frame(run).previous;
        let before = link(head).load(Relaxed);
        if self.last_run == head.0 {
            self.last_run = before;
        } else if let Some(behind) = self.runs(machine).find(|&run| link(run).load(Relaxed) == head.0) {
            link(behind).store(before, Relaxed);
        }
    }

    /// The first frame of the noted run that a frame is in.
    pub(crate) fn run_with<M: Machine>(&self, machine: &M, frame: Pfn) -> Option<Pfn> {
        let is_in = |run: &Pfn| frame.0.checked_sub(run.0).is_some_and(|at| at < Self::length(machine, *run));
        self.runs(machine).find(is_in)
    }

    fn length<M: Machine>(machine: &M, run: Pfn) -> u32 {
        Frames::of(machine).frame(run).word.load(Relaxed)
    }

    /// The noted runs by their first frames.
    fn runs<M: Machine>(&self, machine: &M) -> impl Iterator<Item = Pfn> {
        let frames = Frames::of(machine);
        let known = |run: u32| (run != NIL).then_some(Pfn(run));
        core::iter::successors(known(self.last_run), move |&run| known(frames.frame(run).previous.load(Relaxed)))
    }

    /// The zone's ranges that have frames left.
    fn ranges_of(&self, zone: &Zone) -> impl Iterator<Item = (usize, Range)> {
        let zone = zone.id();
        let ranges = self.ranges[..self.count].iter().copied().enumerate();
        ranges.filter(move |(_, range)| range.zone == zone && !range.is_empty())
    }

    /// Fills what is in a range of a part of memory. `false` where what is left on both sides cannot be noted.
    fn fill<M: Machine>(&mut self, machine: &M, zone: &Zone, slot: usize, start: Pfn, end: Pfn) -> bool {
        let Some(cut) = self.cut(slot, start, end) else { return false };
        let left = fill(machine, zone, cut);
        self.put(&left);
        true
    }

    /// Cuts a range in three. `None` where there is no slot for one more range, should both ends be left.
    fn cut(&mut self, slot: usize, start: Pfn, end: Pfn) -> Option<Cut> {
        let range = self.ranges[slot];
        let (start, end) = (start.max(range.next), end.min(range.end));
        if start > range.next && end < range.end {
            // Made use of by `put`.
            self.vacant_slot()?;
        }
        let lower = Range { end: start, ..range };
        let upper = Range { next: end, ..range };
        Some(Cut { slot, lower, part: Range { next: start, end, ..range }, upper })
    }

    /// Notes what is left of a range that was cut.
    fn put(&mut self, cut: &Cut) {
        let [kept, other] = if cut.lower.is_empty() { [cut.upper, cut.lower] } else { [cut.lower, cut.upper] };
        self.ranges[cut.slot] = kept;
        if !other.is_empty() {
            let slot = self.vacant_slot().expect("it was looked for when the range was cut");
            self.ranges[slot] = other;
        }
    }

    /// Adds a range to those it is beside of, or as one of its own. Gives it back when there is no slot for it.
    fn merge(&mut self, mut range: Range) -> Result<(), Range> {
        for other in &mut self.ranges[..self.count] {
            let beside = other.end == range.next || range.end == other.next;
            if other.zone == range.zone && !other.is_empty() && beside {
                range = Range { next: range.next.min(other.next), end: range.end.max(other.end), ..range };
                other.end = other.next;
            }
        }
        let slot = self.vacant_slot().ok_or(range)?;
        self.ranges[slot] = range;
        Ok(())
    }
}

/// The section a frame is in, by its first frame.
const fn section_start(frame: Pfn) -> u32 {
    frame.0 & !(SECTION_FRAMES - 1)
}

/// A range in three: what is taken of it, and what is left below and above.
struct Cut {
    slot: usize,
    lower: Range,
    part: Range,
    upper: Range,
}

impl Cut {
    const fn frames(&self) -> u32 {
        self.lower.frames() + self.part.frames() + self.upper.frames()
    }

    /// A frame for a table: the last of the range; where all up to its end is taken the first; else the last of what
    /// is taken.
    fn take(&mut self) -> Option<Pfn> {
        let from = if self.upper.is_empty() && !self.lower.is_empty() {
            let frame = self.lower.next;
            self.lower.next = frame.offset(1);
            return Some(frame);
        } else if self.upper.is_empty() {
            &mut self.part
        } else {
            &mut self.upper
        };
        (!from.is_empty()).then(|| {
            from.end = Pfn(from.end.0 - 1);
            from.end
        })
    }

    /// Backs the table entries of frames; whether there was memory for it.
    fn back<M: Machine>(&mut self, machine: &M, first: Pfn, frames: u32) -> bool {
        let mut pages = Frames::of(machine).table_pages(first, frames).into_iter().flatten();
        pages.all(|page| machine.back(page * FRAME_BYTES, &mut || self.take()).is_ok())
    }
}

/// Backs and writes the table entries of a part of a range, then frees its frames; returns what is left of the range.
fn fill<M: Machine>(machine: &M, zone: &Zone, mut cut: Cut) -> Cut {
    let frames = Frames::of(machine);
    let (before, wanted) = (cut.frames(), cut.part);
    let backed = cut.back(machine, wanted.next, wanted.frames());
    let Range { next, end, .. } = core::mem::replace(&mut cut.part, Range { end: wanted.next, ..wanted });
    let taken = before - cut.frames();
    zone.deferred.fetch_sub(taken, Relaxed);
    if !backed {
        // A part too short to hold its own entries, and nothing else was left: all of it went into tables.
        zone.metadata.fetch_add(taken, Relaxed);
        return cut;
    }
    zone.metadata.fetch_add(taken - (end.0 - next.0), Relaxed);
    frames.set_states(next..end, State::new(Kind::Inner, Order::ZERO, zone.id()));
    frames.set_states(end..wanted.end, State::new(Kind::Reserved, Order::ZERO, zone.id()));
    zone.admit(machine, next, end);
    for_each_block(next, end, |block, order| zone.free(machine, block, order));
    cut
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
