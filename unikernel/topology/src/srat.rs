//! The system resource affinity table: which proximity domain CPUs and memory belong to (ACPI specification 6.5,
//! section 5.2.16).

use crate::Source;
use crate::bytes::{u8_at, u32_at, u64_at};
use crate::report::Reporter;
use crate::table::{Entries, HEADER, Table};
use crate::warning::Position;

/// Header and 12 reserved bytes.
const FIXED_PART: usize = HEADER + 12;

/// What an enabled entry says, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SratEntry {
    /// A CPU's domain (types 0 and 2).
    Cpu { apic_id: u32, proximity_domain: u32 },
    /// A memory range's domain (type 1).
    Memory(SratMemory),
}

/// A memory range as told, believable or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SratMemory {
    pub(crate) proximity_domain: u32,
    pub(crate) address: u64,
    pub(crate) bytes: u64,
    pub(crate) hot_pluggable: bool,
    pub(crate) non_volatile: bool,
}

/// The table.
#[derive(Clone, Copy)]
pub(crate) struct Srat<'t>(Table<'t>);

impl<'t> Srat<'t> {
    pub(crate) fn open(bytes: &'t [u8], reporter: &mut Reporter) -> Option<Self> {
        Table::open(Source::Srat, bytes, FIXED_PART, reporter).map(Self)
    }

    pub(crate) fn entries(&self) -> SratEntries<'t> {
        SratEntries {
            entries: self.0.entries(Source::Srat, FIXED_PART, specified_length),
            narrow_domains: self.0.revision < 2,
        }
    }
}

/// A walk over the enabled entries that matter here.
pub(crate) struct SratEntries<'t> {
    entries: Entries<'t>,
    /// Revision 1 has proximity domains of 8 bits; what later became their upper bytes is reserved and may be anything.
    narrow_domains: bool,
}

impl SratEntries<'_> {
    pub(crate) fn next(&mut self, reporter: &mut Reporter) -> Option<(Position, SratEntry)> {
        loop {
            let entry = self.entries.next(reporter)?;
            if let Some(read) = read(entry.kind, entry.bytes, self.narrow_domains) {
                return Some((entry.position, read));
            }
        }
    }
}

fn read(kind: u8, bytes: &[u8], narrow_domains: bool) -> Option<SratEntry> {
    let domain_mask = if narrow_domains { 0xff } else { u32::MAX };
    // In every type the enabled flag is bit 0 of the flags.
    match kind {
        0 if u32_at(bytes, 4)? & 1 != 0 => {
            // The low byte stands apart from the upper three (bytes 9 to 11, read here with the byte before them).
            let domain = u32::from(u8_at(bytes, 2)?) | (u32_at(bytes, 8)? & 0xffff_ff00);
            Some(SratEntry::Cpu { apic_id: u8_at(bytes, 3)?.into(), proximity_domain: domain & domain_mask })
        }
        1 if u32_at(bytes, 28)? & 1 != 0 => Some(SratEntry::Memory(SratMemory {
            proximity_domain: u32_at(bytes, 2)? & domain_mask,
            address: u64_at(bytes, 8)?,
            bytes: u64_at(bytes, 16)?,
            hot_pluggable: u32_at(bytes, 28)? & 2 != 0,
            non_volatile: u32_at(bytes, 28)? & 4 != 0,
        })),
        2 if u32_at(bytes, 12)? & 1 != 0 => {
            Some(SratEntry::Cpu { apic_id: u32_at(bytes, 8)?, proximity_domain: u32_at(bytes, 4)? })
        }
        // Arm's GICC and ITS, generic initiators and ports, and what is yet to come.
        _ => None,
    }
}

fn specified_length(kind: u8) -> Option<usize> {
    Some(match kind {
        0 => 16,
        1 => 40,
        2 => 24,
        3 => 18,
        4 => 12,
        5 | 6 => 32,
        _ => return None,
    })
}
