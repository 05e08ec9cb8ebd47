//! I/O under way: what a thread that waits for memory may still hope for.
//!
//! Users: drivers, which hold a [`Pending`] from the moment a request is with a device until its interrupt has been
//! handled; the memory service's host, which takes a machine on which only waiters are left for dead unless I/O is
//! pending.

use core::sync::atomic::{AtomicU32, Ordering};

static PENDING: AtomicU32 = AtomicU32::new(0);

/// A request that a device has and whose completion will run code.
#[must_use = "the request counts as done when this is dropped"]
pub struct Pending(());

impl Pending {
    /// Notes that a device is about to be given a request.
    #[allow(clippy::new_without_default, reason = "it is an act, not a value")]
    pub fn new() -> Self {
        PENDING.fetch_add(1, Ordering::SeqCst);
        Self(())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        PENDING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How many requests devices have.
pub fn pending() -> u32 {
    PENDING.load(Ordering::SeqCst)
}
