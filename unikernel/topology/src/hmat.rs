//! The heterogeneous memory attribute table: latency and bandwidth from CPUs to memory (ACPI specification 6.5, section
//! 5.2.27). Only structures of type 1 that speak of memory itself are read; those of memory-side caches are passed
//! over.

use crate::bytes::{u8_at, u16_at, u32_at, u64_at};
use crate::report::Reporter;
use crate::table::{HEADER, Table, clamped};
use crate::{LengthAssumption, Position, Problem, Source};
use core::num::NonZeroU32;

/// Header and 4 reserved bytes.
const FIXED_PART: usize = HEADER + 4;

/// Bytes of a structure of type 1 before its lists.
const LISTS: usize = 32;

/// An entry that says: not reachable.
const UNREACHABLE: u16 = 0xffff;

/// What a matrix is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataType {
    AccessLatency,
    ReadLatency,
    WriteLatency,
    AccessBandwidth,
    ReadBandwidth,
    WriteBandwidth,
}

impl DataType {
    fn is_latency(self) -> bool {
        matches!(self, Self::AccessLatency | Self::ReadLatency | Self::WriteLatency)
    }

    /// Access is read and write together; read and write alone are more precise and so have the last word.
    pub(crate) fn is_access(self) -> bool {
        matches!(self, Self::AccessLatency | Self::AccessBandwidth)
    }
}

/// The table.
#[derive(Clone, Copy)]
pub(crate) struct Hmat<'t>(Table<'t>);

impl<'t> Hmat<'t> {
    pub(crate) fn open(bytes: &'t [u8], reporter: &mut Reporter) -> Option<Self> {
        Table::open(Source::Hmat, bytes, FIXED_PART, reporter).map(Self)
    }

    pub(crate) fn matrices(&self) -> Matrices<'t> {
        Matrices { table: self.0, offset: FIXED_PART, index: 0 }
    }
}

/// A walk over the matrices that matter here.
pub(crate) struct Matrices<'t> {
    table: Table<'t>,
    offset: usize,
    index: u32,
}

impl<'t> Matrices<'t> {
    pub(crate) fn next(&mut self, reporter: &mut Reporter) -> Option<Matrix<'t>> {
        loop {
            let left = self.table.bytes.get(self.offset..).filter(|left| !left.is_empty())?;
            let position = Position { index: self.index, offset: clamped(self.offset) };
            let (kind, stated) = (u16_at(left, 0).unwrap_or(0), u32_at(left, 4).unwrap_or(0));
            // The length depends on the lists inside, so a wrong one cannot be put right as in MADT and SRAT.
            let Some(structure) = left.get(..stated as usize).filter(|structure| structure.len() >= 8) else {
                let assumed = LengthAssumption::RestIgnored(clamped(left.len()));
                reporter.at(Source::Hmat, position, Problem::EntryLength { kind, stated, assumed });
                self.offset = self.table.bytes.len();
                return None;
            };
            self.offset += structure.len();
            self.index = self.index.saturating_add(1);
            if kind != 1 {
                continue;
            }
            match Matrix::read(structure, position, self.table.revision) {
                Ok(Some(matrix)) => return Some(matrix),
                Ok(None) => {}
                Err(problem) => reporter.at(Source::Hmat, position, problem),
            }
        }
    }
}

/// One structure of type 1: what it costs each initiator to reach each target.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'t> {
    pub(crate) data_type: DataType,
    pub(crate) position: Position,
    unit: u64,
    revision: u8,
    initiators: &'t [u8],
    targets: &'t [u8],
    entries: &'t [u8],
}

/// One entry of a matrix, or why it cannot be told.
pub(crate) type Value = Result<NonZeroU32, Problem>;

impl<'t> Matrix<'t> {
    /// `Ok(None)` for a structure about something else than memory.
    fn read(structure: &'t [u8], position: Position, revision: u8) -> Result<Option<Self>, Problem> {
        let (initiators, targets) = (u32_at(structure, 12).unwrap_or(0), u32_at(structure, 16).unwrap_or(0));
        let too_short = Problem::StructureTooShort { initiators, targets, bytes: clamped(structure.len()) };
        let (Some(flags), Some(data_type), Some(unit)) =
            (u8_at(structure, 8), u8_at(structure, 9), u64_at(structure, 24))
        else {
            return Err(too_short);
        };
        // Bits 0 to 3: which level of the memory hierarchy; 0 is memory, the others are its caches.
        if flags & 0xf != 0 {
            return Ok(None);
        }
        let data_type = match data_type {
            0 => DataType::AccessLatency,
            1 => DataType::ReadLatency,
            2 => DataType::WriteLatency,
            3 => DataType::AccessBandwidth,
            4 => DataType::ReadBandwidth,
            5 => DataType::WriteBandwidth,
            other => return Err(Problem::UnknownDataType(other)),
        };
        let split = |bytes: &'t [u8], count: u64, size: u64| {
            usize::try_from(count.checked_mul(size)?).ok().and_then(|length| bytes.split_at_checked(length))
        };
        let lists = structure.get(LISTS..).ok_or(too_short)?;
        let (initiator_list, rest) = split(lists, initiators.into(), 4).ok_or(too_short)?;
        let (target_list, rest) = split(rest, targets.into(), 4).ok_or(too_short)?;
        let cells = u64::from(initiators) * u64::from(targets);
        let (entries, _) = split(rest, cells, 2).ok_or(too_short)?;
        Ok(Some(Self {
            data_type,
            position,
            unit,
            revision,
            initiators: initiator_list,
            targets: target_list,
            entries,
        }))
    }

    /// Every entry that tells something: initiator's domain, target's domain, and the value in picoseconds or
    /// megabytes a second.
    pub(crate) fn values(&self) -> impl Iterator<Item = (u32, u32, Value)> + '_ {
        let columns = self.targets.len() / 4;
        self.entries.chunks_exact(2).enumerate().filter_map(move |(cell, entry)| {
            let entry = u16_at(entry, 0)?;
            let from = u32_at(self.initiators, cell / columns * 4)?;
            let to = u32_at(self.targets, cell % columns * 4)?;
            // 0: not provided.
            if entry == 0 || entry == UNREACHABLE {
                return None;
            }
            let problem = Problem::Unrepresentable { from, to, entry, unit: self.unit };
            Some((from, to, self.scaled(entry).ok_or(problem)))
        })
    }

    fn scaled(&self, entry: u16) -> Option<NonZeroU32> {
        let value = self.unit.checked_mul(entry.into())?;
        // Revision 1 (ACPI 6.2) counts in tenths: of nanoseconds and of MB/s. This is how Linux reads it, too.
        let value = match (self.revision, self.data_type.is_latency()) {
            (0 | 1, true) => value.checked_mul(100)?,
            (0 | 1, false) => value / 10,
            _ => value,
        };
        NonZeroU32::new(u32::try_from(value).ok()?)
    }
}
