//! Every interleaving of the hand-made protocols: the very files that ship, compiled against loom's atomics.

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU32, Ordering};
}

#[path = "../src/tickets.rs"]
#[allow(dead_code, reason = "the model runs the protocol, not what hosts do with it around a fork")]
mod tickets;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use sync::AtomicU32;

#[test]
fn two_threads_never_hold_the_lock_together_and_each_sees_the_others_writes() {
    loom::model(|| {
        let shared = Arc::new((tickets::Tickets::new(AtomicU32::new(0), AtomicU32::new(0)), UnsafeCell::new(0u32)));
        let threads = [(); 2].map(|()| {
            let shared = Arc::clone(&shared);
            loom::thread::spawn(move || {
                let ticket = shared.0.acquire(|_| loom::thread::yield_now());
                // SAFETY: loom itself fails the model when two threads are inside at once.
                shared.1.with_mut(|count| unsafe { *count += 1 });
                shared.0.release(ticket);
            })
        });
        for thread in threads {
            thread.join().expect("the model's threads do not panic");
        }
        // SAFETY: the threads have ended.
        shared.1.with(|count| assert_eq!(unsafe { *count }, 2));
    });
}
