//! [`Outstanding`]: how many completions a bio waits for, what went wrong first, and who holds its memory.
//!
//! Used by the bios, through their [headers](super::header). Modelled in `tests/loom_bio.rs`.
//!
//! # Theory
//!
//! `remaining` is 1 for the bio itself and 1 for each child that was chained to it and has not completed. Whoever takes
//! it to 0 owns the bio and completes it: nobody else can, for a count of 0 is left by the one who reached it alone. The
//! subtractions are `AcqRel`: the last one sees the error that any other one noted before it.
//!
//! `references` is 1 for the bio's handle and 1 for each clone or reference; whoever takes it to 0 frees the memory.

use crate::sync::{AtomicU32, Ordering};

/// What several parties change of a bio.
pub(crate) struct Outstanding {
    remaining: AtomicU32,
    references: AtomicU32,
    /// 0, or the first error.
    error: AtomicU32,
}

impl Outstanding {
    /// Of a bio without children and references, and with no error. (Not a `const fn`: the model's atomics are not.)
    pub(crate) fn new() -> Self {
        Self { remaining: AtomicU32::new(1), references: AtomicU32::new(1), error: AtomicU32::new(0) }
    }

    /// One more completion is waited for. Called by who holds the bio's handle, so there is one already.
    pub(crate) fn expect_another(&self) {
        self.remaining.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether children are waited for, for who holds the bio's handle.
    pub(crate) fn has_children(&self) -> bool {
        self.remaining.load(Ordering::Relaxed) > 1
    }

    /// Notes an error, unless there was one before.
    pub(crate) fn fail(&self, error: u32) {
        let _ = self.error.compare_exchange(0, error, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// One of the completions has come; whether it was the last. The caller then owns the bio.
    pub(crate) fn complete_one(&self) -> bool {
        self.remaining.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Makes the bio one that waits for its own completion again, and keeps the error. Called by who owns it.
    pub(crate) fn start_again(&self) {
        self.remaining.store(1, Ordering::Relaxed);
    }

    /// 0, or the first error so far.
    pub(crate) fn error(&self) -> u32 {
        self.error.load(Ordering::Relaxed)
    }

    /// Forgets the error.
    pub(crate) fn clear_error(&self) {
        self.error.store(0, Ordering::Relaxed);
    }

    /// One more uses the bio's memory.
    pub(crate) fn get(&self) {
        self.references.fetch_add(1, Ordering::Relaxed);
    }

    /// One less does; whether it was the last.
    pub(crate) fn put(&self) -> bool {
        self.references.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Whether nobody but the handle's holder, who asks, uses the memory.
    pub(crate) fn is_only_one(&self) -> bool {
        // Acquire: pairs with `put`, so what a clone did with the vectors is over.
        self.references.load(Ordering::Acquire) == 1
    }
}
