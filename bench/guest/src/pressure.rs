//! Memory that runs out: what the workloads under pressure fill it with, the suite's run at the edge over the kernel,
//! and a run into a dead end.
//!
//! Used by `main` and `kernel`. The cache that is filled is a shrinker of the memory service's here.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use quarry_guest_records::emit;
use quarry_record::Record;
use quarry_suite::{Ballast, Cache, Edge, Limit, NodeMemory, Options, Platform, edge as run_edge};
use quarry_topology::MAX_NODES;
use quarry_unikernel::memory::service;
use quarry_unikernel::memory_service::events::Event;
use quarry_unikernel::memory_service::statistics::ZoneInfo;
use quarry_unikernel::memory_service::{Gfp, Order, ShrinkControl, Shrinker};
use quarry_unikernel::{cpus, thread, time, topology};
use spin::Once;

use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::records;

/// Events that tell how close to the edge the run was.
const EVENTS: [Event; 10] = [
    Event::SlowAllocation,
    Event::DirectReclaim,
    Event::Wait,
    Event::HandedOver,
    Event::BalancerWoken,
    Event::BalancerDone,
    Event::Shrunk,
    Event::DrainCall,
    Event::AllocationFailed,
    Event::AtomicFailed,
];

/// The cache as the memory service sees it.
struct Shrinkable(&'static Cache<Kernel>);

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

    /// Few, for each is compared before it is given up.
    fn batch(&self) -> usize {
        16
    }
}

/// What [`occupy`] fills, and what the service then asks for memory. It stays, for it takes memory that no workload is
/// to be blamed for.
static CACHE: Once<Cache<Kernel>> = Once::new();

/// Has the cache made and known to the service, before anybody counts what is in use.
pub(crate) fn prepare() {
    let is_new = !CACHE.is_completed();
    let cache = CACHE.call_once(|| {
        let pages = service().statistics().total / PAGE_BYTES;
        Cache::new(Kernel, topology().node_count(), (pages / CACHED_PART) as usize)
    });
    if is_new {
        let shrinker = Box::leak(Box::new(Shrinkable(cache)));
        service().register_shrinker(shrinker).expect("there is room for the first one");
    }
}

/// Bytes of a page.
const PAGE_BYTES: u64 = 4096;

/// Of so many pages one may be cached on a node: more than any workload wants.
const CACHED_PART: u64 = 16;

/// Takes memory until so much is free, as the suite says.
pub(crate) fn occupy(leave: u64, cached: u64) -> Arc<dyn Ballast> {
    let mut nodes = [NodeMemory::default(); MAX_NODES];
    for zone in service().zones() {
        let memory = &mut nodes[zone.node.index()];
        memory.total += u64::from(zone.managed) * PAGE_BYTES;
        memory.free += u64::from(zone.free + zone.deferred) * PAGE_BYTES;
    }
    let cache = CACHE.get().expect("`prepare` is called before workloads run");
    quarry_suite::occupy(Kernel, &nodes[..topology().node_count()], leave, cached, cache)
}

/// Of all free memory, the part in no block of order 9 or above. What was never looked at is in large blocks.
pub(crate) fn fragmentation() -> f64 {
    let free: u64 = service().zones().map(|zone| u64::from(zone.free + zone.deferred)).sum();
    1.0 - free_in_blocks(LARGE_ORDER) as f64 / free.max(1) as f64
}

/// Blocks of this order are large: 2 MiB.
const LARGE_ORDER: u32 = 9;

/// Free pages that are in blocks of that order or above; with those that were never looked at.
pub(crate) fn free_in_blocks(order: u32) -> u64 {
    let pages = |(order, blocks): (usize, &u32)| u64::from(*blocks) << order;
    let of_zone = |zone: ZoneInfo| {
        let in_blocks: u64 = zone.free_blocks.iter().enumerate().skip(order as usize).map(pages).sum();
        in_blocks + u64::from(zone.deferred)
    };
    service().zones().map(of_zone).sum()
}

/// Runs at the edge of memory; returns how much there is to complain about.
pub(crate) fn edge(machine: Machine, options: &Options) -> u64 {
    let rows = service().statistics();
    let memory = rows.free + rows.deferred;
    let limit = Limit::Seconds(options.seconds);
    let task = Edge { cpus: machine.cpu_count(), seed: options.settings.seed, limit, memory };
    machine.warm_up_threads(task.threads());
    // Room for blocks of 8 KiB on average, wherever they are; kept, as what a static has.
    let cache = Cache::new(Kernel, topology().node_count(), memory as usize / 8192);
    let cache: &'static Cache<Kernel> = Box::leak(Box::new(cache));
    let shrinker = Box::leak(Box::new(Shrinkable(cache)));
    let id = service().register_shrinker(shrinker).expect("there is room for the first one");
    let counts = || EVENTS.map(|event| service().event_count(event));
    let before = counts();
    let report = run_edge(machine, Kernel, task, cache);
    let after = counts();
    service().unregister_shrinker(id).expect("it is registered");
    let events: [u64; EVENTS.len()] = core::array::from_fn(|at| after[at] - before[at]);
    let named: Vec<(String, u64)> =
        EVENTS.iter().zip(events).map(|(event, by)| (event.name().to_string(), by)).collect();
    let waits = EVENTS.iter().zip(events).find(|(event, _)| **event == Event::Wait).map_or(0, |(_, times)| times);
    let mut complaints = report.complaints(time::ticks_per_second(), waits);
    if !service().statistics().adds_up() {
        complaints.push("the memory statistics do not add up".to_string());
    }
    complaints.extend(service().validate().err().map(|broken| broken.to_string()));
    let errors = complaints.len() as u64;
    emit(&Record::Edge(records::edge(&report, &task, options.seconds, named, complaints)));
    errors
}

/// Threads on each CPU that take memory and never give any back.
const TAKERS: usize = 2;

/// Has threads that must not fail take all memory. The service is to end the run, for nothing can go on.
pub(crate) fn run_into_a_dead_end() -> u64 {
    let take = || {
        while service().alloc_pages(Gfp::KERNEL | Gfp::NOFAIL, Order::ZERO).is_some() {}
    };
    let start = |cpu| thread::spawn_on(cpu, "taker", take).unwrap_or_else(|error| panic!("no thread: {error}"));
    let takers: Vec<_> = cpus::online().flat_map(|cpu| (0..TAKERS).map(move |_| cpu)).map(start).collect();
    takers.into_iter().for_each(thread::JoinHandle::join);
    // Every one of them failed that must not.
    1
}
