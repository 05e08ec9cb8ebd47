//! The parts of a report: what each makes of the records, as charts.

mod comparison;
mod latency;
mod memory;
mod nodes;
mod scaling;
mod series;

use clap::ValueEnum;
use quarry_record::Measurement;

use super::chart::Panel;
use super::sources::{Source, View};

/// A part of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Operations a second against CPUs.
    Scaling,
    /// What single calls took.
    Latency,
    /// How far nodes are from each other, and what that costs.
    Nodes,
    /// Memory held for live blocks.
    Memory,
    /// What was watched over time.
    Series,
    /// Files after the first beside the first.
    Comparison,
}

impl Part {
    /// Its name on the command line, in the page's addresses and in names of files.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Scaling => "scaling",
            Self::Latency => "latency",
            Self::Nodes => "nodes",
            Self::Memory => "memory",
            Self::Series => "series",
            Self::Comparison => "comparison",
        }
    }

    /// Its heading.
    pub(crate) const fn heading(self) -> &'static str {
        match self {
            Self::Scaling => "Throughput and scaling",
            Self::Latency => "Latency of single calls",
            Self::Nodes => "Nodes",
            Self::Memory => "Memory held",
            Self::Series => "Over time",
            Self::Comparison => "Before and after",
        }
    }

    /// How its pictures are to be read.
    pub(crate) const fn introduction(self) -> &'static str {
        match self {
            Self::Scaling => {
                "Work done by all CPUs together; instructions an operation, where those are counted. Where there are several \
                 numbers of CPUs both axes are logarithmic, so that an allocator that scales runs along the dotted line: our \
                 figure on the fewest CPUs, times the CPUs."
            }
            Self::Latency => {
                "How long the slowest calls take. To the right calls become rarer: one in ten takes longer than the value at \
                 90 %, one in a thousand longer than that at 99.9 %. Reading the clock is in every figure."
            }
            Self::Nodes => {
                "Distances as the firmware tells them, 10 being that of a node to itself, and what an allocation costs by \
                 where its memory is to be."
            }
            Self::Memory => {
                "Bytes taken from the page layer for each byte of live blocks: in full colour when live blocks were most; \
                 paler what was still held after all had been given back, as a share of that same peak. 1 would be no \
                 overhead at all, and less than 1 means that blocks came out of memory held before."
            }
            Self::Series => "What was watched while workloads ran, in a pass of its own.",
            Self::Comparison => {
                "Cost after as a multiple of the cost before: bars to the left got cheaper. Grey bars changed by less than \
                 the samples of either side are spread, so they tell of nothing. `quarry compare` judges changes over \
                 several boots."
            }
        }
    }

    /// Columns of its sheet.
    pub(crate) const fn columns(self) -> usize {
        match self {
            Self::Nodes => 2,
            _ => 3,
        }
    }

    /// Its pictures; none where the records have nothing for it.
    pub(crate) fn panels(self, sources: &[Source], view: &View) -> Vec<Panel> {
        match self {
            Self::Scaling => scaling::panels(view),
            Self::Latency => latency::panels(view),
            Self::Nodes => nodes::panels(sources, view),
            Self::Memory => memory::panels(view),
            Self::Series => series::panels(view),
            Self::Comparison => comparison::panels(sources),
        }
    }
}

/// Operations a second, all CPUs together; where it was not measured, what the samples come to.
pub(crate) fn rate(row: &Measurement) -> Option<f64> {
    let computed = || crate::tables::throughput(row) * 1e6;
    let rate = row.ops_per_second.map_or_else(computed, |measured| measured.median);
    (row.instructions_per_op.is_none() && rate.is_finite() && rate > 0.0).then_some(rate)
}

/// What an operation costs: the figure, and whether it is instructions rather than nanoseconds.
pub(crate) fn cost(row: &Measurement) -> (quarry_record::Summary, bool) {
    row.instructions_per_op.map_or((row.ns_per_op, false), |instructions| (instructions, true))
}

/// What a factor is on average; `None` of none.
pub(crate) fn geometric_mean(factors: impl Iterator<Item = f64>) -> Option<f64> {
    let logarithms: Vec<f64> = factors.map(f64::ln).filter(|logarithm| logarithm.is_finite()).collect();
    (!logarithms.is_empty()).then(|| (logarithms.iter().sum::<f64>() / logarithms.len() as f64).exp())
}
