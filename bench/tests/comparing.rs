//! Commands that read files of records again: `quarry compare` and its like, over files made here.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use quarry_record::{End, EndStatus, Footprint, Measurement, Record, Run, SCHEMA_VERSION, Summary};
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("there is room for files")
}

fn quarry(folder: &Path, words: &str) -> Output {
    let mut command = Command::new(cargo_bin!("quarry"));
    command.args(words.split_whitespace()).current_dir(folder);
    command.output().expect("the command was built")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a command prints that ends well.
fn printed(folder: &Path, words: &str) -> String {
    let output = quarry(folder, words);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// The last line of what a failing command says on standard error.
fn complaint(folder: &Path, words: &str) -> String {
    let output = quarry(folder, words);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    text(&output.stderr).lines().last().unwrap_or_default().to_owned()
}

/// A boot of pairs of 64 bytes, and of pages, that take so many nanoseconds.
fn boot(pair: f64, page: f64) -> Vec<Record> {
    let result = |workload: &str, ns: f64| {
        let samples: Vec<f64> = (0..16).map(|at| 2.0 * ns * (1.0 + 0.001 * f64::from(at % 5))).collect();
        let all = |value| Summary { min: value, median: value, p99: value, spread: 0.0 };
        let paged = workload == "page";
        Record::Result(Measurement {
            workload: workload.into(),
            allocator: "quarry".into(),
            size: (!paged).then_some(64),
            order: paged.then_some(0),
            cpus: 1,
            ops: 1000,
            ns_per_op: all(ns),
            cycles_per_op: all(2.0 * ns),
            samples,
            ..Measurement::default()
        })
    };
    let run = Run {
        schema: SCHEMA_VERSION,
        git: "440aa3b".into(),
        cpu: "a CPU".into(),
        hypervisor: "TCG".into(),
        rows: 2,
        ..Run::default()
    };
    let end = End { status: EndStatus::Ok, reason: None, errors: 0 };
    vec![Record::Run(run), result("pair", pair), result("page", page), Record::End(end)]
}

fn lines(records: &[Record]) -> String {
    records.iter().map(|record| record.to_line() + "\n").collect()
}

/// Eight boots, each a little different, in one file.
fn write_boots(file: &Path, pair: f64, page: f64) {
    let one = |at: u32| lines(&boot(pair * (1.0 + 0.001 * f64::from(at)), page * (1.0 + 0.002 * f64::from(at % 3))));
    fs::write(file, (0..8).map(one).collect::<String>()).expect("there is room for files");
}

#[test]
fn a_slowdown_is_found_and_can_fail_a_build() {
    let folder = folder();
    write_boots(&folder.path().join("old.jsonl"), 100.0, 50.0);
    write_boots(&folder.path().join("new.jsonl"), 105.0, 50.01);
    let table = printed(folder.path(), "compare old.jsonl new.jsonl");
    insta::assert_snapshot!(table, @"
    old  440aa3b, 8 boots
    new  440aa3b, 8 boots

    pair (quarry): one kmalloc and its kfree, over and over; an operation is the pair
    ╭──────┬──────┬─────────┬─────┬────────┬──────────────────┬────────┬─────┬────────╮
    │ size │ CPUs │ old, ns │ new │ change │    95 % interval │      p │   n │        │
    ├──────┼──────┼─────────┼─────┼────────┼──────────────────┼────────┼─────┼────────┤
    │ 64 B │    1 │     101 │ 106 │ +5.0 % │ +4.7 % to +5.3 % │ <0.001 │ 8+8 │ slower │
    ╰──────┴──────┴─────────┴─────┴────────┴──────────────────┴────────┴─────┴────────╯

    page (quarry): one alloc_pages and its free_pages, over and over; order n is 2^n pages of 4 KiB
    ╭─────────────────┬──────┬─────────┬──────┬────────┬──────────────────┬───────┬─────┬───╮
    │ size            │ CPUs │ old, ns │  new │ change │    95 % interval │     p │   n │   │
    ├─────────────────┼──────┼─────────┼──────┼────────┼──────────────────┼───────┼─────┼───┤
    │ order 0 (4 KiB) │    1 │    50.2 │ 50.2 │  0.0 % │ -0.2 % to +0.2 % │ 0.255 │ 8+8 │ ~ │
    ╰─────────────────┴──────┴─────────┴──────┴────────┴──────────────────┴───────┴─────┴───╯

    Geometric means of new / old
    ╭───────────┬───────┬────────┬───────┬────────┬────────╮
    │ allocator │ group │ change │ cases │ slower │ faster │
    ├───────────┼───────┼────────┼───────┼────────┼────────┤
    │ quarry    │ slab  │ +5.0 % │     1 │      1 │      0 │
    │ quarry    │ page  │  0.0 % │     1 │      0 │      0 │
    │ quarry    │ all   │ +2.5 % │     2 │      1 │      0 │
    ╰───────────┴───────┴────────┴───────┴────────┴────────╯

    ~ is a difference that the rank test (false discoveries over 2 cases at 5 %) or the noise floor takes for noise.
    ");
    let complaint = complaint(folder.path(), "compare old.jsonl new.jsonl --fail-on 3%");
    insta::assert_snapshot!(complaint, @"quarry: 1 case got worse by more than 3 %: quarry: pair 64 B on 1 CPU by +5.0 % (101 to 106 ns)");
    assert_eq!(printed(folder.path(), "compare old.jsonl new.jsonl --fail-on 6%"), table);
    assert_eq!(printed(folder.path(), "compare old.jsonl old.jsonl --fail-on 0").matches("slower").count(), 1);
}

#[test]
fn a_side_may_be_a_file_several_files_or_a_folder() {
    let folder = folder();
    let sides = folder.path().join("sides");
    fs::create_dir(&sides).expect("there is room for files");
    let mut all = String::new();
    for at in 0..6 {
        let records = lines(&boot(100.0 + f64::from(at), 50.0));
        fs::write(sides.join(format!("{at}.jsonl")), &records).expect("there is room for files");
        all += &records;
    }
    fs::write(sides.join("notes.txt"), "not records").expect("there is room for files");
    fs::write(folder.path().join("all.jsonl"), all).expect("there is room for files");
    let by_folder = printed(folder.path(), "compare sides all.jsonl");
    assert!(by_folder.starts_with("old  440aa3b, 6 boots\nnew  440aa3b, 6 boots\n"), "{by_folder}");
    let files = "--old sides/0.jsonl sides/1.jsonl sides/2.jsonl --old sides/3.jsonl sides/4.jsonl sides/5.jsonl";
    assert_eq!(printed(folder.path(), &format!("compare {files} --new all.jsonl")), by_folder);
}

#[test]
fn noise_is_measured_from_files_and_taken_by_a_comparison() {
    let folder = folder();
    // Pairs grow slower and slower, pages do not.
    let one = |at: u32| lines(&boot(100.0 + f64::from(at), 50.0));
    let halves = [(0..8).map(one).collect::<String>(), (8..16).map(one).collect()];
    for (name, half) in ["old.jsonl", "new.jsonl"].into_iter().zip(&halves) {
        fs::write(folder.path().join(name), half).expect("there is room for files");
    }
    let told = printed(folder.path(), "noise --from old.jsonl new.jsonl --output kept/noise.json");
    assert!(told.starts_with("The same build, 440aa3b, on both sides: 8 boots each, 2 cases\n"), "{told}");
    assert!(told.ends_with("kept in kept/noise.json: `quarry compare --noise` takes it\n"), "{told}");
    let slower = |words: &str| {
        let compared = printed(folder.path(), &format!("compare old.jsonl new.jsonl {words}"));
        // One more stands above the means.
        compared.matches("slower").count() - 1
    };
    assert_eq!([slower(""), slower("--noise kept/noise.json")], [1, 0]);
    fs::write(folder.path().join("two.jsonl"), lines(&boot(1.0, 1.0)).repeat(2)).expect("there is room for files");
    let complaints = [
        complaint(folder.path(), "noise --from two.jsonl"),
        complaint(folder.path(), "noise --from old.jsonl --metric instructions"),
        complaint(folder.path(), "noise --from old.jsonl --metric p99"),
        complaint(folder.path(), "compare old.jsonl new.jsonl --metric throughput --noise kept/noise.json"),
    ];
    insta::assert_snapshot!(complaints.join("\n"), @"
    quarry: 2 boots do not tell how boots differ; that takes 4 at least
    quarry: counted instructions have no noise: `quarry compare` takes any difference for one
    quarry: no case has p99 in ns in every boot
    quarry: kept/noise.json is the noise of ns, not of million ops/s
    ");
}

#[test]
fn different_machines_are_warned_of() {
    let folder = folder();
    write_boots(&folder.path().join("old.jsonl"), 100.0, 50.0);
    let text = fs::read_to_string(folder.path().join("old.jsonl")).expect("it was written");
    fs::write(folder.path().join("new.jsonl"), text.replace("a CPU", "another CPU")).expect("there is room for files");
    let output = quarry(folder.path(), "compare old.jsonl new.jsonl");
    assert!(output.status.success());
    let warnings = String::from_utf8_lossy(&output.stderr).into_owned();
    insta::assert_snapshot!(warnings, @"warning: different machines: CPU: old a CPU, new another CPU");
}

/// A boot that counts instructions on one CPU.
fn counted(pair: f64, page: f64) -> String {
    let mut records = boot(pair, page);
    for record in &mut records {
        match record {
            Record::Run(run) => (run.icount, run.cpus_online) = (true, 1),
            Record::Result(result) => {
                // Samples of a boot are of 2 cycles a nanosecond.
                result.samples = vec![result.samples[0] / 2.0; 5];
                result.instructions_per_op = Some(result.ns_per_op);
            }
            _ => {}
        }
    }
    lines(&records)
}

#[test]
fn instructions_are_held_against_a_budget() {
    let folder = folder();
    let file = |name: &str, content: &str| {
        fs::write(folder.path().join(name), content).expect("there is room for files");
    };
    file("then.jsonl", &counted(59.0031, 128.0));
    file("longer.jsonl", &counted(61.0031, 128.0));
    file("shorter.jsonl", &counted(50.0, 128.0));
    file("budget.toml", "# Ours.\nworkloads = ['pair', 'page']\n");
    printed(folder.path(), "budget --budget budget.toml --update --from then.jsonl");
    let budget = fs::read_to_string(folder.path().join("budget.toml")).expect("it was written");
    insta::assert_snapshot!(budget, @r#"
    # Ours.
    workloads = ['pair', 'page']

    [instructions]
    "pair 64 B" = 59.01
    "page order 0 (4 KiB)" = 128.0
    "#);
    let table = printed(folder.path(), "budget --budget budget.toml --from then.jsonl");
    let shorter = printed(folder.path(), "budget --budget budget.toml --from shorter.jsonl");
    insta::assert_snapshot!([table, shorter].concat(), @"
    ╭──────────────────────┬────────┬──────────┬────────────┬──╮
    │ instructions of      │ budget │ measured │ difference │  │
    ├──────────────────────┼────────┼──────────┼────────────┼──┤
    │ pair 64 B            │  59.01 │  59.0031 │    -0.0069 │  │
    │ page order 0 (4 KiB) │    128 │      128 │    +0.0000 │  │
    ╰──────────────────────┴────────┴──────────┴────────────┴──╯
    ╭──────────────────────┬────────┬──────────┬────────────┬────────────╮
    │ instructions of      │ budget │ measured │ difference │            │
    ├──────────────────────┼────────┼──────────┼────────────┼────────────┤
    │ pair 64 B            │  59.01 │       50 │    -9.0100 │ well under │
    │ page order 0 (4 KiB) │    128 │      128 │    +0.0000 │            │
    ╰──────────────────────┴────────┴──────────┴────────────┴────────────╯
    pair 64 B is well under its budget: tighten it (`quarry budget --update`)
    ");
    file("more.toml", &(budget + "'mix' = 99\n"));
    file("time.jsonl", &lines(&boot(59.0, 128.0)));
    file("broken.toml", "workloads = 3");
    let complaints = [
        complaint(folder.path(), "budget --budget budget.toml --from longer.jsonl"),
        complaint(folder.path(), "budget --budget more.toml --from then.jsonl"),
        complaint(folder.path(), "budget --budget budget.toml --from time.jsonl"),
        complaint(folder.path(), "budget --budget nothing.toml --from then.jsonl"),
        text(&quarry(folder.path(), "budget --budget broken.toml --from then.jsonl").stderr),
    ];
    insta::assert_snapshot!(complaints.join("\n"), @"
    quarry: over the instruction budget of budget.toml: pair 64 B may take 59.01, takes 61.0031 (+1.9931). If that is worth it: quarry budget --update
    quarry: in more.toml, but not measured: mix
    quarry: a budget is of instructions on one CPU: measure with `quarry run --icount --cpus 1`
    quarry: cannot read nothing.toml: No such file or directory (os error 2)
    quarry: broken.toml is no budget file: TOML parse error at line 1, column 13
        |
      1 | workloads = 3
        |             ^
      invalid type: integer `3`, expected a sequence
    ");
}

#[test]
fn counted_instructions_are_compared_exactly() {
    let folder = folder();
    fs::write(folder.path().join("old.jsonl"), counted(59.0031, 128.0)).expect("there is room for files");
    fs::write(folder.path().join("new.jsonl"), counted(59.0032, 128.0)).expect("there is room for files");
    let complaint = complaint(folder.path(), "compare old.jsonl new.jsonl --fail-on 0%");
    insta::assert_snapshot!(complaint, @"quarry: 1 case got worse by more than 0 %: quarry: pair 64 B on 1 CPU by 0.0 % (59.0031 to 59.0032 instructions)");
    printed(folder.path(), "compare old.jsonl old.jsonl --fail-on 0%");
}

#[test]
fn memory_held_for_a_byte_is_compared_whatever_the_clock_counts() {
    let folder = folder();
    // Boots of pairs alone that were weighed.
    let write = |name: &str, held: u64| {
        let boots = (0..4).map(|at| {
            let mut records = boot(100.0, 50.0);
            if let Record::Result(result) = &mut records[1] {
                result.footprint = Some(Footprint { peak_live: 1000, peak_held: held + at, end_held: 0 });
            }
            lines(&records).replace("\"icount\":false", "\"icount\":true")
        });
        fs::write(folder.path().join(name), boots.collect::<String>()).expect("there is room for files");
    };
    write("old.jsonl", 1100);
    write("new.jsonl", 1200);
    let compared = printed(folder.path(), "compare old.jsonl new.jsonl --metric held");
    let row = compared.lines().find(|line| line.contains("64 B")).expect("pairs were weighed on both sides");
    insta::assert_snapshot!(row, @"│ 64 B │    1 │                   1.10 │ 1.20 │ +9.1 % │ +8.8 % to +9.4 % │ 0.029 │ 4+4 │ more │");
    let less = printed(folder.path(), "compare new.jsonl old.jsonl --metric held");
    assert!(less.lines().any(|line| line.contains("64 B") && line.contains(" less ")), "{less}");
    assert!(!compared.contains("order 0"), "pages were not weighed: {compared}");
}

#[test]
fn hand_overs_are_exported_where_there_are_any() {
    let folder = folder();
    let mut records = boot(59.0, 128.0);
    if let Record::Result(pair) = &mut records[1] {
        (pair.cpus, pair.hand_overs) = (2, Some(31));
    }
    fs::write(folder.path().join("runs.jsonl"), lines(&records)).expect("there is room for files");
    let csv = printed(folder.path(), "export runs.jsonl --format csv");
    let ends: Vec<&str> = csv.lines().filter_map(|line| line.rsplit(',').nth(3)).collect();
    assert_eq!(ends, ["hand_overs", "31", ""]);
    let markdown = printed(folder.path(), "export runs.jsonl --format markdown");
    let tables: Vec<&str> = markdown.lines().filter(|line| line.starts_with('|')).collect();
    insta::assert_snapshot!(tables.join("\n"), @"
    | size | part | CPUs |   ns | from |   to | hand-overs, % |
    |------|------|------|------|------|------|---------------|
    | 64 B |      |    2 | 59.1 | 59.0 | 59.2 |          3.10 |
    | size            | part | CPUs |  ns | from |  to |
    |-----------------|------|------|-----|------|-----|
    | order 0 (4 KiB) |      |    1 | 128 |  128 | 129 |
    ");
}

#[test]
fn runs_are_exported_for_other_programs() {
    let folder = folder();
    let boots = [lines(&boot(100.0, 50.0)), lines(&boot(104.0, 50.2)), lines(&boot(101.0, 50.1))];
    fs::write(folder.path().join("runs.jsonl"), boots.concat()).expect("there is room for files");
    fs::write(folder.path().join("counted.jsonl"), counted(59.0031, 128.0)).expect("there is room for files");
    let export = |words: &str| printed(folder.path(), &format!("export {words}"));
    insta::assert_snapshot!(export("runs.jsonl --format csv"), @"
    boot,git,accelerator,allocator,workload,size,order,variant,phase,cpus,operations,ns_min,ns_median,ns_p99,ns_spread,ns_empty_loop,cycles_median,instructions_median,ops_per_second_median,fairness,latency_p50_ns,latency_p99_ns,latency_worst_ns,peak_live_bytes,peak_held_bytes,end_held_bytes,hand_overs,zone_locks_per_million,depot_locks_per_million,errors
    1,440aa3b,,quarry,pair,64,,,,1,1000,100.0,100.0,100.0,0.0,0.0,200.0,,,,,,,,,,,,,0
    1,440aa3b,,quarry,page,,0,,,1,1000,50.0,50.0,50.0,0.0,0.0,100.0,,,,,,,,,,,,,0
    2,440aa3b,,quarry,pair,64,,,,1,1000,104.0,104.0,104.0,0.0,0.0,208.0,,,,,,,,,,,,,0
    2,440aa3b,,quarry,page,,0,,,1,1000,50.2,50.2,50.2,0.0,0.0,100.4,,,,,,,,,,,,,0
    3,440aa3b,,quarry,pair,64,,,,1,1000,101.0,101.0,101.0,0.0,0.0,202.0,,,,,,,,,,,,,0
    3,440aa3b,,quarry,page,,0,,,1,1000,50.1,50.1,50.1,0.0,0.0,100.2,,,,,,,,,,,,,0
    ");
    insta::assert_snapshot!(export("runs.jsonl --format markdown"), @"
    3 boots of 440aa3b on a CPU, TCG.

    ### pair (quarry)

    one kmalloc and its kfree, over and over; an operation is the pair.

    | size | part | CPUs |  ns | from |  to |
    |------|------|------|-----|------|-----|
    | 64 B |      |    1 | 101 |  100 | 104 |

    ### page (quarry)

    one alloc_pages and its free_pages, over and over; order n is 2^n pages of 4 KiB.

    | size            | part | CPUs |   ns | from |   to |
    |-----------------|------|------|------|------|------|
    | order 0 (4 KiB) |      |    1 | 50.2 | 50.1 | 50.3 |
    ");
    let github = export("counted.jsonl --format github-benchmark");
    insta::assert_snapshot!(github, @r#"
    [
      {
        "name": "quarry: pair 64 B on 1 CPU",
        "unit": "instructions/op",
        "value": 59.0031,
        "range": "± 0",
        "extra": "1 boot of 440aa3b on a CPU, TCG"
      },
      {
        "name": "quarry: page order 0 (4 KiB) on 1 CPU",
        "unit": "instructions/op",
        "value": 128.0,
        "range": "± 0",
        "extra": "1 boot of 440aa3b on a CPU, TCG"
      }
    ]
    "#);
    assert_eq!(export("counted.jsonl --format github-benchmark --output kept.json"), "");
    assert_eq!(fs::read_to_string(folder.path().join("kept.json")).expect("it was written"), github);
    let of_boots = export("runs.jsonl --format github-benchmark --metric ns");
    let entries: serde_json::Value = serde_json::from_str(&of_boots).expect("it is JSON");
    assert_eq!((&entries[0]["unit"], &entries[0]["range"]), (&"ns/op".into(), &"± 2.00".into()));
    let complaints = [
        complaint(folder.path(), "export runs.jsonl --format markdown --metric p99"),
        complaint(folder.path(), "export nothing.jsonl --format csv"),
        complaint(folder.path(), "export runs.jsonl --format csv --output no/folder"),
    ];
    insta::assert_snapshot!(complaints.join("\n"), @"
    quarry: no case has p99 in ns
    quarry: cannot read nothing.jsonl: No such file or directory (os error 2)
    quarry: cannot write no/folder: No such file or directory (os error 2)
    ");
}

#[test]
fn what_cannot_be_compared_is_told_in_a_sentence() {
    let folder = folder();
    let file =
        |name: &str, content: &str| fs::write(folder.path().join(name), content).expect("there is room for files");
    let whole = boot(100.0, 50.0);
    file("whole.jsonl", &lines(&whole));
    file("empty.jsonl", "");
    file("no-run.jsonl", &lines(&whole[1..]));
    file("no-end.jsonl", &(lines(&whole) + &lines(&whole[..3])));
    file("no-results.jsonl", &(lines(&whole[..1]) + &lines(&whole[3..])).replace("\"rows\":2", "\"rows\":0"));
    file("errors.jsonl", &lines(&whole).replacen("\"errors\":0", "\"errors\":3", 1));
    file("counted.jsonl", &lines(&whole).replace("\"icount\":false", "\"icount\":true"));
    file("noise.json", "{}");
    fs::create_dir(folder.path().join("nothing")).expect("there is room for files");
    let news = ["nothing.jsonl", "nothing", "empty.jsonl", "no-run.jsonl", "no-end.jsonl", "no-results.jsonl"];
    let more = [
        "errors.jsonl",
        "counted.jsonl",
        "whole.jsonl --metric p99",
        "whole.jsonl --metric instructions",
        "counted.jsonl --metric throughput",
        "whole.jsonl --noise noise.json",
        "whole.jsonl --noise nothing.json",
    ];
    let complaints: Vec<String> =
        news.iter().chain(&more).map(|new| complaint(folder.path(), &format!("compare whole.jsonl {new}"))).collect();
    insta::assert_snapshot!(complaints.join("\n"), @"
    quarry: cannot read nothing.jsonl: No such file or directory (os error 2)
    quarry: the folder nothing has no .jsonl file
    quarry: empty.jsonl has no `run` record
    quarry: no-run.jsonl is no file of records: line 1 of the guest's output is a `result` record before its `run` record
    quarry: run 2 of no-end.jsonl has no `end` record: that run did not come to its end
    quarry: no-results.jsonl has no results
    quarry: errors.jsonl cannot be used: the guest counted 3 errors
    quarry: one side counts instructions and the other measures time: they do not compare
    quarry: no case has p99 in ns on both sides
    quarry: instructions are counted by runs with --icount, and not all of these are
    quarry: a run with --icount counts instructions and has no times to compare
    quarry: noise.json is no noise floor; `quarry noise --output FILE` writes one: missing field `schema` at line 1 column 2
    quarry: cannot read nothing.json: No such file or directory (os error 2)
    ");
    for words in ["compare", "compare whole.jsonl", "compare a b --old c", "compare a b --fail-on much"] {
        assert_eq!(quarry(folder.path(), words).status.code(), Some(2), "{words}");
    }
}
