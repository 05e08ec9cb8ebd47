//! The rules every topology keeps, as a function that names the first one broken. Used by every test here and, in
//! debug builds, by whoever wants to be sure of what it was handed.

use crate::{CpuId, LOCAL_DISTANCE, MAX_CPUS, MAX_NODES, MAX_RANGES, NODE_ALIGNMENT, NodeId, PhysicalRange, Topology};
use core::fmt;

/// A rule a topology breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// There is no node, or more than [`MAX_NODES`].
    NodeCount(usize),
    /// There is no CPU, or more than [`MAX_CPUS`].
    CpuCount(usize),
    /// There are more than [`MAX_RANGES`] ranges of memory.
    RangeCount(usize),
    /// A node's proximity domain is not above that of the node before it.
    DomainOrder(NodeId),
    /// A CPU's node does not exist.
    CpuNode(CpuId),
    /// Two CPUs have the same local APIC id; the second of them.
    DuplicateApicId(CpuId),
    /// A memory range has no byte; its index.
    EmptyRange(usize),
    /// A memory range begins before the end of the one before it; its index.
    RangeOrder(usize),
    /// A memory range's node does not exist; its index.
    RangeNode(usize),
    /// Two ranges that touch could be one; the index of the second.
    Unmerged(usize),
    /// Two nodes share a page; the index of the second of their ranges.
    SharedPage(usize),
    /// A node has neither a CPU nor memory, and is not the only one.
    EmptyNode(NodeId),
    /// A node's distance to itself is not [`LOCAL_DISTANCE`].
    LocalDistance(NodeId),
    /// A distance between two nodes is below [`LOCAL_DISTANCE`].
    Distance(NodeId, NodeId),
    /// RAM that belongs to no node, or memory that is not RAM, at this address.
    Coverage(u64),
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NodeCount(count) => write!(f, "{count} nodes, where 1 to {MAX_NODES} can be"),
            Self::CpuCount(count) => write!(f, "{count} CPUs, where 1 to {MAX_CPUS} can be"),
            Self::RangeCount(count) => write!(f, "{count} memory ranges, where at most {MAX_RANGES} can be"),
            Self::DomainOrder(node) => write!(f, "the proximity domain of {node} is not above the one before it"),
            Self::CpuNode(cpu) => write!(f, "{cpu} is in a node that does not exist"),
            Self::DuplicateApicId(cpu) => write!(f, "{cpu} has the APIC id of another CPU"),
            Self::EmptyRange(index) => write!(f, "memory range {index} is empty"),
            Self::RangeOrder(index) => write!(f, "memory range {index} begins before the end of the one before it"),
            Self::RangeNode(index) => write!(f, "memory range {index} is in a node that does not exist"),
            Self::Unmerged(index) => write!(f, "memory range {index} continues the one before it"),
            Self::SharedPage(index) => write!(f, "memory range {index} begins inside a page of another node"),
            Self::EmptyNode(node) => write!(f, "{node} has neither a CPU nor memory"),
            Self::LocalDistance(node) => write!(f, "{node} is not at distance {LOCAL_DISTANCE} from itself"),
            Self::Distance(from, to) => write!(f, "the distance from {from} to {to} is below {LOCAL_DISTANCE}"),
            Self::Coverage(address) => write!(f, "RAM and the nodes' memory differ at address {address:#x}"),
        }
    }
}

impl core::error::Error for Invalid {}

impl Topology {
    /// Checks every rule that holds for any topology.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.validate_nodes()?;
        self.validate_cpus()?;
        self.validate_memory()?;
        self.validate_distances()
    }

    /// Checks that the memory of all nodes together is `ram` to the byte. `ram` may be in any order.
    ///
    /// # Errors
    /// [`Invalid::Coverage`] with an address at which they differ.
    pub fn validate_coverage(&self, ram: &[PhysicalRange]) -> Result<(), Invalid> {
        for range in ram.iter().filter(|range| !range.is_empty()) {
            let mut at = range.start;
            while at < range.end {
                let covering = self.memory().iter().find(|memory| memory.range.contains(at));
                at = covering.ok_or(Invalid::Coverage(at))?.range.end;
            }
        }
        for memory in self.memory() {
            let mut at = memory.range.start;
            while at < memory.range.end {
                let covering = ram.iter().find(|range| range.contains(at));
                at = covering.ok_or(Invalid::Coverage(at))?.end;
            }
        }
        Ok(())
    }

    fn validate_nodes(&self) -> Result<(), Invalid> {
        if self.node_count == 0 || self.node_count > MAX_NODES {
            return Err(Invalid::NodeCount(self.node_count));
        }
        for node in self.nodes() {
            if node.index() > 0 && self.proximity_domain(node) <= self.proximity_domain(NodeId(node.0 - 1)) {
                return Err(Invalid::DomainOrder(node));
            }
            if self.node_count > 1 && !self.has_memory(node) && !self.has_cpus(node) {
                return Err(Invalid::EmptyNode(node));
            }
        }
        Ok(())
    }

    fn validate_cpus(&self) -> Result<(), Invalid> {
        if self.cpu_count == 0 || self.cpu_count > MAX_CPUS {
            return Err(Invalid::CpuCount(self.cpu_count));
        }
        for (index, cpu) in self.cpus().iter().enumerate() {
            if cpu.node.index() >= self.node_count {
                return Err(Invalid::CpuNode(CpuId(index as u16)));
            }
            if self.cpus()[..index].iter().any(|earlier| earlier.apic_id == cpu.apic_id) {
                return Err(Invalid::DuplicateApicId(CpuId(index as u16)));
            }
        }
        Ok(())
    }

    fn validate_memory(&self) -> Result<(), Invalid> {
        if self.range_count > MAX_RANGES {
            return Err(Invalid::RangeCount(self.range_count));
        }
        for (index, memory) in self.memory().iter().enumerate() {
            if memory.range.is_empty() {
                return Err(Invalid::EmptyRange(index));
            }
            if memory.node.index() >= self.node_count {
                return Err(Invalid::RangeNode(index));
            }
            let Some(before) = index.checked_sub(1).map(|index| &self.memory()[index]) else { continue };
            if memory.range.start < before.range.end {
                return Err(Invalid::RangeOrder(index));
            }
            let alike = memory.node == before.node
                && memory.hot_pluggable == before.hot_pluggable
                && memory.non_volatile == before.non_volatile;
            if memory.range.start == before.range.end && alike {
                return Err(Invalid::Unmerged(index));
            }
            let page = memory.range.start / NODE_ALIGNMENT;
            if memory.node != before.node && page < before.range.end.div_ceil(NODE_ALIGNMENT) {
                return Err(Invalid::SharedPage(index));
            }
        }
        Ok(())
    }

    fn validate_distances(&self) -> Result<(), Invalid> {
        for from in self.nodes() {
            for to in self.nodes() {
                let distance = self.distance(from, to);
                if from == to && distance != LOCAL_DISTANCE {
                    return Err(Invalid::LocalDistance(from));
                }
                if distance < LOCAL_DISTANCE {
                    return Err(Invalid::Distance(from, to));
                }
            }
        }
        Ok(())
    }
}
