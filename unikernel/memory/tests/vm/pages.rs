//! What can be done to a page, and waiting for a busy one.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;

use quarry_memory::vm::{FaultError, Queue};
use quarry_memory::{CpuId, Gfp, NodeId};

use crate::support::{MemoryPager, assert_all_returned, free, has_label, hoard, label, machine};

#[test]
fn a_fault_gives_zeroes_then_what_was_written() {
    let service = machine(64, 1).service();
    let object = service.vm_object(None).expect("there is memory");
    let mut page = object.fault(u64::MAX).expect("there is memory");
    assert!(page.iter().all(|&byte| byte == 0));
    label(&mut page, 1);
    drop(page);
    let page = object.fault(u64::MAX).expect("it is there");
    assert!(has_label(&page, 1));
    drop(page);
    let mut locked = object.lock();
    let page = locked.page(u64::MAX).expect("it is there");
    assert!(page.is_dirty() && page.is_valid() && !page.is_busy() && page.queue() == Queue::Active);
    assert!(!page.cache(), "a dirty page is not available");
    assert!(locked.page(0).is_none());
    drop(locked);
    drop(object);
    assert_all_returned(service);
}

#[test]
fn reading_leaves_a_page_clean() {
    let service = machine(64, 1).service();
    let object = service.vm_object(None).expect("there is memory");
    assert_eq!(object.fault(4).expect("there is memory")[17], 0);
    let mut locked = object.lock();
    let page = locked.page(4).expect("it is there");
    assert!(!page.is_dirty());
    assert!(page.cache());
}

#[test]
fn a_fault_has_the_pager_fill_the_page_if_it_has_it() {
    let service = machine(64, 1).service();
    let pager = MemoryPager::leak();
    pager.store(3, &[0xa5; 4096]);
    let object = service.vm_object(Some(pager)).expect("there is memory");
    assert!(object.fault(3).expect("it is read").iter().all(|&byte| byte == 0xa5));
    assert!(object.fault(4).expect("it is zeroes").iter().all(|&byte| byte == 0));
    assert_eq!(pager.read.load(SeqCst), 1);
    drop(object.fault(3).expect("it is in memory"));
    assert_eq!(pager.read.load(SeqCst), 1, "what is in memory is not read again");
}

#[test]
fn a_fault_that_the_pager_cannot_serve_is_told_and_leaves_no_page() {
    let service = machine(64, 1).service();
    let pager = MemoryPager::leak();
    let object = service.vm_object(Some(pager)).expect("there is memory");
    pager.fails_to_read.store(true, SeqCst);
    assert_eq!(object.fault(0).map(drop), Err(FaultError::Pager));
    assert_eq!(object.lock().page_count(), 0);
    pager.fails_to_read.store(false, SeqCst);
    drop(object.fault(0).expect("it is zeroes"));
    drop(object);
    assert_all_returned(service);
}

#[test]
fn a_fault_without_memory_is_told() {
    let hosted = machine(64, 1);
    let service = hosted.service();
    let object = service.vm_object(None).expect("there is memory");
    let frames = hoard(service, Gfp::KERNEL | Gfp::HIGH | Gfp::NORETRY);
    assert_eq!(object.fault_with(0, Gfp::NOWAIT | Gfp::NOWARN).map(drop), Err(FaultError::NoMemory));
    assert_eq!(object.fault_with(0, Gfp::KERNEL | Gfp::NOWARN).map(drop), Err(FaultError::NoMemory));
    free(service, frames);
    drop(object.fault(0).expect("there is memory"));
    drop(object);
    assert_all_returned(service);
}

#[test]
fn who_wants_a_busy_page_waits_until_it_is_not() {
    let hosted = machine(64, 4);
    let object = hosted.service().vm_object(None).expect("there is memory");
    let inside = AtomicU32::new(0);
    thread::scope(|scope| {
        for cpu in 0..4 {
            let (object, inside) = (&object, &inside);
            scope.spawn(move || {
                assert!(hosted.run_on(CpuId(cpu)));
                for _ in 0..2000 {
                    let mut page = object.fault(1).expect("there is memory");
                    assert_eq!(inside.fetch_add(1, SeqCst), 0, "a busy page is one guard's");
                    let count = u64::from_le_bytes(page[..8].try_into().expect("eight bytes"));
                    page[..8].copy_from_slice(&(count + 1).to_le_bytes());
                    inside.fetch_sub(1, SeqCst);
                }
            });
        }
    });
    let page = object.fault(1).expect("it is there");
    assert_eq!(u64::from_le_bytes(page[..8].try_into().expect("eight bytes")), 8000);
}

#[test]
fn busy_by_hand_is_waited_for_and_ended_by_hand() {
    let hosted = machine(64, 2);
    let object = hosted.service().vm_object(None).expect("there is memory");
    drop(object.fault(9).expect("there is memory"));
    assert!(object.lock().page(9).expect("it is there").busy());
    assert!(!object.lock().page(9).expect("it is there").busy(), "it is busy already");
    let woken = AtomicU32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            assert!(hosted.run_on(CpuId(1)));
            let mut locked = object.lock().wait(9);
            assert!(!locked.page(9).expect("it is there").is_busy());
            woken.store(1, SeqCst);
        });
        assert_eq!(woken.load(SeqCst), 0);
        object.lock().page(9).expect("it is there").unbusy().expect("no guard has it");
    });
    assert_eq!(woken.load(SeqCst), 1);
    drop(object.lock().wait(10));
}

#[test]
fn what_a_guard_has_only_the_guard_lets_go() {
    let service = machine(64, 1).service();
    let object = service.vm_object(None).expect("there is memory");
    let guard = object.fault(2).expect("there is memory");
    let mut locked = object.lock();
    let mut page = locked.page(2).expect("it is there");
    assert!(page.is_guarded() && page.is_busy());
    page.unbusy().expect_err("a guard has it");
    page.free().expect_err("a guard has it");
    locked.page(2).expect("it is there").guard().map(drop).expect_err("a guard has it");
    drop(locked);
    guard.free();
    assert_eq!(object.lock().page_count(), 0);
    drop(object);
    assert_all_returned(service);
}

#[test]
fn a_wired_page_is_not_freed_and_is_active_after_the_last_unwire() {
    let service = machine(64, 1).service();
    let object = service.vm_object(None).expect("there is memory");
    drop(object.fault(2).expect("there is memory"));
    let mut locked = object.lock();
    let mut page = locked.page(2).expect("it is there");
    page.wire();
    page.wire();
    assert_eq!((page.wirings(), page.queue()), (2, Queue::None));
    page.deactivate();
    assert_eq!(page.queue(), Queue::None);
    page.free().expect_err("it is wired");
    assert!(!locked.page(2).expect("it is there").cache(), "it is wired");
    let mut page = locked.page(2).expect("it is there");
    page.unwire();
    page.unwire();
    assert_eq!((page.wirings(), page.queue()), (0, Queue::Active));
    page.deactivate();
    assert_eq!(page.queue(), Queue::Inactive);
    page.activate();
    assert_eq!(page.queue(), Queue::Active);
    page.free().expect("nobody holds it");
    assert!(locked.page(2).is_none());
}

#[test]
fn pages_are_found_by_index_and_counted_by_queue() {
    let service = machine(64, 1).service();
    let object = service.vm_object(None).expect("there is memory");
    for index in [5, 1 << 40, 70, 71] {
        drop(object.fault(index).expect("there is memory"));
    }
    let mut locked = object.lock();
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(page) = locked.next_page(from) {
        found.push(page.index());
        from = page.index() + 1;
    }
    assert_eq!(found, [5, 70, 71, 1 << 40]);
    locked.page(70).expect("it is there").deactivate();
    assert!(locked.page(71).expect("it is there").cache());
    assert_eq!(locked.next_page(71).map(|page| page.index()), Some(1 << 40), "a cached page is not looked up");
    drop(locked);
    let pages = service.vm_pages(NodeId(0));
    assert_eq!((pages.active, pages.inactive, pages.cache, pages.all), (2, 1, 1, 4));
    let rows = service.statistics();
    assert_eq!((rows.object_pages, rows.object_cache), (3 * 4096, 4096));
    assert!(rows.adds_up());
}
