//! `vm_page_alloc`: the classes stop where they must, each flag does what it says, and a daemon's thread is raised.

use quarry_memory::hosted::HostedMachine;
use quarry_memory::statistics::ZoneInfo;
use quarry_memory::vm::alloc::{
    VM_ALLOC_IFCACHED, VM_ALLOC_IFNOTCACHED, VM_ALLOC_INTERRUPT, VM_ALLOC_NOBUSY, VM_ALLOC_NOOBJ, VM_ALLOC_NORMAL,
    VM_ALLOC_SYSTEM, VM_ALLOC_WIRED, VM_ALLOC_ZERO,
};
use quarry_memory::vm::{AllocClass, PageRequest, Queue, RequestError, VmObject};
use quarry_memory::{Gfp, Order};

use crate::support::{TestService, assert_all_returned, free, has_label, hoard, label, machine};

/// Pages of that class until there are no more; how many.
fn exhaust(object: &VmObject<HostedMachine>, next: &mut u64, request: PageRequest) -> u64 {
    let before = *next;
    let mut locked = object.lock();
    while object.service().vm_page_alloc(Some(&mut locked), *next, request).is_some() {
        *next += 1;
    }
    *next - before
}

/// What each zone with memory has left beyond what it keeps from a request that may use any zone.
fn left(service: &TestService, kept: fn(u32) -> u32) -> Vec<i64> {
    let highest = 2;
    let left = |zone: ZoneInfo| {
        let spared = zone.lowmem_reserve[highest];
        i64::from(zone.available()) - i64::from(kept(zone.watermarks.min)) - i64::from(spared)
    };
    service.zones().filter(|zone| zone.managed > 0).map(left).collect()
}

#[test]
fn each_class_stops_exactly_at_its_reserve() {
    let hosted = machine(64, 1);
    let service = hosted.service();
    let object = service.vm_object(None).expect("there is memory");
    let mut next = 0;
    assert!(exhaust(&object, &mut next, PageRequest::normal()) > 10_000);
    assert_eq!(left(service, |min| min).iter().max(), Some(&0), "normal stops at the reserve");
    assert_eq!(exhaust(&object, &mut next, PageRequest::normal()), 0);
    assert!(exhaust(&object, &mut next, PageRequest::system()) > 0);
    assert_eq!(left(service, |min| min / 4).iter().max(), Some(&0), "system stops at the interrupt reserve");
    assert_eq!(exhaust(&object, &mut next, PageRequest::normal()), 0);
    assert_eq!(exhaust(&object, &mut next, PageRequest::system()), 0);
    assert!(exhaust(&object, &mut next, PageRequest::interrupt()) > 0);
    let free: u32 = service.zones().map(|zone| zone.available()).sum();
    assert_eq!(free, 0, "interrupt stops at zero");
    // One page is free, and one more can be had by who may have the last.
    for (request, gets_it) in [(PageRequest::normal(), 0), (PageRequest::system(), 0), (PageRequest::interrupt(), 1)] {
        let mut locked = object.lock();
        next -= 1;
        locked.page(next).expect("it is there").free().expect("nobody holds it");
        drop(locked);
        assert_eq!(exhaust(&object, &mut next, request), gets_it, "{request:?}");
        exhaust(&object, &mut next, PageRequest::interrupt());
    }
    drop(object);
    assert_all_returned(service);
}

#[test]
fn with_zero_a_page_that_an_idle_cpu_has_zeroed_is_preferred() {
    let hosted = machine(64, 1);
    let service = hosted.service();
    let frames = hoard(service, Gfp::NOWAIT);
    for &frame in &frames {
        // SAFETY: the frame is this test's.
        unsafe { service.page_address(frame).write_bytes(0xa5, 4096) };
    }
    free(service, frames);
    service.drain_local();
    let object = service.vm_object(None).expect("there is memory");
    let is_zeroed = |index, request: PageRequest| {
        let mut locked = object.lock();
        let page = service.vm_page_alloc(Some(&mut locked), index, request).expect("memory is free");
        page.is_zeroed()
    };
    assert!(!is_zeroed(0, PageRequest::normal().zero()), "no CPU has idled");
    while service.zero_idle() {}
    assert!(!is_zeroed(1, PageRequest::normal().no_busy()), "not asked for");
    assert!(is_zeroed(2, PageRequest::normal().zero().no_busy()));
    assert!(service.vm_page_alloc(None, 0, PageRequest::interrupt().zero()).is_some_and(|page| {
        let zeroed = page.is_zeroed();
        page.free().expect("nobody holds it");
        zeroed
    }));
    // What the page is said to hold it does hold.
    assert!(object.fault(2).expect("there is memory").iter().all(|&byte| byte == 0));
    assert!(object.fault(3).expect("there is memory").iter().all(|&byte| byte == 0));
    drop(object);
    assert_all_returned(service);
}

#[test]
fn the_last_free_page_is_an_interrupts_whatever_descriptors_it_takes() {
    let hosted = machine(64, 1);
    let service = hosted.service();
    let object = service.vm_object(None).expect("there is memory");
    let frames = hoard(service, Gfp::NOWAIT);
    let mut next = 0;
    loop {
        let free: u32 = service.zones().map(|zone| zone.available()).sum();
        let mut locked = object.lock();
        // Far apart, so that each page needs a node of the tree.
        let page = service.vm_page_alloc(Some(&mut locked), next * 0x1_0001, PageRequest::interrupt());
        assert_eq!(page.is_some(), free > 0, "with {free} frames free");
        if page.is_none() {
            break;
        }
        next += 1;
    }
    assert!(next > 50);
    drop(object);
    free(service, frames);
    assert_all_returned(service);
}

#[test]
fn a_thread_that_makes_memory_free_is_raised_to_system() {
    let hosted = machine(64, 1);
    let service = hosted.service();
    let object = service.vm_object(None).expect("there is memory");
    let mut next = 0;
    exhaust(&object, &mut next, PageRequest::normal());
    let raised = {
        let _scope = service.memalloc_noreclaim();
        exhaust(&object, &mut next, PageRequest::normal())
    };
    assert!(raised > 0);
    assert_eq!(left(service, |min| min / 4).iter().max(), Some(&0), "no further than system");
    assert_eq!(exhaust(&object, &mut next, PageRequest::system()), 0);
    drop(object);
    assert_all_returned(service);
}

/// An object with a labelled page at index 7, which is cached.
fn with_a_cached_page(service: &'static TestService) -> VmObject<HostedMachine> {
    let object = service.vm_object(None).expect("there is memory");
    label(&mut object.fault(7).expect("there is memory"), 7);
    let mut locked = object.lock();
    let mut page = locked.page(7).expect("it is there");
    page.set_clean();
    assert!(page.cache());
    assert!(locked.is_cached(7) && locked.page(7).is_none());
    drop(locked);
    object
}

#[test]
fn a_cached_page_is_reactivated_with_its_contents() {
    let service = machine(64, 1).service();
    let object = with_a_cached_page(service);
    assert_eq!((service.statistics().object_pages, service.statistics().object_cache), (0, 4096));
    let mut locked = object.lock();
    let page = service.vm_page_alloc(Some(&mut locked), 7, PageRequest::normal().zero()).expect("it is cached");
    assert!(page.is_valid() && page.is_busy() && !page.is_zeroed() && page.queue() == Queue::None);
    let guard = page.guard().expect("it is ours");
    drop(locked);
    assert!(has_label(&guard, 7));
    assert_eq!((service.statistics().object_pages, service.statistics().object_cache), (4096, 0));
    drop(guard);
    drop(object);
    assert_all_returned(service);
}

#[test]
fn with_ifcached_there_is_a_page_only_if_it_is_cached() {
    let service = machine(64, 1).service();
    let object = with_a_cached_page(service);
    let mut locked = object.lock();
    let request = PageRequest::normal().if_cached();
    assert!(service.vm_page_alloc(Some(&mut locked), 8, request).is_none());
    assert_eq!(locked.page_count(), 1);
    let page = service.vm_page_alloc(Some(&mut locked), 7, request).expect("it is cached");
    assert!(page.is_valid());
    assert!(service.vm_page_alloc(None, 7, request).is_none(), "what is of no object is not cached");
}

#[test]
fn with_ifnotcached_there_is_a_page_only_if_it_is_not_cached() {
    let service = machine(64, 1).service();
    let object = with_a_cached_page(service);
    let mut locked = object.lock();
    let request = PageRequest::normal().if_not_cached();
    assert!(service.vm_page_alloc(Some(&mut locked), 7, request).is_none());
    assert!(locked.is_cached(7));
    let page = service.vm_page_alloc(Some(&mut locked), 8, request).expect("there is memory");
    assert!(!page.is_valid());
}

#[test]
fn with_noobj_a_page_is_of_no_object() {
    let service = machine(64, 1).service();
    let object = service.vm_object(None).expect("there is memory");
    let mut locked = object.lock();
    // The object is ignored, and no object is needed.
    let ignored = service.vm_page_alloc(Some(&mut locked), 3, PageRequest::normal().no_object());
    let mut ignored = ignored.expect("there is memory");
    ignored.bytes_mut().expect("it is of no object").fill(9);
    ignored.activate();
    assert_eq!(ignored.queue(), Queue::None);
    ignored.free().expect("nobody holds it");
    assert!(locked.page(3).is_none() && locked.page_count() == 0);
    drop(locked);
    let mut page = service.vm_page_alloc(None, 3, PageRequest::normal().wired()).expect("there is memory");
    assert_eq!(service.statistics().pages_in_use, 4096);
    assert_eq!(service.statistics().object_pages, 0);
    let frame = page.frame();
    service.compact_memory();
    assert_eq!(page.frame(), frame, "nobody moves it");
    page.unwire();
    assert!(!page.cache(), "no object could have it back");
    service.__free_pages(frame, Order::ZERO);
    drop(object);
    assert_all_returned(service);
}

#[test]
fn without_nobusy_a_page_is_busy() {
    let service = machine(64, 1).service();
    let object = service.vm_object(None).expect("there is memory");
    let mut locked = object.lock();
    let page = service.vm_page_alloc(Some(&mut locked), 0, PageRequest::normal()).expect("there is memory");
    assert!(page.is_busy() && !page.is_guarded());
    let page = service.vm_page_alloc(Some(&mut locked), 1, PageRequest::normal().no_busy()).expect("there is memory");
    assert!(!page.is_busy());
}

#[test]
fn with_wired_a_page_is_wired() {
    let service = machine(64, 1).service();
    let object = service.vm_object(None).expect("there is memory");
    let mut locked = object.lock();
    let mut page = service.vm_page_alloc(Some(&mut locked), 0, PageRequest::normal().wired()).expect("there is memory");
    assert_eq!(page.wirings(), 1);
    page.activate();
    assert_eq!(page.queue(), Queue::None, "a wired page is on no queue");
    page.unbusy().expect("no guard has it");
    page.unwire();
    assert_eq!((page.wirings(), page.queue()), (0, Queue::Active));
}

#[test]
fn the_words_flags_are_the_requests() {
    let word = VM_ALLOC_SYSTEM | VM_ALLOC_ZERO | VM_ALLOC_WIRED | VM_ALLOC_NOBUSY | VM_ALLOC_NOOBJ | VM_ALLOC_IFCACHED;
    let typed = PageRequest::system().zero().wired().no_busy().no_object().if_cached();
    assert_eq!(PageRequest::from_flags(word), Ok(typed));
    assert_eq!(PageRequest::from_flags(VM_ALLOC_NORMAL), Ok(PageRequest::new(AllocClass::Normal)));
    let word = VM_ALLOC_INTERRUPT | VM_ALLOC_IFNOTCACHED;
    assert_eq!(PageRequest::from_flags(word), Ok(PageRequest::interrupt().if_not_cached()));
}

#[test]
fn a_word_without_exactly_one_class_is_no_request() {
    for classes in [0, VM_ALLOC_NORMAL | VM_ALLOC_SYSTEM, VM_ALLOC_SYSTEM | VM_ALLOC_INTERRUPT] {
        assert_eq!(PageRequest::from_flags(classes | VM_ALLOC_ZERO), Err(RequestError::NotOneClass));
    }
    let both = VM_ALLOC_NORMAL | VM_ALLOC_IFCACHED | VM_ALLOC_IFNOTCACHED;
    assert_eq!(PageRequest::from_flags(both), Err(RequestError::BothCachedAndNot));
    assert_eq!(PageRequest::from_flags(VM_ALLOC_NORMAL | 1 << 20), Err(RequestError::Unknown(1 << 20)));
    insta::assert_snapshot!(RequestError::NotOneClass, @"a page is of one class: name exactly one of VM_ALLOC_NORMAL, VM_ALLOC_SYSTEM and VM_ALLOC_INTERRUPT");
}

#[test]
fn an_index_that_has_a_page_is_told() {
    let outcome = std::thread::spawn(|| {
        let service = machine(64, 1).service();
        let object = service.vm_object(None).expect("there is memory");
        drop(object.fault(5).expect("there is memory"));
        let mut locked = object.lock();
        let _ = service.vm_page_alloc(Some(&mut locked), 5, PageRequest::normal());
    })
    .join();
    let panic = outcome.expect_err("the index is taken");
    let message = panic.downcast_ref::<String>().expect("a message");
    assert_eq!(message, "vm_page_alloc at index 5 of an object that has a page there: look it up first");
}
