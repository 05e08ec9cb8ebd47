//! Firmware tables (bytes) to [`Topology`] (plain data).
//!
//! Users: the unikernel at boot, `quarry-memory` (which builds its zones from a [`Topology`]) and the tests of both.
#![no_std]
#![forbid(unsafe_code)]

mod model;

pub use model::*;
