//! [`BootMemory`]: what is free before the memory service runs, by node.
//!
//! Used by the boot alone, on one CPU. It turns the loader's memory map into free ranges that lie on one node each,
//! gives out single frames (page tables, the page other CPUs start on), and in the end hands what is left to the
//! service.

use core::ptr;

use quarry_loader::{BootInfo, PhysicalRange as Range, RegionKind};
use quarry_memory::FreeRange;
use quarry_topology::{NodeId, PhysicalRange, Topology};

use crate::layout::{PAGE_BYTES, direct};

/// Ranges there is room for: the loader's regions, cut at the borders of nodes.
const MAX_RANGES: usize = 2 * quarry_loader::MAX_REGIONS;

/// Below this other CPUs can start: in real mode they see no further.
const REAL_MODE_END: u64 = 0x9_f000;

/// What is free.
pub(crate) struct BootMemory {
    ranges: [FreeRange; MAX_RANGES],
    count: usize,
}

impl BootMemory {
    pub(crate) const fn empty() -> Self {
        let nothing = FreeRange { range: PhysicalRange::new(0, 0), node: NodeId(0) };
        Self { ranges: [nothing; MAX_RANGES], count: 0 }
    }

    /// Fills in what nobody uses once the boot has left the loader's stack and read the firmware's tables.
    pub(crate) fn fill(&mut self, info: &BootInfo, topology: &Topology) {
        for region in info.regions() {
            match region.kind {
                RegionKind::Usable | RegionKind::AcpiReclaimable => self.add(region.range, topology),
                _ => {}
            }
        }
        self.add(info.loader, topology);
        self.add(info.boot_stack, topology);
    }

    /// The free ranges.
    pub(crate) fn ranges(&self) -> &[FreeRange] {
        &self.ranges[..self.count]
    }

    /// Takes a zeroed frame below 4 GiB if there is one, from the end of the largest range of `node` if it has any.
    pub(crate) fn take_frame(&mut self, node: NodeId) -> Option<u64> {
        let ranges = self.ranges[..self.count].iter_mut().filter(|free| free.range.len() >= PAGE_BYTES);
        let best = ranges.max_by_key(|free| (free.range.end <= 1 << 32, free.node == node, free.range.len()))?;
        best.range.end -= PAGE_BYTES;
        let frame = best.range.end;
        let address = ptr::with_exposed_provenance_mut::<u8>(direct(frame) as usize);
        // SAFETY: the frame was free RAM in the direct map, and is no longer in the list.
        unsafe { address.write_bytes(0, PAGE_BYTES as usize) };
        Some(frame)
    }

    /// Takes a frame that code in real mode can run in.
    pub(crate) fn take_real_mode_frame(&mut self) -> Option<u64> {
        let free = self.ranges[..self.count]
            .iter_mut()
            .find(|free| free.range.start + PAGE_BYTES <= free.range.end.min(REAL_MODE_END))?;
        let frame = free.range.start;
        free.range.start += PAGE_BYTES;
        Some(frame)
    }

    /// Adds a range, whole pages of it, a piece for each node. RAM of no node stays unused; so does what there is no
    /// room for.
    fn add(&mut self, range: Range, topology: &Topology) {
        let range = PhysicalRange::new(range.start.next_multiple_of(PAGE_BYTES), range.end & !(PAGE_BYTES - 1));
        for memory in topology.memory() {
            let piece = PhysicalRange::new(range.start.max(memory.range.start), range.end.min(memory.range.end));
            if piece.is_empty() {
                continue;
            }
            let Some(slot) = self.ranges.get_mut(self.count) else {
                log::warn!("the free memory is in too many pieces: {piece} stays unused");
                continue;
            };
            *slot = FreeRange { range: piece, node: memory.node };
            self.count += 1;
        }
    }
}
