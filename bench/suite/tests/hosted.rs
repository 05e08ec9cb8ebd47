//! The whole suite, the stress and the run at the edge over the memory service, hosted on a simulated machine of two nodes.
//!
//! `QUARRY_STRESS_SECONDS=30` makes the stress last that long instead of a fixed number of steps.

mod support;

use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Arc;

use quarry_memory::events::Event;
use quarry_memory::hosted::Hosted;
use quarry_memory::{CpuId, Gfp, NodeId, Order, ShrinkControl, Shrinker, Topology};
use quarry_suite::{
    Cache, Edge, Effort, Empty, Feature, Limit, Platform, Pressed, Settings, Stress, Subject, Threads, Way, edge,
    pattern, run, stress,
};

const MIB: u64 = 1 << 20;

/// The simulated machine, whose CPUs are threads; also the allocator on it.
#[derive(Clone, Copy)]
struct Machine(&'static Hosted);

impl Machine {
    fn new() -> Self {
        Self::with_nodes_of(512 * MIB)
    }

    fn with_nodes_of(bytes: u64) -> Self {
        let topology = Topology::builder().node(bytes, 2).node(bytes, 2).build().expect("a machine");
        Self(Hosted::leak(topology).expect("there is address space"))
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
                assert!(machine.0.run_on(cpu), "the machine has that CPU and memory for its set");
                body(thread)
            })
        };
        let threads: Vec<_> = (0..threads).map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("a worker has no reason to panic")).collect()
    }

    fn yield_now(&self) {
        std::thread::yield_now();
    }

    /// There are no interrupts here.
    fn interrupt(&self, work: &mut dyn FnMut()) {
        work();
    }
}

/// Memory of the service.
struct Memory(NonNull<u8>);

// SAFETY: the token owns its memory; nothing about the service's memory is bound to a thread.
unsafe impl Send for Memory {}

impl Subject for Machine {
    type Block = Memory;
    type Objects = Empty;

    const NAME: &'static str = "hosted";

    const FEATURES: &'static [Feature] = &[Feature::Sizes, Feature::Inlined, Feature::Nodes, Feature::Pages];

    fn allocate(&self, size: usize) -> Option<Memory> {
        NonNull::new(self.0.service().kmalloc(size, Gfp::KERNEL)).map(Memory)
    }

    fn free(&self, block: Memory) {
        // SAFETY: the token is used up, so nobody uses the object any more.
        unsafe { self.0.service().kfree(block.0.as_ptr()) }
    }

    fn allocate_inlined<const SIZE: usize>(&self) -> Option<Memory> {
        NonNull::new(self.0.service().kmalloc(SIZE, Gfp::KERNEL)).map(Memory)
    }

    fn free_inlined(&self, block: Memory) {
        self.free(block);
    }

    fn allocate_on(&self, size: usize, node: NodeId) -> Option<Memory> {
        NonNull::new(self.0.service().kmalloc_node(size, Gfp::KERNEL, node)).map(Memory)
    }

    fn allocate_pages(&self, order: u32) -> Option<Memory> {
        NonNull::new(self.0.service().get_free_pages(Gfp::KERNEL, Order::new(order)?)).map(Memory)
    }

    fn free_pages(&self, block: Memory, order: u32) {
        self.0.service().free_pages(block.0.as_ptr(), Order::new(order).expect("it was allocated with that order"));
    }

    fn address(&self, block: &Memory) -> usize {
        block.0.as_ptr() as usize
    }

    fn fill(&self, block: &mut Memory, length: usize, seed: u64) {
        // SAFETY: the suite asks for no more than it asked the allocator for, and the token is borrowed exclusively.
        let bytes = unsafe { std::slice::from_raw_parts_mut(block.0.as_ptr().cast::<MaybeUninit<u8>>(), length) };
        pattern::fill(bytes, seed);
    }

    fn check(&self, block: &Memory, length: usize, seed: u64) -> bool {
        // SAFETY: as for `fill`, and the suite filled the bytes before it checks them.
        let bytes = unsafe { std::slice::from_raw_parts(block.0.as_ptr(), length) };
        pattern::check(bytes, seed)
    }

    fn is_zero(&self, block: &Memory, length: usize) -> bool {
        // SAFETY: as for `check`; the service zeroed the bytes or the suite filled them.
        pattern::is_zero(unsafe { std::slice::from_raw_parts(block.0.as_ptr(), length) })
    }

    fn node_of(&self, block: &Memory) -> Option<NodeId> {
        let service = self.0.service();
        service.virt_to_page(block.0.as_ptr()).and_then(|frame| service.page_to_node(frame))
    }

    fn in_use(&self) -> Option<u64> {
        Some(self.0.service().statistics().in_use())
    }
}

#[test]
fn every_workload_runs_without_error() {
    let machine = Machine::new();
    let settings = Settings {
        sizes: vec![8, 64, 1024, 4096, 8192],
        samples: 2,
        effort: Effort::Microseconds(20),
        ..Settings::default()
    };
    run(machine, &machine, &settings, &mut |row| assert_eq!(row.errors, 0, "{}", row.case));
    machine.assert_all_returned();
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
        NonNull::new(self.0.service().kmalloc(size, flags(way))).map(Memory)
    }

    fn allocate_pages_with(&self, way: Way, order: u32) -> Option<Memory> {
        NonNull::new(self.0.service().get_free_pages(flags(way), Order::new(order)?)).map(Memory)
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
    let cache: &'static _ = Box::leak(Box::new(Cache::new(machine, 2, task.memory as usize / 8192)));
    service.register_shrinker(Box::leak(Box::new(Shrinkable(cache)))).expect("there is room for a shrinker");
    let report = edge(machine, machine, task, cache);
    // Nobody balances here, so somebody had to make memory free: with so few steps that is edge enough.
    let complaints = report.complaints(machine.ticks_per_second(), service.event_count(Event::DirectReclaim));
    assert!(complaints.is_empty(), "{complaints:?}");
    assert!(report.given_up > 0, "the cache was never asked");
    machine.assert_all_returned();
}
