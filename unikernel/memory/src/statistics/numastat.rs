//! [`NumaStatistics`]: whether page blocks came from the node they were wanted on; [`Numastat`]: of all nodes, as the
//! command `numastat` prints them, and [`NodeNumastat`]: of one, as `/sys/devices/system/node/nodeN/numastat`.

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use quarry_topology::NodeId;

use super::Report;
use crate::machine::Machine;
use crate::service::Service;

/// Page blocks by where they came from, of one node; counted at the slow paths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NumaStatistics {
    /// Wanted here and got here.
    pub hit: u64,
    /// Got here though wanted elsewhere.
    pub miss: u64,
    /// Wanted here and got elsewhere.
    pub foreign: u64,
    /// Got here because it was this node's turn.
    pub interleave: u64,
    /// Got here by a CPU whose nearest memory this is.
    pub local: u64,
    /// Got here by a CPU of another node.
    pub other: u64,
}

/// Counters of [`NumaStatistics`].
const COUNTERS: usize = 6;

/// The counters' names in `numastat`, in the order of the fields.
const NAMES: [&str; COUNTERS] = ["numa_hit", "numa_miss", "numa_foreign", "interleave_hit", "local_node", "other_node"];

/// Their names in `/proc/vmstat`.
pub(super) const VMSTAT_NAMES: [&str; COUNTERS] =
    ["numa_hit", "numa_miss", "numa_foreign", "numa_interleave", "numa_local", "numa_other"];

/// `numastat`: a column for each node, a line for each counter.
pub struct Numastat<'s, M: Machine>(pub &'s Service<M>);

/// `/sys/devices/system/node/nodeN/numastat`: a line for each counter of one node.
pub struct NodeNumastat<'s, M: Machine>(pub &'s Service<M>, pub NodeId);

impl NumaStatistics {
    /// The counters by the names they have in `numastat`.
    pub fn rows(&self) -> [(&'static str, u64); COUNTERS] {
        let Self { hit, miss, foreign, interleave, local, other } = *self;
        let counts = [hit, miss, foreign, interleave, local, other];
        core::array::from_fn(|counter| (NAMES[counter], counts[counter]))
    }
}

impl<M: Machine> Service<M> {
    /// `numastat` of one node; zeroes for a node without memory.
    pub fn numa_statistics(&self, node: NodeId) -> NumaStatistics {
        self.nodes().get(node).map_or_else(NumaStatistics::default, |node| NumaStatistics {
            hit: node.counters.hit.load(Relaxed),
            miss: node.counters.miss.load(Relaxed),
            foreign: node.counters.foreign.load(Relaxed),
            interleave: node.counters.interleave.load(Relaxed),
            local: node.counters.local.load(Relaxed),
            other: node.counters.other.load(Relaxed),
        })
    }

    fn all_nodes(&self) -> impl Iterator<Item = NodeId> + Clone {
        (0..self.nodes().count()).map(|node| NodeId(node as u8))
    }
}

impl<M: Machine> Report for Numastat<'_, M> {
    fn name(&self) -> &'static str {
        "numastat"
    }

    fn for_each_value(&self, each: &mut dyn FnMut(&dyn fmt::Display, &dyn fmt::Display, u64)) {
        for node in self.0.all_nodes() {
            for (name, value) in self.0.numa_statistics(node).rows() {
                each(&format_args!("node{}", node.0), &name, value);
            }
        }
    }
}

impl<M: Machine> fmt::Display for Numastat<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        table(f, &self.0.all_nodes().map(|node| (node, self.0.numa_statistics(node))))
    }
}

impl<M: Machine> fmt::Display for NodeNumastat<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.numa_statistics(self.1).rows().iter().try_for_each(|(name, value)| writeln!(f, "{name} {value}"))
    }
}

fn table(f: &mut impl fmt::Write, nodes: &(impl Iterator<Item = (NodeId, NumaStatistics)> + Clone)) -> fmt::Result {
    write!(f, "{:16}", "")?;
    for (NodeId(node), _) in nodes.clone() {
        let digits = if node < 10 { 1 } else { 2 };
        write!(f, "{:1$}node{node}", "", 12 - digits)?;
    }
    for (row, (name, _)) in NumaStatistics::default().rows().iter().enumerate() {
        write!(f, "\n{name:16}")?;
        nodes.clone().try_for_each(|(_, counters)| write!(f, "{:16}", counters.rows()[row].1))?;
    }
    writeln!(f)
}

#[cfg(test)]
mod tests {
    use std::string::String;

    use super::*;

    #[test]
    fn the_table_is_numastat_s_to_the_byte() {
        let counters =
            NumaStatistics { hit: 76_557_759, miss: 30_772_308, foreign: 7, interleave: 1, local: 2, other: 3 };
        let nodes = [(NodeId(0), counters), (NodeId(10), NumaStatistics { hit: 1, ..counters })];
        let mut text = String::new();
        table(&mut text, &nodes.into_iter()).expect("a string takes all");
        insta::assert_snapshot!(text, @"
                                   node0          node10
        numa_hit                76557759               1
        numa_miss               30772308        30772308
        numa_foreign                   7               7
        interleave_hit                 1               1
        local_node                     2               2
        other_node                     3               3
        ");
    }
}
