//! What programs read: a run as one JSON document, [`Report`].

use std::fs;

use quarry_record::{Measurement, Summary};
use quarry_suite::{Extent, Platform, Settings};
use serde::Serialize;

use crate::compare::{Comparison, Outcome};
use crate::contestant::Contestant;
use crate::threads::Threads;

/// Version of the document's form.
const SCHEMA: u32 = 1;

/// The workspace's, as it was when this was built: what the peers' versions are read from.
const LOCK_FILE: &str = include_str!("../../../Cargo.lock");

/// A run of the comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of the document's form.
    pub schema: u32,
    /// The processor's name.
    pub cpu: String,
    /// Rate of the time-stamp counter.
    pub tsc_hz: u64,
    /// CPUs this process may use.
    pub cpus_available: usize,
    /// Where the random numbers of the first round start; each later round starts one further.
    pub seed: u64,
    /// Rounds.
    pub rounds: usize,
    /// Samples of each case in a round.
    pub samples_per_round: usize,
    /// Who took part.
    pub allocators: Vec<Allocator>,
    /// A record for each comparison and contestant, in the form the guest writes.
    pub results: Vec<Measurement>,
}

/// A contestant, as the document names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Allocator {
    /// Its name in the results.
    pub name: &'static str,
    /// The package it comes from and that one's version; empty for this workspace's.
    pub version: String,
}

impl Report {
    /// The document of a run.
    pub fn new(
        threads: Threads,
        contestants: &[Contestant],
        settings: &Settings,
        rounds: usize,
        comparisons: &[Comparison],
    ) -> Self {
        let nanoseconds = nanoseconds_per_tick(threads);
        let results = comparisons.iter().flat_map(|comparison| {
            let outcomes = contestants.iter().zip(&comparison.results);
            outcomes.map(move |(contestant, outcome)| record(comparison, contestant.name, outcome, nanoseconds))
        });
        Self {
            schema: SCHEMA,
            cpu: cpu_name(),
            tsc_hz: threads.ticks_per_second(),
            cpus_available: Threads::available(),
            seed: settings.seed,
            rounds,
            samples_per_round: settings.samples,
            allocators: contestants.iter().map(Allocator::of).collect(),
            results: results.collect(),
        }
    }
}

impl Allocator {
    /// What is known of a contestant.
    pub fn of(contestant: &Contestant) -> Self {
        let version = match contestant.package {
            Some(package) => {
                locked_version(package).map_or_else(|| package.to_owned(), |version| format!("{package} {version}"))
            }
            None if contestant.name == "system" => system_version(),
            None => String::new(),
        };
        Self { name: contestant.name, version }
    }
}

/// Length of a tick of the platform's clock.
pub fn nanoseconds_per_tick(threads: Threads) -> f64 {
    1e9 / threads.ticks_per_second() as f64
}

fn record(comparison: &Comparison, allocator: &str, outcome: &Outcome, nanoseconds: f64) -> Measurement {
    let (size, order) = match comparison.case.extent {
        Extent::Size(size) => (Some(size as u64), None),
        Extent::Order(order) => (None, Some(order)),
        Extent::Mixed => (None, None),
    };
    let ticks = outcome.summary();
    let summary = |ticks: quarry_suite::Summary| Summary {
        min: ticks.min,
        median: ticks.median,
        p99: ticks.p99,
        spread: ticks.spread,
    };
    Measurement {
        workload: comparison.case.workload.to_string(),
        allocator: allocator.to_owned(),
        size,
        order,
        variant: comparison.case.variant.map(|variant| variant.to_string()),
        phase: comparison.phase.name().map(str::to_owned),
        cpus: comparison.case.cpus as u32,
        ops: outcome.operations,
        ns_per_op: summary(ticks.scaled(nanoseconds)),
        cycles_per_op: summary(ticks),
        empty_ns_per_op: outcome.empty() * nanoseconds,
        empty_cycles_per_op: outcome.empty(),
        samples: outcome.samples.clone(),
        errors: outcome.errors,
        ..Measurement::default()
    }
}

/// The version of a package that Cargo.lock names.
fn locked_version(package: &str) -> Option<String> {
    let lock: toml::Table = LOCK_FILE.parse().ok()?;
    let packages = lock.get("package")?.as_array()?;
    let found = packages.iter().find(|one| one.get("name").and_then(toml::Value::as_str) == Some(package))?;
    found.get("version")?.as_str().map(str::to_owned)
}

fn system_version() -> String {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: has no preconditions, and returns a C string that lives for ever.
        let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
        format!("glibc {}", version.to_string_lossy())
    }
    #[cfg(not(target_env = "gnu"))]
    String::new()
}

fn cpu_name() -> String {
    let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = information.lines().find_map(|line| line.strip_prefix("model name"));
    line.and_then(|line| line.split_once(": ")).map_or_else(String::new, |(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_has_a_locked_version() {
        for contestant in Contestant::all() {
            if let Some(package) = contestant.package {
                assert!(locked_version(package).is_some(), "{package} is not in Cargo.lock");
            }
        }
    }
}
