//! The `quarry` command against a QEMU that is a script (`fake-qemu`): it plays recorded serial lines, dies, hangs,
//! lies.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use assert_cmd::cargo::cargo_bin;
use quarry_record::{End, EndStatus, Record, Run, SCHEMA_VERSION, Test, TestStatus};
use tempfile::TempDir;

/// A folder with all that a run needs, and the lines the fake QEMU will play.
struct Scene {
    folder: TempDir,
    environment: Vec<(&'static str, String)>,
}

impl Scene {
    fn new(serial: &str) -> Self {
        let folder = tempfile::tempdir().expect("there is room for files");
        for file in ["loader", "image"] {
            fs::write(folder.path().join(file), "").expect("there is room for files");
        }
        let path = folder.path().join("serial");
        fs::write(&path, serial).expect("there is room for files");
        let environment = vec![("FAKE_SERIAL", path.to_string_lossy().into_owned())];
        Self { folder, environment }
    }

    fn recorded(name: &str) -> Self {
        Self::new(&recorded(name))
    }

    /// One more word for the fake QEMU.
    fn with(mut self, key: &'static str, value: &str) -> Self {
        self.environment.push((key, value.to_owned()));
        self
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn hanging(self) -> Self {
        let pid = self.path("pid").to_string_lossy().into_owned();
        self.with("FAKE_HANG", &pid)
    }

    fn command(&self, words: &str) -> Command {
        let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-qemu");
        let mut command = Command::new(cargo_bin!("quarry"));
        command.args(words.split_whitespace()).current_dir(self.folder.path());
        if !words.starts_with("show") {
            command.args(["--loader", "loader", "--image", "image", "--log", "kept.log", "--qemu"]).arg(fake);
            command.args(if words.starts_with("smoke") { &[][..] } else { &["--accel", "tcg"] });
        }
        command.envs(self.environment.iter().map(|(key, value)| (*key, value)));
        command
    }

    fn run(&self, words: &str) -> Output {
        self.command(words).output().expect("the command was built")
    }

    /// The last line of what a failing command says on standard error.
    fn complaint(&self, words: &str) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
        let stderr = text(&output.stderr);
        stderr.lines().last().unwrap_or_default().to_owned()
    }
}

/// What QEMU is told of disks: the words behind each `-drive` and `-device virtio`.
fn disks(line: &str) -> Vec<&str> {
    let words = line.split(" -drive ").skip(1).flat_map(|part| part.split(" -device "));
    words.map(|word| word.trim_matches('\'')).collect()
}

#[test]
fn a_guest_that_tests_has_a_disk_unless_nobody_wants_it() {
    let scene = Scene::new(&guest_tests(&[("a", TestStatus::Started), ("a", TestStatus::Ok)], Some(WELL)));
    let line = |words: &str| text(&scene.run(words).stdout).lines().next().unwrap_or_default().to_owned();
    let usual = line("test");
    let [drive, device] = disks(&usual)[..] else { panic!("{usual}") };
    assert_eq!(device, "virtio-blk-pci,drive=disk0");
    let (file, rest) = drive.strip_prefix("file=").and_then(|it| it.split_once(',')).expect("there is a file");
    assert_eq!(rest, "format=raw,if=none,id=disk0,werror=report,rerror=report");
    assert!(file.contains("quarry-disk-") && !Path::new(file).exists(), "{file} is gone when the guest has ended");
    assert_eq!(disks(&line("test --no-disk")), [""; 0]);
    assert_eq!(disks(&line("test --machine microvm")), [""; 0]);
    fs::write(scene.path("it.img"), "").expect("there is room for files");
    let two = line("test --disk it.img --disk 1M");
    assert_eq!(disks(&two).len(), 4, "{two}");
    assert!(disks(&two)[0].starts_with("file=it.img,") && disks(&two)[3].ends_with("=disk1"), "{two}");
    let complaints = [scene.complaint("test --disk none.img"), scene.complaint("run --machine microvm --disk 1M")];
    insta::assert_snapshot!(complaints.join("\n"), @"
    quarry: there is no disk none.img; give a raw file, or a size such as 64M for an empty disk
    quarry: a microvm has no PCI, and so no disk; leave --disk out, or use --machine q35
    ");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn recorded(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded").join(name).with_extension("serial");
    fs::read_to_string(file).expect("the recording is there")
}

/// The recording up to and with its `run` record and so many results.
fn beginning(name: &str, results: usize) -> String {
    let recording = recorded(name);
    let first = recording.lines().position(|line| line.starts_with('{')).expect("there is a `run` record");
    recording.split_inclusive('\n').take(first + 1 + results).collect()
}

fn guest_tests(records: &[(&str, TestStatus)], end: Option<End>) -> String {
    let run = Record::Run(Run { schema: SCHEMA_VERSION, cpus_online: 4, boot_microseconds: 50_000, ..Run::default() });
    let tests = records.iter().map(|(name, status)| {
        let message = (*status == TestStatus::Failed).then(|| "2 is not 3".to_owned());
        Record::Test(Test { name: (*name).to_owned(), status: *status, message })
    });
    let all = [run].into_iter().chain(tests).chain(end.map(Record::End));
    all.map(|record| record.to_line() + "\n").collect()
}

const WELL: End = End { status: EndStatus::Ok, reason: None, errors: 0 };

#[test]
fn a_run_prints_the_line_the_machine_and_tables() {
    let scene = Scene::recorded("run");
    let output = scene.run("run --cpus 1 --output kept.jsonl");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    let (line, rest) = stdout.split_once('\n').expect("there are lines");
    assert!(
        line.contains("fake-qemu -M q35 ") && line.contains(" -append 'mode=run seed=1 alive=15 accel=tcg git="),
        "{line}"
    );
    insta::assert_snapshot!(rest, @"

    image       bench, revision 0123456789ab, seed 1
    CPU         QEMU TCG CPU version 2.5+, time-stamp counter at 2445 MHz (PIT)
    hypervisor  TCG
    nodes       0: 1023.62 MiB, CPUs 0-1
                1: 1 GiB, CPUs 2-3
    distances   10 20 / 20 10
    boot        4 CPUs, 83.0 ms

    TCG translates every instruction: compare these figures with each other, not with real CPUs.

    pair: one kmalloc and its kfree, over and over; an operation is the pair
      (the empty loop, which is in every figure: 10.0 ns)
    ╭──────┬───────┬────────┬───────┬────────┬────────────┬────────────╮
    │      │   ns, median   │    ns, p99     │ million ops/s, all CPUs │
    │ size │ 1 CPU │ 4 CPUs │ 1 CPU │ 4 CPUs │      1 CPU │     4 CPUs │
    ├──────┼───────┼────────┼───────┼────────┼────────────┼────────────┤
    │ 64 B │   112 │    147 │   119 │    151 │       9.03 │       27.4 │
    ╰──────┴───────┴────────┴───────┴────────┴────────────┴────────────╯

    node: pairs on a node that is asked for: the CPU's own, the farthest, both in turn
      (the empty loop, which is in every figure: 9.45 ns)
    ╭──────┬─────────────┬───────┬────────┬───────┬────────┬────────────┬────────────╮
    │      │             │   ns, median   │    ns, p99     │ million ops/s, all CPUs │
    │ size │ part        │ 1 CPU │ 4 CPUs │ 1 CPU │ 4 CPUs │      1 CPU │     4 CPUs │
    ├──────┼─────────────┼───────┼────────┼───────┼────────┼────────────┼────────────┤
    │ 64 B │ local       │  90.0 │    141 │  91.8 │    141 │       11.1 │       32.4 │
    │ 64 B │ remote      │   250 │    272 │   368 │    275 │       3.46 │       14.7 │
    │ 64 B │ alternating │   197 │    351 │   236 │    378 │       4.86 │       11.9 │
    ╰──────┴─────────────┴───────┴────────┴───────┴────────┴────────────┴────────────╯

    page: one alloc_pages and its free_pages, over and over; order n is 2^n pages of 4 KiB
      (the empty loop, which is in every figure: 9.31 ns)
    ╭─────────────────┬───────┬────────┬───────┬────────┬────────────┬────────────╮
    │                 │   ns, median   │    ns, p99     │ million ops/s, all CPUs │
    │ size            │ 1 CPU │ 4 CPUs │ 1 CPU │ 4 CPUs │      1 CPU │     4 CPUs │
    ├─────────────────┼───────┼────────┼───────┼────────┼────────────┼────────────┤
    │ order 0 (4 KiB) │   118 │   98.7 │   123 │    120 │       8.94 │       38.5 │
    ╰─────────────────┴───────┴────────┴───────┴────────┴────────────┴────────────╯

    memory      2 GiB in all =
                233.54 MiB free + 1.76 GiB deferred + 1.75 MiB per cpu lists + 1.38 MiB pages in use +
                2.53 KiB slab in use + 717.84 KiB slab cached + 83.64 KiB slab free + 23.98 KiB slab waste +
                1.3 MiB metadata + 4.73 MiB reserved
    ");
}

#[test]
fn the_log_keeps_everything_and_the_output_the_records() {
    let scene = Scene::recorded("run").with("FAKE_STDERR", "qemu: warning: dust");
    assert!(scene.run("run --output kept.jsonl").status.success());
    let log = fs::read_to_string(scene.path("kept.log")).expect("the log was kept");
    assert!(log.starts_with("$ ") && log.contains("qemu: warning: dust"), "{log}");
    assert!(recorded("run").lines().all(|line| log.contains(line)));
    let records = fs::read_to_string(scene.path("kept.jsonl")).expect("the records were kept");
    let expected: Vec<String> =
        recorded("run").lines().filter(|line| line.starts_with('{')).map(str::to_owned).collect();
    assert_eq!(records.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn kept_records_show_the_same_tables_again() {
    let scene = Scene::recorded("run");
    // One CPU, so that nothing has to be said about this computer's.
    let first = text(&scene.run("run --cpus 1 --output kept.jsonl").stdout);
    let again = scene.run("show kept.jsonl");
    assert!(again.status.success());
    assert_eq!(first.split_once('\n').expect("there are lines").1, text(&again.stdout));
    assert!(text(&scene.run("show kept.jsonl --details").stdout).contains("spread"));
}

#[test]
fn files_that_are_no_run_cannot_be_shown() {
    let scene = Scene::new("");
    let show = |content: &str| {
        fs::write(scene.path("kept.jsonl"), content).expect("there is room for files");
        scene.complaint("show kept.jsonl")
    };
    let complaints =
        [show(""), show("{\"type\":\"run\"}\n"), show(&beginning("run", 2)), scene.complaint("show nothing.jsonl")];
    insta::assert_snapshot!(complaints.join("\n"), @"
    quarry: kept.jsonl has no `run` record
    quarry: kept.jsonl is no file of records: line 1 of the guest's output is not a record: missing field `schema`
    quarry: the file has no `end` record: this run did not come to its end
    quarry: cannot read nothing.jsonl: No such file or directory (os error 2)
    ");
}

#[test]
fn a_boot_passes_on_what_the_guest_has_for_people() {
    let scene = Scene::recorded("boot");
    let output = scene.run("boot");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let shown: Vec<String> = text(&output.stdout).lines().skip(1).map(str::to_owned).collect();
    let for_people: Vec<String> =
        recorded("boot").lines().filter(|line| !line.starts_with('{')).map(str::to_owned).collect();
    assert_eq!(shown, for_people);
}

#[test]
fn a_stress_says_what_it_came_to() {
    let output = Scene::recorded("stress").run("stress --seconds 2");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    let line = stdout.lines().find(|line| line.starts_with("stress")).expect("there is a line");
    assert!(line.contains("passed: ") && line.contains(" on 4 CPUs"), "{line}");
    let complaint = Scene::recorded("boot").complaint("stress");
    insta::assert_snapshot!(complaint, @"quarry: the guest ended well but gave no `stress` record (serial log: kept.log)");
}

#[test]
fn statistics_are_alone_on_standard_output() {
    let scene = Scene::recorded("stats");
    let output = scene.run("stats --seconds 1 --show slabinfo");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    let line = stderr.lines().next().expect("QEMU's command line");
    assert!(line.contains(" -append 'seed=1 mode=stress seconds=1 reports=1 accel=tcg git="), "{line}");
    assert!(stderr.contains("stress      passed: "), "{stderr}");
    assert!(stdout.starts_with("slabinfo - version: 2.1\n# name "), "{stdout}");
    assert!(stdout.lines().skip(2).all(|line| line.contains("kmalloc-") && line.contains(" : slabdata ")), "{stdout}");
    let default = text(&scene.run("stats").stdout);
    let names: Vec<&str> = default.lines().filter(|line| line.starts_with("==> ")).collect();
    assert_eq!(names, ["==> rows <==", "==> meminfo <=="]);
}

#[test]
fn statistics_are_one_json_document() {
    let output = Scene::recorded("stats").run("stats --json");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!((&document["adds_up"], &document["approximate"]), (&true.into(), &false.into()));
    assert_eq!(document["run"]["cpus_online"], 4);
    let number = |path: &str| document.pointer(path).and_then(serde_json::Value::as_u64).expect("a number");
    let rows = document["reports"]["rows"].as_object().expect("the rows are a map");
    let sum: u64 = rows.iter().filter(|(name, _)| *name != "total").filter_map(|(_, bytes)| bytes.as_u64()).sum();
    assert_eq!(sum, number("/reports/rows/total"));
    let slabs = document["reports"]["slabinfo"].as_object().expect("the caches are a map");
    let column = |slab: &serde_json::Value, name: &str| slab[name].as_u64().expect("a number");
    let in_use: u64 = slabs.values().map(|slab| column(slab, "active_objs") * column(slab, "objsize")).sum();
    assert_eq!(in_use, number("/reports/rows/slab_in_use"));
    assert_eq!(
        number("/reports/meminfo/MemFree") * 1024,
        number("/reports/rows/free") + number("/reports/rows/deferred")
    );
    assert!(number("/reports/zoneinfo/Node 0, zone DMA32, cpu 0/high") > 0);
}

#[test]
fn statistics_that_are_not_there_are_missed() {
    let scene = Scene::recorded("stress");
    let complaints =
        [scene.complaint("stats"), scene.complaint("stats --json"), scene.complaint("stats --size 8 --seconds 1")];
    insta::assert_snapshot!(complaints.join("\n"), @"
    quarry: the guest gave no `rows` report (serial log: kept.log)
    quarry: the guest ended well but gave no `report` record (serial log: kept.log)
    quarry: --seconds is how long the stress takes; leave it out, or what the suite is to measure
    ");
}

#[test]
fn every_way_to_fail_has_its_sentence() {
    let whole = recorded("run");
    let garbled = whole.replacen("{\"type\":\"result\"", "{\"type\":\"re", 1);
    let fewer: String = whole.split_inclusive('\n').filter(|line| !line.contains("\"page\"")).collect();
    let errors = whole.replacen("\"errors\":0", "\"errors\":7", 1);
    let panic = beginning("run", 1)
        + "\n{\"type\":\"end\",\"status\":\"failed\",\"reason\":\"panic: no frame\",\"errors\":1}\n";
    let complaints = [
        Scene::new("").with("FAKE_EXIT", "1").with("FAKE_STDERR", "qemu: invalid accelerator kvm").complaint("run"),
        Scene::new("quarry-loader: error: there is no image\r\n").with("FAKE_EXIT", "39").complaint("run"),
        Scene::new("").with("FAKE_EXIT", "0").complaint("run"),
        Scene::new(&beginning("run", 3)).with("FAKE_EXIT", "0").complaint("run"),
        Scene::new(&panic).with("FAKE_EXIT", "37").complaint("run"),
        Scene::new(&beginning("run", 3)).complaint("run"),
        Scene::new(&garbled).complaint("run"),
        Scene::new(&fewer).complaint("run"),
        Scene::new(&errors).complaint("run"),
        Scene::new(&whole).with("FAKE_EXIT", "35").complaint("run"),
        Scene::recorded("boot").complaint("run"),
        Scene::new("").hanging().complaint("run --boot-timeout 0.3"),
        Scene::new(&beginning("run", 3)).hanging().complaint("run --record-timeout 0.3"),
        Scene::new(&beginning("run", 3)).hanging().complaint("run --timeout 0.3"),
    ];
    insta::assert_snapshot!(complaints.join("\n"), @"
    quarry: QEMU gave up (exit status 1): qemu: invalid accelerator kvm (serial log: kept.log)
    quarry: the loader refused to boot: there is no image (serial log: kept.log)
    quarry: the guest died: the machine reset or powered off, most likely by a triple fault (serial log: kept.log)
    quarry: the guest died: the machine reset or powered off, most likely by a triple fault (serial log: kept.log)
    quarry: the guest panicked: no frame (serial log: kept.log)
    quarry: the guest ended without its last record (serial log: kept.log)
    quarry: line 5 of the guest's output is not a record: unknown variant `re,`, expected one of `run`, `result`, `statistics`, `report`, `stress`, `edge`, `alive`, `trace`, `test`, `end` at line 1 column 13 (serial log: kept.log)
    quarry: the guest announced 10 results but gave 8 (serial log: kept.log)
    quarry: the guest counted 7 errors (serial log: kept.log)
    quarry: the guest's last record says all is well, but its exit status that it failed (serial log: kept.log)
    quarry: nothing was measured: no allocator asked for can do a workload asked for in those sizes on this machine; `quarry list` has all of both (serial log: kept.log)
    quarry: the guest did not boot within 0.3 s (--boot-timeout) (serial log: kept.log)
    quarry: the guest went silent: no record for 0.3 s (--record-timeout) (serial log: kept.log)
    quarry: the guest was not done within 0.3 s (--timeout) (serial log: kept.log)
    ");
}

#[test]
fn a_guest_that_goes_wrong_is_heard_to_the_end() {
    let scene = Scene::new("one\ntwo\n").with("FAKE_EXIT", "37");
    let stderr = text(&scene.run("run").stderr);
    assert!(stderr.contains("| one\n| two\n"), "{stderr}");
}

#[test]
fn what_is_wrong_before_the_boot_is_told_without_one() {
    let scene = Scene::new("");
    fs::write(scene.path("bad.toml"), "[[nodes]]\nmemory = \"lots\"\n").expect("there is room for files");
    let complaints = [
        scene.complaint("boot --topology bad.toml"),
        scene.complaint("boot --topology none.toml"),
        scene.complaint("boot --machine microvm --nodes 2"),
        scene.complaint("boot --memory 1K"),
    ];
    insta::assert_snapshot!(complaints.join("\n"), @"
    quarry: bad.toml, line 2: `lots` is no amount of memory; write a whole number with K, M, G or T behind it, as in 512M
    quarry: cannot read the topology file none.toml: No such file or directory (os error 2)
    quarry: a microvm has no NUMA nodes; leave --nodes out
    quarry: --memory 1K does not give every node whole MiB
    ");
    assert!(!scene.path("kept.log").exists());
    let output = Command::new(cargo_bin!("quarry"))
        .args(["boot", "--accel", "tcg", "--qemu", "/nowhere/qemu"])
        .output()
        .expect("the command was built");
    assert_eq!(output.status.code(), Some(1));
    insta::assert_snapshot!(text(&output.stderr), @"quarry: /nowhere/qemu cannot be run (No such file or directory (os error 2)); install QEMU (Debian, Ubuntu: sudo apt-get install qemu-system-x86) or name another by --qemu");
    fs::remove_file(scene.path("image")).expect("it is there");
    insta::assert_snapshot!(scene.complaint("boot"), @"quarry: there is no image image");
}

#[test]
fn guest_tests_have_a_line_each() {
    let records =
        [("a", TestStatus::Started), ("a", TestStatus::Ok), ("b", TestStatus::Started), ("b", TestStatus::Ok)];
    let output = Scene::new(&guest_tests(&records, Some(WELL))).run("test --filter a");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    let (line, rest) = stdout.split_once('\n').expect("there are lines");
    assert!(line.contains("'test=a accel=tcg"), "{line}");
    insta::assert_snapshot!(rest, @"
    booted on 4 CPUs in 50 ms
    ok      a
    ok      b
    2 tests, 0 failed
    ");
}

#[test]
fn guest_tests_that_fail_or_die_are_named() {
    let failed = End { status: EndStatus::Failed, reason: Some("1 of 2 tests failed".into()), errors: 1 };
    let records = [("a", TestStatus::Started), ("a", TestStatus::Failed), ("b", TestStatus::Started)];
    let scene = Scene::new(&guest_tests(&records[..2], Some(failed))).with("FAKE_EXIT", "35");
    let output = scene.run("test");
    assert_eq!(output.status.code(), Some(1));
    let failing = text(&output.stdout).lines().skip(1).collect::<Vec<_>>().join("\n") + "\n" + &text(&output.stderr);
    let output = Scene::new(&guest_tests(&records, None)).with("FAKE_EXIT", "0").run("test");
    assert_eq!(output.status.code(), Some(1));
    let dying = text(&output.stdout).lines().skip(1).collect::<Vec<_>>().join("\n") + "\n" + &text(&output.stderr);
    insta::assert_snapshot!(format!("{failing}--\n{dying}"), @"
    booted on 4 CPUs in 50 ms
    FAILED  a: 2 is not 3
    1 test, 1 failed
    quarry: 1 of 2 tests failed (serial log: kept.log)
    --
    booted on 4 CPUs in 50 ms
    FAILED  a: 2 is not 3
    DIED    b
    1 test, 1 failed
    quarry: the guest died in the test b: the machine reset or powered off, most likely by a triple fault (serial log: kept.log)
    ");
}

#[test]
fn no_test_at_all_is_a_failure() {
    insta::assert_snapshot!(Scene::new(&guest_tests(&[], Some(WELL))).complaint("test --filter x"), @"quarry: no test ran: no name has `x` in it");
}

#[test]
fn smoke_boots_hold_what_was_found_against_what_was_asked_for() {
    let scene = Scene::recorded("boot");
    let topologies = scene.path("topologies");
    fs::create_dir(&topologies).expect("there is room for files");
    let node = "[[nodes]]\nmemory = \"1G\"\ncpus = 2\n";
    let right = format!("distances = [[10, 20], [20, 10]]\n{node}{node}");
    fs::write(topologies.join("right.toml"), &right).expect("there is room for files");
    fs::write(topologies.join("wrong.toml"), right.replace("20", "30")).expect("there is room for files");
    fs::write(topologies.join("bad.toml"), "nodes = 2").expect("there is room for files");
    let output = scene.run("smoke --topologies topologies");
    assert_eq!(output.status.code(), Some(1));
    let stdout = text(&output.stdout);
    let without_times = stdout.lines().map(|line| line.rsplit_once(" (").expect("it ends with a time").0);
    insta::assert_snapshot!(without_times.collect::<Vec<_>>().join("\n"), @"
    FAILED  bad: topologies/bad.toml, line 1: invalid type: integer `2`, expected a sequence
    ok      right: q35, 4 CPUs, 2 nodes, 2 GiB
    FAILED  wrong: distances: found 10 20 / 20 10, wanted 10 30 / 30 10
    ");
    insta::assert_snapshot!(text(&output.stderr), @"quarry: 2 of 3 boots failed: bad, wrong (serial logs in kept.log)");
    assert!(scene.run("smoke --topologies topologies --only right").status.success());
    let complaint = scene.complaint("smoke --topologies topologies --only left");
    insta::assert_snapshot!(complaint, @"quarry: there is no topology `left` in topologies; choose from bad, right, wrong");
}

#[test]
fn a_signal_takes_qemu_along() {
    for signal in ["-INT", "-TERM"] {
        let scene = Scene::new(&beginning("run", 1)).hanging();
        let mut quarry =
            scene.command("run").stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the command was built");
        let pid = loop {
            match fs::read_to_string(scene.path("pid")) {
                Ok(pid) if pid.ends_with('\n') => break pid.trim().to_owned(),
                _ if quarry.try_wait().expect("it was started").is_some() => panic!("it ended before QEMU came up"),
                _ => thread::sleep(Duration::from_millis(10)),
            }
        };
        let sent = Command::new("kill").args([signal, &quarry.id().to_string()]).status().expect("there is `kill`");
        assert!(sent.success());
        assert_eq!(quarry.wait().expect("it was started").code(), Some(130), "{signal}");
        assert!(!Path::new("/proc").join(pid).exists(), "QEMU still runs after {signal}");
    }
}
