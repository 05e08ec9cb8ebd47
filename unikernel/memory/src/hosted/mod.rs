//! The service on threads of an ordinary Linux process: [`Hosted`], and [`ProcessHeap`] for the whole of it.
//!
//! Users: the tests and benchmarks of every rule of the service, on any simulated topology; and programs that want it
//! as their allocator:
//!
//! ```no_run
//! use quarry_memory::hosted::ProcessHeap;
//!
//! #[global_allocator]
//! static ALLOCATOR: ProcessHeap = ProcessHeap;
//!
//! fn main() {
//!     println!("{:?}", vec![1, 2, 3]);
//! }
//! ```
//!
//! Each thread is one simulated CPU from its first call on. Many instances may live in one process; each has simulated
//! RAM of its own, an address range reserved from the kernel and paid for only where it is touched.
//!
//! # Theory
//!
//! An instance gets a *slot*, an index of a per-thread array of set pointers, when it starts; before that its slot is
//! 0, whose pointer is always the detached set. So the fast path finds its set with two loads and no branch, and a call
//! before the start, or a thread's first, takes the slow path because its set is empty. There [`Machine::attach`]
//! starts the instance if need be and gives the thread a set: a recycled one, else a new one.
//!
//! The slot of the [`ProcessHeap`]'s instance is a constant instead, so one load finds its set. Nobody else ever has
//! that slot, and its pointer is the detached set's until that instance has started.
//!
//! When a thread ends, a `pthread` key's destructor (they run after all of Rust's and C++'s thread locals are gone)
//! puts its sets back into the pools of their instances, with what they cache. Should something still free later in the
//! thread's end, it finds the detached set, and works on the depots directly.
//!
//! A fork takes every lock of every instance first, so the child finds consistent state; the sets of threads that do
//! not exist in the child are put into the pool there.
//!
//! Nothing here allocates from an allocator: memory comes from `mmap`, state lives in statics, sets and thread locals.
//! Threads and fork handlers hold on to an instance, so it must be a static (or leaked): all methods want `&'static
//! self`.

mod arena;
mod fork;
mod global;
mod huge;
mod instances;
mod mapping;
mod process;
mod tasks;
mod threads;

use core::fmt;
use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, Ordering, Ordering::Relaxed};
use core::time::Duration;
use std::sync::OnceLock;

use quarry_topology::{CpuId, NodeId, PhysicalRange, Topology};

use crate::frame::{FRAME_SHIFT, Order, Pfn};
use crate::gfp::Gfp;
use crate::machine::{FrameTables, Machine, OutOfFrames};
use crate::service::{FreeRange, Service};
use crate::set::Set;
use crate::task::Task;

use arena::Arena;
use mapping::Mapping;

pub use process::{ProcessHeap, ProcessMachine};

/// The memory service in an ordinary process; see the module head.
///
/// `PROCESS` is true of the [`ProcessHeap`]'s one instance, and only of it.
pub struct Hosted<const PROCESS: bool = false> {
    service: Service<HostedMachine<PROCESS>>,
}

/// The process as a machine: threads are CPUs, interrupts do not exist, reserved addresses are RAM.
pub struct HostedMachine<const PROCESS: bool = false> {
    topology: Topology,
    /// Index of this instance in every thread's array of sets; 0 before the start. Not used where `PROCESS`.
    slot: AtomicU32,
    state: AtomicU8,
    /// Address of simulated physical address 0; [`arena::NOWHERE`] while there is none.
    base: AtomicUsize,
    /// Bytes of simulated physical addresses; 0 while there are none, so that no frame exists.
    bytes: AtomicUsize,
    mapping_start: AtomicUsize,
    mapping_frames: AtomicPtr<AtomicU32>,
    cpus_given: AtomicU32,
    /// Threads that have a set.
    live: AtomicU32,
    /// Those of them that sleep until they are woken, however long that takes.
    asleep: AtomicU32,
    pool: threads::Pool,
    /// Who hears what else would go to standard error.
    listener: OnceLock<&'static WarningListener>,
}

/// What [`Hosted::on_warning`] takes: called with each line, by any thread.
pub type WarningListener = dyn Fn(fmt::Arguments<'_>) + Send + Sync;

/// The machine of [`Hosted::new`]. Each thread keeps what a CPU may, which is a part of its share of the memory: with two
/// gibibytes each some thousand objects.
const DEFAULT_TOPOLOGY: Topology = match Topology::builder().node(64 << 30, 32).build() {
    Ok(topology) => topology,
    Err(_) => panic!("one node with memory and CPUs is a machine"),
};

const UNSTARTED: u8 = 0;
const READY: u8 = 1;
const ENDED: u8 = 2;

/// Most instances that live at once in a process, the [`ProcessHeap`] not counted.
pub const MAX_INSTANCES: usize = 62;

/// Why an instance could not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostedError {
    /// The kernel refused the address range, or it would be more than 4 TiB.
    NoAddressSpace,
    /// There are [`MAX_INSTANCES`] already.
    TooManyInstances,
    /// An earlier start failed, or the instance was retired.
    Ended,
    /// The service refused; see [`crate::StartError`].
    Start(crate::StartError),
}

impl fmt::Display for HostedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddressSpace => f.write_str(
                "the kernel refused the address space for the simulated RAM: raise `ulimit -v`, or simulate less (4 \
                 TiB at most)",
            ),
            Self::TooManyInstances => write!(f, "{MAX_INSTANCES} hosted memory services live already: drop one first"),
            Self::Ended => f.write_str("this hosted memory service could not start before, or was retired"),
            Self::Start(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for HostedError {}

impl Hosted {
    /// A service on one node with 64 GiB of simulated RAM, paid for only where touched. Starts with its first
    /// allocation.
    pub const fn new() -> Self {
        Self::with_topology(DEFAULT_TOPOLOGY)
    }

    /// A service on a machine of that shape. Starts with its first allocation.
    pub const fn with_topology(topology: Topology) -> Self {
        Self::on(topology)
    }

    /// A started service on a machine of that shape that lives as long as the process: for tests and tools, which make
    /// many.
    ///
    /// # Errors
    ///
    /// [`HostedError`].
    pub fn leak(topology: Topology) -> Result<&'static Self, HostedError> {
        let hosted: &'static Self = std::boxed::Box::leak(std::boxed::Box::new(Self::with_topology(topology)));
        hosted.start()?;
        Ok(hosted)
    }
}

impl<const PROCESS: bool> Hosted<PROCESS> {
    const fn on(topology: Topology) -> Self {
        Self {
            service: Service::new(HostedMachine {
                topology,
                slot: AtomicU32::new(0),
                state: AtomicU8::new(UNSTARTED),
                base: AtomicUsize::new(arena::NOWHERE),
                bytes: AtomicUsize::new(0),
                mapping_start: AtomicUsize::new(0),
                mapping_frames: AtomicPtr::new(ptr::null_mut()),
                cpus_given: AtomicU32::new(0),
                live: AtomicU32::new(0),
                asleep: AtomicU32::new(0),
                pool: threads::Pool::new(),
                listener: OnceLock::new(),
            }),
        }
    }

    /// Starts the service now, rather than at its first allocation, and tells whether it could.
    ///
    /// # Errors
    ///
    /// [`HostedError`]; allocations of this instance then fail.
    pub fn start(&'static self) -> Result<(), HostedError> {
        self.service.machine().start(&self.service)
    }

    /// The service: the kmalloc family, pages, statistics. Its first call starts it.
    #[inline(always)]
    pub fn service(&'static self) -> &'static Service<HostedMachine<PROCESS>> {
        &self.service
    }

    /// Allocates 2^`order` contiguous frames; `None` when there are none.
    #[inline]
    pub fn alloc_pages(&'static self, order: Order) -> Option<Pfn> {
        self.service.alloc_pages(Gfp::KERNEL, order)
    }

    /// Frees what [`Self::alloc_pages`] gave.
    ///
    /// # Panics
    ///
    /// As [`Service::__free_pages`].
    #[inline]
    pub fn free_pages(&'static self, block: Pfn, order: Order) {
        self.service.__free_pages(block, order);
    }

    /// Has `listener` told what the service has to say to people (an allocation failed, a caller asked for the
    /// impossible), in place of standard error. It must not allocate from this instance. `false` when there is a listener
    /// already.
    pub fn on_warning(&self, listener: &'static WarningListener) -> bool {
        self.service.machine().listener.set(listener).is_ok()
    }

    /// The simulated machine.
    pub fn topology(&self) -> &Topology {
        &self.service.machine().topology
    }

    /// Makes the calling thread the given CPU from now on, with a set of its own; what its former set cached stays
    /// there for whoever is that CPU next. `false` when there is no such CPU or no memory for its set.
    pub fn run_on(&'static self, cpu: CpuId) -> bool {
        self.start().is_ok() && self.service.machine().run_on(&self.service, cpu)
    }

    /// Starts a balancing thread for each node that has memory. They live as long as the process, so the instance must
    /// not be [retired](Self::retire).
    ///
    /// # Panics
    ///
    /// When the process cannot have more threads.
    pub fn start_balancers(&'static self) {
        for node in self.topology().nodes().filter(|&node| self.topology().has_memory(node)) {
            let cpu = self.topology().cpus_of(node).next().unwrap_or(CpuId(0));
            let balance = move || {
                self.run_on(cpu);
                loop {
                    self.service.wait_for_imbalance(node);
                    self.service.balance(node);
                }
            };
            let name = std::format!("kswapd{}", node.0);
            let thread = std::thread::Builder::new().name(name).spawn(balance);
            thread.unwrap_or_else(|error| panic!("no balancing thread for {node}: {error}"));
        }
    }

    /// Ends the calling thread's time as a CPU of this instance, as its exit would.
    pub fn leave(&'static self) {
        threads::leave(self.service.machine());
    }

    /// Ends the instance and gives its simulated RAM back to the kernel. (What a global allocator handed out beyond 4
    /// MiB is not part of it.)
    ///
    /// # Safety
    ///
    /// Nobody uses the instance, or anything it allocated, any more.
    pub unsafe fn retire(&'static self) {
        let machine = self.service.machine();
        fork::between_forks(|| {
            threads::forget(machine.slot());
            instances::unregister(machine.slot());
            arena::discard(&self.service);
            machine.base.store(arena::NOWHERE, Relaxed);
            machine.bytes.store(0, Relaxed);
            machine.state.store(ENDED, Relaxed);
        });
    }
}

impl Default for Hosted {
    fn default() -> Self {
        Self::new()
    }
}

impl<const PROCESS: bool> HostedMachine<PROCESS> {
    fn start(&self, service: &'static Service<Self>) -> Result<(), HostedError> {
        self.is_started().unwrap_or_else(|| {
            fork::between_forks(|| {
                // Another thread may have started it while this one waited for its turn.
                self.is_started().unwrap_or_else(|| {
                    let result = self.start_once(service);
                    // Release: pairs with the Acquire load in `is_started`.
                    self.state.store(if result.is_ok() { READY } else { ENDED }, Ordering::Release);
                    result
                })
            })
        })
    }

    /// What came of the start; `None` before it.
    fn is_started(&self) -> Option<Result<(), HostedError>> {
        // Acquire: pairs with the Release store in `start`, so READY means that all of the start is visible.
        match self.state.load(Ordering::Acquire) {
            READY => Some(Ok(())),
            ENDED => Some(Err(HostedError::Ended)),
            _ => None,
        }
    }

    fn start_once(&self, service: &'static Service<Self>) -> Result<(), HostedError> {
        let topology = &self.topology;
        let arena = Arena::reserve(topology).ok_or(HostedError::NoAddressSpace)?;
        if PROCESS {
            arena.prefer_huge_pages();
        }
        let mapping = Mapping::reserve().ok_or(HostedError::NoAddressSpace)?;
        self.mapping_start.store(mapping.start, Relaxed);
        self.mapping_frames.store(mapping.frames, Relaxed);
        self.base.store(arena.base, Relaxed);
        let slot = instances::register(service).ok_or(HostedError::TooManyInstances)?;
        self.bytes.store(arena.bytes, Relaxed);
        let free = topology.memory().iter().map(|memory| FreeRange {
            range: PhysicalRange { start: memory.range.start, end: memory.range.end },
            node: memory.node,
        });
        // SAFETY: the ranges lie in the arena just reserved, which nobody else uses; other threads wait for `state`.
        unsafe { service.start(topology, free) }.map_err(HostedError::Start)?;
        self.slot.store(slot as u32, Relaxed);
        Ok(())
    }

    /// The CPU and node of the next thread that asks.
    fn next_cpu(&self) -> (CpuId, NodeId) {
        let cpus = self.topology.cpus();
        let cpu = self.cpus_given.fetch_add(1, Relaxed) as usize % cpus.len().max(1);
        (CpuId(cpu as u16), cpus.get(cpu).map_or(NodeId(0), |cpu| cpu.node))
    }

    fn run_on(&self, service: &'static Service<Self>, cpu: CpuId) -> bool {
        let Some(node) = self.topology.cpus().get(cpu.index()).map(|cpu| cpu.node) else {
            return false;
        };
        threads::leave(self);
        let set = self.pool.take(Some(cpu)).or_else(|| threads::new_set(service, cpu, node));
        set.is_some_and(|set| threads::enter(self, set))
    }

    /// The mapping window; `None` before the start.
    fn mapping(&self) -> Option<Mapping> {
        let start = self.mapping_start.load(Relaxed);
        (start != 0).then(|| Mapping { start, frames: self.mapping_frames.load(Relaxed) })
    }

    #[inline(always)]
    fn slot(&self) -> usize {
        if PROCESS { instances::PROCESS_SLOT } else { self.slot.load(Relaxed) as usize }
    }
}

// SAFETY: a thread's set is its own (threads.rs gives each to one thread at a time); the arena's mappings are never
// removed; they are anonymous memory, readable and writable and zero everywhere, so `back` has nothing to do.
unsafe impl<const PROCESS: bool> Machine for HostedMachine<PROCESS> {
    type InterruptState = ();

    /// The [`ProcessHeap`]'s machine has the default topology.
    const ONE_NODE: bool = PROCESS;

    #[inline(always)]
    fn set(&self) -> *mut Set {
        threads::set(self.slot())
    }

    #[cold]
    fn attach(service: &Service<Self>) -> *mut Set {
        // SAFETY: a service of this machine lives in a `Hosted`, whose methods want it static, or is a global
        // allocator, which is.
        threads::attach(unsafe { &*ptr::from_ref(service) })
    }

    #[inline(always)]
    fn tag(&self, address: usize) -> u32 {
        let base = self.base.load(Relaxed);
        let offset = address.wrapping_sub(base);
        if offset >> arena::SPAN_SHIFT != 0 {
            return 0;
        }
        // SAFETY: the table has an entry for each frame there can be in an arena, in front of its base, and the address
        // was found to lie where those are. (While there is no arena, no address of a process does.)
        u32::from(unsafe { &*arena::tables(base).tags.add(offset >> FRAME_SHIFT) }.load(Relaxed))
    }

    #[inline(always)]
    fn tables(&self) -> FrameTables {
        arena::tables(self.base.load(Relaxed))
    }

    #[inline(always)]
    fn frame_limit(&self) -> u32 {
        (self.bytes.load(Relaxed) >> FRAME_SHIFT) as u32
    }

    #[inline(always)]
    fn readable_states(&self) -> usize {
        1 << (arena::SPAN_SHIFT - FRAME_SHIFT)
    }

    fn back(&self, _page: usize, _frames: &mut dyn FnMut() -> Option<Pfn>) -> Result<(), OutOfFrames> {
        Ok(())
    }

    fn mapping_window(&self) -> Range<usize> {
        self.mapping().map_or(0..0, |mapping| mapping.window())
    }

    fn map(&self, page: usize, frame: Pfn, _frames: &mut dyn FnMut() -> Option<Pfn>) -> Result<(), OutOfFrames> {
        let mapped = self.mapping().is_some_and(|mapping| mapping.map(page, frame));
        if mapped { Ok(()) } else { Err(OutOfFrames) }
    }

    fn translate(&self, page: usize) -> Option<Pfn> {
        self.mapping()?.translate(page)
    }

    fn unmap(&self, page: usize) -> Option<Pfn> {
        self.mapping()?.unmap(page)
    }

    #[inline(always)]
    fn direct_map(&self) -> usize {
        self.base.load(Relaxed)
    }

    #[inline(always)]
    fn disable_interrupts(&self) {}

    #[inline(always)]
    fn restore_interrupts(&self, (): ()) {}

    fn cpu(&self) -> CpuId {
        // SAFETY: a thread's set is valid.
        unsafe { (*self.set()).cpu() }
    }

    fn relax(&self, rounds: u32) {
        // The holder may be a thread that is not running: let it.
        if rounds % 64 == 63 {
            threads::yield_thread();
        } else {
            core::hint::spin_loop();
        }
    }

    fn random(&self) -> u64 {
        arena::random()
    }

    fn task(&self) -> &Task {
        tasks::current()
    }

    fn may_sleep(&self) -> bool {
        // A thread without a set is one that starts or ends the instance, or ends itself.
        // SAFETY: a thread's set is valid.
        unsafe { (*self.set()).is_attached() }
    }

    fn sleep(&self, ready: &mut dyn FnMut() -> bool, limit: Option<Duration>) {
        // With no other thread to wait for, waiting is over when it begins: so tests with one thread take no time.
        let alone = self.live.load(Relaxed) <= 1;
        let asleep = u32::from(limit.is_none());
        self.asleep.fetch_add(asleep, Ordering::SeqCst);
        tasks::sleep(ready, if alone { limit.map(|_| Duration::ZERO) } else { limit });
        self.asleep.fetch_sub(asleep, Ordering::SeqCst);
    }

    fn wake(&self, task: &Task) {
        tasks::wake(task);
    }

    fn drain_others(service: &Service<Self>) {
        service.machine().pool.for_each(|set| {
            // SAFETY: what is in the pool is no thread's, and stays there until this returns.
            unsafe { service.drain_set_of(set) };
        });
    }

    fn runnable_threads(&self) -> Option<usize> {
        // SeqCst: a thread that stops being asleep is counted before whoever woke it can be found asleep.
        Some(self.live.load(Relaxed).saturating_sub(self.asleep.load(Ordering::SeqCst)) as usize)
    }

    fn describe_task(&self, task: &Task, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the thread with the task at {task:p}")
    }

    fn now(&self) -> Duration {
        tasks::now()
    }

    fn warn(&self, message: fmt::Arguments<'_>) {
        match self.listener.get() {
            Some(listener) => listener(message),
            None => arena::write_error_line(message),
        }
    }
}
