//! What caches promise, hosted: shapes, constructors, merging, zones, checks at the call, and typed caches.

mod ends;

use std::sync::atomic::{AtomicUsize, Ordering};

use quarry_memory::hosted::{Hosted, HostedMachine};
use quarry_memory::{Cache, CacheError, CpuId, FreeError, Gfp, KmemCache, NodeId, Order, Service, SlabFlags, Topology};

const MIB: u64 = 1 << 20;

const OWN: SlabFlags = SlabFlags::NO_MERGE;

fn two_nodes() -> &'static Hosted {
    let topology = Topology::builder().node(512 * MIB, 2).node(512 * MIB, 2).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    assert!(hosted.run_on(CpuId(0)));
    hosted
}

fn create(service: &Service<HostedMachine>, size: usize, align: usize, flags: SlabFlags) -> KmemCache {
    service.kmem_cache_create("test", size, align, flags, None).expect("there is memory")
}

fn free(service: &Service<HostedMachine>, cache: &KmemCache, object: *mut u8) {
    // SAFETY: the tests free what they allocated, once.
    unsafe { service.kmem_cache_free(cache, object) };
}

fn bytes_of<'a>(object: *mut u8, size: usize) -> &'a mut [u8] {
    // SAFETY: the tests pass objects of theirs with at least that many bytes.
    unsafe { std::slice::from_raw_parts_mut(object, size) }
}

#[track_caller]
fn assert_books_balance(service: &Service<HostedMachine>) {
    let rows = service.statistics();
    assert!(rows.adds_up(), "{rows:#?}\nsum {}", rows.rows().iter().map(|row| row.1).sum::<u64>());
    assert_eq!(rows.slab_in_use, service.count_objects_in_use(), "{rows:#?}");
    service.validate().unwrap_or_else(|broken| panic!("{broken}"));
}

#[test]
fn objects_are_as_large_and_aligned_as_asked_and_do_not_overlap() {
    let service = two_nodes().service();
    let shapes =
        [(1, 0), (8, 8), (9, 0), (24, 16), (40, 64), (100, 0), (100, 4096), (1000, 256), (5000, 0), (32_768, 0)];
    for (size, align) in shapes {
        let cache = create(service, size, align, OWN);
        assert_eq!(service.kmem_cache_size(&cache), size);
        let objects: Vec<_> = (0..150).map(|_| service.kmem_cache_alloc(&cache, Gfp::KERNEL)).collect();
        for (number, &object) in objects.iter().enumerate() {
            assert!(
                !object.is_null() && object.addr().is_multiple_of(align.max(8)),
                "{size} at {object:p} for {align}"
            );
            bytes_of(object, size).fill(number as u8);
        }
        assert_books_balance(service);
        for (number, &object) in objects.iter().enumerate() {
            assert!(bytes_of(object, size).iter().all(|&byte| byte == number as u8), "{size} bytes at {object:p}");
            free(service, &cache, object);
        }
        assert_books_balance(service);
        service.kmem_cache_destroy(cache).expect("nothing is in use");
        assert_eq!(service.statistics().slab_in_use, 0);
    }
}

#[test]
fn what_cannot_be_made_is_told() {
    let service = two_nodes().service();
    let error = |size, align, flags| service.kmem_cache_create("bad", size, align, flags, None).map(drop);
    assert_eq!(error(0, 0, OWN), Err(CacheError::NoSize));
    assert_eq!(error(32_769, 0, OWN), Err(CacheError::TooLarge { size: 32_769 }));
    assert_eq!(error(usize::MAX, 0, OWN), Err(CacheError::TooLarge { size: usize::MAX }));
    assert_eq!(error(64, 24, OWN), Err(CacheError::BadAlignment { align: 24 }));
    assert_eq!(error(64, 8192, OWN), Err(CacheError::BadAlignment { align: 8192 }));
    assert_eq!(error(64, 0, SlabFlags::CACHE_DMA | SlabFlags::CACHE_DMA32), Err(CacheError::TwoZones));
    let constructed = service.kmem_cache_create("bad", 32_768, 0, OWN, Some(|_| ()));
    assert!(matches!(constructed, Err(CacheError::TooLarge { size: 32_768 })), "there is no room for the link word");
}

#[test]
#[should_panic(expected = "must have a size")]
fn a_cache_that_must_be_made_and_cannot_is_a_panic() {
    let _never = two_nodes().service().kmem_cache_create("must", 0, 0, SlabFlags::PANIC, None);
}

#[test]
fn hwcache_alignment_is_the_line_or_the_largest_part_of_it_that_holds_an_object() {
    let service = two_nodes().service();
    for (size, align) in [(5, 8), (12, 16), (20, 32), (40, 64), (64, 64), (65, 128), (150, 64)] {
        let cache = create(service, size, 0, OWN | SlabFlags::HWCACHE_ALIGN);
        let objects: Vec<_> = (0..100).map(|_| service.kmem_cache_alloc(&cache, Gfp::KERNEL)).collect();
        let common = objects.iter().map(|object| object.addr().trailing_zeros()).min().expect("there are some");
        assert_eq!(1 << common, align, "{size} bytes");
        for object in objects {
            free(service, &cache, object);
        }
        service.kmem_cache_destroy(cache).expect("nothing is in use");
    }
}

#[test]
fn caches_of_equal_shape_are_one_unless_told_otherwise() {
    let service = two_nodes().service();
    let first = service.kmem_cache_create("first", 60, 0, SlabFlags::empty(), None).expect("there is memory");
    let same = service.kmem_cache_create("second", 64, 64, SlabFlags::empty(), None).expect("there is memory");
    assert_eq!(same.name().to_string(), "first");
    assert_eq!((service.kmem_cache_size(&first), service.kmem_cache_size(&same)), (60, 64));
    let object = service.kmem_cache_alloc(&first, Gfp::KERNEL);
    free(service, &same, object);
    let others = [
        service.kmem_cache_create("own", 64, 0, OWN, None),
        service.kmem_cache_create("low", 64, 0, SlabFlags::CACHE_DMA32, None),
        service.kmem_cache_create("reclaimable", 64, 0, SlabFlags::RECLAIM_ACCOUNT, None),
        service.kmem_cache_create("larger", 65, 0, SlabFlags::empty(), None),
        service.kmem_cache_create("constructed", 56, 0, SlabFlags::empty(), Some(|_| ())),
    ];
    let kept = service.kmem_cache_alloc(&first, Gfp::KERNEL);
    for other in others {
        let other = other.expect("there is memory");
        assert_ne!(other.name().to_string(), "first");
        // SAFETY: the object is in use; that it is not freed is the test.
        let error = unsafe { service.try_kmem_cache_free(&other, kept) };
        assert_eq!(error, Err(FreeError::WrongCache(kept.addr())));
        service.kmem_cache_destroy(other).expect("nothing is in use");
    }
    service.kmem_cache_destroy(first).expect("the other handle keeps the cache");
    free(service, &same, kept);
    service.kmem_cache_destroy(same).expect("nothing is in use");
    assert_books_balance(service);
}

#[test]
fn a_constructor_runs_once_for_each_object_and_its_work_outlives_frees() {
    static CONSTRUCTED: AtomicUsize = AtomicUsize::new(0);
    fn constructor(object: *mut u8) {
        CONSTRUCTED.fetch_add(1, Ordering::Relaxed);
        bytes_of(object, 100).fill(0xc5);
    }
    let hosted = two_nodes();
    let service = hosted.service();
    let cache = service.kmem_cache_create("made", 100, 0, SlabFlags::empty(), Some(constructor)).expect("memory");
    let mut objects = Vec::new();
    for round in 0..20 {
        for _ in 0..200 {
            let object = service.kmem_cache_alloc(&cache, Gfp::KERNEL);
            assert!(bytes_of(object, 100).iter().all(|&byte| byte == 0xc5), "round {round}: {object:p}");
            objects.push(object);
        }
        assert!(hosted.run_on(CpuId(round % 4)), "objects go other ways, too");
        objects.drain(..).for_each(|object| free(service, &cache, object));
        if round % 3 == 0 {
            service.drain_local();
        }
    }
    let slabs = service.slabs().find(|slab| slab.name().to_string() == "made").expect("it is there");
    let once_each = CONSTRUCTED.load(Ordering::Relaxed) as u64;
    assert!(once_each >= slabs.objects() && once_each < 3000, "{once_each} for {slabs:?}");
    let zeroed = service.kmem_cache_zalloc(&cache, Gfp::KERNEL);
    assert!(bytes_of(zeroed, 100).iter().all(|&byte| byte == 0));
    assert_eq!(service.ksize(zeroed), 104, "the link word is not the user's");
    free(service, &cache, zeroed);
    assert_books_balance(service);
    hosted.run_on(CpuId(0));
    service.kmem_cache_destroy(cache).expect("nothing is in use");
}

#[test]
fn zeroed_objects_are_zero_also_when_they_were_used_before() {
    let service = two_nodes().service();
    let cache = create(service, 200, 0, OWN);
    for round in 0..200 {
        let object = match round % 3 {
            0 => service.kmem_cache_zalloc(&cache, Gfp::KERNEL),
            1 => service.kmem_cache_alloc(&cache, Gfp::KERNEL | Gfp::ZERO),
            _ => service.kmem_cache_alloc_node(&cache, Gfp::KERNEL | Gfp::ZERO, NodeId(1)),
        };
        assert!(bytes_of(object, 200).iter().all(|&byte| byte == 0), "round {round}");
        bytes_of(object, 200).fill(0xff);
        free(service, &cache, object);
    }
    service.kmem_cache_destroy(cache).expect("nothing is in use");
}

#[test]
fn with_objects_available_no_flag_reaches_the_page_layer() {
    let hosted = two_nodes();
    let service = hosted.service();
    let cache = create(service, 512, 0, OWN);
    let stay = service.kmem_cache_alloc(&cache, Gfp::KERNEL);
    let slabs = |service: &Service<HostedMachine>| {
        service.slabs().find(|slab| slab.name().to_string() == "test").map(|slab| (slab.slabs, slab.objects()))
    };
    let (before, pages) = (slabs(service), service.slow_paths().page_refills);
    // All memory is taken: whoever asked for a page would get none.
    let mut taken: Vec<_> = (0..=10u32)
        .rev()
        .filter_map(Order::new)
        .flat_map(|order| {
            std::iter::from_fn(move || Some((service.alloc_pages(Gfp::ATOMIC | Gfp::NOWARN, order)?, order)))
        })
        .collect();
    let refused = service.slow_paths().page_refills;
    assert!(refused >= pages);
    let strict =
        [Gfp::NOWAIT, Gfp::ATOMIC, Gfp::DMA, Gfp::DMA32, Gfp::KERNEL | Gfp::THISNODE, Gfp::NORETRY, Gfp::empty()];
    for flags in strict.into_iter().cycle().take(70) {
        let object = service.kmem_cache_alloc(&cache, flags);
        assert!(!object.is_null(), "{flags}: from the magazine");
        free(service, &cache, object);
        service.drain_local();
        let object = service.kmem_cache_alloc(&cache, flags);
        assert!(!object.is_null(), "{flags}: from the depot");
        free(service, &cache, object);
    }
    assert_eq!(slabs(service), before);
    assert_eq!(service.slow_paths().page_refills, refused, "no request reached the page layer");
    let all: Vec<_> = std::iter::from_fn(|| {
        let object = service.kmem_cache_alloc(&cache, Gfp::NOWAIT | Gfp::NOWARN);
        (!object.is_null()).then_some(object)
    })
    .collect();
    assert_eq!(all.len() as u64 + 1, before.expect("it is there").1, "and without one it fails");
    taken.drain(..).for_each(|(block, order)| service.__free_pages(block, order));
    all.into_iter().chain([stay]).for_each(|object| free(service, &cache, object));
    service.kmem_cache_destroy(cache).expect("nothing is in use");
}

#[test]
fn slabs_come_from_the_zone_a_cache_is_for_whatever_the_callers_flags() {
    let topology = Topology::builder().node(6 << 30, 1).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    let service = hosted.service();
    for (flags, limit) in [(SlabFlags::CACHE_DMA, 16 << 20), (SlabFlags::CACHE_DMA32, 4u64 << 30), (OWN, u64::MAX)] {
        let cache = create(service, 300, 0, flags);
        let objects: Vec<_> = (0..100)
            .map(|round| service.kmem_cache_alloc(&cache, if round % 2 == 0 { Gfp::KERNEL } else { Gfp::DMA }))
            .collect();
        for &object in &objects {
            let end = service.virt_to_page(object).expect("objects are in RAM").physical() + 4096;
            assert!(end <= limit, "{flags:?}: {end:#x}");
            assert!(limit != u64::MAX || end > 16 << 20, "a flag of the caller moved a slab: {end:#x}");
            free(service, &cache, object);
        }
        service.kmem_cache_destroy(cache).expect("nothing is in use");
    }
    assert_books_balance(service);
}

#[test]
fn objects_come_from_the_node_asked_for() {
    let hosted = two_nodes();
    let service = hosted.service();
    let cache = create(service, 128, 0, OWN);
    for cpu in [CpuId(0), CpuId(2)] {
        assert!(hosted.run_on(cpu));
        for node in [NodeId(0), NodeId(1)] {
            let objects: Vec<_> = (0..200).map(|_| service.kmem_cache_alloc_node(&cache, Gfp::KERNEL, node)).collect();
            for object in objects {
                let frame = service.virt_to_page(object).expect("objects are in RAM");
                assert_eq!(service.page_to_node(frame), Some(node), "on {cpu}");
                free(service, &cache, object);
            }
        }
        assert!(service.kmem_cache_alloc_node(&cache, Gfp::KERNEL, NodeId(2)).is_null());
    }
    for cpu in [CpuId(0), CpuId(2)] {
        hosted.run_on(cpu);
        service.drain_local();
    }
    service.kmem_cache_destroy(cache).expect("nothing is in use");
    assert_books_balance(service);
}

#[test]
fn a_free_of_what_is_no_object_of_the_cache_is_caught_wherever_the_object_is() {
    for constructor in [None, Some((|_| ()) as fn(*mut u8))] {
        let hosted = two_nodes();
        let service = hosted.service();
        let cache = service.kmem_cache_create("test", 96, 0, OWN, constructor).expect("there is memory");
        // SAFETY: none of these may be freed, which is what is tested; nothing is.
        let try_free = |object: *mut u8| unsafe { service.try_kmem_cache_free(&cache, object) };
        let object = service.kmem_cache_alloc(&cache, Gfp::KERNEL);
        let inside = object.wrapping_add(8);
        assert_eq!(try_free(inside), Err(FreeError::Misaligned(inside.addr())));
        let stranger = service.kmalloc(96, Gfp::KERNEL);
        assert_eq!(try_free(stranger), Err(FreeError::WrongCache(stranger.addr())));
        let large = service.kmalloc(100_000, Gfp::KERNEL);
        assert!(matches!(try_free(large), Err(FreeError::NotAnObject(_))));
        assert_eq!(try_free(std::ptr::null_mut()), Ok(()));
        free(service, &cache, object);
        assert_eq!(try_free(object), Err(FreeError::DoubleFree(object.addr())), "in a magazine");
        service.drain_local();
        assert_eq!(try_free(object), Err(FreeError::DoubleFree(object.addr())), "in a depot");
        let far = service.kmem_cache_alloc_node(&cache, Gfp::KERNEL, NodeId(1));
        free(service, &cache, far);
        assert_eq!(try_free(far), Err(FreeError::DoubleFree(far.addr())), "on its way home");
        // SAFETY: each freed once; kfree may be used for any object.
        unsafe {
            let other = service.kmem_cache_alloc(&cache, Gfp::KERNEL);
            service.kfree(other);
            service.kfree(stranger);
            service.kfree(large);
        }
        assert_books_balance(service);
        service.kmem_cache_destroy(cache).expect("nothing is in use");
        // SAFETY: as above.
        let error = unsafe { service.try_kfree(object) };
        assert_eq!(error, Err(FreeError::NotAnObject(object.addr())));
    }
}

#[test]
fn there_may_be_more_caches_than_magazines_and_they_work_alike() {
    let hosted = two_nodes();
    let service = hosted.service();
    let mut caches = Vec::new();
    let error = loop {
        match service.kmem_cache_create("one of many", 8 + 8 * (caches.len() % 100), 0, OWN, None) {
            Ok(cache) => caches.push(cache),
            Err(error) => break error,
        }
    };
    assert_eq!((error, caches.len()), (CacheError::TooManyCaches, 895));
    for round in 0..2 {
        for cache in &caches {
            let object = service.kmem_cache_alloc(cache, Gfp::KERNEL);
            bytes_of(object, service.kmem_cache_size(cache)).fill(round);
            free(service, cache, object);
            // SAFETY: refused, which is the test.
            assert!(unsafe { service.try_kmem_cache_free(cache, object) }.is_err());
        }
    }
    assert_books_balance(service);
    for cache in caches {
        service.kmem_cache_destroy(cache).expect("nothing is in use");
    }
    let rows = service.statistics();
    assert_eq!((rows.slab_in_use, rows.per_cpu_magazines + rows.depots, rows.slab_free), (0, 0, 0), "{rows:#?}");
    assert_books_balance(service);
}

#[test]
fn shrinking_gives_back_what_is_free() {
    let service = two_nodes().service();
    let cache = create(service, 256, 0, OWN);
    let objects: Vec<_> = (0..1000).map(|_| service.kmem_cache_alloc(&cache, Gfp::KERNEL)).collect();
    objects.iter().skip(1).for_each(|&object| free(service, &cache, object));
    service.kmem_cache_shrink(&cache);
    let slabs = service.slabs().find(|slab| slab.name().to_string() == "test").expect("it is there");
    assert_eq!((slabs.slabs, slabs.empty_slabs, slabs.active_objects()), (1, 0, 1), "{slabs:?}");
    free(service, &cache, objects[0]);
    service.kmem_cache_destroy(cache).expect("nothing is in use");
    assert_books_balance(service);
}

/// Counts its drops.
#[derive(Debug)]
#[repr(align(32))]
struct Counted<'a>(&'a AtomicUsize, u8);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_box_of_a_typed_cache_drops_its_value_once_and_returns_its_memory() {
    let service = two_nodes().service();
    let drops = AtomicUsize::new(0);
    let cache = Cache::new(service, "counted").expect("there is memory");
    let mut boxes: Vec<_> =
        (0..100).map(|number| cache.alloc(Counted(&drops, number), Gfp::KERNEL).expect("there is memory")).collect();
    for (number, counted) in boxes.iter_mut().enumerate() {
        assert!(std::ptr::from_ref(&**counted).addr().is_multiple_of(32));
        assert_eq!(usize::from(counted.1), number);
        counted.1 = 7;
    }
    let kept = boxes.pop().expect("there are some").into_inner();
    assert_eq!((kept.1, drops.load(Ordering::Relaxed)), (7, 0), "moving a value out drops nothing");
    let elsewhere = boxes.split_off(50);
    std::thread::scope(|scope| scope.spawn(move || drop(elsewhere)).join().expect("it does not panic"));
    drop(boxes);
    assert_eq!(drops.load(Ordering::Relaxed), 99);
    assert_eq!(service.statistics().slab_in_use, 0);
    drop(cache);
    assert_books_balance(service);
}

#[test]
fn a_value_for_which_there_is_no_memory_comes_back() {
    let topology = Topology::builder().node(16 * MIB, 1).build().expect("a machine");
    let service = Hosted::leak(topology).expect("there is address space").service();
    let cache = Cache::new(service, "large").expect("there is memory");
    let mut boxes = Vec::new();
    let refused = loop {
        match cache.alloc([boxes.len(); 1000], Gfp::NOWAIT | Gfp::NOWARN) {
            Ok(value) => boxes.push(value),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.0, [boxes.len(); 1000]);
    drop(boxes);
    assert!(cache.alloc(refused.0, Gfp::KERNEL).is_ok());
}
