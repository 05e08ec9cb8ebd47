//! Compaction: movable pages are moved together, so that what they leave is whole.
//!
//! Users: the page layer, for a block no zone has; whoever wants large blocks later ([`Service::compact_memory`]).
//!
//! # Theory
//!
//! Two scanners go through a zone, pageblock by pageblock: one from the lowest up, emptying it of movable pages, one
//! from the highest down, filling what is free in movable pageblocks; when they meet, the zone has been gone through.
//! (Linux's `mm/compaction.c`.) What the lower scanner empties is a *chunk*: as many frames as the block asked for has,
//! at most a pageblock. A chunk with anything in it that cannot move is left alone, for it would not become free; so is
//! the rest of a chunk once a page in it could not be moved.
//!
//! The states of a page that moves, and why no free can get lost, are told in [`movable`](crate::movable). Here, frames
//! taken to be filled are `Inner` and on no list until they are paired with a page. Under the zone's lock, a batch at a
//! time: pages become `Moving`; frames are taken; after the owners were asked, without any lock, every frame becomes
//! what it is to be. The lock is held for one look at each frame of a pageblock at most, and a batch.
//!
//! Kernel memory (`Page`, `Placed`, `Slab`), reserved frames, holes and sections not filled yet stay as they are.
//! Several CPUs may compact a zone at once: they get into each other's way, not more.

use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;

use quarry_topology::NodeId;

use crate::events::Event;
use crate::frame::{Frames, Kind, Order, Pfn};
use crate::machine::Machine;
use crate::mobility::{Mobility, PAGEBLOCK_ORDER};
use crate::owner::{Ownership, was_freed};
use crate::service::Service;
use crate::zone::Zone;

/// Pages in hand at a time. Linux's `COMPACT_CLUSTER_MAX`.
const BATCH: usize = 32;

/// Pageblocks that each scanner of [`Service::compact_zone`] looks at in a call: 1 GiB.
const PAGEBLOCKS_A_CALL: u32 = 512;

const PAGEBLOCK: u32 = PAGEBLOCK_ORDER.frames();

/// What came of compacting a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compacted {
    /// A block of the order is free. Linux's `COMPACT_SUCCESS`.
    Success,
    /// None is, and the whole zone has been gone through. Linux's `COMPACT_COMPLETE`.
    Complete,
    /// None is, and only a part of the zone has been gone through; another call goes on with the rest.
    Partial,
    /// There is too little free to make such a block of. Linux's `COMPACT_SKIPPED`.
    Skipped,
}

impl<M: Machine> Service<M> {
    /// Compacts a zone until it has a free block of that order, has been gone through, or a scanner has looked at a
    /// gigabyte of it. The caller may sleep, holds no lock, and has looked at the watermarks.
    pub(crate) fn compact_zone(&self, zone: &Zone, order: Order) -> Compacted {
        if order == Order::ZERO || zone.free_frames() < order.frames() {
            return Compacted::Skipped;
        }
        self.events().count(Event::CompactStall);
        let mut pass = Pass::new(self, zone, Some(order));
        pass.resume();
        let result = pass.run(PAGEBLOCKS_A_CALL);
        pass.suspend();
        self.events().count(if result == Compacted::Success { Event::CompactSuccess } else { Event::CompactFail });
        result
    }

    /// Compacts all memory of a node; nothing for one without memory. May sleep; holds no lock. Returns how many pages
    /// were moved. Linux's `/sys/devices/system/node/node*/compact`.
    pub fn compact_node(&self, node: NodeId) -> u64 {
        // What this CPU keeps on its lists would be in the way.
        self.drain_local();
        let Some(state) = self.nodes().get(node) else { return 0 };
        let moved = state.zones.iter().map(|zone| {
            let mut pass = Pass::new(self, zone, None);
            pass.run(u32::MAX);
            pass.moved
        });
        moved.sum()
    }

    /// Compacts all memory. May sleep; holds no lock. Returns how many pages were moved. Linux's
    /// `/proc/sys/vm/compact_memory`.
    pub fn compact_memory(&self) -> u64 {
        self.nodes().with_memory().map(|(node, _)| self.compact_node(node)).sum()
    }
}

/// A page in hand.
#[derive(Clone, Copy)]
struct Move {
    from: Pfn,
    page: Ownership,
    /// Where it is moved to, and whether it was.
    to: Option<Pfn>,
    done: bool,
}

/// One way through a zone.
struct Pass<'s, M: Machine> {
    service: &'s Service<M>,
    zone: &'s Zone,
    frames: Frames,
    /// The order looked for; none when all of the zone is to be compacted.
    wanted: Option<Order>,
    /// Order of a chunk.
    chunk: Order,
    /// The next pageblock to empty.
    empty: Pfn,
    /// The pageblock being filled, and the first frame of it not looked at yet; behind it when it was looked through.
    fill: Pfn,
    fill_next: Pfn,
    /// Pageblocks that may still be looked at for room, and whether more were wanted.
    fill_budget: u32,
    cut_short: bool,
    /// Whether it began in the middle of the zone.
    resumed: bool,
    /// Frames taken to be filled.
    targets: Batch<Pfn>,
    moved: u64,
}

impl<'s, M: Machine> Pass<'s, M> {
    fn new(service: &'s Service<M>, zone: &'s Zone, wanted: Option<Order>) -> Self {
        let span = zone.span();
        let top = Pfn(span.end.0.next_multiple_of(PAGEBLOCK));
        Self {
            service,
            zone,
            frames: Frames::of(service.machine()),
            wanted,
            chunk: wanted.unwrap_or(PAGEBLOCK_ORDER).min(PAGEBLOCK_ORDER),
            empty: span.start.block(PAGEBLOCK_ORDER),
            fill: top,
            fill_next: top.offset(PAGEBLOCK),
            fill_budget: 0,
            cut_short: false,
            resumed: false,
            targets: Batch::new(),
            moved: 0,
        }
    }

    /// Goes on where the last pass through the zone stopped, if it stopped half-way.
    fn resume(&mut self) {
        let cursors = self.zone.cursors();
        let (empty, fill) = (Pfn(cursors.empty.load(Relaxed)), Pfn(cursors.fill.load(Relaxed)));
        if self.empty <= empty && empty < fill && fill <= self.fill {
            (self.empty, self.fill, self.fill_next) = (empty, fill, fill.offset(PAGEBLOCK));
            self.resumed = true;
        }
    }

    /// Notes where to go on. Relaxed, and two stores: a pass that reads half of them goes through another part of the
    /// zone, no more.
    fn suspend(&self) {
        // The pageblock that was being filled has room still.
        let fill = if self.empty < self.fill { self.fill.offset(PAGEBLOCK) } else { Pfn(0) };
        self.zone.cursors().empty.store(self.empty.0, Relaxed);
        self.zone.cursors().fill.store(fill.0, Relaxed);
    }

    /// Goes on until it has succeeded, the scanners meet, or one of them has looked at that many pageblocks.
    fn run(&mut self, pageblocks: u32) -> Compacted {
        self.fill_budget = pageblocks;
        let mut looked_at = 0;
        let mut succeeded = self.succeeded();
        while self.empty < self.fill && looked_at < pageblocks && !succeeded && !self.cut_short {
            let pageblock = self.empty;
            self.empty = pageblock.offset(PAGEBLOCK);
            looked_at += 1;
            if self.zone.holds(self.frames, pageblock) {
                succeeded = self.empty_pageblock(pageblock);
            }
            if self.cut_short {
                // Its pages were not refused, there was no room for them yet: they are the next call's first.
                self.empty = pageblock;
            }
        }
        self.give_back_targets();
        let succeeded = self.succeeded();
        self.service.frames_freed();
        if succeeded {
            Compacted::Success
        } else if self.resumed || self.empty < self.fill {
            Compacted::Partial
        } else {
            Compacted::Complete
        }
    }

    fn succeeded(&self) -> bool {
        let is_there = |order| self.zone.locked(self.service.machine(), |_, areas| areas.has_block(order));
        self.wanted.is_some_and(is_there)
    }

    /// Empties a pageblock chunk by chunk, until the block is there that is wanted; says whether it is.
    fn empty_pageblock(&mut self, pageblock: Pfn) -> bool {
        for at in (0..PAGEBLOCK).step_by(self.chunk.frames() as usize) {
            let start = pageblock.offset(at);
            let chunk = start..start.offset(self.chunk.frames());
            if self.can_be_emptied(chunk.clone()) {
                self.empty_chunk(chunk);
                if self.succeeded() {
                    return true;
                }
                if self.cut_short {
                    return false;
                }
            }
        }
        false
    }

    /// Whether there seems to be something in a chunk, and all of it can move.
    fn can_be_emptied(&self, chunk: Range<Pfn>) -> bool {
        let id = self.zone.id();
        let mut occupied = false;
        let mut frame = chunk.start;
        while frame < chunk.end {
            let state = self.frames.state(frame);
            match state.kind() {
                Kind::Free if state.zone() == id => frame = frame.offset(state.order().frames()),
                Kind::Movable if state.zone() == id => {
                    occupied = true;
                    frame = frame.offset(1);
                }
                _ => return false,
            }
        }
        occupied
    }

    /// Moves the pages out of a chunk, until one cannot be moved or there is nowhere to move it to.
    fn empty_chunk(&mut self, chunk: Range<Pfn>) {
        let mut next = chunk.start;
        while next < chunk.end {
            let mut moves = Batch::new();
            let _looking = self.service.look_at_descriptors();
            next = self.isolate(next..chunk.end, &mut moves);
            self.find_targets(moves.len());
            for page in moves.iter_mut() {
                page.to = self.targets.pop();
                if let Some(to) = page.to {
                    // Nobody knows the frame yet; the owner learns of it next.
                    page.page.give(self.frames, to, Kind::Moving);
                    page.done = self.service.ask_to_move(page.page, page.from, to);
                }
            }
            if !self.settle(&mut moves) {
                return;
            }
        }
    }

    /// Takes a batch of movable pages in hand; returns the first frame not looked at.
    fn isolate(&self, part: Range<Pfn>, moves: &mut Batch<Move>) -> Pfn {
        let mut frame = part.start;
        self.zone.locked(self.service.machine(), |frames, _| {
            while frame < part.end && !moves.is_full() {
                let state = frames.state(frame);
                let page = Ownership::of(frames, frame);
                if state.kind() == Kind::Movable {
                    frames.set_state(frame, state.with_kind(Kind::Moving));
                    moves.push(Move { from: frame, page, to: None, done: false });
                }
                frame = frame.offset(if state.kind() == Kind::Free { state.order().frames() } else { 1 });
            }
        });
        self.service.events().add(Event::CompactMigrateScanned, u64::from(frame.0 - part.start.0));
        self.service.events().add(Event::CompactIsolated, moves.len() as u64);
        frame
    }

    /// Takes free frames to be filled until there are that many, the scanners meet, or enough was looked at: where
    /// kernel memory fills what is above, all of the zone might be.
    fn find_targets(&mut self, wanted: usize) {
        while self.targets.len() < wanted {
            let end = self.fill.offset(PAGEBLOCK);
            if self.fill_next < end {
                self.take_free(self.fill_next..end, wanted);
                continue;
            }
            if self.fill.0 < self.empty.0 + PAGEBLOCK {
                return;
            }
            if self.fill_budget == 0 {
                self.cut_short = true;
                return;
            }
            self.fill_budget -= 1;
            self.fill = Pfn(self.fill.0 - PAGEBLOCK);
            let pageblocks = self.zone.pageblocks();
            let suitable =
                self.zone.holds(self.frames, self.fill) && pageblocks.mobility(self.fill) == Mobility::Movable;
            self.fill_next = if suitable { self.fill } else { self.fill.offset(PAGEBLOCK) };
        }
    }

    /// Takes free frames of a part of a pageblock, but not from blocks as large as a chunk.
    fn take_free(&mut self, part: Range<Pfn>, wanted: usize) {
        let (zone, chunk, targets) = (self.zone, self.chunk, &mut self.targets);
        let mut frame = part.start;
        zone.locked(self.service.machine(), |frames, areas| {
            while frame < part.end && targets.len() < wanted {
                let state = frames.state(frame);
                let mut passed = 1;
                if state.kind() == Kind::Free && state.zone() == zone.id() {
                    passed = state.order().frames();
                    if state.order() < chunk {
                        passed = areas.take_part(frames, frame, state.order(), (wanted - targets.len()) as u32);
                        (0..passed).for_each(|at| targets.push(frame.offset(at)));
                    }
                }
                frame = frame.offset(passed);
            }
        });
        self.fill_next = frame;
        self.service.events().add(Event::CompactFreeScanned, u64::from(frame.0 - part.start.0));
    }

    /// Every frame of a batch becomes what it is to be after the owners were asked; says whether all pages were moved.
    fn settle(&mut self, batch: &mut Batch<Move>) -> bool {
        let zone = self.zone;
        let targets = &mut self.targets;
        let set_kind = |frames: Frames, frame, kind| frames.set_state(frame, frames.state(frame).with_kind(kind));
        zone.locked(self.service.machine(), |frames, areas| {
            for page in batch.iter_mut() {
                let (now_in, left) = match page.to {
                    Some(to) if page.done => (to, Some(page.from)),
                    to => (page.from, to),
                };
                if was_freed(frames, now_in) {
                    areas.give(frames, now_in, Order::ZERO);
                } else {
                    set_kind(frames, now_in, Kind::Movable);
                }
                let Some(left) = left else { continue };
                if page.done {
                    areas.give(frames, left, Order::ZERO);
                } else {
                    set_kind(frames, left, Kind::Inner);
                    targets.push(left);
                }
            }
        });
        let moved = batch.iter_mut().filter(|page| page.done).count();
        let refused = batch.iter_mut().filter(|page| page.to.is_some() && !page.done).count();
        self.moved += moved as u64;
        self.service.events().add(Event::MigrateSuccess, moved as u64);
        self.service.events().add(Event::MigrateFail, refused as u64);
        moved == batch.len()
    }

    fn give_back_targets(&mut self) {
        self.zone.locked(self.service.machine(), |frames, areas| {
            while let Some(frame) = self.targets.pop() {
                areas.give(frames, frame, Order::ZERO);
            }
        });
    }
}

/// Up to [`BATCH`] of something.
struct Batch<T> {
    items: [Option<T>; BATCH],
    len: usize,
}

impl<T: Copy> Batch<T> {
    const fn new() -> Self {
        Self { items: [None; BATCH], len: 0 }
    }

    fn len(&self) -> usize {
        self.len
    }

    fn is_full(&self) -> bool {
        self.len == BATCH
    }

    /// Adds an item; there must be room.
    fn push(&mut self, item: T) {
        self.items[self.len] = Some(item);
        self.len += 1;
    }

    fn pop(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        self.items[self.len].take()
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.items.iter_mut().flatten()
    }
}

#[cfg(all(test, feature = "hosted"))]
mod tests {
    use std::vec::Vec;

    use quarry_topology::Topology;

    use super::*;
    use crate::gfp::Gfp;
    use crate::hosted::{Hosted, HostedMachine};
    use crate::movable_pages::MovablePage;
    use crate::zone::ZoneKind;

    const MIB: u64 = 1 << 20;

    fn order(order: u32) -> Order {
        Order::new(order).expect("the tests use orders that exist")
    }

    /// A machine whose memory was filled with movable pages, of which every other one is left.
    fn aged(memory: u64) -> (&'static Service<HostedMachine>, &'static Zone, Vec<MovablePage<HostedMachine>>) {
        let topology = Topology::builder().node(memory, 1).build().expect("a machine");
        let service = Hosted::leak(topology).expect("there is address space").service();
        let set = service.movable_pages((memory / 4096) as u32).expect("memory is free");
        let all: Vec<_> = core::iter::from_fn(|| set.alloc(Gfp::NOWAIT | Gfp::NOWARN)).collect();
        let held = all.into_iter().step_by(2).collect();
        let zone = service.nodes().get(NodeId(0)).expect("the node has memory").zone(ZoneKind::Dma32);
        (service, zone, held)
    }

    #[test]
    fn a_zone_is_compacted_until_the_block_is_there_and_no_further() {
        // (Smaller ones the reserve below the watermark may hold.)
        for wanted in [8, 9, 10].map(order) {
            let (service, zone, held) = aged(128 * MIB);
            assert_eq!(zone.free_blocks(service.machine())[wanted.index()..].iter().sum::<u32>(), 0);
            assert_eq!(service.compact_zone(zone, wanted), Compacted::Success, "{wanted}");
            assert!(zone.free_blocks(service.machine())[wanted.index()..].iter().sum::<u32>() > 0);
            let moved = service.event_count(Event::MigrateSuccess);
            assert!(moved <= u64::from(wanted.frames()), "{moved} pages for a block of {wanted}");
            assert_eq!(service.event_count(Event::CompactSuccess), 1);
            drop(held);
            service.validate().unwrap_or_else(|broken| panic!("{broken}"));
        }
    }

    #[test]
    fn what_cannot_succeed_is_not_tried_or_ends() {
        let (service, zone, held) = aged(64 * MIB);
        assert_eq!(service.compact_zone(zone, Order::ZERO), Compacted::Skipped);
        let pins: Vec<_> = held.iter().map(MovablePage::pin).collect();
        assert_eq!(service.compact_zone(zone, order(9)), Compacted::Complete);
        assert_eq!(service.event_count(Event::CompactFail), 1);
        drop(pins);
        let rest = core::iter::from_fn(|| service.alloc_pages(Gfp::ATOMIC | Gfp::NOWARN, Order::ZERO));
        let rest: Vec<_> = rest.collect();
        assert!(zone.free_frames() < order(9).frames(), "{}", zone.free_frames());
        assert_eq!(service.compact_zone(zone, order(9)), Compacted::Skipped);
        for page in rest {
            service.__free_pages(page, Order::ZERO);
        }
    }

    #[test]
    fn a_zone_without_anything_to_move_is_gone_through_without_its_lock() {
        let topology = Topology::builder().node(128 * MIB, 1).build().expect("a machine");
        let service = Hosted::leak(topology).expect("there is address space").service();
        let zone = service.nodes().get(NodeId(0)).expect("the node has memory").zone(ZoneKind::Dma32);
        let pages = || service.alloc_pages(Gfp::NOWAIT | Gfp::NOWARN, Order::ZERO);
        let (held, gone): (Vec<_>, Vec<_>) = core::iter::from_fn(pages).enumerate().partition(|(at, _)| at % 2 == 0);
        for (_, page) in gone {
            service.__free_pages(page, Order::ZERO);
        }
        service.drain_local();
        let before = zone.raw().times_taken();
        assert_eq!(service.compact_zone(zone, order(8)), Compacted::Complete);
        let drawn = zone.raw().times_taken() - before;
        assert!(drawn <= 4, "it was locked {drawn} times");
        for (_, page) in held {
            service.__free_pages(page, Order::ZERO);
        }
    }

    #[test]
    fn a_call_looks_for_room_in_a_bounded_part_and_the_next_goes_on_there() {
        let topology = Topology::builder().node(128 * MIB, 1).build().expect("a machine");
        let service = Hosted::leak(topology).expect("there is address space").service();
        let zone = service.nodes().get(NodeId(0)).expect("the node has memory").zone(ZoneKind::Dma32);
        // Kernel memory above, where there is no room for movable pages.
        let kernel: Vec<_> = (0..80 * MIB / 4096)
            .map(|_| service.alloc_pages(Gfp::KERNEL, Order::ZERO).expect("memory is free"))
            .collect();
        let set = service.movable_pages((128 * MIB / 4096) as u32).expect("memory is free");
        let all: Vec<_> = core::iter::from_fn(|| set.alloc(Gfp::NOWAIT | Gfp::NOWARN)).collect();
        let held: Vec<_> = all.into_iter().step_by(2).collect();
        let mut fills = Vec::new();
        let result = loop {
            let mut pass = Pass::new(service, zone, Some(order(10)));
            pass.resume();
            let (empty, fill) = (pass.empty, pass.fill);
            let result = pass.run(4);
            assert!(pass.fill.0 + 4 * PAGEBLOCK >= fill.0, "from {fill} to {}", pass.fill);
            assert!(!pass.cut_short || pass.empty.0 < empty.0 + 4 * PAGEBLOCK, "from {empty} to {}", pass.empty);
            pass.suspend();
            fills.push((pass.fill, pass.cut_short));
            if result != Compacted::Partial || fills.len() == 64 {
                break result;
            }
        };
        assert_eq!(result, Compacted::Success, "{fills:?}");
        assert!(fills.iter().filter(|(_, cut_short)| *cut_short).count() > 4, "{fills:?}");
        drop(held);
        for page in kernel {
            service.__free_pages(page, Order::ZERO);
        }
        service.validate().unwrap_or_else(|broken| panic!("{broken}"));
    }

    #[test]
    fn a_call_looks_at_a_bounded_part_and_the_next_goes_on_there() {
        let (service, zone, held) = aged(128 * MIB);
        let pins: Vec<_> = held.iter().map(MovablePage::pin).collect();
        let mut starts = Vec::new();
        let mut results = Vec::new();
        for _ in 0..20 {
            let mut pass = Pass::new(service, zone, Some(order(9)));
            pass.resume();
            starts.push(pass.empty);
            results.push(pass.run(4));
            pass.suspend();
        }
        assert!(starts.windows(2).filter(|pair| pair[0] < pair[1]).count() > 10, "{starts:?}");
        let first = starts[0];
        assert!(starts.iter().filter(|&&start| start == first).count() > 1, "it starts anew: {starts:?}");
        assert!(results.iter().all(|&result| result == Compacted::Partial), "{results:?}");
        drop(pins);
        assert_eq!(service.compact_zone(zone, order(9)), Compacted::Success);
    }
}
