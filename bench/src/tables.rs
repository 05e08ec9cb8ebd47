//! Results as tables people read: one for each workload, a row for each size, a column for each number of CPUs.

mod watched;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use quarry_record::{Measurement, Summary, catalogue};
use tabled::builder::Builder;
use tabled::settings::object::{Columns, Rows};
use tabled::settings::style::HorizontalLine;
use tabled::settings::{Alignment, Modify, Padding, Span, Style};

use crate::size::Size;
use crate::words::count;

/// Bytes of a page.
const PAGE: u64 = 4096;

/// How much is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Medians, 99th percentiles and throughput, side by side for the numbers of CPUs.
    Overview,
    /// Every figure of every row.
    Full,
}

/// All results as text, workload by workload in the order they came.
pub(crate) fn tables(results: &[Measurement], detail: Detail) -> String {
    let mut workloads: Vec<&str> = Vec::new();
    for result in results {
        if !workloads.contains(&result.workload.as_str()) {
            workloads.push(&result.workload);
        }
    }
    let with_allocators = results.iter().any(|result| result.allocator != results[0].allocator);
    let mut text = String::new();
    for workload in workloads {
        let results: Vec<&Measurement> = results.iter().filter(|result| result.workload == workload).collect();
        let table = match detail {
            Detail::Overview => overview(&results, with_allocators),
            Detail::Full => full(&results, with_allocators),
        };
        let notes = notes(&results, with_allocators);
        writeln!(text, "{workload}: {}\n{}\n{table}\n{notes}", describe(workload), loop_note(&results))
            .expect("a string takes whatever is written to it");
        if let Some(table) = watched::watched(&results, with_allocators) {
            writeln!(text, "{table}\n").expect("a string takes whatever is written to it");
        }
    }
    text
}

/// What a workload does, for somebody who has never seen one.
pub(crate) fn describe(workload: &str) -> &'static str {
    catalogue::workload(workload).map_or("an operation is whatever it repeats", |workload| workload.summary)
}

/// The loop is in all figures: this is how much of it.
fn loop_note(results: &[&Measurement]) -> String {
    let counted = results.iter().any(|result| result.instructions_per_op.is_some());
    let empty = results.iter().map(|result| result.empty_ns_per_op);
    let (least, most) = (empty.clone().fold(f64::INFINITY, f64::min), empty.fold(0.0, f64::max));
    let range =
        if figure(least) == figure(most) { figure(most) } else { format!("{} to {}", figure(least), figure(most)) };
    format!("  (the empty loop, which is in every figure: {range} {})", if counted { "instructions" } else { "ns" })
}

/// What figures of a table are not to be used, or are of few samples, and why: a line for each.
fn notes(results: &[&Measurement], with_allocators: bool) -> String {
    let note = |result: &&Measurement| {
        let subject = Subject::from(*result);
        let names = [subject.extent(), subject.part(), if with_allocators { subject.allocator } else { "" }.to_owned()];
        let names = names.into_iter().filter(|name| !name.is_empty()).collect::<Vec<_>>().join(", ");
        let names = format!("{names} on {}", count(result.cpus.into(), "CPU"));
        let refused = result.refusal.as_ref().map(|refusal| format!("  REFUSED: {names}: {refusal}\n"));
        let taken = result.samples.len();
        let slow =
            result.samples_wanted.map(|wanted| format!("  SLOW: {names}: {taken} of {wanted} samples were taken\n"));
        Some(refused.unwrap_or_default() + &slow.unwrap_or_default())
    };
    results.iter().filter_map(note).collect()
}

/// How often the CPU changed from one operation to the next, in percent, where CPUs take turns.
pub(crate) fn hand_overs(result: &Measurement) -> Option<f64> {
    result.hand_overs.map(|times| 100.0 * times as f64 / result.ops as f64)
}

/// What the rows of a table differ in, beside the number of CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Subject<'r> {
    size: Option<u64>,
    order: Option<u32>,
    variant: Option<&'r str>,
    phase: Option<&'r str>,
    allocator: &'r str,
}

impl<'r> From<&'r Measurement> for Subject<'r> {
    fn from(result: &'r Measurement) -> Self {
        let Measurement { size, order, variant, phase, allocator, .. } = result;
        Self { size: *size, order: *order, variant: variant.as_deref(), phase: phase.as_deref(), allocator }
    }
}

/// What is asked for: `64 B`, `order 3 (32 KiB)`, `mixed`.
pub(crate) fn extent(size: Option<u64>, order: Option<u32>) -> String {
    match (size, order) {
        (Some(size), _) => Size(size).for_people(),
        (None, Some(order)) => {
            let bytes = PAGE.checked_shl(order).unwrap_or(u64::MAX);
            format!("order {order} ({})", Size(bytes).for_people())
        }
        (None, None) => "mixed".into(),
    }
}

impl Subject<'_> {
    fn extent(&self) -> String {
        extent(self.size, self.order)
    }

    fn part(&self) -> String {
        [self.variant, self.phase].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// In the order they came, but what differs in the allocator alone stands together.
fn subjects<'r>(results: &[&'r Measurement]) -> Vec<Subject<'r>> {
    let mut subjects: Vec<Subject> = Vec::new();
    for result in results {
        let subject = Subject::from(*result);
        if !subjects.contains(&subject) {
            let same = |other: &Subject| Subject { allocator: "", ..*other } == Subject { allocator: "", ..subject };
            let place = subjects.iter().rposition(same).map_or(subjects.len(), |last| last + 1);
            subjects.insert(place, subject);
        }
    }
    subjects
}

/// The cost of an operation: instructions where they are counted, nanoseconds elsewhere.
fn cost(result: &Measurement) -> Summary {
    result.instructions_per_op.unwrap_or(result.ns_per_op)
}

/// A column for each number of CPUs, once for each of these.
type Group = (&'static str, fn(&Measurement) -> f64);

/// Millions of operations a second, all CPUs together. From the mean of the samples, not their median: that of CPUs
/// which take turns on the host is the time they had to wait as well.
pub(crate) fn throughput(result: &Measurement) -> f64 {
    let ns_per_cycle = result.ns_per_op.median / result.cycles_per_op.median;
    let mean_cycles = result.samples.iter().sum::<f64>() / result.samples.len() as f64;
    f64::from(result.cpus) * 1000.0 / (mean_cycles * ns_per_cycle)
}

fn overview(results: &[&Measurement], with_allocators: bool) -> String {
    let mut groups: Vec<Group> = if results.iter().any(|result| result.instructions_per_op.is_some()) {
        vec![("instructions, median", |result| cost(result).median), ("instructions, p99", |result| cost(result).p99)]
    } else {
        vec![
            ("ns, median", |result| cost(result).median),
            ("ns, p99", |result| cost(result).p99),
            ("million ops/s, all CPUs", throughput),
        ]
    };
    if results.iter().any(|result| result.hand_overs.is_some()) {
        groups.push(("hand-overs, % of operations", |result| hand_overs(result).unwrap_or(f64::NAN)));
    }
    let subjects = subjects(results);
    let with_parts = subjects.iter().any(|subject| !subject.part().is_empty());
    let cpus: BTreeSet<u32> = results.iter().map(|result| result.cpus).collect();
    let cells: BTreeMap<(usize, u32), &Measurement> = results
        .iter()
        .filter_map(|result| {
            let row = subjects.iter().position(|subject| *subject == Subject::from(*result))?;
            Some(((row, result.cpus), *result))
        })
        .collect();

    let mut labels = vec!["size"];
    labels.extend(with_parts.then_some("part"));
    labels.extend(with_allocators.then_some("allocator"));
    let mut builder = Builder::new();
    let titles = groups.iter().flat_map(|(title, _)| (0..cpus.len()).map(move |at| if at == 0 { *title } else { "" }));
    builder.push_record(labels.iter().map(|_| "").chain(titles));
    let counts = groups.iter().flat_map(|_| cpus.iter().map(|cpus| count((*cpus).into(), "CPU")));
    builder.push_record(labels.iter().map(|label| (*label).to_owned()).chain(counts));
    for (row, subject) in subjects.iter().enumerate() {
        let mut record = vec![subject.extent()];
        record.extend(with_parts.then(|| subject.part()));
        record.extend(with_allocators.then(|| subject.allocator.to_owned()));
        for (_, value) in &groups {
            let cell = |cpus: &u32| cells.get(&(row, *cpus)).map_or_else(|| "-".into(), |result| figure(value(result)));
            record.extend(cpus.iter().map(cell));
        }
        builder.push_record(record);
    }
    let mut table = builder.build();
    table.with(lines_below(2)).with(Alignment::right());
    table.with(Modify::new(Columns::new(..labels.len())).with(Alignment::left()));
    for group in 0..groups.len() {
        let first = labels.len() + group * cpus.len();
        table.modify((0, first), Span::column(cpus.len() as isize)).modify((0, first), Alignment::center());
    }
    table.to_string()
}

fn full(results: &[&Measurement], with_allocators: bool) -> String {
    let with_parts = results.iter().any(|result| !Subject::from(*result).part().is_empty());
    let unit = if results.iter().any(|result| result.instructions_per_op.is_some()) { "instructions" } else { "ns" };
    let mut builder = Builder::new();
    let mut titles = vec!["size".to_owned()];
    titles.extend(with_parts.then(|| "part".to_owned()));
    titles.extend(with_allocators.then(|| "allocator".to_owned()));
    titles.push("CPUs".into());
    titles.extend(["min", "median", "p99", "spread", "loop"].map(|what| format!("{unit}\n{what}")));
    titles.extend(["min", "median", "p99"].map(|what| format!("cycles\n{what}")));
    titles.push("million\nops/s".into());
    let with_hand_overs = results.iter().any(|result| result.hand_overs.is_some());
    titles.extend(with_hand_overs.then(|| "hand-overs".to_owned()));
    let with_locks = results.iter().any(|result| result.locks.is_some());
    if with_locks {
        titles.extend(["zone", "depot"].map(|what| format!("{what} locks\na million")));
    }
    titles.extend(["operations", "errors"].map(str::to_owned));
    builder.push_record(titles);
    for result in results {
        let subject = Subject::from(*result);
        let (cost, cycles) = (cost(result), result.cycles_per_op);
        let mut record = vec![subject.extent()];
        record.extend(with_parts.then(|| subject.part()));
        record.extend(with_allocators.then(|| subject.allocator.to_owned()));
        record.push(result.cpus.to_string());
        record.extend([cost.min, cost.median, cost.p99, cost.spread, result.empty_ns_per_op].map(figure));
        record.extend([cycles.min, cycles.median, cycles.p99, throughput(result)].map(figure));
        let number = |number: u64| number.to_string();
        record.extend(with_hand_overs.then(|| result.hand_overs.map_or_else(|| "-".into(), number)));
        if with_locks {
            let locks = result.locks.map(|locks| [locks.zone, locks.depot].map(figure));
            record.extend(locks.unwrap_or_else(|| ["-", "-"].map(str::to_owned)));
        }
        record.extend([result.ops, result.errors].map(number));
        builder.push_record(record);
    }
    let mut table = builder.build();
    table.with(lines_below(1)).with(Alignment::right());
    table.with(
        Modify::new(Columns::new(..=usize::from(with_parts) + usize::from(with_allocators))).with(Alignment::left()),
    );
    table.with(Modify::new(Rows::first()).with(Alignment::center()));
    table.to_string()
}

/// A frame, and a line below the heading.
pub(crate) fn lines_below(
    heading: usize,
) -> impl tabled::settings::TableOption<
    tabled::grid::records::vec_records::VecRecords<tabled::grid::records::vec_records::Text<String>>,
    tabled::grid::config::ColoredConfig,
    tabled::grid::dimension::CompleteDimension,
> {
    let line = HorizontalLine::inherit(Style::modern());
    tabled::settings::Settings::new(
        Style::rounded().remove_horizontals().horizontals([(heading, line)]),
        Padding::new(1, 1, 0, 0),
    )
}

/// A number to three significant digits, and whole from 100 on.
pub(crate) fn figure(value: f64) -> String {
    match value {
        _ if !value.is_finite() => "-".into(),
        _ if value < 9.995 => format!("{value:.2}"),
        _ if value < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests;
