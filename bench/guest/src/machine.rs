//! [`Machine`]: the guest as the suite sees it: its CPUs, which run threads, and the time-stamp counter.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;

use quarry_guest_records::emit;
use quarry_record::{Alive, Record};
use quarry_suite::{Case, Platform, Threads};
use quarry_topology::{CpuId, MAX_CPUS, NodeId};
use quarry_unikernel::thread::WaitQueue;
use quarry_unikernel::{TrapFrame, cpus, interrupts, memory, option, thread, time, topology, turns, under_emulation};

/// Bytes of a workload's stack: the checks keep their lists elsewhere.
const STACK_BYTES: u64 = 64 << 10;

/// A handle on the guest. CPUs of the suite are those that run, in order.
#[derive(Clone, Copy)]
pub(crate) struct Machine {
    memory: u64,
    emulated: bool,
    /// Whether QEMU counts instructions, and so runs the CPUs in turn.
    takes_turns: bool,
    /// After how many seconds without a record the host wants a sign of life.
    alive: Option<u64>,
}

/// Rounds of waiting before an emulated CPU takes a nap, and how long that is.
const PATIENCE: u32 = 256;
const NAP: Duration = Duration::from_micros(20);

/// Rounds of waiting before a CPU sleeps, where CPUs take turns. A round lasts until the CPU's next turn; those who end
/// about together do not need that many, and to sleep and be woken takes more instructions than all of them.
const TURNS_AWAKE: u32 = 16;

/// Those who sleep until another CPU has come so far.
static WAITING: WaitQueue = WaitQueue::new();

/// When the last result or sign of life was written, in seconds of uptime.
static LAST_SIGN: AtomicU64 = AtomicU64::new(0);

/// Notes that a record is written now.
pub(crate) fn sign_of_life() {
    LAST_SIGN.store(time::uptime().as_secs(), Ordering::Relaxed);
}

/// Rounds of waiting so far, of all CPUs.
static ROUNDS: AtomicU32 = AtomicU32::new(0);

impl Machine {
    /// Called once: it takes the vector for [`Platform::interrupt`].
    pub(crate) fn new() -> Self {
        interrupts::register(VECTOR, do_work).expect("the vector is free, and this is called once");
        let rows = memory::service().statistics();
        // A quarter: one node may have the smaller part of it, and the checks need some themselves.
        let memory = (rows.free + rows.deferred) / 4;
        let alive = option("alive").and_then(|seconds| seconds.parse().ok());
        Self { memory, emulated: under_emulation(), takes_turns: option("icount") == Some("1"), alive }
    }

    /// Has every CPU run a thread. Stacks are made once and kept, so from here on whatever is in use after a workload
    /// and was not before it is lost.
    pub(crate) fn warm_up(self) {
        self.on_cpus(self.cpu_count(), |_| ());
    }

    /// The same with that many threads.
    pub(crate) fn warm_up_threads(self, threads: usize) {
        let missing = AtomicUsize::new(threads);
        self.on_threads(threads, move |_| {
            // All at once, so that each has a stack of its own. Relaxed: nothing else is shared.
            missing.fetch_sub(1, Ordering::Relaxed);
            while missing.load(Ordering::Relaxed) > 0 {
                thread::yield_now();
            }
        });
    }
}

fn cpu(index: usize) -> CpuId {
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
    /// from getting one; so a CPU that has waited for long halts for a moment. Elsewhere it only spins; so it does where
    /// CPUs take turns, for there the hint ends the turn.
    fn relax(&self) {
        core::hint::spin_loop();
        // Relaxed: any count will do, from whichever CPUs.
        if self.emulated && !self.takes_turns && ROUNDS.fetch_add(1, Ordering::Relaxed) % PATIENCE == PATIENCE - 1 {
            thread::sleep(NAP);
        }
    }

    /// Where instructions of all CPUs are counted together, those of one that waits for long would count as well: so it
    /// halts.
    fn wait_until(&self, is_over: impl Fn() -> bool) {
        let mut rounds = 0;
        while !is_over() {
            if self.takes_turns && rounds == TURNS_AWAKE {
                return WAITING.wait_until(&is_over);
            }
            self.relax();
            rounds += 1;
        }
    }

    fn wake_waiting(&self) {
        if self.takes_turns {
            WAITING.wake_all();
        }
    }

    fn takes_turns(&self) -> bool {
        self.takes_turns
    }

    fn shorten_turns(&self) {
        turns::shorten();
    }

    fn lengthen_turns(&self) {
        turns::lengthen();
    }

    fn memory(&self) -> u64 {
        self.memory
    }

    fn has_interrupts(&self) -> bool {
        true
    }

    /// Says so in a record, where the host asks for one (`alive=`, in seconds), when that long there was none.
    fn is_at(&self, case: Case, sample: usize, samples: usize) {
        let now = time::uptime().as_secs();
        // Relaxed: CPU 0 of a case alone asks, and whoever writes a result.
        if self.alive.is_some_and(|alive| now >= LAST_SIGN.load(Ordering::Relaxed) + alive) {
            sign_of_life();
            let doing = alloc::format!("{case}: sample {sample} of {samples}");
            emit(&Record::Alive(Alive { doing }));
        }
    }

    fn interrupt(&self, work: &mut dyn FnMut()) {
        let mut work = Work(work);
        let slot = &WORK[cpus::current().index()];
        slot.store((&raw mut work).cast(), Ordering::Relaxed);
        interrupts::raise(VECTOR);
        // Acquire: pairs with the Release in `do_work`. The handler runs on this CPU, before or while this loop does.
        while !slot.load(Ordering::Acquire).is_null() {
            core::hint::spin_loop();
        }
    }

    fn on_cpus<T, F>(&self, cpus: usize, body: F) -> Vec<T>
    where
        T: Send + 'static,
        F: Fn(usize) -> T + Send + Sync + 'static,
    {
        run_threads(cpus, cpu, body)
    }
}

/// Runs `body` in so many threads on those CPUs. Takes no memory once all run.
fn run_threads<T, F>(threads: usize, cpu: impl Fn(usize) -> CpuId, body: F) -> Vec<T>
where
    T: Send + 'static,
    F: Fn(usize) -> T + Send + Sync + 'static,
{
    let mut results = Vec::with_capacity(threads);
    let body = Arc::new(body);
    let start = |index| {
        let body = Arc::clone(&body);
        thread::spawn_with_stack(cpu(index), "workload", STACK_BYTES, move || body(index))
            .unwrap_or_else(|error| panic!("a workload cannot start: {error}"))
    };
    let threads: Vec<_> = (0..threads).map(start).collect();
    results.extend(threads.into_iter().map(thread::JoinHandle::join));
    results
}

impl Threads for Machine {
    fn on_threads<T, F>(&self, threads: usize, body: F) -> Vec<T>
    where
        T: Send + 'static,
        F: Fn(usize) -> T + Send + Sync + 'static,
    {
        let cpus = self.cpu_count();
        run_threads(threads, |thread| cpu(thread % cpus), body)
    }

    fn yield_now(&self) {
        thread::yield_now();
    }
}

/// What a handler is to do.
struct Work<'a>(&'a mut dyn FnMut());

const VECTOR: u8 = 0x40;

/// What each CPU's handler is to do next; null when that is done.
static WORK: [AtomicPtr<Work<'static>>; MAX_CPUS] = [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS];

fn do_work(_: &mut TrapFrame) {
    let slot = &WORK[cpus::current().index()];
    // SAFETY: a thread of this CPU put it there, and neither touches it nor goes on before the slot is null.
    if let Some(work) = unsafe { slot.load(Ordering::Relaxed).as_mut() } {
        (work.0)();
    }
    slot.store(ptr::null_mut(), Ordering::Release);
}
