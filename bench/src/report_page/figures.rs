//! Tables of every figure of every row: which columns there are, and what is in their cells.
//!
//! Used by [`super::page`]. A column that no row of a table has anything for is left out.

use quarry_record::{Footprint, Latency, Measurement, Summary};

use super::scale::significant;
use super::sources::{OURS, Source, Subject, View};
use crate::size::Size;
use crate::tables::{self, throughput};

/// A column: its heading, and the cell of a row.
struct Column {
    title: &'static str,
    unit: &'static str,
    cell: fn(&Measurement) -> Option<String>,
}

/// What a table has to have of a row, as text.
pub(crate) struct Table<'r> {
    /// The workload its rows are of.
    pub(crate) workload: &'r str,
    /// Headings, each with its unit.
    pub(crate) headings: Vec<(&'static str, &'static str)>,
    /// Cells; the first few are names rather than figures.
    pub(crate) rows: Vec<TableRow>,
}

/// A row of a [`Table`].
pub(crate) struct TableRow {
    /// Whether something went wrong while it was measured.
    pub(crate) wrong: bool,
    /// Whether it is of our allocator and there are others.
    pub(crate) ours: bool,
    /// Names: file (where there are several), allocator, size, part.
    pub(crate) names: Vec<String>,
    /// Figures; empty where there is none.
    pub(crate) cells: Vec<String>,
}

/// A table for each workload, with every row of every file; allocators stand below each other, case by case.
pub(crate) fn tables<'r>(sources: &'r [Source], view: &View) -> Vec<Table<'r>> {
    let all = || {
        sources
            .iter()
            .flat_map(|source| source.runs.iter().enumerate().map(move |(at, run)| (source, at, run)))
            .flat_map(|(source, at, run)| {
                let several = source.runs.len() > 1;
                let label = if several { format!("{}, run {}", source.label, at + 1) } else { source.label.clone() };
                run.results.iter().map(move |row| (label.clone(), row))
            })
    };
    let with_files = sources.iter().map(|source| source.runs.len()).sum::<usize>() > 1;
    let mut workloads: Vec<&str> = Vec::new();
    for (_, row) in all() {
        if !workloads.contains(&row.workload.as_str()) {
            workloads.push(&row.workload);
        }
    }
    let table = |workload| {
        let mut rows: Vec<(String, &Measurement)> = all().filter(|(_, row)| row.workload == workload).collect();
        let mut subjects: Vec<Subject> = Vec::new();
        for (_, row) in &rows {
            if !subjects.contains(&Subject::from(*row)) {
                subjects.push(Subject::from(*row));
            }
        }
        let place = |row: &Measurement| {
            let subject = subjects.iter().position(|subject| *subject == Subject::from(row));
            (subject, row.cpus, view.allocators().iter().position(|name| *name == row.allocator))
        };
        rows.sort_by_key(|(_, row)| place(row));
        let several = view.allocators().len() > 1;
        table(workload, &rows, with_files, several)
    };
    workloads.into_iter().map(table).collect()
}

fn table<'r>(workload: &'r str, rows: &[(String, &Measurement)], with_files: bool, several: bool) -> Table<'r> {
    let with_parts = rows.iter().any(|(_, row)| !Subject::from(*row).part().is_empty());
    let columns: Vec<&Column> =
        COLUMNS.iter().filter(|column| rows.iter().any(|(_, row)| (column.cell)(row).is_some())).collect();
    let names = [(with_files, "file"), (true, "allocator"), (true, "size"), (with_parts, "part")];
    let mut headings: Vec<(&str, &str)> =
        names.into_iter().filter(|(shown, _)| *shown).map(|(_, title)| (title, "")).collect();
    headings.extend(columns.iter().map(|column| (column.title, column.unit)));
    let row = |(file, row): &(String, &Measurement)| {
        let subject = Subject::from(*row);
        let names = [
            with_files.then(|| file.clone()),
            Some(row.allocator.clone()),
            Some(subject.extent()),
            with_parts.then(|| subject.part()),
        ];
        let cells = columns.iter().map(|column| (column.cell)(row).unwrap_or_default()).collect();
        let ours = several && row.allocator == OURS;
        TableRow { wrong: row.errors > 0, ours, names: names.into_iter().flatten().collect(), cells }
    };
    Table { workload, headings, rows: rows.iter().map(row).collect() }
}

/// Three digits, so that columns of like figures line up.
fn figure(value: f64) -> Option<String> {
    let lines_up = value == 0.0 || (0.1..1e6).contains(&value.abs());
    value.is_finite().then(|| if lines_up { tables::figure(value) } else { significant(value) })
}

fn time(row: &Measurement, part: fn(&Summary) -> f64) -> Option<String> {
    if row.instructions_per_op.is_some() { None } else { figure(part(&row.ns_per_op)) }
}

fn instructions(row: &Measurement, part: fn(&Summary) -> f64) -> Option<String> {
    row.instructions_per_op.as_ref().and_then(|summary| figure(part(summary)))
}

fn rate(row: &Measurement, part: fn(&Summary) -> f64) -> Option<String> {
    row.ops_per_second.as_ref().and_then(|summary| figure(part(summary) / 1e6))
}

fn call(row: &Measurement, part: fn(&Latency) -> f64) -> Option<String> {
    row.latency.as_ref().and_then(|latency| figure(part(latency)))
}

fn held(row: &Measurement, part: fn(&Footprint) -> u64) -> Option<String> {
    row.footprint.as_ref().map(|footprint| Size(part(footprint)).for_people())
}

/// Every figure of a measurement but its samples, the distribution and the series, which are drawn.
const COLUMNS: &[Column] = &[
    Column { title: "CPUs", unit: "", cell: |row| Some(row.cpus.to_string()) },
    Column { title: "min", unit: "ns", cell: |row| time(row, |cost| cost.min) },
    Column { title: "median", unit: "ns", cell: |row| time(row, |cost| cost.median) },
    Column { title: "p99", unit: "ns", cell: |row| time(row, |cost| cost.p99) },
    Column { title: "spread", unit: "ns", cell: |row| time(row, |cost| cost.spread) },
    Column { title: "min", unit: "instructions", cell: |row| instructions(row, |cost| cost.min) },
    Column { title: "median", unit: "instructions", cell: |row| instructions(row, |cost| cost.median) },
    Column { title: "p99", unit: "instructions", cell: |row| instructions(row, |cost| cost.p99) },
    Column { title: "spread", unit: "instructions", cell: |row| instructions(row, |cost| cost.spread) },
    Column { title: "empty loop", unit: "ns", cell: |row| figure(row.empty_ns_per_op) },
    Column { title: "min", unit: "cycles", cell: |row| figure(row.cycles_per_op.min) },
    Column { title: "median", unit: "cycles", cell: |row| figure(row.cycles_per_op.median) },
    Column { title: "p99", unit: "cycles", cell: |row| figure(row.cycles_per_op.p99) },
    Column { title: "spread", unit: "cycles", cell: |row| figure(row.cycles_per_op.spread) },
    Column { title: "empty loop", unit: "cycles", cell: |row| figure(row.empty_cycles_per_op) },
    Column { title: "rate, median", unit: "million ops/s", cell: |row| rate(row, |rate| rate.median) },
    Column { title: "rate, min", unit: "million ops/s", cell: |row| rate(row, |rate| rate.min) },
    Column {
        title: "rate from samples",
        unit: "million ops/s",
        cell: |row| {
            if row.ops_per_second.is_none() && row.instructions_per_op.is_none() {
                figure(throughput(row))
            } else {
                None
            }
        },
    },
    Column { title: "fairness", unit: "0 to 1", cell: |row| row.fairness.and_then(figure) },
    Column { title: "remote frees", unit: "%", cell: |row| row.remote_frees.and_then(|share| figure(share * 100.0)) },
    Column { title: "call p50", unit: "ns", cell: |row| call(row, |latency| latency.p50) },
    Column { title: "call p90", unit: "ns", cell: |row| call(row, |latency| latency.p90) },
    Column { title: "call p99", unit: "ns", cell: |row| call(row, |latency| latency.p99) },
    Column { title: "call p99.9", unit: "ns", cell: |row| call(row, |latency| latency.p99_9) },
    Column { title: "call p99.99", unit: "ns", cell: |row| call(row, |latency| latency.p99_99) },
    Column { title: "slowest call", unit: "ns", cell: |row| call(row, |latency| latency.worst) },
    Column { title: "clock", unit: "ns", cell: |row| call(row, |latency| latency.clock) },
    Column {
        title: "calls timed",
        unit: "",
        cell: |row| row.latency.as_ref().map(|latency| latency.calls.to_string()),
    },
    Column { title: "live at peak", unit: "", cell: |row| held(row, |footprint| footprint.peak_live) },
    Column { title: "held at peak", unit: "", cell: |row| held(row, |footprint| footprint.peak_held) },
    Column { title: "held at end", unit: "", cell: |row| held(row, |footprint| footprint.end_held) },
    Column { title: "zone locks", unit: "a million ops", cell: |row| row.locks.and_then(|locks| figure(locks.zone)) },
    Column { title: "depot locks", unit: "a million ops", cell: |row| row.locks.and_then(|locks| figure(locks.depot)) },
    Column { title: "hand-overs", unit: "", cell: |row| row.hand_overs.map(|times| times.to_string()) },
    Column { title: "operations", unit: "", cell: |row| Some(row.ops.to_string()) },
    Column { title: "errors", unit: "", cell: |row| Some(row.errors.to_string()) },
];
