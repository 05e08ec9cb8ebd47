//! `quarry trace`: traces of allocations and frees: made of Linux's, looked at, recorded in a guest.
//!
//! ```text
//! record    workloads or a whole guest, as a trace
//! info      what is in a trace
//! convert   lines of Linux's tools as a trace
//! line      a line of `perf script` or `trace-cmd report`
//! ```
//!
//! What a trace is, and how it is written, is `quarry-trace`'s; how it is replayed, the suite's.

mod convert;
mod info;
mod line;
mod record;
#[cfg(test)]
mod tests;

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use quarry_trace::{MOST_TEXT, Trace};

use convert::{Converted, Only};
use record::RecordCommand;

#[derive(Debug, Args)]
pub(crate) struct TraceCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a trace of what `perf script` or `trace-cmd report` print of Linux's kmem events.
    Convert(ConvertCommand),
    /// Tell what is in a trace.
    Info(InfoCommand),
    /// Run workloads in a guest and record what they do, or all that the guest does.
    Record(Box<RecordCommand>),
}

#[derive(Debug, Args)]
struct ConvertCommand {
    /// The lines, as the tool printed them; `-` for standard input.
    file: PathBuf,
    /// Where to write the trace [default: standard output].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Take only these events: Linux takes pages for its objects too, and a replay of both takes them twice.
    #[arg(long, value_enum)]
    only: Option<Only>,
}

#[derive(Debug, Args)]
struct InfoCommand {
    /// The trace.
    file: PathBuf,
}

/// Does what the command line says.
///
/// # Errors
///
/// One sentence on what is wrong.
pub(crate) fn execute(command: &TraceCommand) -> Result<()> {
    match &command.action {
        Action::Convert(command) => convert(command),
        Action::Info(command) => {
            print!("{}", info::Info::of(&read(&command.file)?));
            Ok(())
        }
        Action::Record(command) => record::execute(command),
    }
}

/// The trace in a file.
///
/// # Errors
///
/// When it cannot be read, or is none.
pub(crate) fn read(file: &Path) -> Result<Trace> {
    Trace::parse(&text(file)?).with_context(|| file.display().to_string())
}

/// The same, for a guest.
///
/// # Errors
///
/// Also when a guest would not take it.
pub(crate) fn check_for_guest(file: &Path) -> Result<()> {
    let trace = read(file)?;
    let bytes = fs::metadata(file).with_context(|| file.display().to_string())?.len();
    if bytes > MOST_TEXT {
        bail!(
            "{} has {} MiB of text, and a guest takes {} MiB; record or convert fewer events",
            file.display(),
            bytes >> 20,
            MOST_TEXT >> 20,
        );
    }
    if trace.events().is_empty() {
        bail!("{} has no event to replay", file.display());
    }
    Ok(())
}

fn text(file: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let result = if file == Path::new("-") {
        io::stdin().read_to_end(&mut bytes).map(drop)
    } else {
        fs::read(file).map(|contents| bytes = contents)
    };
    result.with_context(|| format!("cannot read {}", file.display()))?;
    // Names of programs may be in any encoding; the rest of such lines is still good.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn convert(command: &ConvertCommand) -> Result<()> {
    let converted = Converted::of(&text(&command.file)?, command.only);
    eprint!("{}", converted.counts);
    if converted.trace.events().is_empty() {
        bail!("{} has no allocation to replay{}", command.file.display(), converted.counts.advice());
    }
    write(&converted.trace, command.output.as_deref())
}

/// Writes a trace to a file or to standard output.
fn write(trace: &Trace, output: Option<&Path>) -> Result<()> {
    let text = trace.to_string();
    match output {
        Some(file) => fs::write(file, text).with_context(|| format!("cannot write {}", file.display())),
        None => io::stdout().write_all(text.as_bytes()).context("cannot write the trace"),
    }
}
