//! The atomics the hand-made protocols of this crate are built on: a seam where `tests/loom.rs` puts loom's.

pub(crate) use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

/// How often a [lock](crate::raw_lock) is looked at before whoever waits for it says that it starves: longer than any is
/// held as a rule. (With 1000, one call of 10,000 in a mix on four virtual CPUs of two real ones took 25 to 55
/// microseconds, where it takes 20 to 44; and nothing was quicker.)
pub(crate) const PATIENCE_ROUNDS: u32 = 64;
