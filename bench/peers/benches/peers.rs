//! `cargo bench -p quarry-peers`: the comparison, as a table and, if asked, as a file.

use std::io::{IsTerminal, Write, stderr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;
use std::{env, fs};

use clap::{Parser, ValueEnum};
use quarry_peers::compare::{Comparison, Statistic, compare};
use quarry_peers::report::{Allocator, Report, nanoseconds_per_tick};
use quarry_peers::{Contestant, Threads, table};
use quarry_suite::{Effort, Settings, Workload};

/// The hosted memory service beside the allocators people use, in one interleaved run.
#[derive(Parser)]
#[command(name = "peers", bin_name = "cargo bench -p quarry-peers --")]
struct Arguments {
    /// Fewer sizes, orders and rounds: less than a minute
    #[arg(long)]
    quick: bool,

    /// Workloads, by the names `quarry list` tells [default: pair, batch, remote, mix, page]
    #[arg(long, value_delimiter = ',')]
    workload: Vec<Workload>,

    /// Bytes of a block, 1 to 4194304 [default: powers of two from 8 to 8192]
    #[arg(long, value_delimiter = ',', value_parser = size)]
    size: Vec<usize>,

    /// Orders of page blocks, 0 to 9 [default: all]
    #[arg(long, value_delimiter = ',', value_parser = order)]
    order: Vec<u32>,

    /// Threads at once [default: 1,2]
    #[arg(long, value_delimiter = ',', value_parser = threads)]
    threads: Vec<usize>,

    /// Allocators beside the hosted service [default: all]
    #[arg(long, value_delimiter = ',')]
    peer: Vec<String>,

    /// How often every case is measured [default: 31, quick: 7]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,

    /// What the table shows of the samples of each case
    #[arg(long, value_enum, default_value_t = Shown::Median)]
    statistic: Shown,

    /// Where the random numbers start
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Write every sample to this file, as JSON
    #[arg(long)]
    output: Option<PathBuf>,

    /// What cargo passes to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// [`Statistic`], as the command line names it.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shown {
    Median,
    Min,
}

impl From<Shown> for Statistic {
    fn from(shown: Shown) -> Self {
        match shown {
            Shown::Median => Self::Median,
            Shown::Min => Self::Minimum,
        }
    }
}

fn size(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|size| (1..=4 << 20).contains(size)).ok_or_else(|| "use 1 to 4194304".to_owned())
}

fn order(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|order| quarry_suite::ORDERS.contains(order)).ok_or_else(|| "use 0 to 9".to_owned())
}

fn threads(text: &str) -> Result<usize, String> {
    let most = Threads::MOST;
    text.parse().ok().filter(|threads| (1..=most).contains(threads)).ok_or_else(|| format!("use 1 to {most}"))
}

/// Those asked for, or the default.
fn or<T: Copy>(asked: &[T], default: &[T]) -> Vec<T> {
    if asked.is_empty() { default.to_vec() } else { asked.to_vec() }
}

impl Arguments {
    fn settings(&self) -> Settings {
        let all = [Workload::Pair, Workload::Batch, Workload::Remote, Workload::Mix, Workload::Page];
        Settings {
            workloads: or(&self.workload, &all),
            sizes: or(&self.size, if self.quick { &[16, 64, 512, 4096] } else { &[] }),
            orders: or(&self.order, if self.quick { &[0, 3, 9] } else { &[] }),
            cpus: or(&self.threads, &[1, 2]),
            samples: 3,
            effort: Effort::Microseconds(200),
            // All contestants are compared by the same loops; latencies have no place in these tables.
            latencies: false,
            seed: self.seed,
            ..Settings::default()
        }
    }

    fn contestants(&self) -> Result<Vec<Contestant>, String> {
        let mut all = Contestant::all();
        let peers: Vec<&str> = all.iter().skip(1).map(|contestant| contestant.name).collect();
        if let Some(unknown) = self.peer.iter().find(|peer| !peers.contains(&peer.as_str())) {
            return Err(format!("there is no peer {unknown}; choose from {}", peers.join(", ")));
        }
        let ours = all.remove(0);
        all.retain(|contestant| self.peer.is_empty() || self.peer.iter().any(|peer| peer == contestant.name));
        all.insert(0, ours);
        Ok(all)
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(errors) => {
            eprintln!("{errors} errors: blocks that failed, overlapped, lost their contents or did not come back");
            ExitCode::FAILURE
        }
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::from(2)
        }
    }
}

/// Measures, prints and writes; returns how many errors the allocators made.
fn run(arguments: &Arguments) -> Result<u64, String> {
    let settings = arguments.settings();
    let contestants = arguments.contestants()?;
    let rounds = arguments.rounds.map_or(if arguments.quick { 7 } else { 31 }, usize::from);
    let threads = Threads::new(settings.cpus.iter().copied().max().unwrap_or(1));
    let nanoseconds = nanoseconds_per_tick(threads);

    println!("seed {}, {rounds} rounds of {} samples", settings.seed, settings.samples);
    for allocator in contestants.iter().map(Allocator::of) {
        println!("{:<12}{}", allocator.name, allocator.version);
    }
    let start = Instant::now();
    let comparisons = compare(threads, &contestants, &settings, rounds, &mut |round| progress(round, rounds));
    progress(rounds, rounds);

    let names: Vec<&str> = contestants.iter().map(|contestant| contestant.name).collect();
    let statistic = arguments.statistic.into();
    let figures = table::figures(&names, &comparisons, statistic, nanoseconds);
    println!("\nNanoseconds per operation ({statistic:?}):\n{figures}");
    for statistic in [Statistic::Median, Statistic::Minimum] {
        let ratios = table::ratios(&names, &comparisons, statistic);
        println!("{statistic:?} relative to each peer's (below 1: quarry is faster):\n{ratios}");
    }
    println!("{:.0} s", start.elapsed().as_secs_f64());

    if let Some(path) = &arguments.output {
        write(path, &Report::new(threads, &contestants, &settings, rounds, &comparisons))?;
    }
    let errors = report_errors(&names, &comparisons);
    Ok(errors)
}

/// A line that counts the rounds, where somebody watches.
fn progress(round: usize, rounds: usize) {
    let mut out = stderr();
    if out.is_terminal() {
        let end = if round == rounds { "\n" } else { "" };
        // Nobody misses progress that cannot be written.
        let _ = write!(out, "\r{round} of {rounds} rounds{end}").and_then(|()| out.flush());
    }
}

/// Cargo starts benchmarks in their package's folder; a relative path is meant from where cargo was started, if that is
/// told.
fn write(path: &PathBuf, report: &Report) -> Result<(), String> {
    let path = env::var_os("PWD").map_or_else(|| path.clone(), |folder| PathBuf::from(folder).join(path));
    let text = serde_json::to_string(report).map_err(|problem| problem.to_string())?;
    fs::write(&path, text + "\n").map_err(|problem| format!("{}: {problem}", path.display()))
}

fn report_errors(names: &[&str], comparisons: &[Comparison]) -> u64 {
    let mut sum = 0;
    for comparison in comparisons {
        for (name, outcome) in names.iter().zip(&comparison.results) {
            if outcome.errors > 0 {
                eprintln!("{name}: {} errors in {}", outcome.errors, comparison.case);
                sum += outcome.errors;
            }
        }
    }
    sum
}
