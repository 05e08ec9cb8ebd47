//! What flags do on real CPUs: in interrupt handlers, across CPUs, for each thread on its own. What does not depend on
//! any of these is in the hosted tests of the memory service; docs/kmalloc.md has both.

use alloc::format;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use quarry_unikernel::memory::service;
use quarry_unikernel::memory_service::events::Event;
use quarry_unikernel::memory_service::zone::ZoneKind;
use quarry_unikernel::memory_service::{Gfp, NodeId, NodeMask, Order, Pfn, Policy, ShrinkControl, Shrinker};
use quarry_unikernel::{TrapFrame, cpus, thread};

use crate::harness::Outcome;
use crate::hoard::{Hoard, nodes_with_memory, smallest_node};
use crate::interrupts::{raise_and_wait, register};
use crate::team::{Gate, another_cpu, check_on_every_cpu, eventually, on_cpu, spawn, without_loss};
use crate::{check, check_equal, tests};

const URGENT: u8 = 0x68;

const KERNEL: Gfp = Gfp::KERNEL.union(Gfp::NOWARN).union(Gfp::THISNODE);
const NOWAIT: Gfp = Gfp::NOWAIT.union(Gfp::NOWARN).union(Gfp::THISNODE);
const ATOMIC: Gfp = Gfp::ATOMIC.union(Gfp::NOWARN).union(Gfp::THISNODE);
const USER: Gfp = Gfp::USER.union(Gfp::NOWARN);

/// Whether a page is to be had; it is given back.
fn gives_a_page(node: NodeId, gfp: Gfp) -> bool {
    let page = service().alloc_pages_node(node, gfp, Order::ZERO);
    page.inspect(|&page| service().__free_pages(page, Order::ZERO)).is_some()
}

fn atomic_gets_part_of_the_reserve_in_a_handler_and_nothing_waits_there() -> Outcome {
    static HANDLED: AtomicU64 = AtomicU64::new(0);
    static ORDINARY: AtomicBool = AtomicBool::new(false);
    static URGENT_ONES: AtomicBool = AtomicBool::new(false);
    fn handler(_: &mut TrapFrame) {
        // What this CPU's handlers have at hand would do for an ordinary request.
        service().drain_local();
        let node = smallest_node();
        let ordinary = [NOWAIT, KERNEL, KERNEL | Gfp::NOFAIL].into_iter().any(|gfp| gives_a_page(node, gfp));
        let object = service().kmalloc_node(5000, ATOMIC, node);
        let urgent = gives_a_page(node, ATOMIC) && !object.is_null();
        // SAFETY: freed once.
        unsafe { service().kfree(object) };
        service().drain_local();
        ORDINARY.store(ordinary, Ordering::Relaxed);
        URGENT_ONES.store(urgent, Ordering::Relaxed);
        HANDLED.fetch_add(1, Ordering::Relaxed);
    }
    register(URGENT, handler)?;
    without_loss(|| {
        service().drain_local();
        service().shrink_depots();
        let hoard = Hoard::of_pages(smallest_node(), NOWAIT);
        let waits = service().event_count(Event::Wait);
        raise_and_wait(URGENT, &HANDLED)?;
        drop(hoard);
        check_equal!(service().event_count(Event::Wait), waits, "sleeps for memory");
        check!(!ORDINARY.load(Ordering::Relaxed), "an ordinary request got part of the reserve");
        check!(URGENT_ONES.load(Ordering::Relaxed), "an urgent request got nothing of the reserve");
        Ok(())
    })
}

fn nofail_sleeps_until_another_cpu_frees() -> Outcome {
    sleeps_until_another_cpu_frees(KERNEL | Gfp::NOFAIL)
}

fn nofail_wins_over_noretry() -> Outcome {
    sleeps_until_another_cpu_frees(KERNEL | Gfp::NOFAIL | Gfp::NORETRY)
}

fn sleeps_until_another_cpu_frees(gfp: Gfp) -> Outcome {
    let node = smallest_node();
    without_loss(|| {
        // The thread's own memory comes first.
        let gate = Arc::new(Gate::new(2));
        let asking = {
            let gate = Arc::clone(&gate);
            spawn(another_cpu(), move || {
                gate.pass();
                gives_a_page(node, gfp)
            })
        };
        // First what reclaim finds in the caches of other CPUs, then the reserve: so nothing is left to be found.
        let hoard = [Hoard::of_pages(node, KERNEL), Hoard::of_pages(node, ATOMIC)];
        let waits = service().event_count(Event::Wait);
        gate.pass();
        // An ordinary request gives up before that.
        let waited = eventually("it sleeps often", || service().event_count(Event::Wait) > waits + 40);
        drop(hoard);
        check!(asking.join(), "a request that must not fail did");
        waited
    })
}

/// The node a page comes from.
fn node_of_page(gfp: Gfp) -> Option<NodeId> {
    let page = service().alloc_pages(gfp, Order::ZERO)?;
    let node = service().page_to_node(page);
    service().__free_pages(page, Order::ZERO);
    node
}

/// The node an object comes from when the CPU has none at hand.
fn node_of_refill(gfp: Gfp) -> Option<NodeId> {
    service().drain_local();
    let object = service().kmalloc(500, gfp);
    let node = service().virt_to_page(object).and_then(|frame| service().page_to_node(frame));
    // SAFETY: freed once; null is ignored.
    unsafe { service().kfree(object) };
    node
}

fn set_policy(policy: Policy) -> Outcome {
    service().set_mempolicy(policy).map_err(|error| format!("{error}"))
}

fn a_policy_is_its_threads_own() -> Outcome {
    without_loss(|| {
        // Two threads on each CPU, so that one allocates while the other has another policy.
        check_on_every_cpu(|cpu| {
            let other = spawn(cpu, follow_policies);
            let outcome = follow_policies();
            other.join()?;
            outcome
        })?;
        check_equal!(service().get_mempolicy(), Policy::Local, "the policy of a thread that set none");
        Ok(())
    })
}

fn follow_policies() -> Outcome {
    for node in nodes_with_memory() {
        set_policy(Policy::Bind(NodeMask::only(node)))?;
        for _ in 0..10 {
            check_equal!(node_of_page(USER), Some(node), "the node of a page that is bound");
            check_equal!(node_of_refill(USER), Some(node), "the node of an object that is bound");
            thread::yield_now();
        }
        set_policy(Policy::Preferred(node))?;
        thread::yield_now();
        check_equal!(node_of_page(Gfp::HIGHUSER), Some(node), "the preferred node");
    }
    let nodes = nodes_with_memory().fold(NodeMask::default(), NodeMask::with);
    set_policy(Policy::Interleave(nodes))?;
    for node in nodes_with_memory() {
        check_equal!(node_of_page(USER), Some(node), "the node whose turn it is");
        thread::yield_now();
    }
    set_policy(Policy::Local)
}

/// Counts how often it is asked on behalf of a request of this module (the balancing threads' have no `THISNODE`).
struct NeedsIo(AtomicU64);

impl Shrinker for NeedsIo {
    fn count(&self, control: &ShrinkControl) -> usize {
        self.0.fetch_add(u64::from(control.gfp.contains(Gfp::THISNODE)), Ordering::Relaxed);
        0
    }

    fn scan(&self, _: &ShrinkControl, _: usize) -> Option<usize> {
        None
    }

    fn needs(&self) -> Gfp {
        Gfp::IO
    }
}

fn a_noio_scope_is_its_threads_own() -> Outcome {
    static SHRINKER: NeedsIo = NeedsIo(AtomicU64::new(0));
    let node = smallest_node();
    without_loss(|| {
        let id = service().register_shrinker(&SHRINKER).map_err(|error| format!("{error}"))?;
        let mut hoard = Hoard::of_pages(node, ATOMIC);
        // How often it is asked while one more page is wanted, until there is none.
        let mut asked_by = |elsewhere: bool| {
            let before = SHRINKER.0.load(Ordering::Relaxed);
            hoard.fill(|| {
                let wanted = move || page(node);
                let page = if elsewhere { on_cpu(cpus::current(), wanted) } else { wanted() };
                page.map_or(core::ptr::null_mut(), |page| service().page_address(page))
            });
            SHRINKER.0.load(Ordering::Relaxed) - before
        };
        let outside = asked_by(false);
        let scope = service().memalloc_noio();
        let (inside, another_thread) = (asked_by(false), asked_by(true));
        drop(scope);
        let after = asked_by(false);
        drop(hoard);
        service().unregister_shrinker(id).map_err(|error| format!("{error}"))?;
        check!(
            outside > 0 && another_thread > 0 && after > 0,
            "it was asked {outside}, {another_thread}, {after} times"
        );
        check_equal!(inside, 0, "how often it was asked inside a scope without I/O");
        Ok(())
    })
}

fn page(node: NodeId) -> Option<Pfn> {
    service().alloc_pages_node(node, KERNEL | Gfp::NORETRY, Order::ZERO)
}

fn highuser_comes_from_the_highest_zone_of_the_cpus_node() -> Outcome {
    check_on_every_cpu(|_| {
        let block = service().alloc_pages(Gfp::HIGHUSER, Order::MAX).ok_or("no memory")?;
        let node = service().page_to_node(block);
        service().__free_pages(block, Order::MAX);
        let zones = service().zones().filter(|zone| Some(zone.node) == node && zone.managed > 0);
        check_equal!(Some(ZoneKind::of(block)), zones.map(|zone| zone.kind).max(), "zone of the block");
        Ok(())
    })
}

fn cold_takes_the_page_this_cpu_freed_first() -> Outcome {
    check_on_every_cpu(|_| {
        let page = |gfp: Gfp| service().alloc_pages(Gfp::KERNEL | gfp, Order::ZERO).ok_or("no memory");
        let pages = [page(Gfp::empty())?, page(Gfp::empty())?];
        service().drain_local();
        for page in pages {
            service().__free_pages(page, Order::ZERO);
        }
        let cold = page(Gfp::COLD)?;
        let warm = page(Gfp::empty())?;
        service().__free_pages(cold, Order::ZERO);
        service().__free_pages(warm, Order::ZERO);
        check_equal!([cold, warm], pages, "the page freed first, then the other");
        Ok(())
    })
}

tests! { "flags":
    atomic_gets_part_of_the_reserve_in_a_handler_and_nothing_waits_there,
    nofail_sleeps_until_another_cpu_frees,
    nofail_wins_over_noretry,
    a_policy_is_its_threads_own,
    a_noio_scope_is_its_threads_own,
    highuser_comes_from_the_highest_zone_of_the_cpus_node,
    cold_takes_the_page_this_cpu_freed_first,
}
