//! [`Reserve`] and [`Queue`]: what a memory pool keeps back, and who waits for an element of it.
//!
//! Used by [`mempool`](crate::mempool); `tests/loom.rs` compiles this very file against loom's atomics. Here is only
//! the protocol: no machine, and no memory but the array of pointers the pool brings.
//!
//! # Theory
//!
//! A pool's reserve and the queue its waiters stand in are guarded by the same lock, whose holder keeps this true: *a
//! pool that somebody waits for has an empty reserve*. So a waiter looks at the reserve and enters the queue in one
//! critical section, and whoever brings an element gives it to the first waiter of the pool, else to the reserve, in
//! another. An element that comes back while somebody waits never gets into the reserve, where a newcomer could be
//! quicker; and the waiter finds it in its own record, where nobody else looks.
//!
//! A [`Waiter`] is on its thread's stack and in one of three states:
//!
//! | state   | on the queue | `element` | next                                                  |
//! |---------|--------------|-----------|-------------------------------------------------------|
//! | waiting | yes          | null      | *served* by whoever brings an element, or it gives up |
//! | served  | no           | set       | *gone* once its thread has taken the element          |
//! | gone    | no           | null      |                                                       |
//!
//! `element` is written under the lock and read by the sleeper without it: the Release store pairs with the Acquire
//! load. Whoever serves a waiter wakes its thread before the lock is released, so a thread that takes the lock once
//! more before its record goes knows that nobody looks at the record any longer.

use core::cell::Cell;
use core::ptr::{self, NonNull};

use crate::sync::{AtomicPtr, Ordering};

/// The elements a pool keeps back, in an array that is the pool's.
pub(crate) struct Reserve {
    elements: *mut NonNull<u8>,
    /// Elements the array has room for.
    room: usize,
    count: usize,
    /// Elements the reserve should have.
    minimum: usize,
}

// SAFETY: the array and the elements are the pool's alone.
unsafe impl Send for Reserve {}

impl Reserve {
    /// A reserve that should have nothing and has.
    pub(crate) const fn new() -> Self {
        Self { elements: ptr::null_mut(), room: 0, count: 0, minimum: 0 }
    }

    /// How many it is short of.
    pub(crate) fn missing(&self) -> usize {
        self.minimum.saturating_sub(self.count)
    }

    /// Takes an element, if there is one.
    pub(crate) fn take(&mut self) -> Option<NonNull<u8>> {
        self.count = self.count.checked_sub(1)?;
        // SAFETY: the first `count` entries of the array are written, and the array is this reserve's.
        Some(unsafe { self.elements.add(self.count).read() })
    }

    /// Takes an element beyond the minimum, if there is one.
    pub(crate) fn take_surplus(&mut self) -> Option<NonNull<u8>> {
        if self.count > self.minimum { self.take() } else { None }
    }

    /// Whether the element is among those kept.
    pub(crate) fn holds(&self, element: NonNull<u8>) -> bool {
        // SAFETY: as in `take`.
        (0..self.count).any(|index| unsafe { self.elements.add(index).read() } == element)
    }

    /// Sets how many elements it should have: at most what the array has room for. `false` when that is less.
    #[must_use]
    pub(crate) fn set_minimum(&mut self, minimum: usize) -> bool {
        let fits = minimum <= self.room;
        if fits {
            self.minimum = minimum;
        }
        fits
    }

    /// Moves to a larger array and returns the one left; null when there was none.
    ///
    /// # Safety
    ///
    /// `elements` has room for `room` pointers, which is at least as many as before, and is this reserve's until it
    /// moves on.
    pub(crate) unsafe fn move_to(&mut self, elements: *mut NonNull<u8>, room: usize) -> *mut NonNull<u8> {
        if self.count > 0 {
            // SAFETY: both arrays have room for `count` pointers, and are two, for each belongs to one owner.
            unsafe { ptr::copy_nonoverlapping(self.elements, elements, self.count) };
        }
        self.room = room;
        core::mem::replace(&mut self.elements, elements)
    }

    /// How many pointers the array has room for.
    pub(crate) fn room(&self) -> usize {
        self.room
    }

    /// Keeps an element; gives it back when none is missing.
    fn keep(&mut self, element: NonNull<u8>) -> Result<(), NonNull<u8>> {
        if self.missing() == 0 {
            return Err(element);
        }
        // SAFETY: `count` is below the minimum, and that is at most the array's room.
        unsafe { self.elements.add(self.count).write(element) };
        self.count += 1;
        Ok(())
    }
}

/// Who has an element that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// Somebody who waited for it.
    ToWaiter,
    /// The reserve.
    ToReserve,
}

/// Who waits for an element, first come first served. Several pools may share a queue.
pub(crate) struct Queue<W> {
    first: *const Waiter<W>,
    last: *const Waiter<W>,
}

// SAFETY: the waiters on the queue stay where they are, and are reached through it under its lock alone.
unsafe impl<W: Send + Sync> Send for Queue<W> {}

/// One who waits; see the module head for its states.
pub(crate) struct Waiter<W> {
    /// The next of the queue; guarded by its lock.
    next: Cell<*const Waiter<W>>,
    /// Of which pool an element is wanted, by the address of its reserve.
    reserve: *const Reserve,
    element: AtomicPtr<u8>,
    /// Whom to wake.
    pub(crate) who: W,
}

impl<W> Waiter<W> {
    /// One who waits for an element of that reserve's pool.
    pub(crate) fn new(reserve: *const Reserve, who: W) -> Self {
        Self { next: Cell::new(ptr::null()), reserve, element: AtomicPtr::new(ptr::null_mut()), who }
    }

    /// Whether there is an element for it.
    pub(crate) fn is_served(&self) -> bool {
        // Acquire: pairs with the Release store in `Queue::serve`, so what was written to the element is seen.
        !self.element.load(Ordering::Acquire).is_null()
    }

    /// Takes its element, if there is one. For its own thread.
    pub(crate) fn take(&self) -> Option<NonNull<u8>> {
        // Acquire: as in `is_served`.
        let element = NonNull::new(self.element.load(Ordering::Acquire))?;
        // Relaxed: nobody else reads or writes it once it is set.
        self.element.store(ptr::null_mut(), Ordering::Relaxed);
        Some(element)
    }
}

impl<W> Queue<W> {
    /// Nobody waits.
    pub(crate) const fn new() -> Self {
        Self { first: ptr::null(), last: ptr::null() }
    }

    /// Takes an element of the reserve, or lets the waiter wait for one.
    ///
    /// # Safety
    ///
    /// The waiter stays where it is until its thread has [removed](Self::remove) it.
    pub(crate) unsafe fn take_or_wait(&mut self, reserve: &mut Reserve, waiter: &Waiter<W>) -> Option<NonNull<u8>> {
        let element = reserve.take();
        if element.is_none() {
            let link = ptr::from_ref(waiter);
            // SAFETY: waiters on the queue are where they were when they came.
            match unsafe { self.last.as_ref() } {
                Some(last) => last.next.set(link),
                None => self.first = link,
            }
            self.last = link;
        }
        element
    }

    /// Gives an element to the first waiter of the reserve's pool; gives it back when there is none. `wake` is called
    /// for the waiter.
    pub(crate) fn serve(
        &mut self,
        reserve: &Reserve,
        element: NonNull<u8>,
        wake: impl FnOnce(&W),
    ) -> Result<(), NonNull<u8>> {
        let wanted = ptr::from_ref(reserve);
        let Some(waiter) = self.unlink(|waiter| waiter.reserve == wanted) else { return Err(element) };
        // Release: pairs with the Acquire loads of the waiter's thread.
        waiter.element.store(element.as_ptr(), Ordering::Release);
        wake(&waiter.who);
        Ok(())
    }

    /// Gives an element to the first waiter of the pool, else to its reserve, else back. Tells which of the two has it.
    pub(crate) fn give(
        &mut self,
        reserve: &mut Reserve,
        element: NonNull<u8>,
        wake: impl FnOnce(&W),
    ) -> Result<Given, NonNull<u8>> {
        match self.serve(reserve, element, wake) {
            Ok(()) => Ok(Given::ToWaiter),
            Err(element) => reserve.keep(element).map(|()| Given::ToReserve),
        }
    }

    /// Takes a waiter off the queue, should it be on it. After this nobody else knows of it.
    pub(crate) fn remove(&mut self, waiter: &Waiter<W>) {
        self.unlink(|other| ptr::eq(other, waiter));
    }

    /// Calls `each` for everybody who waits, the first first.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&W)) {
        let mut next = self.first;
        // SAFETY: as in `take_or_wait`.
        while let Some(waiter) = unsafe { next.as_ref() } {
            each(&waiter.who);
            next = waiter.next.get();
        }
    }

    /// Takes the first waiter that fits off the queue.
    fn unlink(&mut self, fits: impl Fn(&Waiter<W>) -> bool) -> Option<&Waiter<W>> {
        let mut before: Option<&Waiter<W>> = None;
        let mut next = self.first;
        // SAFETY: as in `take_or_wait`.
        while let Some(waiter) = unsafe { next.as_ref() } {
            next = waiter.next.get();
            if !fits(waiter) {
                before = Some(waiter);
                continue;
            }
            match before {
                Some(before) => before.next.set(next),
                None => self.first = next,
            }
            if next.is_null() {
                self.last = before.map_or(ptr::null(), ptr::from_ref);
            }
            return Some(waiter);
        }
        None
    }
}
