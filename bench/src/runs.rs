//! Files of records, as `quarry run --output` writes them: one run, or several one after the other.
//!
//! Used by every command that reads such files again.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use quarry_record::Record;

use crate::session::Session;

/// The ending of files of records in a folder.
const ENDING: &str = "jsonl";

/// The runs of a file, in its order; at least one. A run may lack its end.
///
/// # Errors
///
/// When the file cannot be read, is no file of records, or has no `run` record.
pub(crate) fn read(file: &Path) -> Result<Vec<Session>> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut runs = Vec::new();
    let mut session = Session::default();
    for (at, line) in text.lines().enumerate() {
        if session.run.is_some() && is_run(line) {
            runs.push(std::mem::replace(&mut session, Session::behind(at)));
        }
        session.take(line).with_context(|| format!("{} is no file of records", file.display()))?;
    }
    if session.run.is_none() {
        bail!("{} has no `run` record", file.display());
    }
    runs.push(session);
    Ok(runs)
}

/// The runs of several files, and of all `.jsonl` files in folders, by name. All have come to a good end, or figures
/// would not tell what they seem to.
///
/// # Errors
///
/// As [`read`]; when a folder has no such file, or a run is not whole, has errors or no results.
pub(crate) fn read_whole(paths: &[PathBuf]) -> Result<Vec<Session>> {
    let mut runs = Vec::new();
    for path in paths {
        for file in files(path)? {
            let read = read(&file)?;
            let several = read.len() > 1;
            for (at, run) in read.into_iter().enumerate() {
                let which =
                    if several { format!("run {} of {}", at + 1, file.display()) } else { file.display().to_string() };
                let end = run.end.as_ref();
                let end =
                    end.with_context(|| format!("{which} has no `end` record: that run did not come to its end"))?;
                run.judge(end).with_context(|| format!("{which} cannot be used"))?;
                if run.results.is_empty() {
                    bail!("{which} has no results");
                }
                runs.push(run);
            }
        }
    }
    Ok(runs)
}

/// Whether the results of all these runs can stand in one table: no two are of the same allocator, and all are in
/// the same unit.
pub(crate) fn can_stand_together(sessions: &[Session]) -> bool {
    let mut seen = BTreeSet::new();
    let mut counted = BTreeSet::new();
    sessions.iter().all(|session| {
        let allocators: BTreeSet<&str> = session.results.iter().map(|result| result.allocator.as_str()).collect();
        counted.insert(session.run.as_ref().is_some_and(|run| run.icount));
        allocators.into_iter().all(|allocator| seen.insert(allocator)) && counted.len() == 1
    })
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let cannot = || format!("cannot read the folder {}", path.display());
    let entries = fs::read_dir(path).with_context(cannot)?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>().with_context(cannot)?;
    files.retain(|file| file.extension().is_some_and(|ending| ending == ENDING));
    files.sort();
    if files.is_empty() {
        bail!("the folder {} has no .{ENDING} file", path.display());
    }
    Ok(files)
}

/// Whether a line is a `run` record. Lines that cannot be are not parsed twice.
fn is_run(line: &str) -> bool {
    line.contains("\"run\"") && matches!(Record::from_line(line), Ok(Record::Run(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_record::{Measurement, Run};

    fn session(icount: bool, allocators: &[&str]) -> Session {
        let result = |allocator: &&str| Measurement { allocator: (*allocator).to_owned(), ..Measurement::default() };
        let mut session = Session::default();
        session.run = Some(Run { icount, ..Run::default() });
        session.results = allocators.iter().map(result).collect();
        session
    }

    #[test]
    fn runs_of_other_allocators_stand_together_unless_their_units_differ() {
        let together = |sessions: &[Session]| can_stand_together(sessions);
        assert!(together(&[session(false, &["quarry", "quarry", "talc"]), session(false, &["linux-6.1-slub"])]));
        assert!(!together(&[session(false, &["quarry"]), session(false, &["talc", "quarry"])]));
        assert!(!together(&[session(false, &["quarry"]), session(true, &["linux-6.1-slub"])]));
    }
}
