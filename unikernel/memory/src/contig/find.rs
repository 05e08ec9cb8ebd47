//! Where a run that is free now is found, zone by zone, and how it is taken. See the head of [`contig`](super).

use quarry_topology::NodeId;

use crate::allocate::{Floor, Placement, Request, rounds};
use crate::frame::{Frames, Kind, Pfn};
use crate::free_area::{FreeAreas, Search, Stolen};
use crate::growth::SECTION_FRAMES;
use crate::machine::Machine;
use crate::mobility::PAGEBLOCK_ORDER;
use crate::run::RunDemand;
use crate::service::Service;
use crate::zone::Zone;

use core::sync::atomic::Ordering::Relaxed;

const PAGEBLOCK: u32 = PAGEBLOCK_ORDER.frames();

/// A run of so many frames has a whole pageblock in it, wherever it begins.
const LONG: u32 = 2 * PAGEBLOCK - 1;

/// Starts tried in a critical section, where memory is gone through by address.
const STARTS_A_LOCK: u32 = 256;

/// A run that was found and taken. Its frames are nobody else's.
pub(super) struct Run<'s> {
    pub(super) zone: &'s Zone,
    pub(super) head: Pfn,
    /// Whether it was cut out of sections not filled.
    pub(super) unfilled: bool,
}

impl<M: Machine> Service<M> {
    /// Takes a run from the first zone that may and can give it.
    pub(super) fn find_run(&self, demand: &RunDemand, request: &Request, floor: Floor) -> Option<Run<'_>> {
        let placement = request.placement;
        let run = self.zones_for(placement).find_map(|zone| {
            let demand = part_in(zone, demand)?;
            if !request.allows(zone, floor, demand.frames) {
                return None;
            }
            let head = self.take_free_run(zone, &demand).map(|head| Run { zone, head, unfilled: false });
            head.or_else(|| self.take_deferred_run(zone, &demand))
        })?;
        self.count_run(placement, run.zone.id().node());
        Some(run)
    }

    pub(super) fn count_run(&self, placement: Placement, from: NodeId) {
        // SAFETY: `Machine::set` is valid and this context's alone until it returns to its scheduler.
        self.count_numa(unsafe { &*self.machine().set() }, placement, from, 1);
    }

    /// The zones that a request may come from, in the order in which they are asked.
    pub(super) fn zones_for(&self, placement: Placement) -> impl Iterator<Item = &Zone> {
        rounds(placement.highest).iter().flat_map(move |kinds| {
            let nodes = self.candidates(placement).filter_map(|node| self.nodes().get(node));
            nodes.flat_map(|node| kinds.iter().map(|&kind| node.zone(kind)))
        })
    }

    /// Takes a run out of a zone's free areas.
    fn take_free_run(&self, zone: &Zone, demand: &RunDemand) -> Option<Pfn> {
        let span = zone.span();
        let demand = demand.within(span.start, span.end);
        let mut from = demand.first_start(Pfn(0))?;
        let is_long = demand.frames >= LONG;
        if !is_long {
            match self.take_found(zone, &demand, |frames, areas| areas.find_listed_run(frames, &demand)) {
                Search::Found(start) => return Some(start),
                Search::None => return None,
                Search::Undecided(_) => {}
            }
        }
        let pageblocks = zone.pageblocks();
        while from < demand.end {
            let result = if is_long {
                let whole = pageblocks.find_whole(from..demand.end, (demand.frames + 1) / PAGEBLOCK - 1)?;
                self.take_found(zone, &demand, |frames, areas| {
                    let from = from.max(areas.free_from(frames, whole, PAGEBLOCK));
                    areas.find_run_from(frames, &demand, from, 1)
                })
            } else if pageblocks.is_filled(from) {
                self.take_found(zone, &demand, |frames, areas| {
                    areas.find_run_from(frames, &demand, from, STARTS_A_LOCK)
                })
            } else {
                from = from.block(PAGEBLOCK_ORDER).offset(PAGEBLOCK);
                continue;
            };
            match result {
                Search::Found(start) => return Some(start),
                Search::None => return None,
                Search::Undecided(next) => {
                    if !self.was_stale(zone, Pfn(next.0 - 1)) {
                        from = next;
                    }
                }
            }
        }
        None
    }

    /// Looks for a run and takes it, with the zone's lock held throughout.
    fn take_found(&self, zone: &Zone, demand: &RunDemand, search: impl FnOnce(Frames, &FreeAreas) -> Search) -> Search {
        let (result, stolen) = zone.locked(self.machine(), |frames, areas| {
            let result = search(frames, areas);
            let mut stolen = Stolen::default();
            if let Search::Found(start) = result {
                areas.take_run(frames, start, demand.behind(start));
                stolen = areas.make_unmovable(frames, start, demand.behind(start));
            }
            (result, stolen)
        });
        self.events().note_stolen(stolen);
        result
    }

    /// Whether this CPU did not know yet that a frame was filled; it does from now on.
    pub(super) fn was_stale(&self, zone: &Zone, frame: Pfn) -> bool {
        Frames::of(self.machine()).state(frame).kind() == Kind::Absent
            && zone.pageblocks().is_filled(frame)
            && self.manages(frame)
    }

    /// Takes a run out of what is not filled yet.
    fn take_deferred_run<'s>(&self, zone: &'s Zone, demand: &RunDemand) -> Option<Run<'s>> {
        while zone.deferred.load(Relaxed) > 0 {
            let mut growth = self.growth().lock(self.machine());
            if demand.frames >= SECTION_FRAMES
                && let Some(head) = growth.take_run(self.machine(), zone, demand)
            {
                return Some(Run { zone, head, unfilled: true });
            }
            let filled = growth.fill_for(self.machine(), zone, demand);
            let filled = filled || growth.fill_ends(self.machine(), zone, demand);
            drop(growth);
            if !filled {
                break;
            }
            if let Some(head) = self.take_free_run(zone, demand) {
                return Some(Run { zone, head, unfilled: false });
            }
        }
        None
    }
}

/// What is demanded, of a zone; `None` where that cannot be.
pub(super) fn part_in(zone: &Zone, demand: &RunDemand) -> Option<RunDemand> {
    let part = demand.within(Pfn(zone.start.load(Relaxed)), Pfn(zone.end.load(Relaxed)));
    part.first_start(Pfn(0)).map(|_| part)
}
