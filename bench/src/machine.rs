//! [`Machine`]: the machine a guest gets, before anybody thinks of QEMU's words for it.
//!
//! Made from the command line ([`Machine::even`]) or from a topology file ([`file`]); turned into QEMU's words by
//! [`crate::qemu`] and into what a guest must find by [`crate::expectation`].

pub(crate) mod file;

use std::path::PathBuf;

use serde::Deserialize;

use crate::size::Size;

/// QEMU's machine type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Board {
    /// A PC with PCI Express.
    #[default]
    Q35,
    /// An older PC.
    Pc,
    /// The least of a machine. Has no NUMA.
    Microvm,
}

impl Board {
    /// QEMU's name of it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Q35 => "q35",
            Self::Pc => "pc",
            Self::Microvm => "microvm",
        }
    }
}

/// What runs before the loader on a PC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Firmware {
    /// Quick and small.
    #[default]
    Qboot,
    /// What QEMU takes by default.
    Seabios,
}

/// A NUMA node: CPUs, memory, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its memory; a memory-less node has 0.
    pub(crate) memory: Size,
    /// Its CPUs; a CPU-less node has 0.
    pub(crate) cpus: u32,
}

/// Latency and bandwidth from every node with CPUs (rows) to every node (columns).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Performance {
    /// In nanoseconds.
    pub(crate) latency_ns: Vec<Vec<u32>>,
    /// In MiB a second; may be empty.
    pub(crate) bandwidth_mib: Vec<Vec<u32>>,
}

/// CPUs and memory, and where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// No word about nodes: firmware has no SRAT.
    Flat {
        /// All memory.
        memory: Size,
        /// All CPUs.
        cpus: u32,
    },
    /// Nodes, numbered from 0.
    Numa {
        /// Each with memory or CPUs.
        nodes: Vec<Node>,
        /// From each node to each; without it firmware has no SLIT.
        distances: Option<Vec<Vec<u8>>>,
        /// Without it firmware has no HMAT.
        performance: Option<Performance>,
    },
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Its type.
    pub(crate) board: Board,
    /// Its firmware.
    pub(crate) firmware: Firmware,
    /// Its CPUs and memory.
    pub(crate) layout: Layout,
    /// Files of ACPI tables its firmware passes on as they are.
    pub(crate) acpi_tables: Vec<PathBuf>,
}

/// Distance of a node to itself.
pub(crate) const LOCAL_DISTANCE: u8 = 10;

/// Distance between nodes when nobody says otherwise.
pub(crate) const REMOTE_DISTANCE: u8 = 20;

/// Distances of nodes that are all as far from each other.
pub(crate) fn even_distances(nodes: usize) -> Vec<Vec<u8>> {
    let distance = |from, to| if from == to { LOCAL_DISTANCE } else { REMOTE_DISTANCE };
    (0..nodes).map(|from| (0..nodes).map(|to| distance(from, to)).collect()).collect()
}

impl Machine {
    /// A machine whose CPUs and memory (in whole MiB) are spread evenly over its nodes; the first get what is left
    /// over.
    pub(crate) fn even(board: Board, nodes: u32, cpus: u32, memory: Size) -> Self {
        let layout = if board == Board::Microvm {
            Layout::Flat { memory, cpus }
        } else {
            let share = |whole: u64, node: u32| {
                whole / u64::from(nodes) + u64::from(u64::from(node) < whole % u64::from(nodes))
            };
            let node =
                |node| Node { memory: Size::mib(share(memory.0 >> 20, node)), cpus: share(cpus.into(), node) as u32 };
            Layout::Numa {
                nodes: (0..nodes).map(node).collect(),
                distances: Some(even_distances(nodes as usize)),
                performance: None,
            }
        };
        Self { board, firmware: Firmware::default(), layout, acpi_tables: Vec::new() }
    }

    /// CPUs of all nodes.
    pub(crate) fn cpus(&self) -> u32 {
        match &self.layout {
            Layout::Flat { cpus, .. } => *cpus,
            Layout::Numa { nodes, .. } => nodes.iter().map(|node| node.cpus).sum(),
        }
    }

    /// Memory of all nodes.
    pub(crate) fn memory(&self) -> Size {
        match &self.layout {
            Layout::Flat { memory, .. } => *memory,
            Layout::Numa { nodes, .. } => Size(nodes.iter().map(|node| node.memory.0).sum()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(machine: &Machine) -> Vec<(u64, u32)> {
        match &machine.layout {
            Layout::Flat { .. } => Vec::new(),
            Layout::Numa { nodes, .. } => nodes.iter().map(|node| (node.memory.0 >> 20, node.cpus)).collect(),
        }
    }

    #[test]
    fn an_even_machine_gives_what_is_left_over_to_its_first_nodes() {
        let machine = Machine::even(Board::Q35, 3, 4, Size::mib(1000));
        assert_eq!(nodes(&machine), [(334, 2), (333, 1), (333, 1)]);
        assert_eq!((machine.cpus(), machine.memory()), (4, Size::mib(1000)));
    }

    #[test]
    fn a_microvm_has_no_nodes() {
        let machine = Machine::even(Board::Microvm, 1, 2, Size::mib(512));
        assert_eq!(machine.layout, Layout::Flat { memory: Size::mib(512), cpus: 2 });
    }

    #[test]
    fn even_distances_are_local_on_the_diagonal_only() {
        assert_eq!(even_distances(2), [[10, 20], [20, 10]]);
    }
}
