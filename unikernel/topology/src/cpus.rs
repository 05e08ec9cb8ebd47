//! CPUs: which there are (MADT), and which node each belongs to.

use crate::madt::{Madt, MadtEntry};
use crate::report::Reporter;
use crate::{Cpu, CpuId, MAX_CPUS, NODE_ALIGNMENT, NodeId, NodeSource, Position, Problem, Source, Topology};

/// A topology's CPUs sorted by APIC id.
pub(crate) struct CpuIndex {
    by_apic_id: [CpuId; MAX_CPUS],
    count: usize,
}

/// Why a CPU was not added.
enum NotAdded {
    Duplicate,
    Full,
}

impl CpuIndex {
    fn new() -> Self {
        Self { by_apic_id: [CpuId(0); MAX_CPUS], count: 0 }
    }

    /// All CPUs, by ascending APIC id.
    fn as_slice(&self) -> &[CpuId] {
        &self.by_apic_id[..self.count]
    }

    /// The CPU with an APIC id.
    pub(crate) fn find(&self, topology: &Topology, apic_id: u32) -> Option<CpuId> {
        self.search(topology, apic_id).ok().map(|at| self.by_apic_id[at])
    }

    fn search(&self, topology: &Topology, apic_id: u32) -> Result<usize, usize> {
        self.as_slice().binary_search_by_key(&apic_id, |cpu| topology.cpus[cpu.index()].apic_id)
    }

    fn add(&mut self, topology: &mut Topology, apic_id: u32) -> Result<(), NotAdded> {
        let Err(at) = self.search(topology, apic_id) else { return Err(NotAdded::Duplicate) };
        if self.count == MAX_CPUS {
            return Err(NotAdded::Full);
        }
        self.by_apic_id.copy_within(at..self.count, at + 1);
        self.by_apic_id[at] = CpuId(self.count as u16);
        topology.cpus[self.count] = Cpu { apic_id, node: NodeId(0) };
        self.count += 1;
        topology.cpu_count = self.count;
        Ok(())
    }
}

/// Fills in the CPUs, without their nodes, and what else the MADT tells. There is at least one CPU afterwards.
pub(crate) fn read_madt(
    topology: &mut Topology,
    madt: Option<&[u8]>,
    boot_apic_id: Option<u32>,
    reporter: &mut Reporter,
) -> CpuIndex {
    let mut index = CpuIndex::new();
    // First, so that it is CPU 0 and that no crowd of others keeps it out.
    if let Some(boot) = boot_apic_id {
        let added = index.add(topology, boot);
        debug_assert!(added.is_ok(), "the first CPU is no duplicate and has room");
    }
    match madt {
        None => reporter.whole(Source::Madt, Problem::Absent),
        Some(bytes) => {
            if let Some(madt) = Madt::open(bytes, reporter) {
                read_entries(topology, &mut index, &madt, boot_apic_id, reporter);
                if index.count == 0 {
                    reporter.whole(Source::Madt, Problem::NoCpu);
                }
            }
        }
    }
    if index.count == 0 {
        let added = index.add(topology, 0);
        debug_assert!(added.is_ok(), "the only CPU is no duplicate and has room");
    }
    index
}

fn read_entries(
    topology: &mut Topology,
    index: &mut CpuIndex,
    madt: &Madt<'_>,
    boot_apic_id: Option<u32>,
    reporter: &mut Reporter,
) {
    let mut boot_listed = false;
    let mut left_out = 0;
    let mut first_left_out = None;
    let mut address = (madt.local_apic_address(), None);
    let mut entries = madt.entries();
    while let Some((position, entry)) = entries.next(reporter) {
        match entry {
            MadtEntry::Cpu { apic_id } if Some(apic_id) == boot_apic_id && !boot_listed => boot_listed = true,
            MadtEntry::Cpu { apic_id } => match index.add(topology, apic_id) {
                Ok(()) => {}
                Err(NotAdded::Duplicate) => reporter.at(Source::Madt, position, Problem::DuplicateCpu { apic_id }),
                Err(NotAdded::Full) => {
                    left_out += 1;
                    first_left_out.get_or_insert(position);
                }
            },
            MadtEntry::Broadcast { apic_id } => {
                reporter.at(Source::Madt, position, Problem::BroadcastApicId { apic_id });
            }
            MadtEntry::LocalApicAddress(override_) => address = (override_, Some(position)),
        }
    }
    if let Some(position) = first_left_out {
        reporter.at(Source::Madt, position, Problem::TooManyCpus { left_out });
    }
    if let Some(apic_id) = boot_apic_id
        && !boot_listed
    {
        reporter.whole(Source::Madt, Problem::BootCpuUnlisted { apic_id });
    }
    topology.local_apic_address = checked_address(address, reporter);
    topology.legacy_pics = madt.has_legacy_pics();
}

/// The address, or 0 (the default) for one that cannot be.
fn checked_address((address, position): (u64, Option<Position>), reporter: &mut Reporter) -> u64 {
    if address != 0 && address.is_multiple_of(NODE_ALIGNMENT) {
        return address;
    }
    let problem = Problem::LocalApicAddress { address };
    match position {
        Some(position) => reporter.at(Source::Madt, position, problem),
        None => reporter.whole(Source::Madt, problem),
    }
    0
}

/// Gives every CPU its node. One that no entry covers is put with the covered CPU of the nearest lower APIC id, for the
/// ids of a package are neighbours; before the first covered one, with that.
pub(crate) fn assign(
    topology: &mut Topology,
    index: &CpuIndex,
    domains: &mut [Option<u32>; MAX_CPUS],
    reporter: &mut Reporter,
) {
    let first_covered = index.as_slice().iter().find_map(|cpu| domains[cpu.index()]);
    let mut nearest = first_covered.unwrap_or(topology.proximity_domains[0]);
    for cpu in index.as_slice() {
        let domain = domains[cpu.index()].unwrap_or_else(|| {
            if topology.node_source == NodeSource::Srat {
                let apic_id = topology.cpus[cpu.index()].apic_id;
                reporter.whole(Source::Srat, Problem::CpuUncovered { apic_id, assumed: nearest });
            }
            nearest
        });
        topology.cpus[cpu.index()].node = topology.node_or_first(domain);
        nearest = domain;
    }
}
