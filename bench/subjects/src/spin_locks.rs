//! The locks that `buddy-slab-allocator` asks its kernel for. Test-and-set, as its own kernel and its host tests have them.
//!
//! Nothing is called by name: whoever links this package gives the crate its locks.

use core::panic::Location;
use core::sync::atomic::{AtomicBool, Ordering};

use ax_sync::interface::{AcquireResult, ContextState, LockMetadata, SpinOps};

struct Locks;

#[allow(clippy::used_underscore_binding, reason = "the macro's callers pass the arguments on, used or not")]
#[ax_crate_interface::impl_interface]
impl SpinOps for Locks {
    fn acquire(
        locked: &AtomicBool,
        _metadata: &LockMetadata,
        _address: usize,
        _context: u8,
        _subclass: u32,
        _caller: &'static Location<'static>,
    ) -> ContextState {
        // Acquire: pairs with the release in `release`.
        while locked.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            core::hint::spin_loop();
        }
        ContextState::new(0, 0)
    }

    fn try_acquire(
        locked: &AtomicBool,
        _metadata: &LockMetadata,
        _address: usize,
        _context: u8,
        _subclass: u32,
        _caller: &'static Location<'static>,
    ) -> AcquireResult {
        // Acquire: as in `acquire`.
        let taken = locked.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        AcquireResult::new(taken, ContextState::new(0, 0))
    }

    fn release(locked: &AtomicBool, _address: usize, _context: u8, _state: ContextState) {
        // Release: pairs with the acquires above.
        locked.store(false, Ordering::Release);
    }

    fn force_release(locked: &AtomicBool, _address: usize, _context: u8) {
        locked.store(false, Ordering::Release);
    }

    fn is_locked(locked: &AtomicBool) -> bool {
        locked.load(Ordering::Acquire)
    }
}
