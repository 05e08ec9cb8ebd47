//! `quarry budget`: holds what operations cost in instructions against a file in the repository.
//!
//! Under `--icount` with one CPU the guest's instructions are the same in every boot, whatever else the host does, so
//! the smallest growth of a fast path fails a build, and nothing else does.

pub(crate) mod compiler;
mod file;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use quarry_record::Measurement;
use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Modify};

use crate::case::{Case, Metric};
use crate::cli::{HostOptions, MachineOptions};
use crate::compare::rank::median;
use crate::compare::render::exact;
use crate::guest::Guest;
use crate::images::{Image, workspace};
use crate::progress::Progress;
use crate::runs::read_whole;
use crate::session::Session;
use crate::tables::lines_below;
use crate::words::count;
use file::BudgetFile;

/// Whose budget it is.
const ALLOCATOR: &str = "quarry";

/// A case that takes so many instructions less than it may can be held to less.
const WELL_UNDER: f64 = 1.0;

#[derive(Debug, clap::Args)]
pub(crate) struct BudgetCommand {
    /// The budget file [default: ci/budget.toml of the source].
    #[arg(long, value_name = "FILE")]
    budget: Option<PathBuf>,
    /// Make what is measured the budget.
    #[arg(long)]
    update: bool,
    /// Boot nothing: take the run of this file, made with `run --icount --cpus 1`.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    #[command(flatten)]
    host: HostOptions,
}

/// Measures, prints a table, and updates the file if asked to.
///
/// # Errors
///
/// When a case takes more than it may, or was not measured.
pub(crate) fn execute(command: &BudgetCommand) -> Result<()> {
    let path = command.budget.clone().unwrap_or_else(|| workspace().join("ci/budget.toml"));
    let mut file = BudgetFile::read(&path)?;
    let session = match &command.from {
        Some(records) => read_whole(std::slice::from_ref(records))?.swap_remove(0),
        None => boot(&file, &command.host)?,
    };
    let mut measured = measured(&session)?;
    measured.retain(|(case, _)| file.wants(case));
    // Who measured the run of a file, with what, nobody knows.
    let rustc = if command.from.is_none() { compiler::version() } else { None };
    let lines = lines(&file, &measured);
    println!("{}", table(&lines));
    if command.update {
        let changed = lines.iter().filter(|line| line.verdict() != Verdict::Kept).count();
        file.update(&measured, rustc.as_deref());
        file.write()?;
        println!("{} rewritten; {}", file.path().display(), changes(changed));
        return Ok(());
    }
    for line in lines.iter().filter(|line| line.verdict() == Verdict::WellUnder) {
        println!("{} is well under its budget: tighten it (`quarry budget --update`)", line.case);
    }
    for line in lines.iter().filter(|line| line.verdict() == Verdict::NoBudget) {
        println!("{} has no budget: give it one (`quarry budget --update`)", line.case);
    }
    let other = rustc.as_deref().and_then(|rustc| compiler::difference(file.rustc(), rustc, file.path()));
    if let Some(other) = &other {
        println!("{other}");
    }
    judge(&lines, &file)
}

fn changes(cases: usize) -> String {
    if cases == 0 {
        "no case was over or well under its budget".into()
    } else {
        count(cases as u64, "budget") + " changed"
    }
}

/// Counts, by case, of the allocator whose budget it is.
fn measured(session: &Session) -> Result<Vec<(Case, f64)>> {
    let icount = session.run.as_ref().is_some_and(|run| run.icount && run.cpus_online == 1);
    if !icount {
        bail!("a budget is of instructions on one CPU: measure with `quarry run --icount --cpus 1`");
    }
    let ours = session.results.iter().filter(|result| result.allocator == ALLOCATOR && result.cpus == 1);
    let count = |result: &Measurement| (Case::from(result), median(&Metric::Instructions.figures(result)));
    Ok(ours.map(count).filter(|(_, count)| count.is_finite()).collect())
}

fn boot(file: &BudgetFile, host: &HostOptions) -> Result<Session> {
    let words = ["mode=run".to_owned()].into_iter().chain(file.guest_words());
    let guest = Guest::announce(Image::Bench, "budget", &MachineOptions::counting_instructions(), host, words)?;
    let ended = guest.watch(Duration::ZERO, &mut Progress::new(host.verbose));
    ended.verdict.map_err(|failure| guest.explain(failure))?;
    Ok(ended.session)
}

/// A case in the file, in the run, or in both.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    case: String,
    budget: Option<f64>,
    measured: Option<f64>,
    /// What the budget has more than was measured when it was made, as a part of it.
    headroom: f64,
}

/// What to think of a [`Line`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Kept,
    WellUnder,
    Over,
    NotMeasured,
    NoBudget,
}

impl Line {
    fn verdict(&self) -> Verdict {
        match (self.budget, self.measured) {
            (Some(budget), Some(measured)) if measured > budget => Verdict::Over,
            (Some(budget), Some(measured)) if measured * (1.0 + 2.0 * self.headroom) <= budget - WELL_UNDER => {
                Verdict::WellUnder
            }
            (Some(_), Some(_)) => Verdict::Kept,
            (Some(_), None) => Verdict::NotMeasured,
            (None, _) => Verdict::NoBudget,
        }
    }

    fn difference(&self) -> Option<f64> {
        Some(self.measured? - self.budget?)
    }
}

/// Those measured, in their order, and then those that were not.
fn lines(file: &BudgetFile, measured: &[(Case, f64)]) -> Vec<Line> {
    let budgets = file.budgets();
    let line = |(case, count): &(Case, f64)| Line {
        case: case.short(),
        budget: budgets.get(&case.short()).copied(),
        measured: Some(*count),
        headroom: file.headroom(&case.workload),
    };
    let missing = budgets.iter().filter(|(case, _)| measured.iter().all(|(other, _)| other.short() != **case));
    let missing =
        missing.map(|(case, budget)| Line { case: case.clone(), budget: Some(*budget), measured: None, headroom: 0.0 });
    measured.iter().map(line).chain(missing).collect()
}

fn table(lines: &[Line]) -> String {
    let mut builder = Builder::new();
    builder.push_record(["instructions of", "budget", "measured", "difference", ""]);
    for line in lines {
        let number = |number: Option<f64>| number.map_or_else(|| "-".into(), exact);
        let difference = line.difference().map_or_else(|| "-".into(), |difference| format!("{difference:+.4}"));
        let verdict = match line.verdict() {
            Verdict::Kept => "",
            Verdict::WellUnder => "well under",
            Verdict::Over => "OVER",
            Verdict::NotMeasured => "NOT MEASURED",
            Verdict::NoBudget => "no budget",
        };
        let cells = [line.case.clone(), number(line.budget), number(line.measured), difference, verdict.into()];
        builder.push_record(cells);
    }
    let mut table = builder.build();
    table.with(lines_below(1)).with(Alignment::right());
    table.with(Modify::new(Columns::first()).with(Alignment::left()));
    table.with(Modify::new(Columns::last()).with(Alignment::left()));
    table.to_string()
}

/// Whether every case of the file keeps its budget.
fn judge(lines: &[Line], file: &BudgetFile) -> Result<()> {
    let failed = |verdict: Verdict, tell: fn(&Line) -> String| {
        let lines = lines.iter().filter(|line| line.verdict() == verdict);
        lines.map(tell).collect::<Vec<_>>().join("; ")
    };
    let path = file.path().display();
    let over = failed(Verdict::Over, |line| {
        let [budget, measured, more] = [line.budget, line.measured, line.difference()].map(Option::unwrap_or_default);
        format!("{} may take {}, takes {} ({more:+.4})", line.case, exact(budget), exact(measured))
    });
    if !over.is_empty() {
        bail!("over the instruction budget of {path}: {over}. If that is worth it: quarry budget --update");
    }
    let missing = failed(Verdict::NotMeasured, |line| line.case.clone());
    if !missing.is_empty() {
        bail!("in {path}, but not measured: {missing}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(case: &str, budget: Option<f64>, measured: Option<f64>) -> Line {
        Line { case: case.into(), budget, measured, headroom: 0.0 }
    }

    #[test]
    fn a_table_shows_every_case_and_its_verdict() {
        let lines = [
            line("pair 64 B", Some(59.01), Some(59.0031)),
            line("pair 1 KiB", Some(59.01), Some(61.0031)),
            line("page order 0 (4 KiB)", Some(128.01), Some(120.0)),
            line("batch 64 B, free", Some(145.0), None),
            line("mix", None, Some(144.0)),
        ];
        insta::assert_snapshot!(table(&lines), @"
        ╭──────────────────────┬────────┬──────────┬────────────┬──────────────╮
        │ instructions of      │ budget │ measured │ difference │              │
        ├──────────────────────┼────────┼──────────┼────────────┼──────────────┤
        │ pair 64 B            │  59.01 │  59.0031 │    -0.0069 │              │
        │ pair 1 KiB           │  59.01 │  61.0031 │    +1.9931 │ OVER         │
        │ page order 0 (4 KiB) │ 128.01 │      120 │    -8.0100 │ well under   │
        │ batch 64 B, free     │    145 │        - │          - │ NOT MEASURED │
        │ mix                  │      - │      144 │          - │ no budget    │
        ╰──────────────────────┴────────┴──────────┴────────────┴──────────────╯
        ");
    }

    #[test]
    fn equal_is_within_and_the_smallest_excess_is_over() {
        let verdict = |budget, measured| line("pair 64 B", Some(budget), Some(measured)).verdict();
        assert_eq!(verdict(59.01, 59.01), Verdict::Kept);
        assert_eq!(verdict(59.01, 59.0101), Verdict::Over);
        assert_eq!([verdict(59.01, 58.02), verdict(59.01, 58.0)], [Verdict::Kept, Verdict::WellUnder]);
        let roomy = |measured| Line { headroom: 0.05, ..line("batch 64 B", Some(105.0), Some(measured)) }.verdict();
        assert_eq!([105.0, 97.0, 94.0].map(roomy), [Verdict::Kept, Verdict::Kept, Verdict::WellUnder]);
    }
}
