//! Simulated machines: a [`Topology`] from a description instead of firmware tables.
//!
//! Used by `quarry-memory`'s hosted mode and by tests. Everything is `const`, so a machine can be a constant:
//!
//! ```
//! use quarry_topology::{NodeId, Topology};
//! const MIB: u64 = 1 << 20;
//! static MACHINE: Topology = match Topology::builder()
//!     .node(512 * MIB, 4)
//!     .node(512 * MIB, 4)
//!     .node(1024 * MIB, 0) // memory without CPUs
//!     .distance(NodeId(0), NodeId(1), 21)
//!     .build()
//! {
//!     Ok(machine) => machine,
//!     Err(_) => panic!("the description above is sound"),
//! };
//! assert_eq!(MACHINE.node_count(), 3);
//! assert_eq!(MACHINE.distance(NodeId(1), NodeId(0)), 21);
//! ```

use crate::{
    Cpu, DistanceSource, LOCAL_DISTANCE, MAX_CPUS, MAX_NODES, MAX_RANGES, MemoryRange, NODE_ALIGNMENT, NodeId,
    NodeSource, PhysicalRange, REMOTE_DISTANCE, Topology,
};
use core::fmt;

/// Most holes a [`Builder`] goes round.
pub const MAX_HOLES: usize = 8;

/// What is wrong with the description of a simulated machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// More than [`MAX_NODES`] nodes.
    TooManyNodes,
    /// More than [`MAX_CPUS`] CPUs in all.
    TooManyCpus,
    /// More than [`MAX_RANGES`] memory ranges in all.
    TooManyRanges,
    /// More than [`MAX_HOLES`] holes.
    TooManyHoles,
    /// No node.
    NoNodes,
    /// No node has a CPU.
    NoCpus,
    /// No node has memory.
    NoMemory,
    /// A node of several has neither CPUs nor memory.
    EmptyNode(NodeId),
    /// A node was named that was not described.
    UnknownNode(NodeId),
    /// The size or address of some memory is not a multiple of [`NODE_ALIGNMENT`]; its node.
    Unaligned(NodeId),
    /// A memory range's end is not above its start; its node.
    EmptyRange(NodeId),
    /// A node's memory overlaps other memory.
    Overlap(NodeId),
    /// A node's memory would reach past the end of the address space.
    AddressOverflow(NodeId),
    /// A hole's end is not above its start, or its ends are not multiples of [`NODE_ALIGNMENT`].
    BadHole(PhysicalRange),
    /// A distance below [`LOCAL_DISTANCE`], or another one from a node to itself.
    BadDistance(NodeId, NodeId, u8),
    /// A node's proximity domain is not above that of the node before it.
    DomainOrder(NodeId),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooManyNodes => write!(f, "more than {MAX_NODES} nodes: describe fewer"),
            Self::TooManyCpus => write!(f, "more than {MAX_CPUS} CPUs in all: describe fewer"),
            Self::TooManyRanges => write!(f, "more than {MAX_RANGES} memory ranges in all: describe fewer"),
            Self::TooManyHoles => write!(f, "more than {MAX_HOLES} holes: describe fewer"),
            Self::NoNodes => write!(f, "no nodes: describe at least one"),
            Self::NoCpus => write!(f, "no CPUs: give at least one node a CPU"),
            Self::NoMemory => write!(f, "no memory: give at least one node some"),
            Self::EmptyNode(node) => write!(f, "{node} has neither CPUs nor memory: give it one of them"),
            Self::UnknownNode(node) => write!(f, "{node} was not described: add it before building"),
            Self::Unaligned(node) => {
                write!(f, "memory of {node} is not in whole pages: use multiples of {NODE_ALIGNMENT} bytes")
            }
            Self::EmptyRange(node) => write!(f, "a memory range of {node} is empty: its end must be above its start"),
            Self::Overlap(node) => write!(f, "memory of {node} overlaps other memory: move one of them"),
            Self::AddressOverflow(node) => {
                write!(f, "memory of {node} reaches past the end of the address space: make it smaller")
            }
            Self::BadHole(hole) => {
                write!(f, "the hole {hole} is empty or not in whole pages: use multiples of {NODE_ALIGNMENT} bytes")
            }
            Self::BadDistance(from, to, distance) => write!(
                f,
                "distance {distance} from {from} to {to}: it must be {LOCAL_DISTANCE} from a node to itself and at \
                 least that between two"
            ),
            Self::DomainOrder(node) => {
                write!(f, "the proximity domain of {node} is not above the one before it: number them ascending")
            }
        }
    }
}

impl core::error::Error for BuildError {}

/// The description of a simulated machine; see [`Topology::builder`].
///
/// Methods can be called in any order; mistakes are told by [`Self::build`]. CPUs are numbered node by node, and a
/// CPU's APIC id is its number.
#[derive(Clone, Debug)]
pub struct Builder {
    node_count: usize,
    memory_bytes: [u64; MAX_NODES],
    cpu_counts: [usize; MAX_NODES],
    domains: [Option<u32>; MAX_NODES],
    /// 0: not given.
    distances: [[u8; MAX_NODES]; MAX_NODES],
    ranges: [MemoryRange; MAX_RANGES],
    range_count: usize,
    holes: [PhysicalRange; MAX_HOLES],
    hole_count: usize,
    /// The first mistake made in a call.
    mistake: Option<BuildError>,
}

impl Topology {
    /// Starts the description of a simulated machine.
    pub const fn builder() -> Builder {
        Builder {
            node_count: 0,
            memory_bytes: [0; MAX_NODES],
            cpu_counts: [0; MAX_NODES],
            domains: [None; MAX_NODES],
            distances: [[0; MAX_NODES]; MAX_NODES],
            ranges: [MemoryRange::new(NodeId(0), PhysicalRange::new(0, 0)); MAX_RANGES],
            range_count: 0,
            holes: [PhysicalRange::new(0, 0); MAX_HOLES],
            hole_count: 0,
            mistake: None,
        }
    }
}

impl Builder {
    /// Adds a node, the first being [`NodeId`] 0. Its `memory_bytes` (0 for a memory-less node) lie directly above
    /// those of the nodes before it, beginning at address 0 and going round holes and ranges given by hand.
    #[must_use]
    pub const fn node(mut self, memory_bytes: u64, cpus: usize) -> Self {
        if self.node_count == MAX_NODES {
            return self.mistaken(BuildError::TooManyNodes);
        }
        self.memory_bytes[self.node_count] = memory_bytes;
        self.cpu_counts[self.node_count] = cpus;
        self.node_count += 1;
        self
    }

    /// Adds memory at a place of its own to a node.
    #[must_use]
    pub const fn range(self, node: NodeId, range: PhysicalRange) -> Self {
        self.memory_range(MemoryRange::new(node, range))
    }

    /// Adds memory at a place of its own, with flags, to a node.
    #[must_use]
    pub const fn memory_range(mut self, range: MemoryRange) -> Self {
        if self.range_count == MAX_RANGES {
            return self.mistaken(BuildError::TooManyRanges);
        }
        self.ranges[self.range_count] = range;
        self.range_count += 1;
        self
    }

    /// Keeps a range of addresses free of the memory that [`Self::node`] lays out, as PCI does below 4 GiB.
    #[must_use]
    pub const fn hole(mut self, hole: PhysicalRange) -> Self {
        if self.hole_count == MAX_HOLES {
            return self.mistaken(BuildError::TooManyHoles);
        }
        if hole.is_empty() || !aligned(hole.start) || !aligned(hole.end) {
            return self.mistaken(BuildError::BadHole(hole));
        }
        self.holes[self.hole_count] = hole;
        self.hole_count += 1;
        self
    }

    /// The distance between two nodes, the same both ways; [`REMOTE_DISTANCE`] where none is given.
    #[must_use]
    pub const fn distance(self, a: NodeId, b: NodeId, distance: u8) -> Self {
        self.distance_one_way(a, b, distance).distance_one_way(b, a, distance)
    }

    /// The distance from one node to another, leaving the way back as it is.
    #[must_use]
    pub const fn distance_one_way(mut self, from: NodeId, to: NodeId, distance: u8) -> Self {
        if from.index() >= MAX_NODES {
            return self.mistaken(BuildError::UnknownNode(from));
        }
        if to.index() >= MAX_NODES {
            return self.mistaken(BuildError::UnknownNode(to));
        }
        if distance < LOCAL_DISTANCE || (from.0 == to.0 && distance != LOCAL_DISTANCE) {
            return self.mistaken(BuildError::BadDistance(from, to, distance));
        }
        self.distances[from.index()][to.index()] = distance;
        self
    }

    /// The proximity domain of a node; without a call the one after that of the node before, beginning at 0.
    #[must_use]
    pub const fn proximity_domain(mut self, node: NodeId, proximity_domain: u32) -> Self {
        if node.index() >= MAX_NODES {
            return self.mistaken(BuildError::UnknownNode(node));
        }
        self.domains[node.index()] = Some(proximity_domain);
        self
    }

    /// The machine described.
    ///
    /// # Errors
    /// The first mistake in the description.
    pub const fn build(&self) -> Result<Topology, BuildError> {
        let mut topology = Topology::empty();
        match self.build_into(&mut topology) {
            Ok(()) => Ok(topology),
            Err(error) => Err(error),
        }
    }

    /// Writes the machine described over `topology`: for where 90 KiB do not fit on the stack.
    ///
    /// # Errors
    /// The first mistake in the description; `topology` is then not valid.
    pub const fn build_into(&self, topology: &mut Topology) -> Result<(), BuildError> {
        if let Some(mistake) = self.mistake {
            return Err(mistake);
        }
        if self.node_count == 0 {
            return Err(BuildError::NoNodes);
        }
        topology.node_source = NodeSource::Simulated;
        topology.distance_source = DistanceSource::Simulated;
        topology.node_count = self.node_count;
        topology.absent_count = 0;
        topology.local_apic_address = 0;
        topology.legacy_pics = false;
        // Memory before CPUs before nodes is the order in which mistakes are told: the most basic first.
        if let Err(error) = self.place_memory(topology) {
            return Err(error);
        }
        if let Err(error) = self.number_cpus(topology) {
            return Err(error);
        }
        if let Err(error) = self.number_domains(topology) {
            return Err(error);
        }
        self.fill_distances(topology)
    }

    const fn mistaken(mut self, mistake: BuildError) -> Self {
        if self.mistake.is_none() {
            self.mistake = Some(mistake);
        }
        self
    }

    const fn place_memory(&self, topology: &mut Topology) -> Result<(), BuildError> {
        topology.range_count = 0;
        let mut index = 0;
        while index < self.range_count {
            let memory = self.ranges[index];
            if memory.node.index() >= self.node_count {
                return Err(BuildError::UnknownNode(memory.node));
            }
            if let Err(error) = insert(topology, memory) {
                return Err(error);
            }
            index += 1;
        }
        let mut next = 0;
        let mut node = 0;
        while node < self.node_count {
            next = match self.lay_out(topology, NodeId(node as u8), next) {
                Ok(next) => next,
                Err(error) => return Err(error),
            };
            node += 1;
        }
        if topology.range_count == 0 {
            return Err(BuildError::NoMemory);
        }
        merge(topology);
        Ok(())
    }

    /// Lays out the memory [`Self::node`] gave a node from `next` on; returns where the next node's begins.
    const fn lay_out(&self, topology: &mut Topology, node: NodeId, mut next: u64) -> Result<u64, BuildError> {
        let mut left = self.memory_bytes[node.index()];
        if !aligned(left) {
            return Err(BuildError::Unaligned(node));
        }
        while left > 0 {
            let (free, obstacle) = self.obstacle_from(next);
            if free == 0 {
                next = obstacle.end;
                continue;
            }
            let bytes = if left < free { left } else { free };
            let Some(end) = next.checked_add(bytes) else { return Err(BuildError::AddressOverflow(node)) };
            if let Err(error) = insert(topology, MemoryRange::new(node, PhysicalRange::new(next, end))) {
                return Err(error);
            }
            left -= bytes;
            next = end;
        }
        Ok(next)
    }

    /// How many bytes from `address` on are free for layout, and the hole or range given by hand that ends them.
    const fn obstacle_from(&self, address: u64) -> (u64, PhysicalRange) {
        let mut nearest = PhysicalRange::new(u64::MAX, u64::MAX);
        let mut index = 0;
        while index < self.hole_count + self.range_count {
            let obstacle =
                if index < self.hole_count { self.holes[index] } else { self.ranges[index - self.hole_count].range };
            if obstacle.end > address && obstacle.start < nearest.start {
                nearest = obstacle;
            }
            index += 1;
        }
        let free = nearest.start.saturating_sub(address);
        // Where nothing is in the way, all that is left over is told as an overflow by whoever wants more.
        if nearest.start == u64::MAX { (u64::MAX, nearest) } else { (free, nearest) }
    }

    const fn number_cpus(&self, topology: &mut Topology) -> Result<(), BuildError> {
        let mut count = 0;
        let mut node = 0;
        while node < self.node_count {
            if self.cpu_counts[node] > MAX_CPUS - count {
                return Err(BuildError::TooManyCpus);
            }
            let end = count + self.cpu_counts[node];
            while count < end {
                topology.cpus[count] = Cpu { apic_id: count as u32, node: NodeId(node as u8) };
                count += 1;
            }
            node += 1;
        }
        topology.cpu_count = count;
        if count == 0 { Err(BuildError::NoCpus) } else { Ok(()) }
    }

    const fn number_domains(&self, topology: &mut Topology) -> Result<(), BuildError> {
        let mut lowest = Some(0);
        let mut index = 0;
        while index < MAX_NODES {
            let node = NodeId(index as u8);
            if index >= self.node_count {
                if self.domains[index].is_some() {
                    return Err(BuildError::UnknownNode(node));
                }
                index += 1;
                continue;
            }
            let Some(least) = lowest else { return Err(BuildError::DomainOrder(node)) };
            let domain = match self.domains[index] {
                Some(domain) if domain < least => return Err(BuildError::DomainOrder(node)),
                Some(domain) => domain,
                None => least,
            };
            if self.node_count > 1 && self.cpu_counts[index] == 0 && !has_memory(topology, node) {
                return Err(BuildError::EmptyNode(node));
            }
            topology.proximity_domains[index] = domain;
            lowest = domain.checked_add(1);
            index += 1;
        }
        Ok(())
    }

    const fn fill_distances(&self, topology: &mut Topology) -> Result<(), BuildError> {
        let mut pair = 0;
        while pair < MAX_NODES * MAX_NODES {
            let (from, to) = (pair / MAX_NODES, pair % MAX_NODES);
            let given = self.distances[from][to];
            if given != 0 && (from >= self.node_count || to >= self.node_count) {
                return Err(BuildError::UnknownNode(NodeId(if from > to { from as u8 } else { to as u8 })));
            }
            topology.performance[from][to] = crate::MemoryPerformance::UNKNOWN;
            topology.distances[from][to] = match given {
                0 if from == to => LOCAL_DISTANCE,
                0 => REMOTE_DISTANCE,
                given => given,
            };
            pair += 1;
        }
        Ok(())
    }
}

const fn aligned(value: u64) -> bool {
    value.is_multiple_of(NODE_ALIGNMENT)
}

/// Puts memory where it belongs in the sorted ranges.
const fn insert(topology: &mut Topology, memory: MemoryRange) -> Result<(), BuildError> {
    if !aligned(memory.range.start) || !aligned(memory.range.end) {
        return Err(BuildError::Unaligned(memory.node));
    }
    if memory.range.is_empty() {
        return Err(BuildError::EmptyRange(memory.node));
    }
    if topology.range_count == MAX_RANGES {
        return Err(BuildError::TooManyRanges);
    }
    let mut at = topology.range_count;
    while at > 0 && topology.ranges[at - 1].range.start > memory.range.start {
        at -= 1;
    }
    let overlaps_before = at > 0 && topology.ranges[at - 1].range.end > memory.range.start;
    let overlaps_after = at < topology.range_count && topology.ranges[at].range.start < memory.range.end;
    if overlaps_before || overlaps_after {
        return Err(BuildError::Overlap(memory.node));
    }
    let mut index = topology.range_count;
    while index > at {
        topology.ranges[index] = topology.ranges[index - 1];
        index -= 1;
    }
    topology.ranges[at] = memory;
    topology.range_count += 1;
    Ok(())
}

/// Makes one of neighbours that touch and are alike.
const fn merge(topology: &mut Topology) {
    let mut kept = 0;
    let mut index = 1;
    while index < topology.range_count {
        let memory = topology.ranges[index];
        let last = &mut topology.ranges[kept];
        let alike = memory.node.0 == last.node.0
            && memory.hot_pluggable == last.hot_pluggable
            && memory.non_volatile == last.non_volatile;
        if alike && memory.range.start == last.range.end {
            last.range.end = memory.range.end;
        } else {
            kept += 1;
            topology.ranges[kept] = memory;
        }
        index += 1;
    }
    topology.range_count = kept + 1;
}

const fn has_memory(topology: &Topology, node: NodeId) -> bool {
    let mut index = 0;
    while index < topology.range_count {
        if topology.ranges[index].node.0 == node.0 {
            return true;
        }
        index += 1;
    }
    false
}
