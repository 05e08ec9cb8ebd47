//! [`Process`]: a running QEMU, its guest's serial line as lines of text, and the log that keeps all of it.
//!
//! Two threads read QEMU's pipes: standard output is the guest's serial port, standard error is QEMU itself. Both
//! append to the log as they read, so the log is whole to the last byte even when QEMU is killed. Lines of the guest go
//! through a channel to whoever watches. Where somebody speaks with the guest ([`Line`]), the serial port's bytes also go
//! to them as they come. Dropping a [`Process`] kills QEMU.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::qemu::Boot;

/// How long at most nobody looks whether the user wants to stop.
const TICK: Duration = Duration::from_millis(100);

/// A guest that writes no line end is cut here, so that it cannot fill the host's memory.
const LONGEST_LINE: usize = 16 << 20;

/// Set by Ctrl-C. Relaxed on both sides: nothing else is handed over by it.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Lets Ctrl-C (and a request to terminate) end what runs here, QEMU included.
pub(crate) fn listen_to_interrupts() {
    // Also where the signal was ignored so far, as it is in a script's background: whoever asks QEMU's keeper to stop
    // must not be left with both. It fails only when called twice.
    drop(ctrlc::set_handler(interrupt));
}

/// Has it end as Ctrl-C does.
pub(crate) fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Whether the user wants to stop.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// How QEMU ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The image says all is well.
    Success,
    /// The image says it failed.
    Failed,
    /// The guest panicked or took a fault.
    Panicked,
    /// The loader refused to boot.
    LoaderRefused,
    /// QEMU ended with a code nobody in the guest gives; 0 is what a triple fault comes to.
    Other(i32),
    /// QEMU was killed by a signal.
    Signal(i32),
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt;
        // The device isa-debug-exit makes 2 * n + 1 of what the guest writes.
        match status.code() {
            Some(33) => Self::Success,
            Some(35) => Self::Failed,
            Some(37) => Self::Panicked,
            Some(39) => Self::LoaderRefused,
            Some(code) => Self::Other(code),
            None => Self::Signal(status.signal().unwrap_or_default()),
        }
    }
}

/// What happened next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The guest wrote a line; its end is cut off.
    Line(String),
    /// The guest can write no more: QEMU has ended or is about to.
    Closed,
    /// Nothing, for a moment.
    Silence,
    /// The user wants to stop.
    Interrupted,
}

/// Takes bytes as they come.
type Sink = dyn FnMut(&[u8]) + Send;

/// The guest's serial line where somebody is at its other end.
pub(crate) struct Line {
    /// What the guest reads.
    pub(crate) input: Stdio,
    /// Whoever wants what the guest writes, before it is cut into lines.
    pub(crate) output: Box<Sink>,
}

impl Line {
    /// Nobody is there.
    pub(crate) fn unused() -> Self {
        Self { input: Stdio::null(), output: Box::new(|_| {}) }
    }
}

/// A running QEMU.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    readers: Vec<JoinHandle<()>>,
    complaints: Arc<Mutex<Vec<u8>>>,
}

/// Whether a QEMU can be run at all.
///
/// # Errors
///
/// [`Failure::NoQemu`] when not.
pub(crate) fn check_qemu(qemu: &Path) -> Result<(), Failure> {
    let version = Command::new(qemu).arg("--version").stdin(Stdio::null()).output();
    version.map(drop).map_err(|problem| Failure::NoQemu { qemu: qemu.to_owned(), problem })
}

impl Process {
    /// Starts QEMU. The log begins with the command line.
    ///
    /// # Errors
    ///
    /// [`Failure::NoQemu`] and [`Failure::Log`].
    pub(crate) fn start(boot: &Boot, log: &Path, line: Line) -> Result<Self, Failure> {
        let no_log = |problem| Failure::Log { log: log.to_owned(), problem };
        let log_file = create(log).map_err(no_log)?;
        writeln!(&log_file, "$ {}", boot.line()).map_err(no_log)?;
        let mut child = Command::new(&boot.qemu)
            .args(boot.arguments())
            .stdin(line.input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|problem| Failure::NoQemu { qemu: boot.qemu.clone(), problem })?;
        let serial = child.stdout.take().expect("it was asked to be piped");
        let stderr = child.stderr.take().expect("it was asked to be piped");
        let log_file = Arc::new(log_file);
        let (sender, lines) = mpsc::channel();
        let complaints = Arc::new(Mutex::new(Vec::new()));
        let serial_reader = thread::spawn({
            let log_file = Arc::clone(&log_file);
            let mut output = line.output;
            move || read_lines(serial, &log_file, &mut output, &sender)
        });
        let stderr_reader = thread::spawn({
            let complaints = Arc::clone(&complaints);
            move || read_complaints(stderr, &log_file, &complaints)
        });
        Ok(Self { child, lines, readers: vec![serial_reader, stderr_reader], complaints })
    }

    /// QEMU's number among processes.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the guest's next line, but no longer than to the deadline, and a moment at most.
    pub(crate) fn next(&self, deadline: Instant) -> Event {
        if interrupted() {
            return Event::Interrupted;
        }
        match self.lines.recv_timeout(TICK.min(deadline.saturating_duration_since(Instant::now()))) {
            Ok(line) => Event::Line(line),
            Err(RecvTimeoutError::Disconnected) => Event::Closed,
            Err(RecvTimeoutError::Timeout) => Event::Silence,
        }
    }

    /// Waits for QEMU to end; `None` when it has not by the deadline.
    pub(crate) fn exit(&mut self, deadline: Instant) -> Option<Exit> {
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                self.readers.drain(..).for_each(|reader| drop(reader.join()));
                return Some(status.into());
            }
            if Instant::now() >= deadline || interrupted() {
                return None;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What QEMU itself had to say so far.
    pub(crate) fn complaints(&self) -> String {
        let bytes = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when QEMU has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn create(log: &Path) -> io::Result<File> {
    if let Some(folder) = log.parent() {
        std::fs::create_dir_all(folder)?;
    }
    File::create(log)
}

/// Appends to the log. A full disk must not end a run whose records go elsewhere.
fn keep(mut log: &File, bytes: &[u8]) {
    drop(log.write_all(bytes));
}

fn read_lines(mut serial: impl Read, log: &File, output: &mut Sink, lines: &Sender<String>) {
    let mut chunk = vec![0; 64 << 10];
    let mut line = Vec::new();
    let send = |line: &mut Vec<u8>| {
        let text = String::from_utf8_lossy(line).trim_end_matches('\r').to_owned();
        line.clear();
        lines.send(text).is_ok()
    };
    while let Ok(count) = serial.read(&mut chunk) {
        if count == 0 {
            break;
        }
        keep(log, &chunk[..count]);
        output(&chunk[..count]);
        for &byte in &chunk[..count] {
            if byte != b'\n' {
                line.push(byte);
            }
            if (byte == b'\n' || line.len() >= LONGEST_LINE) && !send(&mut line) {
                return;
            }
        }
    }
    if !line.is_empty() {
        send(&mut line);
    }
}

fn read_complaints(mut stderr: impl Read, log: &File, complaints: &Mutex<Vec<u8>>) {
    let mut chunk = [0; 4096];
    while let Ok(count) = stderr.read(&mut chunk) {
        if count == 0 {
            break;
        }
        keep(log, &chunk[..count]);
        complaints.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&chunk[..count]);
    }
}

/// Where a command keeps its serial log when it is not told.
pub(crate) fn default_log(results: &Path, command: &str) -> PathBuf {
    results.join(format!("{command}.log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(serial: &[u8]) -> Vec<String> {
        let log = tempfile::tempfile().expect("there is room for a file");
        let (sender, lines) = mpsc::channel();
        read_lines(serial, &log, &mut |_| {}, &sender);
        drop(sender);
        lines.iter().collect()
    }

    #[test]
    fn lines_end_with_or_without_a_carriage_return() {
        assert_eq!(lines(b"one\r\ntwo\n\nthree\r\n"), ["one", "two", "", "three"]);
    }

    #[test]
    fn a_last_line_without_an_end_is_a_line() {
        assert_eq!(lines(b"one\ntw"), ["one", "tw"]);
    }

    #[test]
    fn bytes_that_are_no_text_do_not_stop_the_reader() {
        assert_eq!(lines(b"a\xffb\nc\n"), ["a\u{fffd}b", "c"]);
    }
}
