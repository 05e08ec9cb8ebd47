//! What object pages cost beside their frames, descriptors and trees' nodes: it is used again, and goes back.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use quarry_memory::hosted::{Hosted, HostedMachine};
use quarry_memory::vm::{AllocClass, PageRequest, VmObject};
use quarry_memory::{CpuId, Gfp, M_DEVBUF, MallocFlags, NodeId, Topology};

use crate::support::{MIB, TestService, assert_all_returned, free, has_label, hoard, label, machine};

const PAGES: u64 = 6000;

/// Bytes of descriptors and trees' nodes: what object pages alone add to the service's own memory.
fn metadata(service: &TestService) -> u64 {
    let rows = service.statistics();
    assert!(rows.adds_up(), "{rows:#?}");
    rows.metadata
}

/// An object with pages far apart, each of which needs a node.
fn filled(service: &'static TestService, pages: u64) -> VmObject<HostedMachine> {
    let object = service.vm_object(None).expect("there is memory");
    for index in 0..pages {
        label(&mut object.fault(index << 20).expect("there is memory"), index);
    }
    object
}

#[test]
fn descriptors_and_nodes_go_back_with_the_object_they_were_for() {
    let service = machine(64, 1).service();
    drop(filled(service, 1));
    let before = metadata(service);
    for _ in 0..3 {
        let object = filled(service, PAGES);
        let grown = metadata(service) - before;
        assert!(grown > PAGES * 48, "{grown} bytes for {PAGES} pages");
        drop(object);
        let left = metadata(service);
        assert!(left <= before + 4 * 4096, "{left} bytes are left of {before} and {grown}");
        assert_all_returned(service);
    }
}

#[test]
fn descriptors_and_nodes_of_pages_that_went_go_back_when_memory_is_short() {
    let service = machine(64, 1).service();
    let object = filled(service, PAGES);
    let most = metadata(service);
    // Those that were made last lie together.
    for index in 100..PAGES {
        object.lock().page(index << 20).expect("it is there").free().expect("nobody holds it");
    }
    assert_eq!(metadata(service), most, "they are kept while memory is plenty");
    let frames = hoard(service, Gfp::NOWAIT);
    service.balance(NodeId(0));
    free(service, frames);
    let left = metadata(service);
    assert!(most - left > PAGES * 48 / 2, "of {most} bytes {left} are left");
    for index in 0..100 {
        assert!(has_label(&object.fault(index << 20).expect("there is memory"), index), "page {index}");
    }
    // And they can be had again.
    for index in 100..PAGES {
        label(&mut object.fault(index << 20).expect("there is memory"), index);
    }
    assert!(metadata(service) <= most + 4 * 4096);
    drop(object);
    assert_all_returned(service);
}

/// Moves whatever can be moved, by compaction and for contiguous memory.
fn move_pages(service: &TestService, ends: &AtomicBool) {
    while !ends.load(SeqCst) {
        service.compact_node(NodeId(0));
        let flags = MallocFlags::WAITOK;
        let run = service.contigmalloc(256 << 10, &M_DEVBUF, flags, 16 * MIB, u64::MAX, 4096, 0);
        if !run.is_null() {
            // SAFETY: freed once.
            unsafe { service.contigfree(run, 256 << 10, &M_DEVBUF) };
        }
    }
}

#[test]
fn pages_that_move_while_objects_come_and_go_are_never_taken_for_others() {
    let hosted = machine(64, 4);
    let service = hosted.service();
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        let movers: Vec<_> = (0..2u16)
            .map(|cpu| {
                let ends = &ends;
                scope.spawn(move || {
                    assert!(hosted.run_on(CpuId(2 + cpu)));
                    move_pages(service, ends);
                    hosted.leave();
                })
            })
            .collect();
        let workers: Vec<_> = (0..2u16)
            .map(|cpu| {
                scope.spawn(move || {
                    assert!(hosted.run_on(CpuId(cpu)));
                    for round in 0..12 {
                        let object = filled(service, 800);
                        for index in (0..800).filter(|index| index % 3 != round % 3) {
                            if index % 2 == 0 {
                                object.fault(index << 20).expect("there is memory").free();
                            }
                        }
                        for index in (0..800).filter(|index| index % 3 == round % 3) {
                            let page = object.fault(index << 20).expect("there is memory");
                            assert!(has_label(&page, index), "page {index} in round {round}");
                        }
                    }
                    hosted.leave();
                })
            })
            .collect();
        let failed = workers.into_iter().any(|worker| worker.join().is_err());
        ends.store(true, SeqCst);
        let failed = movers.into_iter().any(|mover| mover.join().is_err()) || failed;
        assert!(!failed, "a thread panicked");
    });
    assert_all_returned(service);
}

#[test]
fn what_pages_cost_is_counted_and_goes_back_where_it_came_from() {
    let topology = Topology::builder().node(16 * MIB, 1).node(16 * MIB, 1).node(16 * MIB, 0).build();
    let hosted = Hosted::leak(topology.expect("a machine")).expect("there is address space");
    assert!(hosted.run_on(CpuId(1)));
    let service = hosted.service();
    drop(filled(service, 1));
    let before = metadata(service);
    for class in [AllocClass::Normal, AllocClass::System, AllocClass::Interrupt] {
        let object = service.vm_object(None).expect("there is memory");
        let mut count = 0;
        for request in [PageRequest::normal(), PageRequest::new(class)] {
            let mut locked = object.lock();
            while service.vm_page_alloc(Some(&mut locked), count << 20, request.no_busy()).is_some() {
                count += 1;
            }
        }
        let nodes = [0, 1, 2].map(|node| service.vm_pages(NodeId(node)).all);
        assert!(nodes.iter().all(|&pages| pages > 2000), "{nodes:?}");
        assert!(metadata(service) - before > count * 48);
        // Some of them first, from all nodes.
        for index in (0..count).step_by(3) {
            object.lock().page(index << 20).expect("it is there").free().expect("nobody holds it");
        }
        drop(object);
        let left = metadata(service);
        assert!(left <= before + 12 * 4096, "{left} bytes are left of {before}");
        assert_all_returned(service);
    }
}
