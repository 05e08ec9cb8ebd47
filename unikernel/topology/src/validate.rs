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

#[cfg(test)]
mod tests {
    use super::*;

    const N0: NodeId = NodeId(0);
    const N1: NodeId = NodeId(1);
    const PAGE: u64 = NODE_ALIGNMENT;

    /// Two nodes of two CPUs and four pages; the nodes' memory touches.
    const SOUND: Topology = match Topology::builder().node(4 * PAGE, 2).node(4 * PAGE, 2).build() {
        Ok(topology) => topology,
        Err(_) => panic!("the description is sound"),
    };

    #[track_caller]
    fn broken(how: impl FnOnce(&mut Topology), rule: Invalid) {
        let mut topology = SOUND;
        assert_eq!(topology.validate(), Ok(()));
        how(&mut topology);
        assert_eq!(topology.validate(), Err(rule));
    }

    #[test]
    fn there_are_nodes_and_cpus_and_not_too_many() {
        broken(|topology| topology.node_count = 0, Invalid::NodeCount(0));
        broken(|topology| topology.node_count = MAX_NODES + 1, Invalid::NodeCount(MAX_NODES + 1));
        broken(|topology| topology.cpu_count = MAX_CPUS + 1, Invalid::CpuCount(MAX_CPUS + 1));
        // Its memory keeps each node one, so what is missed are the CPUs.
        broken(|topology| topology.cpu_count = 0, Invalid::CpuCount(0));
    }

    #[test]
    fn nodes_are_in_the_order_of_their_domains_and_hold_something() {
        broken(|topology| topology.proximity_domains = [3; MAX_NODES], Invalid::DomainOrder(N1));
        let unused = |topology: &mut Topology| {
            topology.proximity_domains[2] = 9;
            topology.node_count = 3;
        };
        broken(unused, Invalid::EmptyNode(NodeId(2)));
    }

    #[test]
    fn a_cpu_is_of_a_node_and_no_other_has_its_id() {
        broken(|topology| topology.cpus[3].node = NodeId(2), Invalid::CpuNode(CpuId(3)));
        broken(|topology| topology.cpus[2].apic_id = 1, Invalid::DuplicateApicId(CpuId(2)));
    }

    #[test]
    fn memory_is_of_a_node_and_sorted_and_disjoint() {
        broken(|topology| topology.ranges[1].node = NodeId(2), Invalid::RangeNode(1));
        broken(|topology| topology.ranges[0].range.end = 0, Invalid::EmptyRange(0));
        broken(|topology| topology.ranges[0].range.end += PAGE, Invalid::RangeOrder(1));
        broken(|topology| topology.ranges.swap(0, 1), Invalid::RangeOrder(1));
        broken(|topology| topology.ranges[1].node = N0, Invalid::Unmerged(1));
    }

    #[test]
    fn a_page_has_one_node() {
        let meet_at = |first_end: u64, second_start: u64| {
            move |topology: &mut Topology| {
                topology.ranges[0].range.end = first_end;
                topology.ranges[1].range.start = second_start;
            }
        };
        broken(meet_at(4 * PAGE - 1, 4 * PAGE - 1), Invalid::SharedPage(1));
        broken(meet_at(4 * PAGE + 1, 5 * PAGE - 1), Invalid::SharedPage(1));
        let mut apart = SOUND;
        meet_at(4 * PAGE - 1, 4 * PAGE + 1)(&mut apart);
        assert_eq!(apart.validate(), Ok(()));
    }

    #[test]
    fn distances_are_ten_to_oneself_and_no_less_to_others() {
        broken(|topology| topology.distances[1][1] = 11, Invalid::LocalDistance(N1));
        broken(|topology| topology.distances[1][0] = 9, Invalid::Distance(N1, N0));
    }

    #[test]
    fn memory_and_ram_are_the_same_bytes() {
        let ram = PhysicalRange::new;
        let covers = |all: &[PhysicalRange]| SOUND.validate_coverage(all);
        assert_eq!(covers(&[ram(3 * PAGE, 8 * PAGE), ram(7, 7), ram(0, 3 * PAGE)]), Ok(()));
        assert_eq!(covers(&[ram(0, 8 * PAGE + 1)]), Err(Invalid::Coverage(8 * PAGE)));
        assert_eq!(covers(&[ram(0, 2 * PAGE), ram(3 * PAGE, 8 * PAGE)]), Err(Invalid::Coverage(2 * PAGE)));
        assert_eq!(covers(&[]), Err(Invalid::Coverage(0)));
    }
}
