//! [`Case`]: what tells one row of results from another, and [`Metric`]: which figure of a row is meant.
//!
//! Used by all that sets rows of several runs side by side.

use std::fmt;

use clap::ValueEnum;
use quarry_record::{Measurement, catalogue};
use serde::{Deserialize, Serialize};

use crate::tables::{extent, throughput};
use crate::words::count;

/// A row's identity: the same in every run that measures it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) allocator: String,
    pub(crate) workload: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) order: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) phase: Option<String>,
    pub(crate) cpus: u32,
}

impl From<&Measurement> for Case {
    fn from(result: &Measurement) -> Self {
        let Measurement { allocator, workload, size, order, variant, phase, cpus, .. } = result.clone();
        Self { allocator, workload, size, order, variant, phase, cpus }
    }
}

impl Case {
    /// What is asked for: `64 B`, `order 3 (32 KiB)`, `mixed`.
    pub(crate) fn extent(&self) -> String {
        extent(self.size, self.order)
    }

    /// Variant and phase, where there are such.
    pub(crate) fn part(&self) -> String {
        [&self.variant, &self.phase].into_iter().flatten().cloned().collect::<Vec<_>>().join(", ")
    }

    /// Name of its workload's group; `other` of one the catalogue does not know.
    pub(crate) fn group(&self) -> &'static str {
        catalogue::workload(&self.workload).map_or("other", |workload| workload.group.name())
    }

    /// All but the allocator and the CPUs: `batch 64 B, free`.
    pub(crate) fn short(&self) -> String {
        let sized = self.size.is_some() || self.order.is_some();
        let extent = if sized { format!(" {}", self.extent()) } else { String::new() };
        let part = self.part();
        let part = if part.is_empty() { part } else { format!(", {part}") };
        format!("{}{extent}{part}", self.workload)
    }
}

/// `quarry: batch 64 B, free on 2 CPUs`.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} on {}", self.allocator, self.short(), count(self.cpus.into(), "CPU"))
    }
}

/// A figure of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Metric {
    /// Nanoseconds an operation takes, sample by sample.
    Ns,
    /// Millions of operations a second, all CPUs together.
    Throughput,
    /// What 99 % of single calls do not exceed, in nanoseconds.
    P99,
    /// Instructions an operation takes, of runs that count them. Any difference is one.
    Instructions,
    /// Bytes of memory held for each live byte, when most live; of `footprint` when all objects were replaced.
    Held,
}

impl Metric {
    /// The figure's name with its unit.
    pub(crate) const fn unit(self) -> &'static str {
        match self {
            Self::Ns => "ns",
            Self::Throughput => "million ops/s",
            Self::P99 => "p99 in ns",
            Self::Instructions => "instructions",
            Self::Held => "bytes held a byte",
        }
    }

    /// Whether more is better.
    pub(crate) const fn more_is_better(self) -> bool {
        matches!(self, Self::Throughput)
    }

    /// The figure in all samples of a row, or the only one there is. Nothing where the row does not have it.
    ///
    /// Instructions are those of the time-stamp counter, which counts them where they are counted: unlike nanoseconds
    /// they do not depend on what rate the guest found that counter to have.
    pub(crate) fn figures(self, result: &Measurement) -> Vec<f64> {
        let figures: Vec<f64> = match self {
            Self::Ns => {
                let ns_per_cycle = result.ns_per_op.median / result.cycles_per_op.median;
                result.samples.iter().map(|cycles| cycles * ns_per_cycle).collect()
            }
            Self::Throughput => {
                let measured = result.ops_per_second.map(|summary| summary.median / 1e6);
                vec![measured.unwrap_or_else(|| throughput(result))]
            }
            Self::P99 => result.latency.iter().map(|latency| latency.p99).collect(),
            Self::Instructions if result.instructions_per_op.is_some() => result.samples.clone(),
            Self::Instructions => Vec::new(),
            Self::Held => {
                let known = result.footprint.iter().filter(|footprint| footprint.peak_live > 0);
                known.map(|footprint| footprint.peak_held as f64 / footprint.peak_live as f64).collect()
            }
        };
        figures.into_iter().filter(|figure| figure.is_finite() && *figure > 0.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use quarry_record::{Footprint, Latency, Summary};

    use super::*;

    #[test]
    fn a_case_reads() {
        let batch = Case {
            allocator: "quarry".into(),
            workload: "batch".into(),
            size: Some(64),
            phase: Some("free".into()),
            cpus: 2,
            ..Case::default()
        };
        let page = Case { workload: "page".into(), size: None, order: Some(3), phase: None, cpus: 1, ..batch.clone() };
        let mix = Case { workload: "mix".into(), order: None, variant: Some("old".into()), ..page.clone() };
        assert_eq!(batch.to_string(), "quarry: batch 64 B, free on 2 CPUs");
        assert_eq!(page.to_string(), "quarry: page order 3 (32 KiB) on 1 CPU");
        assert_eq!([batch.group(), page.group(), mix.group()], ["slab", "page", "slab"]);
        assert_eq!(mix.short(), "mix, old");
        assert_eq!(Case { workload: "songs".into(), ..mix }.group(), "other");
    }

    #[test]
    fn figures_are_those_of_the_metric() {
        let summary = |median| Summary { median, ..Summary::default() };
        let result = Measurement {
            cpus: 2,
            ns_per_op: summary(50.0),
            cycles_per_op: summary(100.0),
            samples: vec![100.0, 120.0, f64::NAN],
            ops_per_second: Some(summary(3e7)),
            ..Measurement::default()
        };
        assert_eq!(Metric::Ns.figures(&result), [50.0, 60.0]);
        assert_eq!(Metric::Throughput.figures(&result), [30.0]);
        assert!(Metric::P99.figures(&result).is_empty() && Metric::Instructions.figures(&result).is_empty());
        let latency = Some(Latency { p99: 7.0, ..Latency::default() });
        let counted =
            Measurement { instructions_per_op: Some(summary(100.0)), samples: vec![100.0], latency, ..result };
        assert_eq!([Metric::P99.figures(&counted), Metric::Instructions.figures(&counted)], [[7.0], [100.0]]);
        assert!(Metric::Held.figures(&counted).is_empty());
        let footprint = |peak_live| Some(Footprint { peak_live, peak_held: 150, end_held: 30 });
        let held =
            |peak_live| Metric::Held.figures(&Measurement { footprint: footprint(peak_live), ..counted.clone() });
        assert_eq!((held(100), held(0)), (vec![1.5], vec![]));
    }
}
