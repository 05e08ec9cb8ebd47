//! The atomics the hand-made protocols of this crate are built on: a seam where `tests/loom.rs` puts loom's.

pub(crate) use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

/// How often a [lock](crate::raw_lock) is looked at before whoever waits for it says that it starves: some tens of
/// microseconds, many times as long as any is held.
pub(crate) const PATIENCE_ROUNDS: u32 = 1000;
