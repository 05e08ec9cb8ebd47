//! Every allocation of a use of bios fails once: whoever may wait gets bios all the same, and nothing is lost.

use quarry_memory::bio::{BiosetFlags, Operation, RamDisk, Splitting, Stripe};
use quarry_memory::events::Event;
use quarry_memory::fault::FaultAttributes;
use quarry_memory::{Gfp, Order};

use crate::support::{Device, End, SECTOR, TestService, TestSet, aim, assert_nothing_in_use, end_disk, exit, service};

fn make_set(service: &'static TestService) -> Option<TestSet> {
    service.bioset_init("test", 2, 16, BiosetFlags::NEED_BVECS).ok()
}

fn end_set(service: &'static TestService, set: Option<TestSet>) {
    if let Some(set) = set {
        exit(service, set);
    }
}

/// Writes to a stripe and reads back; `None` when something it needs could not be made.
fn use_bios(service: &'static TestService) -> Option<()> {
    let disks = [RamDisk::new(service, 16), RamDisk::new(service, 16)];
    let disks: Vec<_> = disks.into_iter().flatten().map(End::new).collect();
    let (parts, set) = (make_set(service), make_set(service));
    let block = service.alloc_pages(Gfp::KERNEL, Order::ZERO);
    let mut done = None;
    if let ([first, second], Some(set), Some(block)) = (&disks[..], &set, block) {
        let members: [Device; 2] = [first.get(), second.get()];
        if let Some(parts) = parts {
            let stripe = Stripe::new(service, parts, &members, 3, Splitting::OneByOne);
            let stripe = End::new(stripe.unwrap_or_else(|(error, _)| panic!("{error}")));
            for vectors in [0, 16, 64, 256] {
                for operation in [Operation::Write, Operation::Read] {
                    let bio = service.bio_alloc_bioset(Gfp::KERNEL, vectors, Some(set)).expect("it may wait");
                    assert!(bio.capacity() >= vectors);
                    let mut bio = aim(bio, operation, stripe.get(), 1);
                    // SAFETY: the block lives until the bio has completed, and nobody looks at it.
                    assert_eq!(unsafe { bio.add_page(block, 8 * SECTOR as u32, 0) }, 8 * SECTOR as u32);
                    assert_eq!(service.submit_and_wait(bio).1, Ok(()), "whatever fails");
                }
            }
            // SAFETY: no bio for it is left.
            unsafe { stripe.end() }.end().unwrap_or_else(|error| panic!("{error}"));
            done = service.bio_kmalloc(100, Gfp::KERNEL).map(drop);
        }
    } else {
        end_set(service, parts);
    }
    if let Some(block) = block {
        service.__free_pages(block, Order::ZERO);
    }
    end_set(service, set);
    disks.into_iter().for_each(end_disk);
    done
}

fn sweep(inject: fn(&TestService, Option<FaultAttributes>)) -> u32 {
    let service = service();
    for number in 1..10_000 {
        let before = service.event_count(Event::FaultInjected);
        inject(service, Some(FaultAttributes { verbose: false, ..FaultAttributes::nth(number) }));
        let done = use_bios(service);
        let faults = service.event_count(Event::FaultInjected) - before;
        inject(service, None);
        service.drain_local();
        service.shrink_depots();
        assert_nothing_in_use(service);
        if faults == 0 {
            assert!(done.is_some(), "run {number} failed though no fault was injected");
            return number - 1;
        }
        assert_eq!(faults, 1, "run {number}");
    }
    panic!("the scenario never comes to its end");
}

#[test]
fn whichever_object_cannot_be_had_bios_of_sets_can() {
    let swept = sweep(TestService::failslab);
    assert!(swept >= 12, "{swept} allocations of objects failed");
}

#[test]
fn whichever_page_cannot_be_had_bios_of_sets_can() {
    let swept = sweep(TestService::fail_page_alloc);
    assert!(swept >= 8, "{swept} allocations of pages failed");
}
