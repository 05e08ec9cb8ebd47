//! Topology files: a [`Machine`] in TOML, and what a guest must make of it where that is not simply what was asked for.
//!
//! ```toml
//! machine = "q35"                      # q35 (default), pc, microvm
//! firmware = "qboot"                   # qboot (default), seabios
//! distances = [[10, 21], [21, 10]]     # without: no SLIT
//! acpi-tables = ["srat.bin"]           # files, seen from this one
//!
//! [[nodes]]                            # without any: `memory` and `cpus` of the whole machine, and no SRAT
//! memory = "1G"                        # without: a memory-less node
//! cpus = 2                             # without: a CPU-less node
//!
//! [[nodes]]
//! memory = "1G"
//!
//! [hmat]                               # from each node with CPUs (rows) to each node (columns)
//! latency-ns = [[10, 25]]
//! bandwidth-mib = [[20000, 5000]]
//!
//! [expect]                             # what the guest finds, where that differs
//! nodes = [{ memory = "2G", cpus = 2 }]
//! distances = [[10]]
//! source = "assumed"
//! warnings = 1
//! ```

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::{Board, Firmware, LOCAL_DISTANCE, Layout, Machine, Node, Performance};
use crate::size::Size;

/// A topology file, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MachineFile {
    /// The machine it describes.
    pub(crate) machine: Machine,
    /// Its section `expect`.
    pub(crate) expect: Expect,
}

/// What the guest finds, where that is not what was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expect {
    /// Nodes with their CPUs and memory.
    pub(crate) nodes: Option<Vec<Node>>,
    /// Distances from each node to each.
    pub(crate) distances: Option<Vec<Vec<u8>>>,
    /// Who said which node things are on.
    pub(crate) source: Option<String>,
    /// How many warnings the tables cost.
    pub(crate) warnings: Option<u32>,
}

/// Why a topology file cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// It cannot be read at all.
    #[error("cannot read the topology file {}: {problem}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        problem: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("{}, line {line}: {problem}", path.display())]
    Wrong {
        /// Which file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// What.
        problem: String,
    },
}

/// Reads a topology file.
///
/// # Errors
///
/// [`FileError`], with the line that is wrong.
pub(crate) fn read(path: &Path) -> Result<MachineFile, FileError> {
    let text = fs::read_to_string(path).map_err(|problem| FileError::Unreadable { path: path.to_owned(), problem })?;
    parse(&text, path.parent().unwrap_or(Path::new(""))).map_err(|Wrong { at, problem }| {
        let line = text.get(..at.start).unwrap_or(&text).matches('\n').count() + 1;
        FileError::Wrong { path: path.to_owned(), line, problem }
    })
}

/// A problem and the bytes of the file it is about.
struct Wrong {
    at: Range<usize>,
    problem: String,
}

fn wrong<T>(about: &Spanned<T>, problem: impl Into<String>) -> Wrong {
    Wrong { at: about.span(), problem: problem.into() }
}

type Matrix<T> = Spanned<Vec<Vec<T>>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Raw {
    #[serde(default)]
    machine: Option<Spanned<Board>>,
    #[serde(default)]
    firmware: Option<Spanned<Firmware>>,
    #[serde(default)]
    memory: Option<Spanned<Size>>,
    #[serde(default)]
    cpus: Option<Spanned<u32>>,
    #[serde(default)]
    nodes: Vec<Spanned<RawNode>>,
    #[serde(default)]
    distances: Option<Matrix<u8>>,
    #[serde(default)]
    hmat: Option<RawHmat>,
    #[serde(default)]
    acpi_tables: Vec<Spanned<PathBuf>>,
    #[serde(default)]
    expect: RawExpect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNode {
    #[serde(default)]
    memory: Size,
    #[serde(default)]
    cpus: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawHmat {
    latency_ns: Matrix<u32>,
    #[serde(default)]
    bandwidth_mib: Option<Matrix<u32>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExpect {
    nodes: Option<Vec<RawNode>>,
    distances: Option<Vec<Vec<u8>>>,
    source: Option<String>,
    warnings: Option<u32>,
}

impl From<&RawNode> for Node {
    fn from(raw: &RawNode) -> Self {
        Self { memory: raw.memory, cpus: raw.cpus }
    }
}

fn parse(text: &str, folder: &Path) -> Result<MachineFile, Wrong> {
    let raw: Raw = toml::from_str(text)
        .map_err(|error| Wrong { at: error.span().unwrap_or(0..0), problem: error.message().replace('\n', ", ") })?;
    let board = raw.machine.as_ref().map(|board| *board.get_ref()).unwrap_or_default();
    if let Some(firmware) = raw.firmware.as_ref().filter(|_| board == Board::Microvm) {
        return Err(wrong(firmware, "a microvm brings its own firmware; leave this out"));
    }
    let layout = if raw.nodes.is_empty() { flat(&raw)? } else { numa(&raw, board)? };
    let acpi_tables = raw.acpi_tables.iter().map(|table| {
        let path = folder.join(table.get_ref());
        if path.is_file() { Ok(path) } else { Err(wrong(table, format!("there is no file {}", path.display()))) }
    });
    Ok(MachineFile {
        machine: Machine {
            board,
            firmware: raw.firmware.as_ref().map(|firmware| *firmware.get_ref()).unwrap_or_default(),
            layout,
            acpi_tables: acpi_tables.collect::<Result<_, _>>()?,
        },
        expect: Expect {
            nodes: raw.expect.nodes.map(|nodes| nodes.iter().map(Node::from).collect()),
            distances: raw.expect.distances,
            source: raw.expect.source,
            warnings: raw.expect.warnings,
        },
    })
}

fn flat(raw: &Raw) -> Result<Layout, Wrong> {
    if let Some(distances) = &raw.distances {
        return Err(wrong(distances, "distances are between nodes, and there are no [[nodes]]"));
    }
    if let Some(hmat) = &raw.hmat {
        return Err(wrong(&hmat.latency_ns, "latencies are between nodes, and there are no [[nodes]]"));
    }
    let nothing =
        || Wrong { at: 0..0, problem: "describe [[nodes]], or `memory` and `cpus` of a machine without".into() };
    let (memory, cpus) = (raw.memory.as_ref().ok_or_else(nothing)?, raw.cpus.as_ref().ok_or_else(nothing)?);
    check_memory(*memory.get_ref()).map_err(|problem| wrong(memory, problem))?;
    if memory.get_ref().0 == 0 {
        return Err(wrong(memory, "a machine needs memory"));
    }
    if *cpus.get_ref() == 0 {
        return Err(wrong(cpus, "a machine needs a CPU"));
    }
    Ok(Layout::Flat { memory: *memory.get_ref(), cpus: *cpus.get_ref() })
}

fn numa(raw: &Raw, board: Board) -> Result<Layout, Wrong> {
    let first = &raw.nodes[0];
    if board == Board::Microvm {
        return Err(wrong(first, "a microvm has no NUMA nodes; give `memory` and `cpus` of the machine instead"));
    }
    if let Some(memory) = &raw.memory {
        return Err(wrong(memory, "memory belongs to the [[nodes]]"));
    }
    if let Some(cpus) = &raw.cpus {
        return Err(wrong(cpus, "CPUs belong to the [[nodes]]"));
    }
    for node in &raw.nodes {
        check_memory(node.get_ref().memory).map_err(|problem| wrong(node, problem))?;
        if node.get_ref().memory.0 == 0 && node.get_ref().cpus == 0 {
            return Err(wrong(node, "a node needs memory, CPUs or both"));
        }
    }
    if raw.nodes.iter().all(|node| node.get_ref().cpus == 0) {
        return Err(wrong(first, "a machine needs a CPU on one of its nodes"));
    }
    if raw.nodes.iter().all(|node| node.get_ref().memory.0 == 0) {
        return Err(wrong(first, "a machine needs memory on one of its nodes"));
    }
    let count = raw.nodes.len();
    if let Some(distances) = &raw.distances {
        check_shape(distances, count, count, "each node")?;
        check_distances(distances)?;
    }
    let with_cpus = raw.nodes.iter().filter(|node| node.get_ref().cpus > 0).count();
    let performance = raw.hmat.as_ref().map(|hmat| {
        for matrix in [Some(&hmat.latency_ns), hmat.bandwidth_mib.as_ref()].into_iter().flatten() {
            check_shape(matrix, with_cpus, count, "each node with CPUs")?;
            if matrix.get_ref().iter().flatten().any(|value| *value == 0) {
                return Err(wrong(matrix, "latencies and bandwidths are at least 1"));
            }
        }
        Ok(Performance {
            latency_ns: hmat.latency_ns.get_ref().clone(),
            bandwidth_mib: hmat.bandwidth_mib.as_ref().map(|matrix| matrix.get_ref().clone()).unwrap_or_default(),
        })
    });
    Ok(Layout::Numa {
        nodes: raw.nodes.iter().map(|node| node.get_ref().into()).collect(),
        distances: raw.distances.as_ref().map(|distances| distances.get_ref().clone()),
        performance: performance.transpose()?,
    })
}

fn check_memory(memory: Size) -> Result<(), String> {
    if memory.0.is_multiple_of(Size::mib(1).0) {
        Ok(())
    } else {
        Err(format!("memory of {memory} is not in whole MiB"))
    }
}

fn check_shape<T>(matrix: &Matrix<T>, rows: usize, columns: usize, row_of: &str) -> Result<(), Wrong> {
    let found = matrix.get_ref();
    if found.len() != rows {
        return Err(wrong(matrix, format!("there are {} rows, but a row for {row_of} makes {rows}", found.len())));
    }
    match found.iter().position(|row| row.len() != columns) {
        None => Ok(()),
        Some(row) => {
            let found = found[row].len();
            Err(wrong(matrix, format!("row {row} has {found} columns, but there are {columns} nodes")))
        }
    }
}

fn check_distances(distances: &Matrix<u8>) -> Result<(), Wrong> {
    for (from, row) in distances.get_ref().iter().enumerate() {
        for (to, distance) in row.iter().enumerate() {
            if from == to && *distance != LOCAL_DISTANCE {
                return Err(wrong(distances, format!("node {from} is {LOCAL_DISTANCE} from itself, not {distance}")));
            }
            if *distance < LOCAL_DISTANCE {
                let least =
                    format!("the distance from node {from} to node {to} is {distance}; the least is {LOCAL_DISTANCE}");
                return Err(wrong(distances, least));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
