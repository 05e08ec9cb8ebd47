//! Disks that are broken, or can only be read: what was asked for fails with the reason, and no page is lost.
//!
//! The command line says what is broken, as QEMU's `blkdebug` has it: `write_fails=<sector>` and `read_fails=<sector>`
//! each time, `read_fails_once=<sector>` the first time. Where it says nothing, or the disk can be written, the test of
//! that has nothing to do; `ci/test` boots this module with each of them.

use alloc::format;
use alloc::string::{String, ToString};

use quarry_unikernel::block::bio::BioDisk;
use quarry_unikernel::memory::{Guest, service};
use quarry_unikernel::memory_service::bio::{BioError, DiskPager, Operation, PAGE_SECTORS};
use quarry_unikernel::memory_service::events::Event;
use quarry_unikernel::memory_service::vm::{FaultError, VmObject};
use quarry_unikernel::memory_service::{Gfp, Order, Pfn};
use quarry_unikernel::option;

use crate::bio::push_out;
use crate::flood::{Flood, with_little_memory};
use crate::harness::{Outcome, seed};
use crate::vm::{has_label, write_label};
use crate::vm_on_disk::{Kept, disk};
use crate::{check, check_equal, tests};

/// Pages of an object: 16 MiB.
const PAGES: u64 = 4096;

/// The sector that the command line names as broken in a way.
fn broken(way: &str) -> Option<u64> {
    option(way)?.parse().ok()
}

/// Where the pages are that are to be written, and those that are to be read: the latter are all written once.
const TO_WRITE: u64 = 0;
const TO_READ: u64 = PAGES * PAGE_SECTORS;

/// The disk, with pages of an object in some of its sectors.
struct Paged {
    device: Kept<BioDisk>,
    pager: Kept<DiskPager<Guest>>,
}

impl Paged {
    /// The pages are from that sector on; `None` on a machine without a disk.
    fn new(first: u64) -> Result<Option<Self>, String> {
        let Some(disk) = disk()? else { return Ok(None) };
        let device = Kept::new(BioDisk::new(disk, 1).map_err(|error| error.to_string())?);
        let pager = DiskPager::new(service(), device.get(), first, PAGES, 2).map_err(|error| error.to_string())?;
        Ok(Some(Self { device, pager: Kept::new(pager) }))
    }

    fn end(self) -> Outcome {
        // SAFETY: the tests end their objects before, and wait for their bios; the device is ended last.
        unsafe {
            self.pager.end().end().map_err(|error| error.to_string())?;
            self.device.end().end().map_err(|error| error.to_string())
        }
    }
}

/// Reads or writes a page of the disk, waiting for it.
fn transfer(paged: &Paged, operation: Operation, sector: u64, page: Pfn) -> Result<(), BioError> {
    let mut bio = service().bio_kmalloc(1, Gfp::KERNEL).ok_or(BioError::OutOfMemory)?;
    bio.set_operation(operation);
    bio.set_device(paged.device.get());
    bio.set_sector(sector);
    // SAFETY: the page is the caller's, who waits here until the bio has completed.
    let added = unsafe { bio.add_page(page, 4096, 0) };
    assert_eq!(added, 4096, "there is room for a page");
    service().submit_and_wait(bio).1
}

fn only_requests_of_a_broken_sector_fail() -> Outcome {
    let Some(paged) = Paged::new(TO_WRITE)? else { return Ok(()) };
    let page = service().alloc_pages(Gfp::KERNEL, Order::ZERO).ok_or("there is no memory for a page")?;
    for (way, operation) in [("write_fails", Operation::Write), ("read_fails", Operation::Read)] {
        let Some(sector) = broken(way) else { continue };
        for _ in 0..2 {
            for (first, is_broken) in [(sector - 8, false), (sector - 7, true), (sector, true), (sector + 1, false)] {
                let expected = if is_broken { Err(BioError::Io) } else { Ok(()) };
                check_equal!(transfer(&paged, operation, first, page), expected, "{operation:?} from {first} on");
            }
        }
    }
    service().__free_pages(page, Order::ZERO);
    paged.end()
}

fn pages_that_cannot_be_written_stay_in_memory_and_none_is_lost() -> Outcome {
    let Some(sector) = broken("write_fails") else { return Ok(()) };
    let Some(paged) = Paged::new(TO_WRITE)? else { return Ok(()) };
    let index = (sector - TO_WRITE) / PAGE_SECTORS;
    let failed = service().event_count(Event::VmLaunderFailed);
    let flood = Flood::new(paged.pager.get(), PAGES, seed())?;
    with_little_memory(PAGES / 4, || flood.run(2, Gfp::KERNEL))?;
    check!(service().event_count(Event::VmLaunderFailed) > failed, "no page failed to be written");
    check!(flood.is_dirty(index), "page {index}, which cannot be written, is not in memory and dirty");
    flood.end()?;
    paged.end()
}

fn a_page_that_cannot_be_read_fails_its_fault_and_no_other() -> Outcome {
    let (always, once) = (broken("read_fails"), broken("read_fails_once"));
    if always.or(once).is_none() {
        return Ok(());
    }
    let Some(paged) = Paged::new(TO_READ)? else { return Ok(()) };
    let object = service().vm_object(Some(paged.pager.get())).map_err(|error| error.to_string())?;
    let page_at = |index| object.fault(index).map_err(|error| format!("page {index}: {error}"));
    for index in 0..PAGES {
        write_label(&mut *page_at(index)?, index + 1);
    }
    let broken = [always, once].map(|sector| sector.map(|sector| (sector - TO_READ) / PAGE_SECTORS));
    push_out(&object, |object: &VmObject<Guest>| {
        broken.iter().flatten().all(|&index| {
            let mut locked = object.lock();
            locked.page(index).is_none() && !locked.is_cached(index)
        })
    })?;
    for index in broken.iter().flatten() {
        check_equal!(object.fault(*index).err(), Some(FaultError::Pager), "page {index}");
    }
    for index in 0..PAGES {
        let found = object.fault(index);
        if broken[0] == Some(index) {
            check_equal!(found.err(), Some(FaultError::Pager), "page {index} again");
        } else {
            let page = found.map_err(|error| format!("page {index}: {error}"))?;
            check!(has_label(&page, index + 1), "page {index} is not as it was written");
        }
    }
    drop(object);
    paged.end()
}

fn a_disk_that_can_only_be_read_says_so_to_who_writes() -> Outcome {
    let Some(disk) = disk()? else { return Ok(()) };
    if !disk.is_read_only() {
        return Ok(());
    }
    let Some(paged) = Paged::new(TO_WRITE)? else { return Ok(()) };
    let page = service().alloc_pages(Gfp::KERNEL, Order::ZERO).ok_or("there is no memory for a page")?;
    check_equal!(transfer(&paged, Operation::Read, 0, page), Ok(()), "a read");
    check_equal!(transfer(&paged, Operation::Write, 0, page), Err(BioError::ReadOnly), "a write");
    service().__free_pages(page, Order::ZERO);
    let sentence = BioError::ReadOnly.to_string();
    check_equal!(sentence, "the device can only be read: write to another", "the sentence");
    // Pages of an object on it stay where they are.
    let failed = service().event_count(Event::VmLaunderFailed);
    let object = service().vm_object(Some(paged.pager.get())).map_err(|error| error.to_string())?;
    for index in 0..PAGES {
        write_label(&mut *object.fault(index).map_err(|error| error.to_string())?, index + 1);
    }
    push_out(&object, |_| service().event_count(Event::VmLaunderFailed) > failed)?;
    for index in 0..PAGES {
        let page = object.fault(index).map_err(|error| error.to_string())?;
        check!(has_label(&page, index + 1), "page {index} is not as it was written");
    }
    check_equal!(object.lock().page_count(), PAGES, "pages in memory");
    drop(object);
    paged.end()
}

tests! { "disk_errors":
    only_requests_of_a_broken_sector_fail,
    pages_that_cannot_be_written_stay_in_memory_and_none_is_lost,
    a_page_that_cannot_be_read_fails_its_fault_and_no_other,
    a_disk_that_can_only_be_read_says_so_to_who_writes,
}
