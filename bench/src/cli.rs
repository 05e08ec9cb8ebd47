//! The command line of `quarry`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::accelerator::{Accelerator, Choice, kvm_works};
use crate::budget::BudgetCommand;
use crate::compare::CompareCommand;
use crate::export::ExportCommand;
use crate::images::ImageOptions;
use crate::linux::LinuxCommand;
use crate::list::{self, ListCommand};
use crate::machine::{Board, Machine, file};
use crate::matrix::MatrixCommand;
use crate::noise::NoiseCommand;
use crate::qemu::DEFAULT_QEMU;
use crate::report_page::ReportCommand;
use crate::shell::ShellCommand;
use crate::size::Size;
use crate::trace::TraceCommand;
use crate::watch::Deadlines;

/// CPUs, nodes and memory when nobody says otherwise.
const DEFAULT_CPUS: u32 = 4;
const DEFAULT_NODES: u32 = 2;
const DEFAULT_MEMORY: Size = Size::mib(2048);

/// Memory of a guest that is to run out of it.
const EDGE_MEMORY: Size = Size::mib(256);

/// Memory of a guest whose instructions are counted.
const COUNTING_MEMORY: Size = Size::mib(512);

/// Seconds a guest works before its statistics are shown.
const DEFAULT_WORK_SECONDS: u64 = 2;

/// Most CPUs of a guest: of a PC's local APICs without x2APIC, which TCG does not have.
const MOST_CPUS_UNDER_TCG: u32 = 255;

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
    pub(crate) host: HostOptions,
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
        let memory = self.machine.memory.unwrap_or(EDGE_MEMORY);
        MachineOptions { memory: Some(memory), ..self.machine.clone() }
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

/// The machine to simulate.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "The machine")]
pub(crate) struct MachineOptions {
    /// CPUs, spread evenly over the nodes [default: 4].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
    cpus: Option<u32>,
    /// NUMA nodes [default: 2, but no more than CPUs].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    nodes: Option<u32>,
    /// Memory, spread evenly over the nodes [default: 2G; of `edge` 256M].
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,
    /// QEMU's machine type [default: q35].
    #[arg(long, value_enum)]
    machine: Option<Board>,
    /// Take all of this from a file instead (see ci/topologies).
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cpus", "nodes", "memory", "machine"])]
    topology: Option<PathBuf>,
    /// What QEMU runs the guest with: KVM where it works, TCG (slow, and everywhere) elsewhere.
    #[arg(long, value_enum, default_value_t)]
    accel: Choice,
    /// Count instructions instead of time: figures that are the same in every run. TCG only; best with one CPU.
    #[arg(long)]
    pub(crate) icount: bool,
}

impl MachineOptions {
    /// One CPU with one node, whose instructions are counted.
    pub(crate) fn counting_instructions() -> Self {
        Self {
            cpus: Some(1),
            nodes: Some(1),
            memory: Some(COUNTING_MEMORY),
            machine: None,
            topology: None,
            accel: Choice::Tcg,
            icount: true,
        }
    }

    /// The machine asked for.
    ///
    /// # Errors
    ///
    /// When it cannot be.
    pub(crate) fn machine(&self) -> Result<Machine> {
        if let Some(file) = &self.topology {
            return Ok(file::read(file)?.machine);
        }
        let board = self.machine.unwrap_or_default();
        let cpus = self.cpus.unwrap_or(DEFAULT_CPUS);
        let memory = self.memory.unwrap_or(DEFAULT_MEMORY);
        let nodes = match (board, self.nodes) {
            (Board::Microvm, Some(2..)) => bail!("a microvm has no NUMA nodes; leave --nodes out"),
            (Board::Microvm, _) => 1,
            (_, nodes) => nodes.unwrap_or(DEFAULT_NODES.min(cpus)),
        };
        if !memory.0.is_multiple_of(Size::mib(1).0) || memory < Size::mib(u64::from(nodes)) {
            bail!("--memory {memory} does not give every node whole MiB");
        }
        Ok(Machine::even(board, nodes, cpus, memory))
    }

    /// What QEMU is to run it with.
    ///
    /// # Errors
    ///
    /// When that cannot be had on this computer.
    pub(crate) fn accelerator(&self, machine: &Machine) -> Result<Accelerator> {
        accelerator(self.accel, self.icount, machine.cpus())
    }
}

/// What QEMU is to run so many CPUs with.
///
/// # Errors
///
/// When that cannot be had on this computer.
pub(crate) fn accelerator(choice: Choice, icount: bool, cpus: u32) -> Result<Accelerator> {
    let accelerator = Accelerator::choose(choice, icount, kvm_works())?;
    if accelerator != Accelerator::Kvm && cpus > MOST_CPUS_UNDER_TCG {
        bail!("TCG simulates at most {MOST_CPUS_UNDER_TCG} CPUs, not {cpus}");
    }
    Ok(accelerator)
}

/// What to measure.
#[derive(Debug, Args)]
#[command(next_help_heading = "What to measure")]
pub(crate) struct SuiteOptions {
    /// Workloads [default: all]. `quarry list --details` tells more of each.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = list::workloads())]
    workload: Vec<String>,
    /// Sizes of blocks in bytes, `K` and `M` understood [default: 8 to 8K].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    size: Vec<Size>,
    /// Orders of page blocks [default: 0 to 9].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    order: Vec<u32>,
    /// Allocators, ours and others beside it [default: quarry].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = list::allocators())]
    allocator: Vec<String>,
    /// On how many CPUs at once [default: 1, 2, 4 ... and all].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    cpu_counts: Vec<u32>,
    /// Samples of each row [default: 101, and 5 with --icount].
    #[arg(long, value_name = "N")]
    samples: Option<u64>,
    /// A look in under half a minute: the main workloads, two sizes, few samples, on one CPU and on all.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Figures to keep: 301 samples, each twice as long.
    #[arg(long)]
    full: bool,
    /// Where random numbers start.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

impl SuiteOptions {
    /// Whether anything was said of what to measure.
    fn is_asked_for(&self) -> bool {
        let lists =
            [self.workload.len(), self.allocator.len(), self.size.len(), self.order.len(), self.cpu_counts.len()];
        lists.iter().any(|&length| length > 0) || self.samples.is_some() || self.quick || self.full
    }

    /// Whether allocators were chosen.
    pub(crate) fn names_allocators(&self) -> bool {
        !self.allocator.is_empty()
    }

    /// The same for a run that has a trace to replay.
    ///
    /// # Errors
    ///
    /// When other workloads are asked for, and `replay` is not.
    pub(crate) fn guest_words_with_trace(&self) -> Result<Vec<String>> {
        let replay = "replay".to_owned();
        if !self.workload.is_empty() && !self.workload.contains(&replay) {
            bail!("--trace is what the workload `replay` replays; add replay to --workload, or leave --workload out");
        }
        let more = self.workload.is_empty().then(|| format!("workloads={replay}"));
        Ok(more.into_iter().chain(self.guest_words()).collect())
    }

    /// As the guest reads it.
    pub(crate) fn guest_words(&self) -> Vec<String> {
        fn list<T: ToString>(key: &str, values: impl Iterator<Item = T>) -> Option<String> {
            let values: Vec<String> = values.map(|value| value.to_string()).collect();
            (!values.is_empty()).then(|| format!("{key}={}", values.join(",")))
        }
        let lists = [
            list("workloads", self.workload.iter()),
            list("allocators", self.allocator.iter()),
            list("sizes", self.size.iter().map(|size| size.0)),
            list("orders", self.order.iter()),
            list("cpus", self.cpu_counts.iter()),
            list("samples", self.samples.iter()),
            self.quick.then(|| "effort=quick".to_owned()),
            self.full.then(|| "effort=full".to_owned()),
        ];
        lists.into_iter().flatten().chain([format!("seed={}", self.seed)]).collect()
    }
}

/// QEMU, deadlines and files.
#[derive(Debug, Args)]
#[command(next_help_heading = "QEMU")]
pub(crate) struct HostOptions {
    /// The QEMU to run.
    #[arg(long, value_name = "PATH", env = "QUARRY_QEMU", default_value = DEFAULT_QEMU)]
    pub(crate) qemu: PathBuf,
    /// Give each of the guest's CPUs one of this computer's for itself. Steadies figures where there are enough.
    #[arg(long)]
    pub(crate) pin: bool,
    /// One more argument for QEMU, as it is. May be repeated.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) qemu_arg: Vec<String>,
    /// One more word for the guest's command line: `loglevel=debug`, say, or `failslab=1,10,0,-1`. May be repeated.
    #[arg(long, value_name = "WORD")]
    pub(crate) append: Vec<String>,
    /// Most time until the guest is up.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    boot_timeout: Duration,
    /// Most time from one record of the guest to its next.
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = seconds)]
    record_timeout: Duration,
    /// Most time for all of the guest's work.
    #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = seconds)]
    timeout: Duration,
    /// Where to keep all that the guest writes; for `smoke` a folder [default: results/COMMAND.log of the source].
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Also show the guest's log while it works.
    #[arg(long, short)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) images: ImageOptions,
}

impl HostOptions {
    /// The deadlines asked for; `quiet` is how long the guest works without a record by design.
    pub(crate) fn deadlines(&self, quiet: Duration) -> Deadlines {
        let record = self.record_timeout.saturating_add(quiet);
        Deadlines { boot: self.boot_timeout, record, work: self.timeout.saturating_add(quiet) }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| *seconds > 0.0);
    let limit = 1e9;
    seconds.map(|seconds| Duration::from_secs_f64(seconds.min(limit))).ok_or_else(|| "write seconds above 0".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &str) -> RunCommand {
        let words = ["quarry", "run"].into_iter().chain(words.split_whitespace());
        match Cli::try_parse_from(words).expect("the line is right").command {
            Command::Run(run) => run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn the_default_machine_has_two_nodes() {
        let machine = run("").machine.machine().expect("it can be");
        assert_eq!(machine, Machine::even(Board::Q35, 2, 4, Size::mib(2048)));
        let machine = run("--cpus 1").machine.machine().expect("it can be");
        assert_eq!(machine, Machine::even(Board::Q35, 1, 1, Size::mib(2048)));
    }

    #[test]
    fn machines_that_cannot_be_are_refused() {
        let refusal = |words: &str| run(words).machine.machine().expect_err("it cannot be").to_string();
        assert_eq!(refusal("--machine microvm --nodes 2"), "a microvm has no NUMA nodes; leave --nodes out");
        assert_eq!(refusal("--memory 100K"), "--memory 100K does not give every node whole MiB");
        let too_many = accelerator(Choice::Tcg, false, 256).expect_err("too many").to_string();
        assert_eq!(too_many, "TCG simulates at most 255 CPUs, not 256");
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
        assert_eq!(stats("--show all").reports().len(), 9);
        assert!(Cli::try_parse_from(["quarry", "stats", "--json", "--show", "rows"]).is_err());
    }

    #[test]
    fn words_to_append_are_taken_as_they_are() {
        let words = run("--append failslab=1,10,0,-1 --append loglevel=debug").host.append;
        assert_eq!(words, ["failslab=1,10,0,-1", "loglevel=debug"]);
    }

    #[test]
    fn what_to_measure_becomes_words_for_the_guest() {
        assert_eq!(run("").suite.guest_words(), ["seed=1"]);
        let words = run("--workload pair,mix --size 64,4K --order 0,9 --cpu-counts 1,4 --samples 7 --seed 3");
        let expected = ["workloads=pair,mix", "sizes=64,4096", "orders=0,9", "cpus=1,4", "samples=7", "seed=3"];
        assert_eq!(words.suite.guest_words(), expected);
    }

    #[test]
    fn unknown_workloads_and_allocators_are_refused() {
        for words in ["--workload pear", "--workload pair,pear", "--allocator pear"] {
            let words: Vec<&str> = ["quarry", "run"].into_iter().chain(words.split(' ')).collect();
            let refusal = Cli::try_parse_from(words).expect_err("there is none of that name").to_string();
            assert!(refusal.contains("invalid value 'pear'") && refusal.contains("[possible values: "), "{refusal}");
        }
        assert_eq!(run("--allocator all --workload page-cross").suite.guest_words()[0], "workloads=page-cross");
    }

    #[test]
    fn a_trace_is_for_replay() {
        let words = |line: &str| run(line).suite.guest_words_with_trace();
        assert_eq!(words("").expect("nothing else is asked for"), ["workloads=replay", "seed=1"]);
        assert_eq!(words("--workload replay,mix").expect("it is among them"), ["workloads=replay,mix", "seed=1"]);
        let refusal = words("--workload mix").expect_err("nothing replays the trace").to_string();
        assert!(refusal.ends_with("add replay to --workload, or leave --workload out"), "{refusal}");
    }

    #[test]
    fn deadlines_may_be_fractions_but_not_nothing() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for nothing in ["0", "-1", "NaN", "soon"] {
            assert!(seconds(nothing).is_err(), "{nothing}");
        }
    }
}
