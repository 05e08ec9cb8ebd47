//! Memory pools: allocations that cannot fail where they may wait, for those who must go on when all memory is gone.
//! Linux's `mempool_t`.
//!
//! Users: whoever makes memory free by doing something that needs memory first (I/O to write a page back, say). Source:
//! `linux/mempool.h` and `mm/mempool.c`.
//!
//! A pool takes its elements from [somewhere else](Source) and keeps a *reserve* of a guaranteed number of them. An
//! allocation asks elsewhere first, without waiting; then takes from the reserve; then asks elsewhere again, now making
//! memory free if it may; at last it sleeps until an element comes back. An element that is freed goes to who has
//! waited longest, then into the reserve while that is short, and home only then. So as long as those who have elements
//! free them without waiting for others of the same pool, everybody who waits gets one.
//!
//! # Theory
//!
//! How elements are handed over is told, and modelled, in [`reserve`](crate::reserve). All pools of a service share a
//! few locks, each with the queue of those who wait for elements of its pools. So the locks are a fixed number, which a
//! fork can take, and a report finds everybody who waits. They are leaves of the lock order: a holder takes no other
//! lock but what [`Machine::wake`] needs.
//!
//! `missing` repeats, outside the lock, how many elements the reserve is short of, so that a free takes no lock while
//! the reserve is full. Relaxed is enough: whoever took an element out of the reserve stored a number above 0 before,
//! and whoever frees it does so after. A free that sees an old 0 frees another element than one of the reserve, and
//! those who wait are owed the reserve's only.
//!
//! What the reserves hold is a row of the statistics, counted here under the same locks; see [`kept`](crate::kept).
//!
//! A waiter that was not served for [`PATIENCE`](at) asks elsewhere again: memory may be free although no element came
//! back. What it finds it gives to the first in the queue, itself or another; and so does a newcomer that finds memory
//! while somebody waits. One that has asked [`ROUNDS_IN_VAIN`](at) times looks whether this is a dead end
//! ([`reclaim`](crate::reclaim)): every thread waits, so no element will ever come back.

mod at;

use core::cell::UnsafeCell;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use crate::elements::Source;
use crate::frame::Order;
use crate::gfp::Gfp;
use crate::kept::Kept;
use crate::kmem_cache::KmemCache;
use crate::lock::Lock;
use crate::machine::Machine;
use crate::reserve::{Queue, Reserve};
use crate::service::Service;
use crate::task::Task;

use at::At;

pub use crate::elements::{MempoolAlloc, MempoolFree};

/// Locks, each with a queue, that all pools share.
const QUEUES: usize = 16;

/// A pool of elements with a guaranteed reserve. Linux's `mempool_t`.
#[must_use = "dropping it leaks the reserve: give it to mempool_destroy"]
pub struct Mempool<'c> {
    source: Source<'c>,
    /// Which of the service's queues and locks are its.
    queue: u8,
    /// Guarded by the lock of its queue.
    reserve: UnsafeCell<Reserve>,
    /// What [`Reserve::missing`] was when the lock was released last.
    missing: AtomicU32,
    /// Elements that callers have.
    out: AtomicU32,
}

// SAFETY: the reserve is reached under its lock alone; that the data of the caller's own functions may be used on any
// CPU is what `mempool_create` wants of its caller.
unsafe impl Send for Mempool<'_> {}
// SAFETY: as above.
unsafe impl Sync for Mempool<'_> {}

/// Why a pool could not be made or resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MempoolError {
    /// A pool without a reserve guarantees nothing.
    NoReserve,
    /// There was no memory for the reserve.
    OutOfMemory,
}

impl fmt::Display for MempoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoReserve => "a memory pool needs a reserve of at least one element",
            Self::OutOfMemory => {
                "not enough free memory for the reserve of a memory pool: make it before memory is short"
            }
        })
    }
}

impl core::error::Error for MempoolError {}

/// A pool that cannot be destroyed yet, and keeps everything it has.
#[derive(Debug)]
pub struct ElementsOut<'c> {
    /// The pool.
    pub pool: Mempool<'c>,
    /// How many of its elements callers have.
    pub count: u32,
}

impl fmt::Display for ElementsOut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "mempool_destroy of {}, of which {} elements are in use: free them first",
            self.pool.source, self.count
        )
    }
}

impl core::error::Error for ElementsOut<'_> {}

impl fmt::Debug for Mempool<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (missing, out) = (self.missing.load(Relaxed), self.out.load(Relaxed));
        write!(f, "Mempool({}, {out} out, {missing} missing of its reserve)", self.source)
    }
}

/// An element of a pool that goes back when dropped.
#[must_use = "the element goes back when this is dropped"]
pub struct Element<'a, M: Machine> {
    service: &'a Service<M>,
    pool: &'a Mempool<'a>,
    start: NonNull<u8>,
}

impl<M: Machine> Element<'_, M> {
    /// Where it is.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl<M: Machine> Drop for Element<'_, M> {
    fn drop(&mut self) {
        // SAFETY: the element came from this pool and goes with its guard.
        unsafe { self.service.mempool_free(self.start.as_ptr(), self.pool) };
    }
}

/// Who waits, and for an element of which pool. Both are there as long as somebody waits.
struct Sleeper {
    task: *const Task,
    pool: *const Mempool<'static>,
    /// It has asked elsewhere in vain so often that only others can help.
    stalled: AtomicBool,
}

// SAFETY: the task of a thread and a pool may be looked at from any CPU.
unsafe impl Send for Sleeper {}
// SAFETY: as above.
unsafe impl Sync for Sleeper {}

/// The queues of all pools.
pub(crate) struct PoolQueues {
    queues: [Lock<Queue<Sleeper>>; QUEUES],
    /// What the reserves of each queue's pools hold.
    kept: [Kept; QUEUES],
    /// Whose turn it is to get the next pool.
    next: AtomicU32,
    /// How many wait; changed under the lock of the queue they are on.
    waiting: AtomicU32,
}

impl PoolQueues {
    pub(crate) const fn new() -> Self {
        Self {
            queues: [const { Lock::new(Queue::new()) }; QUEUES],
            kept: [const { Kept::new() }; QUEUES],
            next: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
        }
    }

    /// What the reserves of each queue's pools hold.
    pub(crate) fn kept(&self) -> &[Kept] {
        &self.kept
    }

    #[cfg(feature = "hosted")]
    pub(crate) fn for_each_lock(&self, mut each: impl FnMut(&crate::raw_lock::RawLock)) {
        self.queues.iter().for_each(|queue| each(queue.raw()));
    }
}

impl<M: Machine> Service<M> {
    /// Makes a pool of elements of the caller's own functions, `minimum` of them kept back. They are asked with
    /// `GFP_KERNEL` now, and later with the flags of each [`Self::mempool_alloc`], changed as told there. Linux's
    /// `mempool_create`.
    ///
    /// # Errors
    ///
    /// [`MempoolError`]; nothing is kept then.
    ///
    /// # Safety
    ///
    /// `alloc_fn` returns null or memory that nobody else uses until `free_fn` gets it. Both can be called with
    /// `pool_data` on any CPU, and in whatever context the pool is used in, until the pool is destroyed.
    pub unsafe fn mempool_create(
        &self,
        minimum: usize,
        alloc_fn: MempoolAlloc,
        free_fn: MempoolFree,
        pool_data: *mut (),
    ) -> Result<Mempool<'static>, MempoolError> {
        self.create_pool(minimum, Source::Functions { alloc: alloc_fn, free: free_fn, data: pool_data })
    }

    /// Makes a pool of objects of `size` bytes of kmalloc's. Linux's `mempool_create_kmalloc_pool`.
    ///
    /// # Errors
    ///
    /// [`MempoolError`]; nothing is kept then.
    pub fn mempool_create_kmalloc_pool(&self, minimum: usize, size: usize) -> Result<Mempool<'static>, MempoolError> {
        // Elements are told apart by their addresses, and all requests of nothing have the same.
        self.create_pool(minimum, Source::Kmalloc(size.max(1)))
    }

    /// Makes a pool of objects of a cache. Linux's `mempool_create_slab_pool`.
    ///
    /// # Errors
    ///
    /// [`MempoolError`]; nothing is kept then.
    pub fn mempool_create_slab_pool<'c>(
        &self,
        minimum: usize,
        cache: &'c KmemCache,
    ) -> Result<Mempool<'c>, MempoolError> {
        self.create_pool(minimum, Source::Slab(cache))
    }

    /// Makes a pool of page blocks; its elements are their [addresses](Self::page_address). Linux's
    /// `mempool_create_page_pool`.
    ///
    /// # Errors
    ///
    /// [`MempoolError`]; nothing is kept then.
    pub fn mempool_create_page_pool(&self, minimum: usize, order: Order) -> Result<Mempool<'static>, MempoolError> {
        self.create_pool(minimum, Source::Pages(order))
    }

    /// Sets how many elements a pool keeps back. A larger reserve is filled now as far as there is memory, then by what
    /// is freed; what a smaller one has too many goes home. May sleep. Linux's `mempool_resize`.
    ///
    /// # Errors
    ///
    /// [`MempoolError`]; the pool is as it was then.
    pub fn mempool_resize(&self, pool: &Mempool<'_>, minimum: usize) -> Result<(), MempoolError> {
        let at = self.at(pool);
        at.set_minimum(minimum)?;
        while let Some(element) = at.take_with(|_, reserve| reserve.take_surplus()) {
            at.free_home(element);
        }
        while at.with(|_, reserve| reserve.missing()) > 0 {
            let Some(element) = at.allocate_elsewhere(Gfp::KERNEL | Gfp::NOWARN | Gfp::NORETRY) else { break };
            at.put_back(element);
        }
        Ok(())
    }

    /// Allocates an element. With flags that allow to wait, and where the caller may sleep, it never fails, but sleeps
    /// until an element comes back; else null when there is none. For handlers: `GFP_ATOMIC`. Linux's `mempool_alloc`.
    ///
    /// Elsewhere is asked with `__GFP_NOWARN` and `__GFP_NORETRY`, at first also without direct reclaim and I/O.
    /// `__GFP_ZERO` is ignored, as the reserve's elements keep what was in them; so is `__GFP_NOFAIL`.
    ///
    /// # Panics
    ///
    /// When an element of the reserve is no longer an object of kmalloc's: somebody freed it behind the pool's back.
    pub fn mempool_alloc(&self, pool: &Mempool<'_>, gfp: Gfp) -> *mut u8 {
        let thorough = gfp.difference(Gfp::ZERO | Gfp::NOFAIL) | Gfp::NOWARN | Gfp::NORETRY;
        let quick = thorough.difference(Gfp::DIRECT_RECLAIM | Gfp::IO);
        let may_wait = gfp.may_wait();
        let at = self.at(pool);
        let mut element = at.allocate_behind_waiters(quick, may_wait).or_else(|| at.take_from_reserve());
        if element.is_none() && may_wait && at.caller_may_sleep() {
            element = at.allocate_behind_waiters(thorough, may_wait).or_else(|| Some(at.wait_for_element(thorough)));
        }
        at.count_out(element)
    }

    /// Takes an element of the reserve, and asks nobody else; null when the reserve is empty. Never sleeps; may be
    /// called in an interrupt handler. Linux's `mempool_alloc_preallocated`.
    pub fn mempool_alloc_preallocated(&self, pool: &Mempool<'_>) -> *mut u8 {
        let at = self.at(pool);
        at.count_out(at.take_from_reserve())
    }

    /// [`Self::mempool_alloc`], as a guard that gives the element back.
    pub fn mempool_element<'a>(&'a self, pool: &'a Mempool<'a>, gfp: Gfp) -> Option<Element<'a, M>> {
        NonNull::new(self.mempool_alloc(pool, gfp)).map(|start| Element { service: self, pool, start })
    }

    /// Gives an element back: to who has waited longest for one, into the reserve while it is short, or home. Null is
    /// ignored. Never sleeps; may be called in an interrupt handler (if the pool's own functions may). Linux's
    /// `mempool_free`.
    ///
    /// # Safety
    ///
    /// The element came from this pool, and nobody uses it any more.
    ///
    /// # Panics
    ///
    /// When callers have no element of the pool, or the reserve has this one, or it is no object although the
    /// pool is kmalloc's.
    pub unsafe fn mempool_free(&self, element: *mut u8, pool: &Mempool<'_>) {
        let Some(element) = NonNull::new(element) else { return };
        if pool.out.fetch_sub(1, Relaxed) == 0 {
            pool.out.store(0, Relaxed);
            panic!("mempool_free of {element:p}: {} has no element in use", pool.source);
        }
        self.at(pool).put_back(element);
    }

    /// Frees a pool and its reserve. Linux's `mempool_destroy`.
    ///
    /// # Errors
    ///
    /// [`ElementsOut`] with the pool, as it was, when callers have elements of it.
    pub fn mempool_destroy<'c>(&self, pool: Mempool<'c>) -> Result<(), ElementsOut<'c>> {
        let count = pool.out.load(Relaxed);
        if count > 0 {
            return Err(ElementsOut { pool, count });
        }
        self.at(&pool).empty();
        Ok(())
    }

    /// How many threads wait for an element of some pool.
    pub fn pool_waiters(&self) -> u32 {
        self.pool_queues().waiting.load(Relaxed)
    }

    /// Calls `each` with the task of every thread that waits for an element of a pool, and with what the pool is of.
    /// With a lock held and interrupts off: `each` must neither allocate nor wait.
    pub fn for_each_pool_waiter(&self, mut each: impl FnMut(&Task, &dyn fmt::Display)) {
        for queue in &self.pool_queues().queues {
            queue.lock(self.machine()).for_each(|sleeper| {
                // SAFETY: a sleeper's thread and the pool it has borrowed stay while it is on the queue, whose lock is
                // held.
                let (task, pool) = unsafe { (&*sleeper.task, &*sleeper.pool) };
                each(task, &pool.source);
            });
        }
    }

    fn at<'a>(&'a self, pool: &'a Mempool<'a>) -> At<'a, M> {
        At { service: self, pool }
    }

    /// How many wait for an element, if all have asked elsewhere in vain for long.
    pub(crate) fn all_pool_waiters_stalled(&self) -> Option<usize> {
        let (mut waiters, mut stalled) = (0, true);
        for queue in &self.pool_queues().queues {
            queue.lock(self.machine()).for_each(|sleeper| {
                waiters += 1;
                stalled &= sleeper.stalled.load(Relaxed);
            });
        }
        stalled.then_some(waiters)
    }

    fn create_pool<'c>(&self, minimum: usize, source: Source<'c>) -> Result<Mempool<'c>, MempoolError> {
        let queue = self.pool_queues().next.fetch_add(1, Relaxed) as usize % QUEUES;
        let pool = Mempool {
            source,
            queue: queue as u8,
            reserve: UnsafeCell::new(Reserve::new()),
            missing: AtomicU32::new(0),
            out: AtomicU32::new(0),
        };
        let at = self.at(&pool);
        at.set_minimum(minimum)?;
        for _ in 0..minimum {
            let Some(element) = at.allocate_elsewhere(Gfp::KERNEL) else {
                at.empty();
                return Err(MempoolError::OutOfMemory);
            };
            at.put_back(element);
        }
        Ok(pool)
    }
}
