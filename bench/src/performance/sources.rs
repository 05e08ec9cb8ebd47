//! What was measured: the files the sources left, read.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use quarry_record::{Measurement, Statistics};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::targets::{Key, Kind, Latency, Percentile, Source, Targets};
use crate::case::Metric;
use crate::compare::rank::median;
use crate::runs;

/// Ours, in results.
pub(super) const OURS: &str = "quarry";

/// When and on what a source was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub(super) date: String,
    pub(super) cpu: String,
    pub(super) qemu: String,
    pub(super) rustc: String,
    pub(super) revision: String,
}

/// How long boots took, and how large images are.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Startup {
    /// Milliseconds from QEMU's start to `main`, boot by boot, by the machine's name.
    pub(super) boots: BTreeMap<String, Vec<f64>>,
    /// Bytes without symbols, by the image's name.
    pub(super) images: BTreeMap<String, u64>,
}

/// As far as it matters here.
#[derive(Deserialize)]
struct PeersDocument {
    results: Vec<Measurement>,
}

/// What a source's file has.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    pub(super) stamp: Option<Stamp>,
    results: Vec<Measurement>,
    /// Of the last run that has any.
    pub(super) statistics: Option<Statistics>,
    pub(super) startup: Startup,
}

/// All there is, by the sources' names.
pub(super) type All = BTreeMap<String, Measured>;

/// Reads the files there are. A file that is missing is a source that was not measured.
///
/// # Errors
///
/// When a file is there and cannot be read.
pub(super) fn read(targets: &Targets, folder: &Path) -> Result<All> {
    let there = targets.sources.iter().filter(|source| source.file(folder).is_file());
    there.map(|source| Ok((source.name.clone(), read_one(source, folder)?))).collect()
}

fn read_one(source: &Source, folder: &Path) -> Result<Measured> {
    let file = source.file(folder);
    let stamp = source.stamp(folder);
    let stamp = if stamp.is_file() { Some(json(&stamp)?) } else { None };
    let mut measured = Measured { stamp, ..Measured::default() };
    match source.kind {
        Kind::Records => {
            for run in runs::read(&file)? {
                run.end.as_ref().with_context(|| {
                    format!("{} has no `end` record: measure `{}` again", file.display(), source.name)
                })?;
                measured.results.extend(run.results);
                measured.statistics = run.statistics.or(measured.statistics);
            }
        }
        Kind::Peers => measured.results = json::<PeersDocument>(&file)?.results,
        Kind::Startup => measured.startup = json(&file)?,
    }
    // What has errors or was refused tells nothing.
    measured.results.retain(|result| result.errors == 0 && result.refusal.is_none());
    Ok(measured)
}

fn json<T: DeserializeOwned>(file: &Path) -> Result<T> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not what `quarry performance` reads", file.display()))
}

impl Measured {
    /// What an allocator takes for an operation of each of these cases, added up; `None` unless it did all of them.
    pub(super) fn sum(&self, allocator: &str, keys: &[Key], metric: Metric) -> Option<f64> {
        let figure = |key: &Key| {
            let figures = metric.figures(self.case(allocator, key)?);
            (!figures.is_empty()).then(|| median(&figures))
        };
        keys.iter().map(figure).sum()
    }

    /// What few single calls of an allocator exceed, in nanoseconds.
    pub(super) fn latency(&self, allocator: &str, Latency { case, percentile }: &Latency) -> Option<f64> {
        let latency = self.case(allocator, case)?.latency.as_ref()?;
        Some(match percentile {
            Percentile::P50 => latency.p50,
            Percentile::P99 => latency.p99,
            Percentile::P9999 => latency.p99_99,
            Percentile::Worst => latency.worst,
        })
    }

    fn case(&self, allocator: &str, key: &Key) -> Option<&Measurement> {
        self.results.iter().rfind(|result| {
            result.allocator == allocator
                && result.workload == key.workload
                && result.size == key.size
                && result.order == key.order
                && result.variant == key.variant
                && result.phase == key.phase
                && result.cpus == key.cpus
        })
    }

    /// All allocators but ours.
    pub(super) fn peers(&self) -> impl Iterator<Item = &str> {
        let mut names: Vec<&str> = self.results.iter().map(|result| result.allocator.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter().filter(|name| *name != OURS)
    }

    /// The same of all but ours that did all of them, the best first.
    pub(super) fn others(&self, keys: &[Key], metric: Metric) -> Vec<(String, f64)> {
        let mut sums: Vec<(String, f64)> =
            self.peers().filter_map(|name| Some((name.to_owned(), self.sum(name, keys, metric)?))).collect();
        sums.sort_by(|one, other| one.1.total_cmp(&other.1));
        sums
    }
}
