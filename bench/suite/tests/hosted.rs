//! The whole suite, the stress and the run at the edge over the memory service, hosted on a simulated machine of two nodes.
//!
//! `QUARRY_STRESS_SECONDS=30` makes the stress last that long instead of a fixed number of steps.

mod support;

use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use quarry_memory::events::Event;
use quarry_memory::hosted::{Hosted, HostedMachine};
use quarry_memory::{CpuId, Gfp, KmemCache, Machine as _, NodeId, Order, ShrinkControl, Shrinker, SlabFlags, Topology};
use quarry_suite::{
    Ballast, Cache, Edge, Effort, Empty, Feature, Limit, NodeMemory, Platform, Pressed, Row, Settings, Stress, Subject,
    Threads, Variant, Way, Workload, edge, occupy, pattern, plan, run, run_cases, stress,
};

const MIB: u64 = 1 << 20;

/// Bytes of a page frame.
const FRAME: u64 = 4096;

/// The simulated machine, whose CPUs are threads; also the allocator on it. And how many caches were to be destroyed
/// with objects in use; and what can be given up of what fills memory.
#[derive(Clone, Copy)]
struct Machine(&'static Hosted, &'static AtomicU64, &'static OnceLock<Cache<Machine>>);

impl Machine {
    fn new() -> Self {
        Self::with_nodes_of(512 * MIB)
    }

    fn with_nodes_of(bytes: u64) -> Self {
        let topology = Topology::builder().node(bytes, 2).node(bytes, 2).build().expect("a machine");
        let hosted = Hosted::leak(topology).expect("there is address space");
        let machine = Self(hosted, Box::leak(Box::default()), Box::leak(Box::default()));
        // CPUs get their sets when they first run, and later there may be no memory for them.
        machine.on_threads(machine.cpu_count(), |_| ());
        machine
    }

    /// A cache that gives its blocks up when memory is short, made when it is first asked for. Its own memory is not
    /// the service's.
    fn cache(self) -> &'static Cache<Self> {
        let mut is_new = false;
        let cache = self.2.get_or_init(|| {
            is_new = true;
            Cache::new(self, 2, 1 << 15)
        });
        if is_new {
            let shrinker = Box::leak(Box::new(Shrinkable(cache)));
            self.0.service().register_shrinker(shrinker).expect("there is room for a shrinker");
        }
        cache
    }

    /// The books balance, and nobody holds anything.
    fn assert_all_returned(self) {
        let service = self.0.service();
        let rows = service.statistics();
        assert!(rows.adds_up(), "{rows:#?}");
        assert_eq!(rows.in_use(), 0, "{rows:#?}");
        service.validate().unwrap_or_else(|broken| panic!("{broken}"));
    }
}

impl Platform for Machine {
    fn cpu_count(&self) -> usize {
        self.0.topology().cpus().len()
    }

    fn local_node(&self, cpu: usize) -> NodeId {
        self.0.topology().cpus()[cpu].node
    }

    fn remote_node(&self, cpu: usize) -> Option<NodeId> {
        Some(NodeId(1 - self.local_node(cpu).0))
    }

    fn ticks(&self) -> u64 {
        support::Threads(1).ticks()
    }

    fn ticks_per_second(&self) -> u64 {
        support::Threads(1).ticks_per_second()
    }

    fn relax(&self) {
        std::thread::yield_now();
    }

    fn memory(&self) -> u64 {
        64 * MIB
    }

    /// There are none here: whoever wants to interrupt does it itself.
    fn has_interrupts(&self) -> bool {
        true
    }

    fn on_cpus<T, F>(&self, cpus: usize, body: F) -> Vec<T>
    where
        T: Send + 'static,
        F: Fn(usize) -> T + Send + Sync + 'static,
    {
        self.on_threads(cpus, body)
    }
}

impl Threads for Machine {
    fn on_threads<T, F>(&self, threads: usize, body: F) -> Vec<T>
    where
        T: Send + 'static,
        F: Fn(usize) -> T + Send + Sync + 'static,
    {
        let (machine, cpus, body) = (*self, self.cpu_count(), Arc::new(body));
        let start = |thread: usize| {
            let body = body.clone();
            std::thread::spawn(move || {
                let cpu = CpuId((thread % cpus) as u16);
                // Under pressure there is no memory for another set, and who had this CPU's may still be about to leave.
                while !machine.0.run_on(cpu) {
                    std::thread::yield_now();
                }
                body(thread)
            })
        };
        let threads: Vec<_> = (0..threads).map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("a worker has no reason to panic")).collect()
    }

    fn yield_now(&self) {
        std::thread::yield_now();
    }
}

/// Memory of the service.
#[repr(transparent)]
struct Memory(NonNull<u8>);

// SAFETY: the token owns its memory; nothing about the service's memory is bound to a thread.
unsafe impl Send for Memory {}

impl Memory {
    fn new(address: *mut u8) -> Option<Self> {
        NonNull::new(address).map(Self)
    }

    fn into_raw(self) -> *mut u8 {
        self.0.as_ptr()
    }

    fn fill(&mut self, length: usize, seed: u64) {
        // SAFETY: the suite asks for no more than it asked the allocator for, and the token is borrowed exclusively.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr().cast::<MaybeUninit<u8>>(), length) };
        pattern::fill(bytes, seed);
    }

    fn bytes(&self, length: usize) -> &[u8] {
        // SAFETY: as for `fill`, and the suite filled the bytes before it looks at them, or the service zeroed them.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), length) }
    }

    fn touch(&mut self, writes: u32) {
        // SAFETY: every block has a byte, and the token is borrowed exclusively.
        pattern::touch(unsafe { self.0.cast::<MaybeUninit<u8>>().as_mut() }, writes);
    }
}

impl Subject for Machine {
    type Block = Memory;
    type Objects = Objects;

    const NAME: &'static str = "hosted";

    const FEATURES: &'static [Feature] = Feature::ALL;

    fn allocate(&self, size: usize) -> Option<Memory> {
        Memory::new(self.0.service().kmalloc(size, Gfp::KERNEL))
    }

    fn free(&self, block: Memory) {
        // SAFETY: the token is used up, so nobody uses the object any more.
        unsafe { self.0.service().kfree(block.into_raw()) }
    }

    fn allocate_inlined<const SIZE: usize>(&self) -> Option<Memory> {
        self.allocate(SIZE)
    }

    fn free_inlined(&self, block: Memory) {
        self.free(block);
    }

    fn allocate_on(&self, size: usize, node: NodeId) -> Option<Memory> {
        Memory::new(self.0.service().kmalloc_node(size, Gfp::KERNEL, node))
    }

    fn allocate_pages(&self, order: u32) -> Option<Memory> {
        Memory::new(self.0.service().get_free_pages(Gfp::KERNEL, Order::new(order)?))
    }

    fn free_pages(&self, block: Memory, order: u32) {
        self.0.service().free_pages(block.into_raw(), Order::new(order).expect("it was allocated with that order"));
    }

    fn allocate_zeroed(&self, size: usize) -> Option<Memory> {
        Memory::new(self.0.service().kzalloc(size, Gfp::KERNEL))
    }

    fn allocate_atomic(&self, size: usize) -> Option<Memory> {
        Memory::new(self.0.service().kmalloc(size, Gfp::ATOMIC))
    }

    fn free_bulk(&self, blocks: &mut [Option<Memory>]) {
        let pointers: Vec<*mut u8> = blocks.iter_mut().filter_map(Option::take).map(Memory::into_raw).collect();
        // SAFETY: the tokens are used up, so nobody uses the objects any more.
        unsafe { self.0.service().kfree_bulk(&pointers) }
    }

    fn objects(&self, size: usize) -> Option<Objects> {
        let flags = SlabFlags::HWCACHE_ALIGN | SlabFlags::NO_MERGE;
        let cache = self.0.service().kmem_cache_create("suite", size, 0, flags, None).ok()?;
        Some(Objects(Arc::new(OwnCache { machine: *self, cache: Some(cache) })))
    }

    fn address(&self, block: &Memory) -> usize {
        block.0.addr().get()
    }

    fn fill(&self, block: &mut Memory, length: usize, seed: u64) {
        block.fill(length, seed);
    }

    fn check(&self, block: &Memory, length: usize, seed: u64) -> bool {
        pattern::check(block.bytes(length), seed)
    }

    fn is_zero(&self, block: &Memory, length: usize) -> bool {
        pattern::is_zero(block.bytes(length))
    }

    fn touch(&self, block: &mut Memory, writes: u32) {
        block.touch(writes);
    }

    fn node_of(&self, block: &Memory) -> Option<NodeId> {
        let service = self.0.service();
        service.virt_to_page(block.0.as_ptr()).and_then(|frame| service.page_to_node(frame))
    }

    fn in_use(&self) -> Option<u64> {
        Some(self.0.service().statistics().in_use())
    }

    fn held(&self) -> Option<u64> {
        let rows = self.0.service().statistics();
        Some(rows.total - rows.free - rows.deferred)
    }

    fn memory(&self) -> Option<u64> {
        Some(self.0.service().statistics().total)
    }

    fn occupy(&self, leave: u64, cached: u64) -> Option<Arc<dyn Ballast>> {
        let mut nodes = [NodeMemory::default(); 2];
        for zone in self.0.service().zones() {
            let memory = &mut nodes[zone.node.index()];
            memory.total += u64::from(zone.managed) * FRAME;
            memory.free += u64::from(zone.free + zone.deferred) * FRAME;
        }
        Some(occupy(*self, &nodes, leave, cached, self.cache()))
    }

    fn fragmentation(&self) -> Option<f64> {
        let (mut free, mut large) = (0, 0);
        for zone in self.0.service().zones() {
            free += u64::from(zone.free + zone.deferred);
            large += u64::from(zone.deferred);
            let of_order = |(order, blocks): (usize, &u32)| u64::from(*blocks) << order;
            large += zone.free_blocks.iter().enumerate().skip(9).map(of_order).sum::<u64>();
        }
        Some(1.0 - large as f64 / free.max(1) as f64)
    }

    fn complaints(&self) -> u64 {
        self.1.load(Ordering::Relaxed)
    }

    fn trim(&self) {
        let service = self.0.service();
        service.drain_local();
        HostedMachine::drain_others(service);
        service.shrink_depots();
        // Pages that depots gave up are on this CPU's lists now.
        service.drain_local();
    }
}

/// A cache of objects of one size.
#[derive(Clone)]
struct Objects(Arc<OwnCache>);

/// Destroys its cache when it goes.
struct OwnCache {
    machine: Machine,
    cache: Option<KmemCache>,
}

impl Drop for OwnCache {
    fn drop(&mut self) {
        let destroyed = self.cache.take().map(|cache| self.machine.0.service().kmem_cache_destroy(cache));
        if let Some(Err(remaining)) = destroyed {
            eprintln!("{remaining}");
            self.machine.1.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Objects {
    fn machine(&self) -> &Machine {
        &self.0.machine
    }

    fn cache(&self) -> &KmemCache {
        self.0.cache.as_ref().expect("it is taken by its drop alone")
    }
}

impl Subject for Objects {
    type Block = Memory;
    type Objects = Empty;

    const NAME: &'static str = Machine::NAME;

    const FEATURES: &'static [Feature] = &[Feature::Bulk];

    fn allocate(&self, _size: usize) -> Option<Memory> {
        Memory::new(self.machine().0.service().kmem_cache_alloc(self.cache(), Gfp::KERNEL))
    }

    fn free(&self, block: Memory) {
        // SAFETY: the token is used up, so nobody uses the object any more.
        unsafe { self.machine().0.service().kmem_cache_free(self.cache(), block.into_raw()) }
    }

    fn allocate_inlined<const SIZE: usize>(&self) -> Option<Memory> {
        self.allocate(SIZE)
    }

    fn free_inlined(&self, block: Memory) {
        self.free(block);
    }

    fn allocate_on(&self, _size: usize, node: NodeId) -> Option<Memory> {
        Memory::new(self.machine().0.service().kmem_cache_alloc_node(self.cache(), Gfp::KERNEL, node))
    }

    fn allocate_pages(&self, _order: u32) -> Option<Memory> {
        None
    }

    fn free_pages(&self, block: Memory, _order: u32) {
        self.free(block);
    }

    fn allocate_bulk(&self, _size: usize, blocks: &mut [Option<Memory>]) -> bool {
        let mut pointers = vec![std::ptr::null_mut(); blocks.len()];
        let count = self.machine().0.service().kmem_cache_alloc_bulk(self.cache(), Gfp::KERNEL, &mut pointers);
        for (place, pointer) in blocks.iter_mut().zip(pointers) {
            *place = Memory::new(pointer);
        }
        count == blocks.len()
    }

    fn free_bulk(&self, blocks: &mut [Option<Memory>]) {
        let pointers: Vec<*mut u8> = blocks.iter_mut().filter_map(Option::take).map(Memory::into_raw).collect();
        // SAFETY: the tokens are used up, so nobody uses the objects any more.
        unsafe { self.machine().0.service().kmem_cache_free_bulk(self.cache(), &pointers) }
    }

    fn alignment(&self, size: usize) -> usize {
        size.next_power_of_two().clamp(8, 64)
    }

    fn address(&self, block: &Memory) -> usize {
        block.0.addr().get()
    }

    fn fill(&self, block: &mut Memory, length: usize, seed: u64) {
        block.fill(length, seed);
    }

    fn check(&self, block: &Memory, length: usize, seed: u64) -> bool {
        pattern::check(block.bytes(length), seed)
    }

    fn is_zero(&self, block: &Memory, length: usize) -> bool {
        pattern::is_zero(block.bytes(length))
    }

    fn touch(&self, block: &mut Memory, writes: u32) {
        block.touch(writes);
    }

    fn in_use(&self) -> Option<u64> {
        self.machine().in_use()
    }

    fn trim(&self) {
        self.machine().trim();
    }

    fn held(&self) -> Option<u64> {
        self.machine().held()
    }
}

#[test]
fn every_workload_runs_without_error() {
    let machine = Machine::new();
    let settings = Settings {
        sizes: vec![8, 4096],
        orders: vec![0, 9],
        cpus: vec![1, 4],
        samples: 2,
        effort: Effort::Microseconds(20),
        checked_bytes: 64 << 10,
        ..Settings::default()
    };
    run(machine, &machine, &settings, &mut |row| {
        assert_eq!(row.errors, 0, "{}", row.case);
        let footprint = row.footprint.expect("the service says what it holds");
        // Where others free meanwhile, what lives and what is held are of different moments.
        assert!(row.case.cpus > 1 || footprint.peak_held >= footprint.peak_live, "{}: {footprint:?}", row.case);
    });
    machine.assert_all_returned();
}

#[test]
fn a_cache_with_objects_in_use_complains_when_it_ends() {
    let machine = Machine::new();
    let objects = machine.objects(64).expect("caches have objects of 64 bytes");
    let object = objects.allocate(64).expect("there is memory");
    drop(objects);
    assert_eq!(machine.complaints(), 1);
    machine.free(object);
}

#[test]
fn the_stress_passes_and_all_memory_returns() {
    let machine = Machine::new();
    let limit = match std::env::var("QUARRY_STRESS_SECONDS") {
        Ok(seconds) => Limit::Seconds(seconds.parse().expect("QUARRY_STRESS_SECONDS is a whole number of seconds")),
        Err(_) => Limit::Operations(50_000),
    };
    let report = stress(machine, machine, Stress { cpus: 4, seed: 1, limit });
    println!("{report:?}");
    assert!(report.passed(), "{report:?}");
    machine.assert_all_returned();
}

fn flags(way: Way) -> Gfp {
    match way {
        Way::Patient => Gfp::KERNEL | Gfp::NOWARN,
        Way::Atomic => Gfp::ATOMIC | Gfp::NOWARN,
        Way::Unfailing => Gfp::KERNEL | Gfp::NOFAIL,
        Way::Optional => Gfp::KERNEL | Gfp::NORETRY | Gfp::NOWARN,
    }
}

impl Pressed for Machine {
    fn allocate_with(&self, way: Way, size: usize) -> Option<Memory> {
        Memory::new(self.0.service().kmalloc(size, flags(way)))
    }

    fn allocate_pages_with(&self, way: Way, order: u32) -> Option<Memory> {
        Memory::new(self.0.service().get_free_pages(flags(way), Order::new(order)?))
    }

    fn allocate_pages_near(&self, order: u32, node: NodeId) -> Option<Memory> {
        let (service, gfp) = (self.0.service(), flags(Way::Optional) | Gfp::THISNODE);
        let block = service.alloc_pages_node(node, gfp, Order::new(order)?)?;
        Memory::new(service.page_address(block))
    }
}

struct Shrinkable(&'static Cache<Machine>);

impl Shrinker for Shrinkable {
    fn count(&self, control: &ShrinkControl) -> usize {
        control.node.map_or(0, |node| self.0.count(node))
    }

    fn scan(&self, control: &ShrinkControl, objects: usize) -> Option<usize> {
        control.node.map(|node| self.0.give_up(node, objects))
    }

    fn is_numa_aware(&self) -> bool {
        true
    }
}

#[test]
fn at_the_edge_of_memory_nobody_is_refused_who_must_not_be() {
    let machine = Machine::with_nodes_of(24 * MIB);
    let service = machine.0.service();
    let rows = service.statistics();
    let task = Edge { cpus: 4, seed: 1, limit: Limit::Operations(20), memory: rows.free + rows.deferred };
    let report = edge(machine, machine, task, machine.cache());
    // Nobody balances here, so somebody had to make memory free: with so few steps that is edge enough.
    let complaints = report.complaints(machine.ticks_per_second(), service.event_count(Event::DirectReclaim));
    assert!(complaints.is_empty(), "{complaints:?}");
    assert!(report.given_up > 0, "the cache was never asked");
    machine.assert_all_returned();
}

/// Rows of that workload on one CPU and on all, over a machine with so little memory that reclaim is soon there.
fn rows_under_pressure(machine: Machine, workload: Workload) -> Vec<Row> {
    let settings = Settings {
        workloads: vec![workload],
        cpus: vec![1, 4],
        samples: 5,
        effort: Effort::Fixed,
        ..Settings::default()
    };
    let mut rows = Vec::new();
    run(machine, &machine, &settings, &mut |row| rows.push(row.clone()));
    for row in &rows {
        assert_eq!(row.errors, 0, "{}", row.case);
    }
    machine.assert_all_returned();
    rows
}

#[test]
fn memory_is_reclaimed_where_nearly_all_of_it_is_used_and_nowhere_else() {
    for (percent, reclaims) in [(50, false), (90, false), (99, true)] {
        let machine = Machine::with_nodes_of(128 * MIB);
        let settings = Settings {
            workloads: vec![Workload::Pressure],
            cpus: vec![4],
            samples: 3,
            effort: Effort::Fixed,
            ..Settings::default()
        };
        let cases = plan(machine, Machine::FEATURES, &settings);
        let case = cases.into_iter().find(|case| case.variant == Some(Variant::Used(percent)));
        let cases = [case.expect("it is planned")];
        run_cases(machine, &machine, &settings, &cases, &mut |row| assert_eq!(row.errors, 0, "{}", row.case));
        let reclaimed = machine.0.service().event_count(Event::DirectReclaim);
        assert_eq!(reclaimed > 0, reclaims, "{percent} %: {reclaimed}");
        machine.assert_all_returned();
    }
}

#[test]
fn ballast_leaves_as_much_of_every_node_as_it_is_to_and_all_of_it_comes_back() {
    let machine = Machine::with_nodes_of(64 * MIB);
    let free = |node| -> u64 {
        let zones = machine.0.service().zones().filter(|zone| zone.node == node);
        zones.map(|zone| u64::from(zone.free + zone.deferred + zone.per_cpu_lists) * FRAME).sum()
    };
    let ballast = machine.occupy(32 * MIB, 4 * MIB).expect("there is memory");
    for node in [NodeId(0), NodeId(1)] {
        assert!(free(node).abs_diff(16 * MIB) < MIB / 2, "{} bytes are free", free(node));
        // By its size, and one node has less of the service's own.
        assert!((machine.cache().count(node) as u64).abs_diff(2 * MIB / FRAME) < 16);
    }
    let cached = || machine.cache().count(NodeId(0)) + machine.cache().count(NodeId(1));
    let cached_before = cached();
    ballast.cache_page();
    assert_eq!(cached(), cached_before, "the oldest goes");
    drop(ballast);
    machine.assert_all_returned();
}

#[test]
fn ageing_memory_is_watched() {
    for row in rows_under_pressure(Machine::with_nodes_of(128 * MIB), Workload::Fragmentation) {
        let points = |name: &str| {
            let series = row.series.iter().find(|series| series.name == name);
            &series.unwrap_or_else(|| panic!("{}: {name} was not watched", row.case)).points
        };
        let operations: Vec<f64> = points("memory held per live byte").iter().map(|point| point.0).collect();
        let per_sample = row.operations as f64 / 5.0;
        let expected: Vec<f64> = (1..=5).map(|sample| f64::from(sample) * per_sample).collect();
        assert_eq!(operations, expected, "{}", row.case);
        assert!(points("memory held per live byte").iter().all(|point| (1.0..3.0).contains(&point.1)), "{row:#?}");
        let unusable = points("free memory not in blocks of 2 MiB");
        assert!(unusable.iter().all(|point| point.1 > 0.0 && point.1 <= 100.0), "{unusable:?}");
        assert!(points("memory live").len() > 1 && points("memory held").len() > 1);
    }
}
