//! What discovery has to say about firmware that lies: [`Warning`], one for each case.
//!
//! How each is put into words stands in `sentence`, how often the same is said in `report`.

use crate::PhysicalRange;
use core::fmt;

/// Who said what a warning is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Multiple APIC description table: the CPUs.
    Madt,
    /// System resource affinity table: nodes of CPUs and memory.
    Srat,
    /// System locality information table: distances.
    Slit,
    /// Heterogeneous memory attribute table: latency and bandwidth.
    Hmat,
    /// The boot memory map.
    MemoryMap,
}

impl Source {
    /// The signature a table of this kind begins with; none for the memory map.
    pub(crate) const fn signature(self) -> [u8; 4] {
        match self {
            Self::Madt => *b"APIC",
            Self::Srat => *b"SRAT",
            Self::Slit => *b"SLIT",
            Self::Hmat => *b"HMAT",
            Self::MemoryMap => [0; 4],
        }
    }

    /// What is done without this table.
    pub(crate) const fn without(self) -> &'static str {
        match self {
            Self::Madt => "assumed the boot CPU alone",
            Self::Srat => "assumed one node",
            Self::Slit => "assumed the HMAT's latencies or distance 20 between nodes",
            Self::Hmat => "assumed nothing about latency and bandwidth",
            Self::MemoryMap => "assumed no memory",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Madt => "MADT",
            Self::Srat => "SRAT",
            Self::Slit => "SLIT",
            Self::Hmat => "HMAT",
            Self::MemoryMap => "memory map",
        })
    }
}

/// Which entry of a table: the how-manieth, and where it begins in bytes from the table's first. In a SLIT, which
/// byte of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Counted from 0.
    pub index: u32,
    /// In bytes from the beginning of the table's header.
    pub offset: u32,
}

/// Where to read on after an entry whose length cannot be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LengthAssumption {
    /// The length the specification gives for its type, this many bytes; the entry counts.
    Specified(u32),
    /// The length stated, though the entry is too short to be read: it does not count.
    Skipped,
    /// Nothing sensible follows: the rest of the table, this many bytes, is ignored.
    RestIgnored(u32),
}

/// What was wrong. Each says in its sentence what was assumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The table is not there. Legal, except for the MADT.
    Absent,
    /// The table begins with the signature of another.
    Signature([u8; 4]),
    /// The table is too short for its own header.
    TooShort {
        /// Bytes there are.
        bytes: u32,
        /// Bytes there must be.
        least: u32,
    },
    /// The table says it is longer than the bytes there are.
    Truncated {
        /// Length in the header.
        stated: u32,
        /// Bytes there are.
        present: u32,
    },
    /// The bytes of the table do not add up to 0.
    Checksum {
        /// What they add up to.
        sum: u8,
    },
    /// An entry's length cannot be right.
    EntryLength {
        /// The entry's type.
        kind: u16,
        /// Its length in bytes, as stated.
        stated: u32,
        /// What was made of it.
        assumed: LengthAssumption,
    },
    /// No enabled CPU is listed.
    NoCpu,
    /// The boot CPU is not listed, or listed as disabled.
    BootCpuUnlisted {
        /// Its APIC id.
        apic_id: u32,
    },
    /// A CPU is listed twice.
    DuplicateCpu {
        /// Its APIC id.
        apic_id: u32,
    },
    /// An enabled CPU has the APIC id that means all CPUs.
    BroadcastApicId {
        /// The id.
        apic_id: u32,
    },
    /// There are more CPUs than a topology holds; the position is of the first left out.
    TooManyCpus {
        /// How many were left out.
        left_out: u32,
    },
    /// The address of the local APICs is 0 or not that of a page.
    LocalApicAddress {
        /// The address.
        address: u64,
    },
    /// No enabled entry is about a CPU or RAM that exists.
    NothingDescribed,
    /// There are more proximity domains than a topology has nodes.
    TooManyDomains {
        /// The one that did not fit.
        proximity_domain: u32,
    },
    /// A CPU is given to two proximity domains.
    CpuInTwoDomains {
        /// Its APIC id.
        apic_id: u32,
        /// The first told, kept.
        kept: u32,
        /// The second told.
        other: u32,
    },
    /// No entry gives a CPU a node.
    CpuUncovered {
        /// Its APIC id.
        apic_id: u32,
        /// The domain it was put in: that of the CPU with the nearest lower APIC id (failing that, higher).
        assumed: u32,
    },
    /// An enabled memory range has no bytes.
    EmptyMemory {
        /// Its address.
        address: u64,
    },
    /// A memory range reaches past the end of the address space.
    MemoryWraps {
        /// Its address.
        address: u64,
        /// Its length in bytes.
        bytes: u64,
    },
    /// None of a memory range is RAM.
    MemoryOutside {
        /// The range.
        range: PhysicalRange,
    },
    /// A memory range ends above all RAM, and by more than firmware keeps for itself (64 MiB).
    MemoryBeyond {
        /// The range.
        range: PhysicalRange,
        /// Where RAM ends.
        ram_end: u64,
    },
    /// Two memory ranges overlap.
    MemoryOverlap {
        /// The range told later.
        range: PhysicalRange,
        /// The first stretch of it that was taken.
        taken: PhysicalRange,
        /// The proximity domain that keeps it, told earlier.
        kept: u32,
    },
    /// Two memory ranges meet inside a page.
    MemorySharesPage {
        /// The range told later.
        range: PhysicalRange,
        /// The proximity domain that keeps the page, told earlier.
        kept: u32,
    },
    /// There are more separate memory ranges than can be kept.
    TooManyRanges {
        /// The first part that was not told apart.
        range: PhysicalRange,
    },
    /// RAM that no entry covers.
    MemoryUncovered {
        /// The RAM.
        range: PhysicalRange,
        /// The domain it was put in: that of the nearest memory by address.
        assumed: u32,
    },
    /// The matrix does not fit in the table, or has no localities.
    MatrixTooLarge {
        /// Localities stated.
        localities: u64,
        /// Bytes there are for the matrix.
        bytes: u32,
    },
    /// The table is longer than its matrix.
    MatrixTooSmall {
        /// Localities stated.
        localities: u64,
        /// Bytes too many.
        extra: u32,
    },
    /// The matrix does not reach a node's proximity domain; the position is of the number of localities.
    DomainBeyondMatrix {
        /// Localities stated.
        localities: u64,
        /// The domain.
        proximity_domain: u32,
        /// There are as many localities as nodes, so rows were taken to be the nodes in ascending order.
        rows_are_nodes: bool,
    },
    /// A domain's distance to itself is not 10.
    LocalDistance {
        /// The domain.
        proximity_domain: u32,
        /// The distance.
        distance: u8,
    },
    /// A distance between two domains is below 10.
    LowDistance {
        /// From this domain.
        from: u32,
        /// To this domain.
        to: u32,
        /// The distance.
        distance: u8,
        /// What was assumed: the distance back if that is sound, else 20.
        assumed: u8,
    },
    /// The distances there and back differ.
    AsymmetricDistance {
        /// From this domain.
        from: u32,
        /// To this domain.
        to: u32,
        /// The distance there.
        there: u8,
        /// The distance back.
        back: u8,
    },
    /// A structure of latencies or bandwidths is too short for its lists and matrix.
    StructureTooShort {
        /// Initiators stated.
        initiators: u32,
        /// Targets stated.
        targets: u32,
        /// Bytes of the structure.
        bytes: u32,
    },
    /// A structure of latencies or bandwidths is of a type nobody has defined.
    UnknownDataType(u8),
    /// A latency or bandwidth is too large, or its unit is 0.
    Unrepresentable {
        /// From this domain.
        from: u32,
        /// To this domain.
        to: u32,
        /// The matrix entry.
        entry: u16,
        /// Its unit.
        unit: u64,
    },
    /// Further cases of a problem already told [`crate::FULL_REPORTS`] times.
    Repeated {
        /// The problem, in a few words.
        what: &'static str,
        /// How many further cases.
        count: u32,
    },
}

/// One case of firmware not telling the truth, or not telling: who, where, what, and what was assumed instead. Its
/// [`Display`](fmt::Display) is one sentence for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Who said it.
    pub source: Source,
    /// The entry; `None` where the table as a whole, or what it does not say, is meant.
    pub position: Option<Position>,
    /// What was wrong.
    pub problem: Problem,
}

impl Warning {
    /// Whether this is no fault of the firmware's: a table left out that may be left out.
    pub fn is_legal(&self) -> bool {
        self.problem == Problem::Absent && self.source != Source::Madt
    }
}
