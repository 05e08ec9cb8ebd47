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
//! | `warning` | what discovery has to say about lying firmware, and how often |
//! | `table` | header, checksum and the walk over a table's entries |
//! | `madt`, `srat`, `slit`, `hmat` | one table each: bytes to typed entries |
//! | `claims` | what the SRAT says about memory, as sorted disjoint ranges |
//! | `assemble` | the steps of [`Topology::discover`] |
#![no_std]
#![forbid(unsafe_code)]

mod builder;
mod model;
mod validate;

pub use builder::{BuildError, Builder, MAX_HOLES};
pub use model::*;
pub use validate::Invalid;
