//! A matrix as data: which topologies, workloads and allocators to measure, in TOML.
//!
//! ```toml
//! effort = "quick"                       # quick, full; without: as `quarry run`
//! boots = 3                              # of each cell; 1 without
//! seed = 1
//! topologies = ["../topologies/four-nodes.toml", { name = "small", cpus = 2, nodes = 1, memory = "512M" }]
//! workloads = ["pair", "mix"]            # without: all, as one cell
//! allocators = ["quarry", "talc"]        # without: quarry
//! sizes = [64, "4K"]                     # these are of every cell
//! orders = [0, 9]
//! cpu-counts = [1, 4]
//! samples = 101
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::machine::{Board, Machine, file};
use crate::size::Size;

/// A file, understood.
#[derive(Clone, Debug)]
pub(super) struct Matrix {
    pub(super) boots: u32,
    /// What every guest is told.
    words: Vec<String>,
    topologies: Vec<(String, Machine)>,
    workloads: Vec<String>,
    allocators: Vec<String>,
}

/// One of the runs a matrix is made of.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    /// Its name, and that of its file without the ending.
    pub(super) name: String,
    pub(super) machine: Machine,
    /// What the guest is told.
    pub(super) words: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    effort: Option<String>,
    #[serde(default = "one")]
    boots: u32,
    #[serde(default = "first_seed")]
    seed: u64,
    topologies: Vec<Topology>,
    #[serde(default)]
    workloads: Vec<String>,
    #[serde(default)]
    allocators: Vec<String>,
    #[serde(default)]
    sizes: Vec<Size>,
    #[serde(default)]
    orders: Vec<u32>,
    #[serde(default)]
    cpu_counts: Vec<u32>,
    samples: Option<u64>,
}

/// A topology file, or a plain machine.
#[derive(Deserialize)]
#[serde(untagged)]
enum Topology {
    File(PathBuf),
    Plain(Plain),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain {
    name: String,
    cpus: u32,
    nodes: u32,
    memory: Size,
}

fn one() -> u32 {
    1
}

fn first_seed() -> u64 {
    1
}

impl Matrix {
    /// Reads a file; topology files are seen from it.
    ///
    /// # Errors
    ///
    /// One sentence on what is wrong with it.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, folder).with_context(|| format!("{} is no matrix", path.display()))
    }

    fn parse(text: &str, folder: &Path) -> Result<Self> {
        let written: Written = toml::from_str(text).map_err(|problem| {
            let place = problem.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            anyhow::anyhow!("line {place}: {}", problem.message())
        })?;
        let mut words = Vec::new();
        if let Some(effort) = &written.effort {
            if !["quick", "full"].contains(&effort.as_str()) {
                bail!("effort = \"{effort}\": use \"quick\" or \"full\", or leave it out");
            }
            words.push(format!("effort={effort}"));
        }
        let mut list = |key: &str, values: Vec<String>| {
            if !values.is_empty() {
                words.push(format!("{key}={}", values.join(",")));
            }
        };
        list("sizes", written.sizes.iter().map(|size| size.0.to_string()).collect());
        list("orders", written.orders.iter().map(u32::to_string).collect());
        list("cpus", written.cpu_counts.iter().map(u32::to_string).collect());
        list("samples", written.samples.iter().map(u64::to_string).collect());
        list("seed", vec![written.seed.to_string()]);
        if written.topologies.is_empty() || written.boots == 0 {
            bail!("it has no runs: name one topology at least, and one boot");
        }
        let topologies = written.topologies.iter().map(|topology| topology.read(folder)).collect::<Result<Vec<_>>>()?;
        for (at, (name, _)) in topologies.iter().enumerate() {
            if topologies[..at].iter().any(|(other, _)| other == name) {
                bail!("two topologies are called `{name}`");
            }
        }
        let or = |asked: Vec<String>, default: &str| if asked.is_empty() { vec![default.to_owned()] } else { asked };
        Ok(Self {
            boots: written.boots,
            words,
            topologies,
            workloads: or(written.workloads, ""),
            allocators: or(written.allocators, "quarry"),
        })
    }

    /// Every topology with every workload over every allocator.
    pub(super) fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for (topology, machine) in &self.topologies {
            for workload in &self.workloads {
                for allocator in &self.allocators {
                    let mut words = vec!["mode=run".to_owned()];
                    let mut name = topology.clone();
                    if !workload.is_empty() {
                        words.push(format!("workloads={workload}"));
                        name = format!("{name}.{workload}");
                    }
                    words.push(format!("allocators={allocator}"));
                    words.extend(self.words.iter().cloned());
                    cells.push(Cell { name: format!("{name}.{allocator}"), machine: machine.clone(), words });
                }
            }
        }
        cells
    }
}

impl Topology {
    fn read(&self, folder: &Path) -> Result<(String, Machine)> {
        match self {
            Self::File(path) => {
                let path = folder.join(path);
                let name =
                    path.file_stem().map_or_else(|| "topology".into(), |stem| stem.to_string_lossy().into_owned());
                Ok((name, file::read(&path)?.machine))
            }
            Self::Plain(plain) => {
                let Plain { name, cpus, nodes, memory } = plain;
                if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
                    bail!("a topology is called `{name}`: its name is part of a file's, use letters, digits and `-`");
                }
                if !(1..=64).contains(nodes) || !(1..=255).contains(cpus) || nodes > cpus {
                    bail!("topology `{name}`: use 1 to 255 CPUs and 1 to 64 nodes, no more nodes than CPUs");
                }
                if !memory.0.is_multiple_of(Size::mib(u64::from(*nodes)).0) || memory.0 == 0 {
                    bail!("topology `{name}`: memory {memory} does not give every node whole MiB");
                }
                Ok((name.clone(), Machine::even(Board::Q35, *nodes, *cpus, *memory)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(text: &str) -> Result<Matrix> {
        Matrix::parse(text, Path::new("."))
    }

    fn complaint(text: &str) -> String {
        matrix(text).expect_err("the file is wrong").to_string()
    }

    const SMALL: &str = r#"topologies = [{ name = "small", cpus = 2, nodes = 1, memory = "512M" }]"#;

    #[test]
    fn cells_are_every_topology_with_every_workload_over_every_allocator() {
        let text = r#"
            effort = "quick"
            topologies = [
                { name = "small", cpus = 2, nodes = 1, memory = "512M" },
                { name = "large", cpus = 8, nodes = 4, memory = "2G" },
            ]
            workloads = ["pair", "mix"]
            allocators = ["quarry", "talc"]
            sizes = [64, "4K"]
        "#;
        let cells = matrix(text).expect("nothing is wrong with it").cells();
        let names: Vec<&str> = cells.iter().map(|cell| cell.name.as_str()).collect();
        insta::assert_snapshot!(names.join("\n"), @"
        small.pair.quarry
        small.pair.talc
        small.mix.quarry
        small.mix.talc
        large.pair.quarry
        large.pair.talc
        large.mix.quarry
        large.mix.talc
        ");
        assert_eq!(
            cells[1].words.join(" "),
            "mode=run workloads=pair allocators=talc effort=quick sizes=64,4096 seed=1"
        );
        assert_eq!(cells[4].machine.cpus(), 8);
    }

    #[test]
    fn without_workloads_all_are_one_cell() {
        let cells = matrix(SMALL).expect("nothing is wrong with it").cells();
        assert_eq!(cells.len(), 1);
        assert_eq!(
            (cells[0].name.as_str(), cells[0].words.join(" ").as_str()),
            ("small.quarry", "mode=run allocators=quarry seed=1")
        );
    }

    #[test]
    fn wrong_files_get_a_sentence() {
        assert_eq!(complaint("topologies = []"), "it has no runs: name one topology at least, and one boot");
        assert_eq!(
            complaint(&format!("effort = \"high\"\n{SMALL}")),
            "effort = \"high\": use \"quick\" or \"full\", or leave it out"
        );
        assert!(complaint(&format!("{SMALL}\nworkload = [\"pair\"]")).starts_with("line 2: unknown field `workload`"));
        assert_eq!(
            complaint(&SMALL.replace("\"small\"", "\"a/b\"")),
            "a topology is called `a/b`: its name is part of a file's, use letters, digits and `-`"
        );
        assert_eq!(
            complaint(&SMALL.replace("nodes = 1", "nodes = 3")),
            "topology `small`: use 1 to 255 CPUs and 1 to 64 nodes, no more nodes than CPUs"
        );
        let twice = SMALL.replace("}]", "}, { name = \"small\", cpus = 1, nodes = 1, memory = \"1G\" }]");
        assert_eq!(complaint(&twice), "two topologies are called `small`");
    }
}
