//! Forks while other threads are inside the service: the child must find every frame in one place.

#[path = "support/child.rs"]
mod child;

use std::collections::HashSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use quarry_memory::hosted::Hosted;
use quarry_memory::{CpuId, Gfp, Order, Topology};

#[test]
fn a_block_that_a_cpu_was_giving_back_is_not_twice_in_the_child() {
    const BUSY: u16 = 3;
    let topology = Topology::builder().node(64 << 20, BUSY as usize + 1).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    let stop = AtomicBool::new(false);
    let all_have_sets = Barrier::new(BUSY as usize + 1);
    thread::scope(|scope| {
        for cpu in 1..=BUSY {
            let (stop, all_have_sets) = (&stop, &all_have_sets);
            scope.spawn(move || {
                assert!(hosted.run_on(CpuId(cpu)));
                all_have_sets.wait();
                let mut blocks = Vec::with_capacity(128);
                while !stop.load(Ordering::Relaxed) {
                    blocks.extend((0..128).filter_map(|_| hosted.alloc_pages(Order::ZERO)));
                    blocks.drain(..).for_each(|block| hosted.free_pages(block, Order::ZERO));
                }
            });
        }
        assert!(hosted.run_on(CpuId(0)));
        all_have_sets.wait();
        let failed = (0..30).find_map(|_| {
            child::in_a_fork(|| {
                let mut seen = HashSet::new();
                let mut once = true;
                // Becoming a CPU takes over what its thread had on its lists.
                for cpu in (0..=BUSY).rev() {
                    once &= hosted.run_on(CpuId(cpu));
                    while let Some(block) = hosted.service().alloc_pages(Gfp::KERNEL | Gfp::NOWARN, Order::ZERO) {
                        once &= seen.insert(block);
                    }
                }
                once && !seen.is_empty()
            })
            .err()
        });
        stop.store(true, Ordering::Relaxed);
        assert_eq!(failed, None, "the status of a child that failed");
    });
}

#[test]
fn a_page_that_is_being_zeroed_or_given_back_is_in_the_child_at_most_once() {
    let topology = Topology::builder().node(64 << 20, 2).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    let stop = AtomicBool::new(false);
    let both_have_sets = Barrier::new(2);
    thread::scope(|scope| {
        let (stop, both_have_sets) = (&stop, &both_have_sets);
        scope.spawn(move || {
            assert!(hosted.run_on(CpuId(1)));
            both_have_sets.wait();
            while !stop.load(Ordering::Relaxed) {
                while hosted.service().zero_idle() {}
                hosted.service().shrink_depots();
            }
        });
        assert!(hosted.run_on(CpuId(0)));
        both_have_sets.wait();
        let failed = (0..30).find_map(|_| {
            child::in_a_fork(|| {
                let mut seen = HashSet::new();
                let once = hosted.service().statistics().adds_up();
                let zeroed = || hosted.service().alloc_pages(Gfp::NOWAIT | Gfp::NOWARN | Gfp::ZERO, Order::ZERO);
                std::iter::from_fn(zeroed).all(|page| seen.insert(page)) && once && seen.len() > 10_000
            })
            .err()
        });
        stop.store(true, Ordering::Relaxed);
        assert_eq!(failed, None, "the status of a child that failed");
    });
}

#[test]
fn objects_are_whole_in_the_child() {
    const BUSY: u16 = 2;
    let topology = Topology::builder().node(64 << 20, BUSY as usize + 1).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    assert!(hosted.run_on(CpuId(0)));
    let object = hosted.service().vm_object(None).expect("there is memory");
    for index in 0..64 {
        object.fault(index).expect("there is memory").fill(index as u8);
    }
    let stop = AtomicBool::new(false);
    let all_have_sets = Barrier::new(BUSY as usize + 1);
    thread::scope(|scope| {
        for cpu in 1..=BUSY {
            let (stop, all_have_sets, object) = (&stop, &all_have_sets, &object);
            scope.spawn(move || {
                assert!(hosted.run_on(CpuId(cpu)));
                all_have_sets.wait();
                while !stop.load(Ordering::Relaxed) {
                    // Objects come and go, and pages of the one that stays.
                    let other = hosted.service().vm_object(None).expect("there is memory");
                    for index in 0..20 {
                        drop(other.fault(index).expect("there is memory"));
                        object.fault(1000 * u64::from(cpu) + index).expect("there is memory").fill(1);
                        let mut locked = object.lock();
                        let page = locked.page(1000 * u64::from(cpu) + index).expect("it is there");
                        page.free().expect("nobody holds it");
                    }
                }
            });
        }
        all_have_sets.wait();
        let failed = (0..30).find_map(|_| {
            child::in_a_fork(|| {
                let other = hosted.service().vm_object(None).expect("there is memory");
                drop(other.fault(0).expect("there is memory"));
                drop(other);
                let is_whole =
                    |index: u64| object.fault(index).is_ok_and(|page| page.iter().all(|&at| at == index as u8));
                hosted.service().balance(quarry_memory::NodeId(0));
                (0..64).all(is_whole)
            })
            .err()
        });
        stop.store(true, Ordering::Relaxed);
        assert_eq!(failed, None, "the status of a child that failed");
    });
}
