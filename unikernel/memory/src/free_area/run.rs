//! Runs of free frames that are no block: how they are found, and taken out of the free areas.
//!
//! A run of free frames is a row of free blocks side by side. Since buddies are always merged, a run of n frames holds
//! (or lies in) a free block of at least (n + 1) / 4 frames; so a short run is found through the lists of such blocks,
//! by a look at the neighbours of each. Where these lists are long, memory is gone through by address instead, from
//! one obstacle to the next possible start behind it: a look at each free block and at each occupied frame.

use core::sync::atomic::Ordering::Relaxed;

use super::{FreeAreas, Stolen};
use crate::frame::{Frames, Kind, NIL, Order, Pfn, ZoneId, for_each_block};
use crate::mobility::{Mobility, PAGEBLOCK_ORDER};
use crate::run::RunDemand;

/// Blocks looked at on each list.
const LISTED_LOOKS: u32 = 64;

/// What a search came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Search {
    /// The run that begins there is free.
    Found(Pfn),
    /// There is none.
    None,
    /// None begins below that frame; beyond it nothing is known.
    Undecided(Pfn),
}

impl FreeAreas {
    /// Looks for a run among the blocks that are first on their lists, small ones and unmovable ones first.
    pub(crate) fn find_listed_run(&self, frames: Frames, demand: &RunDemand) -> Search {
        let mut result = Search::None;
        let least = (demand.frames / 2 + demand.frames % 2).ilog2().min(Order::MAX.get());
        for order in Order::all().filter(|order| order.get() >= least) {
            for mobility in [Mobility::Unmovable, Mobility::Reclaimable, Mobility::Movable] {
                let mut looks = 0;
                let mut next = self.areas[mobility as usize].lists[order.index()].first();
                while let Some(block) = next {
                    if looks == LISTED_LOOKS {
                        result = Search::Undecided(demand.low);
                        break;
                    }
                    looks += 1;
                    let start = demand.first_start(self.free_from(frames, block, demand.frames));
                    if let Some(start) = start
                        && start < block.offset(order.frames())
                        && self.first_obstacle(frames, start, demand.behind(start)).is_none()
                    {
                        return Search::Found(start);
                    }
                    let link = frames.frame(block).next.load(Relaxed);
                    next = (link != NIL).then_some(Pfn(link));
                }
            }
        }
        result
    }

    /// Looks for a run by address from a frame on, at as many possible starts.
    pub(crate) fn find_run_from(&self, frames: Frames, demand: &RunDemand, from: Pfn, starts: u32) -> Search {
        let mut from = from;
        for _ in 0..starts {
            let Some(start) = demand.first_start(from) else { return Search::None };
            match self.first_obstacle(frames, start, demand.behind(start)) {
                None => return Search::Found(start),
                Some(obstacle) => from = obstacle.offset(1),
            }
        }
        Search::Undecided(from)
    }

    /// Takes a run of frames all of which are free; they are `Inner` then.
    pub(crate) fn take_run(&mut self, frames: Frames, start: Pfn, end: Pfn) {
        let mut next = start;
        while next < end {
            let (block, order) = self.block_of(frames, next).expect("the frames of the run are free");
            let behind = block.offset(order.frames());
            self.remove(frames, block, order);
            self.free_frames -= order.frames();
            self.put_back(frames, block, start);
            self.put_back(frames, end, behind);
            next = behind;
        }
    }

    /// Makes the pageblocks of a run that was taken unmovable, as far as they are its own or little else is in them.
    pub(crate) fn make_unmovable(&mut self, frames: Frames, start: Pfn, end: Pfn) -> Stolen {
        let mut stolen = Stolen::default();
        let mut pageblock = start.block(PAGEBLOCK_ORDER);
        while pageblock < end {
            let behind = pageblock.offset(PAGEBLOCK_ORDER.frames());
            if self.pageblocks.mobility(pageblock) == Mobility::Unmovable {
                // It is already.
            } else if start <= pageblock && behind <= end {
                self.pageblocks.set_mobility(pageblock, Mobility::Unmovable);
                stolen.pageblocks += 1;
            } else if self.claim(frames, pageblock, Mobility::Unmovable) {
                stolen.pageblocks += 1;
            } else {
                stolen.mixed += 1;
            }
            pageblock = behind;
        }
        stolen
    }

    /// The free block that a frame is in.
    pub(crate) fn block_of(&self, frames: Frames, frame: Pfn) -> Option<(Pfn, Order)> {
        seeming_block(frames, self.zone, frame)
    }

    /// The first frame of a range that is not free.
    fn first_obstacle(&self, frames: Frames, start: Pfn, end: Pfn) -> Option<Pfn> {
        let mut next = start;
        while next < end {
            let Some((block, order)) = self.block_of(frames, next) else { return Some(next) };
            next = block.offset(order.frames());
        }
        None
    }

    /// The lowest frame from which on all is free up to a free block, and not much further down than a run that needs
    /// some of the block.
    pub(crate) fn free_from(&self, frames: Frames, block: Pfn, run: u32) -> Pfn {
        let mut first = block;
        while block.0 - first.0 < run && first.0 > 0 {
            let Some((before, _)) = self.block_of(frames, Pfn(first.0 - 1)) else { break };
            first = before;
        }
        first
    }

    /// Gives back what of a block is not in the run: nothing can merge with it.
    fn put_back(&mut self, frames: Frames, from: Pfn, to: Pfn) {
        for_each_block(from, to, |block, order| {
            self.free_frames += order.frames();
            self.insert(frames, block, order);
        });
    }
}

/// The free block of a zone that a frame is in, by its state: without the zone's lock, a hint.
pub(crate) fn seeming_block(frames: Frames, zone: ZoneId, frame: Pfn) -> Option<(Pfn, Order)> {
    Order::all().find_map(|order| {
        let head = frame.block(order);
        let state = frames.state(head);
        let is_free = state.kind() == Kind::Free && state.zone() == zone;
        (is_free && head.offset(state.order().frames()) > frame).then_some((head, state.order()))
    })
}
