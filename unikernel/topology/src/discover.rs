//! The steps from tables to a [`Topology`]: CPUs, then who belongs where, then memory, then distances.
//!
//! Called once at boot, before anything can be allocated and before other CPUs run. Working space is on the stack,
//! about 16 KiB; time is linear in the size of the tables times the logarithm of what is kept from them.

use crate::claims::Claims;
use crate::cpus::{self, CpuIndex};
use crate::report::Reporter;
use crate::srat::{Srat, SratEntry};
use crate::{
    DistanceSource, MAX_CPUS, MAX_NODES, MemoryPerformance, NodeId, NodeSource, PhysicalRange, Position, Problem,
    Source, Tables, Topology, Warning, distances, memory,
};

impl Topology {
    /// Reads a machine's firmware tables, and writes what they say over `self`.
    ///
    /// `ram` is the RAM of the boot memory map, in bytes, in any order; it is the last word on what is memory, the
    /// tables only on whose it is. `boot_apic_id` is the local APIC id of the CPU that runs this, which becomes
    /// [`CpuId`](crate::CpuId) 0; without it, that is the first CPU listed. The other CPUs follow in the order of the
    /// MADT.
    ///
    /// The result is valid ([`Self::validate`]) whatever the tables hold: there is always a node and a CPU, and all of
    /// `ram` belongs to a node. Every case of a table lying, or leaving out what is needed, is told to `warn` together
    /// with what was assumed; see [`Problem`] for the cases and [`crate::FULL_REPORTS`] for how often one is repeated.
    ///
    /// - A CPU no entry covers joins the node of the CPU with the nearest lower APIC id (failing that, higher).
    /// - RAM no entry covers joins the node of the nearest memory by address, or node 0 if no memory is described.
    /// - A node is a proximity domain with a CPU or RAM; a domain with neither is none. Without a believable SRAT
    ///   there is one node.
    pub fn discover(
        &mut self,
        tables: &Tables<'_>,
        ram: &[PhysicalRange],
        boot_apic_id: Option<u32>,
        warn: &mut dyn FnMut(Warning),
    ) {
        let mut reporter = Reporter::new(warn);
        self.clear();
        memory::keep_ram(self, ram, &mut reporter);
        let index = cpus::read_madt(self, tables.madt, boot_apic_id, &mut reporter);
        self.assign(tables.srat, &index, &mut reporter);
        self.drop_empty_nodes();
        distances::read(self, tables, &mut reporter);
        reporter.finish();
    }

    /// As [`Topology::empty`], but in place.
    fn clear(&mut self) {
        self.node_count = 0;
        self.cpu_count = 0;
        self.range_count = 0;
        self.absent_count = 0;
        for (distances, performance) in self.distances.iter_mut().zip(&mut self.performance) {
            distances.fill(0);
            performance.fill(MemoryPerformance::UNKNOWN);
        }
        self.node_source = NodeSource::Assumed;
        self.distance_source = DistanceSource::Assumed;
        self.local_apic_address = 0;
        self.legacy_pics = false;
    }

    /// Gives every CPU and every byte of RAM a node.
    fn assign(&mut self, srat: Option<&[u8]>, index: &CpuIndex, reporter: &mut Reporter) {
        let mut claims = Claims::new();
        let mut cpu_domains = [None; MAX_CPUS];
        match srat {
            None => reporter.whole(Source::Srat, Problem::Absent),
            Some(bytes) => {
                if let Some(srat) = Srat::open(bytes, reporter) {
                    self.read_srat(srat, index, &mut claims, &mut cpu_domains, reporter);
                    if self.node_count == 0 {
                        reporter.whole(Source::Srat, Problem::NothingDescribed);
                    } else {
                        self.node_source = NodeSource::Srat;
                    }
                }
            }
        }
        if self.node_count == 0 {
            self.proximity_domains[0] = 0;
            self.node_count = 1;
        }
        cpus::assign(self, index, &mut cpu_domains, reporter);
        memory::assign(self, &claims, reporter);
    }

    fn read_srat(
        &mut self,
        srat: Srat<'_>,
        index: &CpuIndex,
        claims: &mut Claims,
        cpu_domains: &mut [Option<u32>; MAX_CPUS],
        reporter: &mut Reporter,
    ) {
        let mut entries = srat.entries();
        while let Some((position, entry)) = entries.next(reporter) {
            match entry {
                SratEntry::Cpu { apic_id, proximity_domain } => {
                    // Firmware lists sockets that are empty and CPUs that can be added later: no node for them.
                    let Some(cpu) = index.find(self, apic_id) else { continue };
                    match cpu_domains[cpu.index()] {
                        None => {
                            cpu_domains[cpu.index()] = Some(proximity_domain);
                            self.add_domain(proximity_domain, position, reporter);
                        }
                        Some(kept) if kept != proximity_domain => {
                            let problem = Problem::CpuInTwoDomains { apic_id, kept, other: proximity_domain };
                            reporter.at(Source::Srat, position, problem);
                        }
                        Some(_) => {}
                    }
                }
                SratEntry::Memory(memory) => {
                    if memory::claim(self, claims, &memory, position, reporter) {
                        self.add_domain(memory.proximity_domain, position, reporter);
                    }
                }
            }
        }
    }

    /// Makes a proximity domain a node. Until all are known, ids are not final.
    fn add_domain(&mut self, proximity_domain: u32, position: Position, reporter: &mut Reporter) {
        let Err(at) = self.proximity_domains[..self.node_count].binary_search(&proximity_domain) else { return };
        if self.node_count == MAX_NODES {
            reporter.at(Source::Srat, position, Problem::TooManyDomains { proximity_domain });
            return;
        }
        self.proximity_domains.copy_within(at..self.node_count, at + 1);
        self.proximity_domains[at] = proximity_domain;
        self.node_count += 1;
    }

    /// The node of a domain, and the first for a domain there was no room for.
    pub(crate) fn node_or_first(&self, proximity_domain: u32) -> NodeId {
        self.node_of_domain(proximity_domain).unwrap_or(NodeId(0))
    }

    /// Renumbers the nodes so that none is left without CPU and RAM. Only where there were too many ranges to tell
    /// apart can one have lost what it was made for.
    fn drop_empty_nodes(&mut self) {
        let mut used = [false; MAX_NODES];
        for cpu in self.cpus() {
            used[cpu.node.index()] = true;
        }
        for memory in self.memory() {
            used[memory.node.index()] = true;
        }
        let mut renumbered = [NodeId(0); MAX_NODES];
        let mut kept = 0;
        for node in 0..self.node_count {
            renumbered[node] = NodeId(kept as u8);
            if used[node] {
                self.proximity_domains[kept] = self.proximity_domains[node];
                kept += 1;
            }
        }
        self.node_count = kept;
        for cpu in &mut self.cpus[..self.cpu_count] {
            cpu.node = renumbered[cpu.node.index()];
        }
        for memory in &mut self.ranges[..self.range_count] {
            memory.node = renumbered[memory.node.index()];
        }
    }
}
