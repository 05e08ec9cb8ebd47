//! Allocator workloads, generic over the allocator measured ([`Subject`]) and the machine ([`Platform`]).
//!
//! The guest image runs them over the kernel's memory service, the tests over an arena. A workload runs on 1, 2, ... N
//! CPUs that start together. What is timed and what is checked are two passes: the timed loops ([`loops`]) are bare,
//! and a pass of its own ([`check`]) writes and reads every byte of every block. An empty loop is timed beside each and
//! reported in a field of its own, so all figures are gross.
//!
//! Layers, each using only those below it:
//! ```text
//! report, options     rows as records; the command line
//! suite               every case of a plan measured and checked
//! edge, cache         more wanted than there is, and what can be given up
//! stress, check       every byte looked at
//! measure             samples: calibration, barriers, clock
//! loops               what is timed
//! case                what there is to measure, and the plan
//! subject, platform   what is asked of allocator and machine
//! random, pattern, sizes, statistics
//! ```

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod cache;
mod case;
mod check;
mod edge;
mod loops;
mod measure;
mod options;
pub mod pattern;
mod platform;
pub mod random;
mod sizes;
mod statistics;
mod stress;
mod subject;
mod suite;

pub use cache::Cache;
pub use case::{Case, Effort, Extent, ORDERS, Placement, Settings, UnknownWorkload, Workload};
pub use edge::{Calls, Edge, EdgeReport, edge};
pub use options::{Mode, OptionError, Options};
pub use platform::{Platform, Threads};
pub use sizes::SIZES;
pub use statistics::Summary;
pub use stress::{Limit, Stress, StressReport, stress};
pub use subject::{Empty, EmptyBlock, Pressed, Subject, Way};
pub use suite::{Row, plan, row_count, run};
