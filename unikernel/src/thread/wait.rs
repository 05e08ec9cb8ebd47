//! [`WaitQueue`]: threads that wait for a condition, and those who make it true.

use super::queue::Queue;
use super::scheduler;
use crate::sync::InterruptLock;

/// A place to wait for a condition.
///
/// The condition is checked under the queue's lock before a thread goes to sleep, and wakers take that lock after they
/// made it true: so no wake is lost.
pub struct WaitQueue {
    waiters: InterruptLock<Queue>,
}

impl WaitQueue {
    /// A queue nobody waits in.
    pub const fn new() -> Self {
        Self { waiters: InterruptLock::new(Queue::new()) }
    }

    /// Waits until `condition` is true; returns at once when it is. It is evaluated with interrupts off and must
    /// neither wait nor wake. Threads only, not in an interrupt handler.
    pub fn wait_until(&self, mut condition: impl FnMut() -> bool) {
        let thread = scheduler::current_for_waiting();
        loop {
            {
                let mut waiters = self.waiters.lock();
                if condition() {
                    return;
                }
                // SAFETY: a running thread is in no queue, and lives at least until it runs again.
                unsafe { waiters.push(thread) };
            }
            scheduler::block();
        }
    }

    /// Wakes the thread that waits longest; it looks at its condition again. Callable anywhere but in exception
    /// handlers.
    pub fn wake_one(&self) {
        let waiter = self.waiters.lock().pop();
        if let Some(waiter) = waiter {
            // SAFETY: it was in this queue alone, and waits.
            unsafe { scheduler::wake(waiter) };
        }
    }

    /// Wakes all threads that wait now; each looks at its condition again. Callable anywhere but in exception handlers.
    pub fn wake_all(&self) {
        let mut woken = core::mem::replace(&mut *self.waiters.lock(), Queue::new());
        while let Some(waiter) = woken.pop() {
            // SAFETY: as above.
            unsafe { scheduler::wake(waiter) };
        }
    }
}

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}
