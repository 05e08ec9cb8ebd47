//! Runs what the sources are measured by, and notes when and on what that was.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::sources::Stamp;
use super::startup;
use super::targets::{Kind, Source};
use crate::budget::compiler;
use crate::images::{revision, workspace};
use crate::process::interrupted;
use crate::qemu::DEFAULT_QEMU;

/// What is not known of a machine.
const UNKNOWN: &str = "not known";

/// Measures a source, and leaves its file and its stamp in the folder. A file there is stays until the new one is whole.
///
/// # Errors
///
/// When what is run fails, or files cannot be written.
pub(super) fn measure(source: &Source, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let file = source.file(folder);
    let new = file.with_extension("new");
    eprintln!("measuring {}: {}", source.name, source.command);
    match source.kind {
        Kind::Startup => write(&new, &serde_json::to_string(&startup::measure(source)?)?)?,
        Kind::Records | Kind::Peers => run(source, &new)?,
    }
    let stamp = Stamp {
        date: first_line("date", &["-u", "+%Y-%m-%d"]).unwrap_or_else(|| UNKNOWN.into()),
        cpu: cpu().unwrap_or_else(|| UNKNOWN.into()),
        qemu: qemu().unwrap_or_else(|| UNKNOWN.into()),
        rustc: compiler::version().unwrap_or_else(|| UNKNOWN.into()),
        revision: revision(),
    };
    write(&source.stamp(folder), &serde_json::to_string(&stamp)?)?;
    fs::rename(&new, &file).with_context(|| format!("cannot write {}", file.display()))
}

/// Runs a source's command, which writes a file.
fn run(source: &Source, output: &Path) -> Result<()> {
    let malformed = || format!("the command of the source `{}` is no line of words: {}", source.name, source.command);
    let words = shlex::split(&source.command).with_context(malformed)?;
    let (program, arguments) = words.split_first().with_context(malformed)?;
    let mut command = if program == "quarry" {
        Command::new(env::current_exe().context("cannot tell where this command is")?)
    } else {
        Command::new(program)
    };
    command.args(arguments).arg("--output").arg(output).current_dir(workspace());
    // The tables of each run are in its file.
    command.stdout(std::process::Stdio::null());
    // A benchmark goes by the shell's folder when it is given a path from there.
    command.env("PWD", workspace());
    let status = command.status().with_context(|| format!("cannot run {program} to measure `{}`", source.name))?;
    if interrupted() {
        bail!("interrupted");
    }
    if !status.success() {
        bail!("measuring `{}` failed ({status}): {}", source.name, source.command);
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text.to_owned() + "\n").with_context(|| format!("cannot write {}", file.display()))
}

fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.lines().next()?.trim().to_owned())
}

fn cpu() -> Option<String> {
    let information = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = information.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// `7.2.22`, of `QEMU emulator version 7.2.22 (Debian ...)`.
fn qemu() -> Option<String> {
    let line = first_line(DEFAULT_QEMU, &["--version"])?;
    Some(line.split_once("version ")?.1.split_whitespace().next()?.to_owned())
}
