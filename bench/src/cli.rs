//! The command line of `quarry`: its commands. What several have in common is in [`options`].

mod options;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::accelerator::Choice;
use crate::budget::BudgetCommand;
use crate::compare::CompareCommand;
use crate::disk::DiskOptions;
use crate::export::ExportCommand;
use crate::linux::LinuxCommand;
use crate::list::ListCommand;
use crate::machine::Board;
use crate::matrix::MatrixCommand;
use crate::noise::NoiseCommand;
use crate::performance::PerformanceCommand;
use crate::report_page::ReportCommand;
use crate::shell::ShellCommand;
use crate::size::Size;
use crate::trace::TraceCommand;

pub(crate) use options::{HostOptions, MachineOptions, SuiteOptions, accelerator};

/// Memory of a guest that is to run out of it.
const EDGE_MEMORY: Size = Size::mib(256);

/// The disk of a guest that tests.
const TEST_DISK: Size = Size::mib(64);

/// Seconds a guest works before its statistics are shown.
const DEFAULT_WORK_SECONDS: u64 = 2;

/// Boots Quarry guests under QEMU, measures their allocator and tests them.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the benchmark suite in a guest and print tables of its results.
    Run(RunCommand),
    /// List the workloads and allocators there are.
    List(ListCommand),
    /// Boot a guest that shows its topology, zones and free memory, and ends.
    Boot(BootCommand),
    /// Run the tests that need a real boot.
    Test(TestCommand),
    /// Have all CPUs of a guest allocate, hand on and free at random, and check every byte.
    Stress(StressCommand),
    /// Have threads of a guest want more memory than there is, each in its way, and see who is refused and who waits.
    Edge(EdgeCommand),
    /// Have a guest work, then show the state of its memory service in the formats of Linux's files, or as JSON.
    Stats(StatsCommand),
    /// Boot a guest with a prompt: show the state of its memory service, measure, let allocations fail.
    Shell(ShellCommand),
    /// Boot a folder of topologies, and check what each guest finds against what was asked for.
    Smoke(SmokeCommand),
    /// Run a matrix of topologies, workloads and allocators; goes on where it was interrupted.
    Matrix(MatrixCommand),
    /// Make, look at and record traces for the workload `replay`.
    Trace(TraceCommand),
    /// Print what a shell needs to complete this command's words.
    Completions(CompletionsCommand),
    /// Boot Linux in the same machine, run the same loops over its allocators, print the same tables.
    Linux(LinuxCommand),
    /// Print the tables of runs again; of several files in one table, where their allocators differ.
    Show(ShowCommand),
    /// Compare two builds case by case, from the records of their runs.
    Compare(CompareCommand),
    /// Run the same build over and over, to know what `compare` makes of no change.
    Noise(NoiseCommand),
    /// Write runs in the formats of other programs.
    Export(ExportCommand),
    /// Hold what operations cost in instructions against ci/budget.toml.
    Budget(BudgetCommand),
    /// Write a page with pictures and tables of runs, for a browser.
    Report(ReportCommand),
    /// Write docs/performance.md: every figure that is claimed, its target, and what was measured.
    Performance(PerformanceCommand),
}

/// What to do with `run`, for somebody who has never done it.
const RUN_EXAMPLES: &str = "Examples:
  quarry run --quick                              what there is to see, in some seconds
  quarry run --quick --allocator all              ours beside eight others, in one guest
  quarry run --workload pair,mix --size 64,1K     some workloads; `quarry list` has all
  quarry run --icount --cpus 1 --workload pair    instructions, the same in every run
  quarry run --topology ci/topologies/hmat.toml   on a machine of your own
  quarry run --boots 8 --output before.jsonl      to compare: change something, run again, then
  quarry compare before.jsonl after.jsonl         tells what changed, and what is noise
  quarry report before.jsonl                      makes a page with pictures of it";

#[derive(Debug, Args)]
#[command(after_long_help = RUN_EXAMPLES)]
pub(crate) struct RunCommand {
    #[command(flatten)]
    pub(crate) machine: MachineOptions,
    #[command(flatten)]
    pub(crate) disk: DiskOptions,
    #[command(flatten)]
    pub(crate) suite: SuiteOptions,
    /// A trace for the workload `replay` (see `quarry trace`), which alone is measured unless --workload has others.
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// Boot so often, one boot after the other; `compare` needs several a side. Tables are of the last.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) boots: u32,
    /// Also write the records to a file, as JSON Lines; those of all boots, one after the other.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Show every figure, one row of results a line.
    #[arg(long)]
    pub(crate) details: bool,
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsCommand {
    /// Which shell.
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct BootCommand {
    #[command(flatten)]
    pub(crate) machine: MachineOptions,
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

#[derive(Debug, Args)]
pub(crate) struct TestCommand {
    /// Run only tests whose name contains this.
    #[arg(long, value_name = "NAME")]
    pub(crate) filter: Option<String>,
    #[command(flatten)]
    pub(crate) machine: MachineOptions,
    #[command(flatten)]
    disk: DiskOptions,
    /// Give the guest no disk; else it has an empty one where none is asked for and the machine takes one.
    #[arg(long, conflicts_with = "disk", help_heading = "The machine")]
    no_disk: bool,
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

impl TestCommand {
    /// The disks asked for, and one to test with where nothing was said.
    ///
    /// # Errors
    ///
    /// When the machine cannot be.
    pub(crate) fn disks(&self) -> Result<DiskOptions> {
        let takes_none = self.no_disk || self.machine.machine()?.board == Board::Microvm;
        Ok(if takes_none { self.disk.clone() } else { self.disk.or_empty(TEST_DISK) })
    }
}

#[derive(Debug, Args)]
pub(crate) struct StressCommand {
    /// How long.
    #[arg(long, default_value_t = 30)]
    pub(crate) seconds: u64,
    /// Where random numbers start.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) machine: MachineOptions,
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

#[derive(Debug, Args)]
pub(crate) struct EdgeCommand {
    /// How long.
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u64,
    /// Where random numbers start.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    #[command(flatten)]
    machine: MachineOptions,
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

impl EdgeCommand {
    /// The machine asked for; one with little memory, unless that was asked for.
    pub(crate) fn machine(&self) -> MachineOptions {
        self.machine.with_memory_or(EDGE_MEMORY)
    }
}

#[derive(Debug, Args)]
pub(crate) struct StatsCommand {
    /// What to show [default: rows,meminfo].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_enum)]
    pub(crate) show: Vec<Shown>,
    /// Show everything as one JSON document instead.
    #[arg(long, conflicts_with = "show")]
    pub(crate) json: bool,
    /// How long the guest works (as in `stress`), unless the suite is to run [default: 2].
    #[arg(long)]
    seconds: Option<u64>,
    #[command(flatten)]
    pub(crate) machine: MachineOptions,
    #[command(flatten)]
    suite: SuiteOptions,
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

/// A report of the memory service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shown {
    /// Where all memory is, in rows that add up.
    Rows,
    /// What the row `metadata` consists of.
    Metadata,
    /// Caches, as /proc/slabinfo.
    Slabinfo,
    /// Free blocks, as /proc/buddyinfo.
    Buddyinfo,
    /// Free blocks by mobility, as /proc/pagetypeinfo.
    Pagetypeinfo,
    /// Zones, as /proc/zoneinfo.
    Zoneinfo,
    /// All memory, as /proc/meminfo.
    Meminfo,
    /// Counters, as /proc/vmstat.
    Vmstat,
    /// Contiguous memory by malloc type, as `vmstat -m`.
    Malloctypes,
    /// Where pages came from, as `numastat`.
    Numastat,
    /// Nodes, as `numactl -H`.
    Numactl,
    /// All of these.
    All,
}

impl Shown {
    /// The reports it stands for, by the names the guest gives them.
    pub(crate) fn names(self) -> Vec<String> {
        let all = Self::value_variants().iter().copied().filter(|&it| it != Self::All);
        let named = |it: Self| it.to_possible_value().expect("none is hidden").get_name().to_owned();
        if self == Self::All { all.map(named).collect() } else { vec![named(self)] }
    }
}

impl StatsCommand {
    /// The work: words for the guest, and how long it is silent by design.
    ///
    /// # Errors
    ///
    /// When two kinds of work are asked for.
    pub(crate) fn work(&self) -> Result<(Vec<String>, Duration)> {
        let mut words = self.suite.guest_words();
        let suite = self.suite.is_asked_for();
        if suite && self.seconds.is_some() {
            bail!("--seconds is how long the stress takes; leave it out, or what the suite is to measure");
        }
        let seconds = if suite { 0 } else { self.seconds.unwrap_or(DEFAULT_WORK_SECONDS) };
        if suite {
            words.push("mode=run".into());
        } else {
            words.extend(["mode=stress".into(), format!("seconds={seconds}")]);
        }
        words.push("reports=1".into());
        Ok((words, Duration::from_secs(seconds)))
    }

    /// Names of the reports to show, in the order they were asked for.
    pub(crate) fn reports(&self) -> Vec<String> {
        let show = if self.show.is_empty() { &[Shown::Rows, Shown::Meminfo][..] } else { &self.show };
        show.iter().flat_map(|shown| shown.names()).collect()
    }
}

#[derive(Debug, Args)]
pub(crate) struct SmokeCommand {
    /// Boot only this one, by its file's name without `.toml`. May be repeated.
    #[arg(long, value_name = "NAME")]
    pub(crate) only: Vec<String>,
    /// Where the topologies are [default: ci/topologies of the source].
    #[arg(long, value_name = "FOLDER")]
    pub(crate) topologies: Option<PathBuf>,
    /// What QEMU runs the guest with.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) accel: Choice,
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

#[derive(Debug, Args)]
pub(crate) struct ShowCommand {
    /// Records as `quarry run --output` writes them, or serial logs.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Show every figure, one row of results a line.
    #[arg(long)]
    pub(crate) details: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn statistics_come_after_a_stress_or_what_the_suite_is_to_measure() {
        let stats = |words: &str| {
            let words = ["quarry", "stats"].into_iter().chain(words.split_whitespace());
            match Cli::try_parse_from(words).expect("the line is right").command {
                Command::Stats(stats) => stats,
                other => panic!("{other:?}"),
            }
        };
        let work = |words: &str| {
            let (words, quiet) = stats(words).work().expect("it is one kind of work");
            (words.join(" "), quiet.as_secs())
        };
        assert_eq!(work(""), ("seed=1 mode=stress seconds=2 reports=1".into(), 2));
        assert_eq!(work("--seconds 7"), ("seed=1 mode=stress seconds=7 reports=1".into(), 7));
        let suite = "workloads=pair sizes=64 seed=1 mode=run reports=1";
        assert_eq!(work("--workload pair --size 64"), (suite.into(), 0));
        assert!(stats("--workload pair --seconds 1").work().is_err());
        assert_eq!(stats("").reports(), ["rows", "meminfo"]);
        assert_eq!(stats("--show vmstat,rows --show slabinfo").reports(), ["vmstat", "rows", "slabinfo"]);
        assert_eq!(stats("--show all").reports().len(), 11);
        assert!(Cli::try_parse_from(["quarry", "stats", "--json", "--show", "rows"]).is_err());
    }
}
