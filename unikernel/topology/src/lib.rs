//! Firmware tables (bytes) to [`Topology`] (plain data).
//!
//! Users: the unikernel at boot, `quarry-memory` (which builds its zones from a [`Topology`]) and the tests of both.
//!
//! Two ways lead to a [`Topology`]: [`Topology::discover`] reads a machine's ACPI tables, and [`Topology::builder`]
//! describes a simulated machine. Both end in the same data, kept to the same rules ([`Topology::validate`]).
//! Nothing here allocates, touches hardware or knows where tables are found: tables are byte slices, and whatever
//! bytes they hold, discovery ends with a valid topology and one [`Warning`] for each thing it had to assume.
//!
//! | module | holds |
//! | --- | --- |
//! | `model` | the data: nodes, CPUs, memory, distances |
//! | `builder` | simulated machines |
//! | `validate` | the rules every topology keeps |
//! | `display` | a topology as `numactl -H` prints it |
//! | `discover` | the steps of [`Topology::discover`], in their order |
//! | `cpus`, `memory`, `distances` | one step each |
//! | `claims` | what the SRAT says about memory, as sorted disjoint ranges |
//! | `madt`, `srat`, `slit`, `hmat` | one table each: bytes to typed entries |
//! | `table`, `bytes` | header, checksum, the walk over entries; checked integers |
//! | `warning`, `sentence`, `report` | what is said about lying firmware, in which words, how often |
#![no_std]
#![forbid(unsafe_code)]

mod builder;
mod bytes;
mod claims;
mod cpus;
mod discover;
mod display;
mod distances;
mod hmat;
mod madt;
mod memory;
mod model;
mod report;
mod sentence;
mod slit;
mod srat;
mod table;
mod validate;
mod warning;

pub use builder::{BuildError, Builder, MAX_HOLES};
pub use model::*;
pub use report::FULL_REPORTS;
pub use table::Tables;
pub use validate::Invalid;
pub use warning::{LengthAssumption, Position, Problem, Source, Warning};
