//! What a fork needs: every lock taken before it, released in the parent, made anew in the child.
//!
//! Lock order: starts, pools, then for each instance depots, window, growth, stocks of zeroed pages, zones (the order of the service). An
//! instance has more locks after its start than before, so a fork waits for starts and starts wait for forks.

use std::sync::Once;

use super::instances::{self, Instance};
use super::threads;
use crate::raw_lock::RawLock;
use crate::sync::AtomicU32;

/// Held while an instance starts.
static STARTS: RawLock = RawLock::new(AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));

/// Runs the start of an instance while no fork takes place.
pub(super) fn between_forks<R>(start: impl FnOnce() -> R) -> R {
    // Before the lock: the C library may hold one of its own here, and while it calls `before`.
    install_handlers();
    STARTS.acquire(|_| threads::yield_thread());
    let _held = Held;
    start()
}

/// The lock of a start under way: given back also when the start panics, or all later ones would wait for ever.
struct Held;

impl Drop for Held {
    fn drop(&mut self) {
        STARTS.release();
    }
}

/// Registers the handlers, once a process.
fn install_handlers() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: the handlers have the signature asked for and live as long as the program. That this can fail for
        // want of memory only means that forks in the middle of another thread's allocation are unsafe, as without
        // handlers.
        unsafe { libc::pthread_atfork(Some(before), Some(after_in_parent), Some(after_in_child)) };
    });
}

extern "C" fn before() {
    STARTS.acquire(|_| threads::yield_thread());
    instances::all().for_each(Instance::lock);
}

extern "C" fn after_in_parent() {
    instances::all().for_each(Instance::unlock);
    STARTS.release();
}

extern "C" fn after_in_child() {
    instances::all().for_each(Instance::renew);
    STARTS.reset();
}
