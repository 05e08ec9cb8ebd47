//! [`Machine`]: the guest as the suite sees it: its CPUs, which run threads, and the time-stamp counter.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use quarry_suite::Platform;
use quarry_topology::NodeId;
use quarry_unikernel::{cpus, memory, thread, time, topology, under_emulation};

/// Bytes of a workload's stack: the checks keep their lists elsewhere.
const STACK_BYTES: u64 = 64 << 10;

/// A handle on the guest. CPUs of the suite are those that run, in order.
#[derive(Clone, Copy)]
pub(crate) struct Machine {
    memory: u64,
    emulated: bool,
}

/// Rounds of waiting before an emulated CPU takes a nap, and how long that is.
const PATIENCE: u32 = 256;
const NAP: Duration = Duration::from_micros(20);

/// Rounds of waiting so far, of all CPUs.
static ROUNDS: AtomicU32 = AtomicU32::new(0);

impl Machine {
    pub(crate) fn new() -> Self {
        let rows = memory::service().statistics();
        // A quarter: one node may have the smaller part of it, and the checks need some themselves.
        Self { memory: (rows.free + rows.deferred) / 4, emulated: under_emulation() }
    }

    /// Has every CPU run a thread. Stacks are made once and kept, so from here on whatever is in use after a workload
    /// and was not before it is lost.
    pub(crate) fn warm_up(self) {
        self.on_cpus(self.cpu_count(), |_| ());
    }
}

fn cpu(index: usize) -> quarry_topology::CpuId {
    cpus::online().nth(index).expect("the suite asks for CPUs there are")
}

impl Platform for Machine {
    fn cpu_count(&self) -> usize {
        cpus::online().count()
    }

    fn local_node(&self, index: usize) -> NodeId {
        let node = topology().cpus()[cpu(index).index()].node;
        let with_memory = topology().nodes().filter(|&node| topology().has_memory(node));
        with_memory.min_by_key(|&other| (other != node, topology().distance(node, other))).unwrap_or(node)
    }

    fn remote_node(&self, index: usize) -> Option<NodeId> {
        let local = self.local_node(index);
        let others = topology().nodes().filter(|&node| node != local && topology().has_memory(node));
        others.max_by_key(|&other| topology().distance(local, other))
    }

    #[inline(always)]
    fn ticks(&self) -> u64 {
        time::ticks()
    }

    fn ticks_per_second(&self) -> u64 {
        time::ticks_per_second()
    }

    /// Under emulation the CPU waited for may be one that has no core of the host just now, and whoever spins keeps it
    /// from getting one; so a CPU that has waited for long halts for a moment. Elsewhere it only spins.
    fn relax(&self) {
        core::hint::spin_loop();
        // Relaxed: any count will do, from whichever CPUs.
        if self.emulated && ROUNDS.fetch_add(1, Ordering::Relaxed) % PATIENCE == PATIENCE - 1 {
            thread::sleep(NAP);
        }
    }

    fn memory(&self) -> u64 {
        self.memory
    }

    fn on_cpus<T, F>(&self, cpus: usize, body: F) -> Vec<T>
    where
        T: Send + 'static,
        F: Fn(usize) -> T + Send + Sync + 'static,
    {
        let body = Arc::new(body);
        let start = |index| {
            let body = Arc::clone(&body);
            thread::spawn_with_stack(cpu(index), "workload", STACK_BYTES, move || body(index))
                .unwrap_or_else(|error| panic!("a workload cannot start: {error}"))
        };
        let threads: Vec<_> = (0..cpus).map(start).collect();
        threads.into_iter().map(thread::JoinHandle::join).collect()
    }
}
