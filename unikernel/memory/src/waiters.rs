//! [`Waiters`]: threads that sleep until frames are freed for them.
//!
//! Used by [`reclaim`](crate::reclaim), which waits, and by every path that gives frames or objects back, which serves.
//!
//! # Theory
//!
//! A [`Waiter`] lies on the stack of a thread that is short of memory, from before its first attempt to make some until
//! it has what it wants or gives up. It is in the one FIFO, guarded by the lock, until it is given a block or leaves;
//! being in it raises [`Attention`].
//!
//! Whoever frees frames and notices attention walks the FIFO and takes, for each waiter in turn, a block that its
//! request may have: the frames are *handed over*, so nobody who comes later (*barges*) can have them. A request that
//! the zones cannot serve is remembered for the walk by its key (order, highest zone, nodes), and others of that key
//! are passed over: so there is in effect one queue for each order and set of zones, and a walk asks the
//! zones once for each queue, not for each waiter. Those who come later and may wait find attention raised and queue up
//! instead of taking.
//!
//! The giver puts the block into the waiter's [`Handover`], wakes the thread, and only then releases the lock. A waiter
//! leaves the FIFO under the lock, so it lives until its giver is done with it. A waiter for an object is also told to
//! look at the depots again when an object was freed, and no frame.
//!
//! When many CPUs free at once, only one walks, for all of them ([`Walks`]): the others note that there is more and go
//! on, and what remains noted is seen to by the next who frees, at the latest a waiter in its next round.
//!
//! Lock order: waiters, depot, growth, zone. The lock is held while the zones are asked.

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use crate::allocate::{Floor, Request};
use crate::attention::Attention;
use crate::events::Event;
use crate::frame::{Order, Pfn, State};
use crate::handover::Handover;
use crate::lock::Lock;
use crate::machine::Machine;
use crate::policy::NodeMask;
use crate::service::Service;
use crate::task::Task;
use crate::walks::Walks;
use crate::zone::ZoneKind;

/// Keys of requests a walk found no frames for; more are asked for again each time.
const REFUSED_KEYS: usize = 16;

/// All waiters of a service.
pub(crate) struct Waiters {
    attention: Attention,
    fifo: Lock<Fifo>,
    /// How many there are. (Attention is raised by others, too.)
    waiting: AtomicU32,
    /// Walks along the FIFO.
    walks: Walks,
    /// How many want an object, by cache number modulo their count.
    for_objects: [AtomicU32; CACHE_GROUPS],
}

/// Groups of caches that are told apart without the lock.
const CACHE_GROUPS: usize = 64;

/// A doubly linked list of waiters, the one that waits longest first.
struct Fifo {
    first: *const Waiter,
    last: *const Waiter,
}

// SAFETY: the waiters in the list are reached only under its lock, or by their own threads through what is atomic.
unsafe impl Send for Fifo {}

/// A thread that is short of memory.
pub(crate) struct Waiter {
    /// Guarded by the lock.
    previous: Cell<*const Waiter>,
    next: Cell<*const Waiter>,
    request: Request,
    task: *const Task,
    handover: Handover,
    /// Rounds without progress have gone beyond what an ordinary request is given, and it must not fail.
    pub(crate) stalled: AtomicBool,
}

impl Waiter {
    pub(crate) fn new(request: Request, task: &Task) -> Self {
        Self {
            previous: Cell::new(ptr::null()),
            next: Cell::new(ptr::null()),
            request,
            task,
            handover: Handover::new(),
            stalled: AtomicBool::new(false),
        }
    }

    /// Whether it has been given a block, or should look for an object.
    pub(crate) fn is_called(&self) -> bool {
        self.handover.is_called()
    }

    /// Whether it has been given a block.
    pub(crate) fn is_given(&self) -> bool {
        self.handover.given().is_some()
    }

    /// Takes back the wish to be called for an object, before it looks for one.
    pub(crate) fn will_look(&self) {
        self.handover.will_look();
    }

    /// The block it was given.
    fn block(&self) -> Option<(Pfn, State)> {
        self.handover.given().map(|(frame, bits)| (Pfn(frame), State::from_bits(bits as u16)))
    }

    fn give<M: Machine>(&self, machine: &M, block: Pfn, state: State) {
        self.handover.give(block.0, u32::from(state.bits()));
        self.call(machine);
    }

    fn call<M: Machine>(&self, machine: &M) {
        // SAFETY: the thread leaves the FIFO under the lock, which the caller holds, so it lives.
        machine.wake(unsafe { &*self.task });
    }
}

impl Waiters {
    pub(crate) const fn new() -> Self {
        Self {
            attention: Attention::new(AtomicU32::new(0)),
            fifo: Lock::new(Fifo { first: ptr::null(), last: ptr::null() }),
            waiting: AtomicU32::new(0),
            walks: Walks::new(AtomicU32::new(0)),
            for_objects: [const { AtomicU32::new(0) }; CACHE_GROUPS],
        }
    }

    pub(crate) fn attention(&self) -> &Attention {
        &self.attention
    }

    #[cfg(feature = "hosted")]
    pub(crate) fn raw(&self) -> &crate::raw_lock::RawLock {
        self.fifo.raw()
    }

    /// Queues a waiter and raises attention. It must [leave](Self::leave) before it goes.
    pub(crate) fn enter<M: Machine>(&self, machine: &M, waiter: &Waiter) {
        self.fifo.lock(machine).push(waiter);
        // Relaxed: what must not be missed is ordered by attention, which is raised last.
        self.waiting.fetch_add(1, Relaxed);
        if let Some(cache) = waiter.request.cache {
            self.for_objects[cache % CACHE_GROUPS].fetch_add(1, Relaxed);
        }
        self.attention.raise();
    }

    /// Takes a waiter out of the queue; returns the block it was given, if any.
    pub(crate) fn leave<M: Machine>(&self, machine: &M, waiter: &Waiter) -> Option<(Pfn, State)> {
        let mut fifo = self.fifo.lock(machine);
        // Whoever gave it a block has taken it out.
        if !waiter.is_given() {
            self.take_out(&mut fifo, waiter);
        }
        drop(fifo);
        waiter.block()
    }

    fn take_out(&self, fifo: &mut Fifo, waiter: &Waiter) {
        fifo.remove(waiter);
        if let Some(cache) = waiter.request.cache {
            self.for_objects[cache % CACHE_GROUPS].fetch_sub(1, Relaxed);
        }
        self.waiting.fetch_sub(1, Relaxed);
        self.attention.lower();
    }

    /// Whether anybody waits, for a hint.
    pub(crate) fn has_any(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    /// How many wait, if all do so in vain.
    pub(crate) fn all_stalled<M: Machine>(&self, machine: &M) -> Option<usize> {
        let fifo = self.fifo.lock(machine);
        let waiters = fifo.iter().count();
        let stalled = fifo.iter().all(|waiter| waiter.stalled.load(Relaxed));
        stalled.then_some(waiters)
    }

    /// Calls `each` for every waiter's task and request.
    pub(crate) fn for_each<M: Machine>(&self, machine: &M, mut each: impl FnMut(&Task, &Request)) {
        for waiter in self.fifo.lock(machine).iter() {
            // SAFETY: a waiter leaves under the lock, so its thread's task lives.
            each(unsafe { &*waiter.task }, &waiter.request);
        }
    }
}

impl Fifo {
    fn push(&mut self, waiter: &Waiter) {
        waiter.previous.set(self.last);
        // SAFETY: waiters in the list live.
        match unsafe { self.last.as_ref() } {
            None => self.first = waiter,
            Some(last) => last.next.set(waiter),
        }
        self.last = waiter;
    }

    fn remove(&mut self, waiter: &Waiter) {
        let (previous, next) = (waiter.previous.get(), waiter.next.get());
        // SAFETY: neighbours in the list live.
        match unsafe { previous.as_ref() } {
            None => self.first = next,
            Some(previous) => previous.next.set(next),
        }
        // SAFETY: as above.
        match unsafe { next.as_ref() } {
            None => self.last = previous,
            Some(next) => next.previous.set(previous),
        }
    }

    /// The waiters, longest first. The one returned last may be removed meanwhile.
    fn iter(&self) -> impl Iterator<Item = &Waiter> {
        let mut next = self.first;
        core::iter::from_fn(move || {
            // SAFETY: waiters in the list live until they are removed under the lock, which the caller holds.
            let waiter = unsafe { next.as_ref() }?;
            next = waiter.next.get();
            Some(waiter)
        })
    }
}

/// What requests have in common that only frames of the same kind can serve.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    order: Order,
    highest: ZoneKind,
    nodes: NodeMask,
}

impl Key {
    fn of(request: &Request) -> Self {
        Self { order: request.order, highest: request.placement.highest, nodes: request.placement.nodes }
    }
}

impl<M: Machine> Service<M> {
    /// Called after frames were freed: hands them to those who wait.
    #[inline]
    pub(crate) fn frames_freed(&self) {
        if self.waiters().attention.noticed() {
            self.serve_waiters();
        }
    }

    /// Called after objects of a cache were given to its depot: has somebody who waits for one look.
    #[inline]
    pub(crate) fn objects_freed(&self, cache: usize) {
        if self.waiters().attention.noticed() {
            self.call_for_object(cache);
        }
    }

    /// Takes blocks for those who wait, longest first, as far as the zones have any for them.
    #[cold]
    pub(crate) fn serve_waiters(&self) {
        let waiters = self.waiters();
        waiters.walks.offer(|| {
            if !waiters.has_any() {
                return false;
            }
            let Some(mut fifo) = waiters.fifo.try_lock(self.machine()) else { return false };
            waiters.walks.begin();
            self.walk(&mut fifo);
            true
        });
    }

    /// The same, waiting for the lock: for one who waits itself and must know afterwards whether there is a block for it.
    pub(crate) fn serve_waiters_in_turn(&self) {
        self.walk(&mut self.waiters().fifo.lock(self.machine()));
        self.serve_those_missed();
    }

    /// What [`Self::serve_waiters`] could not do while the caller held the lock, which it has just released.
    pub(crate) fn serve_those_missed(&self) {
        if self.waiters().walks.is_noted() {
            self.serve_waiters();
        }
    }

    fn walk(&self, fifo: &mut Fifo) {
        let mut refused = [None; REFUSED_KEYS];
        let mut count = 0;
        let mut next = fifo.first;
        // SAFETY: waiters in the list live until they are removed under the lock.
        while let Some(waiter) = unsafe { next.as_ref() } {
            next = waiter.next.get();
            let key = Key::of(&waiter.request);
            if refused.contains(&Some(key)) {
                continue;
            }
            match self.walk_zonelist(&waiter.request, Floor::of_waiter(&waiter.request, waiter.stalled.load(Relaxed))) {
                Some((block, state)) => {
                    self.waiters().take_out(fifo, waiter);
                    self.events().count(Event::HandedOver);
                    waiter.give(self.machine(), block, state);
                }
                None if count < REFUSED_KEYS => {
                    refused[count] = Some(key);
                    count += 1;
                }
                None => {}
            }
        }
    }

    #[cold]
    fn call_for_object(&self, cache: usize) {
        if self.waiters().for_objects[cache % CACHE_GROUPS].load(Relaxed) == 0 {
            return;
        }
        {
            let fifo = self.waiters().fifo.lock(self.machine());
            let mut waiters = fifo.iter().filter(|waiter| waiter.request.cache == Some(cache));
            if let Some(waiter) = waiters.find(|waiter| waiter.handover.tell_to_look()) {
                waiter.call(self.machine());
            }
        }
        self.serve_those_missed();
    }
}
