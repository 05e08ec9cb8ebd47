//! The report in a few numbers: how many times as long as with ours work takes with other allocators, by group of
//! workloads.
//!
//! Used by [`super::page`]. A number is the geometric mean over the cases both have, of operations a second of all CPUs
//! together: what CPUs wait for each other is in it. Where instructions are counted, it is of those.

use quarry_record::catalogue::{self, Group};

use super::parts::{cost, geometric_mean, rate};
use super::sources::{OURS, Subject, View};

/// What others cost as a multiple of ours.
pub(crate) struct Summary<'r> {
    /// Groups of workloads that both have, by name.
    pub(crate) groups: Vec<&'static str>,
    /// Fewest and most CPUs, or the only number there is.
    pub(crate) cpus: Vec<u32>,
    /// Others, with their factors, group by group and in each for each of `cpus`.
    pub(crate) rows: Vec<(&'r str, Vec<Option<f64>>)>,
}

/// The summary; `None` without an allocator that has cases in common with ours.
pub(crate) fn summary<'r>(view: &View<'r>) -> Option<Summary<'r>> {
    let pairs: Vec<(&str, &'static str, u32, f64)> = view
        .rows
        .iter()
        .filter_map(|row| {
            let is_same = |other: &&&quarry_record::Measurement| {
                other.allocator == OURS
                    && other.workload == row.workload
                    && other.cpus == row.cpus
                    && Subject::from(**other) == Subject::from(*row)
            };
            let ours = view.rows.iter().find(is_same)?;
            let factor = match (rate(ours), rate(row)) {
                (Some(ours), Some(theirs)) => ours / theirs,
                _ => cost(row).0.median / cost(ours).0.median,
            };
            let counts = row.allocator != OURS && factor.is_finite() && factor > 0.0;
            counts.then_some((row.allocator.as_str(), group(&row.workload), row.cpus, factor))
        })
        .collect();
    let ends = [pairs.iter().map(|pair| pair.2).min()?, pairs.iter().map(|pair| pair.2).max()?];
    let cpus = if ends[0] == ends[1] { vec![ends[0]] } else { ends.to_vec() };
    let names = Group::ALL.map(Group::name).into_iter().chain([OTHER]);
    let groups: Vec<&str> = names.filter(|name| pairs.iter().any(|pair| pair.1 == *name)).collect();
    let factors = |allocator: &str| {
        let cell = |group: &str, cpus: u32| {
            geometric_mean(
                pairs.iter().filter(|pair| (pair.0, pair.1, pair.2) == (allocator, group, cpus)).map(|pair| pair.3),
            )
        };
        groups.iter().flat_map(|group| cpus.iter().map(|cpus| cell(group, *cpus)).collect::<Vec<_>>()).collect()
    };
    let compared = view.allocators().iter().filter(|name| pairs.iter().any(|pair| pair.0 == **name));
    let rows = compared.map(|allocator| (*allocator, factors(allocator))).collect();
    Some(Summary { groups, cpus, rows })
}

/// Group of workloads that the catalogue does not know.
const OTHER: &str = "other";

fn group(workload: &str) -> &'static str {
    catalogue::workload(workload).map_or(OTHER, |workload| workload.group.name())
}
