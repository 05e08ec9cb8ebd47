//! Bios through our drivers to the virtio disk, on all CPUs; and a VM object whose pages go there and come back.
//!
//! `quarry test` gives the guest an empty disk; on a machine without one there is nothing to do. The first half of the
//! disk is cut into four parts, of which two and two, not neighbours, are linear devices, and these a stripe. The second
//! half is the pager's.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use quarry_unikernel::block::bio::{BioDisk, bioset_init};
use quarry_unikernel::block::{self, SetupError};
use quarry_unikernel::cpus;
use quarry_unikernel::memory::{Guest, service};
use quarry_unikernel::memory_service::bio::{
    Bio, BioError, BioSet, BiosetFlags, BlockDevice, DiskPager, Linear, Operation, PAGE_SECTORS, Partition, Splitting,
    Stripe,
};
use quarry_unikernel::memory_service::events::Event;
use quarry_unikernel::memory_service::vm::VmObject;
use quarry_unikernel::memory_service::{CpuId, Gfp, Order, Pfn};
use spin::Once;

use crate::harness::Outcome;
use crate::hoard::{Hoard, nodes_with_memory};
use crate::team::{check_on_every_cpu, eventually};
use crate::{check, check_equal, tests};

type Device = &'static dyn BlockDevice<Guest>;

/// Sectors of a chunk of the stripe.
const CHUNK: u32 = 24;

/// What stays for all tests, for devices live for ever.
struct Stack {
    disk: Device,
    stripe: Device,
    set: BioSet<Guest>,
    pager: &'static DiskPager<Guest>,
    /// Pages that the pager has room for.
    room: u64,
}

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn build() -> Result<Option<Stack>, String> {
    let disk = match block::disk(0) {
        Ok(disk) => disk,
        Err(SetupError::NoDisk { .. }) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let set = |name, flags| bioset_init(name, 4, 0, flags).map_err(|error| error.to_string());
    let disk: Device = leak(BioDisk::new(disk, 4).map_err(|error| error.to_string())?);
    let eighth = disk.sectors() / 64 * 8;
    let quarter = |number: u64| -> Device {
        let part = Partition::new(service(), disk, number * eighth..(number + 1) * eighth);
        leak(part.expect("the disk has all eighths"))
    };
    let linear = |parts: [u64; 2]| -> Result<Device, String> {
        let set = set("linear", BiosetFlags::empty())?;
        let linear = Linear::new(service(), set, &parts.map(quarter), Splitting::OneByOne);
        Ok(leak(linear.map_err(|(error, _)| error.to_string())?))
    };
    let set_of_stripe = set("stripe", BiosetFlags::NEED_RESCUER)?;
    let members = [linear([0, 2])?, linear([3, 1])?];
    let stripe = Stripe::new(service(), set_of_stripe, &members, CHUNK, Splitting::AllAtOnce);
    let stripe: Device = leak(stripe.map_err(|(error, _)| error.to_string())?);
    let room = (disk.sectors() - 4 * eighth) / PAGE_SECTORS;
    let pager = DiskPager::new(service(), disk, 4 * eighth, room, 8).map_err(|error| error.to_string())?;
    let set = bioset_init("test", 8, 0, BiosetFlags::NEED_BVECS).map_err(|error| error.to_string())?;
    Ok(Some(Stack { disk, stripe, set, pager: leak(pager), room }))
}

/// The devices; `None` on a machine without a disk.
fn stack() -> Result<Option<&'static Stack>, String> {
    static STACK: Once<Result<Option<Stack>, String>> = Once::new();
    STACK.call_once(build).as_ref().map(Option::as_ref).map_err(String::clone)
}

/// Pages that do not follow each other, so that each is a piece of memory of its own.
struct Pages(Vec<Pfn>);

const PAIR: Order = Order::new(1).expect("an order");

impl Pages {
    fn new(count: usize) -> Result<Self, String> {
        let mut pages = Self(Vec::new());
        for _ in 0..count {
            pages.0.push(service().alloc_pages(Gfp::KERNEL, PAIR).ok_or("there is no memory for a buffer")?);
        }
        Ok(pages)
    }

    /// The words of one of them.
    fn words(&mut self, index: usize) -> &mut [u64] {
        // SAFETY: the block is this buffer's alone, aligned, and no bio has it: each is waited for before.
        unsafe { core::slice::from_raw_parts_mut(service().page_address(self.0[index]).cast(), 512) }
    }

    /// Fills all of them with what depends on place and seed.
    fn fill(&mut self, seed: u64) {
        for index in 0..self.0.len() {
            (0..).zip(self.words(index)).for_each(|(at, word)| *word = expected(seed, index, at));
        }
    }

    fn check(&mut self, seed: u64) -> Outcome {
        for index in 0..self.0.len() {
            let wrong = (0..).zip(self.words(index)).find(|(at, word)| **word != expected(seed, index, *at));
            check!(wrong.is_none(), "page {index} of seed {seed}: (word, contents) {wrong:x?}");
        }
        Ok(())
    }

    /// Moves them to or from a device by one bio.
    fn transfer(&self, stack: &Stack, device: Device, operation: Operation, sector: u64) -> Result<(), BioError> {
        let bio = service().bio_alloc_bioset(Gfp::KERNEL, self.0.len(), Some(&stack.set));
        let mut bio: Bio<Guest> = bio.ok_or(BioError::OutOfMemory)?;
        bio.set_operation(operation);
        bio.set_device(device);
        bio.set_sector(sector);
        for page in &self.0 {
            // SAFETY: the block is this buffer's, which is left alone until the bio has completed, just below.
            let added = unsafe { bio.add_page(*page, 4096, 0) };
            assert_eq!(added, 4096, "there is room for all pages");
        }
        service().submit_and_wait(bio).1
    }

    fn sectors(&self) -> u64 {
        self.0.len() as u64 * PAGE_SECTORS
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.0.iter().for_each(|page| service().__free_pages(*page, PAIR));
    }
}

fn expected(seed: u64, page: usize, word: u64) -> u64 {
    (seed << 32 | (page as u64) << 16 | word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn a_bio_of_the_disk_is_read_back_as_it_was_written() -> Outcome {
    let Some(stack) = stack()? else { return Ok(()) };
    // Fewer pieces than a request has, as many, and so many that the bio is parted.
    for count in [1, 31, 32, 33, 100, 256] {
        let mut pages = Pages::new(count)?;
        pages.fill(count as u64);
        check_equal!(pages.transfer(stack, stack.disk, Operation::Write, 5), Ok(()), "a write of {count}");
        pages.fill(0);
        check_equal!(pages.transfer(stack, stack.disk, Operation::Read, 5), Ok(()), "a read of {count}");
        pages.check(count as u64)?;
    }
    let nothing = Pages::new(0)?;
    check_equal!(nothing.transfer(stack, stack.disk, Operation::Flush, 0), Ok(()), "a flush");
    check_equal!(nothing.transfer(stack, stack.disk, Operation::Read, 0), Ok(()), "a read of nothing");
    let end = stack.disk.sectors();
    let beyond = Pages::new(1)?.transfer(stack, stack.disk, Operation::Read, end - 7);
    check_equal!(beyond, Err(BioError::OutOfRange), "a read beyond the end");
    Ok(())
}

fn all_cpus_read_back_what_they_wrote_through_stripe_and_linear() -> Outcome {
    const ROUNDS: u64 = 4;
    let Some(stack) = stack()? else { return Ok(()) };
    check_on_every_cpu(move |cpu: CpuId| {
        let cpu_count = cpus::online().count() as u64;
        let place = cpus::online().position(|other| other == cpu).expect("it is online") as u64;
        let share = stack.stripe.sectors() / cpu_count;
        let mut small = Pages::new(1 + place as usize % 3)?;
        let mut large = Pages::new(80)?;
        check!(ROUNDS * large.sectors() + small.sectors() <= share, "{share} sectors are too few for a CPU");
        for round in 0..ROUNDS {
            // The end of a CPU's share, that of the last the end of the device; and any place within.
            let last = (place + 1) * share - small.sectors();
            let within = place * share + round * (large.sectors() - 3);
            let seed = |at: u64| place << 8 | round << 1 | at;
            for (pages, sector, at) in [(&mut small, last, 0), (&mut large, within, 1)] {
                pages.fill(seed(at));
                check_equal!(pages.transfer(stack, stack.stripe, Operation::Write, sector), Ok(()), "a write");
                pages.fill(!seed(at));
            }
            for (pages, sector, at) in [(&mut large, within, 1), (&mut small, last, 0)] {
                check_equal!(pages.transfer(stack, stack.stripe, Operation::Read, sector), Ok(()), "a read");
                pages.check(seed(at))?;
            }
        }
        Ok(())
    })?;
    check_equal!(Pages::new(0)?.transfer(stack, stack.stripe, Operation::Flush, 0), Ok(()), "a flush");
    bytes_are_where_the_array_has_them(stack)
}

/// Reads every part of the disk by itself: what was written to the stripe is there, chunk by chunk.
fn bytes_are_where_the_array_has_them(stack: &Stack) -> Outcome {
    let mut whole = Pages::new(96)?;
    whole.fill(7);
    check_equal!(whole.transfer(stack, stack.stripe, Operation::Write, 0), Ok(()), "a write");
    let mut chunk = Pages::new(3)?;
    // Two members take turns; the first begins at the disk's start, the second three eighths further.
    for number in 0..whole.sectors() / u64::from(CHUNK) {
        let start = if number % 2 == 0 { 0 } else { 3 * (stack.disk.sectors() / 64 * 8) };
        let sector = start + number / 2 * u64::from(CHUNK);
        check_equal!(chunk.transfer(stack, stack.disk, Operation::Read, sector), Ok(()), "a read");
        for page in 0..3 {
            let is_there = chunk.words(page) == whole.words(number as usize * 3 + page);
            check!(is_there, "page {page} of chunk {number} is not at sector {sector}");
        }
    }
    Ok(())
}

fn pages_of_an_object_go_to_the_disk_and_come_back() -> Outcome {
    /// 16 MiB.
    const PAGES: u64 = 4096;
    let Some(stack) = stack()? else { return Ok(()) };
    check!(PAGES <= stack.room, "the disk is too small: {} pages", stack.room);
    let count = |event| service().event_count(event);
    let (laundered, paged_in) = (count(Event::VmLaundered), count(Event::VmPagedIn));
    let object = Arc::new(service().vm_object(Some(stack.pager)).map_err(|error| error.to_string())?);
    let every_page = |work: fn(&mut [u8; 4096], u64) -> Outcome| {
        let object = Arc::clone(&object);
        check_on_every_cpu(move |cpu| {
            let place = cpus::online().position(|other| other == cpu).expect("it is online");
            for index in (0..PAGES).skip(place).step_by(cpus::online().count()) {
                let page = object.fault_with(index, Gfp::KERNEL | Gfp::NOFAIL);
                work(&mut *page.map_err(|error| format!("page {index}: {error}"))?, index)?;
            }
            Ok(())
        })
    };
    let few_are_left = |object: &VmObject<Guest>| object.lock().page_count() <= PAGES / 8;
    every_page(|page, index| {
        label(page, index);
        Ok(())
    })?;
    push_out(&object, few_are_left)?;
    check!(count(Event::VmLaundered) - laundered >= PAGES / 2, "few pages were written");
    let in_memory = object.lock().page_count();
    // What is read is written to, so that it goes again.
    every_page(|page, index| {
        check!(has_label(page, index), "page {index} is not as it was written");
        label(page, index + PAGES);
        Ok(())
    })?;
    let read = count(Event::VmPagedIn) - paged_in;
    check!(read >= PAGES - in_memory, "{read} pages were read, of which {in_memory} were in memory");
    push_out(&object, few_are_left)?;
    every_page(|page, index| {
        check!(has_label(page, index + PAGES), "page {index} is not as it was written the second time");
        Ok(())
    })?;
    check_equal!(object.fault(stack.room).err().is_some(), true, "a page beyond the pager's end fails");
    Ok(())
}

/// Takes all other memory until enough of an object's pages have gone.
pub(crate) fn push_out(object: &VmObject<Guest>, is_enough: impl Fn(&VmObject<Guest>) -> bool) -> Outcome {
    let mut locked = object.lock();
    let mut next = 0;
    while let Some(mut page) = locked.next_page(next) {
        next = page.index() + 1;
        page.deactivate();
    }
    drop(locked);
    let gfp = Gfp::NOWAIT | Gfp::NOWARN;
    let mut hoards: Vec<_> = nodes_with_memory().map(|node| (node, Hoard::of_pages(node, gfp))).collect();
    eventually("the pages are on the disk", || {
        for (node, hoard) in &mut hoards {
            service().balance(*node);
            hoard.fill(|| {
                let page = service().alloc_pages_node(*node, gfp | Gfp::THISNODE, Order::ZERO);
                page.map_or(core::ptr::null_mut(), |page| service().page_address(page))
            });
        }
        is_enough(object)
    })
}

fn label(page: &mut [u8; 4096], number: u64) {
    for (at, word) in (0..).zip(page.chunks_exact_mut(8)) {
        word.copy_from_slice(&expected(number, 0, at).to_le_bytes());
    }
}

fn has_label(page: &[u8; 4096], number: u64) -> bool {
    (0..).zip(page.chunks_exact(8)).all(|(at, word)| word == expected(number, 0, at).to_le_bytes())
}

tests! { "bio":
    a_bio_of_the_disk_is_read_back_as_it_was_written,
    all_cpus_read_back_what_they_wrote_through_stripe_and_linear,
    pages_of_an_object_go_to_the_disk_and_come_back,
}
