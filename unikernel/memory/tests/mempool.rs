//! Memory pools: the guaranteed reserve, who gets an element first, and progress when all other memory is gone.

#[path = "support/cases.rs"]
mod support;

use std::collections::HashSet;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};

use proptest::prelude::*;
use quarry_memory::hosted::{Hosted, HostedMachine};
use quarry_memory::mempool::{Mempool, MempoolError};
use quarry_memory::{CpuId, Gfp, Order, Service, SlabFlags, Topology};

type TestService = Service<HostedMachine>;

fn hosted() -> &'static Hosted {
    let topology = Topology::builder().node(32 << 20, 4).node(32 << 20, 4).build().expect("a machine");
    Hosted::leak(topology).expect("there is address space")
}

#[track_caller]
fn assert_nothing_in_use(service: &TestService) {
    let rows = service.statistics();
    assert!(rows.adds_up(), "{rows:#?}");
    assert_eq!(rows.in_use(), 0, "{rows:#?}");
    service.validate().unwrap_or_else(|broken| panic!("{broken}"));
}

#[track_caller]
fn destroy(service: &TestService, pool: Mempool<'_>) {
    service.mempool_destroy(pool).unwrap_or_else(|error| panic!("{error}"));
}

/// Takes all memory there is, and gives it back when dropped.
struct AllMemory {
    service: &'static TestService,
    blocks: Vec<(*mut u8, Order)>,
}

impl AllMemory {
    fn take(service: &'static TestService) -> Self {
        let mut blocks = Vec::new();
        for order in Order::all().rev() {
            let quiet = Gfp::ATOMIC | Gfp::NOWARN;
            let all =
                std::iter::from_fn(|| Some(service.get_free_pages(quiet, order)).filter(|block| !block.is_null()));
            blocks.extend(all.map(|block| (block, order)));
        }
        Self { service, blocks }
    }
}

impl Drop for AllMemory {
    fn drop(&mut self) {
        for &(block, order) in &self.blocks {
            self.service.free_pages(block, order);
        }
    }
}

/// Elements of the test's own, of which there are so many and no more.
struct Elsewhere {
    left: usize,
    live: HashSet<usize>,
}

type Shared = Mutex<Elsewhere>;

impl Elsewhere {
    fn with(left: usize) -> Shared {
        Mutex::new(Self { left, live: HashSet::new() })
    }

    fn alloc(_: Gfp, data: *mut ()) -> *mut u8 {
        // SAFETY: the tests pass a `Shared` that outlives the pool.
        let mut elsewhere = unsafe { &*data.cast::<Shared>() }.lock().expect("no test panics inside");
        let Some(left) = elsewhere.left.checked_sub(1) else { return ptr::null_mut() };
        elsewhere.left = left;
        let element = Box::into_raw(Box::new(0u8));
        assert!(elsewhere.live.insert(element.addr()));
        element
    }

    fn free(element: *mut u8, data: *mut ()) {
        // SAFETY: as above.
        let mut elsewhere = unsafe { &*data.cast::<Shared>() }.lock().expect("no test panics inside");
        assert!(elsewhere.live.remove(&element.addr()), "an element is freed once");
        elsewhere.left += 1;
        // SAFETY: made by `alloc`, and no longer live.
        drop(unsafe { Box::from_raw(element) });
    }

    fn pool(service: &TestService, minimum: usize, elsewhere: &Shared) -> Result<Mempool<'static>, MempoolError> {
        let data = ptr::from_ref(elsewhere).cast_mut().cast();
        // SAFETY: the functions keep to what is asked of them; the tests destroy the pool before `elsewhere` goes.
        unsafe { service.mempool_create(minimum, Self::alloc, Self::free, data) }
    }
}

#[test]
fn a_pool_needs_a_reserve_and_the_memory_for_it() {
    let hosted = hosted();
    let service = hosted.service();
    assert_eq!(service.mempool_create_kmalloc_pool(0, 64).err(), Some(MempoolError::NoReserve));
    let elsewhere = Elsewhere::with(3);
    assert_eq!(Elsewhere::pool(service, 4, &elsewhere).err(), Some(MempoolError::OutOfMemory));
    assert_eq!(elsewhere.lock().expect("no test panics inside").left, 3, "what there was went back");
    assert_nothing_in_use(service);
}

#[test]
fn elements_of_every_kind_come_from_the_reserve_when_there_is_no_memory() {
    let hosted = hosted();
    let service = hosted.service();
    let cache = service.kmem_cache_create("element", 3000, 0, SlabFlags::NO_MERGE, None).expect("memory is free");
    let pools = [
        service.mempool_create_slab_pool(3, &cache).expect("memory is free"),
        service.mempool_create_kmalloc_pool(3, 8192).expect("memory is free"),
        service.mempool_create_kmalloc_pool(3, 100_000).expect("memory is free"),
        service.mempool_create_kmalloc_pool(3, 0).expect("memory is free"),
        service.mempool_create_page_pool(3, Order::new(2).expect("an order")).expect("memory is free"),
    ];
    let all = AllMemory::take(service);
    for pool in &pools {
        // First what the CPU's magazine still has, then the reserve.
        let elements = all_of(|| service.mempool_alloc(pool, Gfp::ATOMIC));
        assert!(elements.len() >= 3, "{pool:?}");
        assert!(service.mempool_alloc_preallocated(pool).is_null());
        let last = elements[0];
        // SAFETY: each element is freed once, and the first taken again in between.
        unsafe {
            service.mempool_free(last, pool);
            assert_eq!(service.mempool_alloc_preallocated(pool), last, "what came back is in the reserve");
            for element in elements {
                service.mempool_free(element, pool);
            }
        }
    }
    drop(all);
    for pool in pools {
        destroy(service, pool);
    }
    service.kmem_cache_destroy(cache).unwrap_or_else(|error| panic!("{error}"));
    assert_nothing_in_use(service);
}

/// The row of what pools keep back. All rows add up.
#[track_caller]
fn kept(service: &TestService) -> u64 {
    let rows = service.statistics();
    assert!(rows.adds_up() && !rows.approximate, "{rows:#?}");
    rows.pool
}

#[test]
fn the_row_of_pools_is_what_nobody_uses_of_their_elements() {
    let hosted = hosted();
    let service = hosted.service();
    let cache = service.kmem_cache_create("element", 3000, 0, SlabFlags::NO_MERGE, None).expect("memory is free");
    let object = service.slabs().find(|slab| slab.name().to_string() == "element").expect("it was made").object_size;
    let pools = [
        (service.mempool_create_slab_pool(3, &cache), object),
        (service.mempool_create_kmalloc_pool(3, 1000), 1024),
        (service.mempool_create_kmalloc_pool(3, 8192), 8192),
        (service.mempool_create_kmalloc_pool(3, 100_000), 32 * 4096),
        (service.mempool_create_page_pool(3, Order::new(2).expect("an order")), 4 * 4096),
    ];
    let pools = pools.map(|(pool, bytes)| (pool.expect("memory is free"), bytes));
    let mut expected: u64 = pools.iter().map(|(_, bytes)| 3 * bytes).sum();
    assert_eq!(kept(service), expected);
    let all = AllMemory::take(service);
    for (pool, bytes) in &pools {
        // What the CPU's magazine still has is used up first, and takes nothing from the row.
        let mut elements = Vec::new();
        while kept(service) == expected {
            elements.push(service.mempool_alloc(pool, Gfp::ATOMIC));
        }
        for taken in 1..=3 {
            assert_eq!(kept(service), expected - taken * bytes, "{pool:?}");
            let in_use = service.statistics().in_use();
            elements.push(service.mempool_alloc(pool, Gfp::ATOMIC));
            assert_eq!(service.statistics().in_use(), in_use, "it was handed out before");
        }
        assert_eq!(elements.pop(), Some(ptr::null_mut()), "the reserve is empty");
        // The first that come back fill the reserve, the others go home.
        for (returned, element) in (1..).zip(elements) {
            // SAFETY: each element is freed once.
            unsafe { service.mempool_free(element, pool) };
            assert_eq!(kept(service), expected - (3 - returned.min(3)) * bytes, "{pool:?}");
        }
    }
    drop(all);
    for (pool, bytes) in pools {
        service.mempool_resize(&pool, 5).expect("memory is free");
        assert_eq!(kept(service), expected + 2 * bytes);
        service.mempool_resize(&pool, 1).expect("memory is free");
        assert_eq!(kept(service), expected - 2 * bytes);
        destroy(service, pool);
        expected -= 3 * bytes;
        assert_eq!(kept(service), expected);
    }
    assert_eq!(expected, 0);
    service.kmem_cache_destroy(cache).unwrap_or_else(|error| panic!("{error}"));
    assert_nothing_in_use(service);
}

#[test]
fn a_pool_at_work_does_not_keep_the_rows_from_adding_up() {
    let hosted = hosted();
    let service = hosted.service();
    let pools = [
        service.mempool_create_kmalloc_pool(8, 1000).expect("memory is free"),
        service.mempool_create_page_pool(8, Order::ZERO).expect("memory is free"),
    ];
    let full = kept(service);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for pool in &pools {
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let element = service.mempool_alloc_preallocated(pool);
                    // SAFETY: freed once.
                    unsafe { service.mempool_free(element, pool) };
                }
            });
        }
        let looks: Vec<_> = (0..1000).map(|_| service.statistics()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(looks.iter().all(|rows| rows.adds_up() && rows.pool >= full - 1024 - 4096), "{looks:#?}");
    });
    assert_eq!(kept(service), full);
    for pool in pools {
        destroy(service, pool);
    }
    assert_nothing_in_use(service);
}

#[test]
fn elements_are_counted_by_their_own_size_not_that_of_the_pool() {
    let hosted = hosted();
    let service = hosted.service();
    let pool = service.mempool_create_kmalloc_pool(1, 100).expect("memory is free");
    assert_eq!(kept(service), 112);
    // The classes of low zones are powers of two.
    let low = service.mempool_alloc(&pool, Gfp::ATOMIC | Gfp::DMA);
    let other = service.mempool_alloc_preallocated(&pool);
    assert_eq!((service.ksize(low), service.ksize(other), kept(service)), (128, 112, 0));
    for (element, bytes) in [(low, 128), (other, 128)] {
        // SAFETY: each is freed once.
        unsafe { service.mempool_free(element, &pool) };
        assert_eq!(kept(service), bytes);
    }
    destroy(service, pool);
    assert_eq!(kept(service), 0);
    assert_nothing_in_use(service);
}

#[test]
fn elements_of_an_owners_own_functions_stay_in_use() {
    fn alloc(gfp: Gfp, service: *mut ()) -> *mut u8 {
        // SAFETY: the test passes its service.
        unsafe { &*service.cast::<TestService>() }.kmalloc(64, gfp)
    }
    fn free(element: *mut u8, service: *mut ()) {
        // SAFETY: as above; the element came from `alloc` and is freed once.
        unsafe { (*service.cast::<TestService>()).kfree(element) };
    }
    let hosted = hosted();
    let service = hosted.service();
    let data = ptr::from_ref(service).cast_mut().cast();
    // SAFETY: the functions may be called anywhere, and the service stays.
    let pool = unsafe { service.mempool_create(10, alloc, free, data) }.expect("memory is free");
    assert_eq!(kept(service), 0);
    assert!(service.statistics().slab_in_use >= 640);
    destroy(service, pool);
    assert_nothing_in_use(service);
}

/// Elements until there are no more, no two of them the same.
#[track_caller]
fn all_of(mut alloc: impl FnMut() -> *mut u8) -> Vec<*mut u8> {
    let elements: Vec<_> = std::iter::from_fn(|| Some(alloc()).filter(|element| !element.is_null())).collect();
    let places: HashSet<_> = elements.iter().collect();
    assert_eq!(places.len(), elements.len(), "an element was given twice");
    elements
}

#[test]
fn a_pool_with_elements_out_is_not_destroyed_and_loses_nothing() {
    let service = hosted().service();
    let pool = service.mempool_create_kmalloc_pool(2, 64).expect("memory is free");
    let element = service.mempool_alloc(&pool, Gfp::KERNEL);
    let error = service.mempool_destroy(pool).expect_err("an element is out");
    assert_eq!(error.count, 1);
    assert_eq!(
        error.to_string(),
        "mempool_destroy of a pool of kmalloc(64), of which 1 elements are in use: free them first"
    );
    // SAFETY: freed once.
    unsafe { service.mempool_free(element, &error.pool) };
    destroy(service, error.pool);
    assert_nothing_in_use(service);
}

#[test]
fn a_guard_gives_its_element_back() {
    let service = hosted().service();
    let elsewhere = Elsewhere::with(1);
    let pool = Elsewhere::pool(service, 1, &elsewhere).expect("there is one element");
    let element = service.mempool_element(&pool, Gfp::NOWAIT).expect("it is in the reserve");
    assert!(service.mempool_element(&pool, Gfp::NOWAIT).is_none());
    drop(element);
    assert!(service.mempool_element(&pool, Gfp::NOWAIT).is_some());
    destroy(service, pool);
    assert!(elsewhere.lock().expect("no test panics inside").live.is_empty());
}

#[test]
#[should_panic(expected = "a double free")]
fn an_element_in_the_reserve_is_not_freed_again() {
    let service = hosted().service();
    let pool = service.mempool_create_kmalloc_pool(3, 64).expect("memory is free");
    let (first, second) = (service.mempool_alloc_preallocated(&pool), service.mempool_alloc_preallocated(&pool));
    assert!(!second.is_null());
    // SAFETY: the second free is what is tested; it frees nothing.
    unsafe {
        service.mempool_free(first, &pool);
        service.mempool_free(first, &pool);
    }
}

#[test]
#[should_panic(expected = "has no element in use")]
fn more_elements_than_were_allocated_are_not_freed() {
    let service = hosted().service();
    let pool = service.mempool_create_page_pool(1, Order::ZERO).expect("memory is free");
    let block = service.get_free_pages(Gfp::KERNEL, Order::ZERO);
    // SAFETY: a foreign block is what is tested; it is not freed.
    unsafe { service.mempool_free(block, &pool) };
}

#[test]
#[should_panic(expected = "which is not the start of an object")]
fn what_is_no_object_does_not_get_into_the_reserve() {
    let service = hosted().service();
    let pool = service.mempool_create_kmalloc_pool(1, 64).expect("memory is free");
    let element = service.mempool_alloc_preallocated(&pool);
    // SAFETY: what is tested; it frees nothing.
    unsafe { service.mempool_free(element.wrapping_add(8), &pool) };
}

#[test]
#[should_panic(expected = "was freed while a pool of kmalloc(20000) kept it")]
fn an_element_freed_behind_the_pools_back_is_not_handed_out() {
    let service = hosted().service();
    let pool = service.mempool_create_kmalloc_pool(1, 20_000).expect("memory is free");
    let element = service.mempool_alloc_preallocated(&pool);
    // SAFETY: the second free is what is tested; the element is not used after it.
    unsafe {
        service.mempool_free(element, &pool);
        service.kfree(element);
    }
    let _ = service.mempool_alloc_preallocated(&pool);
}

/// One call on a pool.
#[derive(Clone, Debug)]
enum Step {
    Alloc,
    Preallocated,
    Free(prop::sample::Index),
    Resize(usize),
    /// Elements come into being elsewhere.
    More(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Alloc),
        1 => Just(Step::Preallocated),
        4 => any::<prop::sample::Index>().prop_map(Step::Free),
        1 => (1usize..8).prop_map(Step::Resize),
        1 => (0usize..4).prop_map(Step::More),
    ];
    prop::collection::vec(step, 0..100)
}

proptest! {
    #![proptest_config(support::cases(100))]

    #[test]
    fn a_pool_does_what_its_model_does(minimum in 1usize..6, more in 0usize..4, steps in steps()) {
        static HOSTED: std::sync::OnceLock<&'static Hosted> = std::sync::OnceLock::new();
        let service = HOSTED.get_or_init(hosted).service();
        let elsewhere = Elsewhere::with(minimum + more);
        let pool = Elsewhere::pool(service, minimum, &elsewhere).expect("there are enough elements");
        let left = || elsewhere.lock().expect("no test panics inside").left;
        let (mut minimum, mut reserve, mut home) = (minimum, minimum, more);
        let mut out = Vec::new();
        for step in steps {
            match step {
                Step::Alloc => {
                    let element = service.mempool_alloc(&pool, Gfp::ATOMIC);
                    prop_assert_eq!(element.is_null(), home + reserve == 0);
                    if home > 0 { home -= 1 } else { reserve = reserve.saturating_sub(1) }
                    out.extend(Some(element).filter(|element| !element.is_null()));
                }
                Step::Preallocated => {
                    let element = service.mempool_alloc_preallocated(&pool);
                    prop_assert_eq!(element.is_null(), reserve == 0);
                    reserve = reserve.saturating_sub(1);
                    out.extend(Some(element).filter(|element| !element.is_null()));
                }
                Step::Free(index) if !out.is_empty() => {
                    let element = out.swap_remove(index.index(out.len()));
                    // SAFETY: each element is freed once.
                    unsafe { service.mempool_free(element, &pool) };
                    if reserve < minimum { reserve += 1 } else { home += 1 }
                }
                Step::Free(_) => {}
                Step::Resize(new) => {
                    prop_assert_eq!(service.mempool_resize(&pool, new), Ok(()));
                    minimum = new;
                    home += reserve.saturating_sub(minimum);
                    reserve = reserve.min(minimum);
                    let filled = home.min(minimum - reserve);
                    (home, reserve) = (home - filled, reserve + filled);
                }
                Step::More(count) => {
                    elsewhere.lock().expect("no test panics inside").left += count;
                    home += count;
                }
            }
            prop_assert_eq!(left(), home);
            prop_assert_eq!(elsewhere.lock().expect("no test panics inside").live.len(), reserve + out.len());
        }
        for element in out {
            // SAFETY: as above.
            unsafe { service.mempool_free(element, &pool) };
        }
        destroy(service, pool);
        prop_assert!(elsewhere.lock().expect("no test panics inside").live.is_empty());
        assert_nothing_in_use(service);
    }
}

#[test]
fn those_who_wait_are_served_in_their_order() {
    let hosted = hosted();
    let service = hosted.service();
    let elsewhere = Elsewhere::with(1);
    let pool = Elsewhere::pool(service, 1, &elsewhere).expect("there is one element");
    let element = service.mempool_alloc(&pool, Gfp::KERNEL);
    let order = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (pool, order) = (&pool, &order);
            scope.spawn(move || {
                let element = service.mempool_alloc(pool, Gfp::KERNEL);
                order.lock().expect("no thread panics").push(number);
                // SAFETY: freed once.
                unsafe { service.mempool_free(element, pool) };
            });
            // The next comes when this one waits.
            while service.pool_waiters() <= number {
                std::thread::yield_now();
            }
        }
        let mut waiting = 0;
        service.for_each_pool_waiter(|_, pool| {
            assert!(pool.to_string().starts_with("a pool of elements of its owner's"));
            waiting += 1;
        });
        assert_eq!(waiting, 4);
        assert!(service.mempool_alloc(&pool, Gfp::NOWAIT).is_null(), "who may not wait gets nothing");
        // SAFETY: freed once.
        unsafe { service.mempool_free(element, &pool) };
    });
    assert_eq!(*order.lock().expect("no thread panics"), [0, 1, 2, 3]);
    assert_eq!(service.pool_waiters(), 0);
    destroy(service, pool);
}

#[test]
fn a_waiter_gets_memory_that_came_back_elsewhere_before_a_newcomer_does() {
    let hosted = hosted();
    let service = hosted.service();
    let elsewhere = Elsewhere::with(1);
    let pool = Elsewhere::pool(service, 1, &elsewhere).expect("there is one element");
    let element = service.mempool_alloc(&pool, Gfp::KERNEL);
    let served = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let element = service.mempool_alloc(&pool, Gfp::KERNEL);
            served.store(true, Ordering::Release);
            // SAFETY: freed once.
            unsafe { service.mempool_free(element, &pool) };
        });
        while service.pool_waiters() == 0 {
            std::thread::yield_now();
        }
        // No element of the pool comes back; the newcomer finds two elsewhere and may keep the second.
        elsewhere.lock().expect("no test panics inside").left = 2;
        let second = service.mempool_alloc(&pool, Gfp::KERNEL);
        while !served.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        // SAFETY: each is freed once.
        unsafe {
            service.mempool_free(second, &pool);
            service.mempool_free(element, &pool);
        }
    });
    destroy(service, pool);
    assert!(elsewhere.lock().expect("no test panics inside").live.is_empty());
}

#[test]
fn threads_go_on_with_a_pool_of_few_elements_when_all_other_memory_is_gone() {
    const THREADS: usize = 6;
    const ROUNDS: usize = 200;
    for minimum in [1, 2, 4] {
        let hosted = hosted();
        let service = hosted.service();
        let pools = [
            service.mempool_create_kmalloc_pool(minimum, 2048).expect("memory is free"),
            service.mempool_create_page_pool(minimum, Order::ZERO).expect("memory is free"),
        ];
        let (ready, start) = (Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));
        let rounds = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for number in 0..THREADS {
                let (pools, ready, start, rounds) = (&pools, &ready, &start, &rounds);
                scope.spawn(move || {
                    hosted.run_on(CpuId(number as u16));
                    ready.wait();
                    start.wait();
                    for round in 0..ROUNDS {
                        let pool = &pools[round % 2];
                        let element = service.mempool_element(pool, Gfp::NOIO).expect("who may wait gets one");
                        let mark = (number * ROUNDS + round) as u64;
                        // SAFETY: the element has room for it and is this thread's alone.
                        unsafe {
                            element.as_ptr().cast::<u64>().write_volatile(mark);
                            std::thread::yield_now();
                            assert_eq!(element.as_ptr().cast::<u64>().read_volatile(), mark, "somebody else has it");
                        }
                        drop(element);
                        rounds.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            ready.wait();
            let all = AllMemory::take(service);
            let objects = all_of(|| service.kmalloc(2048, Gfp::ATOMIC | Gfp::NOWARN));
            start.wait();
            while rounds.load(Ordering::Relaxed) < THREADS * ROUNDS {
                std::thread::yield_now();
            }
            // SAFETY: each is freed once.
            objects.into_iter().for_each(|object| unsafe { service.kfree(object) });
            drop(all);
        });
        for pool in pools {
            destroy(service, pool);
        }
        hosted.leave();
        assert_nothing_in_use(service);
    }
}
