//! [`RawLock`]: the protocol of a spin lock, without data and without a machine.
//!
//! Used by [`Lock`](crate::lock) and the hosted mode; `tests/loom.rs` compiles this very file against loom's atomics
//! and explores every interleaving.
//!
//! # Theory
//!
//! `held` is 1 while the lock is held. A taker sets it with one locked instruction; only the holder clears it, so the
//! release is a plain store. The `Acquire` of the one pairs with the `Release` of the other: what a holder wrote is seen
//! by the next. `taken`, which only the holder writes, counts the takers.
//!
//! Whoever looks when the lock is free may take it, so that a lock is not kept waiting for one whose turn it would be.
//! Where virtual CPUs are more than the real ones, that one is often not running, and in an order in which they came all
//! others wait for it, each for as long as its host lets it spin. (With FIFO tickets in this place the guest's test of a
//! pager with four times the memory took 9 s on four virtual CPUs of two real ones, where it takes 3 with this, and on
//! one of them had not ended after 100 s, where it takes 1. Linux takes such locks under hypervisors for the same reason:
//! `virt_spin_lock`.)
//!
//! *Starving.* Processors prefer those near to a line of their caches, so one of many that ask for a lock without a
//! pause may never have it. Who has looked [`PATIENCE_ROUNDS`] times in vain says so, and until nobody does only those
//! may take the lock. Each of the others has it once at the most meanwhile, for it then begins to count anew; and if the
//! one that starves does not run, they starve soon, too, and go on. `starving` orders nothing.

use crate::sync::{AtomicU32, Ordering, PATIENCE_ROUNDS};

/// A spin lock's words; see the module head.
pub(crate) struct RawLock {
    held: AtomicU32,
    /// How many have waited for long.
    starving: AtomicU32,
    taken: AtomicU32,
}

impl RawLock {
    /// A free lock, of words that are 0. (They are made by the caller because loom's cannot be in a constant.)
    pub(crate) const fn new(held: AtomicU32, starving: AtomicU32, taken: AtomicU32) -> Self {
        Self { held, starving, taken }
    }

    /// Waits for the lock, calling `relax` with the number of rounds between looks.
    #[cfg(feature = "hosted")]
    pub(crate) fn acquire(&self, mut relax: impl FnMut(u32)) {
        if !self.try_acquire() {
            self.wait(&mut relax);
        }
    }

    /// Takes the lock if it is free and nobody starves; says whether it did.
    #[inline]
    pub(crate) fn try_acquire(&self) -> bool {
        self.starving.load(Ordering::Relaxed) == 0 && self.take()
    }

    /// Gives the lock up. Only for its holder.
    #[inline]
    pub(crate) fn release(&self) {
        // Release: pairs with the Acquire in `take`.
        self.held.store(0, Ordering::Release);
    }

    /// How often the lock was taken, modulo 2^32.
    pub(crate) fn times_taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Forgets every waiter and makes the lock free: for the child of a fork, where no other thread lives.
    #[cfg(feature = "hosted")]
    pub(crate) fn reset(&self) {
        self.held.store(0, Ordering::Relaxed);
        self.starving.store(0, Ordering::Relaxed);
    }

    /// As [`Self::acquire`], for one who has found it taken.
    #[cold]
    #[inline(never)]
    pub(crate) fn wait(&self, relax: &mut dyn FnMut(u32)) {
        let mut rounds: u32 = 0;
        while rounds < PATIENCE_ROUNDS {
            relax(rounds);
            rounds += 1;
            // Without a locked instruction, which would take the line from the holder.
            if self.held.load(Ordering::Relaxed) == 0 && self.try_acquire() {
                return;
            }
        }
        self.starving.fetch_add(1, Ordering::Relaxed);
        // Not looking first: it is time to have the line.
        while !self.take() {
            relax(rounds);
            rounds = rounds.saturating_add(1);
        }
        self.starving.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes the lock if it is free; says whether it did.
    #[inline]
    fn take(&self) -> bool {
        // Acquire: pairs with the Release in `release`.
        if self.held.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return false;
        }
        self.taken.store(self.taken.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        true
    }
}
