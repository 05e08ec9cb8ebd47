//! What caches promise, hosted: shapes, constructors, merging, zones, checks at the call, and how they end.

use std::collections::HashSet;
use std::sync::Mutex;
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
fn objects_that_a_destroyed_cache_still_has_are_reported_by_their_addresses() {
    static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let hosted = two_nodes();
    let service = hosted.service();
    assert!(hosted.on_warning(&|line| LINES.lock().expect("no listener panics").push(line.to_string())));
    let cache = service.kmem_cache_create("session", 1000, 0, OWN, None).expect("there is memory");
    let mut objects: Vec<_> = (0..24).map(|_| service.kmem_cache_alloc(&cache, Gfp::KERNEL)).collect();
    // Every fourth comes back before the end.
    for index in (0..24).rev().step_by(4) {
        free(service, &cache, objects.swap_remove(index));
    }
    let remain = service.kmem_cache_destroy(cache).expect_err("objects are in use");
    let lines = std::mem::take(&mut *LINES.lock().expect("no listener panics"));
    let mut text = lines.join("\n");
    let mut unreported: HashSet<_> = objects.iter().map(|object| object.addr()).collect();
    for line in lines.iter().filter_map(|line| line.strip_prefix("  Object ")) {
        let (address, offset) = line.split_once(" @offset=").expect("an offset");
        let number = address.strip_prefix("0x").and_then(|digits| usize::from_str_radix(digits, 16).ok());
        let number = number.expect("an address");
        assert!(unreported.remove(&number), "{line} is reported once and in use");
        // Slabs of this size are 8 KiB, and aligned to that.
        assert_eq!(offset.parse(), Ok(number % 8192), "{line}");
        text = text.replace(address, "0x...");
    }
    assert_eq!((unreported.len(), remain.objects), (2, 18));
    insta::assert_snapshot!(format!("{text}\n{remain}"), @"
    kmem_cache_destroy session: Slab cache still has objects
      Object 0x... @offset=7192
      Object 0x... @offset=6192
      Object 0x... @offset=5192
      Object 0x... @offset=3192
      Object 0x... @offset=2192
      Object 0x... @offset=1192
      Object 0x... @offset=7192
      Object 0x... @offset=6192
      Object 0x... @offset=5192
      Object 0x... @offset=3192
      Object 0x... @offset=2192
      Object 0x... @offset=1192
      Object 0x... @offset=7192
      Object 0x... @offset=6192
      Object 0x... @offset=5192
      Object 0x... @offset=3192
      and 2 more
    kmem_cache_destroy session: 18 objects are still in use: free them, then destroy it
    ");
    for object in objects {
        free(service, &remain.cache, object);
    }
    service.kmem_cache_destroy(remain.cache).expect("all came back");
    assert!(LINES.lock().expect("no listener panics").is_empty(), "there is nothing to report");
    assert_books_balance(service);
}

#[test]
fn a_destroyed_cache_with_objects_in_use_is_given_back_and_loses_none() {
    let hosted = two_nodes();
    let service = hosted.service();
    let cache = create(service, 72, 0, OWN);
    let kept: Vec<_> = (0..40).map(|_| service.kmem_cache_alloc(&cache, Gfp::KERNEL)).collect();
    let remain = service.kmem_cache_destroy(cache).expect_err("objects are in use");
    assert_eq!(remain.objects, 40);
    assert!(remain.to_string().contains("40 objects are still in use"), "{remain}");
    let cache = remain.cache;
    assert_books_balance(service);
    let more = service.kmem_cache_alloc(&cache, Gfp::KERNEL);
    for &object in kept.iter().skip(1).chain([&more]) {
        free(service, &cache, object);
    }
    let remain = service.kmem_cache_destroy(cache).expect_err("one is in use still");
    assert_eq!(remain.objects, 1);
    // SAFETY: freed once.
    unsafe { service.kfree(kept[0]) };
    service.kmem_cache_destroy(remain.cache).expect("all came back");
    assert_books_balance(service);
}

#[test]
fn an_id_is_given_again_only_when_no_cpu_can_have_an_object_of_the_old_cache() {
    let hosted = two_nodes();
    let service = hosted.service();
    let old = create(service, 64, 0, OWN);
    // Another CPU works, and keeps an object in its magazine.
    let (to_thread, from_main) = std::sync::mpsc::channel::<()>();
    let (to_main, from_thread) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let old = &old;
        let thread = scope.spawn(move || {
            assert!(hosted.run_on(CpuId(1)));
            let object = service.kmem_cache_alloc(old, Gfp::KERNEL);
            free(service, old, object);
            to_main.send(object.addr()).expect("main waits");
            from_main.recv().expect("main sends");
        });
        let cached = from_thread.recv().expect("the thread sends");
        let again = service.kmem_cache_alloc(old, Gfp::KERNEL);
        assert_ne!(again.addr(), cached, "it is the other CPU's");
        free(service, old, again);
        to_thread.send(()).expect("the thread waits");
        thread.join().expect("it does not panic");
    });
    // The thread has ended, and its set is in the pool, which a destroy calls in.
    service.kmem_cache_destroy(old).expect("nothing is in use");
    // The next cache has the id, another shape, and the magazines of the old one.
    let new =
        service.kmem_cache_create("new", 1000, 0, OWN, Some(|object| bytes_of(object, 1000).fill(7))).expect("memory");
    let objects: Vec<_> = (0..50).map(|_| service.kmem_cache_alloc(&new, Gfp::KERNEL)).collect();
    assert!(hosted.run_on(CpuId(1)));
    for &object in &objects {
        // SAFETY: refused, which is the test.
        let error = unsafe { service.try_kmem_cache_free(&new, object.wrapping_add(64)) };
        assert_eq!(error, Err(FreeError::Misaligned(object.addr() + 64)));
        free(service, &new, object);
    }
    for _ in 0..50 {
        let object = service.kmem_cache_alloc(&new, Gfp::KERNEL);
        assert!(bytes_of(object, 1000).iter().all(|&byte| byte == 7), "a word of the old cache's was written");
    }
    assert_books_balance(service);
}

#[test]
fn a_cache_that_a_working_cpu_has_objects_of_goes_when_that_gives_them_back() {
    let hosted = two_nodes();
    let service = hosted.service();
    let cache = create(service, 64, 0, OWN);
    let (to_thread, from_main) = std::sync::mpsc::channel::<()>();
    let (to_main, from_thread) = std::sync::mpsc::channel();
    let thread = {
        let objects: Vec<usize> =
            (0..10).map(|_| service.kmem_cache_alloc(&cache, Gfp::KERNEL).expose_provenance()).collect();
        std::thread::spawn(move || {
            assert!(hosted.run_on(CpuId(1)));
            for object in objects {
                // SAFETY: freed once.
                unsafe { service.kfree(std::ptr::with_exposed_provenance_mut(object)) };
            }
            to_main.send(()).expect("main waits");
            from_main.recv().expect("main sends");
            service.drain_local();
        })
    };
    from_thread.recv().expect("the thread sends");
    service.kmem_cache_destroy(cache).expect("nothing is in use");
    assert_books_balance(service);
    let dying = || service.slabs().filter(|slab| slab.name().to_string() == "test").map(|slab| slab.slabs).sum::<u64>();
    assert_eq!(dying(), 1, "the slab stays while a CPU has objects of it");
    to_thread.send(()).expect("the thread waits");
    thread.join().expect("it does not panic");
    service.shrink_depots();
    assert_eq!(dying(), 0);
    assert_books_balance(service);
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

/// What a constructor does once: frees objects, by their addresses, from a CPU of the other node.
type Errand = (&'static Hosted, &'static KmemCache, Vec<usize>);

static ERRAND: Mutex<Option<Errand>> = Mutex::new(None);
static CONSTRUCTED: AtomicUsize = AtomicUsize::new(0);

fn construct_and_run_errand(_object: *mut u8) {
    CONSTRUCTED.fetch_add(1, Ordering::Relaxed);
    let Some((hosted, cache, objects)) = ERRAND.lock().expect("no holder panics").take() else { return };
    let free = move || {
        assert!(hosted.run_on(CpuId(2)));
        let objects: Vec<*mut u8> = objects.into_iter().map(std::ptr::with_exposed_provenance_mut).collect();
        // SAFETY: the objects are the test's, which frees them here alone.
        unsafe { hosted.service().kmem_cache_free_bulk(cache, &objects) };
    };
    std::thread::spawn(free).join().expect("the free succeeds");
}

/// A slab is made without a lock, so what was wanted may come back from elsewhere meanwhile: then nothing is taken of the
/// new slab, and it must not be forgotten when the cache ends.
#[test]
fn a_slab_that_turns_out_not_to_be_needed_goes_with_its_cache() {
    let hosted = two_nodes();
    let service = hosted.service();
    let create = || service.kmem_cache_create("errand", 1000, 0, OWN, Some(construct_and_run_errand));
    let cache: &'static mut KmemCache = Box::leak(Box::new(create().expect("there is memory")));
    let cache: &'static KmemCache = cache;
    let take = |count: usize| {
        let mut objects = vec![std::ptr::null_mut(); count];
        assert_eq!(service.kmem_cache_alloc_bulk(cache, Gfp::KERNEL, &mut objects), count);
        objects
    };
    let mut objects = take(1);
    let of_a_slab = CONSTRUCTED.load(Ordering::Relaxed);
    objects.extend(take(of_a_slab - 1));
    let addresses = objects.iter().map(|object| object.expose_provenance()).collect();
    *ERRAND.lock().expect("no holder panics") = Some((hosted, cache, addresses));
    let last = take(1)[0];
    assert_eq!(CONSTRUCTED.load(Ordering::Relaxed), 2 * of_a_slab, "a second slab was made");
    assert!(objects.contains(&last), "and not needed: the object came back from the other CPU");
    free(service, cache, last);

    service.kmem_cache_shrink(cache);
    let rows = service.statistics();
    assert_eq!((rows.slab_in_use, rows.slab_free, rows.slab_waste), (0, 0, 0), "{rows:#?}");
    assert_books_balance(service);
}
