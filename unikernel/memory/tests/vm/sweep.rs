//! Every allocation of every use of an object fails once; nothing is lost, and the books balance.

use quarry_memory::events::Event;
use quarry_memory::fault::FaultAttributes;
use quarry_memory::hosted::HostedMachine;
use quarry_memory::vm::{AllocClass, PageRequest, VmObject};
use quarry_memory::{Gfp, NodeId};

use crate::support::{MemoryPager, TestService, has_label, label, machine};

/// Makes an object, fills it, launders and reads it back; `None` where something could not be had.
fn use_an_object(service: &'static TestService) -> Option<()> {
    let pager = MemoryPager::leak();
    let object = service.vm_object(Some(pager)).ok()?;
    // Far apart, so that the trees need nodes, and enough for stores to be refilled.
    for at in 0..150u64 {
        label(&mut object.fault_with(at << 20, Gfp::KERNEL | Gfp::NOWARN).ok()?, at);
    }
    let mut locked = object.lock();
    for (at, request) in
        [PageRequest::normal(), PageRequest::system(), PageRequest::interrupt()].into_iter().enumerate()
    {
        service.vm_page_alloc(Some(&mut locked), 1 + at as u64, request.wired())?.unwire();
        let page = service.vm_page_alloc(None, 0, request.zero())?;
        page.free().expect("it is not wired");
    }
    drop(locked);
    every_class_and_flag(service, &object)?;
    for at in 0..150u64 {
        object.lock().page(at << 20)?.deactivate();
    }
    let frames = crate::support::hoard(service, Gfp::NOWAIT);
    service.balance(NodeId(0));
    crate::support::free(service, frames);
    for at in 0..150u64 {
        let page = object.fault_with(at << 20, Gfp::KERNEL | Gfp::NOWARN).ok()?;
        assert!(has_label(&page, at), "page {at}");
    }
    Some(())
}

/// A page of each class with each flag, far from the others. What is cached can be had whatever fails.
fn every_class_and_flag(service: &'static TestService, object: &VmObject<HostedMachine>) -> Option<()> {
    let mut locked = object.lock();
    let mut index = 1 << 40;
    for class in [AllocClass::Normal, AllocClass::System, AllocClass::Interrupt] {
        let plain = PageRequest::new(class);
        let requests = [plain.zero(), plain.no_busy(), plain.wired(), plain.if_not_cached(), plain.no_object()];
        for request in requests {
            index += 1 << 30;
            let count = locked.page_count();
            let Some(mut page) = service.vm_page_alloc(Some(&mut locked), index, request) else {
                assert_eq!(locked.page_count(), count, "a page that could not be had is not there");
                return None;
            };
            assert_eq!(page.is_busy(), request != plain.no_busy());
            assert_eq!(page.wirings(), u32::from(request == plain.wired()));
            if page.wirings() > 0 {
                page.unwire();
            }
            page.free().expect("it is not wired");
        }
        let mut page = service.vm_page_alloc(Some(&mut locked), index, plain.no_busy())?;
        page.set_valid();
        assert!(page.cache(), "it is clean");
        assert!(service.vm_page_alloc(Some(&mut locked), index, plain.if_not_cached()).is_none());
        let page = service.vm_page_alloc(Some(&mut locked), index, plain.if_cached());
        page.expect("it is cached, and needs no memory").free().expect("it is not wired");
    }
    Some(())
}

#[test]
fn a_sweep_through_objects() {
    let inject: [fn(&TestService, Option<FaultAttributes>); 2] = [TestService::failslab, TestService::fail_page_alloc];
    let mut swept = [0; 2];
    for (inject, swept) in inject.into_iter().zip(&mut swept) {
        let hosted = machine(16, 1);
        let service = hosted.service();
        let mut number = 1;
        loop {
            let before = service.event_count(Event::FaultInjected);
            inject(service, Some(FaultAttributes { verbose: false, ..FaultAttributes::nth(number) }));
            let done = use_an_object(service);
            let faults = service.event_count(Event::FaultInjected) - before;
            inject(service, None);
            service.drain_local();
            service.shrink_depots();
            let rows = service.statistics();
            assert!(rows.adds_up(), "run {number}: {rows:#?}");
            assert_eq!((rows.in_use(), rows.object_cache), (0, 0), "run {number}: {rows:#?}");
            assert_eq!(service.count_objects_in_use(), 0, "run {number}");
            service.validate().unwrap_or_else(|broken| panic!("run {number}: {broken}"));
            if faults == 0 {
                assert!(done.is_some(), "run {number} failed though no fault was injected");
                break;
            }
            number += 1;
            // The middle of a long row of equal allocations tells nothing new.
            if number > 440 {
                number += 997;
            }
        }
        *swept = number;
        // SAFETY: nobody uses the instance any more.
        unsafe { hosted.retire() };
    }
    assert!(swept[0] >= 2 && swept[1] > 330, "of objects and pages failed {swept:?}");
}
