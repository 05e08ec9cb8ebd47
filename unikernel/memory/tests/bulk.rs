//! Many objects at a time: all or none, checked one by one, and set aside beforehand.

use quarry_memory::hosted::{Hosted, HostedMachine};
use quarry_memory::{CpuId, Gfp, KmemCache, NodeId, Order, Pfn, Service, SlabFlags, Topology};

const MIB: u64 = 1 << 20;

fn two_nodes() -> &'static Hosted {
    let topology = Topology::builder().node(512 * MIB, 2).node(512 * MIB, 2).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    assert!(hosted.run_on(CpuId(0)));
    hosted
}

fn create(service: &Service<HostedMachine>, size: usize) -> KmemCache {
    service.kmem_cache_create("bulk", size, 0, SlabFlags::NO_MERGE, None).expect("there is memory")
}

#[track_caller]
fn assert_books_balance(service: &Service<HostedMachine>) {
    let rows = service.statistics();
    assert!(rows.adds_up(), "{rows:#?}");
    assert_eq!(rows.slab_in_use, service.count_objects_in_use(), "{rows:#?}");
}

/// Takes all pages, so that whoever asks for one gets none.
fn take_all_pages(service: &Service<HostedMachine>) -> Vec<(Pfn, Order)> {
    let orders: Vec<_> = Order::all().collect();
    let flags = Gfp::ATOMIC | Gfp::NOWARN;
    orders
        .into_iter()
        .rev()
        .flat_map(|order| std::iter::from_fn(move || Some((service.alloc_pages(flags, order)?, order))))
        .collect()
}

fn give_back(service: &Service<HostedMachine>, pages: Vec<(Pfn, Order)>) {
    for (block, order) in pages {
        service.__free_pages(block, order);
    }
}

#[test]
fn a_bulk_allocation_gives_different_objects_that_can_be_freed_one_by_one_or_together() {
    let hosted = two_nodes();
    let service = hosted.service();
    for count in [1, 7, 59, 60, 61, 1000] {
        let cache = create(service, 48);
        let mut objects = vec![std::ptr::null_mut(); count];
        for round in 0..4 {
            assert_eq!(service.kmem_cache_alloc_bulk(&cache, Gfp::KERNEL | Gfp::ZERO, &mut objects), count);
            assert_books_balance(service);
            for object in &objects {
                // SAFETY: the object is this test's, and has 48 bytes.
                let bytes = unsafe { std::slice::from_raw_parts_mut(*object, 48) };
                assert!(bytes.iter().all(|&byte| byte == 0), "zeroes were asked for");
                bytes.fill(0xee);
            }
            let mut sorted: Vec<_> = objects.iter().map(|object| object.addr()).collect();
            sorted.sort_unstable();
            assert!(sorted.windows(2).all(|pair| pair[0] + 48 <= pair[1]), "objects overlap");
            // Also from another node.
            hosted.run_on(CpuId(2 * (round % 2)));
            if round == 3 {
                // SAFETY: each freed once.
                objects.iter().for_each(|&object| unsafe { service.kmem_cache_free(&cache, object) });
            } else {
                // SAFETY: as above.
                unsafe { service.kmem_cache_free_bulk(&cache, &objects) };
            }
            assert_books_balance(service);
        }
        service.kmem_cache_destroy(cache).expect("nothing is in use");
        hosted.run_on(CpuId(0));
    }
}

#[test]
fn a_bulk_allocation_that_cannot_have_all_gets_none_and_loses_none() {
    let service = two_nodes().service();
    let cache = create(service, 1024);
    let mut objects = vec![std::ptr::null_mut(); 100];
    assert_eq!(service.kmem_cache_alloc_bulk(&cache, Gfp::KERNEL, &mut objects), 100);
    // SAFETY: each freed once.
    unsafe { service.kmem_cache_free_bulk(&cache, &objects) };
    let pages = take_all_pages(service);
    let in_use = service.statistics().slab_in_use;
    let mut too_many = vec![std::ptr::null_mut(); 100_000];
    assert_eq!(service.kmem_cache_alloc_bulk(&cache, Gfp::NOWAIT | Gfp::NOWARN, &mut too_many), 0);
    assert_eq!(service.statistics().slab_in_use, in_use);
    assert_books_balance(service);
    give_back(service, pages);
    assert_eq!(service.kmem_cache_alloc_bulk(&cache, Gfp::KERNEL, &mut objects), 100);
    // SAFETY: each freed once.
    unsafe { service.kmem_cache_free_bulk(&cache, &objects) };
    service.kmem_cache_destroy(cache).expect("nothing is in use");
}

#[test]
fn a_bulk_free_takes_runs_of_any_cache_and_node() {
    let hosted = two_nodes();
    let service = hosted.service();
    let cache = create(service, 40);
    let mut objects: Vec<_> = (0..500)
        .map(|number| match number / 7 % 5 {
            0 => service.kmalloc(number + 1, Gfp::KERNEL),
            1 => service.kmem_cache_alloc(&cache, Gfp::KERNEL),
            2 => service.kmem_cache_alloc_node(&cache, Gfp::KERNEL, NodeId(1)),
            3 => service.kmalloc_node(64, Gfp::KERNEL, NodeId(1)),
            _ => std::ptr::null_mut(),
        })
        .collect();
    objects.extend((0..100).map(|_| service.kmem_cache_alloc_node(&cache, Gfp::KERNEL, NodeId(1))));
    objects.push(service.kmalloc(100_000, Gfp::KERNEL));
    // SAFETY: each freed once.
    unsafe { service.kfree_bulk(&objects) };
    let rows = service.statistics();
    assert_eq!((rows.slab_in_use, rows.large), (0, 0));
    assert_books_balance(service);
    service.kmem_cache_destroy(cache).expect("nothing is in use");
}

#[test]
#[should_panic(expected = "a double free")]
fn an_object_that_is_twice_in_a_bulk_free_is_caught() {
    let service = two_nodes().service();
    let cache = create(service, 40);
    let mut objects = [std::ptr::null_mut(); 20];
    assert_eq!(service.kmem_cache_alloc_bulk(&cache, Gfp::KERNEL, &mut objects), 20);
    objects[13] = objects[4];
    // SAFETY: wrong on purpose, and refused, which is the test.
    unsafe { service.kmem_cache_free_bulk(&cache, &objects) };
}

#[test]
#[should_panic(expected = "of another cache")]
fn a_bulk_free_of_another_caches_objects_is_caught() {
    let service = two_nodes().service();
    let (cache, other) = (create(service, 40), create(service, 40));
    let mut objects = [std::ptr::null_mut(); 20];
    assert_eq!(service.kmem_cache_alloc_bulk(&other, Gfp::KERNEL, &mut objects), 20);
    // SAFETY: as above.
    unsafe { service.kmem_cache_free_bulk(&cache, &objects) };
}

#[test]
fn a_sheaf_gives_what_it_promised_without_a_page_in_the_machine() {
    fn constructor(object: *mut u8) {
        // SAFETY: objects of the cache below have 32 bytes.
        unsafe { object.write_bytes(0x5a, 32) };
    }
    let service = two_nodes().service();
    for constructor in [None, Some(constructor as fn(*mut u8))] {
        let cache = service.kmem_cache_create("sheaf", 32, 0, SlabFlags::NO_MERGE, constructor).expect("memory");
        let mut sheaf = service.kmem_cache_prefill_sheaf(&cache, Gfp::KERNEL, 777).expect("there is memory");
        let pages = take_all_pages(service);
        let mut objects = Vec::new();
        for left in (0..777).rev() {
            let object = service.kmem_cache_alloc_from_sheaf(Gfp::empty(), &mut sheaf);
            assert!(!object.is_null());
            assert_eq!(sheaf.size(), left);
            // SAFETY: the object is this test's, and has 32 bytes.
            let bytes = unsafe { std::slice::from_raw_parts(object, 32) };
            assert!(
                constructor.is_none() || bytes.iter().all(|&byte| byte == 0x5a),
                "a constructed object was touched"
            );
            objects.push(object);
        }
        assert!(service.kmem_cache_alloc_from_sheaf(Gfp::KERNEL, &mut sheaf).is_null());
        assert_books_balance(service);
        give_back(service, pages);
        assert!(service.kmem_cache_refill_sheaf(Gfp::KERNEL, &mut sheaf, 50));
        assert_eq!(sheaf.size(), 50);
        service.kmem_cache_return_sheaf(sheaf);
        // SAFETY: each freed once.
        unsafe { service.kmem_cache_free_bulk(&cache, &objects) };
        service.kmem_cache_destroy(cache).expect("nothing is in use");
        assert_books_balance(service);
    }
}

#[test]
fn a_sheaf_that_cannot_be_filled_is_none_and_takes_nothing() {
    let service = two_nodes().service();
    let cache = create(service, 4096);
    let pages = take_all_pages(service);
    let in_use = service.statistics().slab_in_use;
    assert!(service.kmem_cache_prefill_sheaf(&cache, Gfp::NOWAIT | Gfp::NOWARN, 100_000).is_none());
    assert_eq!(service.statistics().slab_in_use, in_use);
    give_back(service, pages);
    service.kmem_cache_destroy(cache).expect("nothing is in use");
}
