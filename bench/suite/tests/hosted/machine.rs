//! The memory service, hosted, as the suite sees it: a [`Machine`] of two nodes whose CPUs are threads, and the allocator on
//! it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use quarry_memory::hosted::{Hosted, HostedMachine};
use quarry_memory::statistics::ZoneInfo;
use quarry_memory::{
    CpuId, Gfp, KmemCache, Machine as _, NodeId, Order, Service, ShrinkControl, Shrinker, SlabFlags, Topology,
};
use quarry_subjects::{Memory, contents_of_memory};
use quarry_suite::{
    Ballast, Cache, Empty, Feature, NodeMemory, Places, Platform, Pressed, Subject, Threads, Way, occupy,
};

use crate::support;

pub(crate) const MIB: u64 = 1 << 20;

/// Bytes of a page frame.
pub(crate) const FRAME: u64 = 4096;

/// The simulated machine, whose CPUs are threads; also the allocator on it. And how many caches were to be destroyed
/// with objects in use; and what can be given up of what fills memory.
#[derive(Clone, Copy)]
pub(crate) struct Machine(&'static Hosted, &'static AtomicU64, &'static OnceLock<Cache<Machine>>);

impl Machine {
    pub(crate) fn new() -> Self {
        Self::with_nodes_of(512 * MIB)
    }

    pub(crate) fn with_nodes_of(bytes: u64) -> Self {
        let topology = Topology::builder().node(bytes, 2).node(bytes, 2).build().expect("a machine");
        let hosted = Hosted::leak(topology).expect("there is address space");
        let machine = Self(hosted, Box::leak(Box::default()), Box::leak(Box::default()));
        // CPUs get their sets when they first run, and later there may be no memory for them.
        machine.on_threads(machine.cpu_count(), |_| ());
        machine
    }

    /// A cache that gives its blocks up when memory is short, made when it is first asked for. Its own memory is not
    /// the service's.
    pub(crate) fn cache(self) -> &'static Cache<Self> {
        let mut is_new = false;
        let cache = self.2.get_or_init(|| {
            is_new = true;
            Cache::new(self, 2, 1 << 15)
        });
        if is_new {
            let shrinker = Box::leak(Box::new(Shrinkable(cache)));
            self.service().register_shrinker(shrinker).expect("there is room for a shrinker");
        }
        cache
    }

    pub(crate) fn service(self) -> &'static Service<HostedMachine> {
        self.0.service()
    }

    /// The books balance, and nobody holds anything.
    pub(crate) fn assert_all_returned(self) {
        let service = self.service();
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

/// What the service just returned.
fn memory(address: *mut u8) -> Option<Memory> {
    // SAFETY: it is null, or memory that the service gives to nobody else, any CPU may use, and any may free.
    unsafe { Memory::new(address) }
}

/// The objects of tokens, which are taken out of their places.
fn used_up(places: &mut [Option<Memory>]) -> Vec<*mut u8> {
    places.iter_mut().filter_map(Option::take).map(Memory::into_raw).collect()
}

impl Subject for Machine {
    type Block = Memory;
    type Objects = Objects;

    const NAME: &'static str = "hosted";

    const FEATURES: &'static [Feature] = Feature::ALL;

    fn allocate(&self, size: usize) -> Option<Memory> {
        memory(self.service().kmalloc(size, Gfp::KERNEL))
    }

    fn free(&self, block: Memory) {
        // SAFETY: the token is used up, so nobody uses the object any more.
        unsafe { self.service().kfree(block.into_raw()) }
    }

    fn allocate_inlined<const SIZE: usize>(&self) -> Option<Memory> {
        self.allocate(SIZE)
    }

    fn free_inlined(&self, block: Memory) {
        self.free(block);
    }

    fn allocate_on(&self, size: usize, node: NodeId) -> Option<Memory> {
        memory(self.service().kmalloc_node(size, Gfp::KERNEL, node))
    }

    fn allocate_pages(&self, order: u32) -> Option<Memory> {
        memory(self.service().get_free_pages(Gfp::KERNEL, Order::new(order)?))
    }

    fn free_pages(&self, block: Memory, order: u32) {
        self.service().free_pages(block.into_raw(), Order::new(order).expect("it was allocated with that order"));
    }

    fn allocate_zeroed(&self, size: usize) -> Option<Memory> {
        memory(self.service().kzalloc(size, Gfp::KERNEL))
    }

    fn allocate_atomic(&self, size: usize) -> Option<Memory> {
        memory(self.service().kmalloc(size, Gfp::ATOMIC))
    }

    fn free_bulk(&self, places: &mut Places<Memory>) {
        // SAFETY: the tokens are used up, so nobody uses the objects any more.
        places.empty(|blocks| unsafe { self.service().kfree_bulk(&used_up(blocks)) });
    }

    fn objects(&self, size: usize) -> Option<Objects> {
        let flags = SlabFlags::HWCACHE_ALIGN | SlabFlags::NO_MERGE;
        let cache = self.service().kmem_cache_create("suite", size, 0, flags, None).ok()?;
        Some(Objects(Arc::new(OwnCache { machine: *self, cache: Some(cache) })))
    }

    contents_of_memory!();

    fn node_of(&self, block: &Memory) -> Option<NodeId> {
        let service = self.service();
        service
            .virt_to_page(std::ptr::without_provenance(block.address()))
            .and_then(|frame| service.page_to_node(frame))
    }

    fn in_use(&self) -> Option<u64> {
        Some(self.service().statistics().in_use())
    }

    fn held(&self) -> Option<u64> {
        let rows = self.service().statistics();
        Some(rows.total - rows.free - rows.deferred)
    }

    fn memory(&self) -> Option<u64> {
        Some(self.service().statistics().total)
    }

    fn occupy(&self, leave: u64, cached: u64) -> Option<Arc<dyn Ballast>> {
        let mut nodes = [NodeMemory::default(); 2];
        for zone in self.service().zones() {
            let memory = &mut nodes[zone.node.index()];
            memory.total += u64::from(zone.managed) * FRAME;
            memory.free += u64::from(zone.free + zone.deferred) * FRAME;
        }
        Some(occupy(*self, &nodes, leave, cached, self.cache()))
    }

    fn fragmentation(&self) -> Option<f64> {
        let free: u64 = self.service().zones().map(|zone| u64::from(zone.free + zone.deferred)).sum();
        let large = self.free_blocks(9)? << 9;
        Some(1.0 - large as f64 / free.max(1) as f64)
    }

    fn free_blocks(&self, order: u32) -> Option<u64> {
        let pages = |(order, blocks): (usize, &u32)| u64::from(*blocks) << order;
        let of_zone = |zone: ZoneInfo| {
            let in_blocks: u64 = zone.free_blocks.iter().enumerate().skip(order as usize).map(pages).sum();
            in_blocks + u64::from(zone.deferred)
        };
        Some(self.service().zones().map(of_zone).sum::<u64>() >> order)
    }

    fn complaints(&self) -> u64 {
        self.1.load(Ordering::Relaxed)
    }

    fn trim(&self) {
        let service = self.service();
        service.drain_local();
        HostedMachine::drain_others(service);
        service.shrink_depots();
        // Pages that depots gave up are on this CPU's lists now.
        service.drain_local();
    }
}

/// A cache of objects of one size.
#[derive(Clone)]
pub(crate) struct Objects(Arc<OwnCache>);

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
        memory(self.machine().0.service().kmem_cache_alloc(self.cache(), Gfp::KERNEL))
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
        memory(self.machine().0.service().kmem_cache_alloc_node(self.cache(), Gfp::KERNEL, node))
    }

    fn allocate_pages(&self, _order: u32) -> Option<Memory> {
        None
    }

    fn free_pages(&self, block: Memory, _order: u32) {
        self.free(block);
    }

    fn allocate_bulk(&self, _size: usize, places: &mut Places<Memory>) -> bool {
        places.fill(|blocks| {
            let mut pointers = vec![std::ptr::null_mut(); blocks.len()];
            let count = self.machine().0.service().kmem_cache_alloc_bulk(self.cache(), Gfp::KERNEL, &mut pointers);
            for (place, pointer) in blocks.iter_mut().zip(pointers) {
                *place = memory(pointer);
            }
            count == blocks.len()
        })
    }

    fn free_bulk(&self, places: &mut Places<Memory>) {
        let free = |pointers: &[*mut u8]| {
            // SAFETY: the tokens are used up, so nobody uses the objects any more.
            unsafe { self.machine().0.service().kmem_cache_free_bulk(self.cache(), pointers) }
        };
        places.empty(|blocks| free(&used_up(blocks)));
    }

    fn alignment(&self, size: usize) -> usize {
        size.next_power_of_two().clamp(8, 64)
    }

    contents_of_memory!();

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
        memory(self.service().kmalloc(size, flags(way)))
    }

    fn allocate_pages_with(&self, way: Way, order: u32) -> Option<Memory> {
        memory(self.service().get_free_pages(flags(way), Order::new(order)?))
    }

    fn allocate_pages_near(&self, order: u32, node: NodeId) -> Option<Memory> {
        let (service, gfp) = (self.service(), flags(Way::Optional) | Gfp::THISNODE);
        let block = service.alloc_pages_node(node, gfp, Order::new(order)?)?;
        memory(service.page_address(block))
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
