//! The sentences of [`Warning`]: what was wrong, then what was assumed.

use crate::{
    LOCAL_DISTANCE, LengthAssumption, MAX_CPUS, MAX_NODES, MAX_RANGES, NODE_ALIGNMENT, Position, Problem,
    REMOTE_DISTANCE, Source, Warning,
};
use core::fmt;

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)?;
        if let Some(Position { index, offset }) = self.position {
            write!(f, " entry {index} at offset {offset:#x}")?;
        }
        f.write_str(": ")?;
        match self.problem {
            Problem::Absent
            | Problem::Signature(_)
            | Problem::TooShort { .. }
            | Problem::Truncated { .. }
            | Problem::Checksum { .. } => self.fmt_table(f),
            Problem::EntryLength { kind, stated, assumed } => fmt_length(f, kind, stated, assumed),
            Problem::NoCpu
            | Problem::BootCpuUnlisted { .. }
            | Problem::DuplicateCpu { .. }
            | Problem::BroadcastApicId { .. }
            | Problem::TooManyCpus { .. }
            | Problem::LocalApicAddress { .. }
            | Problem::CpuInTwoDomains { .. }
            | Problem::CpuUncovered { .. } => self.fmt_cpu(f),
            Problem::NothingDescribed
            | Problem::TooManyDomains { .. }
            | Problem::EmptyMemory { .. }
            | Problem::MemoryWraps { .. }
            | Problem::MemoryOutside { .. }
            | Problem::MemoryBeyond { .. }
            | Problem::MemoryOverlap { .. }
            | Problem::MemorySharesPage { .. }
            | Problem::TooManyRanges { .. }
            | Problem::MemoryUncovered { .. } => self.fmt_memory(f),
            Problem::Repeated { what, count } => {
                let cases = if count == 1 { "case" } else { "cases" };
                write!(f, "{count} more {cases} of this: {what}; assumed the same as above")
            }
            _ => self.fmt_matrix(f),
        }
    }
}

impl Warning {
    fn fmt_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let without = self.source.without();
        // A damaged MADT is better than none: a CPU wrongly listed does not start, one not listed is lost.
        let damaged = if self.source == Source::Madt { "read it all the same" } else { without };
        match self.problem {
            Problem::Absent => write!(f, "no such table; {without}"),
            Problem::Signature(found) => {
                write!(f, "the table begins with \"{}\", not its signature; {without}", found.escape_ascii())
            }
            Problem::TooShort { bytes, least } => {
                write!(f, "the table has {bytes} bytes, and {least} are the least it can have; {without}")
            }
            Problem::Truncated { stated, present } => {
                write!(f, "the table says it has {stated} bytes, and only {present} are there; {damaged}")
            }
            Problem::Checksum { sum } => {
                write!(f, "bad checksum, the bytes add up to {sum:#04x} instead of 0; {damaged}")
            }
            _ => unreachable!("the caller sends the problems above only"),
        }
    }

    fn fmt_cpu(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problem {
            Problem::NoCpu => write!(f, "no enabled CPU is listed; assumed the boot CPU alone"),
            Problem::BootCpuUnlisted { apic_id } => {
                write!(f, "the boot CPU, APIC id {apic_id}, is not listed as enabled; added it")
            }
            Problem::DuplicateCpu { apic_id } => {
                write!(f, "the CPU with APIC id {apic_id} is listed twice; ignored this entry")
            }
            Problem::BroadcastApicId { apic_id } => {
                write!(f, "APIC id {apic_id:#x} means all CPUs and cannot be one's own; ignored this entry")
            }
            Problem::TooManyCpus { left_out } => {
                write!(f, "more than {MAX_CPUS} CPUs are listed; left out {left_out}, beginning with this entry")
            }
            Problem::LocalApicAddress { address } => {
                let default = crate::DEFAULT_LOCAL_APIC_ADDRESS;
                write!(f, "local APIC address {address:#x} is 0 or not a page's; assumed {default}")
            }
            Problem::CpuInTwoDomains { apic_id, kept, other } => write!(
                f,
                "the CPU with APIC id {apic_id} was given to proximity domain {kept} and now to {other}; assumed {kept}"
            ),
            Problem::CpuUncovered { apic_id, assumed } => write!(
                f,
                "no entry gives the CPU with APIC id {apic_id} a node; assumed proximity domain {assumed}, that of the \
                 CPU with the nearest APIC id"
            ),
            _ => unreachable!("the caller sends the problems above only"),
        }
    }

    fn fmt_memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problem {
            Problem::NothingDescribed => {
                write!(f, "no enabled entry is about a CPU or RAM that exists; {}", self.source.without())
            }
            Problem::TooManyDomains { proximity_domain } => write!(
                f,
                "proximity domain {proximity_domain} is one more than the {MAX_NODES} that can be kept; assumed the \
                 lowest domain instead"
            ),
            Problem::EmptyMemory { address } => {
                write!(f, "enabled memory at {address:#x} has no bytes; ignored this entry")
            }
            Problem::MemoryWraps { address, bytes } => write!(
                f,
                "memory at {address:#x} of {bytes:#x} bytes reaches past the end of the address space; ignored this entry"
            ),
            Problem::MemoryOutside { range } => {
                write!(f, "memory {range} is not RAM anywhere in the memory map; ignored this entry")
            }
            Problem::MemoryBeyond { range, ram_end } => write!(
                f,
                "memory {range} ends above all RAM of the memory map; assumed that it ends with RAM at {ram_end:#x}"
            ),
            Problem::MemoryOverlap { range, taken, kept } => write!(
                f,
                "memory {range} overlaps an earlier entry's at {taken}; assumed proximity domain {kept}, the earlier's, \
                 where they do"
            ),
            Problem::MemorySharesPage { range, kept } => write!(
                f,
                "memory {range} begins or ends inside a page ({NODE_ALIGNMENT} bytes) of an earlier entry's; assumed \
                 proximity domain {kept}, the earlier's, for the whole page"
            ),
            Problem::TooManyRanges { range } => match self.source {
                Source::MemoryMap => write!(
                    f,
                    "RAM {range} is one more than the {MAX_RANGES} separate ranges that can be kept; it is not used"
                ),
                _ => write!(
                    f,
                    "memory {range} is one more than the {MAX_RANGES} separate ranges that can be kept; assumed the \
                     node of the memory next to it"
                ),
            },
            Problem::MemoryUncovered { range, assumed } => write!(
                f,
                "no entry covers RAM {range}; assumed proximity domain {assumed}, that of the nearest memory described"
            ),
            _ => unreachable!("the caller sends the problems above only"),
        }
    }

    fn fmt_matrix(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problem {
            Problem::MatrixTooLarge { localities: 0, .. } => {
                write!(f, "a matrix of no localities tells nothing; {}", self.source.without())
            }
            Problem::MatrixTooLarge { localities, bytes } => write!(
                f,
                "a matrix of {localities} localities does not fit in the {bytes} bytes there are for it; {}",
                self.source.without()
            ),
            Problem::MatrixTooSmall { localities, extra } => write!(
                f,
                "the table is {extra} bytes longer than its matrix of {localities} localities; ignored the bytes after it"
            ),
            Problem::DomainBeyondMatrix { localities, proximity_domain, rows_are_nodes: false } => write!(
                f,
                "a matrix of {localities} localities has none for proximity domain {proximity_domain}; assumed distance \
                 {REMOTE_DISTANCE} from and to it"
            ),
            Problem::DomainBeyondMatrix { localities, proximity_domain, rows_are_nodes: true } => write!(
                f,
                "a matrix of {localities} localities has none for proximity domain {proximity_domain}, but as many as \
                 there are nodes; assumed that its rows are the nodes in ascending order"
            ),
            Problem::LocalDistance { proximity_domain, distance } => write!(
                f,
                "proximity domain {proximity_domain} is at distance {distance} from itself; assumed {LOCAL_DISTANCE}"
            ),
            Problem::LowDistance { from, to, distance, assumed } => write!(
                f,
                "distance {distance} from proximity domain {from} to {to} is below {LOCAL_DISTANCE}; assumed {assumed}"
            ),
            Problem::AsymmetricDistance { from, to, there, back } => write!(
                f,
                "proximity domain {from} is at distance {there} from {to} but {back} the other way; assumed each as told"
            ),
            Problem::StructureTooShort { initiators, targets, bytes } => write!(
                f,
                "a structure of {bytes} bytes cannot hold {initiators} initiators and {targets} targets; ignored it"
            ),
            Problem::UnknownDataType(data_type) => {
                write!(f, "data type {data_type} is not defined; ignored this structure")
            }
            Problem::Unrepresentable { from, to, entry, unit } => write!(
                f,
                "{entry} units of {unit} from proximity domain {from} to {to} is no sensible latency or bandwidth; \
                 assumed it unknown"
            ),
            _ => unreachable!("the callers handle all other problems"),
        }
    }
}

fn fmt_length(f: &mut fmt::Formatter<'_>, kind: u16, stated: u32, assumed: LengthAssumption) -> fmt::Result {
    write!(f, "an entry of type {kind} cannot have {stated} bytes here; ")?;
    match assumed {
        LengthAssumption::Specified(length) => write!(f, "assumed the {length} bytes of its type"),
        LengthAssumption::Skipped => write!(f, "ignored this entry"),
        LengthAssumption::RestIgnored(bytes) => write!(f, "ignored the rest of the table, {bytes} bytes"),
    }
}
