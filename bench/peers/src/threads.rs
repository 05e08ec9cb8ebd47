//! [`Threads`]: the machine the suite runs on here, whose CPUs are threads bound to the process's CPUs.

use std::arch::x86_64::{_mm_lfence, _rdtsc};
use std::cell::Cell;
use std::num::NonZeroU64;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use quarry_suite::Platform;
use quarry_topology::NodeId;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// How long the time-stamp counter is compared with the system's clock.
const CALIBRATION: Duration = Duration::from_millis(50);

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
}

/// The number the platform gave the calling thread; 0 on threads it did not start.
#[inline(always)]
pub(crate) fn current_cpu() -> usize {
    CPU.get()
}

/// So many CPUs, each a thread on a CPU of its own while there are enough.
#[derive(Clone, Copy, Debug)]
pub struct Threads {
    cpus: usize,
}

impl Threads {
    /// Most threads: so many slab caches are kept for the peer that wants one a CPU.
    pub const MOST: usize = 64;

    /// A machine of `cpus` CPUs, at most [`Self::MOST`].
    pub fn new(cpus: usize) -> Self {
        Self { cpus: cpus.clamp(1, Self::MOST) }
    }

    /// CPUs this process may use.
    pub fn available() -> usize {
        thread::available_parallelism().map_or(1, std::num::NonZero::get)
    }
}

impl Platform for Threads {
    fn cpu_count(&self) -> usize {
        self.cpus
    }

    fn local_node(&self, _cpu: usize) -> NodeId {
        NodeId(0)
    }

    fn remote_node(&self, _cpu: usize) -> Option<NodeId> {
        None
    }

    #[inline(always)]
    fn ticks(&self) -> u64 {
        // SAFETY: every x86-64 CPU has both.
        unsafe {
            _mm_lfence();
            let ticks = _rdtsc();
            _mm_lfence();
            ticks
        }
    }

    fn ticks_per_second(&self) -> u64 {
        static RATE: OnceLock<NonZeroU64> = OnceLock::new();
        RATE.get_or_init(|| {
            let (start, from) = (Instant::now(), self.ticks());
            thread::sleep(CALIBRATION);
            let (ticks, elapsed) = (self.ticks() - from, start.elapsed());
            let rate = u128::from(ticks) * 1_000_000_000 / elapsed.as_nanos().max(1);
            NonZeroU64::new(rate as u64).expect("the time-stamp counter counts")
        })
        .get()
    }

    fn relax(&self) {
        if self.cpus > Self::available() {
            thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }

    fn memory(&self) -> u64 {
        2 << 30
    }

    fn on_cpus<T, F>(&self, cpus: usize, body: F) -> Vec<T>
    where
        T: Send + 'static,
        F: Fn(usize) -> T + Send + Sync + 'static,
    {
        let body = Arc::new(body);
        let start = |cpu: usize| {
            let body = body.clone();
            thread::spawn(move || {
                bind(cpu);
                CPU.set(cpu);
                body(cpu)
            })
        };
        let threads: Vec<_> = (0..cpus).map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("a worker has no reason to panic")).collect()
    }
}

/// Binds the calling thread to the CPU of that rank among those it may use. Where the system refuses, it stays unbound.
fn bind(rank: usize) {
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let usable: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    if let Some(cpu) = usable.get(rank % usable.len().max(1)) {
        let mut only = CpuSet::new();
        only.set(*cpu);
        // Unbound threads measure more noise, not something else.
        let _ = sched_setaffinity(None, &only);
    }
}
