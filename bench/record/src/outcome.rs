//! What a run comes to: [`Statistics`], [`Report`], [`Stress`], [`Edge`], [`Test`] and [`End`].

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// Where all memory is. Every byte is in exactly one row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Bytes of RAM there are.
    pub total: u64,
    /// Where they are.
    pub rows: Vec<StatisticsRow>,
    /// Whether the guest itself finds that the rows make up the total.
    pub adds_up: bool,
    /// Whether other CPUs were at work while they were read.
    #[serde(default)]
    pub approximate: bool,
}

impl Statistics {
    /// What the rows make up, or `None` when that is more than a `u64` holds.
    pub fn sum(&self) -> Option<u64> {
        self.rows.iter().try_fold(0_u64, |sum, row| sum.checked_add(row.bytes))
    }
}

/// One row of [`Statistics`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatisticsRow {
    /// Its name: `free`, `slab_in_use`, `metadata`.
    pub name: String,
    /// Bytes in it.
    pub bytes: u64,
}

/// The state of the memory service in the format of a file of Linux's. All reports of a guest are of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Its name: `slabinfo`, `meminfo`, `numactl`.
    pub name: String,
    /// To the byte as scripts expect it.
    pub text: String,
    /// The numbers of the text.
    pub subjects: Vec<ReportSubject>,
}

/// What numbers of a [`Report`] are of: a cache, a zone, a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportSubject {
    /// Its name: `kmalloc-64`, `Node 0, zone DMA`. Empty where the numbers are of the whole machine.
    pub name: String,
    /// The numbers by their names, in the order of the text.
    pub values: Vec<(String, u64)>,
}

/// What came of a stress: all CPUs taking, giving, handing on and comparing blocks at random.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stress {
    /// How long it was to take.
    pub seconds: u64,
    /// CPUs at work.
    pub cpus: u32,
    /// Steps of all CPUs together.
    pub operations: u64,
    /// Blocks that went from one CPU to another.
    pub handed_on: u64,
    /// Blocks misaligned, overlapping or with changed contents.
    pub errors: u64,
    /// Allocations that failed though memory was left.
    pub failed_allocations: u64,
    /// Bytes that did not come back.
    pub lost_bytes: u64,
    /// Whether something was done and nothing was wrong.
    pub passed: bool,
}

/// What came of a run at the edge: threads that together want more memory than there is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// How long it was to take.
    pub seconds: u64,
    /// CPUs at work.
    pub cpus: u32,
    /// Threads on all of them.
    pub threads: u32,
    /// The calls, by the way memory was asked for.
    pub calls: Vec<EdgeCalls>,
    /// Of the calls that may not wait, those made in interrupt handlers.
    pub in_handlers: u64,
    /// Blocks a cache gave up when it was asked to.
    pub given_up: u64,
    /// What the memory service counted meanwhile, by the names of its events.
    pub events: Vec<(String, u64)>,
    /// What was wrong; nothing, if all was as it should be.
    pub complaints: Vec<String>,
}

/// The calls of an [`Edge`] that asked for memory in one way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeCalls {
    /// Name of the way: `patient`, `atomic`, `unfailing`, `optional`.
    pub way: String,
    /// How many there were.
    pub attempts: u64,
    /// Those that were refused.
    pub failures: u64,
    /// How long the longest took.
    pub longest_microseconds: u64,
}

/// A sign of life while a result takes long; written only where the host asks for it (`alive=`). Not kept with the results.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// What the guest is at: `mix on 8 CPUs, sample 3 of 101`.
    pub doing: String,
}

/// A piece of what was recorded of workloads: lines of a trace, in the format of `quarry-trace`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracePiece {
    /// Whole lines, behind those of the pieces before.
    pub text: String,
    /// Events there was no room for, with the last piece; none follows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<u64>,
}

/// How far a test has come. Two records a test, so that one that takes the guest down is known by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Test {
    /// Name of the test.
    pub name: String,
    /// How far it is.
    pub status: TestStatus,
    /// What was wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How far a [`Test`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TestStatus {
    /// About to run.
    Started,
    /// Over, all well.
    Ok,
    /// Over, and not well.
    Failed,
}

/// The last record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The verdict.
    pub status: EndStatus,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Errors of all records together.
    pub errors: u64,
}

/// The verdict of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndStatus {
    /// All was done and nothing was wrong.
    Ok,
    /// Something was wrong, or not all was done.
    Failed,
}
