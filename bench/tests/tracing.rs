//! `quarry trace`, and traces for `quarry run`, against a QEMU that is a script (`fake-qemu`).

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use quarry_record::{End, EndStatus, Record, Run, SCHEMA_VERSION, TracePiece};
use tempfile::TempDir;

/// A folder for files.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("there is room for files");
    for file in ["loader", "image"] {
        fs::write(folder.path().join(file), "").expect("there is room for files");
    }
    folder
}

fn quarry(folder: &TempDir, words: &str) -> Output {
    let mut command = Command::new(cargo_bin!("quarry"));
    command.args(words.split_whitespace()).current_dir(folder.path()).env("FAKE_SERIAL", folder.path().join("serial"));
    if words.starts_with("run") || words.starts_with("trace record") {
        let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-qemu");
        command.args(["--accel", "tcg", "--loader", "loader", "--image", "image", "--log", "log", "--qemu"]).arg(fake);
    }
    command.output().expect("the command was built")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The last line a command that fails has for people.
fn complaint(folder: &TempDir, words: &str) -> String {
    let output = quarry(folder, words);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    text(&output.stderr).lines().last().unwrap_or_default().to_owned()
}

/// What a guest says that has recorded these pieces.
fn serial(pieces: &[(&str, Option<u64>)]) -> String {
    let run = Record::Run(Run { schema: SCHEMA_VERSION, cpus_online: 4, ..Run::default() });
    let pieces =
        pieces.iter().map(|(text, dropped)| Record::Trace(TracePiece { text: (*text).into(), dropped: *dropped }));
    let end = Record::End(End { status: EndStatus::Ok, reason: None, errors: 0 });
    [run].into_iter().chain(pieces).chain([end]).map(|record| record.to_line() + "\n").collect()
}

#[test]
fn a_recording_is_put_together_and_says_what_had_no_room() {
    let folder = folder();
    let pieces = [("quarry-trace 1\n", None), ("+0 a 0 0 64\n", None), ("+5 f 1 0\n", None), ("", Some(3))];
    fs::write(folder.path().join("serial"), serial(&pieces)).expect("there is room for files");
    let output = quarry(&folder, "trace record --workload mix,remote --size 64,4K --blocks 9");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "quarry-trace 1\n+0 a 0 0 64\n+5 f 1 0\n");
    let told = text(&output.stderr);
    assert!(told.contains("2 events on 2 CPUs\n3 events more had no room; ask for more by --events"), "{told}");
    let asked =
        "mode=record workloads=mix,remote sizes=64,4096 blocks=9 cpus=4 samples=1 operations=1000 events=100000";
    assert!(told.contains(asked), "{told}");
}

#[test]
fn a_whole_guest_is_recorded_while_it_works_or_tests() {
    let folder = folder();
    let pieces = [("quarry-trace 1\n+0 a 0 0 64\n", None), ("", Some(2))];
    fs::write(folder.path().join("serial"), serial(&pieces)).expect("there is room for files");
    for (words, asked, advice) in [
        ("--workload mix", "mode=record trace=9 workloads=mix cpus=4 ", "--events, or for fewer by --operations\n"),
        ("--test kmalloc", "-append 'test=kmalloc trace=9 seed=1 ", "--events\n"),
    ] {
        let output = quarry(&folder, &format!("trace record --whole --events 9 {words}"));
        let told = text(&output.stderr);
        assert!(output.status.success() && told.contains(asked) && told.ends_with(advice), "{told}");
        assert_eq!(text(&output.stdout), "quarry-trace 1\n+0 a 0 0 64\n");
    }
    assert!(complaint_of_clap(&folder, "trace record --test kmalloc").contains("--whole"));
    assert!(complaint_of_clap(&folder, "trace record --whole").contains("--workload"));
}

/// What a command says that cannot be understood.
fn complaint_of_clap(folder: &TempDir, words: &str) -> String {
    let output = quarry(folder, words);
    assert_eq!(output.status.code(), Some(2));
    text(&output.stderr)
}

#[test]
fn a_recording_that_breaks_off_is_no_trace() {
    let folder = folder();
    fs::write(folder.path().join("serial"), serial(&[("quarry-trace 1\n", None)])).expect("there is room for files");
    let told = complaint(&folder, "trace record --workload mix");
    assert!(told.starts_with("quarry: the guest ended well but gave no `trace` record"), "{told}");
}

#[test]
fn a_converted_recording_is_a_trace() {
    let folder = folder();
    let lines = "x-1 [001] 1.5: kmalloc: ptr=0xff00 bytes_req=64 gfp_flags=0xcc0\nx-1 [002] 1.6: kfree: ptr=0xff00\n";
    fs::write(folder.path().join("lines"), lines).expect("there is room for files");
    let output = quarry(&folder, "trace convert lines --output it.trace");
    assert_eq!(text(&output.stderr), "2 events of 2 lines: 1 object, 0 blocks of pages, 2 CPUs\n");
    let written = fs::read_to_string(folder.path().join("it.trace")).expect("it was written");
    assert_eq!(written, "quarry-trace 1\n+0 a 1 0 64\n+100000000 f 2 0\n");
    let info = text(&quarry(&folder, "trace info it.trace").stdout);
    assert!(info.starts_with("events      2, allocations 1, frees 1\n"), "{info}");
    fs::write(folder.path().join("none"), "hello\n").expect("there is room for files");
    let told = complaint(&folder, "trace convert none");
    assert!(told.starts_with("quarry: none has no allocation to replay; print events of kmem"), "{told}");
}

#[test]
fn a_run_hands_its_trace_to_qemu() {
    let folder = folder();
    fs::write(folder.path().join("it.trace"), "quarry-trace 1\na 0 0 64\n").expect("there is room for files");
    let line = text(&quarry(&folder, "run --trace it.trace").stdout);
    let line = line.lines().next().unwrap_or_default();
    assert!(line.contains(" -append 'mode=run workloads=replay seed=1 "), "{line}");
    assert!(line.ends_with(" -fw_cfg 'name=opt/quarry/trace,file=it.trace'"), "{line}");
}

#[test]
fn a_trace_that_cannot_be_replayed_is_refused_before_the_boot() {
    let folder = folder();
    for (contents, sentence) in [
        (
            "quarry-trace 1\nf 0 7\n",
            "bad: line 2: id 7: nothing was allocated with that id; allocate it on a line before",
        ),
        ("quarry-trace 1\n", "bad has no event to replay"),
    ] {
        fs::write(folder.path().join("bad"), contents).expect("there is room for files");
        assert_eq!(complaint(&folder, "run --trace bad"), format!("quarry: {sentence}"));
    }
    assert!(complaint(&folder, "run --trace nowhere").starts_with("quarry: cannot read nowhere: "));
}
