//! The atomics the hand-made protocols of this crate are built on: a seam where `tests/loom.rs` puts loom's.

pub(crate) use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
