//! The page daemon: what is clean is cached and freed, what is dirty is laundered, what is held stays; and more data than
//! memory.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use quarry_memory::events::Event;
use quarry_memory::hosted::{Hosted, HostedMachine};
use quarry_memory::reclaim::MAX_ROUNDS;
use quarry_memory::vm::{PageRequest, Queue, VmObject};
use quarry_memory::{CpuId, Gfp, NodeId, Order, Topology};

use crate::support::{MIB, MemoryPager, assert_all_returned, free, has_label, hoard, label, machine};

const NODE: NodeId = NodeId(0);

/// Dirties that many pages.
fn fill(object: &VmObject<HostedMachine>, count: u64) {
    for index in 0..count {
        label(&mut object.fault(index).expect("there is memory"), index);
    }
}

/// Takes what memory there is, so that the node is out of balance, and has it balanced once.
fn balance(hosted: &'static Hosted) {
    let service = hosted.service();
    let frames = hoard(service, Gfp::NOWAIT);
    service.balance(NODE);
    free(service, frames);
}

#[test]
fn dirty_pages_are_laundered_and_then_cached_and_come_back() {
    let hosted = machine(64, 1);
    let pager = MemoryPager::leak();
    let object = hosted.service().vm_object(Some(pager)).expect("there is memory");
    fill(&object, 4000);
    balance(hosted);
    let written = pager.written.load(SeqCst);
    assert!(written > 0 && hosted.service().event_count(Event::VmLaundered) == written);
    // Side by side in the object, so they go together.
    assert!(pager.requests.load(SeqCst) * 8 < written, "{written} pages in {:?} requests", pager.requests);
    for index in 0..4000 {
        let page = object.fault(index).expect("there is memory");
        assert!(has_label(&page, index), "page {index}");
    }
    drop(object);
    assert_all_returned(hosted.service());
}

#[test]
fn a_fault_does_not_give_up_while_a_pager_has_pages_to_write() {
    let hosted = machine(64, 2);
    let service = hosted.service();
    let (pager, requests) = MemoryPager::leak_held();
    let dirty = service.vm_object(Some(pager)).expect("there is memory");
    let object = service.vm_object(None).expect("there is memory");
    fill(&dirty, 4000);
    let fault = || object.fault(0).map(drop);
    let frames = thread::scope(|scope| {
        let (ready, is_ready) = mpsc::channel();
        let (full, is_full) = mpsc::channel();
        let waiter = scope.spawn(move || {
            assert!(hosted.run_on(CpuId(1)), "the CPU has its set before there is no memory for it");
            ready.send(()).expect("the test waits");
            is_full.recv().expect("memory will be full");
            fault()
        });
        is_ready.recv().expect("the thread is ready");
        let frames = hoard(service, Gfp::NOWAIT);
        assert!(!service.balance(NODE), "the pager keeps what it is to write");
        full.send(()).expect("the thread waits");
        while service.event_count(Event::Wait) < 3 * u64::from(MAX_ROUNDS) && !waiter.is_finished() {
            thread::yield_now();
        }
        for request in requests.try_iter() {
            pager.write(request);
        }
        // It wakes from its sleep by itself, and finds pages that are clean.
        assert_eq!(waiter.join().expect("it does not panic"), Ok(()));
        frames
    });
    free(service, frames);
    drop((dirty, object));
    assert_all_returned(service);
}

#[test]
fn cached_pages_count_as_available_and_are_freed_before_the_reserve_is_touched() {
    let hosted = machine(64, 1);
    let service = hosted.service();
    let object = service.vm_object(None).expect("there is memory");
    for index in 0..2000 {
        drop(object.fault(index).expect("there is memory"));
        assert!(object.lock().page(index).expect("it is there").cache());
    }
    assert_eq!(service.vm_pages(NODE).cache, 2000);
    let frames = hoard(service, Gfp::NOWAIT);
    assert_eq!(service.vm_pages(NODE).cache, 0);
    assert_eq!(service.event_count(Event::VmCacheFreed), 2000);
    let min: u32 = service.zones().map(|zone| zone.watermarks.min).sum();
    let left: u32 = service.zones().map(|zone| zone.available()).sum();
    assert!(left >= min, "{left} frames are left, of a reserve of {min}");
    free(service, frames);
    assert_eq!(object.lock().page_count(), 0);
    drop(object);
    assert_all_returned(service);
}

#[test]
fn an_object_gets_the_frames_of_its_own_cached_pages_while_it_is_locked() {
    let service = machine(64, 1).service();
    let object = service.vm_object(None).expect("there is memory");
    for index in 0..100 {
        drop(object.fault(index).expect("there is memory"));
        assert!(object.lock().page(index).expect("it is there").cache());
    }
    let mut frames = Vec::new();
    while service.vm_pages(NODE).cache == 100 {
        frames.push(service.alloc_pages(Gfp::NOWAIT, Order::ZERO).expect("there is memory"));
    }
    let left = service.vm_pages(NODE).cache;
    assert!(left > 50);
    let mut locked = object.lock();
    let mut got = 0;
    while service.vm_page_alloc(Some(&mut locked), 1000 + got, PageRequest::normal()).is_some() {
        got += 1;
    }
    assert!(got >= u64::from(left), "{got} pages, of {left} that were cached");
    assert!((0..100).all(|index| !locked.is_cached(index)));
    assert_eq!(service.vm_pages(NODE).cache, 0);
    drop(locked);
    assert_eq!(object.lock().page_count(), got);
    drop(object);
    free(service, frames);
    assert_all_returned(service);
}

#[test]
fn pages_used_since_get_a_second_chance() {
    let hosted = machine(64, 1);
    let pager = MemoryPager::leak();
    let object = hosted.service().vm_object(Some(pager)).expect("there is memory");
    fill(&object, 2000);
    // All that is inactive and was not used since goes first.
    for index in 0..200 {
        object.lock().page(index).expect("it is there").deactivate();
    }
    for index in 0..100 {
        drop(object.fault(index).expect("it is there"));
    }
    balance(hosted);
    let order = pager.order.lock().expect("nobody panics with it");
    let place = |index| order.iter().position(|&written| written == index);
    let last_unused = (100..200).map(|index| place(index).expect("an unused page goes")).max();
    let first_used = (0..100).filter_map(place).min();
    assert!(first_used.is_none_or(|first| Some(first) > last_unused), "{first_used:?}, {last_unused:?}: {order:?}");
}

#[test]
fn wired_and_busy_pages_are_never_laundered() {
    let hosted = machine(64, 1);
    let pager = MemoryPager::leak();
    let object = hosted.service().vm_object(Some(pager)).expect("there is memory");
    fill(&object, 1000);
    for index in 0..100 {
        let mut locked = object.lock();
        let mut page = locked.page(index).expect("it is there");
        page.deactivate();
        if index % 3 == 0 {
            page.wire();
        } else if index % 3 == 1 {
            assert!(page.busy());
        }
    }
    let guard = object.fault(500).expect("it is there");
    for _ in 0..20 {
        balance(hosted);
    }
    assert!(pager.written.load(SeqCst) > 100);
    for index in 0..100 {
        assert_eq!(pager.holds(index, index), index % 3 == 2, "page {index}");
    }
    assert!(!pager.holds(500, 500) && has_label(&guard, 500));
    drop(guard);
    for index in (0..100).filter(|index| index % 3 == 1) {
        object.lock().page(index).expect("it is there").unbusy().expect("no guard has it");
    }
    drop(object);
    assert_all_returned(hosted.service());
}

#[test]
fn a_page_that_cannot_be_written_stays_dirty_and_active() {
    let hosted = machine(64, 1);
    let pager = MemoryPager::leak();
    pager.fails_to_write.store(true, SeqCst);
    let object = hosted.service().vm_object(Some(pager)).expect("there is memory");
    fill(&object, 500);
    balance(hosted);
    assert!(hosted.service().event_count(Event::VmLaunderFailed) > 0);
    let mut locked = object.lock();
    assert!((0..500).all(|index| locked.page(index).is_some_and(|page| page.is_dirty())));
    drop(locked);
    pager.fails_to_write.store(false, SeqCst);
    balance(hosted);
    assert!(pager.written.load(SeqCst) > 0);
    for index in 0..500 {
        assert!(has_label(&object.fault(index).expect("there is memory"), index));
    }
}

#[test]
fn without_a_pager_dirty_pages_stay() {
    let hosted = machine(64, 1);
    let object = hosted.service().vm_object(None).expect("there is memory");
    fill(&object, 500);
    balance(hosted);
    let mut locked = object.lock();
    assert!((0..500).all(|index| locked.page(index).is_some_and(|page| page.queue() == Queue::Active)));
}

const RAM: u64 = 32 * MIB;

/// Four times as much data as memory, on four threads, in two objects.
fn four_times_ram(pagers: [&'static MemoryPager; 2]) {
    let topology = Topology::builder().node(16 * MIB, 2).node(16 * MIB, 2).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    let service = hosted.service();
    hosted.start_balancers();
    assert!(hosted.run_on(CpuId(0)));
    let objects = pagers.map(|pager| service.vm_object(Some(pager)).expect("there is memory"));
    let count = 4 * RAM / 4096;
    let gfp = Gfp::KERNEL | Gfp::NOFAIL;
    let number = |round: u64, index: u64| index << 8 | round;
    let on_each_thread = |work: &(dyn Fn(u64) + Sync)| {
        thread::scope(|scope| {
            for cpu in 0..4u16 {
                scope.spawn(move || {
                    assert!(hosted.run_on(CpuId(cpu)));
                    (0..count).skip(cpu.into()).step_by(4).for_each(work);
                    hosted.leave();
                });
            }
        });
    };
    let place = |index: u64| (&objects[(index / 4 % 2) as usize], index * 3);
    on_each_thread(&|index| {
        let (object, at) = place(index);
        label(&mut object.fault_with(at, gfp).expect("it must not fail"), number(0, index));
    });
    on_each_thread(&|index| {
        // In another order, and every third written anew.
        let index = index ^ 0x1f8;
        let (object, at) = place(index);
        let mut page = object.fault_with(at, gfp).expect("it must not fail");
        assert!(has_label(&page, number(0, index)), "page {index}");
        if index % 3 == 0 {
            label(&mut page, number(1, index));
        }
    });
    on_each_thread(&|index| {
        let (object, at) = place(index);
        let page = object.fault_with(at, gfp).expect("it must not fail");
        assert!(has_label(&page, number(u64::from(index % 3 == 0), index)), "page {index}");
    });
    let written: u64 = pagers.iter().map(|pager| pager.written.load(SeqCst)).sum();
    assert!(written > 3 * RAM / 4096, "{written}");
    drop(objects);
    assert_all_returned(service);
}

#[test]
fn four_times_ram_goes_through_a_pager_and_comes_back() {
    four_times_ram([MemoryPager::leak(), MemoryPager::leak()]);
}

#[test]
fn four_times_ram_goes_through_a_pager_that_completes_later() {
    four_times_ram([MemoryPager::leak_asynchronous(), MemoryPager::leak_asynchronous()]);
}

#[test]
fn other_cpus_are_seldom_called_however_often_faults_reclaim() {
    let service = machine(16, 1).service();
    let began = Instant::now();
    let object = service.vm_object(Some(MemoryPager::leak())).expect("there is memory");
    for index in 0..4 * 16 * MIB / 4096 {
        drop(object.fault(index).expect("clean pages make room"));
        // Not used again: each is one that the next who reclaims may free.
        object.lock().page(index).expect("nobody else reclaims").deactivate();
    }
    let most = 1 + began.elapsed().as_millis() as u64 / 10;
    let stalls = service.event_count(Event::DirectReclaim);
    assert!(stalls > 100, "{stalls} faults reclaimed");
    let calls = service.event_count(Event::DrainCall);
    assert!(calls <= most, "{calls} calls in {stalls} reclaims, where time allows {most}");
    drop(object);
    assert_all_returned(service);
}
