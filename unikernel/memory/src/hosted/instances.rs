//! The instances that live, of either kind: what a thread's end and a fork have to visit.
//!
//! # Theory
//!
//! An instance is in the table from its start until it is retired, at its slot; one that starts is only seen by a fork
//! when its start is over (`fork.rs`). The table does not say what kind an instance is of, its place does:
//! [`PROCESS_SLOT`] is the [`ProcessHeap`](super::ProcessHeap)'s, and all others are not.

use core::ops::RangeInclusive;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::{HostedMachine, MAX_INSTANCES, threads};
use crate::raw_lock::RawLock;
use crate::service::Service;

/// How many slots there are. A power of two, so that no index of a table of them needs more than a mask.
pub(super) const SLOTS: usize = (MAX_INSTANCES + 2).next_power_of_two();

/// The slot of the instance whose slot is known at compile time.
pub(super) const PROCESS_SLOT: usize = 1;

/// The slots of all others. Slot 0 is never given: it stands for "not started".
const OTHER_SLOTS: RangeInclusive<usize> = PROCESS_SLOT + 1..=PROCESS_SLOT + MAX_INSTANCES;

static INSTANCES: [AtomicPtr<()>; SLOTS] = [const { AtomicPtr::new(ptr::null_mut()) }; SLOTS];

/// What is done to an instance, whatever its kind.
pub(super) trait Instance {
    /// Puts the calling thread's set back into the pool.
    fn leave(&self);

    /// Takes every lock, in lock order.
    fn lock(&self);

    /// Releases what [`Self::lock`] took.
    fn unlock(&self);

    /// In the child of a fork: makes the locks anew, and puts the sets of all threads but the calling one into the pool.
    fn renew(&self);
}

impl<const PROCESS: bool> Instance for Service<HostedMachine<PROCESS>> {
    fn leave(&self) {
        threads::leave(self.machine());
    }

    fn lock(&self) {
        let acquire = |lock: &RawLock| lock.acquire(|_| threads::yield_thread());
        acquire(self.machine().pool.raw());
        self.for_each_lock(acquire);
    }

    fn unlock(&self) {
        self.for_each_lock(RawLock::release);
        self.machine().pool.raw().release();
    }

    fn renew(&self) {
        self.for_each_lock(RawLock::reset);
        threads::forget_pool(self.machine());
        for set in self.sets().filter(|set| !threads::is_mine(set)) {
            threads::adopt(self.machine(), set);
        }
    }
}

/// Notes an instance and gives it a slot; `None` when there are too many.
pub(super) fn register<const PROCESS: bool>(service: &'static Service<HostedMachine<PROCESS>>) -> Option<usize> {
    let pointer = ptr::from_ref(service).cast_mut().cast::<()>();
    // AcqRel: pairs with the Acquire loads of `all`, which then see the instance initialised.
    let free = |slot: &AtomicPtr<()>| {
        slot.compare_exchange(ptr::null_mut(), pointer, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    };
    let mut slots = if PROCESS { PROCESS_SLOT..=PROCESS_SLOT } else { OTHER_SLOTS };
    slots.find(|&slot| free(&INSTANCES[slot]))
}

/// Gives a slot back; of slot 0 there is nothing to give.
pub(super) fn unregister(slot: usize) {
    INSTANCES[slot].store(ptr::null_mut(), Ordering::Release);
}

/// All instances that live.
pub(super) fn all() -> impl Iterator<Item = &'static dyn Instance> {
    INSTANCES.iter().enumerate().filter_map(|(slot, instance)| {
        let instance = instance.load(Ordering::Acquire);
        if slot == PROCESS_SLOT {
            // SAFETY: `register` stored a `&'static` here, and of this kind only.
            unsafe { of_kind::<true>(instance) }
        } else {
            // SAFETY: `register` stored a `&'static` here, and of this kind only.
            unsafe { of_kind::<false>(instance) }
        }
    })
}

/// The instance at an address; `None` for null.
///
/// # Safety
///
/// The address is null or a static instance's of that kind.
unsafe fn of_kind<const PROCESS: bool>(instance: *mut ()) -> Option<&'static dyn Instance> {
    // SAFETY: the caller's promise.
    let instance = unsafe { instance.cast::<Service<HostedMachine<PROCESS>>>().as_ref() }?;
    Some(instance)
}
