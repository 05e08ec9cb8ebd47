//! The page of small files of figures: what is met, missed, and not measured.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use quarry_record::{
    End, EndStatus, Footprint, Latency, Measurement, Record, Run, SCHEMA_VERSION, Statistics, StatisticsRow, Summary,
};

use super::page::{Page, page};
use super::sources::{Stamp, Startup, read};
use super::targets::{Kind, Targets};

const TARGETS: &str = r#"
introduction = "What is claimed."

[linux]
from = "linux"
recorded = "Measured before."

[[source]]
name = "counts"
command = "quarry run --icount --cpus 1"

[[source]]
name = "linux"
command = "quarry linux --icount --cpus 1"

[[source]]
name = "hosted"
kind = "peers"
command = "cargo bench"

[[source]]
name = "startup"
kind = "startup"
command = "quarry performance --measure startup"
boots = { default = "--cpus 4" }
images = ["hello"]

[[section]]
title = "Instructions"
text = "Of an operation."
from = "counts"

[[section.row]]
what = "pair"
at_most = 48
count = [{ workload = "pair", size = 64 }]
linux = 271

[[section.row]]
what = "batch, both"
at_most = 60
count = [{ workload = "batch", size = 64, phase = "allocate" }, { workload = "batch", size = 64, phase = "free" }]
linux = 418
why = "Both calls are long."

[[section.row]]
what = "bulk"
at_most = 26
count = [{ workload = "bulk", size = 64, variant = "bulk 16" }]

[[section.row]]
what = "pair, 1 to 16 CPUs"
at_most = 1.1
growth = { cases = [{ workload = "pair", size = 64 }], to = 16 }

[[section.row]]
what = "pair, in a machine of its own"
at_most = 1.1
over = { cases = [{ workload = "pair", size = 64 }], source = "counts" }

[[section.row]]
what = "metadata"
at_most = 0.4
share = "metadata"

[[section.row]]
what = "held for a byte of pairs"
at_most = 1.2
held = { workload = "pair", size = 64 }

[[section.row]]
what = "the longest calls"
latency = { case = { workload = "pair", size = 64 }, percentile = "p99.99" }

[[section.row]]
what = "a large mix"
at_most = 1
unmeasured = "nobody has it."

[[section]]
title = "Time"
text = "Of the best peer."
from = "hosted"

[[section.row]]
what = "pair"
at_most = 0.8
ratio = [{ workload = "pair", size = 64 }]

[[section.row]]
what = "pair, beside the system's"
at_most = 0.8
ratio = [{ workload = "pair", size = 64 }]
beside = ["system"]

[[section]]
title = "Start"
text = "Of QEMU."
from = "startup"

[[section.row]]
what = "boot"
at_most = 150
boot = "default"

[[section.row]]
what = "image"
at_most = 400
image = "hello"
"#;

fn targets() -> Targets {
    Targets::parse(TARGETS).expect("they are targets")
}

/// A row of results, whose samples are this figure.
fn result(allocator: &str, workload: &str, part: Option<&str>, cpus: u32, figure: f64) -> Measurement {
    let summary = Summary { median: figure, ..Summary::default() };
    Measurement {
        allocator: allocator.into(),
        workload: workload.into(),
        size: Some(64),
        phase: part.filter(|part| !part.starts_with("bulk")).map(str::to_owned),
        variant: part.filter(|part| part.starts_with("bulk")).map(str::to_owned),
        cpus,
        ns_per_op: summary,
        cycles_per_op: summary,
        instructions_per_op: Some(summary),
        samples: vec![figure],
        ..Measurement::default()
    }
}

/// Of calls, the longest of which are these.
fn latency(p99_99: f64) -> Latency {
    Latency { p99_99, ..Latency::default() }
}

/// For 1,000 live bytes.
fn held(bytes: u64) -> Footprint {
    Footprint { peak_live: 1_000, peak_held: bytes, end_held: 0 }
}

/// A run's file.
fn records(folder: &Path, targets: &Targets, source: &str, results: Vec<Measurement>, statistics: Option<Statistics>) {
    let run =
        Run { schema: SCHEMA_VERSION, icount: true, cpus_online: 1, rows: results.len() as u64, ..Run::default() };
    let errors = results.iter().map(|result| result.errors).sum();
    let end = End { status: EndStatus::Ok, reason: None, errors };
    let lines = [Record::Run(run)].into_iter().chain(results.into_iter().map(Record::Result));
    let lines = lines.chain(statistics.map(Record::Statistics)).chain([Record::End(end)]);
    let text: Vec<String> = lines.map(|record| record.to_line()).collect();
    write(folder, targets, source, &(text.join("\n") + "\n"));
}

fn write(folder: &Path, targets: &Targets, source: &str, text: &str) {
    let source = targets.sources.iter().find(|one| one.name == source).expect("it is a source");
    let stamp = Stamp {
        date: "2026-02-03".into(),
        cpu: "A CPU".into(),
        qemu: "7.2.22".into(),
        rustc: "1.95.0 (59807616e 2026-04-14)".into(),
        revision: "440aa3b".into(),
    };
    fs::write(source.file(folder), text).expect("the folder is ours");
    let stamp_text = serde_json::to_string(&stamp).expect("it is texts");
    fs::write(source.stamp(folder), stamp_text).expect("the folder is ours");
}

fn counts(folder: &Path, targets: &Targets) {
    let results = vec![
        // As the loop's surroundings leave it: a hundredth more than 48.
        Measurement {
            latency: Some(latency(1200.0)),
            footprint: Some(held(1_204)),
            ..result("quarry", "pair", None, 1, 48.0036)
        },
        result("quarry", "pair", None, 16, 60.0),
        Measurement { latency: Some(latency(90_000.0)), ..result("talc", "pair", None, 1, 240.0) },
        Measurement { footprint: Some(held(1_304)), ..result("rlsf", "pair", None, 1, 96.5) },
        result("quarry", "batch", Some("allocate"), 1, 31.8),
        result("quarry", "batch", Some("free"), 1, 42.3),
        // Did half of it.
        result("talc", "batch", Some("allocate"), 1, 200.0),
        Measurement { errors: 1, ..result("quarry", "bulk", Some("bulk 16"), 1, 20.0) },
    ];
    let row = |name: &str, bytes| StatisticsRow { name: name.into(), bytes };
    let rows = vec![row("free", 499_000), row("deferred", 500_000), row("metadata", 1_000)];
    let statistics = Statistics { total: 1_000_000, rows, adds_up: true, approximate: false };
    records(folder, targets, "counts", results, Some(statistics));
}

fn page_of(folder: &Path, targets: &Targets) -> Page {
    page(targets, &read(targets, folder).expect("the files are right"))
}

#[test]
fn a_page_says_what_is_met_missed_and_not_measured() {
    let (folder, targets) = (tempfile::tempdir().expect("there is a temporary folder"), targets());
    let folder = folder.path();
    counts(folder, &targets);
    records(folder, &targets, "linux", vec![result("linux-6.1-slub", "pair", None, 1, 270.4)], None);
    let peers = ["quarry", "mimalloc", "system"].into_iter().zip([6.0, 8.0, 12.0]);
    let peers: Vec<Measurement> = peers.map(|(name, ns)| result(name, "pair", None, 1, ns)).collect();
    let document = serde_json::json!({ "schema": 1, "results": peers }).to_string();
    write(folder, &targets, "hosted", &document);
    let startup = Startup {
        boots: BTreeMap::from([("default".into(), vec![90.0, 200.0, 100.2])]),
        images: BTreeMap::from([("hello".into(), 300 << 10)]),
    };
    write(folder, &targets, "startup", &serde_json::to_string(&startup).expect("it is numbers"));
    let page = page_of(folder, &targets);
    insta::assert_snapshot!(page.text);
    assert_eq!(page.complaints, ["`pair, 1 to 16 CPUs` misses its target, and no `why` says why"]);
}

#[test]
fn without_sources_nothing_is_claimed() {
    let (folder, targets) = (tempfile::tempdir().expect("there is a temporary folder"), targets());
    let page = page_of(folder.path(), &targets);
    insta::assert_snapshot!(page.text);
    assert!(page.complaints.is_empty());
}

#[test]
fn one_source_more_changes_its_own_rows_alone() {
    let (folder, targets) = (tempfile::tempdir().expect("there is a temporary folder"), targets());
    let before = page_of(folder.path(), &targets).text;
    counts(folder.path(), &targets);
    let after = page_of(folder.path(), &targets).text;
    let below = |text: &str| text.split_once("## Time").expect("it is the second table").1.to_owned();
    assert_eq!(below(&before), below(&after));
    assert!(before.contains("| pair | 48 | not measured | 271 \\* | not measured | not measured |"), "{before}");
    assert!(after.contains("| pair | 48 | 48.0 | 271 \\* | yes | rlsf 96.5, talc 240 |"), "{after}");
}

#[test]
fn targets_that_cannot_be_are_told() {
    let refusal = |from: &str, to: &str| {
        assert!(TARGETS.contains(from));
        format!("{:#}", Targets::parse(&TARGETS.replace(from, to)).expect_err("they are wrong"))
    };
    let refusals = [
        refusal("from = \"hosted\"", "from = \"guessed\""),
        refusal("image = \"hello\"", ""),
        refusal("image = \"hello\"", "image = \"hello\"\nboot = \"default\""),
        refusal("at_most = 400", "at_least = 400"),
        refusal("at_most = 400\n", ""),
        refusal("source = \"counts\"", "source = \"minix\""),
        refusal("image = \"hello\"", "image = \"hello\"\nbeside = [\"system\"]"),
    ];
    insta::assert_snapshot!(refusals.join("\n"));
    let unknown = targets().sources_named(&["counts".into(), "guesses".into()]).expect_err("there is none").to_string();
    assert_eq!(unknown, "there is no source `guesses` to measure; choose from all, counts, linux, hosted, startup");
}

#[test]
fn the_targets_of_this_source_can_be_read() {
    let targets = Targets::read(&crate::images::workspace().join("ci/targets.toml")).expect("they are right");
    let startup = targets.sources.iter().find(|source| source.kind == Kind::Startup).expect("boots are timed");
    assert!(startup.boots.contains_key("default"));
    assert_eq!(targets.sources_named(&["all".into()]).expect("all are there").len(), targets.sources.len());
}
