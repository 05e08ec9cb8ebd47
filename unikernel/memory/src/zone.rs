//! [`Zone`]: the free memory of one kind on one node, with its watermarks.
//!
//! Used by the page layer alone. A zone knows its frames' metadata and nothing of CPUs, caches or policy.
//!
//! # Theory
//!
//! What is free, and how it is kept, is [`FreeAreas`]'; the zone puts a lock around it. Lock order: depot, growth,
//! stock of zeroed pages, zone; a zone's holder takes no other lock. `free_hint` repeats the number of free frames for readers without the lock
//! (watermark checks, statistics): relaxed, exact whenever no CPU is inside the zone. `span` widens under the lock.

use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use quarry_topology::NodeId;

use crate::frame::{Frames, Kind, Order, Pfn, ZoneId};
use crate::free_area::{Demand, FreeAreas, Stolen};
use crate::lock::Lock;
use crate::machine::Machine;
use crate::mobility::{Mobility, PAGEBLOCK_ORDER, Pageblocks};

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
    pageblocks: Pageblocks,
    /// The lowest filled frame and the one behind the highest, other zones' in between included.
    span: [AtomicU32; 2],
    cursors: Cursors,
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
    /// Frames spared from requests that could use a higher zone, by the highest they could use.
    lowmem_reserve: [AtomicU32; ZoneKind::COUNT],
}

/// Where compaction goes on; its own.
pub(crate) struct Cursors {
    /// The next pageblock to empty.
    pub(crate) empty: AtomicU32,
    /// The pageblock above the next one to fill; 0 to start anew.
    pub(crate) fill: AtomicU32,
}

impl Cursors {
    const fn new() -> Self {
        Self { empty: AtomicU32::new(0), fill: AtomicU32::new(0) }
    }
}

impl Zone {
    pub(crate) const fn new(id: ZoneId, pageblocks: Pageblocks) -> Self {
        Self {
            id,
            free: Lock::new(FreeAreas::new(id, pageblocks)),
            free_hint: AtomicU32::new(0),
            pageblocks,
            span: [AtomicU32::new(u32::MAX), AtomicU32::new(0)],
            cursors: Cursors::new(),
            deferred: AtomicU32::new(0),
            managed: AtomicU32::new(0),
            present: AtomicU32::new(0),
            start: AtomicU32::new(u32::MAX),
            end: AtomicU32::new(0),
            metadata: AtomicU32::new(0),
            watermarks: [const { AtomicU32::new(0) }; 3],
            lowmem_reserve: [const { AtomicU32::new(0) }; ZoneKind::COUNT],
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
        let [unmovable, movable, reclaimable] = self.free_blocks_by_mobility(machine);
        core::array::from_fn(|order| unmovable[order] + movable[order] + reclaimable[order])
    }

    /// Free blocks of each order, by mobility.
    pub(crate) fn free_blocks_by_mobility<M: Machine>(&self, machine: &M) -> [[u32; Order::COUNT]; Mobility::COUNT] {
        self.free.lock(machine).counts()
    }

    /// Whether [`Self::allocate`] would find a block.
    pub(crate) fn can_serve<M: Machine>(&self, machine: &M, demand: Demand) -> bool {
        self.free.lock(machine).can_serve(demand)
    }

    pub(crate) fn pageblocks(&self) -> Pageblocks {
        self.pageblocks
    }

    /// From the lowest filled frame to behind the highest, other zones' in between included; empty before any is.
    pub(crate) fn span(&self) -> Range<Pfn> {
        let [start, end] = &self.span;
        Pfn(start.load(Relaxed))..Pfn(end.load(Relaxed))
    }

    /// Whether some of a pageblock, which starts at that frame, has been filled and is this zone's. One that two zones
    /// share is said to be of the zone of its lowest frames.
    pub(crate) fn holds(&self, frames: Frames, pageblock: Pfn) -> bool {
        if !self.pageblocks.is_filled(pageblock) {
            return false;
        }
        let mut states = (0..PAGEBLOCK_ORDER.frames()).map(|at| frames.state(pageblock.offset(at)));
        states.find(|state| state.kind() != Kind::Absent).is_some_and(|state| state.zone() == self.id)
    }

    /// Where compaction goes on.
    pub(crate) fn cursors(&self) -> &Cursors {
        &self.cursors
    }

    /// Pageblocks by mobility, sections not filled yet left out.
    pub(crate) fn count_pageblocks<M: Machine>(&self, machine: &M) -> [u32; Mobility::COUNT] {
        let mut counts = [0; Mobility::COUNT];
        let span = self.span();
        for pageblock in (span.start.block(PAGEBLOCK_ORDER).0..span.end.0).step_by(PAGEBLOCK_ORDER.frames() as usize) {
            if self.holds(Frames::of(machine), Pfn(pageblock)) {
                counts[self.pageblocks.mobility(Pfn(pageblock)) as usize] += 1;
            }
        }
        counts
    }

    /// Notes that the frames `start..end`, all of them this zone's, are being filled.
    pub(crate) fn admit<M: Machine>(&self, machine: &M, start: Pfn, end: Pfn) {
        let _areas = self.free.lock(machine);
        self.span[0].fetch_min(start.0, Relaxed);
        self.span[1].fetch_max(end.0, Relaxed);
        for pageblock in (start.block(PAGEBLOCK_ORDER).0..end.0).step_by(PAGEBLOCK_ORDER.frames() as usize) {
            self.pageblocks.admit(Pfn(pageblock));
        }
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

    /// Frames spared, on top of a watermark, from requests whose highest zone is `highest`.
    #[inline]
    pub(crate) fn lowmem_reserve(&self, highest: ZoneKind) -> u32 {
        self.lowmem_reserve[highest as usize].load(Relaxed)
    }

    pub(crate) fn set_lowmem_reserve(&self, highest: ZoneKind, frames: u32) {
        self.lowmem_reserve[highest as usize].store(frames, Relaxed);
    }

    /// Takes up to `wanted` blocks, all in state `Inner`, handing to `take` the first of those that lie side by side and
    /// how many they are; returns how many there were, and what of it was stolen. One lock acquisition for all of them.
    ///
    /// Half of what is wanted will do: the rest might cut a larger block such that nothing that is taken or given later
    /// is aligned, and so is merged and split without end.
    pub(crate) fn allocate<M: Machine>(
        &self,
        machine: &M,
        demand: Demand,
        wanted: u32,
        mut take: impl FnMut(Pfn, u32),
    ) -> (u32, Stolen) {
        self.locked(machine, |frames, areas| {
            let mut stolen = Stolen::default();
            let mut taken = 0;
            while 2 * taken < wanted {
                let Some((first, blocks)) = areas.take(frames, demand, wanted - taken, &mut stolen) else { break };
                take(first, blocks);
                taken += blocks;
            }
            (taken, stolen)
        })
    }

    /// Gives a block back, merging it with its free buddies.
    pub(crate) fn free<M: Machine>(&self, machine: &M, block: Pfn, order: Order) {
        self.locked(machine, |frames, areas| areas.give(frames, block, order));
    }

    /// Works on the free areas, and on the states of frames that the zone's lock guards. The lock is held meanwhile.
    #[inline]
    pub(crate) fn locked<M: Machine, R>(&self, machine: &M, work: impl FnOnce(Frames, &mut FreeAreas) -> R) -> R {
        let mut areas = self.free.lock(machine);
        let result = work(Frames::of(machine), &mut areas);
        self.free_hint.store(areas.free_frames(), Relaxed);
        result
    }

    /// Checks the invariants of the free areas on every block; the error names the first that is broken.
    pub(crate) fn validate<M: Machine>(&self, machine: &M) -> Result<(), Broken> {
        let areas = self.free.lock(machine);
        areas.validate(Frames::of(machine))?;
        if areas.free_frames() != self.free_hint.load(Relaxed) {
            let what = "the hint of free frames is not what the areas hold";
            return Err(Broken { zone: self.id, block: Pfn(0), order: Order::ZERO, what });
        }
        Ok(())
    }

    pub(crate) fn raw(&self) -> &crate::raw_lock::RawLock {
        self.free.raw()
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
