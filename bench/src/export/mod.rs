//! `quarry export`: runs in the formats of other programs.
//!
//! ```text
//! csv                 every row of every boot, for spreadsheets and scripts
//! markdown            a table for each workload, for people: medians over the boots
//! github-benchmark    what github-action-benchmark reads as customSmallerIsBetter (of throughput: customBiggerIsBetter)
//! ```

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use quarry_record::{Measurement, Run};
use serde::Serialize;
use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Modify, Style};

use crate::case::{Case, Metric};
use crate::compare::many::percentile;
use crate::compare::rank::median;
use crate::compare::render::value;
use crate::compare::side::Side;
use crate::runs::read_whole;
use crate::session::Session;
use crate::tables::{describe, figure};
use crate::words::count;

#[derive(Debug, clap::Args)]
pub(crate) struct ExportCommand {
    /// Records, files or folders of them; a file may hold several runs.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// What to write.
    #[arg(long, value_enum)]
    format: Format,
    /// Which figure, where there is one of each case [default: instructions where they are counted, else ns].
    #[arg(long, value_enum)]
    metric: Option<Metric>,
    /// Where to [default: standard output].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// A format of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Comma-separated values: every row of every boot.
    Csv,
    /// Tables in Markdown.
    Markdown,
    /// The JSON of github-action-benchmark's customSmallerIsBetter.
    GithubBenchmark,
}

/// Writes it.
///
/// # Errors
///
/// When the files cannot be read, have no such figure, or the output cannot be written.
pub(crate) fn execute(command: &ExportCommand) -> Result<()> {
    let sessions = read_whole(&command.files)?;
    let text = match command.format {
        Format::Csv => csv(&sessions)?,
        Format::Markdown => markdown(&figures(&sessions, command.metric)?),
        Format::GithubBenchmark => github(&figures(&sessions, command.metric)?)?,
    };
    match &command.output {
        None => print!("{text}"),
        Some(file) => fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?,
    }
    Ok(())
}

/// A figure of each case, over all boots.
struct Figures {
    metric: Metric,
    /// Builds and boots, in words.
    source: String,
    all: Vec<Figure>,
}

struct Figure {
    case: Case,
    /// The median of the boots' medians.
    median: f64,
    /// The lowest and the highest of them; of one boot, what 10 % and 90 % of its samples do not exceed.
    low: f64,
    high: f64,
    /// Hand-overs in percent of the operations, where they are known: the median of the boots'.
    hand_overs: Option<f64>,
}

fn figures(sessions: &[Session], asked: Option<Metric>) -> Result<Figures> {
    let side = Side::new(sessions);
    let metric = asked.unwrap_or(if side.counts_instructions() { Metric::Instructions } else { Metric::Ns });
    let figure = |case: &Case| {
        let boots = side.figures(case, metric);
        let medians: Vec<f64> = boots.iter().map(|figures| median(figures)).collect();
        let (low, high) = match &boots[..] {
            [] => return None,
            [only] => (percentile(only, 0.1)?, percentile(only, 0.9)?),
            _ => (percentile(&medians, 0.0)?, percentile(&medians, 1.0)?),
        };
        let hand_overs = side.hand_overs(case);
        let hand_overs = (!hand_overs.is_empty()).then(|| median(&hand_overs));
        Some(Figure { case: case.clone(), median: median(&medians), low, high, hand_overs })
    };
    let all: Vec<Figure> = side.cases.iter().filter_map(figure).collect();
    if all.is_empty() {
        bail!("no case has {}", metric.unit());
    }
    let mut builds: Vec<&str> = side.runs.iter().map(|run| run.git.as_str()).collect();
    builds.dedup();
    let boots = count(side.boots() as u64, "boot");
    let machine = side.runs.first().map(|run| format!("{}, {}", run.cpu, run.hypervisor)).unwrap_or_default();
    Ok(Figures { metric, source: format!("{boots} of {} on {machine}", builds.join(", ")), all })
}

/// One row of a boot. Fields that a row does not have are empty.
#[derive(Serialize)]
struct Row<'s> {
    boot: usize,
    git: &'s str,
    accelerator: &'s str,
    allocator: &'s str,
    workload: &'s str,
    size: Option<u64>,
    order: Option<u32>,
    variant: Option<&'s str>,
    phase: Option<&'s str>,
    cpus: u32,
    operations: u64,
    ns_min: f64,
    ns_median: f64,
    ns_p99: f64,
    ns_spread: f64,
    ns_empty_loop: f64,
    cycles_median: f64,
    instructions_median: Option<f64>,
    ops_per_second_median: Option<f64>,
    fairness: Option<f64>,
    latency_p50_ns: Option<f64>,
    latency_p99_ns: Option<f64>,
    latency_worst_ns: Option<f64>,
    peak_live_bytes: Option<u64>,
    peak_held_bytes: Option<u64>,
    end_held_bytes: Option<u64>,
    hand_overs: Option<u64>,
    zone_locks_per_million: Option<f64>,
    depot_locks_per_million: Option<f64>,
    errors: u64,
}

impl<'s> Row<'s> {
    fn new(boot: usize, run: &'s Run, result: &'s Measurement) -> Self {
        let (latency, footprint) = (result.latency.as_ref(), result.footprint);
        Self {
            boot,
            git: &run.git,
            accelerator: &run.accelerator,
            allocator: &result.allocator,
            workload: &result.workload,
            size: result.size,
            order: result.order,
            variant: result.variant.as_deref(),
            phase: result.phase.as_deref(),
            cpus: result.cpus,
            operations: result.ops,
            ns_min: result.ns_per_op.min,
            ns_median: result.ns_per_op.median,
            ns_p99: result.ns_per_op.p99,
            ns_spread: result.ns_per_op.spread,
            ns_empty_loop: result.empty_ns_per_op,
            cycles_median: result.cycles_per_op.median,
            instructions_median: result.instructions_per_op.map(|summary| summary.median),
            ops_per_second_median: result.ops_per_second.map(|summary| summary.median),
            fairness: result.fairness,
            latency_p50_ns: latency.map(|latency| latency.p50),
            latency_p99_ns: latency.map(|latency| latency.p99),
            latency_worst_ns: latency.map(|latency| latency.worst),
            peak_live_bytes: footprint.map(|footprint| footprint.peak_live),
            peak_held_bytes: footprint.map(|footprint| footprint.peak_held),
            end_held_bytes: footprint.map(|footprint| footprint.end_held),
            hand_overs: result.hand_overs,
            zone_locks_per_million: result.locks.map(|locks| locks.zone),
            depot_locks_per_million: result.locks.map(|locks| locks.depot),
            errors: result.errors,
        }
    }
}

fn csv(sessions: &[Session]) -> Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for (boot, session) in sessions.iter().enumerate() {
        let run = session.run.as_ref().context("a run has no `run` record")?;
        for result in &session.results {
            writer.serialize(Row::new(boot + 1, run, result)).context("a row has no form as CSV")?;
        }
    }
    let bytes = writer.into_inner().context("rows cannot be written")?;
    String::from_utf8(bytes).context("records are text")
}

fn markdown(figures: &Figures) -> String {
    let mut text = format!("{}.\n", figures.source);
    let mut tables: Vec<(&str, &str)> = Vec::new();
    for figure in &figures.all {
        let table = (figure.case.allocator.as_str(), figure.case.workload.as_str());
        if !tables.contains(&table) {
            tables.push(table);
        }
    }
    for (allocator, workload) in tables {
        let of_table = |figure: &&Figure| figure.case.allocator == allocator && figure.case.workload == workload;
        let with_hand_overs = figures.all.iter().filter(of_table).any(|figure| figure.hand_overs.is_some());
        let mut builder = Builder::new();
        let titles = ["size", "part", "CPUs", figures.metric.unit(), "from", "to"];
        builder.push_record(titles.into_iter().chain(with_hand_overs.then_some("hand-overs, %")));
        for Figure { case, median, low, high, hand_overs } in figures.all.iter().filter(of_table) {
            let [median, low, high] = [*median, *low, *high].map(|figure| value(figure, figures.metric));
            let hand_overs = with_hand_overs.then(|| hand_overs.map_or_else(|| "-".into(), figure));
            let cells = [case.extent(), case.part(), case.cpus.to_string(), median, low, high];
            builder.push_record(cells.into_iter().chain(hand_overs));
        }
        let mut table = builder.build();
        table.with(Style::markdown()).with(Alignment::right());
        table.with(Modify::new(Columns::new(..2)).with(Alignment::left()));
        writeln!(text, "\n### {workload} ({allocator})\n\n{}.\n\n{table}", describe(workload))
            .expect("a string takes whatever is written to it");
    }
    text
}

/// An entry of github-action-benchmark.
#[derive(Serialize)]
struct Entry {
    name: String,
    unit: String,
    value: f64,
    range: String,
    extra: String,
}

fn github(figures: &Figures) -> Result<String> {
    let unit = match figures.metric {
        Metric::Ns => "ns/op",
        Metric::Instructions => "instructions/op",
        Metric::P99 | Metric::Throughput | Metric::Held => figures.metric.unit(),
    };
    let entry = |figure: &Figure| Entry {
        name: figure.case.to_string(),
        unit: unit.to_owned(),
        value: figure.median,
        range: format!("± {}", value((figure.high - figure.low) / 2.0, figures.metric)),
        extra: figures.source.clone(),
    };
    let entries: Vec<Entry> = figures.all.iter().map(entry).collect();
    Ok(serde_json::to_string_pretty(&entries).context("figures have no JSON form")? + "\n")
}
