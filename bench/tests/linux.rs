//! `quarry linux` as a command, with scripts in place of apt, dpkg, make and QEMU: what is fetched, what is built, what
//! is said where something is missing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use quarry_record::{End, EndStatus, Record};
use tempfile::TempDir;

/// What the command ends with when something it needs is missing.
const SKIPPED: i32 = 77;

const RELEASE: &str = "6.1.0-56-cloud-amd64";

/// A computer with the programs a test puts on it, and no others.
struct Computer {
    folder: TempDir,
}

impl Computer {
    fn new() -> Self {
        let computer = Self { folder: tempfile::tempdir().expect("there is room for files") };
        fs::create_dir_all(computer.path("bin")).expect("there is room for files");
        computer
    }

    /// With a module, an init program and an unpacked kernel that an earlier run left.
    fn with_all_built() -> Self {
        let computer = Self::new();
        computer.write(&format!("target/linux/cloud-amd64/boot/vmlinuz-{RELEASE}"), "a kernel");
        computer.write(&format!("target/linux/cloud-amd64/usr/src/linux-headers-{RELEASE}/Makefile"), "");
        computer.write(&format!("target/linux/module-vmlinuz-{RELEASE}/quarry_linux.ko"), "a module");
        computer.write("target/release/quarry-linux-init", "an init program");
        computer
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("there is room for files");
        fs::write(path, text).expect("there is room for files");
    }

    /// Puts a program there: a shell script, which has nothing but the shell's own commands.
    fn program(&self, name: &str, script: &str) {
        self.write(&format!("bin/{name}"), &format!("#!/bin/sh\n{script}\n"));
        let permissions = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.path(&format!("bin/{name}")), permissions).expect("the script is there");
    }

    /// apt as it is on Debian.
    fn apt(&self, download: &str) {
        let depends = format!(
            r#"case "$2" in
            linux-image-cloud-amd64) echo "  Depends: linux-image-{RELEASE}" ;;
            linux-headers-cloud-amd64) echo "  Depends: linux-headers-{RELEASE}" ;;
            linux-headers-{RELEASE}) echo "  Depends: linux-kbuild-6.1" ;;
            linux-kbuild-6.1) ;;
            *) exit 100 ;;
            esac"#
        );
        self.program("apt-cache", &depends);
        self.program("apt-get", download);
    }

    fn linux(&self, words: &str, serial: &str, exit: &str) -> Output {
        self.write("serial", serial);
        let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-qemu");
        // The fake QEMU itself needs `cat`.
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        let path = if serial.is_empty() { self.path("bin").display().to_string() } else { path };
        let mut command = Command::new(cargo_bin!("quarry"));
        command.args(["linux", "--accel", "tcg", "--log", "kept.log", "--qemu"]).arg(fake);
        command.args(words.split_whitespace()).current_dir(self.folder.path());
        command.env("PATH", path).env("CARGO_TARGET_DIR", self.path("target"));
        command.env("FAKE_SERIAL", self.path("serial")).env("FAKE_EXIT", exit);
        command.output().expect("the command was built")
    }

    /// What is said, on the last line, where the command is skipped.
    fn skipped(&self, words: &str) -> String {
        let output = self.linux(words, "", "33");
        assert_eq!(output.status.code(), Some(SKIPPED), "{}", text(&output.stderr));
        let last = text(&output.stderr).lines().last().unwrap_or_default().to_owned();
        last.strip_prefix("quarry: skipped: ").expect("it says so").to_owned()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn recorded(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded").join(name).with_extension("serial");
    fs::read_to_string(file).expect("the recording is there")
}

#[test]
fn without_apt_it_is_skipped() {
    assert_eq!(
        Computer::new().skipped(""),
        "there is no apt-cache to fetch a kernel with; name one by --kernel and --headers"
    );
}

#[test]
fn a_flavour_apt_does_not_know_is_skipped() {
    let computer = Computer::new();
    computer.apt("exit 1");
    assert_eq!(
        computer.skipped("--flavour cloud-arm64"),
        "apt knows no package linux-image-cloud-arm64; run `sudo apt-get update`, or name a kernel by --kernel and \
         --headers"
    );
}

#[test]
fn without_a_network_it_is_skipped_and_nothing_half_done_is_taken_for_a_kernel() {
    let computer = Computer::new();
    computer.apt("echo 'E: Failed to fetch it  Could not connect' >&2; exit 100");
    let expected = "apt cannot fetch the kernel (E: Failed to fetch it  Could not connect); run `sudo apt-get update`, \
                    or name a kernel by --kernel and --headers";
    assert_eq!(computer.skipped(""), expected);
    assert!(!computer.path("target/linux/cloud-amd64").exists());
    assert_eq!(computer.skipped(""), expected);
}

#[test]
fn without_a_compiler_it_is_skipped() {
    let computer = Computer::with_all_built();
    assert_eq!(
        computer.skipped(""),
        "there is no gcc to build the kernel module with; install it (Debian, Ubuntu: sudo apt-get install \
         build-essential)"
    );
    computer.program("gcc", "exit 0");
    assert!(computer.skipped("").starts_with("there is no make to build"));
}

#[test]
fn a_kernel_is_fetched_unpacked_and_booted_with_all_it_needs() {
    let computer = Computer::with_all_built();
    fs::remove_dir_all(computer.path("target/linux/cloud-amd64")).expect("it is there");
    computer.apt(r#"shift 4; for package; do echo "$package" >"$package.deb"; done"#);
    let unpack = format!(
        r#"name=$(cat "$2"); mkdir -p "$3/boot" "$3/usr/src/linux-headers-{RELEASE}"
        case $name in linux-image-*) echo "$name" >"$3/boot/vmlinuz-{RELEASE}" ;; esac"#
    );
    computer.program("dpkg-deb", &unpack);
    let output = computer.linux("--no-build --cpus 2", &recorded("linux"), "33");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stderr);
    let expected = format!("fetching linux-image-{RELEASE}, linux-headers-{RELEASE}, linux-kbuild-6.1");
    assert!(said.starts_with(&expected), "{said}");
    let line = text(&output.stdout).lines().next().unwrap_or_default().to_owned();
    let kernel = computer.path(&format!("target/linux/cloud-amd64/boot/vmlinuz-{RELEASE}"));
    assert_eq!(fs::read_to_string(&kernel).expect("it was unpacked"), format!("linux-image-{RELEASE}\n"));
    assert!(line.contains(&format!(" -kernel {} -initrd ", kernel.display())), "{line}");
    let archive = fs::read(computer.path(&format!("target/linux/initramfs-vmlinuz-{RELEASE}.cpio")));
    let archive = archive.expect("it was written");
    for part in ["dev/console\0", "init\0", "an init program", "quarry_linux.ko\0", "a module"] {
        assert!(archive.windows(part.len()).any(|window| window == part.as_bytes()), "{part}");
    }
}

#[test]
fn the_tables_are_those_of_any_run() {
    let computer = Computer::with_all_built();
    let output = computer.linux("--no-build --cpus 2 --output kept.jsonl", &recorded("linux"), "33");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    let (_, rest) = stdout.split_once('\n').expect("there are lines");
    let (first, _) = rest.split_once("\nremote:").expect("remote comes second");
    insta::assert_snapshot!(first, @"

    image       linux-6.1.0-56-cloud-amd64, revision 0123456789ab, seed 1
    CPU         QEMU TCG CPU version 2.5+, time-stamp counter at 2596 MHz (Linux)
    hypervisor  TCG
    nodes       0: 1006.57 MiB, CPUs 0
                1: 974.92 MiB, CPUs 1
    distances   10 20 / 20 10
    boot        2 CPUs, 3480.0 ms

    TCG translates every instruction: compare these figures with each other, not with real CPUs.

    pair: one kmalloc and its kfree, over and over; an operation is the pair
      (the empty loop, which is in every figure: 2.23 ns)
    ╭──────┬───────┬────────┬───────┬────────┬────────────┬────────────╮
    │      │   ns, median   │    ns, p99     │ million ops/s, all CPUs │
    │ size │ 1 CPU │ 2 CPUs │ 1 CPU │ 2 CPUs │      1 CPU │     2 CPUs │
    ├──────┼───────┼────────┼───────┼────────┼────────────┼────────────┤
    │ 64 B │   251 │    434 │  1243 │    701 │       1.72 │       4.32 │
    ╰──────┴───────┴────────┴───────┴────────┴────────────┴────────────╯
    ");
    let kept = fs::read_to_string(computer.path("kept.jsonl")).expect("it was written");
    assert_eq!(kept.lines().filter(|line| matches!(Record::from_line(line), Ok(Record::Result(_)))).count(), 16);
}

#[test]
fn runs_of_quarry_and_linux_stand_in_one_table() {
    let computer = Computer::new();
    computer.write("quarry.jsonl", &recorded("run"));
    computer.write("linux.jsonl", &recorded("linux"));
    let mut command = Command::new(cargo_bin!("quarry"));
    command.args(["show", "quarry.jsonl", "linux.jsonl"]).current_dir(computer.folder.path());
    let output = command.output().expect("the command was built");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    let pairs = stdout.lines().skip_while(|line| !line.starts_with("pair:")).take_while(|line| !line.is_empty());
    insta::assert_snapshot!(pairs.collect::<Vec<_>>().join("\n"), @"
    pair: one kmalloc and its kfree, over and over; an operation is the pair
      (the empty loop, which is in every figure: 2.23 to 10.0 ns)
    ╭──────┬────────────────┬───────┬────────┬────────┬───────┬────────┬────────┬───────┬────────┬────────╮
    │      │                │       ns, median        │         ns, p99         │ million ops/s, all CPUs │
    │ size │ allocator      │ 1 CPU │ 2 CPUs │ 4 CPUs │ 1 CPU │ 2 CPUs │ 4 CPUs │ 1 CPU │ 2 CPUs │ 4 CPUs │
    ├──────┼────────────────┼───────┼────────┼────────┼───────┼────────┼────────┼───────┼────────┼────────┤
    │ 64 B │ quarry         │   112 │      - │    147 │   119 │      - │    151 │  9.03 │      - │   27.4 │
    │ 64 B │ linux-6.1-slub │   251 │    434 │      - │  1243 │    701 │      - │  1.72 │   4.32 │      - │
    ╰──────┴────────────────┴───────┴────────┴────────┴───────┴────────┴────────┴───────┴────────┴────────╯
    ");
}

#[test]
fn a_kernel_that_refuses_the_module_is_told_with_its_reason() {
    let computer = Computer::with_all_built();
    let reason = "the kernel refuses the module: Exec format error".to_owned();
    let end = Record::End(End { status: EndStatus::Failed, reason: Some(reason.clone()), errors: 1 });
    // Without the module nobody can end QEMU but by a reset.
    let output = computer.linux("--no-build --cpus 2", &format!("[ 1.0] Run /init\n{}\n", end.to_line()), "0");
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert_eq!(said.lines().last(), Some(format!("quarry: {reason} (serial log: kept.log)").as_str()));
}
