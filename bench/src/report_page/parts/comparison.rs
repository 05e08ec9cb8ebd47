//! Each file after the first beside the first: the cost of every case that is in both, as a ratio.

use std::ops::RangeInclusive;

use quarry_record::Measurement;

use super::super::chart::{Axis, Bar, Bars, Content, Panel, Row, Tone};
use super::super::scale::{Spread, Unit};
use super::super::sources::{OURS, Source, Subject, rows};
use super::{cost, geometric_mean};
use crate::words::count;

/// Ratios that every axis reaches. Others are rare, and would make all bars short.
const SHOWN: RangeInclusive<f64> = 0.25..=4.0;

/// A case in two files.
struct Change<'r> {
    allocator: &'r str,
    workload: &'r str,
    subject: Subject<'r>,
    cpus: u32,
    /// Cost after by cost before.
    ratio: f64,
    /// Whether the difference is less than the samples are spread.
    same: bool,
}

pub(super) fn panels(sources: &[Source]) -> Vec<Panel> {
    let Some((before, later)) = sources.split_first() else { return Vec::new() };
    later.iter().flat_map(|after| pair(before, after)).collect()
}

fn pair(before: &Source, after: &Source) -> Vec<Panel> {
    let changes = changes(before, after);
    let sheet = Sheet {
        note: format!("{} as a multiple of {}", after.label, before.label),
        reach: changes.iter().map(|change| change.ratio).filter(|ratio| SHOWN.contains(ratio)).collect(),
    };
    let has_ours = changes.iter().any(|change| change.allocator == OURS);
    let mut panels = Vec::new();
    let mut allocators = distinct(changes.iter().map(|change| change.allocator));
    allocators.sort_by_key(|allocator| *allocator != OURS);
    for allocator in allocators {
        let of_allocator: Vec<&Change> = changes.iter().filter(|change| change.allocator == allocator).collect();
        let front = !has_ours || allocator == OURS;
        panels.push(means(&sheet, allocator, &of_allocator, front));
        // Of what others came to, where ours is there too, the means are enough.
        for workload in workloads(&of_allocator).into_iter().filter(|_| front) {
            let of_workload: Vec<&Change> =
                of_allocator.iter().copied().filter(|change| change.workload == workload).collect();
            panels.extend(sheet.cases(&format!("{allocator}: {workload}"), &of_workload));
        }
    }
    panels
}

/// What the pictures of a pair of files share.
struct Sheet {
    note: String,
    /// Ratios that are on all axes.
    reach: Vec<f64>,
}

impl Sheet {
    fn panel(&self, title: String, front: bool, rows: Vec<Row>) -> Panel {
        let axis = Axis::new("cost after by cost before, logarithmic", Unit::Times, Spread::AroundOne);
        let axis = Axis { include: self.reach.clone(), ..axis };
        Panel { title, note: self.note.clone(), front, content: Content::Bars(Bars { axis, rows }) }
    }

    /// A picture for each number of CPUs with a bar for each size and part; where there is one of those, a bar for each
    /// number of CPUs.
    fn cases(&self, title: &str, changes: &[&Change]) -> Vec<Panel> {
        let mut cpu_counts = distinct(changes.iter().map(|change| change.cpus));
        cpu_counts.sort_unstable();
        if distinct(changes.iter().map(|change| change.subject)).len() == 1 {
            let row = |change: &&Change| row(count(change.cpus.into(), "CPU"), change.ratio, change.same);
            let title = [title.to_owned(), changes[0].subject.part()];
            let title = title.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
            return vec![self.panel(title, cpu_counts.len() > 1, changes.iter().map(row).collect())];
        }
        let panel = |(at, cpus): (usize, &u32)| {
            let rows = changes.iter().filter(|change| change.cpus == *cpus).map(|change| {
                let label = [change.subject.extent(), change.subject.part()];
                let label = label.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
                row(label, change.ratio, change.same)
            });
            self.panel(format!("{title} on {}", count((*cpus).into(), "CPU")), at == 0, rows.collect())
        };
        cpu_counts.iter().enumerate().map(panel).collect()
    }
}

fn workloads<'r>(changes: &[&Change<'r>]) -> Vec<&'r str> {
    distinct(changes.iter().map(|change| change.workload))
}

/// The geometric mean of each workload, all sizes and numbers of CPUs together.
fn means(sheet: &Sheet, allocator: &str, changes: &[&Change], front: bool) -> Panel {
    let mean = |workload: &str| {
        let of_workload: Vec<&&Change> = changes.iter().filter(|change| change.workload == workload).collect();
        let ratio = geometric_mean(of_workload.iter().map(|change| change.ratio));
        row(workload.to_owned(), ratio.unwrap_or(1.0), of_workload.iter().all(|change| change.same))
    };
    let panel = sheet.panel(
        format!("{allocator}: geometric mean of each workload"),
        front,
        workloads(changes).into_iter().map(mean).collect(),
    );
    Panel { note: format!("all sizes and CPUs; {}", panel.note), ..panel }
}

fn row(label: String, ratio: f64, same: bool) -> Row {
    let tone = match ratio {
        _ if same => Tone::Same,
        better if better < 1.0 => Tone::Better,
        _ => Tone::Worse,
    };
    Row { label, bars: vec![Bar { value: ratio, text: change(ratio), tone, pale: false }] }
}

/// `−12 %`, `+3.4 %`, `12×`.
fn change(ratio: f64) -> String {
    let percent = (ratio - 1.0) * 100.0;
    match percent.abs() {
        _ if ratio >= 3.0 => Unit::Times.show(ratio),
        size if size < 0.05 => "0\u{202f}%".into(),
        size => {
            let sign = if percent < 0.0 { '\u{2212}' } else { '+' };
            format!("{sign}{size:.*}\u{202f}%", usize::from(size < 9.95))
        }
    }
}

/// Cases in both, where both have a cost.
fn changes<'r>(before: &'r Source, after: &'r Source) -> Vec<Change<'r>> {
    let mut changes: Vec<Change> = Vec::new();
    for row in rows(after) {
        let (allocator, workload, subject, cpus) =
            (row.allocator.as_str(), row.workload.as_str(), Subject::from(row), row.cpus);
        let is_case = |other: &&Measurement| {
            other.allocator == allocator
                && other.workload == workload
                && Subject::from(*other) == subject
                && other.cpus == cpus
        };
        let known = |change: &Change| {
            (change.allocator, change.workload, change.subject, change.cpus) == (allocator, workload, subject, cpus)
        };
        if changes.iter().any(known) {
            continue;
        }
        let [old, new] = [before, after].map(|source| middle(rows(source).filter(is_case)));
        if let (Some((old, old_spread)), Some((new, new_spread))) = (old, new) {
            let same = (new - old).abs() <= f64::max(old_spread, new_spread);
            let ratio = new / old;
            if ratio.is_finite() && ratio > 0.0 {
                changes.push(Change { allocator, workload, subject, cpus, ratio, same });
            }
        }
    }
    changes
}

/// Of the runs of one build, the one in the middle: its cost, and how its samples are spread.
fn middle<'r>(rows: impl Iterator<Item = &'r Measurement>) -> Option<(f64, f64)> {
    let mut costs: Vec<(f64, f64)> =
        rows.map(|row| cost(row).0).map(|cost| (cost.median, cost.spread)).filter(|(cost, _)| *cost > 0.0).collect();
    costs.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    costs.get(costs.len() / 2).copied()
}

/// Without what comes again.
fn distinct<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut distinct = Vec::new();
    for one in all {
        if !distinct.contains(&one) {
            distinct.push(one);
        }
    }
    distinct
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_read() {
        let read = [0.5, 0.966, 1.0, 1.0004, 1.25, 3.0, 40.0].map(|ratio| change(ratio).replace('\u{202f}', " "));
        assert_eq!(read, ["−50 %", "−3.4 %", "0 %", "0 %", "+25 %", "3×", "40×"]);
    }
}
