//! `quarry matrix`: boots every cell of a matrix of topologies, workloads and allocators, each into a file of its own.
//!
//! A cell whose file is whole, and of the same build told the same, is not run again: so a matrix that was interrupted
//! goes on where it stopped, and its parts may be run on several computers and their files put into one folder.

mod file;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use self::file::{Cell, Matrix};
use crate::accelerator::{Accelerator, Choice};
use crate::cli::{HostOptions, accelerator};
use crate::failure::Failure;
use crate::guest::{check_words, results, words_of_host};
use crate::images::{self, Image};
use crate::preflight;
use crate::process::{check_qemu, interrupted};
use crate::qemu::Boot;
use crate::runs;
use crate::watch::{Files, Nobody, watch};
use crate::words::count;

#[derive(Debug, Args)]
pub(crate) struct MatrixCommand {
    /// Topologies, workloads and allocators, in TOML (see ci/matrices and docs/matrices.md).
    file: PathBuf,
    /// Where the files of records go [default: results/matrix/NAME of the source].
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Run only the k-th of n parts, to spread a matrix over n computers.
    #[arg(long, value_name = "K/N", value_parser = partition, default_value = "1/1")]
    partition: Partition,
    /// Print the cells and whether they are done, and boot nothing.
    #[arg(long)]
    list: bool,
    /// What QEMU runs the guests with.
    #[arg(long, value_enum, default_value_t)]
    accel: Choice,
    #[command(flatten)]
    host: HostOptions,
}

/// The `part`-th, from 1, of so many `parts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Partition {
    part: usize,
    parts: usize,
}

impl Partition {
    fn has(self, index: usize) -> bool {
        index % self.parts == self.part - 1
    }
}

fn partition(text: &str) -> Result<Partition, String> {
    let numbers = text.split_once('/').and_then(|(part, parts)| Some((part.parse().ok()?, parts.parse().ok()?)));
    match numbers {
        Some((part, parts)) if (1..=parts).contains(&part) => Ok(Partition { part, parts }),
        _ => Err("write k/n, k from 1 to n".into()),
    }
}

/// Runs what is not done.
///
/// # Errors
///
/// When the matrix or a folder is wrong; after all other cells have run, when some failed.
pub(crate) fn execute(command: &MatrixCommand) -> Result<()> {
    let matrix = Matrix::read(&command.file)?;
    let stem = command.file.file_stem().context("name a file")?;
    let folder = command.output.clone().unwrap_or_else(|| results().join("matrix").join(stem));
    let accelerator = accelerator(command.accel, false, 0)?;
    let cells: Vec<Cell> = matrix
        .cells()
        .into_iter()
        .enumerate()
        .filter_map(|(index, cell)| command.partition.has(index).then_some(cell))
        .map(|cell| told(cell, accelerator, &command.host))
        .collect();
    if command.list {
        for cell in &cells {
            let state = if is_done(cell, &file_of(&folder, cell), matrix.boots) { "done" } else { "to do" };
            println!("{state:<6} {}", cell.name);
        }
        return Ok(());
    }
    check_qemu(&command.host.qemu)?;
    let most_cpus = cells.iter().map(|cell| cell.machine.cpus()).max().unwrap_or(0);
    for warning in preflight::warnings(accelerator, most_cpus) {
        eprintln!("note: {warning}");
    }
    let images = command.host.images.provide(Image::Bench)?;
    let runner = Runner { command, images, accelerator, folder: &folder, boots: matrix.boots };
    let mut failed = Vec::new();
    for (at, cell) in cells.iter().enumerate() {
        check_words(&cell.words)?;
        let place = format!("[{}/{}] {}", at + 1, cells.len(), cell.name);
        if is_done(cell, &file_of(&folder, cell), matrix.boots) {
            println!("{place}: done before");
            continue;
        }
        let started = Instant::now();
        match runner.run(cell) {
            Ok(results) => {
                println!("{place}: {} in {} s", count(results as u64, "result"), started.elapsed().as_secs());
            }
            Err(Failure::Interrupted) => return Err(Failure::Interrupted.into()),
            Err(failure) => {
                println!("{place}: FAILED: {failure}");
                failed.push(cell.name.as_str());
            }
        }
        if interrupted() {
            return Err(Failure::Interrupted.into());
        }
    }
    if !failed.is_empty() {
        bail!("{} failed: {}", count(failed.len() as u64, "cell"), failed.join(", "));
    }
    println!("all is in {}; `quarry report {}` makes a page of it", folder.display(), folder.display());
    Ok(())
}

/// With what every guest is told.
fn told(mut cell: Cell, accelerator: Accelerator, host: &HostOptions) -> Cell {
    cell.words.extend(words_of_host(accelerator, host));
    cell
}

fn file_of(folder: &Path, cell: &Cell) -> PathBuf {
    folder.join(format!("{}.jsonl", cell.name))
}

/// Whether a file has all boots of a cell, whole and without errors, of a guest that was told the same.
fn is_done(cell: &Cell, file: &Path, boots: u32) -> bool {
    let Ok(runs) = runs::read_whole(&[file.to_owned()]) else { return false };
    let words = cell.words.join(" ");
    let same = |run: &crate::session::Session| run.run.as_ref().is_some_and(|run| run.command_line == words);
    runs.len() as u64 == u64::from(boots) && runs.iter().all(same)
}

struct Runner<'c> {
    command: &'c MatrixCommand,
    images: images::Files,
    accelerator: Accelerator,
    folder: &'c Path,
    boots: u32,
}

impl Runner<'_> {
    /// Boots a cell as often as wanted; returns how many results there are. What its file had is gone.
    fn run(&self, cell: &Cell) -> Result<usize, Failure> {
        let host = &self.command.host;
        let boot = Boot {
            qemu: host.qemu.clone(),
            machine: cell.machine.clone(),
            accelerator: self.accelerator,
            loader: self.images.loader.clone(),
            image: self.images.image.clone(),
            guest_words: cell.words.clone(),
            pin: host.pin,
            more: host.qemu_arg.clone(),
        };
        let output = Some(file_of(self.folder, cell));
        let mut files = Files { log: self.folder.join(format!("{}.log", cell.name)), output, append: false };
        let mut results = 0;
        for _ in 0..self.boots {
            let ended = watch(&boot, host.deadlines(Duration::ZERO), &files, &mut Nobody);
            ended.verdict?;
            if ended.session.results.is_empty() {
                return Err(Failure::NoResults);
            }
            results += ended.session.results.len();
            files.append = true;
        }
        Ok(results)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn partitions_are_written_with_a_stroke() {
        assert_eq!(partition("2/3"), Ok(Partition { part: 2, parts: 3 }));
        for wrong in ["0/3", "4/3", "1", "a/b", "1/0", ""] {
            assert_eq!(partition(wrong), Err("write k/n, k from 1 to n".to_owned()), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn every_cell_is_in_one_part(parts in 1_usize..20, index in 0_usize..1000) {
            let with = (1..=parts).filter(|&part| Partition { part, parts }.has(index)).count();
            prop_assert_eq!(with, 1);
        }
    }
}
