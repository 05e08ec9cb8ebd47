//! [`InterruptLock`]: a FIFO spin lock that keeps this CPU's interrupt handlers out while it is held.
//!
//! Used for everything that handlers and threads share: the console, run queues, wait queues. A holder never waits,
//! sleeps or yields.

use core::ops::{Deref, DerefMut};

use spin::mutex::{TicketMutex, TicketMutexGuard};

use crate::arch;

/// A value behind a FIFO spin lock taken with interrupts off.
pub(crate) struct InterruptLock<T> {
    value: TicketMutex<T>,
}

impl<T> InterruptLock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self { value: TicketMutex::new(value) }
    }

    /// Waits for the lock, spinning, in turn.
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        let interrupts = InterruptsOff(arch::save_and_disable_interrupts());
        Guard { guard: self.value.lock(), _interrupts: interrupts }
    }
}

/// The value, while the lock is held. Fields are dropped in order: the lock is given up before interrupts come back.
pub(crate) struct Guard<'a, T> {
    guard: TicketMutexGuard<'a, T>,
    _interrupts: InterruptsOff,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// Interrupts are off until this is dropped; then they are what they were.
struct InterruptsOff(arch::InterruptState);

impl Drop for InterruptsOff {
    fn drop(&mut self) {
        arch::restore_interrupts(self.0);
    }
}
