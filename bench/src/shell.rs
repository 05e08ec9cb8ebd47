//! The command `shell`: a guest whose prompt a person or a script speaks with.
//!
//! The guest edits lines and does what they say; here its serial line is joined to standard input and output. At a
//! terminal that is raw, so that the guest sees every key; from a pipe the guest gets the script and a byte for its end,
//! and what it writes comes out as plain lines. Its records, by which the session is judged as any other, are not shown.

use std::io::{PipeWriter, Read, Write, pipe, stdin, stdout};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use quarry_record::Record;

use crate::cli::{HostOptions, MachineOptions};
use crate::guest::Guest;
use crate::images::Image;
use crate::process::{Line, interrupt};
use crate::session::Session;
use crate::terminal::{self, Raw};
use crate::watch::{Deadlines, Observer, watch_line};

/// What ends a script for the guest: the end of its last line, whether it had one or not, and Ctrl-D.
const END_OF_SCRIPT: &[u8] = b"\n\x04";

/// Ctrl-\: at a terminal it ends QEMU at once, whatever the guest is doing.
const END_AT_ONCE: u8 = 0x1c;

/// As long as anybody might sit at a prompt.
const FOR_GOOD: Duration = Duration::from_hours(24 * 365);

#[derive(Debug, Args)]
pub(crate) struct ShellCommand {
    #[command(flatten)]
    machine: MachineOptions,
    #[command(flatten)]
    host: HostOptions,
}

/// Boots, and stays until the guest is told to end.
///
/// # Errors
///
/// When the guest comes to a bad end, or a command of a script failed.
pub(crate) fn execute(command: &ShellCommand) -> Result<()> {
    let columns = terminal::columns();
    let words = ["mode=shell".to_owned(), format!("columns={}", columns.unwrap_or(0))];
    let guest = Guest::prepare(Image::Bench, "shell", &command.machine, &command.host, words)?;
    eprintln!("{}", guest.boot.line());
    if columns.is_some() {
        eprintln!("`quit` or Ctrl-D ends the guest, Ctrl-\\ QEMU at once.");
    }
    let (input, feed) = pipe().context("there is no pipe for the guest's input")?;
    let mut screen = Screen::new(stdout(), columns.is_some(), command.host.verbose);
    let line = Line { input: Stdio::from(input), output: Box::new(move |bytes| screen.show(bytes)) };
    let mut join = Join { at_terminal: columns.is_some(), feed: Some(feed), raw: None, problem: None };
    let ended = watch_line(&guest.boot, deadlines(&command.host, columns.is_some()), &guest.files, line, &mut join);
    // From here on lines are for a terminal as it was.
    drop(join.raw);
    if let Err(failure) = &ended.verdict
        && failure.wants_last_lines()
        && ended.session.run.is_none()
    {
        ended.session.last_lines().for_each(|line| eprintln!("| {line}"));
    }
    if let Some(problem) = join.problem {
        return Err(problem);
    }
    ended.verdict.map_err(|failure| guest.explain(failure))
}

/// Nobody knows how long a command takes. A script as a whole has the time that `--timeout` gives it.
fn deadlines(host: &HostOptions, at_terminal: bool) -> Deadlines {
    let deadlines = host.deadlines(Duration::ZERO);
    if at_terminal {
        Deadlines { record: FOR_GOOD, work: FOR_GOOD, ..deadlines }
    } else {
        Deadlines { record: FOR_GOOD, ..deadlines }
    }
}

/// Joins standard input to the guest as soon as the guest listens: what its port got before would be lost.
struct Join {
    at_terminal: bool,
    feed: Option<PipeWriter>,
    raw: Option<Raw>,
    /// Why the terminal could not be had.
    problem: Option<anyhow::Error>,
}

impl Observer for Join {
    fn record(&mut self, record: &Record, _session: &Session) {
        if !matches!(record, Record::Run(_)) {
            return;
        }
        let Some(feed) = self.feed.take() else { return };
        if self.at_terminal {
            match Raw::enter() {
                Ok(raw) => self.raw = Some(raw),
                Err(problem) => {
                    self.problem = Some(anyhow::Error::from(problem).context("the terminal cannot be made raw"));
                    interrupt();
                    return;
                }
            }
        }
        let at_terminal = self.at_terminal;
        // It waits for input that may never come, and ends with the process.
        thread::spawn(move || pass_on(stdin(), feed, at_terminal));
    }
}

/// Passes everything on until there is no more, or nobody takes it.
fn pass_on(mut from: impl Read, mut to: impl Write, at_terminal: bool) {
    let mut chunk = [0; 4096];
    loop {
        // Input that cannot be read any more is at its end.
        let count = from.read(&mut chunk).unwrap_or(0);
        if count == 0 {
            drop(to.write_all(END_OF_SCRIPT));
            return;
        }
        if at_terminal && chunk[..count].contains(&END_AT_ONCE) {
            interrupt();
            return;
        }
        // It fails when QEMU is gone; whoever watches sees that. A person may still have to end a QEMU that only does not
        // listen.
        if to.write_all(&chunk[..count]).is_err() && !at_terminal {
            return;
        }
    }
}

/// What of the guest's bytes a person sees.
struct Screen<W> {
    out: W,
    /// Whether carriage returns mean something.
    at_terminal: bool,
    /// Whether to show what comes now: not the boot's log, unless that is wanted.
    open: bool,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    LineStart,
    Text,
    Record,
}

impl<W: Write> Screen<W> {
    const fn new(out: W, at_terminal: bool, open: bool) -> Self {
        Self { out, at_terminal, open, place: Place::LineStart }
    }

    fn show(&mut self, bytes: &[u8]) {
        let shown: Vec<u8> = bytes.iter().copied().filter(|byte| self.shows(*byte)).collect();
        // Who does not want to read on gets no more; the guest goes on, and its end still counts.
        drop(self.out.write_all(&shown).and_then(|()| self.out.flush()));
    }

    fn shows(&mut self, byte: u8) -> bool {
        if self.place == Place::LineStart {
            self.place = if byte == b'{' { Place::Record } else { Place::Text };
        }
        let is_record = self.place == Place::Record;
        let shown = self.open && !is_record && (self.at_terminal || byte != b'\r');
        if byte == b'\n' {
            self.open |= is_record;
            self.place = Place::LineStart;
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(at_terminal: bool, open: bool, chunks: &[&str]) -> String {
        let mut screen = Screen::new(Vec::new(), at_terminal, open);
        for chunk in chunks {
            screen.show(chunk.as_bytes());
        }
        String::from_utf8(screen.out).expect("text came in")
    }

    const GUEST: [&str; 5] =
        ["[0.1] booting\r\n{\"type\":", "\"run\"}\r", "\n", "\rquarry> {\r\n", "{\"type\":\"end\"}\r\nafter all\r\n"];

    #[test]
    fn records_and_the_boot_are_not_shown() {
        assert_eq!(shown(true, false, &GUEST), "\rquarry> {\r\nafter all\r\n");
        assert_eq!(shown(true, true, &GUEST), "[0.1] booting\r\n\rquarry> {\r\nafter all\r\n");
    }

    #[test]
    fn a_pipe_gets_plain_lines() {
        assert_eq!(shown(false, false, &["{}\r\nnode 0 cpus: 0 1\r\n"]), "node 0 cpus: 0 1\n");
    }

    #[test]
    fn a_script_ends_with_a_line_end_and_a_byte() {
        let mut to = Vec::new();
        pass_on(&b"numa\nrows"[..], &mut to, false);
        assert_eq!(to, b"numa\nrows\n\x04");
    }
}
