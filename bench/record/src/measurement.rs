//! [`Measurement`]: one row of results.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// What one workload cost at one size on some CPUs at once. The record type is `result`.
///
/// An operation is an allocation with its free in workloads of pairs, and either of them where they are measured apart.
/// All figures are gross: the loop is in them, and what the loop alone costs stands beside them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Name of the workload.
    pub workload: String,
    /// Name of the allocator measured.
    pub allocator: String,
    /// Bytes of each block, where they are all of one size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Blocks are of `1 << order` pages, where pages are asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<u32>,
    /// Which node was asked for: `local`, `remote` or `alternating`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<String>,
    /// Which part of the workload this is, where it has parts: `allocate`, `free`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// CPUs at work at once.
    pub cpus: u32,
    /// Operations of all samples and CPUs together.
    pub ops: u64,
    /// Nanoseconds an operation takes the CPU that does it.
    pub ns_per_op: Summary,
    /// The same in cycles of the time-stamp counter.
    pub cycles_per_op: Summary,
    /// Nanoseconds the loop takes when it allocates nothing.
    pub empty_ns_per_op: f64,
    /// The same in cycles of the time-stamp counter.
    pub empty_cycles_per_op: f64,
    /// Instructions an operation takes, known only where virtual time counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions_per_op: Option<Summary>,
    /// Every sample, in cycles per operation, as they were taken.
    pub samples: Vec<f64>,
    /// What went wrong while this was measured and checked.
    pub errors: u64,
}

/// Order statistics of a row's samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The smallest.
    pub min: f64,
    /// The middle one.
    pub median: f64,
    /// What 99 % of the samples do not exceed.
    pub p99: f64,
    /// 90th percentile minus 10th.
    pub spread: f64,
}
