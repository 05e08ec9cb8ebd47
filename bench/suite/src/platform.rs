//! [`Platform`]: CPUs, nodes and time, as the workloads see them, and the [`Barrier`] that starts CPUs together.
//!
//! The guest implements it with threads bound to CPUs and the time-stamp counter, hosted programs with std's threads.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use quarry_topology::NodeId;

/// A handle on the machine the suite runs on. CPUs are numbered densely from 0.
pub trait Platform: Copy + Send + Sync + 'static {
    /// How many CPUs can run workloads; at least 1.
    fn cpu_count(&self) -> usize;

    /// The node whose memory is nearest to a CPU: its own, unless that has none.
    fn local_node(&self, cpu: usize) -> NodeId;

    /// The farthest other node with memory, seen from a CPU; `None` on a machine with one such node.
    fn remote_node(&self, cpu: usize) -> Option<NodeId>;

    /// The clock workloads are timed with. Ordered: neither loads nor stores before it happen after it.
    fn ticks(&self) -> u64;

    /// Rate of [`Self::ticks`].
    fn ticks_per_second(&self) -> u64;

    /// Called in a spinning wait for another CPU.
    fn relax(&self) {
        core::hint::spin_loop();
    }

    /// Bytes the workloads may hold at once, all CPUs together.
    fn memory(&self) -> u64;

    /// Whether [`Self::interrupt`] interrupts, or does what stands for it.
    fn has_interrupts(&self) -> bool {
        false
    }

    /// Has an interrupt handler of the calling CPU run `work`, and returns when it has. By default there are none, and
    /// the caller does it.
    fn interrupt(&self, work: &mut dyn FnMut()) {
        work();
    }

    /// Runs `body` once on each of the CPUs `0..cpus`, at the same time, and returns what they returned in that order.
    fn on_cpus<T, F>(&self, cpus: usize, body: F) -> Vec<T>
    where
        T: Send + 'static,
        F: Fn(usize) -> T + Send + Sync + 'static;
}

/// A machine with more threads than CPUs, which run in turn.
pub trait Threads: Platform {
    /// Runs `body` once in each of that many threads at the same time, thread `t` on CPU `t % cpu_count()`, and returns
    /// what they returned in that order. Takes no memory once all threads run.
    fn on_threads<T, F>(&self, threads: usize, body: F) -> Vec<T>
    where
        T: Send + 'static,
        F: Fn(usize) -> T + Send + Sync + 'static;

    /// Lets the other threads of the calling CPU run.
    fn yield_now(&self);
}

/// Holds CPUs until all have come. Reusable at once.
///
/// The last to arrive resets `arrived` and then advances `generation`; its release store is what the waiters'
/// acquire loads pair with, so whatever any CPU wrote before [`Self::wait`] is seen by all after it.
pub(crate) struct Barrier {
    members: usize,
    arrived: AtomicUsize,
    generation: AtomicUsize,
}

impl Barrier {
    pub(crate) fn new(members: usize) -> Self {
        Self { members, arrived: AtomicUsize::new(0), generation: AtomicUsize::new(0) }
    }

    pub(crate) fn wait(&self, platform: impl Platform) {
        let generation = self.generation.load(Ordering::Relaxed);
        // Acquire and release: the last to arrive has seen what every earlier one wrote and hands it on below.
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.members {
            self.arrived.store(0, Ordering::Relaxed);
            // Pairs with the waiters' acquire; orders the reset before any second arrival.
            self.generation.store(generation.wrapping_add(1), Ordering::Release);
            return;
        }
        while self.generation.load(Ordering::Acquire) == generation {
            platform.relax();
        }
    }
}
