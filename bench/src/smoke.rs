//! `quarry smoke`: boots every topology of a folder, and holds what the guest found against what was asked for.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use quarry_record::Record;

use crate::accelerator::Accelerator;
use crate::expectation::Expectation;
use crate::failure::Failure;
use crate::images;
use crate::machine::file;
use crate::process::default_log;
use crate::qemu::Boot;
use crate::session::Session;
use crate::size::Size;
use crate::watch::{Deadlines, Ended, Files, Observer, watch};
use crate::words::count;

/// How the topologies are booted.
pub(crate) struct Smoke {
    pub(crate) qemu: PathBuf,
    pub(crate) accelerator: Accelerator,
    pub(crate) files: images::Files,
    pub(crate) guest_words: Vec<String>,
    pub(crate) more: Vec<String>,
    pub(crate) deadlines: Deadlines,
    /// Where the serial logs go.
    pub(crate) results: PathBuf,
}

/// The topology files of a folder by name, all or only those named.
///
/// # Errors
///
/// When the folder cannot be read, or has none of a name.
pub(crate) fn topologies(folder: &Path, only: &[String]) -> Result<Vec<PathBuf>> {
    let entries = folder.read_dir().with_context(|| format!("cannot read the folder {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    if let Some(unknown) = only.iter().find(|name| !files.iter().any(|file| name_of(file) == **name)) {
        let names: Vec<String> = files.iter().map(|file| name_of(file)).collect();
        bail!("there is no topology `{unknown}` in {}; choose from {}", folder.display(), names.join(", "));
    }
    files.retain(|file| only.is_empty() || only.contains(&name_of(file)));
    if files.is_empty() {
        bail!("there are no topologies in {}", folder.display());
    }
    Ok(files)
}

fn name_of(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

impl Smoke {
    /// Boots them one after the other, with a line for each.
    ///
    /// # Errors
    ///
    /// When one fails, after all were tried; at once when none can be tried.
    pub(crate) fn run(&self, topologies: &[PathBuf]) -> Result<()> {
        let mut failed = Vec::new();
        for topology in topologies {
            let name = name_of(topology);
            let started = Instant::now();
            match self.boot(topology, &name) {
                Ok((found, up)) => println!("ok      {name}: {found} (up after {up}, {})", seconds(started.elapsed())),
                Err(error) if matches!(error.downcast_ref(), Some(Failure::Interrupted | Failure::NoQemu { .. })) => {
                    return Err(error);
                }
                Err(error) => {
                    println!("FAILED  {name}: {error:#} ({})", seconds(started.elapsed()));
                    failed.push(name);
                }
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        let all = count(topologies.len() as u64, "boot");
        bail!("{} of {all} failed: {} (serial logs in {})", failed.len(), failed.join(", "), self.results.display())
    }

    /// One boot; what was found, in a few words, and how long the guest took to be up.
    fn boot(&self, topology: &Path, name: &str) -> Result<(String, String)> {
        let file = file::read(topology)?;
        let expectation = Expectation::new(&file.machine, &file.expect);
        let boot = Boot {
            qemu: self.qemu.clone(),
            machine: file.machine,
            accelerator: self.accelerator,
            loader: self.files.loader.clone(),
            image: self.files.image.clone(),
            guest_words: self.guest_words.clone(),
            pin: false,
            more: self.more.clone(),
        };
        let files = Files { log: default_log(&self.results, &format!("smoke-{name}")), output: None, append: false };
        let mut stopwatch = Stopwatch { started: Instant::now(), up: None };
        let Ended { session, verdict } = watch(&boot, self.deadlines, &files, &mut stopwatch);
        verdict?;
        let run = session.run.context("the guest ended well without a `run` record")?;
        if let Err(wrong) = expectation.check(&run, session.statistics.as_ref()) {
            bail!("{}", wrong.join("; "));
        }
        let memory = Size(run.topology.nodes.iter().map(|node| node.memory_bytes).sum());
        let found = format!(
            "{}, {}, {}, {}",
            boot.machine.board.name(),
            count(run.cpus_online.into(), "CPU"),
            count(run.topology.nodes.len() as u64, "node"),
            memory.for_people()
        );
        Ok((found, stopwatch.reading()))
    }
}

/// How long a guest takes from QEMU's start to the first record, which is the first line that the image's `main`
/// writes.
struct Stopwatch {
    started: Instant,
    up: Option<Duration>,
}

impl Stopwatch {
    fn reading(&self) -> String {
        self.up.map_or("no time known".to_owned(), |up| format!("{} ms", up.as_millis()))
    }
}

impl Observer for Stopwatch {
    fn record(&mut self, _record: &Record, _session: &Session) {
        self.up.get_or_insert(self.started.elapsed());
    }
}

fn seconds(elapsed: Duration) -> String {
    format!("{:.1} s", elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::DEFAULT_QEMU;
    use quarry_record::{End, EndStatus};

    #[test]
    fn every_machine_of_ci_is_described_and_becomes_its_line() {
        for topology in topologies(&images::workspace().join("ci/topologies"), &[]).expect("the folder is there") {
            let machine = file::read(&topology).unwrap_or_else(|error| panic!("{error}")).machine;
            let tables = images::workspace().to_string_lossy().into_owned() + "/";
            let boot = Boot {
                qemu: DEFAULT_QEMU.into(),
                machine,
                accelerator: Accelerator::Tcg { icount: false },
                loader: "loader".into(),
                image: "image".into(),
                guest_words: vec!["mode=boot".into()],
                pin: false,
                more: Vec::new(),
            };
            let line = boot.line().replace(&tables, "").replace(" -", "\n-");
            insta::assert_snapshot!(name_of(&topology), line);
        }
    }

    #[test]
    fn a_guest_is_up_at_its_first_record_and_not_again() {
        let mut stopwatch = Stopwatch { started: Instant::now(), up: None };
        assert_eq!(stopwatch.reading(), "no time known");
        let end = Record::End(End { status: EndStatus::Ok, reason: None, errors: 0 });
        stopwatch.record(&end, &Session::default());
        assert!(stopwatch.up.is_some());
        stopwatch.up = Some(Duration::from_secs(7));
        stopwatch.record(&end, &Session::default());
        assert_eq!(stopwatch.reading(), "7000 ms");
    }

    #[test]
    fn only_topologies_that_are_there_can_be_asked_for() {
        let folder = images::workspace().join("ci/topologies");
        let only = |name: &str| topologies(&folder, &[name.to_owned()]);
        assert_eq!(only("default").expect("it is there"), [folder.join("default.toml")]);
        assert!(only("none").expect_err("there is none").to_string().starts_with("there is no topology `none` in "));
    }
}
