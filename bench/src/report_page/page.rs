//! The page: one HTML file that needs nothing else. Every text is escaped, by the template language.

use std::collections::BTreeMap;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use quarry_record::{Run, Statistics, Topology, catalogue};

use super::chart::{Panel, Tone};
use super::draw;
use super::figures::{Table, TableRow, tables};
use super::parts::Part;
use super::scale::significant;
use super::sources::{OURS, Source, View, complaints};
use super::summary::{Summary, summary};
use crate::report;
use crate::size::Size;
use crate::tables::{describe, figure};
use crate::words::count;

/// The page's own style.
const STYLE: &str = include_str!("page.css");

/// Complaints that are shown at once; others on request.
const COMPLAINTS_SHOWN: usize = 5;

/// The whole page.
pub(crate) fn page(sources: &[Source], view: &View, parts: &[(Part, Vec<Panel>)]) -> String {
    let tables = tables(sources, view);
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Allocator benchmark: " (names(sources)) }
                style { (PreEscaped(STYLE)) (PreEscaped(draw::STYLE)) }
            }
            body {
                main {
                    header {
                        h1 { "Allocator benchmark" }
                        p class="subtitle" { (names(sources)) }
                        (navigation(parts))
                    }
                    (problems(&complaints(sources)))
                    (fingerprints(sources))
                    (legend(view))
                    (multiples(view))
                    @for (part, panels) in parts { (section(*part, panels)) }
                    (figures(&tables))
                    (memory(sources))
                }
            }
        }
    };
    markup.into_string() + "\n"
}

fn names(sources: &[Source]) -> String {
    sources.iter().map(|source| source.label.as_str()).collect::<Vec<_>>().join(", ")
}

fn navigation(parts: &[(Part, Vec<Panel>)]) -> Markup {
    html! {
        nav {
            a href="#machine" { "Machine" }
            @for (part, panels) in parts.iter().filter(|(_, panels)| !panels.is_empty()) {
                a href={ "#" (part.name()) } { (part.heading()) " " small { (panels.len()) } }
            }
            a href="#figures" { "All figures" }
        }
    }
}

/// Errors, before anything else.
fn problems(complaints: &[String]) -> Markup {
    let (shown, more) = complaints.split_at(complaints.len().min(COMPLAINTS_SHOWN));
    html! {
        @if !complaints.is_empty() {
            section class="problems" role="alert" {
                h2 { "Do not trust these figures" }
                ul { @for complaint in shown { li { (complaint) } } }
                @if !more.is_empty() {
                    details {
                        summary { (more.len()) " more" }
                        ul { @for complaint in more { li { (complaint) } } }
                    }
                }
            }
        }
    }
}

/// Who ran, and on what: a column for each file, and one for several whose every line is the same.
fn fingerprints(sources: &[Source]) -> Markup {
    let runs: Vec<(&Source, &Run)> =
        sources.iter().filter_map(|source| Some((source, source.runs.last()?.run.as_ref()?))).collect();
    let mut lines: Vec<(&str, Vec<String>)> = Vec::new();
    if sources.len() > 1 {
        lines.push(("file", runs.iter().map(|(source, _)| source.label.clone()).collect()));
    }
    for (title, value) in FINGERPRINT {
        lines.push((title, runs.iter().map(|(source, run)| value(source, run)).collect()));
    }
    lines.retain(|(_, values)| values.iter().any(|value| !value.is_empty()));
    html! {
        section id="machine" {
            h2 { "Machine and run" }
            div class="scroll" tabindex="0" {
                table class="fingerprint" {
                    tbody {
                        @for (title, values) in lines {
                            tr { th scope="row" { (title) } @for value in values { td { (value) } } }
                        }
                    }
                }
            }
            @if runs.iter().any(|(_, run)| run.hypervisor == "TCG" && !run.icount) {
                p class="remark" {
                    "TCG translates every instruction: compare these figures with each other, not with real CPUs."
                }
            }
        }
    }
}

/// A line of the fingerprint; empty where it is not known.
type Line = (&'static str, fn(&Source, &Run) -> String);

const FINGERPRINT: &[Line] = &[
    ("CPU", |_, run| run.cpu.clone()),
    ("accelerator", |_, run| {
        let counted = if run.icount { ", a nanosecond is an instruction" } else { "" };
        let named = [&run.hypervisor, &run.accelerator];
        let mut named: Vec<&str> = named.into_iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
        named.dedup_by(|one, other| one.eq_ignore_ascii_case(other));
        format!("{}{counted}", named.join(", asked for as "))
    }),
    ("CPUs at work", |_, run| if run.cpus_online == 0 { String::new() } else { run.cpus_online.to_string() }),
    ("nodes", |_, run| report::nodes(&run.topology).join("; ")),
    ("nodes told by", |_, run| told_by(&run.topology)),
    ("time-stamp counter", |_, run| {
        if run.tsc_hz == 0 { String::new() } else { format!("{} MHz ({})", run.tsc_hz / 1_000_000, run.tsc_method) }
    }),
    ("image", |_, run| run.image.clone()),
    ("revision", |_, run| run.git.clone()),
    ("seed", |_, run| run.seed.to_string()),
    ("command line", |_, run| run.command_line.clone()),
    ("boot", |_, run| {
        if run.boot_microseconds == 0 {
            String::new()
        } else {
            format!("{:.1} ms", run.boot_microseconds as f64 / 1000.0)
        }
    }),
    ("firmware warnings", |_, run| if run.warnings == 0 { String::new() } else { run.warnings.to_string() }),
    ("record schema", |_, run| run.schema.to_string()),
    ("results", |source, _| {
        let results: usize = source.runs.iter().map(|run| run.results.len()).sum();
        let runs = if source.runs.len() > 1 {
            format!(" of {}", count(source.runs.len() as u64, "run"))
        } else {
            String::new()
        };
        format!("{results}{runs}")
    }),
];

/// `SRAT, distances assumed`: the tables that said so, or that nobody did.
fn told_by(topology: &Topology) -> String {
    let Topology { source, distance_source, .. } = topology;
    match distance_source.as_str() {
        "" => source.clone(),
        "assumed" => format!("{source}, distances assumed"),
        table => format!("{source}, distances by {table}"),
    }
}

/// The allocators with their colours, where there are several.
fn legend(view: &View) -> Markup {
    html! {
        @if view.allocators().len() > 1 {
            p class="legend" {
                @for allocator in view.allocators() {
                    span { (draw::swatch(view.tone(allocator)))
                        @if view.tone(allocator) == Tone::Ours { strong { (allocator) } } @else { (allocator) } }
                }
            }
        }
    }
}

/// What others cost as multiples of ours.
fn multiples(view: &View) -> Markup {
    html! {
        @if let Some(Summary { groups, cpus, rows }) = summary(view) {
            section id="summary" {
                h2 { "Others as multiples of " (OURS) }
                p {
                    "How many times as long as with " (OURS) " the same work takes all CPUs together (instructions, where those are \
                    counted): the geometric mean over the cases both have. More than 1 is slower."
                }
                div class="scroll" tabindex="0" {
                    table class="figures" {
                        thead {
                            tr {
                                th class="name" rowspan="2" scope="col" { "allocator" }
                                @for group in &groups { th class="group" colspan=(cpus.len()) scope="colgroup" { (group) } }
                            }
                            tr { @for _ in &groups { @for cpus in &cpus { th scope="col" { (count((*cpus).into(), "CPU")) } } } }
                        }
                        tbody {
                            @for (allocator, factors) in &rows {
                                tr {
                                    td class="name" { (draw::swatch(view.tone(allocator))) " " (allocator) }
                                    @for factor in factors {
                                        td { @if let Some(factor) = factor { (figure(*factor)) "×" } }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn section(part: Part, panels: &[Panel]) -> Markup {
    let (front, back): (Vec<&Panel>, Vec<&Panel>) = panels.iter().partition(|panel| panel.front);
    html! {
        @if !panels.is_empty() {
            section id=(part.name()) {
                h2 { (part.heading()) }
                p { (part.introduction()) }
                (grid(&front))
                @if !back.is_empty() {
                    details {
                        summary { (count(back.len() as u64, "more picture")) }
                        (grid(&back))
                    }
                }
            }
        }
    }
}

fn grid(panels: &[&Panel]) -> Markup {
    html! { div class="grid" { @for panel in panels { figure { (draw::inline(panel)) } } } }
}

/// Tables by groups of workloads; those the catalogue does not know come last.
fn figures(tables: &[Table]) -> Markup {
    let mut groups: BTreeMap<usize, Vec<&Table>> = BTreeMap::new();
    for table in tables {
        let group = catalogue::workload(table.workload).map(|workload| workload.group);
        let place = group.and_then(|group| catalogue::Group::ALL.iter().position(|one| *one == group));
        groups.entry(place.unwrap_or(catalogue::Group::ALL.len())).or_default().push(table);
    }
    let name = |place: usize| catalogue::Group::ALL.get(place).map_or("other", |group| group.name());
    html! {
        section id="figures" {
            h2 { "All figures" }
            p { "The empty loop is in every time of an operation; the clock is in every time of a call." }
            @for (place, tables) in groups {
                h3 { (name(place)) }
                @for table in tables { (figure_table(table)) }
            }
        }
    }
}

fn figure_table(table: &Table) -> Markup {
    let errors = table.rows.iter().filter(|row| row.wrong).count();
    html! {
        details open[table.rows.len() <= 12 || errors > 0] {
            summary {
                strong { (table.workload) } " \u{2013} " (describe(table.workload)) " "
                small { (count(table.rows.len() as u64, "row")) }
                @if errors > 0 { " " strong class="wrong" { (count(errors as u64, "row")) " with errors" } }
            }
            div class="scroll tall" tabindex="0" {
                table class="figures" {
                    thead { tr {
                        @for (at, (title, unit)) in table.headings.iter().enumerate() {
                            @let names = table.rows.first().map_or(0, |row| row.names.len());
                            th scope="col" class=[(at < names).then_some("name")] {
                                (title) @if !unit.is_empty() { br; small { (unit) } }
                            }
                        }
                    } }
                    tbody {
                        @for row in &table.rows {
                            tr class=[row_class(row)] {
                                @for name in &row.names { td class="name" { (name) } }
                                @for cell in &row.cells { td { (cell) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

const fn row_class(row: &TableRow) -> Option<&'static str> {
    match (row.wrong, row.ours) {
        (true, _) => Some("wrong"),
        (false, true) => Some("ours"),
        (false, false) => None,
    }
}

/// Where all memory was when the work was done.
fn memory(sources: &[Source]) -> Markup {
    let statistics: Vec<(&Source, &Statistics)> =
        sources.iter().filter_map(|source| Some((source, source.runs.last()?.statistics.as_ref()?))).collect();
    html! {
        @if !statistics.is_empty() {
            section id="statistics" {
                h2 { "Where memory was at the end" }
                @for (source, statistics) in statistics {
                    @if sources.len() > 1 { h3 { (source.label) } }
                    div class="scroll" tabindex="0" {
                        table class="figures" {
                            thead { tr { th scope="col" class="name" { "row" } th scope="col" { "memory" } th scope="col" { "share" } } }
                            tbody {
                                @for row in &statistics.rows {
                                    tr {
                                        td class="name" { (row.name.replace('_', " ")) }
                                        td { (Size(row.bytes).for_people()) }
                                        td { (significant(row.bytes as f64 / statistics.total.max(1) as f64 * 100.0)) " %" }
                                    }
                                }
                                tr class="total" { td class="name" { "in all" } td { (Size(statistics.total).for_people()) }
                                    td { (agreement(statistics)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

const fn agreement(statistics: &Statistics) -> &'static str {
    match (statistics.adds_up, statistics.approximate) {
        (true, false) => "adds up",
        (_, true) => "approximate",
        (false, false) => "DOES NOT ADD UP",
    }
}
