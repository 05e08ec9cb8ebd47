//! Every call of the family obeys its flags when memory is short: it fails at once, or gets what a shrinker gives up.

use quarry_memory::events::Event;
use quarry_memory::{Gfp, Order, ZERO_SIZE_PTR};

use crate::support::{
    Counted, Hoard, KERNEL, Listener, NODE_1, NOWAIT, TestService, assert_books_balance, free, two_nodes,
};

/// A call of the family: its name, how many bytes it is asked for, whether they are to be zero, and the call.
type Call = (&'static str, usize, bool, fn(&TestService, Gfp) -> *mut u8);

const CALLS: [Call; 12] = [
    ("kmalloc", 1000, false, |service, gfp| service.kmalloc(1000, gfp)),
    ("kmalloc, large", 50_000, false, |service, gfp| service.kmalloc(50_000, gfp)),
    ("kzalloc", 2000, true, |service, gfp| service.kzalloc(2000, gfp)),
    ("kzalloc, large", 20_000, true, |service, gfp| service.kzalloc(20_000, gfp)),
    ("kmalloc_array", 3000, false, |service, gfp| service.kmalloc_array(30, 100, gfp)),
    ("kcalloc", 4000, true, |service, gfp| service.kcalloc(40, 100, gfp)),
    ("kmalloc_node", 500, false, |service, gfp| service.kmalloc_node(500, gfp, NODE_1)),
    ("kzalloc_node", 600, true, |service, gfp| service.kzalloc_node(600, gfp, NODE_1)),
    // SAFETY: there is no old object.
    ("krealloc", 700, false, |service, gfp| unsafe { service.krealloc(std::ptr::null_mut(), 700, gfp) }),
    ("kmemdup", 800, true, |service, gfp| service.kmemdup(&[0; 800], gfp)),
    ("kmalloc_aligned", 256, false, |service, gfp| service.kmalloc_aligned(200, 256, gfp)),
    ("get_free_pages", 4096, false, |service, gfp| service.get_free_pages(gfp, Order::ZERO)),
];

fn give_up(service: &TestService, name: &str, memory: *mut u8) {
    if name == "get_free_pages" { service.free_pages(memory, Order::ZERO) } else { free(service, memory) }
}

#[test]
fn every_call_fails_at_once_with_nowait_when_memory_is_gone() {
    let service = two_nodes().service();
    let hoard = Hoard::of_everything(service);
    let listener = Listener::register(service, 0, Gfp::empty());
    let counted = Counted::from_here(service);
    for (name, _, _, call) in CALLS {
        assert!(call(service, NOWAIT).is_null(), "{name}");
    }
    counted.assert_nobody_waited();
    assert_eq!(counted.count(Event::AtomicFailed), CALLS.len() as u64);
    assert_eq!(listener.rounds(), 0);
    drop(hoard);
    assert_books_balance(service);
}

#[test]
fn every_call_gets_what_a_shrinker_gives_up_with_kernel() {
    let service = two_nodes().service();
    let listener = Listener::register(service, 0, Gfp::empty());
    for (name, size, zero, call) in CALLS {
        let mut hoard = Hoard::of_everything(service);
        hoard.dirty();
        listener.hold(&mut hoard, 2000);
        let counted = Counted::from_here(service);
        let memory = call(service, KERNEL);
        assert!(!memory.is_null(), "{name}");
        assert_eq!(counted.count(Event::DirectReclaim), 1, "{name}");
        assert!(counted.count(Event::Shrunk) > 0, "{name}");
        // SAFETY: the memory has that many bytes, and is this test's.
        let bytes = unsafe { std::slice::from_raw_parts(memory, size) };
        assert!(!zero || bytes.iter().all(|&byte| byte == 0), "{name}");
        give_up(service, name, memory);
        listener.give_back_all();
        drop(hoard);
        assert_books_balance(service);
    }
}

#[test]
fn every_call_gets_memory_of_the_sizes_the_manuals_have() {
    let service = two_nodes().service();
    for (name, size, zero, call) in CALLS {
        let memory = call(service, Gfp::KERNEL);
        // SAFETY: the memory has that many bytes, and is this test's.
        let bytes = unsafe { std::slice::from_raw_parts_mut(memory, size) };
        assert!(!zero || bytes.iter().all(|&byte| byte == 0), "{name}");
        bytes.fill(0xa5);
        give_up(service, name, memory);
        // Once more, for what is used again must be zero too.
        let memory = call(service, Gfp::KERNEL);
        // SAFETY: as above.
        let bytes = unsafe { std::slice::from_raw_parts(memory, size) };
        assert!(!zero || bytes.iter().all(|&byte| byte == 0), "{name}");
        give_up(service, name, memory);
    }
    assert_books_balance(service);
}

#[test]
fn an_array_whose_size_overflows_fails_whatever_the_flags() {
    let service = two_nodes().service();
    for gfp in [Gfp::KERNEL, Gfp::ATOMIC, Gfp::KERNEL | Gfp::NOFAIL] {
        assert!(service.kmalloc_array(usize::MAX / 2, 3, gfp).is_null());
        assert!(service.kcalloc(1 << 33, 1 << 33, gfp).is_null());
    }
    assert_eq!(service.kmalloc_array(0, 8, Gfp::KERNEL), ZERO_SIZE_PTR);
    assert_eq!(service.kcalloc(8, 0, Gfp::KERNEL), ZERO_SIZE_PTR);
}
