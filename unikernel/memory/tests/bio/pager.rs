//! Objects paged to disks through drivers that stand on others: every byte comes back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use quarry_memory::bio::{
    BioSet, BiosetFlags, DiskPager, DiskPagerError, Linear, Operation, PAGE_SECTORS, Partition, RamDisk, Splitting,
    Stripe,
};
use quarry_memory::events::Event;
use quarry_memory::hosted::{Hosted, HostedMachine};
use quarry_memory::vm::{Queue, VmObject};
use quarry_memory::{CpuId, Gfp, NodeId, Topology};

use crate::support::{
    AllMemory, Buffer, Device, End, SECTOR, TestDisk, TestService, aim, assert_nothing_in_use, disk, end_disk, hosted,
    set,
};

type TestPager = DiskPager<HostedMachine>;
type TestObject = VmObject<HostedMachine>;

const NODES: [NodeId; 2] = [NodeId(0), NodeId(1)];

fn label(page: &mut [u8; 4096], number: u64) {
    for (at, word) in page.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(number << 16 | at as u64).to_le_bytes());
    }
}

fn has_label(page: &[u8; 4096], number: u64) -> bool {
    page.chunks_exact(8).enumerate().all(|(at, word)| word == (number << 16 | at as u64).to_le_bytes())
}

/// Dirties the first pages.
fn fill(object: &TestObject, count: u64) {
    for index in 0..count {
        label(&mut object.fault(index).expect("memory is free"), index);
    }
}

fn pager(service: &'static TestService, device: Device, pages: u64) -> End<TestPager> {
    End::new(DiskPager::new(service, device, 3, pages, 2).unwrap_or_else(|error| panic!("{error}")))
}

fn end_pager(pager: End<TestPager>) {
    // SAFETY: the tests end their objects before.
    unsafe { pager.end() }.end().unwrap_or_else(|error| panic!("{error}"));
}

/// Has dirty pages written: makes memory short, takes all there is, and balances the nodes.
fn launder(service: &'static TestService) {
    let memory = AllMemory::take(service);
    for node in NODES {
        service.balance(node);
    }
    drop(memory);
}

#[test]
fn what_was_never_written_is_zeroes_whatever_the_disk_holds() {
    let service = hosted().service();
    let sectors = 3 + 100 * PAGE_SECTORS;
    let contents = vec![0xff; sectors as usize * SECTOR].leak();
    let disk: &'static TestDisk = Box::leak(Box::new(RamDisk::over(service, contents)));
    let pager = pager(service, disk, 100);
    let object = service.vm_object(Some(pager.get())).expect("memory is free");
    assert_eq!(object.fault(17).expect("memory is free")[..], [0; 4096]);
    assert!(object.fault(99).is_ok());
    assert!(object.fault(100).is_err(), "the pager has 100 pages");
    assert_eq!(service.event_count(Event::VmLaundered), 0);
    drop(object);
    end_pager(pager);
    assert_nothing_in_use(service);
}

#[test]
fn pages_are_written_when_no_memory_is_left_to_their_places_on_the_disk() {
    let service = hosted().service();
    let disk = disk(service, 3 + 500 * PAGE_SECTORS);
    let pager = pager(service, disk.get(), 500);
    let object = service.vm_object(Some(pager.get())).expect("memory is free");
    fill(&object, 500);
    launder(service);
    let written = service.event_count(Event::VmLaundered);
    assert!(written > 0, "nothing was written");
    assert_eq!(pager.get().pages_written(), written);
    for index in 0..500 {
        assert!(has_label(&object.fault(index).expect("memory is free"), index), "page {index}");
    }
    drop(object);
    let mut buffer = Buffer::new(service, 0);
    let mut found = 0;
    for index in 0..500 {
        let bio = service.bio_kmalloc(1, Gfp::KERNEL).expect("memory is free");
        let mut bio = aim(bio, Operation::Read, disk.get(), 3 + index * PAGE_SECTORS);
        buffer.add_to(&mut bio, 0, 4096);
        assert_eq!(service.submit_and_wait(bio).1, Ok(()));
        found += u64::from(has_label(buffer.bytes().first_chunk().expect("a page"), index));
    }
    assert_eq!(found, written);
    drop(buffer);
    end_pager(pager);
    end_disk(disk);
    assert_nothing_in_use(service);
}

#[test]
fn pages_that_the_disk_cannot_write_or_read_are_not_lost() {
    let service = hosted().service();
    let disk = disk(service, 3 + 400 * PAGE_SECTORS);
    let pager = pager(service, disk.get(), 400);
    let object = service.vm_object(Some(pager.get())).expect("memory is free");
    fill(&object, 400);
    disk.get().break_sectors(0..u64::MAX);
    launder(service);
    assert!(service.event_count(Event::VmLaunderFailed) > 0);
    assert_eq!((service.event_count(Event::VmLaundered), pager.get().pages_written()), (0, 0));
    let mut locked = object.lock();
    assert!((0..400).all(|index| locked.page(index).is_some_and(|page| page.is_dirty())));
    drop(locked);
    disk.get().break_sectors(0..0);
    launder(service);
    assert!(pager.get().pages_written() > 0);
    // What has gone is there again once the disk is.
    disk.get().break_sectors(0..u64::MAX);
    let failed: Vec<_> = (0..400).filter(|index| object.fault(*index).is_err()).collect();
    disk.get().break_sectors(0..0);
    for index in 0..400 {
        assert!(has_label(&object.fault(index).expect("memory is free"), index), "page {index}, of {failed:?}");
    }
    assert_eq!(object.lock().page(0).map(|page| page.queue()), Some(Queue::Active));
    drop(object);
    end_pager(pager);
    end_disk(disk);
    assert_nothing_in_use(service);
}

#[test]
fn what_cannot_be_a_pager_or_a_partition_is_refused() {
    let service = hosted().service();
    let disk = disk(service, 80);
    let refusal = |first, pages, reserve| {
        let refused = DiskPager::new(service, disk.get(), first, pages, reserve).err();
        refused.map(|error| error.to_string())
    };
    let beyond = DiskPagerError::OutOfRange.to_string();
    assert_eq!(refusal(1, 10, 1), Some(beyond.clone()));
    assert_eq!(refusal(0, u64::MAX / 4, 1), Some(beyond));
    assert!(refusal(0, 10, 0).is_some_and(|sentence| sentence.contains("at least one element")));
    assert!(Partition::new(service, disk.get(), 0..81).is_none());
    assert!(Partition::new(service, disk.get(), 80..80).is_some());
    end_disk(disk);
    assert_nothing_in_use(service);
}

const MIB: u64 = 1 << 20;

/// A set whose rescuer runs.
fn rescued_set(hosted: &'static Hosted) -> BioSet<HostedMachine> {
    let set = set(hosted.service(), 2, BiosetFlags::NEED_RESCUER);
    let rescuer = set.rescuer().expect("it was made with one");
    thread::spawn(move || rescuer.run());
    set
}

/// A stripe over two linear devices, of two disks each, whose contents are not the service's memory. They live for ever.
fn stack(hosted: &'static Hosted, pages: u64) -> (Vec<&'static TestDisk>, Device) {
    let service = hosted.service();
    let contents = || vec![0xa5; (pages * 4096 / 4) as usize + 64 * SECTOR].leak();
    let disk = || -> &'static TestDisk { Box::leak(Box::new(RamDisk::over(service, contents()))) };
    let disks: Vec<_> = std::iter::repeat_with(disk).take(4).collect();
    let linear = |disks: &[&'static TestDisk]| -> Device {
        let parts = set(service, 2, BiosetFlags::empty());
        let members: Vec<Device> = disks.iter().map(|disk| *disk as Device).collect();
        let linear = Linear::new(service, parts, &members, Splitting::OneByOne);
        Box::leak(Box::new(linear.unwrap_or_else(|(error, _)| panic!("{error}"))))
    };
    let members = [linear(&disks[..2]), linear(&disks[2..])];
    let stripe = Stripe::new(service, rescued_set(hosted), &members, 20, Splitting::AllAtOnce);
    (disks, Box::leak(Box::new(stripe.unwrap_or_else(|(error, _)| panic!("{error}")))))
}

/// Completes what disks hold, the last first, until it is told to end.
fn serve(disks: &[&'static TestDisk], ends: &AtomicBool) {
    while !ends.load(Ordering::Relaxed) {
        let served = disks.iter().filter(|disk| disk.serve(|count| count - 1)).count();
        if served == 0 {
            // Nothing to do, so that others have the CPU.
            thread::sleep(Duration::from_micros(50));
        }
    }
}

/// Has [`serve`] end, also where the test fails.
struct EndOfService<'a>(&'a AtomicBool);

impl Drop for EndOfService<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Four times as much data as memory, on four threads.
fn four_times_ram(ram: u64, disks_hold: bool) {
    let count = 4 * ram / 4096;
    let topology = Topology::builder().node(ram / 2, 2).node(ram / 2, 2).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    let service = hosted.service();
    hosted.start_balancers();
    assert!(hosted.run_on(CpuId(0)));
    let (disks, device) = stack(hosted, count);
    for disk in &disks {
        disk.hold(disks_hold);
    }
    let pager = pager(service, device, count);
    let kept = End::new(service.vm_object(Some(pager.get())).expect("memory is free"));
    let object = kept.get();
    let on_each_thread = |work: &(dyn Fn(&mut [u8; 4096], u64) + Sync)| {
        thread::scope(|scope| {
            for cpu in 0..4u16 {
                scope.spawn(move || {
                    assert!(hosted.run_on(CpuId(cpu)));
                    for index in (0..count).skip(cpu.into()).step_by(4) {
                        let page = object.fault_with(index, Gfp::KERNEL | Gfp::NOFAIL);
                        work(&mut page.expect("it must not fail"), index);
                    }
                    hosted.leave();
                });
            }
        });
    };
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        if disks_hold {
            scope.spawn(|| serve(&disks, &ends));
        }
        let end = EndOfService(&ends);
        on_each_thread(&|page, index| label(page, index));
        on_each_thread(&|page, index| {
            assert!(has_label(page, index), "page {index}");
            label(page, index + count);
        });
        on_each_thread(&|page, index| assert!(has_label(page, index + count), "page {index}, written anew"));
        // While the disks are served, for pages may be on their way.
        // SAFETY: the threads that used it have ended.
        drop(unsafe { kept.end() });
        drop(end);
    });
    let (written, read) = (service.event_count(Event::VmLaundered), service.event_count(Event::VmPagedIn));
    assert!(written > 3 * ram / 4096 && read > 3 * ram / 4096, "{written} written, {read} read");
    end_pager(pager);
}

#[test]
fn four_times_ram_goes_to_disks_and_comes_back() {
    four_times_ram(16 * MIB, false);
}

#[test]
fn four_times_ram_goes_to_disks_that_complete_later_and_out_of_order() {
    four_times_ram(8 * MIB, true);
}
