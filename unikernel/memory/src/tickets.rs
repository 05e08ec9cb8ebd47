//! [`Tickets`]: a FIFO lock's protocol, without data and without a machine.
//!
//! Used by [`Lock`](crate::lock) and the hosted mode; `tests/loom.rs` compiles this very file against loom's atomics
//! and explores every interleaving.
//!
//! # Theory
//!
//! `next` is the next ticket to give, `owner` the ticket that holds the lock; they are equal when it is free. A taker
//! draws a ticket with one locked instruction and waits until `owner` shows it. Only the holder writes `owner`, so the
//! release is a plain store. The `Acquire` load of `owner` pairs with that `Release` store: what the last holder wrote
//! is seen by the next. `next` orders nothing.

use crate::sync::{AtomicU32, Ordering};

/// A FIFO lock's two counters; see the module head.
pub(crate) struct Tickets {
    next: AtomicU32,
    owner: AtomicU32,
}

impl Tickets {
    /// A free lock, of two counters that are 0. (They are made by the caller because loom's cannot be in a constant.)
    pub(crate) const fn new(next: AtomicU32, owner: AtomicU32) -> Self {
        Self { next, owner }
    }

    /// Waits for the lock, calling `relax` with the number of rounds between looks; returns the ticket to release.
    #[inline]
    pub(crate) fn acquire(&self, mut relax: impl FnMut(u32)) -> u32 {
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        let mut rounds = 0;
        // Acquire: pairs with the Release store in `release`.
        while self.owner.load(Ordering::Acquire) != ticket {
            relax(rounds);
            rounds = rounds.saturating_add(1);
        }
        ticket
    }

    /// Takes the lock if it is free; returns the ticket to release.
    #[inline]
    pub(crate) fn try_acquire(&self) -> Option<u32> {
        // Acquire: as in `acquire`. If the ticket it shows is still to be given, the lock is free, and whoever draws it
        // holds the lock.
        let owner = self.owner.load(Ordering::Acquire);
        self.next.compare_exchange(owner, owner.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed).ok()
    }

    /// Hands the lock to the next ticket. Only for the holder of `ticket`.
    #[inline]
    pub(crate) fn release(&self, ticket: u32) {
        // Release: pairs with the Acquire load in `acquire`.
        self.owner.store(ticket.wrapping_add(1), Ordering::Release);
    }

    /// How many tickets were ever given, modulo 2^32: how often the lock was taken.
    pub(crate) fn drawn(&self) -> u32 {
        self.next.load(Ordering::Relaxed)
    }

    /// As [`Self::release`], for a holder that did not keep its ticket.
    #[cfg(feature = "hosted")]
    pub(crate) fn release_held(&self) {
        self.release(self.owner.load(Ordering::Relaxed));
    }

    /// Forgets every waiter and makes the lock free: for the child of a fork, where no other thread lives.
    #[cfg(feature = "hosted")]
    pub(crate) fn reset(&self) {
        self.next.store(0, Ordering::Relaxed);
        self.owner.store(0, Ordering::Relaxed);
    }
}
