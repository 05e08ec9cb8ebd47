//! [`Machine`]: the only door from the memory service to whatever hosts it.
//!
//! The unikernel implements it on real CPUs, [`hosted`](crate::hosted) on threads of an ordinary process. The service
//! is generic over it, never `dyn`: what the fast paths ask (the active [`Set`], the tag of an address) inlines to one
//! or two instructions.

use core::fmt;
use core::ops::Range;
use core::sync::atomic::AtomicU16;
use core::time::Duration;

use quarry_topology::CpuId;

use crate::frame::{Frame, Pfn};
use crate::service::Service;
use crate::set::Set;
use crate::task::Task;

/// Where the metadata of frame 0 would lie in each of the three frame tables; a frame's entry is found by its number.
///
/// The tables are windows of address space over every possible frame. Only the parts that describe filled sections
/// have memory behind them ([`Machine::back`]).
#[derive(Clone, Copy)]
pub struct FrameTables {
    /// Two bytes a frame: which node and cache its objects are from.
    pub tags: *const AtomicU16,
    /// Two bytes a frame: kind, order and zone.
    pub states: *const AtomicU16,
    /// Twelve bytes a frame: list links and a word.
    pub frames: *const Frame,
}

/// No frame was left to back a table with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfFrames;

/// What the service asks of its host.
///
/// # Safety
///
/// The implementor vouches that [`Machine::set`] is exclusively the caller's until it returns to its scheduler: no
/// other thread of execution touches that set's private parts meanwhile (an interrupt handler sees another set); that
/// the direct map and the frame tables are where it says and stay there; and that [`Machine::back`] makes the page it
/// is asked for readable and writable.
pub unsafe trait Machine: Sync + Sized + 'static {
    /// What [`Machine::disable_interrupts`] must remember.
    type InterruptState: Copy;

    /// Whether it is known at compile time that all memory is node 0's: a free then need not ask which node is local.
    const ONE_NODE: bool = false;

    /// The active set of this CPU: the thread's, or the interrupt handler's inside one. Never null; before a CPU has
    /// one it is [`Set::detached`]. On the fast path of every call.
    fn set(&self) -> *mut Set;

    /// Called on slow paths while [`Machine::set`] is detached: the host may give this CPU a set now, or its handlers
    /// theirs. Returns the active set, possibly still detached.
    fn attach(service: &Service<Self>) -> *mut Set {
        service.machine().set()
    }

    /// The tag of the frame that holds `address`, 0 where there is none. Any value of `address` is allowed. On the fast
    /// path of `kfree`, and as wide as a register, for nothing is narrower there.
    fn tag(&self, address: usize) -> u32;

    /// The frame tables. Tags and states must read as 0 where [`Machine::back`] was not asked for memory.
    fn tables(&self) -> FrameTables;

    /// How many frames the tables have room for.
    fn frame_limit(&self) -> u32;

    /// How many frames, counted from the start of the direct map, have a state that can be read: those beyond
    /// [`Self::frame_limit`] have none but `Absent`. On the fast path of `free_pages`; a host that reserved more
    /// addresses than it needs says so with a constant.
    #[inline(always)]
    fn readable_states(&self) -> usize {
        self.frame_limit() as usize
    }

    /// Makes this CPU see the page of a frame table that holds the address `entry`, should it have been
    /// [backed](Machine::back) since this CPU last looked. Called before the service believes a tag or state of 0.
    fn refresh(&self, _entry: usize) {}

    /// Makes sure the 4 KiB page at `page`, which lies in one of the frame tables, has memory of its own, zeroed.
    /// Takes the frames it needs (for the page and for page tables) from `frames`; none when the page had memory.
    ///
    /// # Errors
    ///
    /// [`OutOfFrames`] when `frames` ran dry; what it gave is used up all the same.
    fn back(&self, page: usize, frames: &mut dyn FnMut() -> Option<Pfn>) -> Result<(), OutOfFrames>;

    /// Addresses the service may map pages at, page-aligned; empty where the host offers none.
    fn mapping_window(&self) -> Range<usize> {
        0..0
    }

    /// Maps `frame` at `page` of the mapping window, writable and not executable. Takes zeroed frames for page tables
    /// from `frames`.
    ///
    /// # Errors
    ///
    /// [`OutOfFrames`] when `frames` ran dry.
    fn map(&self, _page: usize, _frame: Pfn, _frames: &mut dyn FnMut() -> Option<Pfn>) -> Result<(), OutOfFrames> {
        Err(OutOfFrames)
    }

    /// The frame mapped at `page` of the mapping window.
    fn translate(&self, _page: usize) -> Option<Pfn> {
        None
    }

    /// Removes the mapping of `page` of the mapping window and returns its frame. CPUs may still remember it.
    fn unmap(&self, _page: usize) -> Option<Pfn> {
        None
    }

    /// Makes every CPU forget the mappings that `pages` had. Called with interrupts on and no lock held.
    fn forget(&self, _pages: Range<usize>) {}

    /// Virtual address at which physical address 0 appears (or would appear) in the direct map.
    fn direct_map(&self) -> usize;

    /// Keeps interrupt handlers of this CPU from running until [`Machine::restore_interrupts`]; nests.
    fn disable_interrupts(&self) -> Self::InterruptState;

    /// Back to what it was before the matching [`Machine::disable_interrupts`].
    fn restore_interrupts(&self, state: Self::InterruptState);

    /// The calling CPU.
    fn cpu(&self) -> CpuId;

    /// Called while spinning for a lock, with the number of rounds so far.
    fn relax(&self, _rounds: u32) {
        core::hint::spin_loop();
    }

    /// 64 bits nobody can guess, or as near as the host comes; asked once, at start.
    fn random(&self) -> u64;

    /// The running thread's [`Task`]. Inside an interrupt handler, and before there are threads, one that no thread has.
    fn task(&self) -> &Task;

    /// Whether the caller may sleep: it is a thread, not a handler, with interrupts on, and other threads can run.
    fn may_sleep(&self) -> bool;

    /// Puts the running thread to sleep until `ready` is true. That is looked at before the thread sleeps and after
    /// each [`Machine::wake`] of its task, none of which is lost. Returns also, with `ready` false, once `limit` has
    /// passed. Only called where [`Machine::may_sleep`].
    fn sleep(&self, ready: &mut dyn FnMut() -> bool, limit: Option<Duration>);

    /// Wakes the thread of a task should it [sleep](Machine::sleep); a wake before it does counts. Called in any
    /// context, also with interrupts off and locks of the service held. The task's thread lives until this returns.
    fn wake(&self, task: &Task);

    /// Has other CPUs give back what their sets cache, and this one what its set for handlers does. The service has set the limits of all sets to 0 before. Sets of
    /// CPUs that idle have been drained ([`Service::drain_set_of`]) when this returns; CPUs that work do so at their
    /// next slow path or wait. Only called where [`Machine::may_sleep`].
    fn drain_others(service: &Service<Self>);

    /// How many threads run, are ready to, or will be when a time has come, those in [`Machine::sleep`] with a limit
    /// among them; `None` where nobody knows, or while I/O is pending. Never too few. When these are all threads that
    /// wait for memory in vain, the run ends in a panic.
    fn runnable_threads(&self) -> Option<usize> {
        None
    }

    /// Writes who a task's thread is, for reports: `thread "reader" on CPU 2`.
    ///
    /// # Errors
    ///
    /// The formatter's.
    fn describe_task(&self, task: &Task, f: &mut fmt::Formatter<'_>) -> fmt::Result;

    /// Time since some moment in the past; never goes back.
    fn now(&self) -> Duration;

    /// A line for people: an allocation failed, a caller asked for the impossible. Must not allocate.
    fn warn(&self, message: fmt::Arguments<'_>);
}
