//! Threads as CPUs: who has which set, and what happens when a thread ends.
//!
//! # Theory
//!
//! `SETS` is an array of set pointers in every thread, one a slot; a null-free array, for slot 0 and every slot not
//! used yet hold the detached set. A set is in exactly one place: the `SETS` of one thread, or its instance's pool. The
//! pool is a stack under a spin lock (never taken on a fast path). The key's value only has to be non-null for its
//! destructor to run.
//!
//! Slot numbers come from `instances.rs`. A retired instance's slot can be given again: its sets stay and are made
//! detached ones, so a thread with a stale pointer asks [`attach`] for a set of the new instance.

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use quarry_topology::{CpuId, NodeId};

use super::HostedMachine;
use super::instances::{self, SLOTS};
use crate::raw_lock::RawLock;
use crate::service::Service;
use crate::set::Set;

static DETACHED: Set = Set::detached();

/// The key whose destructor returns a thread's sets, plus one; 0 before it is made.
static KEY: AtomicU32 = AtomicU32::new(0);

std::thread_local! {
    static SETS: [Cell<*mut Set>; SLOTS] = const { [const { Cell::new((&raw const DETACHED).cast_mut()) }; SLOTS] };
    /// While a set is made for the thread, and once its end has begun, it works without one.
    static WITHOUT: Cell<bool> = const { Cell::new(false) };
}

/// Makes a set for the calling thread, which meanwhile works without one.
pub(super) fn new_set<const PROCESS: bool>(
    service: &'static Service<HostedMachine<PROCESS>>,
    cpu: CpuId,
    node: NodeId,
) -> Option<*mut Set> {
    let before = WITHOUT.replace(true);
    let set = service.new_set(cpu, node, false);
    WITHOUT.set(before);
    set.map(|set| &raw mut *set)
}

/// Sets of threads that ended, for threads to come.
pub(super) struct Pool {
    lock: RawLock,
    head: AtomicPtr<Set>,
}

impl Pool {
    pub(super) const fn new() -> Self {
        Self {
            lock: RawLock::new(AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0)),
            head: AtomicPtr::new(ptr::null_mut()),
        }
    }

    fn locked<R>(&self, work: impl FnOnce() -> R) -> R {
        self.lock.acquire(|_| yield_thread());
        let result = work();
        self.lock.release();
        result
    }

    fn put(&self, set: *mut Set) {
        self.locked(|| {
            // SAFETY: the set was its thread's until now; its pool link is only touched under this lock.
            unsafe { (*set).pooled.store(self.head.load(Ordering::Relaxed), Ordering::Relaxed) };
            self.head.store(set, Ordering::Relaxed);
        });
    }

    /// Takes a set, of that CPU if one is named.
    pub(super) fn take(&self, cpu: Option<CpuId>) -> Option<*mut Set> {
        self.locked(|| {
            let mut link = &self.head;
            loop {
                let pointer = link.load(Ordering::Relaxed);
                // SAFETY: sets in the pool are valid, and nobody's, and their links are ours under the lock.
                let set = unsafe { pointer.as_ref() }?;
                if cpu.is_none_or(|cpu| set.cpu() == cpu) {
                    link.store(set.pooled.load(Ordering::Relaxed), Ordering::Relaxed);
                    return Some(pointer);
                }
                link = &set.pooled;
            }
        })
    }

    /// Calls `each` for every set in the pool, none of which is taken meanwhile.
    pub(super) fn for_each(&self, mut each: impl FnMut(*mut Set)) {
        self.locked(|| {
            let mut next = self.head.load(Ordering::Relaxed);
            // SAFETY: sets in the pool are valid, and nobody's, and their links are ours under the lock.
            while let Some(set) = unsafe { next.as_ref() } {
                let this = next;
                next = set.pooled.load(Ordering::Relaxed);
                each(this);
            }
        });
    }

    pub(super) fn raw(&self) -> &RawLock {
        &self.lock
    }
}

/// The calling thread's set of the instance with that slot.
#[inline(always)]
pub(super) fn set(slot: usize) -> *mut Set {
    // With the array's length a power of two this is a mask, and no branch; for a constant slot it is nothing.
    // `with` is not inlined in every build, `try_with` is. What needs no drop is never gone, so there is no error.
    SETS.try_with(|sets| sets[slot % SLOTS].get()).unwrap_or((&raw const DETACHED).cast_mut())
}

/// Gives the calling thread a set, starting the instance if need be.
pub(super) fn attach<const PROCESS: bool>(service: &'static Service<HostedMachine<PROCESS>>) -> *mut Set {
    let machine = service.machine();
    if WITHOUT.get() || machine.start(service).is_err() {
        return (&raw const DETACHED).cast_mut();
    }
    let current = machine.slot();
    // SAFETY: a thread's set is valid.
    if unsafe { (*set(current)).is_attached() } {
        return set(current);
    }
    let found = machine.pool.take(None).or_else(|| {
        let (cpu, node) = machine.next_cpu();
        new_set(service, cpu, node)
    });
    if let Some(found) = found {
        enter(machine, found);
    }
    set(current)
}

/// Makes `set`, which is nobody's, the calling thread's. `false` (and the set back in the pool) when the thread is
/// ending.
pub(super) fn enter<const PROCESS: bool>(machine: &HostedMachine<PROCESS>, set: *mut Set) -> bool {
    if WITHOUT.get() || !arrange_exit() {
        machine.pool.put(set);
        return false;
    }
    SETS.with(|sets| sets[machine.slot()].set(set));
    machine.live.fetch_add(1, Ordering::Relaxed);
    true
}

/// Puts the calling thread's set of an instance back into its pool.
pub(super) fn leave<const PROCESS: bool>(machine: &HostedMachine<PROCESS>) {
    let slot = machine.slot();
    let set = SETS.with(|sets| sets[slot].replace((&raw const DETACHED).cast_mut()));
    // SAFETY: a thread's set is valid.
    if unsafe { (*set).is_attached() } {
        machine.live.fetch_sub(1, Ordering::Relaxed);
        machine.pool.put(set);
    }
}

/// Forgets the calling thread's set of an instance that ends.
pub(super) fn forget(slot: usize) {
    SETS.with(|sets| sets[slot].set((&raw const DETACHED).cast_mut()));
}

/// Whether the calling thread has that set.
pub(super) fn is_mine(set: &Set) -> bool {
    SETS.with(|sets| sets.iter().any(|mine| ptr::eq(mine.get(), set)))
}

/// Makes a set of an instance that ends one for threads that have none; it stays on the instance's list.
pub(super) fn detach(set: &Set) {
    let next = set.next.load(Ordering::Relaxed);
    let set = ptr::from_ref(set).cast_mut();
    // SAFETY: nobody uses the instance any more, so the set is nobody's but this function's; it came from `new_set` as
    // memory that may be written.
    unsafe { set.copy_from_nonoverlapping(&raw const DETACHED, 1) };
    // SAFETY: as above.
    unsafe { (*set).next.store(next, Ordering::Relaxed) };
}

/// Puts a set whose thread does not exist any more into its instance's pool.
pub(super) fn adopt<const PROCESS: bool>(machine: &HostedMachine<PROCESS>, set: &Set) {
    machine.pool.put(ptr::from_ref(set).cast_mut());
}

/// Forgets what is in the pool, without touching the sets: for the child of a fork, which adopts all sets anew.
pub(super) fn forget_pool<const PROCESS: bool>(machine: &HostedMachine<PROCESS>) {
    machine.pool.lock.reset();
    machine.live.store(1, Ordering::Relaxed);
    machine.pool.head.store(ptr::null_mut(), Ordering::Relaxed);
}

pub(super) fn yield_thread() {
    // SAFETY: has no preconditions; it cannot fail on Linux.
    unsafe { libc::sched_yield() };
}

/// Makes sure that this thread's end returns its sets.
fn arrange_exit() -> bool {
    let Some(key) = exit_key() else { return false };
    // SAFETY: the key exists. For the first 32 keys of a process this does not allocate, and Hosted's is made early.
    unsafe { libc::pthread_setspecific(key, ptr::without_provenance(1)) == 0 }
}

fn exit_key() -> Option<libc::pthread_key_t> {
    let known = KEY.load(Ordering::Acquire);
    if known != 0 {
        return Some(known - 1);
    }
    let mut key = 0;
    // SAFETY: `key` is ours to write; the destructor has the signature asked for.
    if unsafe { libc::pthread_key_create(&raw mut key, Some(thread_ends)) } != 0 {
        return None;
    }
    // AcqRel and Acquire: pair with each other, so a key is known only once it exists.
    match KEY.compare_exchange(0, key + 1, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Some(key),
        Err(earlier) => {
            // SAFETY: nobody else knows this key.
            unsafe { libc::pthread_key_delete(key) };
            Some(earlier - 1)
        }
    }
}

extern "C" fn thread_ends(_value: *mut libc::c_void) {
    WITHOUT.set(true);
    instances::all().for_each(instances::Instance::leave);
}
