//! [`Zone`]: the free memory of one kind on one node, as a binary buddy allocator with watermarks.
//!
//! Used by the page layer alone. A zone knows its frames' metadata and nothing of CPUs, caches or policy.
//!
//! # Theory
//!
//! Free memory is a set of naturally aligned blocks of 2^order frames, each on the list of its order; a block's *buddy*
//! is the other half of the block twice its size. Invariants, all guarded by the zone's lock:
//!
//! - a frame is the head of a block on `lists[k]` exactly when its state is `Free` of order k;
//! - two buddies of the same order below the largest are never both on a list (they would have been merged);
//! - `free_frames` is the sum over all blocks; bit k of `occupied` says that `lists[k]` is not empty.
//!
//! The lock is held for at most [`Order::COUNT`] steps an operation. Lock order: depot, growth, zone; a zone's holder
//! takes no other lock. `free_hint` repeats `free_frames` for readers without the lock (watermark checks, statistics):
//! relaxed, exact whenever no CPU is inside the zone.

use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use quarry_topology::NodeId;

use crate::frame::{FrameList, Frames, Kind, Order, Pfn, State, ZoneId};
use crate::lock::Lock;
use crate::machine::Machine;

/// Which addresses a zone holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ZoneKind {
    /// Below 16 MiB: reachable by ISA DMA.
    Dma = 0,
    /// Below 4 GiB: reachable by 32-bit DMA.
    Dma32 = 1,
    /// Everything above.
    Normal = 2,
}

impl ZoneKind {
    /// How many kinds there are.
    pub const COUNT: usize = 3;

    /// All kinds, lowest addresses first.
    pub const ALL: [Self; Self::COUNT] = [Self::Dma, Self::Dma32, Self::Normal];

    /// First frame beyond the zone.
    pub const fn end(self) -> Pfn {
        match self {
            Self::Dma => Pfn::containing(16 << 20),
            Self::Dma32 => Pfn::containing(4 << 30),
            Self::Normal => Pfn(u32::MAX),
        }
    }

    /// The kind a frame belongs to.
    pub const fn of(frame: Pfn) -> Self {
        if frame.0 < Self::Dma.end().0 {
            Self::Dma
        } else if frame.0 < Self::Dma32.end().0 {
            Self::Dma32
        } else {
            Self::Normal
        }
    }
}

impl fmt::Display for ZoneKind {
    /// As `/proc/zoneinfo` writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Dma => "DMA",
            Self::Dma32 => "DMA32",
            Self::Normal => "Normal",
        })
    }
}

impl ZoneId {
    /// The zone of that kind on that node.
    pub const fn new(node: NodeId, kind: ZoneKind) -> Self {
        Self(node.0 * ZoneKind::COUNT as u8 + kind as u8)
    }

    /// Its node.
    pub const fn node(self) -> NodeId {
        NodeId(self.0 / ZoneKind::COUNT as u8)
    }

    /// Its kind.
    pub const fn kind(self) -> ZoneKind {
        ZoneKind::ALL[self.0 as usize % ZoneKind::COUNT]
    }
}

/// How far a zone may be emptied, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermarks {
    /// Below it only emergency allocations succeed.
    pub min: u32,
    /// Below it memory is being reclaimed.
    pub low: u32,
    /// Up to it memory is reclaimed.
    pub high: u32,
}

/// Free memory of one kind on one node.
pub(crate) struct Zone {
    id: ZoneId,
    free: Lock<FreeAreas>,
    free_hint: AtomicU32,
    /// Frames of the zone whose section has not been filled yet; written under the growth lock.
    pub(crate) deferred: AtomicU32,
    /// Frames the service manages here, deferred ones included; written at start.
    pub(crate) managed: AtomicU32,
    /// Frames of RAM here, whoever uses them; written at start.
    pub(crate) present: AtomicU32,
    /// The first frame of RAM here, and the one behind the last; written at start.
    pub(crate) start: AtomicU32,
    pub(crate) end: AtomicU32,
    /// Frames of metadata taken here; written under the growth lock.
    pub(crate) metadata: AtomicU32,
    watermarks: [AtomicU32; 3],
}

struct FreeAreas {
    lists: [FrameList; Order::COUNT],
    counts: [u32; Order::COUNT],
    occupied: u32,
    free_frames: u32,
}

impl Zone {
    pub(crate) const fn new(id: ZoneId) -> Self {
        Self {
            id,
            free: Lock::new(FreeAreas {
                lists: [const { FrameList::new() }; Order::COUNT],
                counts: [0; Order::COUNT],
                occupied: 0,
                free_frames: 0,
            }),
            free_hint: AtomicU32::new(0),
            deferred: AtomicU32::new(0),
            managed: AtomicU32::new(0),
            present: AtomicU32::new(0),
            start: AtomicU32::new(u32::MAX),
            end: AtomicU32::new(0),
            metadata: AtomicU32::new(0),
            watermarks: [const { AtomicU32::new(0) }; 3],
        }
    }

    pub(crate) fn id(&self) -> ZoneId {
        self.id
    }

    /// Frames in the buddy's lists; exact when no CPU is inside the zone.
    #[inline]
    pub(crate) fn free_frames(&self) -> u32 {
        self.free_hint.load(Relaxed)
    }

    /// Frames still to be had here: free ones and those of sections not filled yet.
    #[inline]
    pub(crate) fn available_frames(&self) -> u32 {
        self.free_frames() + self.deferred.load(Relaxed)
    }

    /// Free blocks of each order.
    pub(crate) fn free_blocks<M: Machine>(&self, machine: &M) -> [u32; Order::COUNT] {
        self.free.lock(machine).counts
    }

    pub(crate) fn watermarks(&self) -> Watermarks {
        let [min, low, high] = &self.watermarks;
        Watermarks { min: min.load(Relaxed), low: low.load(Relaxed), high: high.load(Relaxed) }
    }

    pub(crate) fn set_watermarks(&self, watermarks: Watermarks) {
        for (cell, value) in self.watermarks.iter().zip([watermarks.min, watermarks.low, watermarks.high]) {
            cell.store(value, Relaxed);
        }
    }

    #[inline]
    pub(crate) fn min_watermark(&self) -> u32 {
        self.watermarks[0].load(Relaxed)
    }

    /// Takes up to `wanted` blocks, handing each to `take` in state `Inner`; returns how many there were. One lock
    /// acquisition for all of them.
    pub(crate) fn allocate<M: Machine>(
        &self,
        machine: &M,
        order: Order,
        wanted: usize,
        mut take: impl FnMut(Pfn),
    ) -> usize {
        let frames = Frames::of(machine);
        let mut areas = self.free.lock(machine);
        let mut taken = 0;
        while taken < wanted {
            let Some(block) = areas.take(frames, order, self.id) else { break };
            take(block);
            taken += 1;
        }
        self.free_hint.store(areas.free_frames, Relaxed);
        taken
    }

    /// Gives blocks of one order back, merging each with its free buddies. One lock acquisition for all of them.
    pub(crate) fn free<M: Machine>(&self, machine: &M, order: Order, blocks: impl Iterator<Item = Pfn>) {
        let frames = Frames::of(machine);
        let mut areas = self.free.lock(machine);
        for block in blocks {
            areas.give(frames, block, order, self.id);
        }
        self.free_hint.store(areas.free_frames, Relaxed);
    }

    /// Checks the invariants of the module head on every block; the error names the first that is broken.
    pub(crate) fn validate<M: Machine>(&self, machine: &M) -> Result<(), Broken> {
        let frames = Frames::of(machine);
        let areas = self.free.lock(machine);
        let mut total = 0;
        for order in Order::all() {
            let mut count = 0;
            let mut next = areas.lists[order.index()].first();
            while let Some(block) = next {
                let broken = |what| Err(Broken { zone: self.id, block, order, what });
                if frames.state(block) != State::new(Kind::Free, order, self.id) {
                    return broken("a listed block's state does not say that it is free");
                }
                if block.block(order) != block {
                    return broken("a block is not aligned");
                }
                if order < Order::MAX && frames.state(buddy(block, order)) == frames.state(block) {
                    return broken("two free buddies were not merged");
                }
                count += 1;
                let link = frames.frame(block).next.load(Relaxed);
                next = (link != crate::frame::NIL).then_some(Pfn(link));
            }
            let broken = |what| Err(Broken { zone: self.id, block: Pfn(0), order, what });
            if count != areas.counts[order.index()] {
                return broken("the count of blocks is not what the list holds");
            }
            if (areas.occupied >> order.get() & 1 == 1) != (count > 0) {
                return broken("the bit map of lists does not say which are empty");
            }
            total += count * order.frames();
        }
        if total != areas.free_frames || total != self.free_hint.load(Relaxed) {
            return Err(Broken {
                zone: self.id,
                block: Pfn(0),
                order: Order::ZERO,
                what: "the blocks do not add up to the free frames",
            });
        }
        Ok(())
    }

    #[cfg(feature = "hosted")]
    pub(crate) fn tickets(&self) -> &crate::tickets::Tickets {
        self.free.tickets()
    }
}

/// A broken invariant of a zone, found by a validation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Where.
    pub zone: ZoneId,
    /// Which block.
    pub block: Pfn,
    /// Of which order.
    pub order: Order,
    /// What is wrong.
    pub what: &'static str,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { zone, block, order, what } = self;
        write!(f, "{} zone {}: {what} ({block}, {order})", zone.node(), zone.kind())
    }
}

fn buddy(block: Pfn, order: Order) -> Pfn {
    Pfn(block.0 ^ order.frames())
}

impl FreeAreas {
    fn take(&mut self, frames: Frames, order: Order, zone: ZoneId) -> Option<Pfn> {
        let large_enough = self.occupied >> order.get();
        if large_enough == 0 {
            return None;
        }
        let found = order.get() + large_enough.trailing_zeros();
        let block = self.lists[found as usize].pop(frames).expect("the bit map says that the list has a block");
        self.note_removed(found);
        frames.set_state(block, State::new(Kind::Inner, Order::ZERO, zone));
        self.free_frames -= order.frames();
        // The upper halves go back, largest first.
        for smaller in (order.get()..found).rev() {
            let half = Order::new(smaller).expect("smaller than an order that exists");
            self.insert(frames, block.offset(half.frames()), half, zone);
        }
        Some(block)
    }

    fn give(&mut self, frames: Frames, mut block: Pfn, mut order: Order, zone: ZoneId) {
        self.free_frames += order.frames();
        while order < Order::MAX {
            let neighbour = buddy(block, order);
            if frames.state(neighbour) != State::new(Kind::Free, order, zone) {
                break;
            }
            self.lists[order.index()].remove(frames, neighbour);
            self.note_removed(order.get());
            frames.set_state(neighbour, State::new(Kind::Inner, Order::ZERO, zone));
            frames.set_state(block, State::new(Kind::Inner, Order::ZERO, zone));
            block = Pfn(block.0 & neighbour.0);
            order = Order::new(order.get() + 1).expect("below the largest order");
        }
        self.insert(frames, block, order, zone);
    }

    fn insert(&mut self, frames: Frames, block: Pfn, order: Order, zone: ZoneId) {
        frames.set_state(block, State::new(Kind::Free, order, zone));
        self.lists[order.index()].push(frames, block);
        self.counts[order.index()] += 1;
        self.occupied |= 1 << order.get();
    }

    fn note_removed(&mut self, order: u32) {
        let count = &mut self.counts[order as usize];
        *count -= 1;
        if *count == 0 {
            self.occupied &= !(1 << order);
        }
    }
}
