//! The records Quarry's guest writes on its serial line and its host reads: one JSON object a line.
//!
//! Used by the images (which write [`Record::to_line`]), by the `quarry` command and by whoever reads the `.jsonl`
//! files it keeps. The guest and the host share this package alone.
//!
//! A line that starts with `{` is a record, every other line is for people. A run is
//!
//! ```text
//! run            who runs here, on what, and how many results to expect
//! result ...     one for each row of the suite, as soon as it is measured
//! test ...       of an image of tests: `started`, then `ok` or `failed`
//! stress         what came of a stress
//! edge           what came of a run at the edge of memory
//! trace ...      what was recorded, where that was asked for, piece by piece
//! statistics     where all memory is when the work is done
//! report ...     the same in the formats of Linux's files, where that was asked for
//! end            the verdict; nothing follows
//! ```
//!
//! Readers ignore fields they do not know, so a field may be added without a new [`SCHEMA_VERSION`]; a field that
//! changes its meaning, or goes, needs one. So does a type of record, unless guests write it only when asked to in a way
//! that older hosts do not know.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod catalogue;
mod line;
mod measurement;
mod outcome;
mod run;

pub use line::{Record, RecordError};
pub use measurement::{Footprint, Latency, Locks, Measurement, Series, Summary};
pub use outcome::{
    Alive, Edge, EdgeCalls, End, EndStatus, Report, ReportSubject, Statistics, StatisticsRow, Stress, Test, TestStatus,
    TracePiece,
};
pub use run::{Cpu, Node, Run, Topology};

/// Version of the records this package writes and reads.
pub const SCHEMA_VERSION: u32 = 2;
