//! `quarry shell` against a QEMU that is a script (`fake-qemu`): as a step of a pipe, and at a terminal.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use quarry_record::{End, EndStatus, Record, Run, SCHEMA_VERSION};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, tcgetattr};
use tempfile::TempDir;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the guest writes: its boot, its first record, what it is asked for, and its last record, if there is one.
fn serial(end: Option<End>) -> String {
    let run = Record::Run(Run { schema: SCHEMA_VERSION, ..Run::default() }).to_line();
    let end = end.map(|end| Record::End(end).to_line() + "\r\n").unwrap_or_default();
    format!("[0.01] booting\r\n{run}\r\navailable: 2 nodes (0-1)\r\n{end}")
}

const WELL: End = End { status: EndStatus::Ok, reason: None, errors: 0 };

fn command(folder: &TempDir, serial: &str) -> Command {
    let path = |file: &str| folder.path().join(file);
    for (file, content) in [("loader", ""), ("image", ""), ("serial", serial)] {
        fs::write(path(file), content).expect("there is room for files");
    }
    let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-qemu");
    let mut command = Command::new(cargo_bin!("quarry"));
    command.args(["shell", "--loader", "loader", "--image", "image", "--log", "kept.log", "--accel", "tcg", "--qemu"]);
    command.arg(fake).current_dir(folder.path()).env("FAKE_SERIAL", path("serial"));
    command
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("there is room for files")
}

/// Runs the command with a script on its standard input.
fn follow(folder: &TempDir, mut command: Command, script: &str) -> Output {
    let path = folder.path().join("script");
    fs::write(&path, script).expect("there is room for files");
    command.stdin(File::open(path).expect("it has just been written")).output().expect("the command was built")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_script_reaches_the_guest_whole_and_its_answers_are_plain_lines() {
    let folder = folder();
    let heard = folder.path().join("heard");
    let mut command = command(&folder, &serial(Some(WELL)));
    command.env("FAKE_INPUT", &heard);
    let output = follow(&folder, command, "numa\nquit");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "available: 2 nodes (0-1)\n");
    assert_eq!(fs::read(heard).expect("the guest listened"), b"numa\nquit\n\x04");
    let stderr = text(&output.stderr);
    assert!(stderr.contains("fake-qemu -M q35 ") && stderr.contains("-append 'mode=shell columns=0 "), "{stderr}");
    let log = fs::read_to_string(folder.path().join("kept.log")).expect("the log is kept");
    assert!(log.contains("[0.01] booting") && log.contains(r#""type":"end""#), "{log}");
}

#[test]
fn a_script_with_a_command_that_failed_fails() {
    let folder = folder();
    let end = End { status: EndStatus::Failed, reason: Some("1 command failed".into()), errors: 1 };
    let mut command = command(&folder, &serial(Some(end)));
    command.env("FAKE_EXIT", "35");
    let output = follow(&folder, command, "frob\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("quarry: 1 command failed (serial log: kept.log)"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_guest_that_dies_at_its_prompt_is_a_failure() {
    let folder = folder();
    let mut command = command(&folder, &serial(None));
    command.env("FAKE_EXIT", "0");
    let output = follow(&folder, command, "numa\n");
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("quarry: the guest died: the machine reset or powered off"), "{stderr}");
    assert!(!stderr.contains("| available"), "what was shown is not shown again: {stderr}");
}

/// A terminal, and the command at it.
struct Desk {
    /// The end at which a person would sit.
    person: File,
    child: Child,
    before: Termios,
}

impl Desk {
    fn new(mut command: Command) -> Self {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("there are terminals");
        grantpt(&person).expect("it is ours");
        unlockpt(&person).expect("it is ours");
        let name = ptsname(&person, Vec::new()).expect("it has a name").into_string().expect("names are text");
        let terminal = || OwnedFd::from(File::options().read(true).write(true).open(&name).expect("it is unlocked"));
        command.stdin(terminal()).stdout(terminal()).stderr(Stdio::null());
        let before = tcgetattr(&person).expect("it is a terminal");
        let child = command.spawn().expect("the command was built");
        Self { person: person.into(), child, before }
    }

    fn mode(&self) -> Termios {
        tcgetattr(&self.person).expect("it is a terminal")
    }

    fn wait_for(&mut self, what: &str, mut there: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !there(self) {
            assert!(Instant::now() < deadline, "it takes too long: {what}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Until every key goes to the guest, Ctrl-C as well.
    fn wait_for_raw_mode(&mut self) {
        self.wait_for("raw mode", |desk| !desk.mode().local_modes.intersects(LocalModes::ICANON | LocalModes::ISIG));
    }

    /// Waits for the end; the command's exit status.
    fn end(&mut self) -> Option<i32> {
        self.wait_for("the end", |desk| desk.child.try_wait().expect("it is our child").is_some());
        self.child.wait().expect("it is our child").code()
    }

    fn assert_mode_is_back(&self) {
        let (before, after) = (&self.before, self.mode());
        assert_eq!(after.local_modes, before.local_modes);
        assert_eq!(after.input_modes, before.input_modes);
        assert_eq!(after.output_modes, before.output_modes);
    }
}

#[test]
fn at_a_terminal_every_key_is_the_guests_and_the_mode_comes_back() {
    let folder = folder();
    let heard = folder.path().join("heard");
    let mut command = command(&folder, &serial(None));
    command.env("FAKE_INPUT", &heard);
    let mut desk = Desk::new(command);
    desk.wait_for_raw_mode();
    desk.person.write_all(b"nu\t\x03\x1a\x1b[A").expect("the terminal takes keys");
    desk.wait_for("the keys", |_| fs::read(&heard).is_ok_and(|keys| keys == b"nu\t\x03\x1a\x1b[A"));
    desk.person.write_all(b"\x1c").expect("the terminal takes keys");
    assert_eq!(desk.end(), Some(130), "Ctrl-\\ ends QEMU");
    desk.assert_mode_is_back();
    let mut shown = [0; 4096];
    let count = desk.person.read(&mut shown).expect("something was shown");
    assert_eq!(text(&shown[..count]).trim_end(), "available: 2 nodes (0-1)");
}

#[test]
fn keys_that_nobody_takes_do_not_end_the_command_but_the_one_to_end_it_does() {
    let folder = folder();
    let mut command = command(&folder, &serial(None));
    let pid = folder.path().join("pid");
    command.env("FAKE_HANG", &pid);
    let mut desk = Desk::new(command);
    desk.wait_for_raw_mode();
    desk.wait_for("a QEMU that does not listen", |_| fs::read_to_string(&pid).is_ok_and(|pid| pid.ends_with('\n')));
    desk.person.write_all(b"numa\r").expect("the terminal takes keys");
    // So that the keys are passed on by themselves. Where this is too short the test shows less, and does not fail.
    thread::sleep(Duration::from_millis(100));
    assert_eq!(desk.child.try_wait().expect("it is our child"), None, "a key is no reason to end");
    desk.person.write_all(b"\x1c").expect("the terminal takes keys");
    assert_eq!(desk.end(), Some(130));
    desk.assert_mode_is_back();
}

#[test]
fn a_terminal_is_as_before_when_the_command_is_told_to_end() {
    let folder = folder();
    let mut command = command(&folder, &serial(None));
    command.env("FAKE_HANG", folder.path().join("pid"));
    let mut desk = Desk::new(command);
    desk.wait_for_raw_mode();
    let child = desk.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &child]).status().expect("there is kill").success());
    assert_eq!(desk.end(), Some(130));
    desk.assert_mode_is_back();
}
