//! The physical memory map: made sane from whatever firmware says, then carved up for the boot.
//!
//! Used by the loader's binary; the result goes into [`crate::BootInfo`]. Pure data in, pure data out, fixed capacity.
//!
//! Firmware's entries may come unsorted, overlapping, unaligned, with unknown types and in any number. Here they become
//! sorted, disjoint regions of whole pages in which neighbours of one kind are merged. Where entries overlap the more
//! cautious kind wins (bad, reserved, ACPI, RAM, in this order). Ranges nobody mentions stay unmentioned. When there
//! are more regions than fit, the smallest are left out, which is safe because what is not listed is not used; the RAM
//! lost in this way is counted.

use crate::start_info::MemoryMapEntry;
use crate::{DIRECT_MAP_SIZE, MAX_REGIONS, PhysicalRange, Region, RegionKind};

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;

/// One past the last address of the first MiB, where firmware and the start of other CPUs have their place.
pub const LOW_MEMORY_END: u64 = 1 << 20;

/// One past the last address of the ISA DMA zone, used for the boot only when there is nothing else.
const DMA_END: u64 = 16 << 20;

/// One past the last address that 32-bit code and the loader itself reach.
pub const FOUR_GIB: u64 = 1 << 32;

/// Regions kept free for what the boot will carve out.
const CARVING_RESERVE: usize = 32;

/// Ranges [`MemoryMap::avoid`] holds.
const MAX_AVOIDED: usize = 8;

/// The memory map and what must not be overwritten while the boot goes on.
#[derive(Clone, Debug)]
pub struct MemoryMap {
    regions: [Region; MAX_REGIONS],
    count: usize,
    limit: usize,
    lost_ram: u64,
    avoided: [PhysicalRange; MAX_AVOIDED],
    avoided_count: usize,
}

impl MemoryMap {
    /// A map without any region.
    pub const fn empty() -> Self {
        const NOTHING: PhysicalRange = PhysicalRange { start: 0, end: 0 };
        Self {
            regions: [Region { range: NOTHING, kind: RegionKind::Reserved }; MAX_REGIONS],
            count: 0,
            limit: MAX_REGIONS,
            lost_ram: 0,
            avoided: [NOTHING; MAX_AVOIDED],
            avoided_count: 0,
        }
    }

    /// Makes a sane map of firmware's entries. The page at address 0 is never RAM; nor is anything beyond the direct
    /// map.
    pub fn from_firmware(entries: &(impl Iterator<Item = MemoryMapEntry> + Clone)) -> Self {
        let mut map = Self::empty();
        map.limit = MAX_REGIONS - CARVING_RESERVE;
        // Later kinds overwrite earlier ones.
        for kind in [
            RegionKind::Usable,
            RegionKind::AcpiReclaimable,
            RegionKind::AcpiNonVolatile,
            RegionKind::Reserved,
            RegionKind::Bad,
        ] {
            for entry in entries.clone().filter(|entry| kind_of(entry.kind) == kind) {
                map.add_firmware_range(entry, kind);
            }
        }
        map.overlay(PhysicalRange { start: 0, end: PAGE_SIZE }, RegionKind::Reserved);
        map.limit = MAX_REGIONS;
        map
    }

    /// The regions: sorted, disjoint, page-aligned, neighbours merged.
    pub fn regions(&self) -> &[Region] {
        &self.regions[..self.count]
    }

    /// Bytes of RAM that were left out because there were too many regions or because they lie beyond the direct map.
    pub fn lost_ram(&self) -> u64 {
        self.lost_ram
    }

    /// Bytes of RAM, in use or not.
    pub fn ram(&self) -> u64 {
        let ram = |region: &&Region| matches!(region.kind, RegionKind::Usable | RegionKind::Boot);
        self.regions().iter().filter(ram).map(|region| region.range.size()).sum()
    }

    /// Keeps [`Self::allocate`] away from `range`, without taking it from the RAM the image will find: for what the
    /// boot reads and then forgets. At most eight ranges; false when there is no place for another.
    #[must_use]
    pub fn avoid(&mut self, range: PhysicalRange) -> bool {
        let Some(slot) = self.avoided.get_mut(self.avoided_count) else { return false };
        *slot = range;
        self.avoided_count += 1;
        true
    }

    /// Marks the RAM in the pages of `range` as in use by the boot. What is not RAM stays what it is.
    pub fn claim(&mut self, range: PhysicalRange) {
        let range = outward(range);
        let mut from = range.start;
        while let Some(usable) = self
            .regions()
            .iter()
            .filter(|region| region.kind == RegionKind::Usable)
            .map(|region| intersection(region.range, PhysicalRange { start: from, end: range.end }))
            .find(|part| part.start < part.end)
        {
            self.overlay(usable, RegionKind::Boot);
            from = usable.end;
        }
    }

    /// Takes `size` bytes (rounded up to pages) of free RAM at a multiple of `alignment`, below 4 GiB and
    /// above the first MiB; outside the ISA DMA zone where possible. `None` when there is no such block.
    ///
    /// `alignment` is a power of two and at least a page.
    pub fn allocate(&mut self, size: u64, alignment: u64) -> Option<PhysicalRange> {
        let size = size.checked_next_multiple_of(PAGE_SIZE)?;
        let range = [DMA_END, LOW_MEMORY_END].into_iter().find_map(|floor| self.find_free(size, alignment, floor))?;
        self.overlay(range, RegionKind::Boot);
        Some(range)
    }

    /// The largest number of bytes [`Self::allocate`] could hand out in one piece, page-aligned.
    pub fn largest_free(&self) -> u64 {
        // The answer is monotonic: what does not fit does not fit when it is larger.
        let (mut fits, mut too_large) = (0, FOUR_GIB / PAGE_SIZE);
        while fits + 1 < too_large {
            let pages = u64::midpoint(fits, too_large);
            if self.find_free(pages * PAGE_SIZE, PAGE_SIZE, LOW_MEMORY_END).is_some() {
                fits = pages;
            } else {
                too_large = pages;
            }
        }
        fits * PAGE_SIZE
    }

    /// What the direct map covers, as sorted disjoint ranges (the kind has no meaning in the result): all
    /// RAM and ACPI memory, the first MiB (firmware's tables), `also` rounded to pages, and those
    /// reserved ranges below 4 GiB that touch such memory, for firmware carves its tables out of RAM. Reserved
    /// ranges that stand alone are windows of devices and have no place in cached memory.
    #[must_use]
    pub fn direct_map_ranges(&self, also: PhysicalRange) -> Self {
        let mut covered = Self::empty();
        covered.overlay(PhysicalRange { start: 0, end: LOW_MEMORY_END }, RegionKind::Usable);
        covered.overlay(outward(also), RegionKind::Usable);
        for region in self.regions() {
            if !matches!(region.kind, RegionKind::Reserved | RegionKind::Bad) {
                covered.overlay(region.range, RegionKind::Usable);
            }
        }
        let carved = |region: &&Region| region.kind == RegionKind::Reserved && region.range.end <= FOUR_GIB;
        // Upwards and then downwards, so that chains of reserved ranges are followed in either direction.
        for region in self.regions().iter().filter(carved) {
            if covered.touches(region.range) {
                covered.overlay(region.range, RegionKind::Usable);
            }
        }
        for region in self.regions().iter().rev().filter(carved) {
            if covered.touches(region.range) {
                covered.overlay(region.range, RegionKind::Usable);
            }
        }
        covered
    }

    /// Whether a region ends where `range` starts, starts where it ends, or overlaps it.
    fn touches(&self, range: PhysicalRange) -> bool {
        self.regions().iter().any(|region| region.range.start <= range.end && range.start <= region.range.end)
    }

    fn add_firmware_range(&mut self, entry: MemoryMapEntry, kind: RegionKind) {
        let range = PhysicalRange { start: entry.address, end: entry.address.saturating_add(entry.size) };
        if range.start >= range.end {
            return;
        }
        let range = if kind == RegionKind::Usable { inward(range) } else { outward(range) };
        let reachable = intersection(range, PhysicalRange { start: 0, end: DIRECT_MAP_SIZE });
        if kind == RegionKind::Usable {
            self.lost_ram += range.size() - reachable.size();
        }
        self.overlay(reachable, kind);
    }

    /// Lowest free block of `size` bytes at a multiple of `alignment` that starts at or above `floor` and ends below 4
    /// GiB.
    fn find_free(&self, size: u64, alignment: u64, floor: u64) -> Option<PhysicalRange> {
        debug_assert!(alignment.is_power_of_two() && alignment >= PAGE_SIZE);
        self.regions().iter().filter(|region| region.kind == RegionKind::Usable).find_map(|region| {
            let end = region.range.end.min(FOUR_GIB);
            let mut start = region.range.start.max(floor).checked_next_multiple_of(alignment)?;
            loop {
                let block = PhysicalRange { start, end: start.checked_add(size)? };
                if block.end > end {
                    return None;
                }
                let avoided = &self.avoided[..self.avoided_count];
                match avoided.iter().find(|avoided| avoided.overlaps(block)) {
                    None => return Some(block),
                    Some(avoided) => start = avoided.end.checked_next_multiple_of(alignment)?,
                }
            }
        })
    }

    /// Makes `range` one region of `kind`, whatever was there before.
    fn overlay(&mut self, range: PhysicalRange, kind: RegionKind) {
        if range.start >= range.end {
            return;
        }
        let (old, count) = (self.regions, self.count);
        self.count = 0;
        let mut placed = false;
        for region in &old[..count] {
            let before = PhysicalRange { start: region.range.start, end: region.range.end.min(range.start) };
            let after = PhysicalRange { start: region.range.start.max(range.end), end: region.range.end };
            self.push(Region { range: before, kind: region.kind });
            if region.range.end > range.start && !placed {
                self.push(Region { range, kind });
                placed = true;
            }
            self.push(Region { range: after, kind: region.kind });
        }
        if !placed {
            self.push(Region { range, kind });
        }
    }

    /// Appends a region that starts at or after the end of the last one; ignores an empty one.
    fn push(&mut self, region: Region) {
        if region.range.start >= region.range.end {
            return;
        }
        if let Some(last) = self.regions[..self.count].last_mut()
            && last.kind == region.kind
            && last.range.end == region.range.start
        {
            last.range.end = region.range.end;
            return;
        }
        if self.count == self.limit && !self.make_room_for(region) {
            return;
        }
        self.regions[self.count] = region;
        self.count += 1;
    }

    /// Drops the smallest region, if that is not `newcomer` itself, whose loss is counted when it is. What is told
    /// apart for a purpose (ACPI's tables, the boot's own memory) is dropped only when nothing else is left.
    fn make_room_for(&mut self, newcomer: Region) -> bool {
        let weight = |region: &Region| {
            let special = !matches!(region.kind, RegionKind::Usable | RegionKind::Reserved | RegionKind::Bad);
            (special, region.range.size())
        };
        let (index, smallest) = self
            .regions()
            .iter()
            .copied()
            .enumerate()
            .min_by_key(|(_, region)| weight(region))
            .expect("a full map has regions");
        let keep_newcomer = weight(&smallest) <= weight(&newcomer);
        let dropped = if keep_newcomer { smallest } else { newcomer };
        if dropped.kind == RegionKind::Usable {
            self.lost_ram += dropped.range.size();
        }
        if keep_newcomer {
            self.regions.copy_within(index + 1..self.count, index);
            self.count -= 1;
        }
        keep_newcomer
    }
}

/// The kind of an E820 type; unknown ones are nothing to touch.
fn kind_of(e820_type: u32) -> RegionKind {
    match e820_type {
        1 => RegionKind::Usable,
        3 => RegionKind::AcpiReclaimable,
        4 => RegionKind::AcpiNonVolatile,
        5 => RegionKind::Bad,
        _ => RegionKind::Reserved,
    }
}

/// The pages that lie wholly in `range`; empty when there are none.
fn inward(range: PhysicalRange) -> PhysicalRange {
    let start = range.start.checked_next_multiple_of(PAGE_SIZE).unwrap_or(range.end);
    let end = range.end & !(PAGE_SIZE - 1);
    PhysicalRange { start: start.min(end), end }
}

/// The pages that `range` touches.
fn outward(range: PhysicalRange) -> PhysicalRange {
    let end = range.end.checked_next_multiple_of(PAGE_SIZE).unwrap_or(!(PAGE_SIZE - 1));
    PhysicalRange { start: (range.start & !(PAGE_SIZE - 1)).min(end), end }
}

/// What lies in both; empty when nothing does.
fn intersection(a: PhysicalRange, b: PhysicalRange) -> PhysicalRange {
    let start = a.start.max(b.start);
    PhysicalRange { start, end: a.end.min(b.end).max(start) }
}

#[cfg(test)]
mod tests;
