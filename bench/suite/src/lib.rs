//! Allocator workloads, generic over the allocator measured ([`Subject`]) and the machine ([`Platform`]).
//!
//! The guest image runs them over the kernel's memory service, the tests over an arena. A workload runs on 1, 2, ... N
//! CPUs that start together. What is timed and what is checked are passes of their own over the same loops
//! ([`workloads`]): bare for the figures, over [`checked`] to write and read every byte of every block, over
//! [`stamped`] to time every call, over [`relayed`] to see CPUs hand over to each other. An empty loop is timed beside each and reported in a field of its own, so all
//! figures are gross.
//!
//! Layers, each using only those below it:
//! ```text
//! records, options    rows as records; the command line
//! suite               every case of a plan measured and checked
//! edge                more wanted than there is
//! ballast, cache      memory taken so that little is left, and what can be given up
//! recorded            what workloads do, as a trace
//! stress              every byte looked at
//! workloads           what is timed
//! measure             samples: calibration, barriers, clock
//! checked, stamped    an allocator that is not trusted, and one whose calls are timed
//! relayed             one of which is known how often CPUs hand over
//! case, shape         what there is to measure, and the plan
//! subject, platform   what is asked of allocator and machine
//! exchange, histogram, random, pattern, series, sizes, spans, statistics
//! ```

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod ballast;
mod cache;
mod case;
mod checked;
pub mod dimensions;
mod edge;
mod exchange;
mod histogram;
mod measure;
mod options;
pub mod pattern;
mod places;
mod platform;
pub mod random;
mod recorded;
mod records;
mod relayed;
mod series;
mod settings;
mod shape;
mod sizes;
mod spans;
mod stamped;
mod statistics;
mod stress;
mod subject;
mod suite;
mod watched;
mod workloads;

pub use ballast::{Ballast, NodeMemory, occupy};
pub use cache::Cache;
pub use case::{Case, Extent, ORDERS, Phase, UnknownWorkload, Variant, Workload};
pub use edge::{Calls, Edge, EdgeReport, edge};
pub use histogram::Histogram;
pub use measure::Footprint;
pub use options::{Mode, OptionError, Options};
pub use places::Places;
pub use platform::{Platform, Threads};
pub use recorded::{Extract, Recording, perform, record};
pub use relayed::{Refusal, Turns};
pub use series::Series;
pub use settings::{Effort, Settings};
pub use sizes::SIZES;
pub use spans::{PhaseSamples, Span};
pub use statistics::Summary;
pub use stress::{Limit, Stress, StressReport, stress};
pub use subject::{Empty, EmptyBlock, Feature, LARGE, Locks, Pressed, Subject, Way};
pub use suite::{Latency, LockRates, Row, plan, row_count, run, run_cases};
