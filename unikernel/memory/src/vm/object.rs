//! [`VmObject`]: pages by index, behind a lock; [`LockedObject`], the right to work with them; and waiting for a busy one.
//!
//! Used by whoever keeps pages in one. The locks and the states of a page are told at the head of [`vm`](super).
//!
//! A thread that waits for a busy page lies in the object's list from the moment it gave the object's lock back; whoever ends the
//! page being busy takes it out and wakes it under that lock. So no wake is missed, and the waiter is there until the other is
//! done with it: it takes the lock again before it goes.

use core::cell::Cell;
use core::fmt;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering, Ordering::Relaxed};

use crate::frame::Order;
use crate::gfp::Gfp;
use crate::lock::{Guard, Lock};
use crate::machine::Machine;
use crate::owner::OwnerError;
use crate::service::Service;
use crate::shrinker::ShrinkerError;
use crate::task::Task;

use super::page::VmPage;
use super::pager::Pager;
use super::queues::{Descriptor, Queue, flag};
use super::tree::Tree;
use super::{Stored, VmState};

/// Pages that dropping an object frees before it lets others have the lock.
const FREED_AT_ONCE: usize = 64;

/// Why an object could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmError {
    /// There was no memory for it or for the reserve of descriptors.
    NoMemory,
    /// Objects' pages must be movable and shrinkable, and the service has no room left to note that.
    TooManyOwners,
}

impl fmt::Display for VmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoMemory => "no memory for a VM object: make it before memory is short",
            Self::TooManyOwners => {
                "VM objects need an owner of movable pages and a shrinker, and all are taken: make the first object earlier"
            }
        })
    }
}

impl core::error::Error for VmError {}

impl From<OwnerError> for VmError {
    fn from(_: OwnerError) -> Self {
        Self::TooManyOwners
    }
}

impl From<ShrinkerError> for VmError {
    fn from(_: ShrinkerError) -> Self {
        Self::TooManyOwners
    }
}

/// What an object is, at an address that stays.
pub(super) struct Core<M: Machine> {
    pub(super) service: &'static Service<M>,
    pub(super) pager: Option<&'static dyn Pager<M>>,
    pub(super) lock: Lock<Pages>,
    /// Pages the page layer has taken and the object has yet to forget, linked through themselves.
    pub(super) ghosts: AtomicPtr<Descriptor>,
    /// Neighbours in the list of objects.
    next: AtomicPtr<Core<M>>,
    previous: AtomicPtr<Core<M>>,
}

/// What an object's lock guards.
pub(super) struct Pages {
    pub(super) tree: Tree<Descriptor>,
    /// Who waits for a busy page.
    waiters: *const Waiter,
    /// How many pages there are, ghosts among them.
    pub(super) count: u64,
}

// SAFETY: waiters live while they are on the list and are reached under the lock around this, as is the tree.
unsafe impl Send for Pages {}

/// A thread that waits for a page of an object.
struct Waiter {
    next: Cell<*const Waiter>,
    task: *const Task,
    index: u64,
    called: AtomicBool,
}

/// All objects of a service.
pub(super) struct Objects<M: Machine> {
    newest: *mut Core<M>,
    /// Whether the service knows how to move and shrink objects' pages.
    started: bool,
}

// SAFETY: objects live while they are on the list, and are shared between CPUs.
unsafe impl<M: Machine> Send for Objects<M> {}

impl<M: Machine> Objects<M> {
    pub(super) const fn new() -> Self {
        Self { newest: ptr::null_mut(), started: false }
    }
}

/// An object: pages by index. Dropping it frees them, waiting for those that are busy; what is dirty is lost, and what is wired
/// ends being so.
///
/// Who locks two objects at once does so in one order everywhere.
pub struct VmObject<M: Machine> {
    core: NonNull<Core<M>>,
}

// SAFETY: all of an object is reached under its lock, or is atomic, or never changes.
unsafe impl<M: Machine> Send for VmObject<M> {}
// SAFETY: as above.
unsafe impl<M: Machine> Sync for VmObject<M> {}

/// A locked object: what may look at and change its pages. Interrupts of the CPU are off while it lives: keep that short.
pub struct LockedObject<'o, M: Machine> {
    pub(super) object: &'o VmObject<M>,
    pub(super) pages: Guard<'o, Pages, M>,
}

impl<M: Machine> Service<M> {
    /// Makes an object without pages. Pages that were never written are zeroes; with a pager, those that it has are as it has
    /// them, and dirty ones go there when memory is short. May sleep.
    ///
    /// # Errors
    ///
    /// [`VmError`].
    pub fn vm_object(&'static self, pager: Option<&'static dyn Pager<M>>) -> Result<VmObject<M>, VmError> {
        self.start_vm()?;
        let place = self.kmalloc(size_of::<Core<M>>(), Gfp::KERNEL).cast::<Core<M>>();
        let core = NonNull::new(place).ok_or(VmError::NoMemory)?;
        // SAFETY: the object is large and aligned enough, and this function's alone.
        unsafe {
            core.write(Core {
                service: self,
                pager,
                lock: Lock::new(Pages { tree: Tree::new(), waiters: ptr::null(), count: 0 }),
                ghosts: AtomicPtr::new(ptr::null_mut()),
                next: AtomicPtr::new(ptr::null_mut()),
                previous: AtomicPtr::new(ptr::null_mut()),
            });
        }
        self.vm().add(self.machine(), core);
        Ok(VmObject { core })
    }

    /// Has pages of objects moved and shrunk, and fills the nodes' reserves of descriptors.
    fn start_vm(&'static self) -> Result<(), VmError> {
        let vm = self.vm();
        for (node, _) in self.nodes().with_memory() {
            for what in Stored::ALL.into_iter().filter(|&what| self.vm_node(node).store(what).is_low()) {
                let frame = self.alloc_pages_node(node, Gfp::KERNEL, Order::ZERO).ok_or(VmError::NoMemory)?;
                self.claim_frames(1);
                self.fill_store(what, frame);
            }
        }
        let mut objects = vm.first.lock(self.machine());
        if !objects.started {
            vm.service.store(ptr::from_ref(self).cast_mut(), Relaxed);
            let owner = self.register_page_owner(vm)?;
            vm.owner.store(owner.0, Relaxed);
            self.register_shrinker(vm)?;
            objects.started = true;
        }
        Ok(())
    }
}

impl<M: Machine> VmState<M> {
    fn add(&self, machine: &M, core: NonNull<Core<M>>) {
        let mut objects = self.first.lock(machine);
        let _last = self.last.lock(machine);
        // SAFETY: objects on the list live, and the list is this function's while both locks are held.
        unsafe {
            core.as_ref().next.store(objects.newest, Relaxed);
            if let Some(newest) = objects.newest.as_ref() {
                newest.previous.store(core.as_ptr(), Relaxed);
            }
        }
        objects.newest = core.as_ptr();
    }

    fn take_out(&self, machine: &M, core: &Core<M>) {
        let mut objects = self.first.lock(machine);
        let _last = self.last.lock(machine);
        let (next, previous) = (core.next.load(Relaxed), core.previous.load(Relaxed));
        // SAFETY: as in `add`.
        unsafe {
            match previous.as_ref() {
                None => objects.newest = next,
                Some(previous) => previous.next.store(next, Relaxed),
            }
            if let Some(next) = next.as_ref() {
                next.previous.store(previous, Relaxed);
            }
        }
    }

    /// # Safety
    ///
    /// The list does not change meanwhile: one of its locks is held.
    #[cfg(feature = "hosted")]
    pub(super) unsafe fn for_each_object_lock(&self, each: &mut dyn FnMut(&crate::raw_lock::RawLock)) {
        // SAFETY: the caller's promise.
        let mut next = unsafe { self.first.peek() }.newest;
        // SAFETY: objects on the list live.
        while let Some(core) = unsafe { next.as_ref() } {
            each(core.lock.raw());
            next = core.next.load(Relaxed);
        }
    }
}

impl<M: Machine> VmObject<M> {
    pub(super) fn core(&self) -> &Core<M> {
        // SAFETY: the core lives as long as its handle.
        unsafe { self.core.as_ref() }
    }

    /// Locks the object. Never sleeps; may be called in an interrupt handler.
    pub fn lock(&self) -> LockedObject<'_, M> {
        let core = self.core();
        let mut pages = core.lock.lock(core.service.machine());
        core.forget_ghosts(&mut pages);
        LockedObject { object: self, pages }
    }

    /// The service it is of.
    pub fn service(&self) -> &'static Service<M> {
        self.core().service
    }
}

impl<'o, M: Machine> LockedObject<'o, M> {
    /// How many pages it has in memory, cached ones among them (and some that the page layer took since it was locked).
    pub fn page_count(&self) -> u64 {
        self.pages.count
    }

    /// The page at an index, if it is in memory and not cached. FreeBSD's `vm_page_lookup`.
    pub fn page<'l>(&'l mut self, index: u64) -> Option<VmPage<'l, 'o, M>> {
        let page = Core::<M>::resident(&self.pages, index)?;
        Some(VmPage::of(self, page))
    }

    /// Whether the object has a page cached at an index, right now: the page layer may take it at any time.
    pub fn is_cached(&self, index: u64) -> bool {
        // SAFETY: pages in the tree live.
        self.pages.tree.get(index).is_some_and(|page| unsafe { page.as_ref() }.queue() == Queue::Cache)
    }

    /// The first page, but for cached ones, with at least that index.
    pub fn next_page<'l>(&'l mut self, from: u64) -> Option<VmPage<'l, 'o, M>> {
        let page = Core::<M>::next_resident(&self.pages, from)?;
        Some(VmPage::of(self, page))
    }

    /// Gives the lock back, sleeps until the page at that index is not busy (or not there), and locks the object again. What
    /// was true of the object before need not be so after. Only where a thread may sleep.
    #[must_use = "the object is locked again"]
    pub fn wait(self, index: u64) -> Self {
        let Self { object, pages } = self;
        let core = object.core();
        if Core::<M>::resident(&pages, index).is_some_and(|page| page.has(flag::BUSY)) {
            core.sleep_until_called(pages, index);
            return object.lock();
        }
        Self { object, pages }
    }
}

impl<M: Machine> Core<M> {
    /// Waits, with the lock given back, until somebody calls those who wait for that page.
    pub(super) fn sleep_until_called(&self, mut pages: Guard<'_, Pages, M>, index: u64) {
        let machine = self.service.machine();
        let task = machine.task();
        let waiter = Waiter { next: Cell::new(pages.waiters), task, index, called: AtomicBool::new(false) };
        pages.waiters = &raw const waiter;
        drop(pages);
        // Acquire: pairs with the Release in `call`.
        let called = || waiter.called.load(Ordering::Acquire);
        if machine.may_sleep() {
            machine.sleep(&mut || called(), None);
        }
        let mut rounds = 0;
        while !called() {
            machine.relax(rounds);
            rounds = rounds.saturating_add(1);
        }
        // Whoever called it held the lock, and is done with the waiter once this has it.
        drop(self.lock.lock(machine));
    }

    /// Wakes those who wait for a page.
    pub(super) fn call(&self, pages: &mut Pages, index: u64) {
        let mut previous: Option<&Waiter> = None;
        let mut next = pages.waiters;
        // SAFETY: waiters live while they are on the list, and one that was called until its thread has locked the object.
        while let Some(waiter) = unsafe { next.as_ref() } {
            next = waiter.next.get();
            if waiter.index != index {
                previous = Some(waiter);
                continue;
            }
            match previous {
                None => pages.waiters = next,
                Some(previous) => previous.next.set(next),
            }
            let task = waiter.task;
            // Release: pairs with the Acquire in `sleep_until_called`.
            waiter.called.store(true, Ordering::Release);
            // SAFETY: the thread waits for the object's lock at least, so its task lives.
            self.service.machine().wake(unsafe { &*task });
        }
    }
}

impl<M: Machine> Drop for VmObject<M> {
    fn drop(&mut self) {
        let core = self.core();
        let machine = core.service.machine();
        // Nobody has a guard or the lock, for these borrow the object; so no page comes, and those that are busy are a pager's.
        loop {
            let mut locked = self.lock();
            for _ in 0..FREED_AT_ONCE {
                // SAFETY: pages in the tree live.
                let Some(page) = locked.pages.tree.at_least(0).map(|page| unsafe { page.as_ref() }) else { break };
                let index = page.index.load(Relaxed);
                if page.has(flag::GUARDED) {
                    locked = locked.wait(index);
                } else {
                    core.free_page(&mut locked.pages, index);
                }
            }
            if locked.pages.count == 0 {
                break;
            }
        }
        let service = core.service;
        service.vm().take_out(machine, core);
        // SAFETY: made in `vm_object`; no page names it any more, and it is on no list.
        unsafe { service.kfree(self.core.as_ptr().cast()) };
        for (node, _) in service.nodes().with_memory() {
            service.shrink_stores(node);
        }
    }
}

impl<M: Machine> fmt::Debug for VmObject<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VmObject({:p})", self.core)
    }
}
