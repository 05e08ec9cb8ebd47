//! [`InterruptLock`]: a spin lock that keeps this CPU's interrupt handlers out while it is held.
//!
//! Used for everything that handlers and threads share: run queues, wait queues, the console, page tables, disks. A
//! holder never waits, sleeps or yields. It is the memory service's own [`Lock`], where its theory is.

use quarry_memory::{Guard, Lock};

use crate::memory::{Guest, service};

/// A value behind a spin lock taken with interrupts off.
pub(crate) struct InterruptLock<T>(Lock<T>);

impl<T> InterruptLock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(Lock::new(value))
    }

    /// Waits for the lock, spinning.
    pub(crate) fn lock(&self) -> Guard<'_, T, Guest> {
        self.0.lock(service().machine())
    }
}
