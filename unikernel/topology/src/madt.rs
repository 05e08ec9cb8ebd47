//! The multiple APIC description table: CPUs and the address of the local APICs (ACPI specification 6.5, section
//! 5.2.12).

use crate::Source;
use crate::bytes::{u8_at, u32_at, u64_at};
use crate::report::Reporter;
use crate::table::{Entries, HEADER, Table};
use crate::warning::Position;

/// Header, local APIC address, flags.
const FIXED_PART: usize = HEADER + 8;

/// What an entry says, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MadtEntry {
    /// A CPU that can be used (types 0 and 9).
    Cpu { apic_id: u32 },
    /// A CPU with the id that stands for all CPUs.
    Broadcast { apic_id: u32 },
    /// The 64-bit address of the local APICs (type 5).
    LocalApicAddress(u64),
}

/// The table.
#[derive(Clone, Copy)]
pub(crate) struct Madt<'t>(Table<'t>);

impl<'t> Madt<'t> {
    pub(crate) fn open(bytes: &'t [u8], reporter: &mut Reporter) -> Option<Self> {
        Table::open(Source::Madt, bytes, FIXED_PART, reporter).map(Self)
    }

    /// The 32-bit address of the local APICs.
    pub(crate) fn local_apic_address(&self) -> u64 {
        u32_at(self.0.bytes, HEADER).unwrap_or(0).into()
    }

    /// Whether there are 8259 interrupt controllers (`PCAT_COMPAT`).
    pub(crate) fn has_legacy_pics(&self) -> bool {
        u32_at(self.0.bytes, HEADER + 4).unwrap_or(0) & 1 != 0
    }

    pub(crate) fn entries(&self) -> MadtEntries<'t> {
        MadtEntries(self.0.entries(Source::Madt, FIXED_PART, specified_length))
    }
}

/// A walk over the entries that matter here.
pub(crate) struct MadtEntries<'t>(Entries<'t>);

impl MadtEntries<'_> {
    pub(crate) fn next(&mut self, reporter: &mut Reporter) -> Option<(Position, MadtEntry)> {
        loop {
            let entry = self.0.next(reporter)?;
            if let Some(read) = read(entry.kind, entry.bytes) {
                return Some((entry.position, read));
            }
        }
    }
}

fn read(kind: u8, bytes: &[u8]) -> Option<MadtEntry> {
    let (apic_id, flags, broadcast) = match kind {
        0 => (u8_at(bytes, 3)?.into(), u32_at(bytes, 4)?, 0xff),
        9 => (u32_at(bytes, 4)?, u32_at(bytes, 8)?, u32::MAX),
        5 => return u64_at(bytes, 4).map(MadtEntry::LocalApicAddress),
        _ => return None,
    };
    // Bit 0: enabled. Bit 1, online capable, means a CPU that could be added while the machine runs: it is no CPU now.
    if flags & 1 == 0 {
        return None;
    }
    Some(if apic_id == broadcast { MadtEntry::Broadcast { apic_id } } else { MadtEntry::Cpu { apic_id } })
}

fn specified_length(kind: u8) -> Option<usize> {
    Some(match kind {
        0 | 3 => 8,
        1 | 5 | 10 => 12,
        2 => 10,
        4 => 6,
        6 | 8 | 9 => 16,
        7 => 17,
        _ => return None,
    })
}
