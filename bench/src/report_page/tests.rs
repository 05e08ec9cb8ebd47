//! Whole reports of records made by hand and at random: what is in the page, and what is not.

use std::fmt::Write;

use proptest::prelude::*;
use quarry_record::{End, EndStatus, Footprint, Latency, Measurement, Node, Record, Run, Series, Summary, Topology};

use super::draw;
use super::page::page;
use super::parts::Part;
use super::sources::{Source, View};
use super::summary;
use super::{file_name, overview, singles};
use crate::session::Session;
use clap::ValueEnum;

fn source(label: &str, results: Vec<Measurement>) -> Source {
    let topology = Topology {
        nodes: vec![Node::default(), Node { id: 1, ..Node::default() }],
        distances: vec![vec![10, 20], vec![20, 10]],
        source: "SRAT".into(),
        distance_source: "SLIT".into(),
    };
    let mut session = Session::default();
    session.run = Some(Run { git: "0123abc".into(), cpu: "A CPU".into(), seed: 7, topology, ..Run::default() });
    session.end = Some(End { status: EndStatus::Ok, reason: None, errors: results.iter().map(|row| row.errors).sum() });
    session.results = results;
    Source { label: label.into(), runs: vec![session] }
}

fn row(workload: &str, allocator: &str, size: u64, cpus: u32, median: f64) -> Measurement {
    let summary = |median: f64| Summary { min: median, median, p99: median, spread: 0.0 };
    Measurement {
        workload: workload.into(),
        allocator: allocator.into(),
        size: Some(size),
        cpus,
        ops: 1000,
        ns_per_op: summary(median),
        cycles_per_op: summary(2.0 * median),
        samples: vec![2.0 * median],
        ops_per_second: Some(summary(f64::from(cpus) * 1e9 / median)),
        ..Measurement::default()
    }
}

/// Something for every part.
fn everything() -> Vec<Measurement> {
    let latency = Latency { calls: 100, clock: 5.0, buckets: vec![(10.0, 99), (500.0, 1)], ..Latency::default() };
    let footprint = Footprint { peak_live: 1000, peak_held: 1100, end_held: 50 };
    let series = Series {
        name: "held".into(),
        unit: "bytes".into(),
        over: "seconds".into(),
        points: vec![(0.0, 1.0), (1.0, 4096.0)],
    };
    let mut results = Vec::new();
    for allocator in ["other", "quarry"] {
        for cpus in [1, 4] {
            results.extend([16, 64].map(|size| row("pair", allocator, size, cpus, 20.0)));
            let node =
                |variant: &str| Measurement { variant: Some(variant.into()), ..row("node", allocator, 64, cpus, 30.0) };
            results.extend(["local", "remote"].map(node));
            let (latency, footprint) = (Some(latency.clone()), Some(footprint));
            results.push(Measurement { latency, footprint, ..row("batch", allocator, 64, cpus, 25.0) });
        }
        results.push(Measurement { series: vec![series.clone()], ..row("aged", allocator, 64, 4, 50.0) });
    }
    results
}

/// The page and all files.
fn report(sources: &[Source]) -> (String, Vec<(String, String)>) {
    let view = View::latest(sources);
    let parts: Vec<_> = Part::value_variants().iter().map(|part| (*part, part.panels(sources, &view))).collect();
    let overviews = parts.iter().filter_map(|(part, panels)| overview(*part, panels));
    let files = overviews.chain(singles(&parts)).collect();
    (page(sources, &view, &parts), files)
}

/// Headings, and of each picture its title, note and curves or rows.
fn outline(sources: &[Source]) -> String {
    let view = View::latest(sources);
    let mut text = String::new();
    for part in Part::value_variants() {
        for panel in part.panels(sources, &view) {
            let shown = if panel.front { "" } else { " (on request)" };
            writeln!(text, "{}{shown}: {} | {}", part.name(), panel.title, panel.note)
                .expect("strings take everything");
        }
    }
    text
}

#[test]
fn every_part_has_its_pictures_with_one_of_each_workload_in_front() {
    insta::assert_snapshot!(outline(&[source("a", everything()), source("b", everything())]).replace('\u{202f}', " "), @"
    scaling (on request): pair, 16 B | operations a second, both axes logarithmic
    scaling: pair, 64 B | operations a second, both axes logarithmic
    scaling: node, 64 B, local | operations a second, both axes logarithmic
    scaling (on request): node, 64 B, remote | operations a second, both axes logarithmic
    scaling: batch, 64 B | operations a second, both axes logarithmic
    scaling: aged, 64 B | operations a second on 4 CPUs
    latency (on request): batch, 64 B on 1 CPU | time of a call, logarithmic; the clock alone takes 5 ns
    latency: batch, 64 B on 4 CPUs | time of a call, logarithmic; the clock alone takes 5 ns
    nodes: distances | from row to column, 10 (pale) to 20 (dark); source: SLIT
    nodes: node, 64 B on 1 CPU | time of an operation, median
    nodes (on request): node, 64 B on 4 CPUs | time of an operation, median
    memory (on request): batch, 64 B on 1 CPU | held for each live byte, of 1000 B live at most
    memory: batch, 64 B on 4 CPUs | held for each live byte, of 1000 B live at most
    series: held: aged, 64 B | bytes, on 4 CPUs
    comparison: quarry: geometric mean of each workload | all sizes and CPUs; b as a multiple of a
    comparison: quarry: pair on 1 CPU | b as a multiple of a
    comparison (on request): quarry: pair on 4 CPUs | b as a multiple of a
    comparison: quarry: node on 1 CPU | b as a multiple of a
    comparison (on request): quarry: node on 4 CPUs | b as a multiple of a
    comparison: quarry: batch | b as a multiple of a
    comparison (on request): quarry: aged | b as a multiple of a
    comparison (on request): other: geometric mean of each workload | all sizes and CPUs; b as a multiple of a
    ");
}

#[test]
fn every_figure_of_every_row_is_in_the_tables() {
    let mut results = everything();
    for (at, result) in results.iter_mut().enumerate() {
        result.ops = 777_000 + at as u64;
    }
    let operations: Vec<u64> = results.iter().map(|row| row.ops).collect();
    let (page, _) = report(&[source("a", results)]);
    for number in operations {
        assert_eq!(page.matches(&format!("<td>{number}</td>")).count(), 1, "{number}");
    }
    for part in ["call p99.9", "held at peak", "fairness"] {
        assert_eq!(page.contains(part), part != "fairness", "{part}: columns without figures are left out");
    }
}

#[test]
fn the_page_and_its_pictures_need_nothing_else() {
    let (page, files) = report(&[source("a", everything()), source("b", everything())]);
    for text in files.iter().map(|(_, text)| text).chain([&page]) {
        let text = text.replace(r#"xmlns="http://www.w3.org/2000/svg""#, "");
        for reference in ["http", "src=", "url(", "@import", "<script", "<link"] {
            assert!(!text.contains(reference), "{reference}");
        }
        assert!(text.split("href=\"").skip(1).all(|address| address.starts_with('#')));
        assert!(text.contains("prefers-color-scheme: dark"), "light and dark");
    }
}

#[test]
fn what_a_file_calls_things_stays_text() {
    let evil = "<script>alert('1')</script>&\u{0}\"../../x";
    let mut results = everything();
    for result in &mut results {
        result.workload = evil.into();
        result.allocator.push_str(evil);
        result.variant = Some(evil.into());
    }
    let mut source = source(evil, results);
    source.runs[0].run.as_mut().expect("there is one").git = evil.into();
    let (page, files) = report(&[source]);
    for text in files.iter().map(|(_, text)| text).chain([&page]) {
        assert!(!text.contains("<script") && !text.contains("x\"\""), "{text}");
    }
    assert!(page.contains("&lt;script&gt;"));
    for (name, text) in &files {
        assert!(name.chars().all(|letter| letter.is_ascii_alphanumeric() || "-.".contains(letter)), "{name}");
        assert!(!text.contains('\u{0}'), "XML has no such letter");
    }
    assert_eq!(file_name("../../etc/passwd"), "etc-passwd");
}

#[test]
fn errors_stand_before_the_figures() {
    let mut results = everything();
    results[3].errors = 2;
    results[3].refusal = Some("the CPUs hardly met".into());
    results[3].hand_overs = Some(777);
    let (page, _) = report(&[source("a", results)]);
    let alert = page.find("role=\"alert\"").expect("there is an alert");
    assert!(alert < page.find("id=\"machine\"").expect("there is a machine"));
    assert!(page.contains("a: the guest counted 2 errors."), "as a sentence");
    assert!(page.contains(": 2 errors; the CPUs hardly met."), "with the reason, where there is one");
    assert!(page.contains("<tr class=\"wrong\">"), "and in the table");
    assert!(page.contains("hand-overs") && page.contains(">777<"), "where hand-overs have a column");
    let (page, _) = report(&[source("a", everything())]);
    assert!(!page.contains("role=\"alert\""));
}

#[test]
fn a_run_without_its_end_is_reported_as_such() {
    let mut cut = source("cut", everything());
    cut.runs[0].end = None;
    let (page, _) = report(&[cut]);
    assert!(page.contains("cut: this run did not come to its end; figures may be missing."));
}

#[test]
fn files_of_different_allocators_come_together_and_of_two_builds_the_later_is_shown() {
    let ours = vec![row("pair", "quarry", 64, 1, 20.0), row("pair", "quarry", 64, 8, 20.0)];
    let others = vec![row("pair", "other", 64, 1, 30.0)];
    let later = vec![row("pair", "quarry", 64, 1, 10.0)];
    let sources = [source("a", ours), source("b", others), source("c", later)];
    let shown: Vec<(&str, u32, f64)> = View::latest(&sources)
        .rows
        .iter()
        .map(|row| (row.allocator.as_str(), row.cpus, row.ns_per_op.median))
        .collect();
    assert_eq!(shown, [("other", 1, 30.0), ("quarry", 1, 10.0)], "a curve is never of two builds");
}

#[test]
fn others_are_told_as_multiples_of_ours() {
    let mut results = vec![row("pair", "quarry", 64, 1, 20.0), row("pair", "other", 64, 1, 40.0)];
    results.extend([row("pair", "quarry", 16, 1, 10.0), row("pair", "other", 16, 1, 80.0)]);
    results.extend([
        row("pair", "other", 8, 1, 80.0),
        row("songs", "quarry", 64, 8, 10.0),
        row("songs", "other", 64, 8, 5.0),
    ]);
    let sources = [source("a", results)];
    let summary = summary::summary(&View::latest(&sources)).expect("there are two");
    assert_eq!((&summary.groups[..], &summary.cpus[..]), (&["slab", "other"][..], &[1, 8][..]));
    let (allocator, factors) = &summary.rows[0];
    let shown: Vec<String> = factors.iter().map(|factor| factor.map_or("-".into(), |it| format!("{it:.2}"))).collect();
    assert_eq!((*allocator, summary.rows.len(), shown.join(" ").as_str()), ("other", 1, "4.00 - - 0.50"));
}

#[test]
fn pictures_that_stand_alone_have_style_and_ground() {
    let sources = [source("a", everything())];
    let view = View::latest(&sources);
    let panels = Part::Scaling.panels(&sources, &view);
    let all: Vec<_> = panels.iter().collect();
    let sheet = draw::sheet(&all, 3);
    assert!(sheet.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"picture\""), "{sheet}");
    assert!(sheet.contains("class=\"paper\"") && sheet.contains("<style>") && sheet.contains(">pair, 64 B</text>"));
    assert_eq!(sheet.matches("class=\"heading\"").count(), panels.len());
}

/// Numbers as a broken or strange guest might write them.
fn number() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), Just(1.0), Just(-1.0), Just(f64::MAX), Just(f64::MIN_POSITIVE), 0.0..1e6_f64]
}

fn count() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(1), Just(64), Just(u64::MAX), 0..1_000_000_u64]
}

prop_compose! {
    fn summary()(min in number(), median in number(), p99 in number(), spread in number()) -> Summary {
        Summary { min, median, p99, spread }
    }
}

prop_compose! {
    fn latency()(
        calls in count(), (p50, p90, p99, p99_9) in (number(), number(), number(), number()),
        (p99_99, worst, clock) in (number(), number(), number()),
        buckets in proptest::collection::vec((number(), count()), 0..5),
    ) -> Latency { Latency { calls, p50, p90, p99, p99_9, p99_99, worst, clock, buckets } }
}

prop_compose! {
    fn measurement()(
        (workload, allocator) in ("(pair|node|songs)", "(quarry|other|)"), size in proptest::option::of(count()),
        order in proptest::option::of(any::<u32>()), variant in proptest::option::of("(local|far)"),
        cpus in prop_oneof![Just(0), Just(1), 1..9_u32, Just(u32::MAX)],
        (ops, errors) in (count(), 0..3_u64), (ns_per_op, cycles_per_op) in (summary().boxed(), summary().boxed()),
        (instructions_per_op, ops_per_second) in (proptest::option::of(summary().boxed()), proptest::option::of(summary().boxed())),
        samples in proptest::collection::vec(number(), 0..3), latency in proptest::option::of(latency().boxed()),
        footprint in proptest::option::of((count(), count(), count())),
        points in proptest::collection::vec((number(), number()), 0..4),
    ) -> Measurement {
        let footprint =
            footprint.map(|(peak_live, peak_held, end_held)| Footprint { peak_live, peak_held, end_held });
        let series = vec![Series { name: "held".into(), unit: "bytes".into(), over: "seconds".into(), points }];
        Measurement {
            workload, allocator, size, order, variant, cpus, ops, errors, ns_per_op, cycles_per_op, instructions_per_op,
            ops_per_second, samples, latency, footprint, series, ..Measurement::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn strange_figures_are_reported_without_a_panic_and_without_coordinates_that_are_none(
        (first, second) in (proptest::collection::vec(measurement().boxed(), 1..8), proptest::collection::vec(measurement().boxed(), 1..8)),
        distances in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..4), 0..4),
    ) {
        let mut sources = [source("a", first), source("b", second)];
        sources[0].runs[0].run.as_mut().expect("there is one").topology.distances = distances;
        let (page, files) = report(&sources);
        for text in files.iter().map(|(_, text)| text).chain([&page]) {
            prop_assert!(!text.contains("NaN") && !text.contains("\"inf") && !text.contains("\"-inf"));
        }
        for result in sources.iter().flat_map(|source| &source.runs[0].results) {
            let title = format!("<strong>{}</strong>", result.workload);
            prop_assert!(page.contains(&title));
        }
    }
}

#[test]
fn records_of_a_file_are_read_run_by_run() {
    let folder = tempfile::tempdir().expect("there is room for files");
    let file = folder.path().join("runs.jsonl");
    let run = Record::Run(Run { schema: quarry_record::SCHEMA_VERSION, rows: 1, ..Run::default() }).to_line();
    let result = Record::Result(row("pair", "quarry", 64, 1, 20.0)).to_line();
    let end = Record::End(End { status: EndStatus::Ok, reason: None, errors: 0 }).to_line();
    std::fs::write(&file, format!("{run}\n{result}\n{end}\n").repeat(2)).expect("there is room for files");
    let sources = super::sources::read(&[file]).expect("these are records");
    assert_eq!((sources[0].label.as_str(), sources[0].runs.len()), ("runs.jsonl", 2));
    assert!(super::sources::complaints(&sources).is_empty());
}

#[test]
fn bad_input_costs_one_sentence() {
    let folder = tempfile::tempdir().expect("there is room for files");
    let complaint = |text: &str| {
        let file = folder.path().join("file");
        std::fs::write(&file, text).expect("there is room for files");
        let error = super::sources::read(&[file]).expect_err("it is bad");
        format!("{error:#}").replace(&folder.path().display().to_string(), "FOLDER")
    };
    let run = Record::Run(Run { schema: quarry_record::SCHEMA_VERSION, ..Run::default() }).to_line();
    assert_eq!(complaint("a text"), "FOLDER/file has no `run` record");
    assert_eq!(complaint(&run), "FOLDER/file has no results to report; `quarry run --output` writes such files");
    let foreign = complaint("{\"type\":\"song\"}");
    assert!(
        foreign.starts_with("FOLDER/file is no file of records: line 1 of the guest's output is not a record"),
        "{foreign}"
    );
    let counted = Measurement { instructions_per_op: Some(Summary::default()), ..row("pair", "quarry", 64, 1, 20.0) };
    let both = [row("pair", "quarry", 64, 1, 20.0), counted].map(|row| Record::Result(row).to_line());
    assert_eq!(
        complaint(&format!("{run}\n{}", both.join("\n"))),
        "file counts instructions (--icount) and file measures time: report them apart, for they do not compare"
    );
    let missing = super::sources::read(&["no/such/file".into()]).expect_err("there is none");
    assert_eq!(format!("{missing:#}"), "cannot read no/such/file: No such file or directory (os error 2)");
}
