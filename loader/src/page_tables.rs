//! `x86_64` page tables with four levels, built in memory that is given and planned before it is given.
//!
//! Used by the loader's binary. A mapping is a range of addresses and an [`Access`], which cannot express "writable and
//! executable". It is cut into pages of 1 GiB, 2 MiB and 4 KiB as alignment and the CPU allow. Tables refer to
//! each other by physical address, so the whole works on a slice of [`Table`]s wherever that lies, in
//! a test too. Accessed and dirty bits are set from the start: no CPU ever writes to these tables by itself.
//!
//! Source: Intel SDM volume 3, chapter 4.5; AMD APM volume 2, chapter 5.3.

use core::fmt;

use crate::PhysicalRange;
use crate::memory_map::PAGE_SIZE;

const ENTRIES: usize = 512;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LEAF: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// One page table of any level.
#[repr(C, align(4096))]
#[derive(Clone, Debug)]
pub struct Table([u64; ENTRIES]);

impl Table {
    /// A table that maps nothing.
    pub const EMPTY: Self = Self([0; ENTRIES]);
}

/// What may be done with mapped memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Constants.
    Read,
    /// Data, and the direct map.
    ReadWrite,
    /// Code.
    ReadExecute,
}

impl Access {
    const fn bits(self) -> u64 {
        match self {
            Self::Read => NO_EXECUTE,
            Self::ReadWrite => WRITABLE | NO_EXECUTE,
            Self::ReadExecute => 0,
        }
    }
}

/// A page size; the number is the level of the table whose entry maps such a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PageSize {
    /// 4 KiB.
    Small = 0,
    /// 2 MiB.
    Large = 1,
    /// 1 GiB.
    Huge = 2,
}

impl PageSize {
    /// In bytes.
    pub const fn bytes(self) -> u64 {
        PAGE_SIZE << (9 * self as u32)
    }
}

/// Level of the root table.
const ROOT_LEVEL: u32 = 3;

/// Bytes that one entry of a table of `level` stands for, as a shift.
const fn entry_shift(level: u32) -> u32 {
    12 + 9 * level
}

/// Index of the entry for an address in its table of `level`.
const fn entry_index(address: u64, level: u32) -> usize {
    (address >> entry_shift(level)) as usize % ENTRIES
}

/// A range of addresses to map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First virtual address; a multiple of 4 KiB.
    pub address: u64,
    /// The memory; both ends multiples of 4 KiB.
    pub physical: PhysicalRange,
    /// What may be done with it.
    pub access: Access,
}

/// Pages of one size whose entries stand next to each other in one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    address: u64,
    physical: u64,
    size: PageSize,
    count: usize,
}

impl Mapping {
    /// Cuts the mapping into runs with the largest pages possible up to `largest`.
    fn runs(self, largest: PageSize) -> impl Iterator<Item = Run> {
        let mut rest = self;
        core::iter::from_fn(move || {
            let left = rest.physical.size();
            if left == 0 {
                return None;
            }
            let fits = |size: &PageSize| {
                *size <= largest
                    && left >= size.bytes()
                    && (rest.address | rest.physical.start).is_multiple_of(size.bytes())
            };
            let size = [PageSize::Huge, PageSize::Large].into_iter().find(fits).unwrap_or(PageSize::Small);
            // A larger page can only fit where a table of this level ends, so looking again there is enough.
            let end_of_table = ENTRIES - entry_index(rest.address, size as u32);
            let count = (left / size.bytes()).min(end_of_table as u64);
            let run = Run { address: rest.address, physical: rest.physical.start, size, count: count as usize };
            // The last page of an address space ends at 2^64.
            rest.address = rest.address.wrapping_add(count * size.bytes());
            rest.physical.start += count * size.bytes();
            Some(run)
        })
    }
}

/// How many tables the mappings need, the root included. Exact when they ascend by address; an upper bound otherwise.
pub fn tables_needed(mappings: impl IntoIterator<Item = Mapping>, largest: PageSize) -> usize {
    let mut needed = 1;
    // The slot of the table used last, for each level below the root.
    let mut last = [u64::MAX; ROOT_LEVEL as usize];
    for run in mappings.into_iter().flat_map(|mapping| mapping.runs(largest)) {
        for level in run.size as u32..ROOT_LEVEL {
            let slot = run.address >> entry_shift(level + 1);
            if last[level as usize] != slot {
                last[level as usize] = slot;
                needed += 1;
            }
        }
    }
    needed
}

/// Why a mapping cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// More tables are needed than were given.
    OutOfTables,
    /// A page at this address is mapped already.
    AlreadyMapped(u64),
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfTables => {
                write!(f, "the page tables were planned too small: this is a mistake in the loader, please report it")
            }
            Self::AlreadyMapped(address) => {
                write!(f, "two mappings meet at {address:#x}: this is a mistake in the loader, please report it")
            }
        }
    }
}

/// Page tables under construction.
#[derive(Debug)]
pub struct PageTables<'a> {
    tables: &'a mut [Table],
    base: u64,
    used: usize,
    largest: PageSize,
}

impl<'a> PageTables<'a> {
    /// Starts with an empty root in `tables`, which lie at physical address `base`. What they hold does not matter.
    ///
    /// # Panics
    ///
    /// When `tables` is empty.
    pub fn new(tables: &'a mut [Table], base: u64, largest: PageSize) -> Self {
        tables[0] = Table::EMPTY;
        Self { tables, base, used: 1, largest }
    }

    /// Physical address of the root table.
    pub fn root(&self) -> u64 {
        self.base
    }

    /// Maps a range.
    ///
    /// # Errors
    ///
    /// When tables run out or a page is mapped already; a part of the range may be mapped then.
    pub fn map(&mut self, mapping: Mapping) -> Result<(), MapError> {
        for run in mapping.runs(self.largest) {
            let level = run.size as u32;
            let table = self.table_at(run.address, level)?;
            let first = entry_index(run.address, level);
            let leaf = if run.size == PageSize::Small { 0 } else { LEAF };
            let bits = PRESENT | ACCESSED | DIRTY | leaf | mapping.access.bits();
            let entries = &mut self.tables[table].0[first..first + run.count];
            for (entry, number) in entries.iter_mut().zip(0u64..) {
                let offset = number * run.size.bytes();
                if *entry != 0 {
                    return Err(MapError::AlreadyMapped(run.address + offset));
                }
                *entry = (run.physical + offset) | bits;
            }
        }
        Ok(())
    }

    /// What an address is mapped to, and with what access; `None` when it is not mapped.
    pub fn translate(&self, address: u64) -> Option<(u64, Access)> {
        let mut table = 0;
        for level in (0..=ROOT_LEVEL).rev() {
            let entry = self.tables[table].0[entry_index(address, level)];
            if entry & PRESENT == 0 {
                return None;
            }
            if level == 0 || entry & LEAF != 0 {
                let offset = address & ((1 << entry_shift(level)) - 1);
                let access = match (entry & WRITABLE != 0, entry & NO_EXECUTE != 0) {
                    (false, false) => Access::ReadExecute,
                    (false, true) => Access::Read,
                    (true, _) => Access::ReadWrite,
                };
                return Some(((entry & ADDRESS) + offset, access));
            }
            table = self.index_of(entry);
        }
        None
    }

    /// Index of the table of `level` for an address, made on the way when there is none.
    fn table_at(&mut self, address: u64, level: u32) -> Result<usize, MapError> {
        let mut table = 0;
        for above in (level + 1..=ROOT_LEVEL).rev() {
            let index = entry_index(address, above);
            let entry = self.tables[table].0[index];
            table = if entry == 0 {
                let fresh = self.used;
                *self.tables.get_mut(fresh).ok_or(MapError::OutOfTables)? = Table::EMPTY;
                self.used += 1;
                let physical = self.base + fresh as u64 * PAGE_SIZE;
                // Rights are decided by the last level alone.
                self.tables[table].0[index] = physical | PRESENT | WRITABLE | ACCESSED;
                fresh
            } else if entry & LEAF != 0 {
                return Err(MapError::AlreadyMapped(address));
            } else {
                self.index_of(entry)
            };
        }
        Ok(table)
    }

    fn index_of(&self, entry: u64) -> usize {
        ((entry & ADDRESS) - self.base) as usize / PAGE_SIZE as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::{DIRECT_MAP_BASE, IMAGE_BASE};

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn mapping(address: u64, start: u64, end: u64, access: Access) -> Mapping {
        Mapping { address, physical: PhysicalRange { start, end }, access }
    }

    fn direct(start: u64, end: u64) -> Mapping {
        mapping(DIRECT_MAP_BASE + start, start, end, Access::ReadWrite)
    }

    fn sizes(mapping: Mapping, largest: PageSize) -> Vec<(u64, PageSize, usize)> {
        mapping.runs(largest).map(|run| (run.physical, run.size, run.count)).collect()
    }

    #[test]
    fn pages_are_as_large_as_alignment_and_cpu_allow() {
        let ram = direct(4 * GIB - 3 * MIB, 6 * GIB + 5 * MIB + 0x1000);
        assert_eq!(
            sizes(ram, PageSize::Huge),
            [
                (4 * GIB - 3 * MIB, PageSize::Small, 256),
                (4 * GIB - 2 * MIB, PageSize::Large, 1),
                (4 * GIB, PageSize::Huge, 2),
                (6 * GIB, PageSize::Large, 2),
                (6 * GIB + 4 * MIB, PageSize::Small, 257),
            ]
        );
        let large = sizes(ram, PageSize::Large);
        assert!(large.contains(&(4 * GIB, PageSize::Large, 512)), "a run ends with its table: {large:?}");
        assert_eq!(sizes(mapping(IMAGE_BASE, 0x1000, 0x4000, Access::Read), PageSize::Huge).len(), 1);
    }

    #[test]
    fn nine_hundred_gib_need_few_tables() {
        let ram = [direct(0, 2 * GIB), direct(4 * GIB, 902 * GIB)];
        // The root and two tables of 512 GiB each; without 1 GiB pages also one table a GiB.
        assert_eq!(tables_needed(ram, PageSize::Huge), 3);
        assert_eq!(tables_needed(ram, PageSize::Large), 3 + 900);
    }

    #[test]
    fn access_is_what_was_asked_for_and_the_last_page_is_reachable() {
        let mut tables = vec![Table::EMPTY; 8];
        let mut tables = PageTables::new(&mut tables, 0x10_0000, PageSize::Huge);
        for (page, access) in [Access::ReadExecute, Access::Read, Access::ReadWrite].into_iter().enumerate() {
            let (address, physical) = (IMAGE_BASE + page as u64 * 0x1000, 0x20_0000 + page as u64 * 0x1000);
            tables.map(mapping(address, physical, physical + 0x1000, access)).unwrap();
            assert_eq!(tables.translate(address + 5), Some((physical + 5, access)));
        }
        tables.map(mapping(0u64.wrapping_sub(0x1000), 0x5000, 0x6000, Access::Read)).unwrap();
        assert_eq!(tables.translate(u64::MAX), Some((0x5fff, Access::Read)));
        assert_eq!(tables.translate(0), None);
        assert_eq!(tables.translate(DIRECT_MAP_BASE), None);
    }

    #[test]
    fn nothing_is_mapped_twice_and_shortage_is_reported() {
        let mut storage = vec![Table::EMPTY; 3];
        let mut tables = PageTables::new(&mut storage, 0, PageSize::Large);
        tables.map(direct(0, 4 * MIB)).unwrap();
        assert_eq!(tables.map(direct(2 * MIB, 4 * MIB)), Err(MapError::AlreadyMapped(DIRECT_MAP_BASE + 2 * MIB)));
        assert_eq!(tables.map(direct(0x1000, 0x2000)), Err(MapError::AlreadyMapped(DIRECT_MAP_BASE + 0x1000)));
        assert_eq!(tables.map(direct(GIB, GIB + 4 * MIB)), Err(MapError::OutOfTables));
    }

    proptest! {
        #[test]
        fn translation_agrees_with_the_mappings_and_the_plan_is_exact(
            pieces in proptest::collection::vec((0u64..2 * 512 * 512, 1u64..512 * 600), 1..8),
            shift in 0u64..3,
            largest in prop_oneof![Just(PageSize::Small), Just(PageSize::Large), Just(PageSize::Huge)],
        ) {
            // Ascending disjoint ranges, at virtual addresses that may be unaligned to the physical ones.
            let offset = [0, 0x1000, 2 * MIB][shift as usize];
            let mut mappings = Vec::new();
            let mut at = 0;
            for (gap, pages) in pieces {
                let start = at + gap * PAGE_SIZE;
                at = start + pages * PAGE_SIZE;
                mappings.push(mapping(DIRECT_MAP_BASE + offset + start, start, at, Access::ReadWrite));
            }
            let needed = tables_needed(mappings.iter().copied(), largest);
            let mut storage = vec![Table::EMPTY; needed];
            let mut tables = PageTables::new(&mut storage, 0x1234_5000, largest);
            for mapping in &mappings {
                prop_assert_eq!(tables.map(*mapping), Ok(()));
            }
            prop_assert_eq!(tables.used, needed);
            let mut probes = BTreeSet::new();
            for mapping in &mappings {
                let end = mapping.address + mapping.physical.size();
                for probe in [mapping.address, end, mapping.address + mapping.physical.size() / 2] {
                    probes.extend([probe - 1, probe, probe + 1]);
                }
            }
            for probe in probes {
                let expected = mappings
                    .iter()
                    .find(|m| m.address <= probe && probe < m.address + m.physical.size())
                    .map(|m| (m.physical.start + (probe - m.address), m.access));
                prop_assert_eq!(tables.translate(probe), expected);
            }
        }
    }
}
