//! What several commands have in common: the machine, what to measure, QEMU and deadlines.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use crate::accelerator::{Accelerator, Choice, kvm_works};
use crate::images::ImageOptions;
use crate::list;
use crate::machine::{Board, Machine, file};
use crate::qemu::DEFAULT_QEMU;
use crate::size::Size;
use crate::watch::Deadlines;

/// CPUs, nodes and memory when nobody says otherwise.
const DEFAULT_CPUS: u32 = 4;
const DEFAULT_NODES: u32 = 2;
const DEFAULT_MEMORY: Size = Size::mib(2048);

/// Memory of a guest whose instructions are counted.
const COUNTING_MEMORY: Size = Size::mib(512);

/// Most CPUs of a guest: of a PC's local APICs without x2APIC, which TCG does not have.
const MOST_CPUS_UNDER_TCG: u32 = 255;

/// Most time from one record to the next; and of a guest that measures, for one sample of a slow allocator, or the blocks
/// it begins with, may take minutes on a busy computer.
const RECORD: Duration = Duration::from_mins(2);
const RECORD_OF_RESULTS: Duration = Duration::from_mins(10);

/// Most time for a guest's work, and for each result it announces.
const WORK: Duration = Duration::from_hours(1);
const WORK_FOR_A_RESULT: Duration = Duration::from_mins(1);

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
    /// Count instructions instead of time: figures that are the same in every run. TCG only; several CPUs take turns.
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

    /// The same with so much memory, unless some was asked for.
    pub(super) fn with_memory_or(&self, memory: Size) -> Self {
        Self { memory: Some(self.memory.unwrap_or(memory)), ..self.clone() }
    }

    /// The same, a topology's file being meant from that folder.
    pub(crate) fn in_folder(self, folder: &Path) -> Self {
        Self { topology: self.topology.map(|file| folder.join(file)), ..self }
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
    /// Seconds after which a case takes no more samples, in each of its passes; the table names such rows [default: 20,
    /// 2 with --quick, 120 with --full].
    #[arg(long, value_name = "SECONDS")]
    patience: Option<u64>,
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
    pub(super) fn is_asked_for(&self) -> bool {
        let lists =
            [self.workload.len(), self.allocator.len(), self.size.len(), self.order.len(), self.cpu_counts.len()];
        lists.iter().any(|&length| length > 0)
            || self.samples.is_some()
            || self.patience.is_some()
            || self.quick
            || self.full
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
            list("patience", self.patience.iter()),
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
    /// Most time from one record of the guest to its next [default: 120, and 600 where results are announced].
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    record_timeout: Option<Duration>,
    /// Most time for all of the guest's work [default: 3600, and 60 more for each result it announces].
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
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
    /// After how many seconds without a record a guest that measures is to say that it lives.
    pub(crate) fn sign_of_life(&self) -> u64 {
        (self.record_timeout.unwrap_or(RECORD).as_secs() / 8).max(1)
    }

    /// The deadlines asked for; `quiet` is how long the guest works without a record by design.
    pub(crate) fn deadlines(&self, quiet: Duration) -> Deadlines {
        let (record, measured) = self.record_timeout.map_or((RECORD, RECORD_OF_RESULTS), |limit| (limit, limit));
        let (record, measured) = (record.saturating_add(quiet), measured.saturating_add(quiet));
        let (work, result) = self.timeout.map_or((WORK, WORK_FOR_A_RESULT), |limit| (limit, Duration::ZERO));
        Deadlines { boot: self.boot_timeout, record, measured, work: work.saturating_add(quiet), result }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| *seconds > 0.0);
    let limit = 1e9;
    seconds.map(|seconds| Duration::from_secs_f64(seconds.min(limit))).ok_or_else(|| "write seconds above 0".into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command, RunCommand};

    fn run(words: &str) -> RunCommand {
        let words = ["quarry", "run"].into_iter().chain(words.split_whitespace());
        match Cli::try_parse_from(words).expect("the line is right").command {
            Command::Run(run) => run,
            other => panic!("{other:?}"),
        }
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
    fn words_to_append_are_taken_as_they_are() {
        let words = run("--append failslab=1,10,0,-1 --append loglevel=debug").host.append;
        assert_eq!(words, ["failslab=1,10,0,-1", "loglevel=debug"]);
    }

    #[test]
    fn what_to_measure_becomes_words_for_the_guest() {
        assert_eq!(run("").suite.guest_words(), ["seed=1"]);
        let words =
            run("--workload pair,mix --size 64,4K --order 0,9 --cpu-counts 1,4 --samples 7 --patience 9 --seed 3");
        let expected =
            ["workloads=pair,mix", "sizes=64,4096", "orders=0,9", "cpus=1,4", "samples=7", "patience=9", "seed=3"];
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
