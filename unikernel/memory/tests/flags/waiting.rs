//! Flags that say how long a request tries, and what may be done for it meanwhile.

use std::sync::Barrier;

use quarry_memory::events::Event;
use quarry_memory::hosted::Hosted;
use quarry_memory::reclaim::MAX_ROUNDS;
use quarry_memory::{Gfp, NodeId, Order, Pfn};

use crate::support::{
    Counted, Hoard, KERNEL, Listener, NOWAIT, TestService, assert_books_balance, eventually, free, highest_zone, order,
    two_nodes,
};

const ROUNDS: u64 = MAX_ROUNDS as u64;

#[track_caller]
fn assert_fails(service: &TestService, gfp: Gfp, order: Order) {
    assert_eq!(service.alloc_pages(gfp | Gfp::NOWARN, order), None, "{gfp}");
}

#[test]
fn kernel_reclaims_and_sleeps_and_fails_after_sixteen_rounds_in_vain() {
    let service = two_nodes().service();
    let hoard = Hoard::of_everything(service);
    let listener = Listener::register(service, 0, Gfp::empty());
    let counted = Counted::from_here(service);
    assert_fails(service, Gfp::KERNEL, Order::ZERO);
    assert_eq!(counted.count(Event::DirectReclaim), 1);
    assert_eq!(counted.count(Event::Wait), ROUNDS - 1, "it sleeps after every round but the last");
    assert_eq!(listener.rounds() as u64, ROUNDS);
    assert_eq!(counted.count(Event::AllocationFailed), 1);
    drop(hoard);
    assert_books_balance(service);
}

#[test]
fn kernel_gets_what_a_shrinker_gives_up() {
    let service = two_nodes().service();
    let mut hoard = Hoard::of_everything(service);
    let listener = Listener::register(service, 0, Gfp::empty());
    listener.hold(&mut hoard, 1000);
    let counted = Counted::from_here(service);
    let frame = service.alloc_pages(KERNEL, Order::ZERO).expect("the shrinker has memory");
    assert!(listener.held() < 1000);
    assert_eq!(counted.count(Event::HandedOver), 1);
    assert!(counted.count(Event::ScannedDirectly) >= counted.count(Event::Shrunk));
    assert_eq!(counted.count(Event::Shrunk), 1000 - listener.held() as u64);
    service.__free_pages(frame, Order::ZERO);
}

#[test]
fn nowait_fails_at_once_and_wakes_the_balancing_thread() {
    let service = two_nodes().service();
    let _hoard = Hoard::of_everything(service);
    let listener = Listener::register(service, 0, Gfp::empty());
    let counted = Counted::from_here(service);
    assert_fails(service, Gfp::empty(), Order::ZERO);
    assert_eq!(counted.count(Event::BalancerWoken), 0, "nobody was to be woken");
    assert_fails(service, Gfp::NOWAIT, Order::ZERO);
    counted.assert_nobody_waited();
    assert_eq!(counted.count(Event::BalancerWoken), 2, "one for each node");
    assert_eq!(counted.count(Event::AtomicFailed), 2);
    assert_eq!(listener.rounds(), 0);
}

#[test]
fn atomic_never_waits() {
    let service = two_nodes().service();
    let _hoard = Hoard::of_everything(service);
    let listener = Listener::register(service, 0, Gfp::empty());
    let counted = Counted::from_here(service);
    assert_fails(service, Gfp::ATOMIC, Order::ZERO);
    assert!(service.kmalloc(100, Gfp::ATOMIC | Gfp::NOWARN).is_null());
    assert!(service.kmalloc(100_000, Gfp::ATOMIC | Gfp::NOWARN).is_null());
    counted.assert_nobody_waited();
    assert_eq!(listener.rounds(), 0);
}

/// How far each kind of request may empty a zone: node 1 has one zone, and this CPU is of node 0, so that no list of a
/// CPU gets in between.
#[test]
fn high_and_atomic_may_use_part_of_the_reserve_and_one_who_reclaims_all() {
    let service = two_nodes().service();
    let node = NodeId(1);
    let min = highest_zone(service, node).watermarks.min;
    assert!(min >= 64, "half and quarter can be told apart");
    let left_by = |gfp: Gfp| {
        let taken = Hoard::of(service, |service| {
            service.alloc_pages_node(node, gfp | Gfp::THISNODE | Gfp::NOWARN, Order::ZERO)
        });
        (highest_zone(service, node).available(), taken)
    };
    let ordinary = left_by(Gfp::KERNEL);
    assert_eq!(ordinary.0, min);
    assert_eq!(left_by(Gfp::NOWAIT).0, min, "that it cannot wait gives it no right to the reserve");
    let counted = Counted::from_here(service);
    let urgent = left_by(Gfp::KERNEL | Gfp::HIGH);
    assert_eq!(urgent.0, min / 2);
    assert_eq!(counted.count(Event::DirectReclaim), 1, "only the last, in vain, had to reclaim");
    let atomic = left_by(Gfp::ATOMIC);
    assert_eq!(atomic.0, min / 4);
    let scope = service.memalloc_noreclaim();
    let reclaiming = left_by(Gfp::KERNEL);
    assert_eq!(reclaiming.0, 0);
    drop((scope, ordinary, urgent, atomic, reclaiming));
    assert_books_balance(service);
}

/// Three shrinkers: one that needs I/O, one that calls a file system, one that needs neither.
struct Three {
    io: &'static Listener,
    fs: &'static Listener,
    neither: &'static Listener,
}

impl Three {
    fn register(service: &'static TestService) -> Self {
        Self {
            io: Listener::register(service, 0, Gfp::IO),
            fs: Listener::register(service, 0, Gfp::FS),
            neither: Listener::register(service, 0, Gfp::empty()),
        }
    }

    /// How often each was asked while a request failed.
    fn rounds(&self, fail: impl FnOnce()) -> (usize, usize, usize) {
        let now = || (self.io.rounds(), self.fs.rounds(), self.neither.rounds());
        let before = now();
        fail();
        let after = now();
        (after.0 - before.0, after.1 - before.1, after.2 - before.2)
    }
}

const ALL: usize = MAX_ROUNDS as usize;

#[test]
fn noio_asks_only_shrinkers_that_need_neither_io_nor_a_file_system() {
    let service = two_nodes().service();
    let _hoard = Hoard::of_everything(service);
    let three = Three::register(service);
    assert_eq!(three.rounds(|| assert_fails(service, Gfp::NOIO, Order::ZERO)), (0, 0, ALL));
    assert_eq!(three.rounds(|| assert_fails(service, Gfp::KERNEL, Order::ZERO)), (ALL, ALL, ALL));
    let (first, last) = (three.neither.asked()[0].gfp, three.io.asked()[0].gfp);
    assert!(!first.intersects(Gfp::IO | Gfp::FS), "the shrinker is told what it may not do: {first}");
    assert!(last.contains(Gfp::IO | Gfp::FS), "{last}");
}

#[test]
fn nofs_asks_no_shrinker_that_needs_a_file_system() {
    let service = two_nodes().service();
    let _hoard = Hoard::of_everything(service);
    let three = Three::register(service);
    assert_eq!(three.rounds(|| assert_fails(service, Gfp::NOFS, Order::ZERO)), (ALL, 0, ALL));
}

/// Somebody who knows nothing of the scopes his caller opened.
fn allocate_deep_inside(service: &TestService) {
    assert_fails(service, Gfp::KERNEL, Order::ZERO);
}

fn allocate_objects_deep_inside(service: &TestService) {
    assert!(service.kzalloc(4096, KERNEL).is_null());
}

#[test]
fn a_scope_covers_everything_its_thread_calls_until_it_ends() {
    let service = two_nodes().service();
    let _hoard = Hoard::of_everything(service);
    let three = Three::register(service);
    let outer = service.memalloc_nofs();
    assert_eq!(three.rounds(|| allocate_deep_inside(service)), (ALL, 0, ALL));
    assert_eq!(three.rounds(|| allocate_objects_deep_inside(service)), (ALL, 0, ALL));
    let inner = service.memalloc_noio();
    assert_eq!(three.rounds(|| allocate_deep_inside(service)), (0, 0, ALL));
    assert_eq!(three.rounds(|| allocate_objects_deep_inside(service)), (0, 0, ALL));
    drop(inner);
    assert_eq!(three.rounds(|| allocate_deep_inside(service)), (ALL, 0, ALL), "the outer scope is open yet");
    drop(outer);
    assert_eq!(three.rounds(|| allocate_deep_inside(service)), (ALL, ALL, ALL));
}

#[test]
fn a_noreclaim_scope_keeps_its_thread_from_reclaiming() {
    let service = two_nodes().service();
    let _hoard = Hoard::of_everything(service);
    let listener = Listener::register(service, 0, Gfp::empty());
    let counted = Counted::from_here(service);
    let scope = service.memalloc_noreclaim();
    assert_fails(service, Gfp::KERNEL, Order::ZERO);
    counted.assert_nobody_waited();
    assert_eq!(listener.rounds(), 0);
    drop(scope);
    assert_fails(service, Gfp::KERNEL, Order::ZERO);
    assert_eq!(listener.rounds(), ALL);
}

#[test]
fn noretry_makes_one_attempt_after_the_lightest_reclaim_and_never_sleeps() {
    let service = two_nodes().service();
    let mut hoard = Hoard::of_everything(service);
    let objects = 1 << 22;
    let listener = Listener::register(service, objects, Gfp::empty());
    let counted = Counted::from_here(service);
    assert_fails(service, Gfp::KERNEL | Gfp::NORETRY, Order::ZERO);
    assert_eq!(counted.count(Event::DirectReclaim), 1);
    assert_eq!(counted.count(Event::Wait), 0);
    assert_eq!(counted.count(Event::DrainCall), 0, "other CPUs are left alone");
    assert_eq!(listener.rounds(), 1);
    assert_eq!(listener.scanned(), (objects >> 12) * 4 / 2, "1 of 2^12, weighed as Linux does for two seeks");
    // What the lightest reclaim brings, it gets.
    listener.hold(&mut hoard, 1000);
    assert!(service.alloc_pages(KERNEL | Gfp::NORETRY, Order::ZERO).is_some());
    assert_eq!((listener.rounds(), counted.count(Event::Wait)), (2, 0));
}

#[test]
fn retry_mayfail_tries_a_costly_order_again_before_it_fails() {
    let service = two_nodes().service();
    let _hoard = Hoard::of_everything(service);
    let listener = Listener::register(service, 0, Gfp::empty());
    let rounds = |gfp: Gfp, size: u32| {
        let before = listener.rounds();
        assert_fails(service, gfp, order(size));
        listener.rounds() - before
    };
    assert_eq!(rounds(Gfp::KERNEL, 3), ALL, "Linux tries hard up to order 3");
    assert_eq!(rounds(Gfp::KERNEL, 4), 1);
    assert_eq!(rounds(Gfp::KERNEL | Gfp::RETRY_MAYFAIL, 4), ALL);
    assert_eq!(rounds(Gfp::KERNEL | Gfp::REPEAT, 10), ALL);
}

#[test]
fn wait_is_what_lets_a_request_reclaim_and_wake_the_balancing_threads() {
    let service = two_nodes().service();
    let _hoard = Hoard::of_everything(service);
    let happens = |gfp: Gfp| {
        let counted = Counted::from_here(service);
        assert_fails(service, gfp, Order::ZERO);
        (counted.count(Event::DirectReclaim), counted.count(Event::Wait) > 0, counted.count(Event::BalancerWoken))
    };
    assert_eq!(happens(Gfp::empty()), (0, false, 0));
    assert_eq!(happens(Gfp::DIRECT_RECLAIM), (1, true, 0));
    assert_eq!(happens(Gfp::WAIT), (1, true, 2));
    assert_eq!(happens(Gfp::KSWAPD_RECLAIM), (0, false, 0), "they are awake already");
}

/// A second thread that asks for something once the first has taken what there is; what it got.
fn ask_when_all_is_gone<T: Send, H>(
    hosted: &'static Hosted,
    ask: impl FnOnce(&'static TestService) -> T + Send,
    take: impl FnOnce(&'static TestService) -> H,
    meanwhile: impl FnOnce(H) -> H,
) -> (T, H) {
    let service = hosted.service();
    let gate = Barrier::new(2);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            // Its set comes first, while there is memory for it.
            free(service, service.kmalloc(8, KERNEL));
            service.drain_local();
            gate.wait();
            gate.wait();
            ask(service)
        });
        gate.wait();
        let taken = take(service);
        gate.wait();
        let kept = meanwhile(taken);
        (asking.join().expect("it does not panic"), kept)
    })
}

#[test]
fn nofail_sleeps_as_long_as_it_takes_until_another_thread_frees() {
    let hosted = two_nodes();
    let service = hosted.service();
    let node = NodeId(1);
    let enough = 2 * highest_zone(service, node).watermarks.min;
    let ask = |service: &'static TestService| -> Option<Pfn> { service.alloc_pages(KERNEL | Gfp::NOFAIL, Order::ZERO) };
    let counted = Counted::from_here(service);
    let (frame, hoard) = ask_when_all_is_gone(hosted, ask, Hoard::of_everything, |mut hoard| {
        eventually("it waits longer than others do", || counted.count(Event::Wait) > 2 * ROUNDS);
        assert_eq!(counted.count(Event::HandedOver), 0);
        hoard.give_back(node, enough);
        eventually("it is handed a frame", || counted.count(Event::HandedOver) == 1);
        hoard
    });
    drop(hoard);
    let frame = frame.expect("it never fails");
    assert_eq!(service.page_to_node(frame), Some(node));
    assert_eq!(counted.count(Event::AllocationFailed), 1, "the last attempt of who took all memory");
    service.__free_pages(frame, Order::ZERO);
    assert_books_balance(service);
}

#[test]
fn nofail_gets_an_object_that_another_thread_frees() {
    const BYTES: usize = 4096;
    let hosted = two_nodes();
    let service = hosted.service();
    let counted = Counted::from_here(service);
    let (object, (hoard, objects)) = ask_when_all_is_gone(
        hosted,
        |service| service.kmalloc(BYTES, KERNEL | Gfp::NOFAIL).expose_provenance(),
        |service| {
            let first = service.kmalloc(BYTES, KERNEL);
            let hoard = Hoard::of_everything(service);
            // What is left in the first one's slab.
            let rest = std::iter::from_fn(|| Some(service.kmalloc(BYTES, NOWAIT)).filter(|object| !object.is_null()));
            (hoard, rest.chain([first]).collect::<Vec<_>>())
        },
        |(hoard, mut objects)| {
            assert!(objects.len() > 1, "the slab stays when one of its objects is freed");
            eventually("it waits", || counted.count(Event::Wait) > ROUNDS);
            free(service, objects.pop().expect("there are some"));
            (hoard, objects)
        },
    );
    assert_ne!(object, 0);
    assert_eq!(counted.count(Event::HandedOver), 0, "no frame became free");
    drop(hoard);
    for object in objects {
        free(service, object);
    }
    free(service, std::ptr::with_exposed_provenance_mut(object));
    assert_books_balance(service);
}

#[test]
#[should_panic(expected = "waits for order 0 with GFP_KERNEL|__GFP_NOWARN|__GFP_NOFAIL")]
fn nofail_that_nothing_can_ever_help_ends_the_run_and_names_who_waits() {
    let service = two_nodes().service();
    let hoard = Hoard::of_everything(service);
    // Nobody frees what is left in nobody's hand.
    std::mem::forget(hoard);
    let _frame = service.alloc_pages(KERNEL | Gfp::NOFAIL, Order::ZERO);
}

#[test]
fn nowarn_keeps_a_failure_from_being_reported() {
    let hosted = two_nodes();
    let service = hosted.service();
    let heard = crate::combinations::hear(hosted);
    let _hoard = Hoard::of_everything(service);
    assert!(service.alloc_pages(NOWAIT, Order::ZERO).is_none());
    assert!(service.kmalloc(5000, NOWAIT).is_null());
    assert_eq!(heard.lines(), [""; 0]);
    assert!(service.alloc_pages(Gfp::NOWAIT, Order::ZERO).is_none());
    assert!(heard.lines().iter().any(|line| line.contains("page allocation failure: order:0")), "{heard:?}");
    assert!(service.kmalloc(5000, Gfp::NOWAIT).is_null());
    assert!(heard.lines().iter().any(|line| line.contains("Unable to allocate memory")), "{heard:?}");
}
