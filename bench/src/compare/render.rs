//! A comparison as text: a table for each workload, means of groups, and what to know before one believes them.

use std::collections::BTreeSet;
use std::fmt::Write;

use quarry_record::Run;
use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Modify};

use super::floor::{NoiseFloor, WITH_FEW_BOOTS};
use super::judge::{Basis, Comparison, Comparisons, LEVEL, Verdict};
use super::many::geometric_mean;
use super::rank::smallest_p_value;
use super::side::Side;
use crate::case::{Case, Metric};
use crate::tables::{describe, figure, lines_below};
use crate::words::count;

/// Who is compared: `old  440aa3b, 8 boots`.
pub(crate) fn sides(old: &Side, new: &Side) -> String {
    let line = |name: &str, side: &Side| {
        let builds: BTreeSet<&str> = side.runs.iter().map(|run: &Run| run.git.as_str()).collect();
        let builds = builds.into_iter().collect::<Vec<_>>().join(" and ");
        format!("{name}  {builds}, {}\n", count(side.boots() as u64, "boot"))
    };
    line("old", old) + &line("new", new)
}

/// All of a comparison.
pub(crate) fn text(all: &Comparisons) -> String {
    let mut text = String::new();
    let mut tables: Vec<(&str, &str)> = Vec::new();
    for one in &all.both {
        let table = (one.case.allocator.as_str(), one.case.workload.as_str());
        if !tables.contains(&table) {
            tables.push(table);
        }
    }
    for (allocator, workload) in tables {
        let of_table = |one: &&Comparison| one.case.allocator == allocator && one.case.workload == workload;
        let rows: Vec<&Comparison> = all.both.iter().filter(of_table).collect();
        let table = table(&rows, all.metric);
        writeln!(text, "{workload} ({allocator}): {}\n{table}\n", describe(workload)).expect(STRING);
    }
    if !all.both.is_empty() {
        writeln!(text, "Geometric means of new / old\n{}", means(all)).expect(STRING);
    }
    for (name, cases) in [("old", &all.only_old), ("new", &all.only_new)] {
        if !cases.is_empty() {
            writeln!(text, "\nOnly the {name} side has {}:{}", count(cases.len() as u64, "case"), list(cases))
                .expect(STRING);
        }
    }
    if !all.unsteady.is_empty() {
        let cases = count(all.unsteady.len() as u64, "case");
        writeln!(text, "\nCounts that are not the same in every boot, {cases}:{}", list(&all.unsteady)).expect(STRING);
    }
    text
}

const STRING: &str = "a string takes whatever is written to it";

fn list(cases: &[Case]) -> String {
    cases.iter().fold(String::new(), |list, case| list + "\n  " + &case.to_string())
}

fn table(rows: &[&Comparison], metric: Metric) -> String {
    let with_parts = rows.iter().any(|one| !one.case.part().is_empty());
    let counted = metric == Metric::Instructions;
    let mut builder = Builder::new();
    let mut titles = vec!["size".to_owned()];
    titles.extend(with_parts.then(|| "part".to_owned()));
    titles.extend(["CPUs".into(), format!("old, {}", metric.unit()), "new".into(), "change".into()]);
    if !counted {
        titles.extend(["95 % interval", "p", "n"].map(str::to_owned));
    }
    titles.push(String::new());
    builder.push_record(titles);
    for one in rows {
        let mut record = vec![one.case.extent()];
        record.extend(with_parts.then(|| one.case.part()));
        record.push(one.case.cpus.to_string());
        record.extend([value(one.old, metric), value(one.new, metric), percent(one.ratio - 1.0)]);
        if !counted {
            let interval = one.interval.map(|(low, high)| format!("{} to {}", percent(low - 1.0), percent(high - 1.0)));
            record.push(interval.unwrap_or_else(|| "-".into()));
            record.push(one.p_value.map_or_else(|| "-".into(), probability));
            record.push(format!("{}+{}", one.figures.0, one.figures.1));
        }
        record.push(verdict(one.verdict, metric).into());
        builder.push_record(record);
    }
    let mut table = builder.build();
    table.with(lines_below(1)).with(Alignment::right());
    table.with(Modify::new(Columns::new(..=usize::from(with_parts))).with(Alignment::left()));
    table.with(Modify::new(Columns::last()).with(Alignment::left()));
    table.to_string()
}

const fn verdict(verdict: Verdict, metric: Metric) -> &'static str {
    match (verdict, metric) {
        (Verdict::Unchanged, Metric::Instructions) => "=",
        (Verdict::Unchanged, _) => "~",
        (Verdict::Worse, Metric::Instructions | Metric::Held) => "more",
        (Verdict::Better, Metric::Instructions) => "fewer",
        (Verdict::Better, Metric::Held) => "less",
        (Verdict::Worse, _) => "slower",
        (Verdict::Better, _) => "faster",
    }
}

/// A mean for each allocator and group, and one for each allocator.
fn means(all: &Comparisons) -> String {
    let mut groups: Vec<(&str, Option<&str>)> = Vec::new();
    for one in &all.both {
        let allocator = one.case.allocator.as_str();
        for group in [(allocator, Some(one.case.group())), (allocator, None)] {
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
    }
    // All of an allocator come below its groups.
    groups.sort_by_key(|(allocator, group)| {
        (all.both.iter().position(|one| one.case.allocator == *allocator), group.is_none())
    });
    let mut builder = Builder::new();
    let [worse, better] = [Verdict::Worse, Verdict::Better].map(|it| verdict(it, all.metric));
    builder.push_record(["allocator", "group", "change", "cases", worse, better]);
    for (allocator, group) in groups {
        let of_group =
            |one: &&Comparison| one.case.allocator == allocator && group.is_none_or(|group| one.case.group() == group);
        let cases: Vec<&Comparison> = all.both.iter().filter(of_group).collect();
        let mean = geometric_mean(cases.iter().map(|one| one.ratio)).unwrap_or(f64::NAN);
        let judged = |verdict| cases.iter().filter(|one| one.verdict == verdict).count().to_string();
        builder.push_record([
            allocator.to_owned(),
            group.unwrap_or("all").to_owned(),
            percent(mean - 1.0),
            cases.len().to_string(),
            judged(Verdict::Worse),
            judged(Verdict::Better),
        ]);
    }
    let mut table = builder.build();
    table.with(lines_below(1)).with(Alignment::right());
    table.with(Modify::new(Columns::new(..=1)).with(Alignment::left()));
    table.to_string()
}

/// What was tested, and what these boots cannot tell.
pub(crate) fn notes(all: &Comparisons, noise: Option<&NoiseFloor>) -> Vec<String> {
    let mut notes = Vec::new();
    let tested: Vec<&Comparison> = all.both.iter().filter(|one| one.basis != Basis::Counts).collect();
    let Some(fewest) = tested.iter().min_by_key(|one| one.figures.0.min(one.figures.1)) else { return notes };
    let (cases, level) = (count(tested.len() as u64, "case"), LEVEL * 100.0);
    notes.push(format!(
        "~ is a difference that the rank test (false discoveries over {cases} at {level} %) or the noise floor takes for noise."
    ));
    if tested.iter().any(|one| one.basis == Basis::Blocks) {
        notes.push(if noise.is_some() {
            "With so few boots the tests are over blocks of samples, and intervals are widened by the noise floor; 8 boots a side tell more (`quarry run --boots 8`).".into()
        } else {
            format!(
                "So few boots do not tell how boots differ, and no noise floor was given: a change below {:.0} % is taken for noise. Take 8 boots a side (`quarry run --boots 8`) or measure the noise (`quarry noise`).",
                WITH_FEW_BOOTS * 100.0
            )
        });
        return notes;
    }
    let alone = LEVEL / tested.len() as f64;
    if smallest_p_value(fewest.figures.0, fewest.figures.1) > alone {
        // Twice as many boots make it far less than half as large: it ends soon.
        let mut enough = fewest.figures.0.min(fewest.figures.1);
        while smallest_p_value(enough, enough) > alone {
            enough += 1;
        }
        notes.push(format!("So few boots cannot show a change of one case among {cases}: that takes {enough} a side."));
    }
    notes
}

/// `+3.1 %`.
pub(crate) fn percent(part: f64) -> String {
    let percent = part * 100.0;
    if percent.abs() < 0.05 { "0.0 %".into() } else { format!("{percent:+.1} %") }
}

fn probability(p: f64) -> String {
    if p < 0.001 { "<0.001".into() } else { format!("{p:.3}") }
}

/// A figure: a count with its decimals, any other to three digits.
pub(crate) fn value(value: f64, metric: Metric) -> String {
    if metric == Metric::Instructions { exact(value) } else { figure(value) }
}

/// A count with all the decimals that it has, up to four.
pub(crate) fn exact(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests;
