//! [`Task`]: what the service keeps for each thread of its host, and the scopes a thread may open.
//!
//! Users: the host, which has one in each of its threads and finds the running one's in
//! [`Machine::task`](crate::Machine::task); the page layer, which asks it on slow paths what the thread may do.
//!
//! A *scope* covers everything its thread calls: what is allocated inside it, however deep, may not do what the scope
//! rules out. Linux's `memalloc_noio_save` and its like, as guards that end the scope when dropped.
//!
//! # Theory
//!
//! A task is read and written by its own thread alone. The one exception is [`Task::signal`], a count of wakes that
//! belongs to the host: whoever wakes adds to it. All fields are atomics, relaxed unless said otherwise, so that a task
//! can be shared by reference.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use quarry_topology::{MAX_NODES, NodeId};

use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::policy::{NodeMask, Policy};
use crate::service::Service;

/// What the service keeps for a thread.
#[derive(Default)]
pub struct Task {
    /// Flags that open scopes take away from every allocation.
    denied: AtomicU32,
    /// How many scopes are open in which the thread itself makes memory free and may use every reserve.
    reclaiming: AtomicU32,
    /// The memory policy: its kind, its nodes as a set of bits, and where interleaving goes on.
    pub(crate) policy_kind: AtomicU8,
    pub(crate) policy_nodes: AtomicU64,
    pub(crate) interleave_next: AtomicU8,
    /// What the thread's outermost submission of a bio has still to do; null outside of one. See [`bio`](crate::bio).
    pub(crate) pending_bios: AtomicPtr<()>,
    /// How often the thread was woken; the host's, which chooses the orderings.
    pub signal: AtomicU32,
}

impl Task {
    /// A task without scopes and with the local policy.
    pub const fn new() -> Self {
        Self {
            denied: AtomicU32::new(0),
            reclaiming: AtomicU32::new(0),
            policy_kind: AtomicU8::new(0),
            policy_nodes: AtomicU64::new(0),
            interleave_next: AtomicU8::new(0),
            pending_bios: AtomicPtr::new(core::ptr::null_mut()),
            signal: AtomicU32::new(0),
        }
    }

    /// What is left of an allocation's flags inside the open scopes.
    pub(crate) fn allowed(&self, gfp: Gfp) -> Gfp {
        gfp.difference(Gfp::from_bits_retain(self.denied.load(Relaxed)))
    }

    /// The next of those nodes whose turn it is; `None` when none is usable.
    pub(crate) fn next_interleaved(&self, nodes: NodeMask, usable: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let first = self.interleave_next.load(Relaxed);
        let turn = |step| NodeId((first + step) % MAX_NODES as u8);
        let next = (0..MAX_NODES as u8).map(turn).find(|&node| nodes.contains(node) && usable(node))?;
        self.interleave_next.store((next.0 + 1) % MAX_NODES as u8, Relaxed);
        Some(next)
    }

    /// Whether the thread is making memory free: it must not start to do so again, and may use every reserve.
    pub(crate) fn is_reclaiming(&self) -> bool {
        self.reclaiming.load(Relaxed) > 0
    }
}

/// An open scope of the thread that opened it; ends when dropped. Scopes nest.
#[must_use = "the scope ends when this is dropped"]
pub struct Scope<'a> {
    task: &'a Task,
    /// What was denied before.
    before: u32,
    reclaiming: bool,
    /// It belongs to one thread.
    _thread: PhantomData<*const ()>,
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        if self.reclaiming {
            self.task.reclaiming.fetch_sub(1, Relaxed);
        } else {
            self.task.denied.store(self.before, Relaxed);
        }
    }
}

impl<M: Machine> Service<M> {
    /// Until the scope ends, allocations of this thread behave as if each were `GFP_NOIO`: reclaim on their behalf runs
    /// nothing that does I/O or calls a file system. Scopes end in the reverse order. Linux's `memalloc_noio_save`.
    pub fn memalloc_noio(&self) -> Scope<'_> {
        self.deny(Gfp::IO | Gfp::FS)
    }

    /// Until the scope ends, allocations of this thread behave as if each were `GFP_NOFS`. Linux's
    /// `memalloc_nofs_save`.
    pub fn memalloc_nofs(&self) -> Scope<'_> {
        self.deny(Gfp::FS)
    }

    /// Until the scope ends, this thread is one that makes memory free: its allocations reclaim nothing, never wait,
    /// and may use every reserve. Linux's `memalloc_noreclaim_save`.
    pub fn memalloc_noreclaim(&self) -> Scope<'_> {
        let task = self.machine().task();
        task.reclaiming.fetch_add(1, Relaxed);
        Scope { task, before: 0, reclaiming: true, _thread: PhantomData }
    }

    fn deny(&self, flags: Gfp) -> Scope<'_> {
        let task = self.machine().task();
        let before = task.denied.fetch_or(flags.bits(), Relaxed);
        Scope { task, before, reclaiming: false, _thread: PhantomData }
    }

    /// Sets the calling thread's memory policy: where `GFP_USER` allocations (those with `__GFP_HARDWALL`) come from.
    /// Linux's `set_mempolicy`.
    ///
    /// # Errors
    ///
    /// [`PolicyError`](crate::policy::PolicyError) when the policy names no node that has memory.
    pub fn set_mempolicy(&self, policy: Policy) -> Result<(), crate::policy::PolicyError> {
        policy.check(|node| self.nodes().get(node).is_some())?;
        policy.store(self.machine().task());
        Ok(())
    }

    /// The calling thread's memory policy. Linux's `get_mempolicy`.
    pub fn get_mempolicy(&self) -> Policy {
        Policy::load(self.machine().task())
    }
}
