//! [`Expectation`]: what a guest must find of the machine it was given, and [`Expectation::check`].
//!
//! Derived from the machine (whose memory layout under QEMU is known to the byte), and overridden by the section
//! `expect` of its topology file where firmware's tables say something else.

use quarry_record::{Run, Statistics, Topology};

use crate::machine::file::Expect;
use crate::machine::{Board, Layout, Machine, Node, even_distances};
use crate::report::distances;
use crate::size::Size;

/// What firmware and the hole below 1 MiB may take of a node's memory.
const FIRMWARE_SHARE: u64 = 2 << 20;

/// Where memory goes on that has no room below the PCI hole.
const ABOVE_THE_HOLE: u64 = 4 << 30;

/// What a guest must find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expectation {
    nodes: Vec<Node>,
    /// Where each node's memory must lie; not known when tables lie about it.
    ranges: Option<Vec<Vec<[u64; 2]>>>,
    /// Not known when the guest derives them from latencies.
    distances: Option<Vec<Vec<u8>>>,
    source: String,
    warnings: u32,
}

impl Expectation {
    /// Of a machine and its file.
    pub(crate) fn new(machine: &Machine, expect: &Expect) -> Self {
        let (nodes, known_distances, source) = match &machine.layout {
            Layout::Flat { memory, cpus } => {
                (vec![Node { memory: *memory, cpus: *cpus }], Some(even_distances(1)), "assumed")
            }
            Layout::Numa { nodes, distances, performance } => {
                let even = performance.is_none().then(|| even_distances(nodes.len()));
                (nodes.clone(), distances.clone().or(even), "SRAT")
            }
        };
        Self {
            ranges: expect.nodes.is_none().then(|| node_ranges(machine.board, &nodes)),
            nodes: expect.nodes.clone().unwrap_or(nodes),
            distances: expect.distances.clone().or(known_distances),
            source: expect.source.clone().unwrap_or_else(|| source.to_owned()),
            warnings: expect.warnings.unwrap_or(0),
        }
    }

    /// Holds what a guest found against it.
    ///
    /// # Errors
    ///
    /// One sentence for each thing that is otherwise.
    pub(crate) fn check(&self, run: &Run, statistics: Option<&Statistics>) -> Result<(), Vec<String>> {
        let topology = &run.topology;
        let mut wrong = Vec::new();
        let mut equal = |what: &str, found: String, wanted: String| {
            if found != wanted {
                wrong.push(format!("{what}: found {found}, wanted {wanted}"));
            }
        };
        equal("nodes", topology.nodes.len().to_string(), self.nodes.len().to_string());
        equal("nodes come from", topology.source.clone(), self.source.clone());
        equal("warnings", run.warnings.to_string(), self.warnings.to_string());
        if let Some(wanted) = &self.distances {
            equal("distances", distances(&topology.distances), distances(wanted));
        }
        let cpus: u32 = self.nodes.iter().map(|node| node.cpus).sum();
        equal("CPUs that work", run.cpus_online.to_string(), cpus.to_string());
        for (id, (found, wanted)) in topology.nodes.iter().zip(&self.nodes).enumerate() {
            equal(&format!("CPUs of node {id}"), found.cpus.len().to_string(), wanted.cpus.to_string());
            let memory = Size(found.memory_bytes);
            if memory > wanted.memory || memory.0 + FIRMWARE_SHARE < wanted.memory.0 {
                equal(&format!("memory of node {id}"), memory.to_string(), wanted.memory.to_string());
            }
        }
        self.check_cpu_numbers(topology, &mut wrong);
        check_ranges(topology, self.ranges.as_deref(), &mut wrong);
        check_statistics(topology, statistics, &mut wrong);
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// CPUs are numbered through, and no APIC id is there twice.
    fn check_cpu_numbers(&self, topology: &Topology, wrong: &mut Vec<String>) {
        let cpus = || topology.nodes.iter().flat_map(|node| &node.cpus);
        let mut numbers: Vec<u32> = cpus().map(|cpu| cpu.id).collect();
        numbers.sort_unstable();
        let count: u32 = self.nodes.iter().map(|node| node.cpus).sum();
        if !numbers.iter().copied().eq(0..count) {
            wrong.push(format!("CPUs are not numbered from 0 to {}: {numbers:?}", count.saturating_sub(1)));
        }
        let mut apic_ids: Vec<u32> = cpus().map(|cpu| cpu.apic_id).collect();
        apic_ids.sort_unstable();
        if let Some([twice, ..]) = apic_ids.windows(2).find(|pair| pair[0] == pair[1]) {
            wrong.push(format!("two CPUs have the APIC id {twice}"));
        }
    }
}

/// Every node's memory is the sum of its ranges, none is anybody else's, and all is where QEMU put it.
fn check_ranges(topology: &Topology, wanted: Option<&[Vec<[u64; 2]>]>, wrong: &mut Vec<String>) {
    for node in &topology.nodes {
        let sum: u64 = node.memory.iter().map(|[start, end]| end.saturating_sub(*start)).sum();
        if sum != node.memory_bytes {
            wrong.push(format!("the ranges of node {} make {sum} bytes, not {}", node.id, node.memory_bytes));
        }
        let Some(places) = wanted.and_then(|wanted| wanted.get(node.id as usize)) else { continue };
        for [start, end] in &node.memory {
            if !places.iter().any(|[first, limit]| first <= start && end <= limit) {
                wrong.push(format!("node {} has {start:#x}-{end:#x}, which is not its own", node.id));
            }
        }
        for [first, limit] in places {
            let inside = node.memory.iter().map(|[start, end]| (*end).min(*limit).saturating_sub((*start).max(*first)));
            if inside.sum::<u64>() + FIRMWARE_SHARE < limit - first {
                wrong.push(format!("node {} lacks memory in {first:#x}-{limit:#x}", node.id));
            }
        }
    }
    let mut ranges: Vec<[u64; 2]> = topology.nodes.iter().flat_map(|node| node.memory.iter().copied()).collect();
    ranges.sort_unstable();
    if let Some(pair) = ranges.windows(2).find(|pair| pair[0][1] > pair[1][0]) {
        wrong.push(format!("memory at {:#x} belongs to two", pair[1][0]));
    }
}

/// The rows make up the total, and the total is what the nodes have.
fn check_statistics(topology: &Topology, statistics: Option<&Statistics>, wrong: &mut Vec<String>) {
    let Some(statistics) = statistics else {
        wrong.push("no statistics".into());
        return;
    };
    if statistics.sum() != Some(statistics.total) {
        wrong.push(format!("the statistics make {:?} bytes, not {}", statistics.sum(), statistics.total));
    }
    let memory: u64 = topology.nodes.iter().map(|node| node.memory_bytes).sum();
    if statistics.total != memory {
        wrong.push(format!("the statistics are of {} bytes, but the nodes have {memory}", statistics.total));
    }
}

/// Where QEMU puts the memory of each node: one after the other from 0, and above 4 GiB what does not fit below the
/// hole.
fn node_ranges(board: Board, nodes: &[Node]) -> Vec<Vec<[u64; 2]>> {
    let all: u64 = nodes.iter().map(|node| node.memory.0).sum();
    // What fits below the hole, and how much may lie there when not everything does (QEMU, hw/i386/pc_*.c, microvm.c).
    let (fits, below) = match board {
        Board::Q35 => (0xb000_0000, 0x8000_0000),
        Board::Pc => (0xe000_0000, 0xc000_0000),
        Board::Microvm => (0xc000_0000, 0xc000_0000),
    };
    let hole = if all >= fits { below } else { all };
    let mut start = 0;
    let ranges_of = |node: &Node| {
        let end = start + node.memory.0;
        let low = [start.min(hole), end.min(hole)];
        let high = [start, end].map(|at| at.max(hole) - hole + ABOVE_THE_HOLE);
        start = end;
        [low, high].into_iter().filter(|[start, end]| start < end).collect()
    };
    nodes.iter().map(ranges_of).collect()
}

#[cfg(test)]
mod tests;
