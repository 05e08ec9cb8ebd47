//! [`Lock`]: a spin lock taken with interrupts off, around the data it guards.
//!
//! Used by all that CPUs share here, and by hosts for what theirs do. An interrupt handler may allocate, so every
//! holder keeps handlers of its own CPU out.
//!
//! The protocol, and what is done so that nobody starves, is in [`RawLock`], which a model checker runs on its own.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use crate::machine::Machine;
use crate::raw_lock::RawLock;
use crate::sync::AtomicU32;

/// Data behind a spin lock, for what is short: a holder neither sleeps nor yields.
pub struct Lock<T> {
    raw: RawLock,
    data: UnsafeCell<T>,
}

// SAFETY: the data is reached only through a guard, and the raw lock lets one guard in at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    /// Data that nobody holds.
    pub const fn new(data: T) -> Self {
        Self { raw: RawLock::new(AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0)), data: UnsafeCell::new(data) }
    }

    /// Takes the lock with interrupts off. Never sleeps; may be called in an interrupt handler.
    #[inline]
    pub fn lock<'a, M: Machine>(&'a self, machine: &'a M) -> Guard<'a, T, M> {
        let interrupts = machine.disable_interrupts();
        if !self.raw.try_acquire() {
            wait(&self.raw, machine);
        }
        Guard { lock: self, machine, interrupts, on_this_cpu: PhantomData }
    }

    /// Takes the lock with interrupts off if it is free; `None` also where somebody has waited for it for long. May be
    /// called in an interrupt handler.
    pub fn try_lock<'a, M: Machine>(&'a self, machine: &'a M) -> Option<Guard<'a, T, M>> {
        let interrupts = machine.disable_interrupts();
        if !self.raw.try_acquire() {
            machine.restore_interrupts(interrupts);
            return None;
        }
        Some(Guard { lock: self, machine, interrupts, on_this_cpu: PhantomData })
    }

    /// The data, without taking the lock.
    ///
    /// # Safety
    ///
    /// Nobody changes the data meanwhile.
    #[cfg(feature = "hosted")]
    pub(crate) unsafe fn peek(&self) -> &T {
        // SAFETY: the caller's promise.
        unsafe { &*self.data.get() }
    }

    /// The bare lock: to count them, and for a host that must hold or reset locks across a fork.
    pub(crate) fn raw(&self) -> &RawLock {
        &self.raw
    }
}

/// One function for the locks of all kinds of data.
#[cold]
#[inline(never)]
fn wait<M: Machine>(raw: &RawLock, machine: &M) {
    raw.wait(&mut |rounds| machine.relax(rounds));
}

/// Exclusive access to what a [`Lock`] guards; releases it, then restores interrupts, when dropped.
#[must_use = "the lock is given up when it is dropped"]
pub struct Guard<'a, T, M: Machine> {
    lock: &'a Lock<T>,
    machine: &'a M,
    interrupts: M::InterruptState,
    /// It is given up on the CPU whose interrupts are off: it is not `Send`, and so that the data need not be `Sync`, nor
    /// is it.
    on_this_cpu: PhantomData<*const ()>,
}

impl<T, M: Machine> Deref for Guard<'_, T, M> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the lock is this guard's, so nobody else reaches the data.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T, M: Machine> DerefMut for Guard<'_, T, M> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is this guard's, and `&mut self` makes it the only borrow through the guard.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T, M: Machine> Drop for Guard<'_, T, M> {
    #[inline]
    fn drop(&mut self) {
        self.lock.raw.release();
        self.machine.restore_interrupts(self.interrupts);
    }
}

#[cfg(all(test, feature = "hosted"))]
mod tests {
    use crate::raw_lock::RawLock;
    use crate::sync::{AtomicU32, PATIENCE_ROUNDS};

    fn free_lock() -> RawLock {
        RawLock::new(AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0))
    }

    #[test]
    fn a_newcomer_takes_a_free_lock_before_one_who_waits() {
        let lock = free_lock();
        assert!(lock.try_acquire());
        lock.acquire(|rounds| match rounds {
            0 => {
                assert!(!lock.try_acquire(), "it is held");
                lock.release();
                assert!(lock.try_acquire(), "it is free, and nobody starves");
            }
            7 => lock.release(),
            _ => assert!(rounds < 7, "it is free"),
        });
        lock.release();
        assert_eq!(lock.times_taken(), 3);
    }

    #[test]
    fn while_one_starves_newcomers_find_the_lock_taken() {
        let lock = free_lock();
        assert!(lock.try_acquire());
        lock.acquire(|rounds| {
            if rounds == PATIENCE_ROUNDS {
                lock.release();
                assert!(!lock.try_acquire(), "it is free, and somebody starves");
            }
        });
        assert_eq!(lock.times_taken(), 2);
        lock.release();
        assert!(lock.try_acquire(), "nobody starves any more");
    }
}
