//! Every allocation of every part of the service fails once: the first, the second, the third ... until a run needs no
//! more. Each run ends with a clear failure or with success, nothing is lost, and the books balance.

use std::ptr::{self, NonNull};

use quarry_memory::events::Event;
use quarry_memory::fault::FaultAttributes;
use quarry_memory::hosted::{Hosted, HostedMachine};
use quarry_memory::mempool::Mempool;
use quarry_memory::{
    Cache, ContigRequest, CpuId, Gfp, KmemCache, M_DEVBUF, MallocFlags, MovablePage, NodeId, NodeMask, Order, PerCpu,
    Service, SlabFlags, Topology,
};

type TestService = Service<HostedMachine>;

/// What a scenario has at its end, or when something failed; given back in reverse.
enum Held {
    Object(*mut u8),
    Pages(*mut u8, Order),
    Mapped(*mut u8),
    PerCpu(PerCpu),
    Pool(Mempool<'static>),
    Cache(KmemCache),
    Contig(*mut u8, usize),
}

/// A use of the service: `None` when it could not get what it wanted.
type Scenario = fn(&TestService, &mut Vec<Held>) -> Option<()>;

fn give_back(service: &TestService, held: Vec<Held>) {
    for held in held.into_iter().rev() {
        match held {
            // SAFETY: the scenario's, freed once.
            Held::Object(object) => unsafe { service.kfree(object) },
            Held::Pages(block, order) => service.free_pages(block, order),
            // SAFETY: as above.
            Held::Mapped(memory) => unsafe { service.kvfree(memory) },
            Held::PerCpu(percpu) => service.free_percpu(percpu),
            Held::Cache(cache) => service.kmem_cache_destroy(cache).expect("no object is in use"),
            // SAFETY: as above.
            Held::Contig(run, size) => unsafe { service.contigfree(run, size, &M_DEVBUF) },
            Held::Pool(pool) => service.mempool_destroy(pool).expect("no element is out"),
        }
    }
}

/// Notes memory that was allocated; `None` for null.
fn keep(held: &mut Vec<Held>, memory: *mut u8, how: fn(*mut u8) -> Held) -> Option<*mut u8> {
    NonNull::new(memory).map(|memory| {
        held.push(how(memory.as_ptr()));
        memory.as_ptr()
    })
}

fn kmalloc_family(service: &TestService, held: &mut Vec<Held>) -> Option<()> {
    for size in [8, 100, 1000, 8192] {
        keep(held, service.kmalloc(size, Gfp::KERNEL), Held::Object)?;
        keep(held, service.kzalloc(size, Gfp::ATOMIC), Held::Object)?;
        keep(held, service.kmalloc_array(3, size / 3, Gfp::NOIO), Held::Object)?;
        keep(held, service.kcalloc(2, size / 2, Gfp::KERNEL), Held::Object)?;
        keep(held, service.kmalloc_node(size, Gfp::KERNEL, NodeId(1)), Held::Object)?;
        keep(held, service.kzalloc_node(size, Gfp::KERNEL | Gfp::THISNODE, NodeId(0)), Held::Object)?;
        keep(held, service.kmalloc_aligned(size, 64, Gfp::KERNEL), Held::Object)?;
        keep(held, service.kmalloc(size, Gfp::KERNEL | Gfp::DMA), Held::Object)?;
    }
    keep(held, service.kmemdup(b"a copy", Gfp::KERNEL), Held::Object)?;
    keep(held, service.kmalloc(50_000, Gfp::KERNEL), Held::Object)?;
    Some(())
}

fn krealloc(service: &TestService, held: &mut Vec<Held>) -> Option<()> {
    let mut object = service.kmalloc(16, Gfp::KERNEL);
    let mut size = 16;
    for larger in [100, 5000, 20_000] {
        if object.is_null() {
            return None;
        }
        // SAFETY: the object has `size` bytes and is this scenario's alone; after a success only the result is used.
        unsafe {
            object.write_bytes(7, size);
            let new = service.krealloc(object, larger, Gfp::KERNEL);
            let kept = if new.is_null() { object } else { new };
            assert!((0..size).all(|index| kept.add(index).read() == 7), "the contents are kept, also on failure");
            if new.is_null() {
                service.kfree_sensitive(object);
            }
            (object, size) = (new, larger);
        }
    }
    keep(held, object, Held::Object).map(drop)
}

fn pages(service: &TestService, held: &mut Vec<Held>) -> Option<()> {
    for order in Order::all() {
        let mut note = |block: *mut u8| {
            held.push(Held::Pages(NonNull::new(block)?.as_ptr(), order));
            Some(())
        };
        note(service.get_free_pages(Gfp::KERNEL, order))?;
        note(service.get_free_pages(Gfp::ATOMIC | Gfp::ZERO, order))?;
        let near = service.alloc_pages_node(NodeId(1), Gfp::HIGHUSER, order)?;
        note(service.page_address(near))?;
        let movable = service.alloc_pages(Gfp::HIGHUSER_MOVABLE, order)?;
        note(service.page_address(movable))?;
    }
    let first = service.alloc_pages_exact_node(NodeId(0), 5 * 4096, Gfp::KERNEL)?;
    for frame in 0..5 {
        held.push(Held::Pages(service.page_address(first.offset(frame)), Order::ZERO));
    }
    Some(())
}

fn mapped_memory(service: &TestService, held: &mut Vec<Held>) -> Option<()> {
    for size in [1, 20_000, 200_000] {
        keep(held, service.vmalloc(size, Gfp::KERNEL), Held::Mapped)?;
        keep(held, service.kvmalloc(size, Gfp::KERNEL), Held::Mapped)?;
    }
    Some(())
}

fn contiguous_memory(service: &TestService, held: &mut Vec<Held>) -> Option<()> {
    for size in [1_usize, 4096, 20_000, 2 << 20, 5 << 20, 20 << 20] {
        for flags in [MallocFlags::NOWAIT, MallocFlags::WAITOK | MallocFlags::ZERO] {
            let alignment = size.next_power_of_two().min(1 << 20);
            let run = NonNull::new(service.contigmalloc(size, &M_DEVBUF, flags, 0, u64::MAX, alignment, 0))?;
            held.push(Held::Contig(run.as_ptr(), size));
        }
        let node = NodeMask::only(NodeId(1));
        let flags = MallocFlags::empty();
        let run = service.contigmalloc_domainset(size, &M_DEVBUF, node, flags, 0, u64::MAX, 1, 0);
        held.push(Held::Contig(NonNull::new(run)?.as_ptr(), size));
    }
    Some(())
}

/// Runs of each flag from each set of nodes, in a range, across no boundary.
fn contiguous_memory_of_nodes(service: &TestService, held: &mut Vec<Held>) -> Option<()> {
    for size in [100_usize, 20_000, 3 << 20] {
        for nodes in [NodeMask::only(NodeId(1)), NodeMask(0b11)] {
            for flags in [MallocFlags::empty(), MallocFlags::NOWAIT | MallocFlags::ZERO] {
                let (low, boundary) = (1 << 20, size.next_power_of_two().max(1 << 16));
                let run =
                    service.contigmalloc_domainset(size, &M_DEVBUF, nodes, flags, low, 1 << 32, 1 << 14, boundary);
                let run = NonNull::new(run)?.as_ptr();
                held.push(Held::Contig(run, size));
                // SAFETY: the run is this scenario's, and was zeroed if that was asked for.
                let ends = unsafe { [run.read(), run.add(size - 1).read()] };
                assert!(!flags.contains(MallocFlags::ZERO) || ends == [0; 2], "a run is zeroed or there is none");
                // SAFETY: as above.
                unsafe { run.write_bytes(0xa5, size) };
            }
        }
    }
    let block = service.contig_block(&M_DEVBUF, &ContigRequest::new(3 << 20)).ok()?;
    drop(block);
    Some(())
}

/// Pages that idle CPUs have zeroed, then those that they have not.
fn zeroed_stock(service: &TestService, held: &mut Vec<Held>) -> Option<()> {
    for gfp in [Gfp::KERNEL, Gfp::ATOMIC, Gfp::KERNEL | Gfp::MOVABLE] {
        while service.zero_idle() {}
        for _ in 0..5 {
            let page = NonNull::new(service.get_free_pages(gfp | Gfp::ZERO, Order::ZERO))?.as_ptr();
            held.push(Held::Pages(page, Order::ZERO));
            // SAFETY: the page is this scenario's.
            let bytes = unsafe { std::slice::from_raw_parts_mut(page, 4096) };
            assert!(bytes.iter().all(|&byte| byte == 0), "whether it was in stock or not");
            bytes.fill(0xa5);
        }
    }
    Some(())
}

fn percpu(service: &TestService, held: &mut Vec<Held>) -> Option<()> {
    for size in [8, 100, 3000] {
        held.push(Held::PerCpu(service.alloc_percpu(size, 8, Gfp::KERNEL)?));
    }
    Some(())
}

fn mempools(service: &TestService, held: &mut Vec<Held>) -> Option<()> {
    let pools = [
        service.mempool_create_kmalloc_pool(3, 200),
        service.mempool_create_kmalloc_pool(2, 20_000),
        service.mempool_create_page_pool(3, Order::ZERO),
    ];
    // A pool that could not be made has kept nothing; the others must go whatever happened to it.
    let whole = pools.iter().all(Result::is_ok);
    held.extend(pools.into_iter().flatten().map(Held::Pool));
    let resized = held.iter().try_for_each(|held| {
        let Held::Pool(pool) = held else { return Some(()) };
        // Whoever may wait gets an element whatever fails.
        let elements: Vec<_> = (0..2).filter_map(|_| service.mempool_element(pool, Gfp::KERNEL)).collect();
        assert_eq!(elements.len(), 2, "of {pool:?}");
        service.mempool_resize(pool, 6).ok()
    });
    resized.filter(|()| whole)
}

fn caches(service: &TestService, held: &mut Vec<Held>) -> Option<()> {
    fn construct(object: *mut u8) {
        // SAFETY: a constructor gets an object of the cache, of 200 bytes.
        unsafe { object.write_bytes(1, 200) };
    }
    let plain = service.kmem_cache_create("plain", 500, 0, SlabFlags::NO_MERGE, None).ok()?;
    let made = service.kmem_cache_create("constructed", 200, 64, SlabFlags::empty(), Some(construct));
    let done = made.as_ref().ok().and_then(|constructed| use_caches(service, &plain, constructed));
    // Kept to the end, so that each run makes them anew.
    held.push(Held::Cache(plain));
    held.extend(made.ok().map(Held::Cache));
    done
}

/// Objects of two caches, one by one, in bulk, and in a pool; all given back.
fn use_caches(service: &TestService, plain: &KmemCache, constructed: &KmemCache) -> Option<()> {
    let mut objects = Vec::new();
    let mut note = |cache, object: *mut u8| {
        objects.push((cache, NonNull::new(object)?));
        Some(())
    };
    let one_by_one = (0..20).try_for_each(|_| {
        note(plain, service.kmem_cache_zalloc(plain, Gfp::KERNEL))?;
        note(constructed, service.kmem_cache_alloc_node(constructed, Gfp::KERNEL, NodeId(1)))?;
        note(constructed, service.kmem_cache_alloc(constructed, Gfp::ATOMIC))
    });
    for (cache, object) in objects {
        // SAFETY: each is freed once, with its cache; a constructed one is as constructed.
        unsafe { service.kmem_cache_free(cache, object.as_ptr()) };
    }
    one_by_one?;
    let pool = service.mempool_create_slab_pool(3, plain).ok()?;
    let element = service.mempool_element(&pool, Gfp::KERNEL).map(drop);
    service.mempool_destroy(pool).expect("no element is out");
    assert!(element.is_some(), "whoever may wait gets an element whatever fails");
    Some(())
}

/// Objects in bulk, set aside in sheaves, and typed.
fn bulk_and_typed(service: &TestService, held: &mut Vec<Held>) -> Option<()> {
    let cache = service.kmem_cache_create("bulk", 300, 0, SlabFlags::NO_MERGE, None).ok()?;
    let done = use_bulk(service, &cache);
    held.push(Held::Cache(cache));
    done?;
    let typed = Cache::<[u64; 9], HostedMachine>::with_flags(service, "typed", SlabFlags::NO_MERGE).ok()?;
    let boxes: Vec<_> = (0..50).map_while(|number| typed.alloc([number; 9], Gfp::KERNEL).ok()).collect();
    assert!(boxes.iter().zip(0..).all(|(boxed, number)| **boxed == [number; 9]));
    (boxes.len() == 50).then_some(())
}

fn use_bulk(service: &TestService, cache: &KmemCache) -> Option<()> {
    let mut objects = [ptr::null_mut(); 100];
    let got = service.kmem_cache_alloc_bulk(cache, Gfp::KERNEL, &mut objects);
    assert!(got == 0 || got == objects.len(), "all or nothing");
    // SAFETY: each is freed once, with its cache.
    unsafe { service.kmem_cache_free_bulk(cache, &objects[..got]) };
    (got > 0).then_some(())?;
    let mut sheaf = service.kmem_cache_prefill_sheaf(cache, Gfp::KERNEL, 30)?;
    let refilled = service.kmem_cache_refill_sheaf(Gfp::KERNEL, &mut sheaf, 60);
    let promised = if refilled { 60 } else { 30 };
    let objects: Vec<_> = (0..promised).map(|_| service.kmem_cache_alloc_from_sheaf(Gfp::NOWAIT, &mut sheaf)).collect();
    assert!(objects.iter().all(|object| !object.is_null()), "what was set aside cannot fail");
    // SAFETY: as above.
    unsafe { service.kmem_cache_free_bulk(cache, &objects) };
    service.kmem_cache_return_sheaf(sheaf);
    refilled.then_some(())
}

/// One injector: how it is set.
type Inject = fn(&TestService, Option<FaultAttributes>);

#[track_caller]
fn sweep(scenario: Scenario, inject: Inject) -> u32 {
    let topology = Topology::builder().node(64 << 20, 2).node(64 << 20, 2).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    assert!(hosted.run_on(CpuId(0)));
    let service = hosted.service();
    for number in 1..10_000 {
        let before = service.event_count(Event::FaultInjected);
        inject(service, Some(FaultAttributes { verbose: false, ..FaultAttributes::nth(number) }));
        let mut held = Vec::new();
        let done = scenario(service, &mut held);
        let faults = service.event_count(Event::FaultInjected) - before;
        inject(service, None);
        give_back(service, held);
        // So that the next run meets as much to fail as the first.
        service.drain_local();
        service.shrink_depots();
        let rows = service.statistics();
        assert!(rows.adds_up(), "run {number}: {rows:#?}");
        assert_eq!(rows.in_use(), 0, "run {number}: {rows:#?}");
        assert_eq!(service.count_objects_in_use(), 0, "run {number}");
        service.validate().unwrap_or_else(|broken| panic!("run {number}: {broken}"));
        if faults == 0 {
            assert!(done.is_some(), "run {number} failed though no fault was injected");
            hosted.leave();
            // SAFETY: nobody uses the instance any more.
            unsafe { hosted.retire() };
            return number - 1;
        }
        assert_eq!(faults, 1, "run {number}");
    }
    panic!("the scenario never comes to its end");
}

/// A sweep in which at least so many allocations failed, one a run.
#[track_caller]
fn sweep_both(scenario: Scenario, objects: u32, pages: u32) {
    let swept = (sweep(scenario, Service::failslab), sweep(scenario, Service::fail_page_alloc));
    assert!(swept.0 >= objects && swept.1 >= pages, "of objects and pages failed {swept:?}");
}

#[test]
fn a_sweep_through_the_kmalloc_family() {
    sweep_both(kmalloc_family, 33, 13);
}

#[test]
fn a_sweep_through_krealloc() {
    sweep_both(krealloc, 3, 1);
}

#[test]
fn a_sweep_through_the_page_layer() {
    sweep_both(pages, 0, 45);
}

#[test]
fn a_sweep_through_mapped_memory() {
    sweep_both(mapped_memory, 1, 50);
}

#[test]
fn a_sweep_through_contiguous_memory() {
    sweep_both(contiguous_memory, 0, 18);
}

#[test]
fn a_sweep_through_contiguous_memory_of_nodes() {
    sweep_both(contiguous_memory_of_nodes, 0, 13);
}

#[test]
fn a_sweep_through_pages_zeroed_by_idle_cpus() {
    sweep_both(zeroed_stock, 0, 15);
}

#[test]
fn pages_that_move_out_of_the_way_of_a_run_keep_their_contents_whichever_allocation_fails() {
    for failing in (1..=10).chain((20..1000).step_by(61)) {
        pages_move_out_of_the_way_while_one_allocation_fails(failing);
    }
}

fn pages_move_out_of_the_way_while_one_allocation_fails(failing: u32) {
    let topology = Topology::builder().node(32 << 20, 1).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    let service = hosted.service();
    let set = service.movable_pages(1 << 13).expect("there is memory");
    let all: Vec<_> = std::iter::from_fn(|| set.alloc(Gfp::NOWAIT | Gfp::NOWARN)).collect();
    let mut pages: Vec<_> = all.into_iter().step_by(2).collect();
    for (page, number) in pages.iter_mut().zip(0..) {
        page.pin_mut()[..4].copy_from_slice(&i32::to_le_bytes(number));
    }
    let before = service.statistics().in_use();
    service.fail_page_alloc(Some(FaultAttributes { verbose: false, ..FaultAttributes::nth(failing) }));
    let request = || service.contigmalloc(1 << 20, &M_DEVBUF, MallocFlags::WAITOK, 0, u64::MAX, 1, 0);
    let runs: Vec<_> = (0..8).map(|_| request()).collect();
    service.fail_page_alloc(None);
    assert_eq!(service.event_count(Event::FaultInjected), 1, "the {failing}th fails");
    // A run that was asked for, or the room for one of its pages elsewhere: then there may be another place for it.
    let failed = runs.iter().filter(|run| run.is_null()).count();
    assert!(failed == 1 || failing > 1 && failed == 0, "the {failing}th fails, and {failed} runs");
    for run in runs.into_iter().filter(|run| !run.is_null()) {
        // SAFETY: freed once.
        unsafe { service.contigfree(run, 1 << 20, &M_DEVBUF) };
    }
    let whole = |(page, number): (&MovablePage<_>, i32)| page.pin()[..4] == number.to_le_bytes();
    assert!(pages.iter().zip(0..).all(whole), "a page lost its contents when the {failing}th failed");
    let rows = service.statistics();
    assert!(rows.adds_up() && rows.in_use() == before, "{rows:#?}");
    service.validate().unwrap_or_else(|broken| panic!("{broken}"));
    drop(pages);
    hosted.leave();
    // SAFETY: nobody uses the instance any more.
    unsafe { hosted.retire() };
}

#[test]
fn a_sweep_through_per_cpu_memory() {
    sweep_both(percpu, 15, 1);
}

#[test]
fn a_sweep_through_caches() {
    sweep_both(caches, 64, 2);
}

#[test]
fn a_sweep_through_bulk_sheaves_and_typed_caches() {
    sweep_both(bulk_and_typed, 10, 3);
}

#[test]
fn movable_pages_keep_their_contents_whichever_allocation_fails() {
    let topology = Topology::builder().node(64 << 20, 1).build().expect("a machine");
    let service = Hosted::leak(topology).expect("there is address space").service();
    let set = service.movable_pages(64).expect("there is memory");
    for failing in 1..=70 {
        service.fail_page_alloc(Some(FaultAttributes::nth(failing)));
        let mut pages: Vec<_> = std::iter::from_fn(|| set.alloc(Gfp::KERNEL | Gfp::NOWARN)).collect();
        assert_eq!(pages.len(), if failing <= 64 { failing as usize - 1 } else { 64 });
        for (page, number) in pages.iter_mut().zip(0..) {
            page.pin_mut().fill(number);
        }
        let mut number = 0;
        pages.retain(|_| {
            number += 1;
            number % 3 == 0
        });
        service.compact_memory();
        for (at, page) in pages.iter().enumerate() {
            assert!(page.pin().iter().all(|&byte| usize::from(byte) == 3 * at + 2), "page {at} lost its contents");
        }
        service.fail_page_alloc(None);
        drop(pages);
        let rows = service.statistics();
        assert!(rows.adds_up() && rows.pages_in_use == 0, "{rows:#?}");
    }
}

#[test]
fn a_sweep_through_memory_pools() {
    sweep_both(mempools, 6, 4);
}

#[test]
fn what_must_not_fail_never_does() {
    let topology = Topology::builder().node(64 << 20, 1).build().expect("a machine");
    let service = Hosted::leak(topology).expect("there is address space").service();
    let always = FaultAttributes { interval: 1, times: None, ..FaultAttributes::nth(1) };
    service.failslab(Some(always));
    service.fail_page_alloc(Some(always));
    assert!(service.kmalloc(64, Gfp::KERNEL | Gfp::NOWARN).is_null());
    assert!(service.alloc_pages(Gfp::KERNEL | Gfp::NOWARN, Order::ZERO).is_none());
    let object = service.kmalloc(64, Gfp::KERNEL | Gfp::NOFAIL);
    assert_ne!(object, ptr::null_mut());
    // SAFETY: freed once.
    unsafe { service.kfree(object) };
    service.failslab(None);
    service.fail_page_alloc(None);
    assert_eq!((service.failslab_attributes(), service.fail_page_alloc_attributes()), (None, None));
}

#[test]
fn a_cache_with_objects_in_every_magazine_fails_all_the_same() {
    let topology = Topology::builder().node(64 << 20, 1).build().expect("a machine");
    let service = Hosted::leak(topology).expect("there is address space").service();
    let objects: Vec<_> = (0..100).map(|_| service.kmalloc(64, Gfp::KERNEL)).collect();
    for object in objects {
        // SAFETY: each is freed once.
        unsafe { service.kfree(object) };
    }
    let attributes = "2,100,0,-1,ignore-gfp-wait=N,cache=kmalloc-64";
    service.failslab(Some(FaultAttributes::parse_failslab(attributes).expect("the text is right")));
    for _ in 0..10 {
        let (first, second) = (service.kmalloc(64, Gfp::KERNEL), service.kmalloc(64, Gfp::KERNEL | Gfp::NOWARN));
        let other = service.kmalloc(96, Gfp::KERNEL);
        assert!(!first.is_null() && second.is_null() && !other.is_null());
        // SAFETY: each is freed once.
        unsafe {
            service.kfree(first);
            service.kfree(other);
        }
    }
    service.failslab(None);
    let objects: Vec<_> = (0..100).map(|_| service.kmalloc(64, Gfp::KERNEL)).collect();
    assert!(objects.iter().all(|object| !object.is_null()), "nothing fails any more");
    for object in objects {
        // SAFETY: each is freed once.
        unsafe { service.kfree(object) };
    }
}
