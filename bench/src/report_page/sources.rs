//! The files a report is about, and views of their results: every row, or each allocator's latest figures.
//!
//! A file may hold several runs, boots of one build. Pictures show, case by case, the last figures there are of each
//! allocator, so that files of different allocators come together and the later of two builds is what is seen;
//! comparisons set a file beside the first; tables have every row.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Result, bail};
use quarry_record::Measurement;

use super::chart::Tone;
use crate::runs;
use crate::session::Session;
use crate::tables::extent;
use crate::words::count;

/// The allocator that is drawn over all others.
pub(crate) const OURS: &str = "quarry";

/// The size a workload is shown at, where it has several: the commonest of small kernel objects.
const REPRESENTATIVE_SIZE: u64 = 64;

/// A file of records.
#[derive(Debug)]
pub(crate) struct Source {
    /// Its name without folders, or with them where two have the same.
    pub(crate) label: String,
    /// Its runs; at least one.
    pub(crate) runs: Vec<Session>,
}

/// All files, in the order they were named.
///
/// # Errors
///
/// When one cannot be read, is no file of records or has no results, and when some measure time and some instructions.
pub(crate) fn read(files: &[PathBuf]) -> Result<Vec<Source>> {
    let short = |file: &PathBuf| file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
    let read = |file: &PathBuf| {
        let alone = files.iter().filter(|other| short(other) == short(file)).count() == 1;
        let label = if alone { short(file) } else { file.display().to_string() };
        let runs = runs::read(file)?;
        if runs.iter().all(|run| run.results.is_empty()) {
            bail!("{} has no results to report; `quarry run --output` writes such files", file.display());
        }
        Ok(Source { label, runs })
    };
    let sources = files.iter().map(read).collect::<Result<Vec<_>>>()?;
    let of_kind = |counted: bool| {
        sources.iter().find(|source| rows(source).any(|row| row.instructions_per_op.is_some() == counted))
    };
    if let (Some(counting), Some(timing)) = (of_kind(true), of_kind(false)) {
        bail!(
            "{} counts instructions (--icount) and {} measures time: report them apart, for they do not compare",
            counting.label,
            timing.label
        );
    }
    Ok(sources)
}

/// Results of all runs of a file.
pub(crate) fn rows(source: &Source) -> impl Iterator<Item = &Measurement> {
    source.runs.iter().flat_map(|run| &run.results)
}

/// What is wrong with runs, a sentence each.
pub(crate) fn complaints(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        for (at, run) in source.runs.iter().enumerate() {
            let name =
                if source.runs.len() > 1 { format!("{}, run {}", source.label, at + 1) } else { source.label.clone() };
            match &run.end {
                None => complaints.push(format!("{name}: this run did not come to its end; figures may be missing.")),
                Some(end) => complaints.extend(run.judge(end).err().map(|failure| format!("{name}: {failure}."))),
            }
            for result in run.results.iter().filter(|result| result.errors > 0) {
                let case = Subject::from(result).title(&result.workload);
                let (allocator, cpus) = (&result.allocator, count(result.cpus.into(), "CPU"));
                let errors = count(result.errors, "error");
                let refusal = result.refusal.as_ref().map(|refusal| format!("; {refusal}")).unwrap_or_default();
                complaints.push(format!("{name}: {allocator}, {case}, {cpus}: {errors}{refusal}."));
            }
        }
    }
    complaints
}

/// What rows of a workload differ in, beside allocator and CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Subject<'r> {
    pub(crate) size: Option<u64>,
    pub(crate) order: Option<u32>,
    pub(crate) variant: Option<&'r str>,
    pub(crate) phase: Option<&'r str>,
}

impl<'r> From<&'r Measurement> for Subject<'r> {
    fn from(result: &'r Measurement) -> Self {
        let Measurement { size, order, variant, phase, .. } = result;
        Self { size: *size, order: *order, variant: variant.as_deref(), phase: phase.as_deref() }
    }
}

impl Subject<'_> {
    /// Variant and phase, where there are such.
    pub(crate) fn part(&self) -> String {
        [self.variant, self.phase].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// What is asked for: `64 B`, `order 3 (32 KiB)`, `mixed`.
    pub(crate) fn extent(&self) -> String {
        extent(self.size, self.order)
    }

    /// With its workload: `batch, 64 B, free`.
    pub(crate) fn title(&self, workload: &str) -> String {
        let sized = self.size.is_some() || self.order.is_some();
        let parts = [workload.to_owned(), if sized { self.extent() } else { String::new() }, self.part()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
    }

    /// How far this is from what workloads are shown at: the least is shown.
    fn distance(&self) -> u64 {
        let of_size = self.size.map_or(0, |size| size.abs_diff(REPRESENTATIVE_SIZE));
        of_size.saturating_add(self.order.unwrap_or(0).into())
    }
}

/// Rows of results, and who they are of.
#[derive(Debug)]
pub(crate) struct View<'r> {
    /// In the order of the files.
    pub(crate) rows: Vec<&'r Measurement>,
    allocators: Vec<&'r str>,
}

impl<'r> View<'r> {
    /// Of each allocator, workload and size the figures of the last file that has any: one curve never is of two builds.
    /// Of several runs in that file the last counts.
    pub(crate) fn latest(sources: &'r [Source]) -> Self {
        let all: Vec<(usize, &Measurement)> =
            sources.iter().enumerate().flat_map(|(file, source)| rows(source).map(move |row| (file, row))).collect();
        let curve = |row: &'r Measurement| (row.allocator.as_str(), row.workload.as_str(), Subject::from(row));
        let mut last_files = HashMap::new();
        let mut last_rows = HashMap::new();
        for (at, (file, row)) in all.iter().enumerate() {
            last_files.insert(curve(row), *file);
            last_rows.insert((curve(row), row.cpus), at);
        }
        let is_last = |at: usize, file: usize, row: &'r Measurement| {
            last_files[&curve(row)] == file && last_rows[&(curve(row), row.cpus)] == at
        };
        let rows =
            all.iter().enumerate().filter(|(at, (file, row))| is_last(*at, *file, row)).map(|(_, (_, row))| *row);
        let mut allocators: Vec<&str> = Vec::new();
        for (_, row) in &all {
            if !allocators.contains(&row.allocator.as_str()) {
                allocators.push(&row.allocator);
            }
        }
        allocators.sort_by_key(|name| *name != OURS);
        Self { rows: rows.collect(), allocators }
    }

    /// Ours first, others as they came.
    pub(crate) fn allocators(&self) -> &[&'r str] {
        &self.allocators
    }

    /// The allocator's colour, the same in all pictures.
    pub(crate) fn tone(&self, allocator: &str) -> Tone {
        let peers = self.allocators.iter().filter(|name| **name != OURS);
        if allocator == OURS {
            Tone::Ours
        } else {
            Tone::Peer(peers.into_iter().position(|name| *name == allocator).unwrap_or(0))
        }
    }

    /// Workloads, each with what there is of it, for rows that pass; the one a workload is shown at first is told by
    /// `true`.
    pub(crate) fn subjects(&self, pass: impl Fn(&Measurement) -> bool) -> Vec<(&'r str, Subject<'r>, bool)> {
        let mut subjects: Vec<(&str, Subject)> = Vec::new();
        for row in self.rows.iter().filter(|row| pass(row)) {
            let subject = (row.workload.as_str(), Subject::from(*row));
            if !subjects.contains(&subject) {
                subjects.push(subject);
            }
        }
        let front = |workload: &str| {
            let of_workload = subjects.iter().filter(|(name, _)| *name == workload);
            of_workload.min_by_key(|(_, subject)| subject.distance()).map(|(_, subject)| *subject)
        };
        subjects.iter().map(|&(workload, subject)| (workload, subject, front(workload) == Some(subject))).collect()
    }

    /// Rows of a subject, by allocator and CPUs.
    pub(crate) fn rows_of(&self, workload: &str, subject: Subject) -> Vec<&'r Measurement> {
        let mut rows: Vec<&Measurement> = self
            .rows
            .iter()
            .copied()
            .filter(|row| row.workload == workload && Subject::from(*row) == subject)
            .collect();
        let place = |row: &Measurement| self.allocators.iter().position(|name| *name == row.allocator);
        rows.sort_by_key(|row| (place(row), row.cpus));
        rows
    }
}
