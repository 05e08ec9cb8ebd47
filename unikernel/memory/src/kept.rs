//! [`Kept`]: how many bytes the reserves of memory pools hold, by the row of the statistics they would be in, were they
//! handed out.
//!
//! Used by [`mempool`](crate::mempool), which counts each element where it enters or leaves a reserve, and by the
//! statistics, which take them out of the rows of what is in use.
//!
//! # Theory
//!
//! The pools of a queue share a [`Kept`], written under the queue's lock and read by anybody (relaxed). An element
//! enters and leaves a reserve under that lock, and is counted in the same critical section: the counters are what the
//! reserves hold whenever the lock is free. An element that is handed to a waiter was in no reserve and is not counted.

use core::ops::Add;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::machine::Machine;
use crate::service::Service;

/// Bytes that memory pools keep back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolBytes {
    /// Objects of caches and of kmalloc's classes, by the room they take in their slabs.
    pub objects: u64,
    /// Large kmalloc allocations, whole blocks.
    pub large: u64,
    /// Page blocks.
    pub pages: u64,
}

impl PoolBytes {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.objects + self.large + self.pages
    }
}

impl Add for PoolBytes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { objects: self.objects + other.objects, large: self.large + other.large, pages: self.pages + other.pages }
    }
}

impl<M: Machine> Service<M> {
    /// What memory pools keep back. Elements of pools of their owners' own functions are not counted, for nobody here
    /// knows their size.
    pub fn pool_bytes(&self) -> PoolBytes {
        self.pool_queues().kept().iter().map(Kept::bytes).fold(PoolBytes::default(), PoolBytes::add)
    }
}

/// What the reserves of some pools hold.
pub(crate) struct Kept {
    objects: AtomicU64,
    large: AtomicU64,
    pages: AtomicU64,
}

impl Kept {
    /// Nothing.
    pub(crate) const fn new() -> Self {
        Self { objects: AtomicU64::new(0), large: AtomicU64::new(0), pages: AtomicU64::new(0) }
    }

    /// How much it is.
    pub(crate) fn bytes(&self) -> PoolBytes {
        PoolBytes {
            objects: self.objects.load(Relaxed),
            large: self.large.load(Relaxed),
            pages: self.pages.load(Relaxed),
        }
    }

    /// Counts an element that entered a reserve. With the lock of its queue held.
    pub(crate) fn count_in(&self, element: PoolBytes) {
        self.store(self.bytes() + element);
    }

    /// Counts an element that left a reserve. With the lock of its queue held. Never below nothing: an element that was
    /// freed behind its pool's back may be part of something larger by now.
    pub(crate) fn count_out(&self, element: PoolBytes) {
        let before = self.bytes();
        self.store(PoolBytes {
            objects: before.objects.saturating_sub(element.objects),
            large: before.large.saturating_sub(element.large),
            pages: before.pages.saturating_sub(element.pages),
        });
    }

    fn store(&self, bytes: PoolBytes) {
        self.objects.store(bytes.objects, Relaxed);
        self.large.store(bytes.large, Relaxed);
        self.pages.store(bytes.pages, Relaxed);
    }
}
