//! Object pages move when memory is compacted, with their contents, unless they are wired or busy.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use quarry_memory::events::Event;
use quarry_memory::hosted::HostedMachine;
use quarry_memory::vm::VmObject;
use quarry_memory::{CpuId, Gfp, M_DEVBUF, MallocFlags, Mobility, Order};

use crate::support::{MemoryPager, assert_all_returned, has_label, label, machine};

/// An object that fills all memory, of which every other page is left.
fn aged(object: &VmObject<HostedMachine>) -> u64 {
    let gfp = Gfp::KERNEL | Gfp::NORETRY | Gfp::NOWARN;
    let mut count = 0;
    while let Ok(mut page) = object.fault_with(count, gfp) {
        label(&mut page, count);
        drop(page);
        count += 1;
    }
    for index in (1..count).step_by(2) {
        object.lock().page(index).expect("it is there").free().expect("nobody holds it");
    }
    count
}

#[test]
fn object_pages_move_with_their_contents_and_large_blocks_appear() {
    let service = machine(64, 1).service();
    let object = service.vm_object(None).expect("there is memory");
    let count = aged(&object);
    let order = Order::new(9).expect("it exists");
    let quiet = Gfp::NOWAIT | Gfp::NOWARN;
    assert_eq!(service.alloc_pages(quiet, order), None);
    // Some of what moves is cached.
    for index in (0..count).step_by(64) {
        let mut locked = object.lock();
        let mut page = locked.page(index).expect("it is there");
        page.set_clean();
        assert!(page.cache());
    }
    let moved = service.compact_memory();
    assert!(moved > 1000, "{moved}");
    assert_eq!(service.event_count(Event::MigrateFail), 0);
    let block = service.alloc_pages(quiet, order).expect("there are large blocks");
    service.__free_pages(block, order);
    let cached = (0..count).step_by(64).filter(|&index| object.lock().is_cached(index)).count();
    assert!(cached > 0);
    for index in (0..count).step_by(2) {
        if index % 64 != 0 || object.lock().is_cached(index) {
            let page = object.fault(index).expect("it is there");
            assert!(has_label(&page, index), "page {index}");
            assert_eq!(service.mobility_of(page.frame()), Some(Mobility::Movable));
        }
    }
    drop(object);
    assert_all_returned(service);
}

#[test]
fn wired_and_busy_pages_never_move() {
    let service = machine(64, 1).service();
    let object = service.vm_object(None).expect("there is memory");
    let count = aged(&object);
    let held: Vec<_> = (0..count).step_by(2).filter(|index| index % 10 == 0).collect();
    let guards: Vec<_> = held.iter().step_by(3).map(|&index| object.fault(index).expect("it is there")).collect();
    for (at, &index) in held.iter().enumerate() {
        let mut locked = object.lock();
        let mut page = locked.page(index).expect("it is there");
        match at % 3 {
            0 => assert!(page.is_guarded()),
            1 => page.wire(),
            _ => assert!(page.busy()),
        }
    }
    let frames = || held.iter().map(|&index| object.lock().page(index).map(|page| page.frame())).collect::<Vec<_>>();
    let before = frames();
    service.compact_memory();
    assert_eq!(frames(), before);
    assert!(service.event_count(Event::MigrateFail) > 0);
    drop(guards);
    for &index in &held {
        let mut locked = object.lock();
        let mut page = locked.page(index).expect("it is there");
        if page.is_busy() {
            page.unbusy().expect("no guard has it");
        }
        if page.wirings() > 0 {
            page.unwire();
        }
    }
    assert!(service.compact_memory() > 0);
    assert_ne!(frames(), before);
    for index in (0..count).step_by(2) {
        assert!(has_label(&object.fault(index).expect("it is there"), index), "page {index}");
    }
    drop(object);
    assert_all_returned(service);
}

#[test]
fn nothing_is_lost_while_pages_are_used_and_freed_and_moved() {
    let hosted = machine(64, 3);
    let service = hosted.service();
    let object = service.vm_object(None).expect("there is memory");
    let share = 600;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..2u16)
            .map(|cpu| {
                let object = &object;
                scope.spawn(move || {
                    assert!(hosted.run_on(CpuId(cpu)));
                    let first = u64::from(cpu) << 32;
                    for round in 0..4 {
                        for at in (0..share).filter(|at| (at + round) % 3 == 0) {
                            label(&mut object.fault(first + at).expect("there is memory"), first + at);
                        }
                        for at in (0..share).filter(|at| (at + round) % 3 == 1) {
                            let mut locked = object.lock();
                            if let Some(page) = locked.page(first + at) {
                                page.free().expect("nobody holds it");
                            }
                        }
                        for at in (0..share).filter(|at| (at + round) % 3 == 0) {
                            assert!(has_label(&object.fault(first + at).expect("it is there"), first + at));
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            assert!(hosted.run_on(CpuId(2)));
            while !done.load(SeqCst) {
                service.compact_memory();
            }
        });
        let outcomes: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, SeqCst);
        assert!(outcomes.iter().all(Result::is_ok), "a worker has no reason to panic");
    });
    drop(object);
    assert_all_returned(service);
}

#[test]
fn a_contiguous_run_that_may_sleep_has_dirty_pages_written_where_they_cannot_be_moved() {
    let hosted = machine(32, 1);
    let service = hosted.service();
    let pager = MemoryPager::leak();
    let object = service.vm_object(Some(pager)).expect("there is memory");
    let quiet = Gfp::NOWAIT | Gfp::NOWARN;
    let mut count = 0;
    while let Ok(mut page) = object.fault_with(count, quiet) {
        label(&mut page, count);
        drop(page);
        count += 1;
    }
    let request = |flags| service.contigmalloc(1 << 20, &M_DEVBUF, flags, 0, u64::MAX, 1, 0);
    assert!(request(MallocFlags::NOWAIT).is_null(), "all memory is full of dirty pages");
    assert_eq!(pager.written.load(SeqCst), 0);
    let run = request(MallocFlags::WAITOK);
    assert!(!run.is_null(), "of {count} dirty pages enough can be written");
    assert!(pager.written.load(SeqCst) > 0);
    // SAFETY: freed once.
    unsafe { service.contigfree(run, 1 << 20, &M_DEVBUF) };
    for index in 0..count {
        assert!(has_label(&object.fault(index).expect("pages can be written"), index), "page {index}");
    }
    drop(object);
    assert_all_returned(service);
}

#[test]
fn a_contiguous_run_that_may_not_sleep_takes_the_place_of_clean_pages() {
    let service = machine(32, 1).service();
    let object = service.vm_object(None).expect("there is memory");
    let mut count = 0;
    while object.fault_with(count, Gfp::NOWAIT | Gfp::NOWARN).is_ok() {
        count += 1;
    }
    let run = service.contigmalloc(1 << 20, &M_DEVBUF, MallocFlags::NOWAIT, 0, u64::MAX, 1, 0);
    assert!(!run.is_null(), "{count} pages are clean");
    assert_eq!((service.event_count(Event::Wait), service.event_count(Event::DirectReclaim)), (0, 0));
    assert!(object.lock().page_count() < count);
    // SAFETY: freed once.
    unsafe { service.contigfree(run, 1 << 20, &M_DEVBUF) };
    drop(object);
    assert_all_returned(service);
}
