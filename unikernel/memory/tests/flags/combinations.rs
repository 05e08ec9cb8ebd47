//! Flags that cannot be had together: told once, with who asked for it, and followed as far as they can be.

use std::sync::Mutex;

use quarry_memory::events::Event;
use quarry_memory::hosted::Hosted;
use quarry_memory::{Gfp, KmemCache, Order, SlabFlags};

use crate::support::{Counted, Hoard, Listener, MIB, NODE_1, free, two_nodes};

/// The lines an instance had to say to people.
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<Vec<String>>);

impl Heard {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().expect("no test panics inside").clone()
    }
}

/// Hears what an instance has to say from here on.
pub(crate) fn hear(hosted: &Hosted) -> &'static Heard {
    let heard: &'static Heard = Box::leak(Box::default());
    let listener = Box::leak(Box::new(|line: std::fmt::Arguments<'_>| {
        heard.0.lock().expect("no test panics inside").push(line.to_string());
    }));
    assert!(hosted.on_warning(listener));
    heard
}

/// Runs a call that asks for the impossible twice; checks that it is told once, with the place of the call.
#[track_caller]
fn assert_told_once(what: &str, call: impl Fn(&'static Hosted) -> (u32, *mut u8)) {
    let hosted = two_nodes();
    let heard = hear(hosted);
    let (line, first) = call(hosted);
    let (_, second) = call(hosted);
    let lines = heard.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains(what) && lines[0].contains(&format!("{}:{line}", file!())), "{lines:?}");
    free(hosted.service(), first);
    free(hosted.service(), second);
}

const TWO_ZONES: Gfp = Gfp::KERNEL.union(Gfp::DMA).union(Gfp::DMA32);
const NOFAIL_ATOMIC: Gfp = Gfp::ATOMIC.union(Gfp::NOFAIL);
const NOFAIL_NORETRY: Gfp = Gfp::KERNEL.union(Gfp::NOFAIL).union(Gfp::NORETRY);

#[test]
fn every_call_of_the_family_names_its_caller() {
    let zones = "an allocation comes from one zone";
    assert_told_once(zones, |hosted| (line!(), hosted.service().kmalloc(100, TWO_ZONES)));
    assert_told_once(zones, |hosted| (line!(), hosted.service().kzalloc(100, TWO_ZONES)));
    assert_told_once(zones, |hosted| (line!(), hosted.service().kmalloc(100_000, TWO_ZONES)));
    assert_told_once(zones, |hosted| (line!(), hosted.service().kmalloc_array(10, 10, TWO_ZONES)));
    assert_told_once(zones, |hosted| (line!(), hosted.service().kcalloc(10, 10, TWO_ZONES)));
    assert_told_once(zones, |hosted| (line!(), hosted.service().kmalloc_node(100, TWO_ZONES, NODE_1)));
    assert_told_once(zones, |hosted| (line!(), hosted.service().kzalloc_node(100, TWO_ZONES, NODE_1)));
    assert_told_once(zones, |hosted| (line!(), hosted.service().kmalloc_aligned(100, 64, TWO_ZONES)));
    assert_told_once(zones, |hosted| (line!(), hosted.service().kmemdup(b"quarry", TWO_ZONES)));
    assert_told_once(zones, |hosted| {
        // SAFETY: a null pointer is no object to give up.
        (line!(), unsafe { hosted.service().krealloc(std::ptr::null_mut(), 9, TWO_ZONES) })
    });
    assert_told_once("what may not wait can fail", |hosted| (line!(), hosted.service().kmalloc(100, NOFAIL_ATOMIC)));
    assert_told_once("choose one", |hosted| (line!(), hosted.service().kmalloc(100, NOFAIL_NORETRY)));
}

#[test]
fn every_call_for_pages_names_its_caller() {
    let hosted = two_nodes();
    let service = hosted.service();
    let heard = hear(hosted);
    let line = line!() + 1;
    let block = service.alloc_pages(NOFAIL_ATOMIC | Gfp::COLD, Order::ZERO).expect("memory is free");
    service.__free_pages(block, Order::ZERO);
    let zones = line!() + 1;
    let address = service.get_free_pages(TWO_ZONES, Order::ZERO);
    service.free_pages(address, Order::ZERO);
    let node = line!() + 1;
    let block = service.alloc_pages_node(NODE_1, NOFAIL_NORETRY, Order::ZERO).expect("memory is free");
    service.__free_pages(block, Order::ZERO);
    let lines = heard.lines();
    assert_eq!(lines.len(), 3, "{lines:?}");
    for (heard, line) in lines.iter().zip([line, zones, node]) {
        assert!(heard.contains(&format!("{}:{line}", file!())), "{heard} is not of line {line}");
    }
}

#[test]
fn every_call_for_an_object_of_a_cache_names_its_caller() {
    type Call = fn(&'static Hosted, &KmemCache) -> (u32, *mut u8);
    let calls: [Call; 4] = [
        |hosted, cache| (line!(), hosted.service().kmem_cache_alloc(cache, NOFAIL_ATOMIC)),
        |hosted, cache| (line!(), hosted.service().kmem_cache_zalloc(cache, NOFAIL_ATOMIC)),
        |hosted, cache| (line!(), hosted.service().kmem_cache_alloc_node(cache, NOFAIL_ATOMIC, NODE_1)),
        |hosted, cache| {
            let mut objects = [std::ptr::null_mut()];
            let (line, count) = (line!(), hosted.service().kmem_cache_alloc_bulk(cache, NOFAIL_ATOMIC, &mut objects));
            assert_eq!(count, 1);
            (line, objects[0])
        },
    ];
    for call in calls {
        assert_told_once("what may not wait can fail", |hosted| {
            let service = hosted.service();
            let cache = service.kmem_cache_create("told", 100, 0, SlabFlags::empty(), None).expect("memory is free");
            let (line, object) = call(hosted, &cache);
            // SAFETY: freed once.
            unsafe { service.kmem_cache_free(&cache, object) };
            service.kmem_cache_destroy(cache).unwrap_or_else(|error| panic!("{error}"));
            (line, std::ptr::null_mut())
        });
    }
}

#[test]
fn of_two_zones_the_lower_is_used() {
    let hosted = two_nodes();
    let service = hosted.service();
    hear(hosted);
    let block = service.alloc_pages(TWO_ZONES, Order::ZERO).expect("memory is free");
    assert!(block.physical() < 16 * MIB);
    service.__free_pages(block, Order::ZERO);
}

#[test]
fn nofail_that_may_not_wait_fails_at_once() {
    let hosted = two_nodes();
    let service = hosted.service();
    hear(hosted);
    let _hoard = Hoard::of_everything(service);
    let counted = Counted::from_here(service);
    assert!(service.alloc_pages(NOFAIL_ATOMIC | Gfp::NOWARN, Order::ZERO).is_none());
    counted.assert_nobody_waited();
}

#[test]
fn nofail_of_a_thread_that_makes_memory_free_is_told_and_fails_at_once() {
    let hosted = two_nodes();
    let service = hosted.service();
    let heard = hear(hosted);
    let _hoard = Hoard::of_everything(service);
    let counted = Counted::from_here(service);
    let _scope = service.memalloc_noreclaim();
    let line = line!() + 1;
    assert!(service.alloc_pages(Gfp::KERNEL | Gfp::NOFAIL | Gfp::NOWARN, Order::ZERO).is_none());
    counted.assert_nobody_waited();
    let lines = heard.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("what may not wait can fail") && lines[0].contains(&format!("{}:{line}", file!())));
}

#[test]
fn nofail_wins_over_noretry() {
    let hosted = two_nodes();
    let service = hosted.service();
    hear(hosted);
    let mut hoard = Hoard::of_everything(service);
    let listener = Listener::register(service, 0, Gfp::empty());
    // A shrinker gives up its frames a few at a time: enough only after more than the one round of NORETRY.
    listener.hold(&mut hoard, 1000);
    listener.give_up_at_most(20);
    let counted = Counted::from_here(service);
    assert!(service.alloc_pages(NOFAIL_NORETRY | Gfp::NOWARN, Order::ZERO).is_some());
    assert!(listener.rounds() > 1);
    assert!(counted.count(Event::Wait) > 0);
}
