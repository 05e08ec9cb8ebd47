//! [`Service`]: the memory service as a whole: how it is started, and the state all layers share.
//!
//! Users: the host, which keeps one in a static, starts it once and gives each CPU its sets; everybody else through the
//! methods the layers add to it.
//!
//! # Theory
//!
//! Before [`Service::start`] every CPU's set is [`Set::detached`] and no node has memory: all calls fail cleanly. The
//! start runs on one CPU before any other uses the service. Sets are added by [`Service::new_set`] and never go; the
//! list of them is a stack pushed to with one compare-and-swap whose `Release` pairs with the `Acquire` loads of its
//! readers.

use core::fmt;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, Ordering::Relaxed};

use quarry_topology::{CpuId, MAX_CPUS, NodeId, PhysicalRange, Topology};

use crate::capacity::Capacities;
use crate::events::{Event, Events};
use crate::failure::Reports;
use crate::fault::Injectors;
use crate::frame::{FRAME_BYTES, Frames, Kind, Pfn};
use crate::free_area::Demand;
use crate::gfp::{Gfp, Impossible};
use crate::growth::{Growth, for_each_zone};
use crate::lock::Lock;
use crate::machine::Machine;
use crate::malloc_type::MallocTypes;
use crate::mempool::PoolQueues;
use crate::mobility::Pageblocks;
use crate::node::{Node, Nodes};
use crate::owner::Owners;
use crate::reclaim::{Balancers, LastCall};
use crate::registry::Registry;
use crate::set::Set;
use crate::shrinker::Shrinkers;
use crate::task::Task;
use crate::vm::VmState;
use crate::vmalloc::Window;
use crate::waiters::Waiters;
use crate::zone::{Watermarks, Zone, ZoneKind};

/// A range of free RAM on one node, given to the service at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeRange {
    /// Where; what is not a whole frame at its ends is not used.
    pub range: PhysicalRange,
    /// Whose.
    pub node: NodeId,
}

/// Why the service could not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// No node has enough free memory to hold its own state.
    NoMemory,
    /// More separate free ranges than the service can note.
    TooManyRanges,
    /// It runs already.
    AlreadyStarted,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoMemory => "no node has enough free memory for the memory service: give the machine more",
            Self::TooManyRanges => "the free memory is in more pieces than the memory service can note",
            Self::AlreadyStarted => "the memory service runs already",
        })
    }
}

impl core::error::Error for StartError {}

/// The memory service of one machine.
pub struct Service<M: Machine> {
    machine: M,
    secret: AtomicU64,
    nodes: Nodes,
    cpu_count: AtomicU32,
    cpu_nodes: [AtomicU8; MAX_CPUS],
    growth: Lock<Growth>,
    registry: Registry,
    sets: AtomicPtr<Set>,
    capacities: Capacities,
    window: Lock<Window>,
    /// Owners of movable pages.
    owners: Lock<Owners>,
    /// Frames that hold headers and page tables of the mapping window.
    mapping_frames: AtomicU64,
    /// Frames of large kmalloc allocations and of contiguous runs.
    large_frames: AtomicU64,
    /// Frames that hold sets.
    set_frames: AtomicU64,
    /// Frames that hold nodes' state and the table of pageblocks.
    node_frames: AtomicU64,
    /// Net frames and bytes (see [`Set`]) of calls made on CPUs that had no set.
    detached_frames: AtomicUsize,
    detached_bytes: AtomicUsize,
    reports: Reports,
    events: Events,
    pool_queues: PoolQueues,
    waiters: Waiters,
    shrinkers: Shrinkers,
    balancers: Balancers,
    last_call: LastCall,
    /// Impossible combinations of flags that were reported.
    reported_flags: AtomicU32,
    injectors: Injectors,
    #[cfg(feature = "trace")]
    tracer: crate::trace::Tracer,
    vm: VmState<M>,
    malloc_types: MallocTypes,
    /// Contiguous runs that were put together, or tried to.
    run_attempts: AtomicU32,
}

impl<M: Machine> Service<M> {
    /// A service that has no memory yet.
    pub const fn new(machine: M) -> Self {
        Self {
            machine,
            secret: AtomicU64::new(0),
            nodes: Nodes::new(),
            cpu_count: AtomicU32::new(0),
            cpu_nodes: [const { AtomicU8::new(0) }; MAX_CPUS],
            growth: Lock::new(Growth::new()),
            registry: Registry::new(),
            sets: AtomicPtr::new(ptr::null_mut()),
            capacities: Capacities::new(),
            window: Lock::new(Window::new()),
            owners: Owners::new(),
            mapping_frames: AtomicU64::new(0),
            large_frames: AtomicU64::new(0),
            set_frames: AtomicU64::new(0),
            node_frames: AtomicU64::new(0),
            detached_frames: AtomicUsize::new(0),
            detached_bytes: AtomicUsize::new(0),
            reports: Reports::new(),
            events: Events::new(),
            pool_queues: PoolQueues::new(),
            waiters: Waiters::new(),
            shrinkers: Shrinkers::new(),
            balancers: Balancers::new(),
            last_call: LastCall::new(),
            reported_flags: AtomicU32::new(0),
            injectors: Injectors::new(),
            #[cfg(feature = "trace")]
            tracer: crate::trace::Tracer::new(),
            vm: VmState::new(),
            malloc_types: MallocTypes::new(),
            run_attempts: AtomicU32::new(0),
        }
    }

    /// Takes over every free frame of the machine.
    ///
    /// `free` are the ranges nobody uses, each wholly on its node; RAM of the topology outside them counts as reserved.
    /// No frame table is filled yet: that happens section by section on first use.
    ///
    /// # Errors
    ///
    /// [`StartError`]; the service then has no memory.
    ///
    /// # Safety
    ///
    /// The ranges are RAM, reachable in the direct map, and used by nobody; no other CPU calls the service until this
    /// has returned.
    pub unsafe fn start(
        &self,
        topology: &Topology,
        free: impl IntoIterator<Item = FreeRange>,
    ) -> Result<(), StartError> {
        if self.nodes.count() != 0 {
            return Err(StartError::AlreadyStarted);
        }
        // The lower 16 bits belong to the slabs' free lists; 0 would make every zeroed object look free.
        self.secret.store((self.machine.random() | 1 << 63) & !0xffff, Relaxed);
        let mut growth = self.growth.lock(&self.machine);
        for piece in free {
            let start = Pfn::containing(piece.range.start.next_multiple_of(FRAME_BYTES as u64)).max(Pfn(1));
            let end = Pfn::containing(piece.range.end).min(Pfn(self.machine.frame_limit()));
            let mut room = true;
            for_each_zone(start, end.max(start), |kind, start, end| {
                room &= growth.add(crate::frame::ZoneId::new(piece.node, kind), start, end);
            });
            if !room {
                return Err(StartError::TooManyRanges);
            }
        }
        let frames = size_of::<Node>().div_ceil(FRAME_BYTES) as u32;
        let mut carved = [None; quarry_topology::MAX_NODES];
        for node in topology.nodes() {
            carved[node.index()] = growth.carve(node, frames);
        }
        let has_memory = |node: NodeId| carved[node.index()].is_some();
        if !topology.nodes().any(has_memory) {
            return Err(StartError::NoMemory);
        }
        let Some((table, table_frames, pageblocks)) =
            self.carve_pageblocks(topology.nodes().filter(|&node| has_memory(node)), &mut growth)
        else {
            return Err(StartError::NoMemory);
        };
        growth.for_each_shared_pageblock(|frame| pageblocks.mark_shared(frame));
        for (cell, cpu) in self.cpu_nodes.iter().zip(topology.cpus()) {
            cell.store(cpu.node.0, Relaxed);
        }
        self.cpu_count.store(topology.cpus().len() as u32, Relaxed);
        self.nodes.set_count(topology.node_count());
        for node in topology.nodes() {
            let Some(first) = carved[node.index()] else { continue };
            let place = self.page_address(first).cast::<Node>();
            // SAFETY: the frames were carved out of free RAM just now, are enough for a `Node`, and page-aligned.
            unsafe { place.write(Node::new(node, pageblocks)) };
            // SAFETY: initialised above, and the frames are never given back.
            unsafe { self.nodes.install(node, place) };
            self.node_frames.fetch_add(u64::from(frames), Relaxed);
            let highest = ZoneKind::of(first);
            self.zone_of(node, highest).managed.fetch_add(frames, Relaxed);
        }
        self.node_frames.fetch_add(u64::from(table_frames), Relaxed);
        let (first, node) = table;
        self.zone_of(node, ZoneKind::of(first)).managed.fetch_add(table_frames, Relaxed);
        self.nodes.set_fallback(topology, has_memory);
        self.count_frames(topology, &growth);
        drop(growth);
        Ok(())
    }

    /// Makes the set of a CPU for threads, or (`interrupt`) for its handlers, in memory of the CPU's node. The host
    /// makes it active. `None` when there is no memory for it. May be called in parallel; for threads not in a handler.
    pub fn new_set(&self, cpu: CpuId, node: NodeId, interrupt: bool) -> Option<&'static mut Set> {
        // A handler does without rather than wait, or wake others for it.
        let gfp = if interrupt { Gfp::NOWARN } else { Gfp::KERNEL | Gfp::NOWARN };
        let first = self.alloc_pages_exact_node(node, size_of::<Set>(), gfp)?;
        let frames = size_of::<Set>().div_ceil(FRAME_BYTES) as u32;
        self.claim_frames(frames);
        self.set_frames.fetch_add(u64::from(frames), Relaxed);
        let pointer = self.page_address(first).cast::<Set>();
        // SAFETY: the frames are this caller's alone, enough for a `Set`, and page-aligned. All-zero bytes are a valid
        // `Set`.
        unsafe { pointer.write_bytes(0, 1) };
        // SAFETY: initialised above; never freed.
        let set = unsafe { &mut *pointer };
        self.equip(set, cpu, node, interrupt);
        // Under the registry's lock, so that whoever holds it (a fork does) knows all sets, and so all their locks.
        let registry = self.registry.lock(&self.machine);
        let mut head = self.sets.load(Relaxed);
        loop {
            set.next.store(head, Relaxed);
            // Release: pairs with the Acquire load in `sets`, so a reader of the list sees the set initialised.
            match self.sets.compare_exchange_weak(head, set, Ordering::Release, Relaxed) {
                Ok(_) => break,
                Err(current) => head = current,
            }
        }
        drop(registry);
        // Whoever closed all caches meanwhile may not have found this one on the list.
        if self.waiters.attention().noticed() {
            set.close();
        }
        Some(set)
    }

    /// How much its caches may hold.
    #[inline(always)]
    pub(crate) fn capacities(&self) -> &Capacities {
        &self.capacities
    }

    /// Gives all that this CPU's active set caches back to the shared layers. Not on any fast path.
    pub fn drain_local(&self) {
        // SAFETY: `Machine::set` is valid and this context's alone until it returns to its scheduler.
        self.drain_set(unsafe { &*self.machine.set() });
    }

    /// The host.
    #[inline(always)]
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// How many CPUs the topology has; 0 before the start.
    pub fn cpu_count(&self) -> usize {
        self.cpu_count.load(Relaxed) as usize
    }

    /// Node of a CPU; node 0 for one that does not exist.
    pub fn cpu_to_node(&self, cpu: CpuId) -> NodeId {
        NodeId(self.cpu_nodes.get(cpu.index()).map_or(0, |node| node.load(Relaxed)))
    }

    #[cfg(feature = "trace")]
    pub(crate) fn tracer(&self) -> &crate::trace::Tracer {
        &self.tracer
    }

    pub(crate) fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    pub(crate) fn shrinkers(&self) -> &Shrinkers {
        &self.shrinkers
    }

    pub(crate) fn balancers(&self) -> &Balancers {
        &self.balancers
    }

    pub(crate) fn last_call(&self) -> &LastCall {
        &self.last_call
    }

    /// The flags as they are followed. An impossible combination is reported, once, with who asked for it.
    #[track_caller]
    pub(crate) fn checked_flags(&self, gfp: Gfp, task: &Task) -> Gfp {
        let impossible = match gfp.impossible() {
            // Nothing waits in a handler, nor in a thread that makes memory free.
            None if gfp.contains(Gfp::NOFAIL) && !self.may_persist(gfp, task) => Some(Impossible::NofailThatMayNotWait),
            impossible => impossible,
        };
        let Some(impossible) = impossible else { return gfp };
        if self.reported_flags.fetch_or(impossible.bit(), Relaxed) & impossible.bit() == 0 {
            let caller = core::panic::Location::caller();
            self.machine.warn(format_args!("{gfp} at {caller}: {impossible}"));
        }
        gfp.possible()
    }

    /// How often something happened that `/proc/vmstat` counts.
    pub fn event_count(&self, event: Event) -> u64 {
        self.events.get(event)
    }

    /// What vmstat counts.
    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    pub(crate) fn injectors(&self) -> &Injectors {
        &self.injectors
    }

    pub(crate) fn vm(&self) -> &VmState<M> {
        &self.vm
    }

    pub(crate) fn pool_queues(&self) -> &PoolQueues {
        &self.pool_queues
    }

    pub(crate) fn reports(&self) -> &Reports {
        &self.reports
    }

    /// As [`Self::drain_local`], for a set whose CPU the host knows to touch nothing of it meanwhile.
    ///
    /// # Safety
    ///
    /// `set` came from [`Self::new_set`], and neither its CPU nor anybody else uses it until this returns.
    pub unsafe fn drain_set_of(&self, set: *mut Set) {
        // SAFETY: sets are never freed; the caller vouches for the rest.
        self.drain_set(unsafe { &*set });
    }

    #[inline]
    pub(crate) fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    pub(crate) fn secret(&self) -> u64 {
        self.secret.load(Relaxed)
    }

    /// The active set, once the host had the chance to give this CPU one.
    pub(crate) fn attached_set(&self) -> *mut Set {
        let set = self.machine.set();
        // SAFETY: `Machine::set` is valid.
        if unsafe { (*set).attached } { set } else { M::attach(self) }
    }

    /// All sets ever made.
    pub(crate) fn sets(&self) -> impl Iterator<Item = &Set> {
        // Acquire: pairs with the Release in `new_set`.
        let mut next = self.sets.load(Ordering::Acquire);
        core::iter::from_fn(move || {
            // SAFETY: sets on the list are initialised and never freed.
            let set = unsafe { next.as_ref() }?;
            next = set.next.load(Relaxed);
            Some(set)
        })
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn large_frames(&self) -> &AtomicU64 {
        &self.large_frames
    }

    pub(crate) fn type_table(&self) -> &MallocTypes {
        &self.malloc_types
    }

    /// A number that no other attempt to put a run together has, until they have all been used.
    pub(crate) fn next_run_attempt(&self) -> u32 {
        self.run_attempts.fetch_add(1, Relaxed)
    }

    pub(crate) fn growth(&self) -> &Lock<Growth> {
        &self.growth
    }

    pub(crate) fn window(&self) -> &Lock<Window> {
        &self.window
    }

    pub(crate) fn owners(&self) -> &Lock<Owners> {
        &self.owners
    }

    /// The zone of a frame the service manages.
    pub(crate) fn zone_of_frame(&self, frame: Pfn) -> &Zone {
        let zone = Frames::of(&self.machine).state(frame).zone();
        self.nodes.zone(zone).expect("a managed frame is of a zone that exists")
    }

    pub(crate) fn mapping_frames(&self) -> u64 {
        self.mapping_frames.load(Relaxed)
    }

    /// Notes that frames became part of the mapping window's own: headers, page tables.
    pub(crate) fn note_mapping_frames(&self, frames: u64) {
        self.mapping_frames.fetch_add(frames, Relaxed);
    }

    pub(crate) fn set_frames(&self) -> u64 {
        self.set_frames.load(Relaxed)
    }

    pub(crate) fn node_frames(&self) -> u64 {
        self.node_frames.load(Relaxed)
    }

    /// Whether the frame is one the service manages and has looked at.
    #[inline]
    pub(crate) fn manages(&self, frame: Pfn) -> bool {
        if frame.0 >= self.machine.frame_limit() {
            return false;
        }
        Frames::of(&self.machine).state(frame).kind() != Kind::Absent || self.manages_after_refresh(frame)
    }

    #[cold]
    fn manages_after_refresh(&self, frame: Pfn) -> bool {
        self.machine.refresh(self.machine.tables().states.wrapping_add(frame.index()).addr());
        Frames::of(&self.machine).state(frame).kind() != Kind::Absent
    }

    /// Fills the next section of a zone that has no block for this demand; `false` when it has nothing left to fill.
    #[cold]
    pub(crate) fn grow(&self, zone: &Zone, demand: Demand) -> bool {
        if zone.deferred.load(Relaxed) == 0 {
            return false;
        }
        let mut growth = self.growth.lock(&self.machine);
        // Another CPU may have grown it while this one waited for the lock.
        zone.can_serve(&self.machine, demand) || growth.grow(&self.machine, zone)
    }

    /// Every lock of the service, in lock order.
    #[cfg(feature = "hosted")]
    pub(crate) fn for_each_lock(&self, mut each: impl FnMut(&crate::raw_lock::RawLock)) {
        let nodes = || self.nodes.with_memory().map(|(_, node)| node);
        self.vm.for_each_lock(&self.nodes, &mut each);
        each(self.registry.raw());
        each(self.shrinkers.raw());
        each(self.waiters.raw());
        self.sets().for_each(|set| each(set.stacks.raw()));
        for id in self.cache_ids() {
            self.depots(id).for_each(|(_, depot)| each(depot.raw()));
        }
        nodes().for_each(|node| each(node.stack_chunks.raw()));
        each(self.window.raw());
        each(self.owners.raw());
        each(self.growth.raw());
        nodes().for_each(|node| each(node.zeroed.raw()));
        nodes().flat_map(|node| &node.zones).for_each(|zone| each(zone.raw()));
        self.pool_queues.for_each_lock(&mut each);
        self.injectors.for_each_lock(&mut each);
    }

    /// Notes, off the fast path, that frames went to (or, negated, came from) a caller of the page layer or a list.
    pub(crate) fn note_frames(&self, set: &Set, frames: usize) {
        if set.attached {
            set.add_frames(frames);
        } else {
            self.detached_frames.fetch_add(frames, Relaxed);
        }
    }

    /// Notes, off the fast path, that objects of that many bytes came into a set or (negated) left it.
    pub(crate) fn note_bytes(&self, set: &Set, bytes: usize) {
        if set.attached {
            set.add_net(bytes);
        } else {
            self.detached_bytes.fetch_add(bytes, Relaxed);
        }
    }

    /// Net frames and bytes of calls made on CPUs that had no set.
    pub(crate) fn detached_net(&self) -> (usize, usize) {
        (self.detached_frames.load(Relaxed), self.detached_bytes.load(Relaxed))
    }

    /// Makes the table of pageblocks in memory of the first of these nodes that has room; also returns where that is. (A
    /// node too small for its own state may have room for the table, but no zone that could count it.)
    fn carve_pageblocks(
        &self,
        mut nodes: impl Iterator<Item = NodeId>,
        growth: &mut Growth,
    ) -> Option<((Pfn, NodeId), u32, Pageblocks)> {
        let pageblocks = Pageblocks::needed(growth.end());
        let words = pageblocks.div_ceil(64);
        let bytes = words * size_of::<AtomicU64>() + pageblocks;
        let frames = bytes.div_ceil(FRAME_BYTES) as u32;
        let (first, node) = nodes.find_map(|node| Some((growth.carve(node, frames)?, node)))?;
        let table = self.page_address(first);
        // SAFETY: the frames were carved out of free RAM just now, and hold that many bytes.
        unsafe { table.write_bytes(0, bytes) };
        // SAFETY: initialised above, for zero is a value of an `AtomicU64` and of an `AtomicU8`; a page is aligned for
        // both, and the frames are never given back. The words come first, the bytes behind them.
        let (words, bytes) = unsafe {
            (
                core::slice::from_raw_parts(table.cast::<AtomicU64>(), words),
                core::slice::from_raw_parts(table.cast::<AtomicU64>().add(words).cast::<AtomicU8>(), pageblocks),
            )
        };
        Some(((first, node), frames, Pageblocks::new(bytes, words)))
    }

    fn zone_of(&self, node: NodeId, kind: ZoneKind) -> &Zone {
        self.nodes.get(node).expect("only asked for nodes with memory").zone(kind)
    }

    fn count_frames(&self, topology: &Topology, growth: &Growth) {
        for memory in topology.memory() {
            // RAM of a node too small to hold its own state is nobody's; it counts where it is used next.
            let Some(node) = self.nodes.get(memory.node) else { continue };
            let (start, end) = (Pfn::containing(memory.range.start), Pfn::containing(memory.range.end));
            for_each_zone(start, end, |kind, start, end| {
                let zone = node.zone(kind);
                zone.present.fetch_add(end.0 - start.0, Relaxed);
                zone.start.fetch_min(start.0, Relaxed);
                zone.end.fetch_max(end.0, Relaxed);
            });
        }
        let mut total = 0;
        for (_, node) in self.nodes.with_memory() {
            for zone in &node.zones {
                let deferred = growth.remaining(zone.id());
                zone.deferred.store(deferred, Relaxed);
                zone.managed.fetch_add(deferred, Relaxed);
                total += u64::from(deferred);
            }
        }
        let bytes = total * FRAME_BYTES as u64;
        self.capacities.set(bytes, topology.cpus().len(), self.nodes.with_memory().count());
        let reserve = reserve_frames(total);
        for (_, node) in self.nodes.with_memory() {
            for zone in &node.zones {
                let share = u64::from(zone.deferred.load(Relaxed)) * reserve / total.max(1);
                let min = share as u32;
                zone.set_watermarks(Watermarks { min, low: min + min / 4, high: min + min / 2 });
            }
            // Each zone spares a share of the zones above it for requests that cannot go there.
            for (index, zone) in node.zones.iter().enumerate() {
                let mut above = 0;
                for (kind, higher) in ZoneKind::ALL.into_iter().zip(&node.zones).skip(index + 1) {
                    above += higher.managed.load(Relaxed);
                    zone.set_lowmem_reserve(kind, above / LOWMEM_RESERVE_RATIO);
                }
            }
        }
    }
}

/// A zone spares, of itself, 1 frame for so many in the zones above it. Linux's `lowmem_reserve_ratio`.
const LOWMEM_RESERVE_RATIO: u32 = 256;

/// Frames kept for emergencies on a machine of that many: 4 times the root of its KiB, in KiB, at least 128 KiB and at
/// most 256 MiB. Linux's `min_free_kbytes`.
fn reserve_frames(frames: u64) -> u64 {
    let kib = frames * (FRAME_BYTES as u64 / 1024);
    (kib * 16).isqrt().clamp(128, 262_144) / (FRAME_BYTES as u64 / 1024)
}
