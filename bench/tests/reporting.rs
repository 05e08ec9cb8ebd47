//! `quarry report` as a command: what it writes, and what it says of bad input.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use tempfile::TempDir;

/// A run of a guest, as it came over the serial line.
fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded/run.serial")
}

fn report(folder: &TempDir, words: &[&str]) -> Output {
    let mut command = Command::new(cargo_bin!("quarry"));
    command.arg("report").args(words).current_dir(folder.path()).output().expect("the command was built")
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("there is room for files")
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("it can be read").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).trim_end().to_owned()
}

#[test]
fn a_page_and_a_file_of_each_picture_are_written() {
    let folder = folder();
    let file = recorded();
    let output = report(&folder, &[&file.to_string_lossy(), "--output", "out/report"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = names(&folder.path().join("out/report"));
    insta::assert_snapshot!(names.join("\n"), @"
    index.html
    nodes-distances.svg
    nodes-node-64-b-on-1-cpu.svg
    nodes-node-64-b-on-4-cpus.svg
    nodes.svg
    scaling-node-64-b-alternating.svg
    scaling-node-64-b-local.svg
    scaling-node-64-b-remote.svg
    scaling-page-order-0-4-kib.svg
    scaling-pair-64-b.svg
    scaling.svg
    ");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, format!("out/report: index.html and {} pictures\n", names.len() - 1));
    let page = fs::read_to_string(folder.path().join("out/report/index.html")).expect("it was written");
    for text in ["0123456789ab", "QEMU TCG CPU version 2.5+", "id=\"figures\"", "id=\"scaling\"", "DOCTYPE"] {
        assert!(page.contains(text), "{text}");
    }
}

#[test]
fn pictures_for_a_document_come_alone() {
    let folder = folder();
    let file = recorded();
    let output = report(&folder, &[&file.to_string_lossy(), "--output", "pictures", "--only", "scaling,nodes"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(names(&folder.path().join("pictures")), ["nodes.svg", "scaling.svg"]);
}

#[test]
fn bad_input_costs_one_sentence_and_writes_nothing() {
    let folder = folder();
    let file = recorded();
    let file = file.to_string_lossy();
    assert_eq!(
        complaint(&report(&folder, &["none.jsonl"])),
        "quarry: cannot read none.jsonl: No such file or directory (os error 2)"
    );
    assert_eq!(
        complaint(&report(&folder, &[&file, "--only", "latency"])),
        "quarry: the records have nothing for `latency`; leave it out of --only"
    );
    assert!(names(folder.path()).is_empty());
    fs::write(folder.path().join("taken"), "").expect("there is room for files");
    let taken = complaint(&report(&folder, &[&file, "--output", "taken"]));
    assert!(taken.starts_with("quarry: cannot make the folder taken: "), "{taken}");
}
