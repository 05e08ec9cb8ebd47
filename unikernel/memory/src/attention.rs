//! [`Attention`]: tells every CPU, at its next slow path, that somebody is short of memory.
//!
//! Used by the waiters (who raise it while they wait) and by every path that caches or frees; `tests/loom.rs` compiles
//! this very file against loom's atomics and explores every interleaving.
//!
//! # Theory
//!
//! `raised` counts those who are short. Two races are decided by sequentially consistent fences, one on each side, so
//! that of two CPUs that each write and then look at what the other writes, at least one sees the other's write:
//!
//! - *A free against a new waiter.* Whoever frees puts frames where others find them, then [looks](Attention::noticed).
//!   Whoever is short [raises](Attention::raise), then looks for frames. So frames freed are found by the one or
//!   handed over by the other.
//! - *A limit restored against one set to 0.* An owner who opens its cache again stores the capacity, then looks, and
//!   takes it back if somebody is short ([`Attention::settle`]). Whoever is short raises, then stores 0. So while
//!   anybody is short, every limit ends at 0.

use crate::sync::{AtomicU32, Ordering, fence};

/// How many are short of memory; see the module head.
pub(crate) struct Attention {
    raised: AtomicU32,
}

impl Attention {
    /// Nobody is short; the counter is 0. (It is made by the caller because loom's cannot be in a constant.)
    pub(crate) const fn new(raised: AtomicU32) -> Self {
        Self { raised }
    }

    /// Notes that the caller is short. What it looks at from here on, it sees as of now.
    pub(crate) fn raise(&self) {
        self.raised.fetch_add(1, Ordering::Relaxed);
        // Pairs with the fences in `noticed` and `settle`.
        fence(Ordering::SeqCst);
    }

    /// Takes one [`Self::raise`] back.
    pub(crate) fn lower(&self) {
        self.raised.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether anybody is short, for a hint: a value that was true a moment ago.
    #[inline]
    pub(crate) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed) > 0
    }

    /// Whether anybody is short who may have missed what the caller wrote before.
    #[inline]
    pub(crate) fn noticed(&self) -> bool {
        // Pairs with the fence in `raise`.
        fence(Ordering::SeqCst);
        self.is_raised()
    }

    /// Sets a cache's limit to its capacity, or leaves it at 0 while anybody is short; tells which.
    pub(crate) fn settle(&self, limit: &AtomicU32, capacity: u32) -> u32 {
        if !self.is_raised() {
            limit.store(capacity, Ordering::Relaxed);
            if !self.noticed() {
                return capacity;
            }
        }
        limit.store(0, Ordering::Relaxed);
        0
    }
}
