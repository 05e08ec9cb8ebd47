//! [`Queue`]: threads in line, linked through themselves.
//!
//! Used by run queues and wait queues. Neither putting in nor taking out allocates, so both may happen in interrupt
//! handlers.

use core::ptr;

use super::Thread;

/// A FIFO of threads. Whoever puts a thread in vouches that it is in no other queue and lives until it is taken out.
pub(crate) struct Queue {
    head: *const Thread,
    tail: *const Thread,
}

// SAFETY: the threads in a queue may be reached from any CPU that holds the queue's lock.
unsafe impl Send for Queue {}

impl Queue {
    pub(crate) const fn new() -> Self {
        Self { head: ptr::null(), tail: ptr::null() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_null()
    }

    /// Appends a thread.
    ///
    /// # Safety
    ///
    /// It is in no queue, and lives until it has been taken out.
    pub(crate) unsafe fn push(&mut self, thread: *const Thread) {
        // SAFETY: the caller's promise for the thread, and for the tail when it was pushed; the queue's lock guards the
        // links.
        unsafe {
            (*thread).next.set(ptr::null());
            match self.tail.as_ref() {
                None => self.head = thread,
                Some(tail) => tail.next.set(thread),
            }
        }
        self.tail = thread;
    }

    /// Takes the first thread out.
    pub(crate) fn pop(&mut self) -> Option<*const Thread> {
        // SAFETY: a thread in the queue lives, as its pusher promised.
        let head = unsafe { self.head.as_ref() }?;
        self.head = head.next.get();
        if self.head.is_null() {
            self.tail = ptr::null();
        }
        Some(head)
    }
}
