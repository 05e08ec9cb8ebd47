//! [`Platform`]: CPUs, nodes and time, as the workloads see them, and the [`Barrier`] that starts CPUs together.
//!
//! The guest implements it with threads bound to CPUs and the time-stamp counter, hosted programs with std's threads.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use quarry_topology::NodeId;

use crate::case::Case;

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

    /// Waits for other CPUs, which call [`Self::wake_waiting`] when they have made `is_over` true. By default it spins.
    fn wait_until(&self, is_over: impl Fn() -> bool) {
        while !is_over() {
            self.relax();
        }
    }

    /// Has those who wait look again.
    fn wake_waiting(&self) {}

    /// Whether the CPUs run in turn, one at a time, on a clock that counts the instructions of all: then a run repeats
    /// exactly, and whether CPUs meet at all depends on how long the turns are.
    fn takes_turns(&self) -> bool {
        false
    }

    /// Where CPUs take turns: makes turns so short from here on that CPUs find each other in the middle of things.
    /// Called by CPU 0 when all others are awake and need not wait.
    fn shorten_turns(&self) {}

    /// Makes turns as long again as they are by themselves.
    fn lengthen_turns(&self) {}

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

    /// Told by CPU 0 before each sample of a case, and while it is prepared and the length of samples is being found
    /// (sample 0), in whichever pass: whoever waits for results can be told that this one is only slow.
    fn is_at(&self, _case: Case, _sample: usize, _samples: usize) {}

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
        match self.arrive() {
            None => platform.wake_waiting(),
            Some(generation) => platform.wait_until(|| self.has_opened(generation)),
        }
    }

    /// The same, awake: who waits spins, and so goes on within a few instructions.
    pub(crate) fn spin(&self, platform: impl Platform) {
        if let Some(generation) = self.arrive() {
            while !self.has_opened(generation) {
                platform.relax();
            }
        }
    }

    /// The same, and nobody who comes by [`Self::spin`] comes later: when the call returns, all go on.
    pub(crate) fn come_last(&self, platform: impl Platform) {
        // Relaxed: `arrive` orders what others did before they came.
        while self.arrived.load(Ordering::Relaxed) + 1 < self.members {
            platform.relax();
        }
        self.arrive();
    }

    /// Comes; the generation to see the end of, or `None` to the last one, who has ended it.
    fn arrive(&self) -> Option<usize> {
        let generation = self.generation.load(Ordering::Relaxed);
        // Acquire and release: the last to arrive has seen what every earlier one wrote and hands it on below.
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 < self.members {
            return Some(generation);
        }
        self.arrived.store(0, Ordering::Relaxed);
        // Pairs with the waiters' acquire; orders the reset before any second arrival.
        self.generation.store(generation.wrapping_add(1), Ordering::Release);
        None
    }

    fn has_opened(&self, generation: usize) -> bool {
        self.generation.load(Ordering::Acquire) != generation
    }
}
