//! The plain data a machine's topology is: nodes, CPUs, memory ranges and distances.
//!
//! Built by the parser from firmware tables or by a builder for simulated machines; read by everyone
//! above. Fixed capacity, because nothing can be allocated when it is made. [`Topology::empty`] is all zero bytes, so a
//! static of it costs no space in an image.

use core::fmt;
use core::num::NonZeroU32;

/// Most NUMA nodes a topology holds. Linux's default for `x86_64` is 64 as well (`NODES_SHIFT`).
pub const MAX_NODES: usize = 64;

/// Most CPUs a topology holds.
pub const MAX_CPUS: usize = 256;

/// Most memory ranges a topology holds.
pub const MAX_RANGES: usize = 256;

/// Most ranges of absent memory a topology keeps ([`Topology::absent_memory`]).
pub const MAX_ABSENT_RANGES: usize = 32;

/// Distance of a node to itself (ACPI specification 6.5, section 5.2.17).
pub const LOCAL_DISTANCE: u8 = 10;

/// Distance assumed between two nodes when firmware does not say.
pub const REMOTE_DISTANCE: u8 = 20;

/// Where two nodes' memory meets, the boundary is a multiple of this many bytes: a page has one node.
pub const NODE_ALIGNMENT: u64 = 4096;

/// Where local APICs are unless firmware says otherwise (Intel SDM volume 3, section 11.4.1).
pub const DEFAULT_LOCAL_APIC_ADDRESS: LocalApicAddress = LocalApicAddress(0xfee0_0000);

/// A NUMA node: a dense index in the order of proximity domains. Not the proximity domain itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u8);

/// A CPU: a dense index in the order of the MADT, the boot CPU first. Not the APIC id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(pub u16);

/// Physical address of the registers every CPU finds its own local APIC at (in xAPIC mode).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalApicAddress(pub u64);

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

impl fmt::Display for LocalApicAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
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

impl PhysicalRange {
    /// The bytes from `start` up to, and not with, `end`.
    pub const fn new(start: u64, end: u64) -> Self {
        Self { start, end }
    }

    /// How many bytes; 0 when `end` is not after `start`.
    pub const fn len(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether there is no byte in it.
    pub const fn is_empty(self) -> bool {
        self.end <= self.start
    }

    /// Whether a byte address lies in it.
    pub const fn contains(self, address: u64) -> bool {
        self.start <= address && address < self.end
    }

    /// Whether a byte lies in both.
    pub const fn overlaps(self, other: Self) -> bool {
        !self.is_empty() && !other.is_empty() && self.start < other.end && other.start < self.end
    }
}

/// First and last byte in hexadecimal, as Linux prints memory ranges.
impl fmt::Display for PhysicalRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return write!(f, "[empty at {:#x}]", self.start);
        }
        write!(f, "[{:#x}-{:#x}]", self.start, self.end - 1)
    }
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

impl MemoryRange {
    /// Ordinary memory of a node: neither hot-pluggable nor non-volatile.
    pub const fn new(node: NodeId, range: PhysicalRange) -> Self {
        Self { range, node, hot_pluggable: false, non_volatile: false }
    }
}

/// Memory the SRAT describes and the memory map does not list as RAM: room for memory to be plugged in later, or
/// non-volatile memory. Its proximity domain need not be a node today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbsentRange {
    /// Where.
    pub range: PhysicalRange,
    /// The proximity domain it would belong to.
    pub proximity_domain: u32,
    /// The SRAT calls it hot-pluggable.
    pub hot_pluggable: bool,
    /// The SRAT calls it non-volatile.
    pub non_volatile: bool,
}

/// How fast the CPUs of one node reach the memory of another (HMAT); `None` where firmware does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryPerformance {
    /// Latency of a read, in picoseconds.
    pub read_latency_ps: Option<NonZeroU32>,
    /// Latency of a write, in picoseconds.
    pub write_latency_ps: Option<NonZeroU32>,
    /// Bandwidth of reads, in megabytes (10^6 bytes as the specification has it) a second.
    pub read_bandwidth_mbps: Option<NonZeroU32>,
    /// Bandwidth of writes, in megabytes a second.
    pub write_bandwidth_mbps: Option<NonZeroU32>,
}

impl MemoryPerformance {
    /// Nothing known.
    pub const UNKNOWN: Self =
        Self { read_latency_ps: None, write_latency_ps: None, read_bandwidth_mbps: None, write_bandwidth_mbps: None };
}

/// Where a topology's nodes come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeSource {
    /// Nobody told: everything is one node.
    #[default]
    Assumed,
    /// The SRAT.
    Srat,
    /// A [`crate::Builder`].
    Simulated,
}

/// Where a topology's distances come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DistanceSource {
    /// Nobody told: [`LOCAL_DISTANCE`] and [`REMOTE_DISTANCE`].
    #[default]
    Assumed,
    /// The SLIT.
    Slit,
    /// There is no SLIT: computed from the read latencies of the HMAT.
    Hmat,
    /// A [`crate::Builder`].
    Simulated,
}

/// A machine: CPUs, nodes, memory and distances. About 90 KiB: keep it in a static, pass it by reference.
#[derive(Clone, Debug)]
pub struct Topology {
    pub(crate) node_count: usize,
    pub(crate) proximity_domains: [u32; MAX_NODES],
    pub(crate) cpu_count: usize,
    pub(crate) cpus: [Cpu; MAX_CPUS],
    pub(crate) range_count: usize,
    pub(crate) ranges: [MemoryRange; MAX_RANGES],
    pub(crate) absent_count: usize,
    pub(crate) absent: [AbsentRange; MAX_ABSENT_RANGES],
    pub(crate) distances: [[u8; MAX_NODES]; MAX_NODES],
    pub(crate) performance: [[MemoryPerformance; MAX_NODES]; MAX_NODES],
    pub(crate) node_source: NodeSource,
    pub(crate) distance_source: DistanceSource,
    /// 0: not told, so [`DEFAULT_LOCAL_APIC_ADDRESS`].
    pub(crate) local_apic_address: u64,
    pub(crate) legacy_pics: bool,
}

impl Topology {
    /// Nothing: no node, no CPU, no memory. What a static starts as, before [`Self::discover`] or
    /// [`crate::Builder::build_into`] fills it; it is not valid until then.
    #[expect(clippy::large_stack_arrays, reason = "meant for statics; there is no heap to put it on")]
    pub const fn empty() -> Self {
        const CPU: Cpu = Cpu { apic_id: 0, node: NodeId(0) };
        const RANGE: MemoryRange = MemoryRange::new(NodeId(0), PhysicalRange::new(0, 0));
        const ABSENT: AbsentRange = AbsentRange {
            range: PhysicalRange::new(0, 0),
            proximity_domain: 0,
            hot_pluggable: false,
            non_volatile: false,
        };
        Self {
            node_count: 0,
            proximity_domains: [0; MAX_NODES],
            cpu_count: 0,
            cpus: [CPU; MAX_CPUS],
            range_count: 0,
            ranges: [RANGE; MAX_RANGES],
            absent_count: 0,
            absent: [ABSENT; MAX_ABSENT_RANGES],
            distances: [[0; MAX_NODES]; MAX_NODES],
            performance: [[MemoryPerformance::UNKNOWN; MAX_NODES]; MAX_NODES],
            node_source: NodeSource::Assumed,
            distance_source: DistanceSource::Assumed,
            local_apic_address: 0,
            legacy_pics: false,
        }
    }

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

    /// The node made from a proximity domain, if there is one.
    pub fn node_of_domain(&self, proximity_domain: u32) -> Option<NodeId> {
        let domains = &self.proximity_domains[..self.node_count];
        domains.binary_search(&proximity_domain).ok().map(|node| NodeId(node as u8))
    }

    /// All CPUs; a [`CpuId`] is an index of it.
    pub fn cpus(&self) -> &[Cpu] {
        &self.cpus[..self.cpu_count]
    }

    /// The CPUs of one node, ascending; none for a CPU-less node.
    pub fn cpus_of(&self, node: NodeId) -> impl Iterator<Item = CpuId> + '_ {
        let of_node = move |(index, cpu): (usize, &Cpu)| (cpu.node == node).then_some(CpuId(index as u16));
        self.cpus().iter().enumerate().filter_map(of_node)
    }

    /// The CPU with a local APIC id. Looks at every CPU.
    pub fn cpu_of_apic_id(&self, apic_id: u32) -> Option<CpuId> {
        self.cpus().iter().position(|cpu| cpu.apic_id == apic_id).map(|index| CpuId(index as u16))
    }

    /// All RAM, sorted by address; neighbours differ in node or flags.
    pub fn memory(&self) -> &[MemoryRange] {
        &self.ranges[..self.range_count]
    }

    /// The RAM of one node, sorted by address; none for a memory-less node, two or more for one across a hole.
    pub fn memory_of(&self, node: NodeId) -> impl Iterator<Item = &MemoryRange> + '_ {
        self.memory().iter().filter(move |range| range.node == node)
    }

    /// How many bytes of RAM a node has.
    pub fn memory_bytes(&self, node: NodeId) -> u64 {
        self.memory_of(node).map(|range| range.range.len()).sum()
    }

    /// Whether a node has RAM.
    pub fn has_memory(&self, node: NodeId) -> bool {
        self.memory_of(node).next().is_some()
    }

    /// Whether a node has CPUs.
    pub fn has_cpus(&self, node: NodeId) -> bool {
        self.cpus_of(node).next().is_some()
    }

    /// The node of a byte of RAM; `None` for an address that is not RAM.
    pub fn node_of_address(&self, address: u64) -> Option<NodeId> {
        let after = self.memory().partition_point(|range| range.range.start <= address);
        let range = self.memory().get(after.checked_sub(1)?)?;
        range.range.contains(address).then_some(range.node)
    }

    /// Memory the SRAT describes that is not there as RAM, sorted by address; at most [`MAX_ABSENT_RANGES`] are kept.
    pub fn absent_memory(&self) -> &[AbsentRange] {
        &self.absent[..self.absent_count]
    }

    /// Relative distance between two nodes: 10 is local, 20 twice as far (SLIT; the symmetric default without one).
    pub fn distance(&self, from: NodeId, to: NodeId) -> u8 {
        self.distances[from.index()][to.index()]
    }

    /// How fast the CPUs of `initiator` reach the memory of `target`, as far as the HMAT says.
    pub fn performance(&self, initiator: NodeId, target: NodeId) -> MemoryPerformance {
        self.performance[initiator.index()][target.index()]
    }

    /// All nodes in the order in which `from` should fall back to them: itself, then the others by distance. Equally
    /// near nodes come in ascending order beginning after `from` and wrapping round, so that the second choice of
    /// several nodes is not the same one.
    pub fn nearest(&self, from: NodeId) -> Nearest {
        let mut order = [NodeId(0); MAX_NODES];
        for (step, slot) in order[..self.node_count].iter_mut().enumerate() {
            *slot = NodeId(((from.index() + step) % self.node_count) as u8);
        }
        // Insertion keeps equals in the order they were put in.
        for sorted in 2..self.node_count {
            let mut at = sorted;
            while at > 1 && self.distance(from, order[at]) < self.distance(from, order[at - 1]) {
                order.swap(at, at - 1);
                at -= 1;
            }
        }
        Nearest { order, next: 0, count: self.node_count }
    }

    /// Where the nodes come from.
    pub fn node_source(&self) -> NodeSource {
        self.node_source
    }

    /// Where the distances come from.
    pub fn distance_source(&self) -> DistanceSource {
        self.distance_source
    }

    /// Where CPUs find their local APIC in xAPIC mode: the MADT's word, its 64-bit override included.
    pub fn local_apic_address(&self) -> LocalApicAddress {
        match self.local_apic_address {
            0 => DEFAULT_LOCAL_APIC_ADDRESS,
            address => LocalApicAddress(address),
        }
    }

    /// Whether the MADT says that the machine also has a pair of 8259 interrupt controllers (to be masked).
    pub fn has_legacy_pics(&self) -> bool {
        self.legacy_pics
    }
}

/// The nodes by their distance from one; see [`Topology::nearest`].
#[derive(Clone, Debug)]
pub struct Nearest {
    order: [NodeId; MAX_NODES],
    next: usize,
    count: usize,
}

impl Iterator for Nearest {
    type Item = NodeId;

    fn next(&mut self) -> Option<NodeId> {
        let node = self.order[..self.count].get(self.next).copied()?;
        self.next += 1;
        Some(node)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.count - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Nearest {}
