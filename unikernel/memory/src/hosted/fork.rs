//! What a fork needs: every lock taken before it, released in the parent, made anew in the child.
//!
//! Lock order: pools, then for each instance depots, growth, zones (the order of the service).

use std::sync::Once;

use super::threads;
use crate::tickets::Tickets;

/// Registers the handlers, once a process.
pub(super) fn install_handlers() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: the handlers have the signature asked for and live as long as the program. That this can fail for want of
        // memory only means that forks in the middle of another thread's allocation are unsafe, as without handlers.
        unsafe { libc::pthread_atfork(Some(before), Some(after_in_parent), Some(after_in_child)) };
    });
}

extern "C" fn before() {
    for instance in threads::instances() {
        instance.machine().pool.tickets().acquire(|_| threads::yield_thread());
        instance.for_each_lock(|lock| {
            lock.acquire(|_| threads::yield_thread());
        });
    }
}

extern "C" fn after_in_parent() {
    for instance in threads::instances() {
        instance.for_each_lock(Tickets::release_held);
        instance.machine().pool.tickets().release_held();
    }
}

extern "C" fn after_in_child() {
    for instance in threads::instances() {
        instance.for_each_lock(Tickets::reset);
        threads::forget_pool(instance.machine());
        for set in instance.sets().filter(|set| !threads::is_mine(set)) {
            threads::adopt(instance.machine(), set);
        }
    }
}
