//! The plain data a machine's topology is: nodes, CPUs, memory ranges and distances.
//!
//! Built by the parser from firmware tables or by a builder for simulated machines; read by everyone
//! above. Fixed capacity, because nothing can be allocated when it is made.

use core::fmt;

/// Most NUMA nodes a topology holds. Linux's default for x86_64 is 64 as well (`NODES_SHIFT`).
pub const MAX_NODES: usize = 64;

/// Most CPUs a topology holds.
pub const MAX_CPUS: usize = 256;

/// Most memory ranges a topology holds.
pub const MAX_RANGES: usize = 256;

/// Distance of a node to itself (ACPI specification 6.5, section 5.2.17).
pub const LOCAL_DISTANCE: u8 = 10;

/// Distance assumed between two nodes when firmware does not say.
pub const REMOTE_DISTANCE: u8 = 20;

/// A NUMA node: a dense index in the order of proximity domains. Not the proximity domain itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u8);

/// A CPU: a dense index in the order of the MADT, the boot CPU first. Not the APIC id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(pub u16);

impl NodeId {
    /// As an index of an array.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl CpuId {
    /// As an index of an array.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpu {}", self.0)
    }
}

/// A range of physical addresses in bytes; `end` is exclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PhysicalRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

/// A CPU the firmware says can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Local APIC id (x2APIC ids are 32 bits wide).
    pub apic_id: u32,
    /// Its node.
    pub node: NodeId,
}

/// RAM and the node it belongs to. Ranges are sorted, do not overlap and lie within the boot memory map's RAM,
/// except those marked hot-pluggable and absent, which are not listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// Where.
    pub range: PhysicalRange,
    /// Its node.
    pub node: NodeId,
    /// The SRAT calls it hot-pluggable.
    pub hot_pluggable: bool,
    /// The SRAT calls it non-volatile.
    pub non_volatile: bool,
}

/// A machine: CPUs, nodes, memory and distances.
#[derive(Clone, Debug)]
pub struct Topology {
    pub(crate) node_count: usize,
    pub(crate) proximity_domains: [u32; MAX_NODES],
    pub(crate) cpu_count: usize,
    pub(crate) cpus: [Cpu; MAX_CPUS],
    pub(crate) range_count: usize,
    pub(crate) ranges: [MemoryRange; MAX_RANGES],
    pub(crate) distances: [[u8; MAX_NODES]; MAX_NODES],
}

impl Topology {
    /// How many nodes there are; ids are `0..node_count()`.
    pub fn node_count(&self) -> usize {
        self.node_count
    }

    /// All node ids, ascending.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        (0..self.node_count).map(|node| NodeId(node as u8))
    }

    /// The ACPI proximity domain a node was made from.
    pub fn proximity_domain(&self, node: NodeId) -> u32 {
        self.proximity_domains[node.index()]
    }

    /// All CPUs; a [`CpuId`] is an index of it.
    pub fn cpus(&self) -> &[Cpu] {
        &self.cpus[..self.cpu_count]
    }

    /// All RAM, sorted by address.
    pub fn memory(&self) -> &[MemoryRange] {
        &self.ranges[..self.range_count]
    }

    /// Relative distance between two nodes: 10 is local, 20 twice as far (SLIT; the symmetric default without one).
    pub fn distance(&self, from: NodeId, to: NodeId) -> u8 {
        self.distances[from.index()][to.index()]
    }
}
