//! Making room for a run: giving back, moving pages out of the way, reclaiming. See the head of [`contig`](super).
//!
//! # Theory
//!
//! A *candidate* is a place for the run all of whose frames are free or movable. First its free frames are taken, so that
//! nothing that moves gets into it; then its pages are moved out, a batch at a time, to wherever a movable page may come
//! from: another zone, another node. A frame that was taken or emptied is `Captured`, and its word says for which
//! attempt, so that others who put a run together take it for an obstacle, and a candidate that is given up gives back
//! what is its own and nothing else. A page that cannot be moved ends its candidate; the next begins behind it.
//!
//! The states of a page that moves, and why no free can get lost, are told in [`movable`](crate::movable). Zones' locks
//! are held one at a time, for [`STEPS_A_LOCK`] frames at most. In the child of a fork, frames that another thread had
//! captured are lost.

use core::iter;
use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;

use crate::allocate::{Floor, Placement, Request};
use crate::events::Event;
use crate::frame::{Frames, Kind, Order, Pfn, State};
use crate::free_area::{FreeAreas, seeming_block};
use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::mobility::PAGEBLOCK_ORDER;
use crate::owner::{Ownership, was_freed};
use crate::run::RunDemand;
use crate::service::Service;
use crate::shrinker::{LIGHTEST, ShrinkControl, Shrinker};
use crate::vm::MOST_SCANNED;
use crate::zone::Zone;

use super::find::{Run, part_in};

/// Frames looked at in a critical section.
const STEPS_A_LOCK: u32 = 512;

/// More rounds where there are object pages: pagers take their time.
const MORE_ROUNDS: usize = 16;

/// Clean pages freed between two looks for a run.
const FREED_AT_ONCE: usize = 512;

/// Pages in hand at a time.
const BATCH: usize = 32;

/// Why a candidate could not be emptied.
enum Stuck {
    /// That frame cannot be had.
    At(Pfn),
    /// There is nowhere to move a page to.
    NoRoom,
}

/// A place for a run that is being emptied.
struct Candidate<'s> {
    zone: &'s Zone,
    start: Pfn,
    end: Pfn,
    /// What its captured frames are marked with.
    attempt: u32,
}

impl<M: Machine> Service<M> {
    /// Makes room for a run that was not found, and takes it. May sleep; holds no lock.
    pub(super) fn make_room_for(&self, demand: &RunDemand, request: &Request, floor: Floor) -> Option<Run<'_>> {
        self.events().count(Event::DirectReclaim);
        self.drain_everything();
        let take = || self.find_run(demand, request, floor).or_else(|| self.empty_a_place(demand, request, floor));
        let mut found = take();
        for priority in (0..=LIGHTEST).rev().chain(iter::repeat_n(0, self.rounds_of_laundering(request))) {
            if found.is_some() {
                break;
            }
            let freed = {
                let _scope = self.memalloc_noreclaim();
                self.launder_for(request, priority);
                let nodes = request.placement.nodes;
                self.shrink(request.gfp, nodes, priority, Event::ScannedDirectly, &|| false)
            };
            if freed > 0 {
                self.drain_everything();
                found = take();
            }
        }
        found
    }

    /// Frees clean pages of VM objects until there is a run: for one who may not sleep, and has the time of a thread.
    pub(super) fn free_clean_pages_for(&self, demand: &RunDemand, request: &Request, floor: Floor) -> Option<Run<'_>> {
        // A page used since it was looked at last is passed over once: so there may be nothing to free in two laps.
        let pages = self.candidates(request.placement).map(|node| self.vm_pages(node).all).max().unwrap_or(0);
        let most = 2 * (pages as usize).div_ceil(FREED_AT_ONCE);
        let mut in_vain = 0;
        while in_vain < most {
            let freed = {
                let _scope = self.memalloc_noreclaim();
                let nodes = self.candidates(request.placement).filter(|&node| self.vm_pages(node).all > 0);
                let control = |node| ShrinkControl { gfp: request.gfp, node: Some(node) };
                nodes.filter_map(|node| self.vm().scan(&control(node), FREED_AT_ONCE)).sum::<usize>()
            };
            if freed == 0 {
                in_vain += 1;
                continue;
            }
            in_vain = 0;
            self.drain_local();
            let found = self.find_run(demand, request, floor);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Rounds of [`Self::launder`] in which every object page of the nodes was looked at twice and could be written; none
    /// where there are none, or the request may not do I/O.
    fn rounds_of_laundering(&self, request: &Request) -> usize {
        let nodes = self.candidates(request.placement);
        let most = nodes.map(|node| self.vm_pages(node).all).max().filter(|_| request.gfp.contains(Gfp::IO));
        let laps = most.unwrap_or(0) * 3 / u64::from(MOST_SCANNED);
        if most.unwrap_or(0) > 0 { laps as usize + MORE_ROUNDS } else { 0 }
    }

    /// Has dirty pages of VM objects written, if the request may do I/O. Whoever asks for contiguous memory does not wait in
    /// a queue while the balancing threads do this, so it does it itself.
    fn launder_for(&self, request: &Request, priority: u32) {
        if request.gfp.contains(Gfp::IO) {
            let nodes = self.candidates(request.placement).filter(|&node| self.nodes().get(node).is_some());
            nodes.for_each(|node| _ = self.launder(node, priority));
        }
    }

    /// Has all CPUs give back what they cache, and depots what they keep.
    fn drain_everything(&self) {
        let _scope = self.memalloc_noreclaim();
        self.drain_local();
        self.close_all_caches();
        self.events().count(Event::DrainCall);
        M::drain_others(self);
        self.shrink_depots();
        self.drain_local();
    }

    /// Moves pages out of the first place for a run where that can be done, and takes it.
    fn empty_a_place(&self, demand: &RunDemand, request: &Request, floor: Floor) -> Option<Run<'_>> {
        let run = self.zones_for(request.placement).find_map(|zone| {
            let span = zone.span();
            let demand = part_in(zone, &demand.within(span.start, span.end))?;
            self.events().count(Event::CompactStall);
            let head = self.empty_a_place_in(zone, &demand, request, floor);
            self.events().count(if head.is_some() { Event::CompactSuccess } else { Event::CompactFail });
            head.map(|head| Run { zone, head, unfilled: false })
        })?;
        self.count_run(request.placement, run.zone.id().node());
        Some(run)
    }

    fn empty_a_place_in(&self, zone: &Zone, demand: &RunDemand, request: &Request, floor: Floor) -> Option<Pfn> {
        let mut from = demand.low;
        loop {
            let (start, free) = self.next_candidate(zone, demand, from)?;
            if !request.allows(zone, floor, free) {
                return None;
            }
            let attempt = self.next_run_attempt();
            let candidate = Candidate { zone, start, end: demand.behind(start), attempt };
            match self.empty(&candidate, floor) {
                Ok(()) => {
                    self.release_captured(&candidate, |_, _, _| ());
                    let stolen = zone.locked(self.machine(), |frames, areas| {
                        areas.make_unmovable(frames, candidate.start, candidate.end)
                    });
                    self.events().note_stolen(stolen);
                    return Some(start);
                }
                Err(stuck) => {
                    self.release_captured(&candidate, |frames, areas, frame| areas.give(frames, frame, Order::ZERO));
                    self.frames_freed();
                    let Stuck::At(frame) = stuck else { return None };
                    from = frame.offset(1);
                }
            }
        }
    }

    /// The next place whose frames all seem to be free or movable, and how many of them are free. Takes no lock.
    fn next_candidate(&self, zone: &Zone, demand: &RunDemand, from: Pfn) -> Option<(Pfn, u32)> {
        let frames = Frames::of(self.machine());
        let behind_block = |start| match seeming_block(frames, zone.id(), start) {
            Some((block, order)) => block.offset(order.frames()),
            None => start,
        };
        let mut start = demand.first_start(from)?;
        // Where the first of its frames is, should it be inside a free block.
        let mut next = behind_block(start);
        let mut free = next.0 - start.0;
        while next < demand.behind(start) {
            let state = frames.state(next);
            match state.kind() {
                Kind::Free if state.zone() == zone.id() => {
                    free += state.order().frames();
                    next = next.offset(state.order().frames());
                }
                Kind::Movable if state.zone() == zone.id() => next = next.offset(1),
                _ if self.was_stale(zone, next) => {}
                _ => {
                    let filled = zone.pageblocks().is_filled(next);
                    let behind = if filled { next } else { Pfn(next.0 | (PAGEBLOCK_ORDER.frames() - 1)) };
                    start = demand.first_start(behind.offset(1))?;
                    next = behind_block(start);
                    free = next.0 - start.0;
                }
            }
        }
        Some((start, free.min(demand.frames)))
    }

    /// Captures all of a candidate.
    fn empty(&self, candidate: &Candidate<'_>, floor: Floor) -> Result<(), Stuck> {
        let mut next = candidate.start;
        while next < candidate.end {
            next = candidate.zone.locked(self.machine(), |frames, areas| candidate.capture_free(frames, areas, next));
        }
        let mut next = candidate.start;
        while next < candidate.end {
            let mut batch = Batch::new();
            let _looking = self.look_at_descriptors();
            let (reached, mut result) = candidate
                .zone
                .locked(self.machine(), |frames, areas| candidate.take_in_hand(frames, areas, next, &mut batch));
            self.events().add(Event::CompactMigrateScanned, u64::from(reached.0 - next.0));
            self.events().add(Event::CompactIsolated, batch.len as u64);
            for (from, page) in batch.pages() {
                // All that were taken in hand are seen to, whatever came of the ones before.
                let moved = self.move_out(candidate, from, page, floor, result.is_ok());
                result = result.and(moved);
            }
            result?;
            next = reached;
        }
        Ok(())
    }

    /// Moves a page that is in hand, if that is still wanted; it is captured then, else as it was.
    fn move_out(
        &self,
        candidate: &Candidate<'_>,
        from: Pfn,
        page: Ownership,
        floor: Floor,
        wanted: bool,
    ) -> Result<(), Stuck> {
        let target = if wanted { self.target(candidate.zone, floor) } else { None };
        let frames = Frames::of(self.machine());
        let moved = target.is_some_and(|to| {
            // Nobody knows the frame yet; the owner learns of it next.
            page.give(frames, to, Kind::Moving);
            self.ask_to_move(page, from, to)
        });
        if let Some(to) = target {
            self.zone_of_frame(to).locked(self.machine(), |frames, areas| {
                if moved && !was_freed(frames, to) {
                    frames.set_state(to, frames.state(to).with_kind(Kind::Movable));
                } else {
                    areas.give(frames, to, Order::ZERO);
                }
            });
            self.events().count(if moved { Event::MigrateSuccess } else { Event::MigrateFail });
        }
        let captured = candidate.zone.locked(self.machine(), |frames, _| {
            let captured = moved || was_freed(frames, from);
            if captured {
                candidate.mark(frames, from);
            } else {
                frames.set_state(from, frames.state(from).with_kind(Kind::Movable));
            }
            captured
        });
        match target {
            _ if captured => Ok(()),
            None if wanted => Err(Stuck::NoRoom),
            _ => Err(Stuck::At(from)),
        }
    }

    /// A frame for a page that was in a zone, as any movable page would get it.
    fn target(&self, zone: &Zone, floor: Floor) -> Option<Pfn> {
        let placement = Placement::near(zone.id().node());
        let request = Request { gfp: Gfp::NOWAIT | Gfp::MOVABLE, order: Order::ZERO, placement, cache: None };
        if self.page_fault_injected(request.gfp, request.order) {
            return None;
        }
        self.walk_zonelist(&request, floor).map(|(frame, _)| frame)
    }

    /// Makes every captured frame of a candidate `Inner`, and has `each` see to it.
    fn release_captured(&self, candidate: &Candidate<'_>, mut each: impl FnMut(Frames, &mut FreeAreas, Pfn)) {
        let mut next = candidate.start;
        while next < candidate.end {
            let stop = next.offset(STEPS_A_LOCK).min(candidate.end);
            candidate.zone.locked(self.machine(), |frames, areas| {
                for frame in (next.0..stop.0).map(Pfn) {
                    if candidate.has(frames, frame) {
                        frames.set_state(frame, State::new(Kind::Inner, Order::ZERO, candidate.zone.id()));
                        each(frames, areas, frame);
                    }
                }
            });
            next = stop;
        }
    }
}

impl Candidate<'_> {
    /// Captures the free frames among some; returns the first not looked at.
    fn capture_free(&self, frames: Frames, areas: &mut FreeAreas, from: Pfn) -> Pfn {
        let stop = from.offset(STEPS_A_LOCK).min(self.end);
        let mut next = from;
        while next < stop {
            next = self.capture_block(frames, areas, next..stop).unwrap_or(next.offset(1));
        }
        next
    }

    /// Captures a free frame, and what is free of its block in a range; returns the frame behind.
    fn capture_block(&self, frames: Frames, areas: &mut FreeAreas, range: Range<Pfn>) -> Option<Pfn> {
        let (block, order) = areas.block_of(frames, range.start)?;
        let behind = block.offset(order.frames()).min(range.end);
        areas.take_run(frames, range.start, behind);
        (range.start.0..behind.0).for_each(|frame| self.mark(frames, Pfn(frame)));
        Some(behind)
    }

    /// Takes movable pages in hand, and captures what came free meanwhile; returns the first frame not looked at, and
    /// whether nothing was in the way.
    fn take_in_hand(
        &self,
        frames: Frames,
        areas: &mut FreeAreas,
        from: Pfn,
        batch: &mut Batch,
    ) -> (Pfn, Result<(), Stuck>) {
        let stop = from.offset(STEPS_A_LOCK).min(self.end);
        let mut next = from;
        while next < stop && batch.len < BATCH {
            let state = frames.state(next);
            match state.kind() {
                Kind::Captured if self.has(frames, next) => {}
                Kind::Movable if state.zone() == self.zone.id() => {
                    batch.push(next, Ownership::of(frames, next));
                    frames.set_state(next, state.with_kind(Kind::Moving));
                }
                _ => match self.capture_block(frames, areas, next..stop) {
                    Some(behind) => {
                        next = behind;
                        continue;
                    }
                    None => return (next, Err(Stuck::At(next))),
                },
            }
            next = next.offset(1);
        }
        (next, Ok(()))
    }

    fn mark(&self, frames: Frames, frame: Pfn) {
        frames.frame(frame).word.store(self.attempt, Relaxed);
        frames.set_state(frame, State::new(Kind::Captured, Order::ZERO, self.zone.id()));
    }

    /// Whether a frame was captured for this candidate.
    fn has(&self, frames: Frames, frame: Pfn) -> bool {
        frames.state(frame).kind() == Kind::Captured && frames.frame(frame).word.load(Relaxed) == self.attempt
    }
}

/// Up to [`BATCH`] pages in hand.
struct Batch {
    pages: [Option<(Pfn, Ownership)>; BATCH],
    len: usize,
}

impl Batch {
    const fn new() -> Self {
        Self { pages: [None; BATCH], len: 0 }
    }

    /// Adds a page; there must be room.
    fn push(&mut self, frame: Pfn, page: Ownership) {
        self.pages[self.len] = Some((frame, page));
        self.len += 1;
    }

    fn pages(&self) -> impl Iterator<Item = (Pfn, Ownership)> {
        self.pages.iter().flatten().copied()
    }
}

#[cfg(all(test, feature = "hosted"))]
mod tests {
    use quarry_topology::{NodeId, Topology};

    use super::*;
    use crate::hosted::Hosted;
    use crate::zone::ZoneKind;

    #[test]
    fn what_was_captured_for_one_run_is_an_obstacle_to_another() {
        let topology = Topology::builder().node(64 << 20, 1).build().expect("a machine");
        let service = Hosted::leak(topology).expect("there is address space").service();
        let page = service.alloc_pages(Gfp::KERNEL, Order::MAX).expect("memory is free");
        service.__free_pages(page, Order::MAX);
        let zone = service.nodes().get(NodeId(0)).expect("the node has memory").zone(ZoneKind::Dma32);
        let (start, end) = (page.offset(100), page.offset(900));
        let [one, other] = [1, 2].map(|attempt| Candidate { zone, start, end, attempt });
        let free = zone.free_frames();
        assert!(service.empty(&one, Floor::Min).is_ok());
        assert_eq!(free - zone.free_frames(), 800);
        assert!(matches!(service.empty(&other, Floor::Min), Err(Stuck::At(frame)) if frame == start));
        let mut released = 0;
        service.release_captured(&other, |_, _, _| released += 1);
        assert_eq!(released, 0, "nothing of it is the other's");
        service.release_captured(&one, |frames, areas, frame| areas.give(frames, frame, Order::ZERO));
        assert_eq!(zone.free_frames(), free);
        service.validate().unwrap_or_else(|broken| panic!("{broken}"));
    }
}
