//! [`Handover`]: how one thread gives another what that waits for.
//!
//! Used by [`waiters`](crate::waiters); `tests/loom_waiters.rs` compiles this very file against loom's atomics.
//!
//! # Theory
//!
//! A handover is empty, then full for good. The giver, of whom a lock allows one at a time, stores the block and then
//! `FULL` with Release; the taker's Acquire load of `FULL` pairs with it, so who sees it full sees the block, and what
//! the giver did before. `look` says that there may be something elsewhere; it can be taken back.

use crate::sync::{AtomicU32, Ordering};

const EMPTY: u32 = 0;
const FULL: u32 = 1;

/// A place for one block; see the module head.
pub(crate) struct Handover {
    state: AtomicU32,
    frame: AtomicU32,
    bits: AtomicU32,
    look: AtomicU32,
}

impl Handover {
    pub(crate) fn new() -> Self {
        Self {
            state: AtomicU32::new(EMPTY),
            frame: AtomicU32::new(0),
            bits: AtomicU32::new(0),
            look: AtomicU32::new(0),
        }
    }

    /// Hands a block over: its frame number and its state's bits. Once.
    pub(crate) fn give(&self, frame: u32, bits: u32) {
        self.frame.store(frame, Ordering::Relaxed);
        self.bits.store(bits, Ordering::Relaxed);
        self.state.store(FULL, Ordering::Release);
    }

    /// What was handed over.
    pub(crate) fn given(&self) -> Option<(u32, u32)> {
        let full = self.state.load(Ordering::Acquire) == FULL;
        full.then(|| (self.frame.load(Ordering::Relaxed), self.bits.load(Ordering::Relaxed)))
    }

    /// Has the waiter look elsewhere; `false` when it was told already.
    pub(crate) fn tell_to_look(&self) -> bool {
        // Release: pairs with the Acquire in `is_called`, so the waiter finds what there is to see.
        self.look.swap(1, Ordering::Release) == 0
    }

    /// Takes the word to look elsewhere back, before the waiter looks.
    pub(crate) fn will_look(&self) {
        // Acquire: pairs with the Release in `tell_to_look`, so that what is told before this is seen after it.
        self.look.swap(0, Ordering::Acquire);
    }

    /// Whether there is a reason to stop waiting.
    pub(crate) fn is_called(&self) -> bool {
        self.given().is_some() || self.look.load(Ordering::Acquire) != 0
    }
}
