//! Caches of objects on real CPUs: in handlers, across CPUs and nodes, constructed, as their flags say, and destroyed
//! while others idle.

use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use quarry_unikernel::memory::service;
use quarry_unikernel::memory_service::{Cache, FreeError, Gfp, KmemCache, Mobility, SlabFlags};
use quarry_unikernel::{cpus, topology};

use crate::harness::Outcome;
use crate::interrupts::{raise_and_wait, register};
use crate::team::{another_cpu, check_on_every_cpu, on_cpu};
use crate::{check, check_equal, tests};

const ALLOCATING: u8 = 0x58;

/// What a constructor writes; objects are given back with it.
const MADE: u64 = 0x6d61_6465;

fn create(name: &'static str, size: usize, flags: SlabFlags) -> Result<KmemCache, alloc::string::String> {
    let cache = service().kmem_cache_create(name, size, 0, flags | SlabFlags::NO_MERGE, None);
    cache.map_err(|error| alloc::format!("{error}"))
}

fn destroy(cache: KmemCache) -> Outcome {
    service().kmem_cache_destroy(cache).map_err(|remain| alloc::format!("{remain}"))
}

fn objects_come_from_the_nearest_node_and_go_back_from_any_cpu() -> Outcome {
    static CACHE: AtomicPtr<KmemCache> = AtomicPtr::new(ptr::null_mut());
    let cache = create("guest-nodes", 200, SlabFlags::empty())?;
    CACHE.store(ptr::from_ref(&cache).cast_mut(), Ordering::Release);
    check_on_every_cpu(|cpu| {
        // SAFETY: the cache is on the stack of the test, which waits for this thread.
        let cache = unsafe { &*CACHE.load(Ordering::Acquire) };
        let memory = service();
        let own = topology().cpus()[cpu.index()].node;
        let objects: Vec<_> =
            (0..300).map(|_| memory.kmem_cache_alloc(cache, Gfp::KERNEL).expose_provenance()).collect();
        for &object in &objects {
            let frame = memory.virt_to_page(ptr::with_exposed_provenance(object)).ok_or("an object is nowhere")?;
            check!(
                !topology().has_memory(own) || memory.page_to_node(frame) == Some(own),
                "{object:#x} is not on {own}"
            );
        }
        let all = objects.len();
        let freed = on_cpu(another_cpu(), move || {
            // SAFETY: as above; the object is freed once.
            let free = |object| unsafe {
                let cache = &*CACHE.load(Ordering::Acquire);
                service().try_kmem_cache_free(cache, ptr::with_exposed_provenance_mut(object))
            };
            objects.into_iter().filter(|&object| free(object).is_ok()).count()
        });
        check_equal!(freed, all, "objects freed on another CPU");
        Ok(())
    })?;
    destroy(cache)
}

fn a_constructed_object_stays_as_it_was_made() -> Outcome {
    static MADE_OBJECTS: AtomicU64 = AtomicU64::new(0);
    fn constructor(object: *mut u8) {
        // SAFETY: a constructor is given an object of the cache, which has 64 bytes.
        unsafe { object.cast::<[u64; 8]>().write([MADE; 8]) };
        MADE_OBJECTS.fetch_add(1, Ordering::Relaxed);
    }
    let memory = service();
    let cache = memory.kmem_cache_create("guest-made", 64, 64, SlabFlags::empty(), Some(constructor));
    let cache = cache.map_err(|error| alloc::format!("{error}"))?;
    let before = MADE_OBJECTS.load(Ordering::Relaxed);
    for _ in 0..50 {
        let objects: Vec<_> = (0..40).map(|_| memory.kmem_cache_alloc(&cache, Gfp::KERNEL)).collect();
        for object in objects {
            // SAFETY: the object is this test's, and has 64 bytes.
            let contents = unsafe { object.cast::<[u64; 8]>().read() };
            check!(contents == [MADE; 8], "{object:p} is {contents:x?}");
            // SAFETY: freed once.
            unsafe { memory.kmem_cache_free(&cache, object) };
        }
    }
    let made = MADE_OBJECTS.load(Ordering::Relaxed) - before;
    check!((40..2000).contains(&made), "{made} objects were made, for 2000 allocations of 40 at once");
    destroy(cache)
}

fn a_handler_allocates_and_frees() -> Outcome {
    static CACHE: AtomicPtr<KmemCache> = AtomicPtr::new(ptr::null_mut());
    static HANDLED: AtomicU64 = AtomicU64::new(0);
    static WRONG: AtomicU64 = AtomicU64::new(0);
    if HANDLED.load(Ordering::Relaxed) == 0 {
        register(ALLOCATING, |_| {
            // SAFETY: the test waits for its handler before the cache goes.
            let cache = unsafe { &*CACHE.load(Ordering::Acquire) };
            let mut objects = [ptr::null_mut(); 20];
            let got = service().kmem_cache_alloc_bulk(cache, Gfp::ATOMIC, &mut objects[..10]);
            for place in &mut objects[10..] {
                *place = service().kmem_cache_alloc(cache, Gfp::ATOMIC);
            }
            let right = got == 10 && objects.iter().all(|object| !object.is_null());
            WRONG.fetch_add(u64::from(!right), Ordering::Relaxed);
            // SAFETY: each freed once.
            unsafe { service().kmem_cache_free_bulk(cache, &objects) };
            HANDLED.fetch_add(1, Ordering::Relaxed);
        })?;
    }
    let cache = create("guest-handler", 120, SlabFlags::empty())?;
    CACHE.store(ptr::from_ref(&cache).cast_mut(), Ordering::Release);
    for _ in 0..20 {
        let object = service().kmem_cache_alloc(&cache, Gfp::KERNEL);
        raise_and_wait(ALLOCATING, &HANDLED)?;
        check!(!object.is_null(), "no memory");
        // SAFETY: freed once.
        unsafe { service().kmem_cache_free(&cache, object) };
    }
    check_equal!(WRONG.load(Ordering::Relaxed), 0, "allocations that failed in a handler");
    destroy(cache)?;
    // What the handlers' set cached was called in, too.
    let left = service().slabs().filter(|slab| alloc::format!("{}", slab.name()) == "guest-handler").count();
    check_equal!(left, 0, "caches that are still there");
    Ok(())
}

fn destroying_calls_in_what_idle_cpus_cache() -> Outcome {
    static CACHE: AtomicPtr<KmemCache> = AtomicPtr::new(ptr::null_mut());
    let cache = create("guest-idle", 88, SlabFlags::empty())?;
    CACHE.store(ptr::from_ref(&cache).cast_mut(), Ordering::Release);
    for cpu in cpus::online() {
        on_cpu(cpu, || {
            // SAFETY: the cache is on the stack of the test, which waits for this thread.
            let cache = unsafe { &*CACHE.load(Ordering::Acquire) };
            let object = service().kmem_cache_alloc(cache, Gfp::KERNEL);
            // SAFETY: freed once.
            unsafe { service().kmem_cache_free(cache, object) };
        });
    }
    let kept = service().kmem_cache_alloc(&cache, Gfp::KERNEL);
    let remain = service().kmem_cache_destroy(cache).err().ok_or("a cache with an object in use was destroyed")?;
    check_equal!(remain.objects, 1, "objects in use");
    // SAFETY: freed once.
    unsafe { service().kmem_cache_free(&remain.cache, kept) };
    // SAFETY: refused, which is the test.
    let again = unsafe { service().try_kmem_cache_free(&remain.cache, kept) };
    check_equal!(again, Err(FreeError::DoubleFree(kept.addr())), "a second free");
    destroy(remain.cache)?;
    let left = service().slabs().filter(|slab| alloc::format!("{}", slab.name()) == "guest-idle").count();
    check_equal!(left, 0, "caches that are still there");
    Ok(())
}

fn objects_of_a_cache_for_dma_are_low() -> Outcome {
    for (flags, limit) in [(SlabFlags::CACHE_DMA, 16_u64 << 20), (SlabFlags::CACHE_DMA32, 4 << 30)] {
        let cache = create("guest-low", 2000, flags)?;
        let objects: Vec<_> = (0..10).map(|_| service().kmem_cache_alloc(&cache, Gfp::KERNEL)).collect();
        for object in objects {
            let frame = service().virt_to_page(object).ok_or("an object is nowhere")?;
            check!(frame.physical() < limit, "{object:p} is at {:#x} with {flags:?}", frame.physical());
            // SAFETY: freed once.
            unsafe { service().kmem_cache_free(&cache, object) };
        }
        destroy(cache)?;
    }
    Ok(())
}

fn slabs_of_a_reclaimable_cache_are_among_reclaimable_memory() -> Outcome {
    for (flags, mobility) in
        [(SlabFlags::RECLAIM_ACCOUNT, Mobility::Reclaimable), (SlabFlags::empty(), Mobility::Unmovable)]
    {
        let cache = create("guest-mobility", 200, flags)?;
        let object = service().kmem_cache_alloc(&cache, Gfp::KERNEL);
        let place = service().virt_to_page(object).and_then(|frame| service().mobility_of(frame));
        // SAFETY: freed once; null is ignored.
        unsafe { service().kmem_cache_free(&cache, object) };
        destroy(cache)?;
        check_equal!(place, Some(mobility), "mobility of the pageblock of an object with {flags:?}");
    }
    Ok(())
}

fn objects_straddle_no_more_cache_lines_than_they_must() -> Outcome {
    for (size, align) in [(5, 8), (12, 16), (20, 32), (40, 64), (64, 64), (65, 128), (150, 64)] {
        let cache = create("guest-lines", size, SlabFlags::HWCACHE_ALIGN)?;
        let objects: Vec<_> = (0..100).map(|_| service().kmem_cache_alloc(&cache, Gfp::KERNEL)).collect();
        let common = objects.iter().map(|object| object.addr().trailing_zeros()).min();
        // SAFETY: each freed once.
        unsafe { service().kmem_cache_free_bulk(&cache, &objects) };
        destroy(cache)?;
        check_equal!(common.map(|zeros| 1 << zeros), Some(align), "alignment of objects of {size} bytes");
    }
    Ok(())
}

fn caches_of_equal_shape_are_one_unless_told_otherwise() -> Outcome {
    let create = |name, size, align, flags| {
        service().kmem_cache_create(name, size, align, flags, None).map_err(|error| alloc::format!("{error}"))
    };
    let first = create("guest-first", 60, 0, SlabFlags::empty())?;
    let same = create("guest-second", 64, 64, SlabFlags::empty())?;
    let own = create("guest-own", 64, 64, SlabFlags::NO_MERGE)?;
    check_equal!(alloc::format!("{}", own.name()), "guest-own", "the name of a cache of its own");
    let object = service().kmem_cache_alloc(&first, Gfp::KERNEL);
    // SAFETY: the first is refused, which is the test; the second frees it, once.
    let frees = unsafe { [&own, &same].map(|cache| service().try_kmem_cache_free(cache, object)) };
    check_equal!(frees, [Err(FreeError::WrongCache(object.addr())), Ok(())], "frees to another cache and to the same");
    [first, same, own].into_iter().try_for_each(destroy)
}

fn a_cache_that_must_be_made_is_made() -> Outcome {
    let cache = create("guest-must", 100, SlabFlags::PANIC)?;
    let object = service().kmem_cache_alloc(&cache, Gfp::KERNEL);
    check!(!object.is_null(), "no memory");
    // SAFETY: freed once.
    unsafe { service().kmem_cache_free(&cache, object) };
    destroy(cache)?;
    check!(create("guest-cannot", 0, SlabFlags::empty()).is_err(), "a cache of nothing is made");
    Ok(())
}

fn a_prefilled_sheaf_has_what_it_promised() -> Outcome {
    let cache = create("guest-sheaf", 72, SlabFlags::empty())?;
    let mut sheaf = service().kmem_cache_prefill_sheaf(&cache, Gfp::KERNEL, 100).ok_or("no memory")?;
    let mut objects = Vec::new();
    for left in (0..100).rev() {
        let object = service().kmem_cache_alloc_from_sheaf(Gfp::empty(), &mut sheaf);
        check!(!object.is_null() && sheaf.size() == left, "{object:p} with {} left, not {left}", sheaf.size());
        objects.push(object);
    }
    check!(service().kmem_cache_alloc_from_sheaf(Gfp::KERNEL, &mut sheaf).is_null(), "more than promised");
    service().kmem_cache_return_sheaf(sheaf);
    // SAFETY: each freed once.
    unsafe { service().kmem_cache_free_bulk(&cache, &objects) };
    destroy(cache)
}

fn boxes_of_a_typed_cache_return_themselves() -> Outcome {
    let strings = Cache::new(service(), "guest-typed").map_err(|error| alloc::format!("{error}"))?;
    let boxes: Vec<_> =
        (0..100).filter_map(|number| strings.alloc(alloc::format!("{number}"), Gfp::KERNEL).ok()).collect();
    check_equal!(boxes.len(), 100, "boxes");
    for (number, text) in boxes.iter().enumerate() {
        check_equal!(**text, alloc::format!("{number}"), "a boxed value");
    }
    Ok(())
}

tests! { "cache":
    objects_come_from_the_nearest_node_and_go_back_from_any_cpu,
    a_constructed_object_stays_as_it_was_made,
    a_handler_allocates_and_frees,
    destroying_calls_in_what_idle_cpus_cache,
    objects_of_a_cache_for_dma_are_low,
    slabs_of_a_reclaimable_cache_are_among_reclaimable_memory,
    objects_straddle_no_more_cache_lines_than_they_must,
    caches_of_equal_shape_are_one_unless_told_otherwise,
    a_cache_that_must_be_made_is_made,
    a_prefilled_sheaf_has_what_it_promised,
    boxes_of_a_typed_cache_return_themselves,
}
