//! [`Lock`]: a FIFO (ticket) spin lock taken with interrupts off, around the data it guards.
//!
//! Used by zones, depots and growth. An interrupt handler may allocate, so every holder keeps handlers of its own CPU
//! out; FIFO, so that no CPU starves however unfair the cache is (a test-and-set lock was seen to starve).
//!
//! The protocol is in [`Tickets`], which a model checker runs on its own.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};

use crate::machine::Machine;
use crate::sync::AtomicU32;
use crate::tickets::Tickets;

/// Data behind a FIFO spin lock.
pub(crate) struct Lock<T> {
    tickets: Tickets,
    data: UnsafeCell<T>,
}

// SAFETY: the data is reached only through a guard, and the tickets give out one guard at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    pub(crate) const fn new(data: T) -> Self {
        Self { tickets: Tickets::new(AtomicU32::new(0), AtomicU32::new(0)), data: UnsafeCell::new(data) }
    }

    /// Takes the lock with interrupts off. Never sleeps; may be called in an interrupt handler.
    #[inline]
    pub(crate) fn lock<'a, M: Machine>(&'a self, machine: &'a M) -> Guard<'a, T, M> {
        let interrupts = machine.disable_interrupts();
        let ticket = self.tickets.acquire(|rounds| machine.relax(rounds));
        Guard { lock: self, machine, interrupts, ticket }
    }

    /// Takes the lock with interrupts off if it is free. May be called in an interrupt handler.
    pub(crate) fn try_lock<'a, M: Machine>(&'a self, machine: &'a M) -> Option<Guard<'a, T, M>> {
        let interrupts = machine.disable_interrupts();
        let Some(ticket) = self.tickets.try_acquire() else {
            machine.restore_interrupts(interrupts);
            return None;
        };
        Some(Guard { lock: self, machine, interrupts, ticket })
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

    /// The bare tickets: to count them, and for a host that must hold or reset locks across a fork.
    pub(crate) fn tickets(&self) -> &Tickets {
        &self.tickets
    }
}

/// Exclusive access to what a [`Lock`] guards; releases it, then restores interrupts, when dropped.
pub(crate) struct Guard<'a, T, M: Machine> {
    lock: &'a Lock<T>,
    machine: &'a M,
    interrupts: M::InterruptState,
    ticket: u32,
}

impl<T, M: Machine> Deref for Guard<'_, T, M> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: this guard's ticket owns the lock, so nobody else reaches the data.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T, M: Machine> DerefMut for Guard<'_, T, M> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this guard's ticket owns the lock, and `&mut self` makes it the only borrow through the guard.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T, M: Machine> Drop for Guard<'_, T, M> {
    #[inline]
    fn drop(&mut self) {
        self.lock.tickets.release(self.ticket);
        self.machine.restore_interrupts(self.interrupts);
    }
}
