//! Physical memory as slices. The loader runs with the first 4 GiB mapped to themselves.
//!
//! Memory that somebody else wrote is only ever read through [`read`]; memory that the loader took for itself is only
//! ever reached through [`Block`], which is the proof of having taken it.

use core::slice;

use quarry_loader::PhysicalRange;
use quarry_loader::memory_map::{FOUR_GIB, MemoryMap, PAGE_SIZE};
use quarry_loader::page_tables::Table;

/// The bytes of `range`, which somebody else left there; `None` when the loader cannot reach them.
///
/// # Safety
///
/// The memory must not change while the slice lives, neither by the loader (see [`MemoryMap::avoid`] and
/// [`MemoryMap::claim`]) nor by a device.
pub(crate) unsafe fn read<'a>(range: PhysicalRange) -> Option<&'a [u8]> {
    if range.start == 0 || range.start > range.end || range.end > FOUR_GIB {
        return None;
    }
    // SAFETY: the first 4 GiB are mapped to themselves, so the pointer is valid and not null; any bytes are good
    // bytes; that they do not change is the caller's promise.
    Some(unsafe { slice::from_raw_parts(range.start as *const u8, range.size() as usize) })
}

/// RAM that the loader took for itself: whole pages that nothing else refers to.
pub(crate) struct Block {
    range: PhysicalRange,
}

impl Block {
    /// Takes `size` bytes rounded up to pages; `None` when there is no such block of free RAM.
    pub(crate) fn allocate(map: &mut MemoryMap, size: u64, alignment: u64) -> Option<Self> {
        map.allocate(size.max(1), alignment).map(|range| Self { range })
    }

    /// Where it lies.
    pub(crate) fn range(&self) -> PhysicalRange {
        self.range
    }

    /// Its bytes.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the range is free RAM (the memory map says so and whatever lies in it is avoided), it lies between 1
        // MiB and 4 GiB, where it is mapped to itself, and only this block refers to it.
        unsafe { slice::from_raw_parts_mut(self.range.start as *mut u8, self.range.size() as usize) }
    }

    /// Its pages as page tables.
    pub(crate) fn tables(&mut self) -> &mut [Table] {
        // SAFETY: as for `bytes`; the range is page-aligned as a table must be, and any bits make a table.
        unsafe { slice::from_raw_parts_mut(self.range.start as *mut Table, (self.range.size() / PAGE_SIZE) as usize) }
    }

    /// Puts a value at its start.
    pub(crate) fn write<T>(&mut self, value: T) {
        assert!(size_of::<T>() as u64 <= self.range.size() && align_of::<T>() as u64 <= PAGE_SIZE);
        // SAFETY: as for `bytes`; the value fits and the start of a page is aligned for it.
        unsafe { (self.range.start as *mut T).write(value) }
    }
}
