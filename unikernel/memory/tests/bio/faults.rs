//! Every allocation of a use of bios fails once: whoever may wait gets bios all the same, and nothing is lost.

use quarry_memory::bio::{BiosetFlags, DiskPager, Linear, Operation, RamDisk, Splitting, Stripe};
use quarry_memory::events::Event;
use quarry_memory::fault::FaultAttributes;
use quarry_memory::{Gfp, Order, Pfn};

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
            done = take_bios_apart(service, block, set).and_then(|()| make_pagers(service, first.get()));
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

/// Clones and splits bios without waiting: one that cannot be had leaves the other as it was.
fn take_bios_apart(service: &'static TestService, block: Pfn, set: &TestSet) -> Option<()> {
    let mut bio = service.bio_kmalloc(100, Gfp::KERNEL)?;
    // SAFETY: it is never submitted.
    assert_eq!(unsafe { bio.add_page(block, 4 * SECTOR as u32, 0) }, 4 * SECTOR as u32);
    let clone = bio.fast_clone(Gfp::NOWAIT, set);
    let first = bio.split(3, Gfp::NOWAIT, set);
    let (sectors, sector) = if first.is_some() { (1, 3) } else { (4, 0) };
    assert_eq!((bio.sectors(), bio.sector()), (sectors, sector), "a bio that could not be split is whole");
    assert!(first.as_ref().is_none_or(|first| first.sectors() == 3));
    assert!(clone.as_ref().is_none_or(|clone| clone.sectors() == 4));
    clone.and(first).map(drop)
}

/// Makes what stands on a device; what could be made is ended.
fn make_pagers(service: &'static TestService, device: Device) -> Option<()> {
    let rescued = service.bioset_init("rescued", 2, 0, BiosetFlags::NEED_RESCUER).ok()?;
    let linear = Linear::new(service, rescued, &[device, device], Splitting::AllAtOnce);
    linear.unwrap_or_else(|(error, _)| panic!("{error}")).end().unwrap_or_else(|error| panic!("{error}"));
    let pager = DiskPager::new(service, device, 0, 2, 2).ok()?;
    pager.end().unwrap_or_else(|error| panic!("{error}"));
    Some(())
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
    assert!(swept >= 20, "{swept} allocations of objects failed");
}

#[test]
fn whichever_page_cannot_be_had_bios_of_sets_can() {
    let swept = sweep(TestService::fail_page_alloc);
    assert!(swept >= 10, "{swept} allocations of pages failed");
}
