//! How warnings reach the caller: [`Reporter`] keeps a table of garbage from flooding the console.
//!
//! **The rule of repetition.** Each kind of problem of each table is told in full [`FULL_REPORTS`] times; further cases
//! are counted, and one line at the end of discovery ([`Problem::Repeated`]) tells how many there were.

use crate::{Position, Problem, Source, Warning};

/// How many cases of one kind of problem in one table are told in full.
pub const FULL_REPORTS: u32 = 4;

/// Hands warnings on, and counts where they repeat.
pub(crate) struct Reporter<'w> {
    warn: &'w mut dyn FnMut(Warning),
    told: [[u32; Problem::KINDS]; SOURCES.len()],
    names: [&'static str; Problem::KINDS],
}

impl<'w> Reporter<'w> {
    pub(crate) fn new(warn: &'w mut dyn FnMut(Warning)) -> Self {
        Self { warn, told: [[0; Problem::KINDS]; SOURCES.len()], names: [""; Problem::KINDS] }
    }

    /// A problem of one entry.
    pub(crate) fn at(&mut self, source: Source, position: Position, problem: Problem) {
        self.report(Warning { source, position: Some(position), problem });
    }

    /// A problem of a table as a whole.
    pub(crate) fn whole(&mut self, source: Source, problem: Problem) {
        self.report(Warning { source, position: None, problem });
    }

    fn report(&mut self, warning: Warning) {
        let (kind, name) = warning.problem.kind();
        let told = &mut self.told[warning.source as usize][kind];
        *told = told.saturating_add(1);
        self.names[kind] = name;
        if *told <= FULL_REPORTS {
            (self.warn)(warning);
        }
    }

    /// Tells what was only counted.
    pub(crate) fn finish(self) {
        for source in SOURCES {
            for (told, what) in self.told[source as usize].iter().zip(self.names) {
                let count = told.saturating_sub(FULL_REPORTS);
                if count > 0 {
                    (self.warn)(Warning { source, position: None, problem: Problem::Repeated { what, count } });
                }
            }
        }
    }
}

/// In the order of their discriminants.
const SOURCES: [Source; 5] = [Source::Madt, Source::Srat, Source::Slit, Source::Hmat, Source::MemoryMap];

impl Problem {
    const KINDS: usize = 31;

    /// A number below [`Self::KINDS`] for each kind of problem, and its name in a few words.
    const fn kind(&self) -> (usize, &'static str) {
        match self {
            Self::Absent => (0, "no such table"),
            Self::Signature(_) => (1, "wrong signature"),
            Self::TooShort { .. } => (2, "too short a table"),
            Self::Truncated { .. } => (3, "truncated table"),
            Self::Checksum { .. } => (4, "bad checksum"),
            Self::EntryLength { .. } => (5, "impossible entry length"),
            Self::NoCpu => (6, "no CPU"),
            Self::BootCpuUnlisted { .. } => (7, "boot CPU not listed"),
            Self::DuplicateCpu { .. } => (8, "CPU listed twice"),
            Self::BroadcastApicId { .. } => (9, "broadcast APIC id"),
            Self::TooManyCpus { .. } => (10, "too many CPUs"),
            Self::LocalApicAddress { .. } => (11, "impossible local APIC address"),
            Self::NothingDescribed => (12, "nothing described"),
            Self::TooManyDomains { .. } => (13, "too many proximity domains"),
            Self::CpuInTwoDomains { .. } => (14, "CPU in two proximity domains"),
            Self::CpuUncovered { .. } => (15, "CPU that no entry covers"),
            Self::EmptyMemory { .. } => (16, "empty memory range"),
            Self::MemoryWraps { .. } => (17, "memory range past the end of the address space"),
            Self::MemoryOutside { .. } => (18, "memory range without RAM"),
            Self::MemoryBeyond { .. } => (19, "memory range ending above all RAM"),
            Self::MemoryOverlap { .. } => (20, "overlapping memory range"),
            Self::MemorySharesPage { .. } => (21, "memory range sharing a page"),
            Self::TooManyRanges { .. } => (22, "memory range too many"),
            Self::MemoryUncovered { .. } => (23, "RAM that no entry covers"),
            Self::MatrixTooLarge { .. } | Self::MatrixTooSmall { .. } => (24, "matrix of the wrong size"),
            Self::DomainBeyondMatrix { .. } => (25, "proximity domain beyond the matrix"),
            Self::LocalDistance { .. } | Self::LowDistance { .. } => (26, "impossible distance"),
            Self::AsymmetricDistance { .. } => (27, "asymmetric distance"),
            Self::StructureTooShort { .. } => (28, "structure too short for its matrix"),
            Self::UnknownDataType(_) => (29, "unknown data type"),
            Self::Unrepresentable { .. } | Self::Repeated { .. } => (30, "latency or bandwidth out of range"),
        }
    }
}
