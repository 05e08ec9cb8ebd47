//! What all tables have in common: the header, its checksum, and the walk over the entries of MADT and SRAT.
//!
//! The walk is where lying lengths are dealt with. An entry states its own length, and the specification fixes it for
//! every type that matters here, so there are two opinions on where the next entry begins. What the bytes at the two
//! places look like decides, and only where neither can be right is the rest of the table given up. So one damaged
//! length byte loses no CPU.

use crate::bytes::{u8_at, u32_at};
use crate::report::Reporter;
use crate::{LengthAssumption, Position, Problem, Source};

/// The raw tables, each from the first byte of its header; `None` where the machine has none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tables<'t> {
    /// Multiple APIC description table (signature `APIC`).
    pub madt: Option<&'t [u8]>,
    /// System resource affinity table (`SRAT`).
    pub srat: Option<&'t [u8]>,
    /// System locality information table (`SLIT`).
    pub slit: Option<&'t [u8]>,
    /// Heterogeneous memory attribute table (`HMAT`).
    pub hmat: Option<&'t [u8]>,
}

/// Bytes of the header all tables begin with (ACPI specification 6.5, section 5.2.6).
pub(crate) const HEADER: usize = 36;

/// A table whose header and checksum were found good, or good enough; cut to its length.
#[derive(Clone, Copy)]
pub(crate) struct Table<'t> {
    pub(crate) bytes: &'t [u8],
    pub(crate) revision: u8,
}

impl<'t> Table<'t> {
    /// Checks a table that must have `least` bytes for its fixed part. `None`, and a warning, if it is not to be
    /// believed. A MADT that is truncated or has a bad checksum is read all the same: refusing it would lose CPUs.
    pub(crate) fn open(source: Source, bytes: &'t [u8], least: usize, reporter: &mut Reporter) -> Option<Self> {
        let too_short = |bytes: usize| Problem::TooShort { bytes: clamped(bytes), least: clamped(least) };
        let (Some(stated), Some(revision)) = (u32_at(bytes, 4), u8_at(bytes, 8)) else {
            reporter.whole(source, too_short(bytes.len()));
            return None;
        };
        let signature = bytes.first_chunk::<4>().copied().unwrap_or_default();
        if signature != source.signature() {
            reporter.whole(source, Problem::Signature(signature));
            return None;
        }
        let present = &bytes[..bytes.len().min(stated as usize)];
        if present.len() < least {
            reporter.whole(source, too_short(present.len()));
            return None;
        }
        let sum = present.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
        let damage = if present.len() < stated as usize {
            Some(Problem::Truncated { stated, present: clamped(present.len()) })
        } else if sum != 0 {
            Some(Problem::Checksum { sum })
        } else {
            None
        };
        if let Some(damage) = damage {
            reporter.whole(source, damage);
            if source != Source::Madt {
                return None;
            }
        }
        Some(Self { bytes: present, revision })
    }

    /// Walks the entries that begin at `offset`; `specified` gives the least length of each type known.
    pub(crate) fn entries(&self, source: Source, offset: usize, specified: fn(u8) -> Option<usize>) -> Entries<'t> {
        let content_end = self.bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        Entries { bytes: self.bytes, source, specified, content_end, offset, index: 0 }
    }
}

/// An entry: its type, and its bytes, of which there are at least as many as the specification asks for.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'t> {
    pub(crate) kind: u8,
    pub(crate) bytes: &'t [u8],
    pub(crate) position: Position,
}

/// A walk over the entries of a table.
pub(crate) struct Entries<'t> {
    bytes: &'t [u8],
    source: Source,
    specified: fn(u8) -> Option<usize>,
    /// From here on there are only zeros.
    content_end: usize,
    offset: usize,
    index: u32,
}

/// What the walk does with an entry.
enum Step {
    /// Read this many bytes.
    Read(usize),
    /// Read this many bytes although the entry says otherwise.
    Correct(usize),
    /// Pass over this many bytes.
    Skip(usize),
    /// Nothing more can be read.
    Stop,
}

impl<'t> Entries<'t> {
    /// The next entry that can be read; every step is at least two bytes, so the walk ends.
    pub(crate) fn next(&mut self, reporter: &mut Reporter) -> Option<Entry<'t>> {
        loop {
            let left = self.bytes.get(self.offset..).filter(|left| !left.is_empty())?;
            let position = Position { index: self.index, offset: clamped(self.offset) };
            let kind = left[0];
            let stated = u8_at(left, 1).unwrap_or(0);
            let mut tell = |assumed| {
                let problem = Problem::EntryLength { kind: kind.into(), stated: stated.into(), assumed };
                reporter.at(self.source, position, problem);
            };
            let step = self.step(kind, stated.into(), left.len());
            self.index = self.index.saturating_add(1);
            let length = match step {
                Step::Read(length) => length,
                Step::Correct(length) => {
                    tell(LengthAssumption::Specified(clamped(length)));
                    length
                }
                Step::Skip(length) => {
                    tell(LengthAssumption::Skipped);
                    self.offset += length;
                    continue;
                }
                Step::Stop => {
                    tell(LengthAssumption::RestIgnored(clamped(left.len())));
                    self.offset = self.bytes.len();
                    return None;
                }
            };
            self.offset += length;
            return Some(Entry { kind, bytes: &left[..length], position });
        }
    }

    fn step(&self, kind: u8, stated: usize, left: usize) -> Step {
        if self.offset >= self.content_end {
            return Step::Stop;
        }
        let believable = stated >= 2 && stated <= left;
        let Some(specified) = (self.specified)(kind) else {
            return if believable { Step::Read(stated) } else { Step::Stop };
        };
        let fits = specified <= left;
        let follows = |length| self.plausible(self.offset + length);
        if believable && stated >= specified {
            // A longer entry is how the specification grows; but not if it swallows the beginning of another.
            let overlong =
                stated > specified && (self.certain(self.offset + specified) || !follows(stated) && follows(specified));
            return if overlong { Step::Correct(specified) } else { Step::Read(stated) };
        }
        let short_but_followed = believable && follows(stated) && !(fits && follows(specified));
        if fits && !short_but_followed {
            Step::Correct(specified)
        } else if believable {
            Step::Skip(stated)
        } else {
            Step::Stop
        }
    }

    /// Whether an entry can begin at `offset`, or the table end there.
    fn plausible(&self, offset: usize) -> bool {
        if offset == self.bytes.len() {
            return true;
        }
        let Some((kind, stated)) = self.kind_and_length(offset) else { return false };
        stated >= (self.specified)(kind).unwrap_or(2) && offset + stated <= self.bytes.len()
    }

    /// Whether an entry begins at `offset` if anywhere: one of a known type and of exactly its length.
    fn certain(&self, offset: usize) -> bool {
        self.kind_and_length(offset).is_some_and(|(kind, stated)| (self.specified)(kind) == Some(stated))
    }

    fn kind_and_length(&self, offset: usize) -> Option<(u8, usize)> {
        Some((u8_at(self.bytes, offset)?, u8_at(self.bytes, offset + 1)?.into()))
    }
}

/// A size or offset for a warning; tables are below 4 GiB by their header's own word.
pub(crate) fn clamped(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}
