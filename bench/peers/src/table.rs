//! What people read: [`figures`], a line for each comparison, and [`ratios`], a line for each workload.

use std::fmt::Write;

use quarry_suite::Extent;

use crate::compare::{Comparison, Outcome, Statistic};

/// A line for each comparison: nanoseconds per operation of each contestant, and how many times the best peer's the
/// first contestant's is. What the loop costs alone stands beside them.
pub fn figures(names: &[&str], comparisons: &[Comparison], statistic: Statistic, nanoseconds_per_tick: f64) -> String {
    let mut lines = vec![header(&["workload", "size", "threads"], names, &["loop", "ratio", "best peer"])];
    for comparison in comparisons {
        let mut line = vec![name(comparison), extent(comparison.case.extent), comparison.case.cpus.to_string()];
        let costs = comparison.results.iter().map(|outcome| outcome.ticks(statistic));
        line.extend(costs.map(|ticks| format!("{:.2}", ticks * nanoseconds_per_tick)));
        let empty = comparison.results.first().map_or(0.0, Outcome::empty);
        line.push(format!("{:.2}", empty * nanoseconds_per_tick));
        if let Some((index, ratio)) = comparison.best_peer(statistic) {
            line.extend([format!("{ratio:.2}"), names[index].to_owned()]);
        }
        lines.push(line);
    }
    aligned(&lines, 2)
}

/// A line for each workload and number of threads: how many times each peer's cost the first contestant's is, as the
/// geometric mean over the sizes. Below 1, the first is faster.
pub fn ratios(names: &[&str], comparisons: &[Comparison], statistic: Statistic) -> String {
    let Some((first, peers)) = names.split_first() else { return String::new() };
    let peers: Vec<String> = peers.iter().map(|peer| format!("{first}/{peer}")).collect();
    let peers: Vec<&str> = peers.iter().map(String::as_str).collect();
    let mut groups: Vec<(String, usize)> = Vec::new();
    for comparison in comparisons {
        let group = (name(comparison), comparison.case.cpus);
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups.sort_by_key(|group| group.1);
    let mut lines = vec![header(&["workload", "threads"], &peers, &[])];
    for (workload, cpus) in groups {
        let members = || comparisons.iter().filter(|one| one.case.cpus == cpus && name(one) == workload);
        let mean = |peer: usize| {
            let logarithms =
                members().map(|one| (one.results[0].ticks(statistic) / one.results[peer].ticks(statistic)).ln());
            format!("{:.2}", (logarithms.sum::<f64>() / members().count() as f64).exp())
        };
        let means: Vec<String> = (1..names.len()).map(mean).collect();
        lines.push([workload, cpus.to_string()].into_iter().chain(means).collect());
    }
    aligned(&lines, 1)
}

fn header(before: &[&str], middle: &[&str], after: &[&str]) -> Vec<String> {
    [before, middle, after].concat().into_iter().map(str::to_owned).collect()
}

/// Workload, variant and phase.
fn name(comparison: &Comparison) -> String {
    let mut name = comparison.case.workload.to_string();
    let variant = comparison.case.variant.map(|variant| variant.to_string());
    for part in variant.as_deref().into_iter().chain(comparison.phase.name()) {
        name.push(' ');
        name.push_str(part);
    }
    name
}

fn extent(extent: Extent) -> String {
    match extent {
        Extent::Size(size) => size.to_string(),
        Extent::Order(order) => format!("order {order}"),
        Extent::Mixed => "mixed".to_owned(),
    }
}

/// Columns as wide as their widest word; the first ones flush left, the others, which are numbers, right.
fn aligned(lines: &[Vec<String>], left: usize) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (column, (word, width)) in line.iter().zip(&widths).enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            let written =
                if column < left { write!(row, "{gap}{word:<width$}") } else { write!(row, "{gap}{word:>width$}") };
            written.expect("writing to a String cannot fail");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_suite::{Case, Phase, Workload};

    fn comparison(workload: Workload, extent: Extent, phase: Phase, medians: &[f64]) -> Comparison {
        let outcome = |&median: &f64| Outcome { samples: vec![median], empty: vec![1.0], ..Outcome::default() };
        let case = Case { workload, extent, variant: None, cpus: 1 };
        Comparison { case, phase, results: medians.iter().map(outcome).collect() }
    }

    fn sample() -> Vec<Comparison> {
        vec![
            comparison(Workload::Pair, Extent::Size(8), Phase::Whole, &[4.0, 8.0, 16.0]),
            comparison(Workload::Pair, Extent::Size(1024), Phase::Whole, &[4.0, 2.0, 16.0]),
            comparison(Workload::Batch, Extent::Size(8), Phase::Allocate, &[30.0, 20.0, 10.0]),
            comparison(Workload::Page, Extent::Order(9), Phase::Whole, &[100.0, 2000.0, 100.0]),
        ]
    }

    #[test]
    fn figures_stand_in_columns() {
        insta::assert_snapshot!(figures(&["ours", "theirs", "system"], &sample(), Statistic::Median, 0.5), @"
        workload        size     threads   ours   theirs  system  loop  ratio  best peer
        pair            8              1   2.00     4.00    8.00  0.50   0.50     theirs
        pair            1024           1   2.00     1.00    8.00  0.50   2.00     theirs
        batch allocate  8              1  15.00    10.00    5.00  0.50   3.00     system
        page            order 9        1  50.00  1000.00   50.00  0.50   1.00     system
        ");
    }

    #[test]
    fn ratios_are_geometric_means_over_the_sizes() {
        insta::assert_snapshot!(ratios(&["ours", "theirs", "system"], &sample(), Statistic::Median), @"
        workload        threads  ours/theirs  ours/system
        pair                  1         1.00         0.25
        batch allocate        1         1.50         3.00
        page                  1         0.05         1.00
        ");
    }
}
