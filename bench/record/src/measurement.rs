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
    /// What else tells the cases of a workload apart: `local`, `bulk 16`, `90 % used`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
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
    /// Operations a second, all CPUs together: from the time from the first CPU's start to the last one's end, so that
    /// what CPUs wait for each other is in it. Absent where time stands for instructions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ops_per_second: Option<Summary>,
    /// How evenly the CPUs got on: Jain's index of their speeds, 1 when all are equally fast and 1 / CPUs when one does
    /// everything. The median over the samples; absent on one CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fairness: Option<f64>,
    /// Of all frees, those on another CPU than the one that allocated: 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_frees: Option<f64>,
    /// What single calls took, from a pass of its own. Absent where time stands for instructions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// What memory was held for the workload's blocks, from a pass of its own; of the workload `footprint` from the
    /// measured one, and absent where that was cut short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub footprint: Option<Footprint>,
    /// How often the locks of the allocator's shared layers were taken. Of the whole workload, all its parts together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locks: Option<Locks>,
    /// What was watched while the workload ran: memory held, fragmentation. From a pass of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub series: Vec<Series>,
    /// Calls that were completed by another CPU than the one before them (of one kind, where allocations and frees are
    /// measured apart), from a pass of its own over as many operations. Only of several CPUs where virtual time counts
    /// instructions: there CPUs take turns on one clock, and met if these are many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hand_overs: Option<u64>,
    /// How many samples were wanted, where they took so long that there are fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples_wanted: Option<u64>,
    /// Why the figures are not to be used, in words, though nothing went wrong: too few hand-overs. Counts as one of
    /// `errors`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
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

/// What single calls took: of `phase`, or of allocations and frees together. Nanoseconds. Reading the clock is in each
/// figure, and how long that takes when nothing is between the readings stands beside them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Calls measured.
    pub calls: u64,
    /// What half of them do not exceed.
    pub p50: f64,
    /// What 90 % do not exceed.
    pub p90: f64,
    /// What 99 % do not exceed.
    pub p99: f64,
    /// What 99.9 % do not exceed.
    pub p99_9: f64,
    /// What 99.99 % do not exceed.
    pub p99_99: f64,
    /// The longest.
    pub worst: f64,
    /// The median of no call at all: what is in every figure.
    pub clock: f64,
    /// The distribution: `[most nanoseconds, calls]` of each bucket that has any, the shortest first. Buckets are
    /// log-linear, with an error of 3 % at most.
    pub buckets: Vec<(f64, u64)>,
}

/// What memory was held for how many bytes of live blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    /// Bytes asked for and not given back: when they were most; of the workload `footprint`, which is about this, when all
    /// objects had been replaced.
    pub peak_live: u64,
    /// Bytes the allocator had taken from the page layer for them then.
    pub peak_held: u64,
    /// Bytes it still held when all blocks had been given back: what sits in its caches.
    pub end_held: u64,
}

/// How often locks were taken, in a million operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Locks {
    /// Those of zones: each guards the free page blocks of a part of memory.
    pub zone: f64,
    /// Those of depots: each guards free objects of one size or cache.
    pub depot: f64,
}

/// A quantity that was looked at again and again while a workload ran.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// What it is: `memory held`, `external fragmentation`. Series of one name are drawn together, allocator by allocator.
    pub name: String,
    /// Unit of the quantity: `bytes`, `%`, `blocks`. Bytes are shown in the unit that fits.
    pub unit: String,
    /// What it is told against, with its unit in the name where it has one: `seconds`, `operations`.
    pub over: String,
    /// `[over, quantity]` of each look, the first look first.
    pub points: Vec<(f64, f64)>,
}
