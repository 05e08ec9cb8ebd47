//! [`Walks`]: many have work for one lock, and one of them does it for all.
//!
//! Used by [`waiters`](crate::waiters), where all who free frames would otherwise queue to find what the one before has
//! left over; `tests/loom_waiters.rs` compiles this very file against loom's atomics.
//!
//! # Theory
//!
//! Who has work notes it and then tries the lock. Who gets it takes the note back and does all the work there is; who
//! does not goes on. The holder looks at the note after it has released the lock, and begins again. Both sides have a
//! sequentially consistent fence between their write (the note; the release) and their look (at the lock; at the note),
//! so one of them sees the other's write, and the note is not overlooked.
//!
//! Nobody begins more than [`MOST_WALKS`] times, or he would do nothing else while others bring work: then what was
//! noted waits for the next who comes.

use crate::sync::{AtomicU32, Ordering, fence};

/// Walks in a row by one who came with work of his own.
pub(crate) const MOST_WALKS: usize = 4;

/// The note that there is work; see the module head.
pub(crate) struct Walks {
    noted: AtomicU32,
}

impl Walks {
    /// Nothing is to be done; the counter is 0. (It is made by the caller because loom's cannot be in a constant.)
    pub(crate) const fn new(noted: AtomicU32) -> Self {
        Self { noted }
    }

    /// Has the work done that the caller has brought, by whoever holds the lock or by itself. `try_walk` does all there
    /// is while it holds the lock, or returns `false` when somebody else holds it. It takes the note back in between.
    pub(crate) fn offer(&self, mut try_walk: impl FnMut() -> bool) {
        for _ in 0..MOST_WALKS {
            // Release: pairs with the Acquire in `begin`, so who takes the note finds what was done before it. A swap,
            // for then the notes of others before it are taken with it.
            self.noted.swap(1, Ordering::Release);
            // Pairs with the fence in `is_noted`.
            fence(Ordering::SeqCst);
            if !try_walk() || !self.is_noted() {
                return;
            }
        }
    }

    /// Takes the note back: all that was noted is about to be done. Under the lock.
    pub(crate) fn begin(&self) {
        self.noted.swap(0, Ordering::Acquire);
    }

    /// Whether somebody found the lock taken and went on. Asked after it was released.
    pub(crate) fn is_noted(&self) -> bool {
        // Pairs with the fence in `offer`.
        fence(Ordering::SeqCst);
        self.noted.load(Ordering::Relaxed) != 0
    }
}
