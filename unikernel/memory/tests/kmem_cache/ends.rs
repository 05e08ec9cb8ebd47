//! How caches end: with all objects given back, with some in use, and what becomes of their ids and slabs.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use quarry_memory::hosted::Hosted;
use quarry_memory::{CpuId, FreeError, Gfp, KmemCache};

use super::{OWN, assert_books_balance, bytes_of, create, free, two_nodes};

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
    let errand = |objects: &[*mut u8]| {
        let addresses = objects.iter().map(|object| object.expose_provenance()).collect();
        *ERRAND.lock().expect("no holder panics") = Some((hosted, cache, addresses));
    };
    // Once for the depot to get a stack, once to come back to that, from where they are taken first.
    errand(&objects);
    construct_and_run_errand(objects[0]);
    let objects = take(of_a_slab);
    errand(&objects);
    let before = CONSTRUCTED.load(Ordering::Relaxed);
    let last = take(1)[0];
    assert_eq!(CONSTRUCTED.load(Ordering::Relaxed) - before, of_a_slab, "a second slab was made");
    assert!(objects.contains(&last), "and not needed: the object came back from the other CPU");
    free(service, cache, last);

    service.kmem_cache_shrink(cache);
    let rows = service.statistics();
    assert_eq!((rows.slab_in_use, rows.slab_free, rows.slab_waste), (0, 0, 0), "{rows:#?}");
    assert_books_balance(service);
}
