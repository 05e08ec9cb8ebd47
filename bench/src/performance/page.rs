//! The page: tables of figures in Markdown.

use std::fmt::Write;

use super::figure::{Linux, Outcome, Verdict, outcome};
use super::sources::{All, Stamp};
use super::targets::{Row, Section, Source, Targets};
use crate::tables;
use crate::words::count;

/// What stands where nothing was measured.
const NOT_MEASURED: &str = "not measured";

/// What stands where a figure has no meaning.
const NONE: &str = "-";

/// Stands behind a figure that was measured before.
const RECORDED: &str = " \\*";

/// The page, and a sentence for each target that is missed without a reason.
pub(super) struct Page {
    pub(super) text: String,
    pub(super) complaints: Vec<String>,
}

/// Makes the page of what was measured.
pub(super) fn page(targets: &Targets, all: &All) -> Page {
    let outcomes: Vec<Vec<Outcome>> = targets
        .sections
        .iter()
        .map(|section| section.rows.iter().map(|row| outcome(targets, section, row, all)).collect())
        .collect();
    let of = |verdict| outcomes.iter().flatten().filter(|outcome| outcome.verdict == verdict).count();
    let mut text = format!("# Performance\n\n{}\n\n", targets.introduction.trim());
    let mut add = |part: &str| text.push_str(part);
    let figures = count(outcomes.iter().flatten().count() as u64, "figure");
    add(&format!(
        "Of {figures} {} meet their targets, {} miss them, {} are told without one, {} are not measured.\n\n",
        of(Verdict::Met),
        of(Verdict::Missed),
        of(Verdict::Told),
        of(Verdict::NotMeasured)
    ));
    add(&made_by(targets, all));
    let mut complaints = Vec::new();
    for (section, outcomes) in targets.sections.iter().zip(&outcomes) {
        add(&format!("## {}\n\n{}\n\n{}", section.title, section.text.trim(), table(section, outcomes)));
        let missed = section.rows.iter().zip(outcomes).filter(|(_, outcome)| outcome.verdict == Verdict::Missed);
        for (row, _) in missed {
            if row.why.is_none() {
                complaints.push(format!("`{}` misses its target, and no `why` says why", row.what));
            }
        }
        add(&reasons(&section.rows, outcomes));
    }
    if outcomes.iter().flatten().any(|outcome| matches!(outcome.linux, Linux::Recorded(_))) {
        add(&format!("\\* {}\n", targets.linux.recorded.trim()));
    }
    Page { text: text.trim_end().to_owned() + "\n", complaints }
}

/// When, on what and by which commands.
fn made_by(targets: &Targets, all: &All) -> String {
    let mut text =
        "| source | date | CPU | QEMU | rustc | revision |\n| --- | --- | --- | --- | --- | --- |\n".to_owned();
    let mut line = |line: String| writeln!(text, "{line}").expect("a string takes whatever is written to it");
    for source in &targets.sources {
        let cells = match all.get(&source.name) {
            None => format!("{NOT_MEASURED} | | | |"),
            Some(measured) => match &measured.stamp {
                None => "not known | | | |".into(),
                Some(Stamp { date, cpu, qemu, rustc, revision }) => {
                    format!("{date} | {cpu} | {qemu} | {rustc} | {revision}")
                }
            },
        };
        line(format!("| {} | {cells} |", source.name));
    }
    line(String::new());
    line("```".into());
    let width = targets.sources.iter().map(|source| source.name.len()).max().unwrap_or(0);
    for Source { name, command, .. } in &targets.sources {
        line(format!("{name:<width$}  {command}"));
    }
    line("```\n".into());
    text
}

fn table(section: &Section, outcomes: &[Outcome]) -> String {
    let with_peers = outcomes.iter().any(|outcome| outcome.peers.is_some());
    let with_linux = outcomes.iter().any(|outcome| outcome.linux != Linux::None);
    let mut head = vec!["", "at most", "Quarry"];
    let mut marks = vec!["---", "--:", "--:"];
    if with_linux {
        head.push("Linux");
        marks.push("--:");
    }
    head.push("met");
    marks.push("---");
    if with_peers {
        head.push("peers, the best first");
        marks.push("---");
    }
    let mut lines = vec![record(&head), record(&marks)];
    for (row, outcome) in section.rows.iter().zip(outcomes) {
        let mut cells = vec![row.what.clone(), outcome.target.clone()];
        cells.push(outcome.ours.clone().unwrap_or_else(|| NOT_MEASURED.into()));
        cells.extend(with_linux.then(|| linux(outcome)));
        cells.push(mark(outcome.verdict).into());
        cells.extend(with_peers.then(|| peers(outcome)));
        lines.push(record(&cells));
    }
    lines.join("\n") + "\n\n"
}

fn record<T: AsRef<str>>(cells: &[T]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| cell.as_ref().replace('|', "\\|")).collect();
    format!("| {} |", cells.join(" | "))
}

fn linux(outcome: &Outcome) -> String {
    match outcome.linux {
        Linux::None => NONE.into(),
        Linux::NotMeasured => NOT_MEASURED.into(),
        Linux::Measured(figure) => tables::figure(figure),
        Linux::Recorded(figure) => tables::figure(figure) + RECORDED,
    }
}

fn peers(outcome: &Outcome) -> String {
    match &outcome.peers {
        None => NONE.into(),
        Some(peers) if peers.is_empty() && outcome.ours.is_none() => NOT_MEASURED.into(),
        // Ours alone can do it, or was measured alone.
        Some(peers) if peers.is_empty() => NONE.into(),
        Some(peers) => peers.join(", "),
    }
}

const fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Met => "yes",
        Verdict::Missed => "**no**",
        Verdict::Told => NONE,
        Verdict::NotMeasured => NOT_MEASURED,
    }
}

/// A sentence for each row that needs one: why it is missed, or what keeps what is not measured here.
fn reasons(rows: &[Row], outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for (row, outcome) in rows.iter().zip(outcomes) {
        let sentence = match (outcome.verdict, row.kept_by()) {
            (Verdict::Missed, _) => Some(row.why.as_deref().unwrap_or("Nobody has said why.")),
            (Verdict::NotMeasured, kept_by) => kept_by,
            (Verdict::Met | Verdict::Told, _) => None,
        };
        if let Some(sentence) = sentence {
            writeln!(text, "- *{}*: {}", row.what, sentence.trim()).expect("a string takes whatever is written to it");
        }
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}
