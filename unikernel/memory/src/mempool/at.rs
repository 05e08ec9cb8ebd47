//! [`At`]: a pool at work; how elements are taken, waited for and put back.
//!
//! Used by the functions of the service in [`mempool`](super), where the theory is.

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use core::time::Duration;

use super::{Mempool, MempoolError, Sleeper};
use crate::events::Event;
use crate::gfp::Gfp;
use crate::kept::Kept;
use crate::machine::Machine;
use crate::reserve::{Given, Queue, Reserve, Waiter};
use crate::service::Service;

/// How long a waiter sleeps before it asks again whether there is memory elsewhere.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a waiter asks in vain before it is counted among those that only others can help.
const ROUNDS_IN_VAIN: u32 = 3;

/// A pool at work: with the service it belongs to.
pub(super) struct At<'a, M: Machine> {
    pub(super) service: &'a Service<M>,
    pub(super) pool: &'a Mempool<'a>,
}

impl<M: Machine> At<'_, M> {
    /// Gives all that a pool has back. Nobody uses it any more.
    pub(super) fn empty(&self) {
        while let Some(element) = self.take_from_reserve() {
            self.free_home(element);
        }
        // SAFETY: the empty array has room for nothing.
        let array = self.with(|_, reserve| unsafe { reserve.move_to(ptr::null_mut(), 0) });
        // SAFETY: the array came from kmalloc, and the reserve was the only one to use it.
        unsafe { self.service.kfree(array.cast()) };
    }

    /// Sets the minimum of a pool's reserve, with a larger array if that is needed.
    pub(super) fn set_minimum(&self, minimum: usize) -> Result<(), MempoolError> {
        if minimum == 0 {
            return Err(MempoolError::NoReserve);
        }
        if self.with(|_, reserve| reserve.set_minimum(minimum)) {
            return Ok(());
        }
        let array = self.service.kmalloc_array(minimum, size_of::<NonNull<u8>>(), Gfp::KERNEL).cast::<NonNull<u8>>();
        if array.is_null() {
            return Err(MempoolError::OutOfMemory);
        }
        let left = self.with(|_, reserve| {
            // Another resize may have been quicker.
            // SAFETY: the array was made for `minimum` pointers, and nobody else knows of it.
            let left = if reserve.room() < minimum { unsafe { reserve.move_to(array, minimum) } } else { array };
            let fits = reserve.set_minimum(minimum);
            debug_assert!(fits, "the array has room for as many now");
            left
        });
        // SAFETY: the array came from kmalloc, or is null, and the reserve does not use it.
        unsafe { self.service.kfree(left.cast()) };
        Ok(())
    }

    /// Does something to a pool's reserve and its queue with their lock held.
    pub(super) fn with<R>(&self, work: impl FnOnce(&mut Queue<Sleeper>, &mut Reserve) -> R) -> R {
        let mut queue = self.service.pool_queues().queues[usize::from(self.pool.queue)].lock(self.service.machine());
        // SAFETY: the reserve is only reached here, with the lock of the pool's queue held.
        let reserve = unsafe { &mut *self.pool.reserve.get() };
        let result = work(&mut queue, reserve);
        self.pool.missing.store(reserve.missing() as u32, Relaxed);
        result
    }

    /// [`Self::with`], for work that takes an element out of the reserve: it is no longer kept back then.
    pub(super) fn take_with(
        &self,
        work: impl FnOnce(&mut Queue<Sleeper>, &mut Reserve) -> Option<NonNull<u8>>,
    ) -> Option<NonNull<u8>> {
        let (element, bytes) = self.with(|queue, reserve| {
            let element = work(queue, reserve)?;
            let bytes = self.pool.source.bytes_of(self.service, element);
            self.kept().count_out(bytes.unwrap_or_default());
            Some((element, bytes))
        })?;
        let source = &self.pool.source;
        assert!(bytes.is_some(), "{element:p} was freed while {source} kept it: give elements to mempool_free alone");
        Some(element)
    }

    fn kept(&self) -> &Kept {
        &self.service.pool_queues().kept()[usize::from(self.pool.queue)]
    }

    pub(super) fn take_from_reserve(&self) -> Option<NonNull<u8>> {
        self.take_with(|_, reserve| reserve.take())
    }

    /// An element from elsewhere that nobody has waited for longer. Who may not wait does not look at who waits: it
    /// could not come back.
    pub(super) fn allocate_behind_waiters(&self, gfp: Gfp, may_wait: bool) -> Option<NonNull<u8>> {
        loop {
            let element = self.allocate_elsewhere(gfp)?;
            if !may_wait || self.service.pool_waiters() == 0 {
                return Some(element);
            }
            if let Err(element) = self.serve(element) {
                return Some(element);
            }
        }
    }

    /// Gives an element to who has waited longest; back when nobody waits.
    fn serve(&self, element: NonNull<u8>) -> Result<(), NonNull<u8>> {
        self.with(|queue, reserve| queue.serve(reserve, element, |sleeper| self.wake_sleeper(sleeper)))
    }

    /// Gives an element to who has waited longest, into the reserve, or home.
    pub(super) fn put_back(&self, element: NonNull<u8>) {
        // Relaxed: see the module head.
        if self.pool.missing.load(Relaxed) == 0 {
            return self.free_home(element);
        }
        let Some(bytes) = self.pool.source.bytes_of(self.service, element) else {
            panic!("mempool_free of {element:p}, which is not the start of an object");
        };
        let given = self.with(|queue, reserve| {
            if reserve.holds(element) {
                return None;
            }
            let given = queue.give(reserve, element, |sleeper| self.wake_sleeper(sleeper));
            if given == Ok(Given::ToReserve) {
                self.kept().count_in(bytes);
            }
            Some(given)
        });
        match given {
            None => panic!("mempool_free of {element:p}, which is free already: a double free"),
            Some(Err(element)) => self.free_home(element),
            Some(Ok(_)) => {}
        }
    }

    /// Sleeps until there is an element; see the module head for what happens when that takes long.
    #[cold]
    pub(super) fn wait_for_element(&self, gfp: Gfp) -> NonNull<u8> {
        let sleeper = Sleeper {
            task: self.service.machine().task(),
            pool: ptr::from_ref(self.pool).cast(),
            stalled: AtomicBool::new(false),
        };
        let waiter = Waiter::new(self.pool.reserve.get(), sleeper);
        let place = Place { at: self, waiter: &waiter };
        let element = self.take_with(|queue, reserve| {
            // SAFETY: the waiter goes after `place`, which takes it off the queue.
            let element = unsafe { queue.take_or_wait(reserve, &waiter) };
            self.service.pool_queues().waiting.fetch_add(1, Relaxed);
            element
        });
        if let Some(element) = element {
            return element;
        }
        self.service.events().count(Event::PoolWait);
        let mut in_vain = 0;
        loop {
            self.service.machine().sleep(&mut || waiter.is_served(), Some(PATIENCE));
            if let Some(element) = place.waiter.take() {
                return element;
            }
            if let Some(element) = self.allocate_elsewhere(gfp) {
                if let Err(element) = self.serve(element) {
                    // Nobody waits any more, so this one was served meanwhile.
                    self.put_back(element);
                }
                continue;
            }
            in_vain += 1;
            if in_vain >= ROUNDS_IN_VAIN && !waiter.is_served() {
                waiter.who.stalled.store(true, Relaxed);
                self.service.panic_at_a_dead_end();
            }
        }
    }

    fn wake_sleeper(&self, sleeper: &Sleeper) {
        // SAFETY: the sleeper's thread takes the lock that is held here before it leaves, so it lives until then.
        self.service.machine().wake(unsafe { &*sleeper.task });
    }

    /// Whether the caller may sleep; on a CPU that has had the chance to get its set.
    pub(super) fn caller_may_sleep(&self) -> bool {
        self.service.attached_set();
        self.service.machine().may_sleep()
    }

    pub(super) fn count_out(&self, element: Option<NonNull<u8>>) -> *mut u8 {
        let Some(element) = element else { return ptr::null_mut() };
        self.pool.out.fetch_add(1, Relaxed);
        element.as_ptr()
    }

    pub(super) fn allocate_elsewhere(&self, gfp: Gfp) -> Option<NonNull<u8>> {
        self.pool.source.allocate(self.service, gfp)
    }

    pub(super) fn free_home(&self, element: NonNull<u8>) {
        self.pool.source.free(self.service, element);
    }
}

/// A waiter's place in the queue, given up when dropped.
struct Place<'a, M: Machine> {
    at: &'a At<'a, M>,
    waiter: &'a Waiter<Sleeper>,
}

impl<M: Machine> Drop for Place<'_, M> {
    fn drop(&mut self) {
        self.at.with(|queue, _| {
            queue.remove(self.waiter);
            self.at.service.pool_queues().waiting.fetch_sub(1, Relaxed);
        });
        if let Some(element) = self.waiter.take() {
            self.at.put_back(element);
        }
    }
}
