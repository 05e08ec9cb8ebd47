//! Calls written down (feature `trace`), hosted: which are told, in which order, and what happens when there is no room.
//!
//! Run by `cargo test -p quarry-memory --features trace --test trace`.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use quarry_memory::hosted::{Hosted, HostedMachine};
use quarry_memory::trace::{Action, Call};
use quarry_memory::{Gfp, NodeId, Service, SlabFlags, Topology};

const MIB: u64 = 1 << 20;

fn recording(calls: usize) -> &'static Service<HostedMachine> {
    let topology = Topology::builder().node(256 * MIB, 2).node(256 * MIB, 2).build().expect("a machine");
    let service = Hosted::leak(topology).expect("there is address space").service();
    service.start_trace(calls).expect("there is room");
    service
}

/// What was done, with numbers in place of addresses: the first is 0.
fn told(service: &Service<HostedMachine>) -> Vec<String> {
    let mut known = HashMap::new();
    let mut name = |address| {
        let next = known.len();
        *known.entry(address).or_insert(next)
    };
    let line = |call: Call| match call.action {
        Action::Allocate { address, size, node, zeroed, atomic } => {
            let node = node.map_or("-".to_owned(), |node| node.0.to_string());
            let flags = [(zeroed, "z"), (atomic, "a")].map(|(set, letter)| if set { letter } else { "" }).concat();
            format!("a {} {size} {node} {flags}", name(address))
        }
        Action::Resize { from, to, size } => format!("r {} {} {size}", name(from), name(to)),
        Action::Free { address } => format!("f {}", name(address)),
    };
    service.traced_calls().map(line).collect()
}

#[test]
fn every_call_is_told_once_as_it_was_made() {
    let service = recording(1000);
    // SAFETY: what is freed was allocated by the lines above, and is freed once.
    unsafe {
        let plain = service.kmalloc(100, Gfp::KERNEL);
        let zeroed = service.kzalloc(64, Gfp::ATOMIC);
        let array = service.kcalloc(3, 8, Gfp::KERNEL);
        let near = service.kmalloc_node(64, Gfp::KERNEL, NodeId(0));
        let far = service.kzalloc_node(64, Gfp::KERNEL, NodeId(1));
        let large = service.kmalloc(1 << 20, Gfp::KERNEL);
        let copy = service.kmemdup(b"four", Gfp::KERNEL);
        for object in [plain, zeroed, array, near, far, large] {
            service.kfree(object);
        }
        service.kfree_sensitive(copy);
        service.try_kfree(service.kmalloc(200, Gfp::KERNEL)).expect("it is an object");
    }
    assert_eq!(
        told(service),
        [
            "a 0 100 - ",
            "a 1 64 - za",
            "a 2 24 - z",
            "a 3 64 0 ",
            "a 4 64 1 z",
            "a 5 1048576 - ",
            "a 6 4 - ",
            "f 0",
            "f 1",
            "f 2",
            "f 3",
            "f 4",
            "f 5",
            "f 6",
            "a 7 200 - ",
            "f 7",
        ]
    );
}

#[test]
fn an_object_that_moves_is_told_before_its_old_place_is_given_back() {
    let service = recording(1000);
    // SAFETY: each result takes the place of what was resized.
    unsafe {
        let object = service.krealloc(ptr::null_mut(), 50, Gfp::KERNEL);
        let object = service.krealloc(object, 20, Gfp::KERNEL);
        let object = service.krealloc(object, 500, Gfp::KERNEL);
        service.krealloc(object, 0, Gfp::KERNEL);
    }
    assert_eq!(told(service), ["a 0 50 - ", "r 0 0 20", "r 0 1 500", "f 1"]);
}

#[test]
fn objects_of_caches_are_told_with_their_size() {
    let service = recording(1000);
    let cache = service.kmem_cache_create("told", 40, 0, SlabFlags::NO_MERGE, None).expect("a cache");
    let mut objects = [ptr::null_mut(); 3];
    // SAFETY: what is freed was allocated by the lines above, and is freed once.
    unsafe {
        let one = service.kmem_cache_alloc(&cache, Gfp::KERNEL | Gfp::ZERO);
        assert_eq!(service.kmem_cache_alloc_bulk(&cache, Gfp::KERNEL, &mut objects), 3);
        service.kmem_cache_free(&cache, one);
        service.kmem_cache_free_bulk(&cache, &objects[..2]);
        service.kfree_bulk(&objects[2..]);
    }
    let expected = ["a 0 40 - z", "a 1 40 - ", "a 2 40 - ", "a 3 40 - ", "f 0", "f 1", "f 2", "f 3"];
    assert_eq!(told(service), expected);
}

#[test]
fn what_gives_no_object_is_not_told() {
    let service = recording(1000);
    assert!(service.kmalloc(usize::MAX, Gfp::KERNEL | Gfp::NOWARN).is_null());
    let nothing = service.kmalloc(0, Gfp::KERNEL);
    // SAFETY: null and the object of no bytes may be freed.
    unsafe {
        service.kfree(ptr::null_mut());
        service.kfree(nothing);
    }
    assert_eq!(told(service), [""; 0]);
}

#[test]
fn a_free_is_told_before_it_is_made() {
    let service = recording(1000);
    let cache = service.kmem_cache_create("told", 40, 0, SlabFlags::NO_MERGE, None).expect("a cache");
    let (plain, cached) = (service.kmalloc(64, Gfp::KERNEL), service.kmem_cache_alloc(&cache, Gfp::KERNEL));
    let frees: [&dyn Fn(); 4] = [
        // SAFETY: a pointer into an object is no object: all of these panic, and free nothing.
        &|| unsafe { service.kfree(plain.wrapping_add(8)) },
        // SAFETY: as above.
        &|| unsafe { service.kfree_bulk(&[plain.wrapping_add(16)]) },
        // SAFETY: as above.
        &|| unsafe { service.kmem_cache_free(&cache, cached.wrapping_add(8)) },
        // SAFETY: as above.
        &|| unsafe { service.kmem_cache_free_bulk(&cache, &[cached.wrapping_add(16)]) },
    ];
    for free in frees {
        catch_unwind(AssertUnwindSafe(free)).expect_err("it is no object");
    }
    assert_eq!(told(service), ["a 0 64 - ", "a 1 40 - ", "f 2", "f 3", "f 4", "f 5"]);
}

#[test]
fn the_first_calls_are_kept_and_the_others_counted() {
    let service = recording(5);
    for _ in 0..4 {
        // SAFETY: it was allocated just now.
        unsafe { service.kfree(service.kmalloc(8, Gfp::KERNEL)) };
    }
    assert_eq!(told(service), ["a 0 8 - ", "f 0", "a 0 8 - ", "f 0", "a 0 8 - "]);
    assert_eq!(service.untraced_calls(), 3);
    service.stop_trace();
    // SAFETY: as above.
    unsafe { service.kfree(service.kmalloc(8, Gfp::KERNEL)) };
    assert_eq!(service.untraced_calls(), 3, "nothing is written down, or counted, when it is over");
}

#[test]
fn calls_of_many_cpus_stand_in_an_order_they_could_have_had() {
    const CALLS: usize = 300_000;
    let service = recording(CALLS);
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            scope.spawn(move || {
                let mut objects = [ptr::null_mut(); 16];
                for round in 0..20_000 {
                    let object = &mut objects[(round * 7 + thread) % 16];
                    // SAFETY: each slot's object is this thread's alone.
                    unsafe {
                        service.kfree(*object);
                        *object = service.krealloc(service.kmalloc(8 << (round % 4), Gfp::KERNEL), 40, Gfp::KERNEL);
                    }
                }
                // SAFETY: as above.
                objects.into_iter().for_each(|object| unsafe { service.kfree(object) });
            });
        }
    });
    let mut live = HashSet::new();
    let mut calls = 0;
    let mut last_of_cpu = HashMap::new();
    for call in service.traced_calls() {
        calls += 1;
        match call.action {
            Action::Allocate { address, .. } => assert!(live.insert(address), "{call:?}"),
            Action::Resize { from, to, .. } => {
                assert!(from == to || live.insert(to), "{call:?}");
                assert!(from == to || live.remove(&from), "{call:?}");
            }
            Action::Free { address } => assert!(live.remove(&address), "{call:?}"),
        }
        let last = last_of_cpu.insert(call.cpu, call.time);
        assert!(last.is_none_or(|last| last <= call.time), "time goes back on {}", call.cpu);
    }
    assert_eq!(calls, 4 * 20_000 * 3);
    assert!(live.is_empty() && last_of_cpu.len() > 1, "{} live, {} CPUs", live.len(), last_of_cpu.len());
}
