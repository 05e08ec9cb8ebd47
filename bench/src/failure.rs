//! [`Failure`]: everything that can go wrong between a command and its guest, each as one sentence.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::pin::CannotPin;
use crate::process::Exit;
use crate::words::count;

/// Why a run did not come to a good end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// QEMU cannot be run.
    #[error(
        "{} cannot be run ({problem}); install QEMU (Debian, Ubuntu: sudo apt-get install qemu-system-x86) or name another by --qemu",
        qemu.display()
    )]
    NoQemu { qemu: PathBuf, problem: io::Error },
    /// The serial log cannot be written.
    #[error("cannot write the serial log {}: {problem}", log.display())]
    Log { log: PathBuf, problem: io::Error },
    /// The file of records cannot be written.
    #[error("cannot write the records to {}: {problem}", output.display())]
    Output { output: PathBuf, problem: io::Error },
    /// Virtual CPUs cannot be bound to this computer's.
    #[error(transparent)]
    Pin(#[from] CannotPin),
    /// QEMU refused its command line, or could not go on.
    #[error("QEMU gave up (exit status {status}): {complaint}")]
    Qemu { status: i32, complaint: String },
    /// The loader refused.
    #[error("the loader refused to boot: {reason}")]
    Loader { reason: String },
    /// No first record in time.
    #[error("the guest did not boot within {} s (--boot-timeout)", limit.as_secs_f64())]
    BootDeadline { limit: Duration },
    /// No further record in time.
    #[error("the guest went silent: no record for {} s (--record-timeout){}", limit.as_secs_f64(), during(test.as_deref()))]
    RecordDeadline { limit: Duration, test: Option<String> },
    /// Not done in time.
    #[error("the guest was not done within {} s (--timeout){}", limit.as_secs_f64(), during(test.as_deref()))]
    WorkDeadline { limit: Duration, test: Option<String> },
    /// Wrote its last record and then did not end.
    #[error("the guest wrote its last record but did not end")]
    Lingered,
    /// Panic or fault.
    #[error("the guest panicked{}{}", during(test.as_deref()), reason.as_ref().map(|it| format!(": {it}")).unwrap_or_default())]
    Panicked { test: Option<String>, reason: Option<String> },
    /// QEMU ended without the guest having asked for it.
    #[error("the guest died{}: {}", during(test.as_deref()), death(*exit))]
    Died { exit: Exit, test: Option<String> },
    /// Ended in order, but without saying so.
    #[error("the guest ended without its last record{}", during(test.as_deref()))]
    NoEnd { test: Option<String> },
    /// A line that should be a record is none.
    #[error("line {line} of the guest's output is {problem}")]
    Malformed { line: usize, problem: String },
    /// A record where it cannot be.
    #[error("line {line} of the guest's output is a `{record}` record {place}")]
    Misplaced { line: usize, record: &'static str, place: &'static str },
    /// Not all of what was announced.
    #[error("the guest announced {} but gave {given}", count(*announced, "result"))]
    TooFew { announced: u64, given: u64 },
    /// Nothing at all to show.
    #[error("the guest ended well but gave no `{0}` record")]
    Nothing(&'static str),
    /// An empty plan.
    #[error(
        "nothing was measured: no allocator asked for can do a workload asked for in those sizes on this machine; \
         `quarry list` has all of both"
    )]
    NoResults,
    /// A report that was asked for is not there.
    #[error("the guest gave no `{0}` report")]
    NoReport(String),
    /// Says itself that it failed.
    #[error("{reason}")]
    SaysFailed { reason: String },
    /// Errors in the records of a guest that claims to be well.
    #[error("the guest counted {}", count(*errors, "error"))]
    Errors { errors: u64 },
    /// Its last record and its exit status contradict each other.
    #[error("the guest's last record says all is well, but its exit status that it failed")]
    Contradiction,
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl Failure {
    /// Whether the guest's last lines help to understand it.
    pub(crate) const fn wants_last_lines(&self) -> bool {
        matches!(
            self,
            Self::BootDeadline { .. }
                | Self::RecordDeadline { .. }
                | Self::WorkDeadline { .. }
                | Self::Panicked { .. }
                | Self::Died { .. }
                | Self::NoEnd { .. }
                | Self::Lingered
        )
    }
}

fn during(test: Option<&str>) -> String {
    test.map(|test| format!(" in the test {test}")).unwrap_or_default()
}

fn death(exit: Exit) -> String {
    match exit {
        Exit::Other(0) => "the machine reset or powered off, most likely by a triple fault".into(),
        Exit::Other(status) => format!("exit status {status}"),
        Exit::Signal(signal) => format!("QEMU was killed by signal {signal}"),
        // Ends of another kind have failures of their own.
        Exit::Success | Exit::Failed | Exit::Panicked | Exit::LoaderRefused => format!("{exit:?}"),
    }
}
