//! Four times as much data as memory, in pages of VM objects that go through drivers of ours to the virtio disk and
//! come back, while every CPU works.
//!
//! ```text
//!   VmObject, one for each CPU -> DiskPager -> Stripe -> Linear -> Partition -> BioDisk -> virtio disk
//!                                                 |         +----> Partition ----+
//!                                                 +----> Linear ...  (two of two partitions: all of the disk)
//! ```
//!
//! In a guest of 128 MiB with a disk of 640 MiB it is four times all memory; where memory is larger, or the disk
//! smaller, four times what is left of memory when most of it is taken. Without a disk there is nothing to do.
//!
//! The command line's `rescuer=off` makes the stripe's set without a rescuer: the test with one bio in reserve then
//! ends in the dead end that the rescuer prevents. `ci/test` boots it both ways.

use alloc::boxed::Box;
use alloc::string::{String, ToString};

use quarry_unikernel::block::bio::{BioDisk, bioset_init};
use quarry_unikernel::block::{self, Disk, SetupError};
use quarry_unikernel::memory::{Guest, service};
use quarry_unikernel::memory_service::bio::{
    BioSet, BioStorage, BiosetFlags, BlockDevice, DiskPager, Linear, PAGE_SECTORS, Partition, Splitting, Stripe,
};
use quarry_unikernel::memory_service::events::Event;
use quarry_unikernel::memory_service::fault::FaultAttributes;
use quarry_unikernel::memory_service::{Gfp, NodeId};
use quarry_unikernel::option;

use crate::flood::{Flood, pages_of_ram, with_little_memory};
use crate::harness::{Outcome, seed};
use crate::vm::NOFAIL;
use crate::{check, check_equal, tests};

type Device = &'static dyn BlockDevice<Guest>;

/// Sectors of a chunk of the stripe: three pages, so that most clusters are split.
const CHUNK: u32 = 24;

/// Bytes before each bio of the stripe's set. They make its elements larger than anything else that is allocated
/// meanwhile, so that [`ReserveAlone`] meets no other.
const FRONT_PAD: usize = 1500;

/// The most memory that is filled: more would take minutes.
const MOST_PAGES_OF_RAM: u64 = 40 << 10;

/// Pages of the shorter run.
const FEW_PAGES: u64 = 4096;

/// A device, which bios and other devices know until it is ended.
pub(crate) struct Kept<T: 'static>(*mut T);

impl<T> Kept<T> {
    pub(crate) fn new(device: T) -> Self {
        Self(Box::into_raw(Box::new(device)))
    }

    pub(crate) fn get(&self) -> &'static T {
        // SAFETY: it is there until `end`, whose caller vouches that nobody knows it any more.
        unsafe { &*self.0 }
    }

    /// # Safety
    ///
    /// Nobody uses what [`Self::get`] gave any more.
    pub(crate) unsafe fn end(self) -> T {
        // SAFETY: made from a box, and ended once.
        *unsafe { Box::from_raw(self.0) }
    }
}

/// The drivers on the disk, and the pager on them.
struct Stack {
    disk: Kept<BioDisk>,
    partitions: [Kept<Partition<Guest>>; 4],
    linears: [Kept<Linear<Guest>>; 2],
    stripe: Kept<Stripe<Guest>>,
    pager: Kept<DiskPager<Guest>>,
}

impl Stack {
    /// On that disk, with one bio in reserve for each driver below the pager.
    fn new(disk: &'static Disk) -> Result<Self, String> {
        let text = |error: &dyn core::fmt::Display| error.to_string();
        let quarter = disk.sectors() / 4;
        let disk = Kept::new(BioDisk::new(disk, 1).map_err(|error| text(&error))?);
        let partitions = [0, 1, 2, 3].map(|number| {
            let part = Partition::new(service(), disk.get(), number * quarter..(number + 1) * quarter);
            Kept::new(part.expect("the disk has all quarters"))
        });
        let linear = |parts: [usize; 2]| -> Result<Kept<Linear<Guest>>, String> {
            let members = parts.map(|part| partitions[part].get() as Device);
            let set = bioset_init("linear", 1, 0, BiosetFlags::empty()).map_err(|error| text(&error))?;
            let linear = Linear::new(service(), set, &members, Splitting::OneByOne);
            linear.map(Kept::new).map_err(|(error, _)| text(&error))
        };
        let linears = [linear([0, 2])?, linear([3, 1])?];
        let members = [linears[0].get() as Device, linears[1].get()];
        let stripe = Stripe::new(service(), set_of_stripe()?, &members, CHUNK, Splitting::AllAtOnce);
        let stripe = stripe.map(Kept::new).map_err(|(error, _)| text(&error))?;
        let room = stripe.get().sectors() / PAGE_SECTORS;
        let pager = DiskPager::new(service(), stripe.get(), 0, room, 4).map_err(|error| text(&error))?;
        Ok(Self { disk, partitions, linears, stripe, pager: Kept::new(pager) })
    }

    fn rescued(&self) -> u64 {
        self.stripe.get().set().rescued()
    }

    /// Ends all of it, which is possible only if every bio is back.
    fn end(self) -> Outcome {
        // SAFETY: the objects have ended, so there is nobody who asks the pager for anything; each device is ended after
        // all that stand on it, and none ends while a bio of it is under way.
        unsafe {
            self.pager.end().end().map_err(|error| error.to_string())?;
            self.stripe.end().end().map_err(|error| error.to_string())?;
            for linear in self.linears {
                linear.end().end().map_err(|error| error.to_string())?;
            }
            for partition in self.partitions {
                partition.end();
            }
            self.disk.end().end().map_err(|error| error.to_string())
        }
    }
}

/// The set of the stripe, which takes several bios of it at once; with a rescuer unless the command line wants none.
fn set_of_stripe() -> Result<BioSet<Guest>, String> {
    let is_off = option("rescuer") == Some("off");
    let flags = if is_off { BiosetFlags::empty() } else { BiosetFlags::NEED_RESCUER };
    bioset_init("stripe", 1, FRONT_PAD, flags).map_err(|error| error.to_string())
}

/// The disk; `None` on a machine without one.
pub(crate) fn disk() -> Result<Option<&'static Disk>, String> {
    match block::disk(0) {
        Ok(disk) => Ok(Some(disk)),
        Err(SetupError::NoDisk { .. }) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// While it lives the stripe has no bios but those in reserve: no other can be allocated.
struct ReserveAlone;

impl ReserveAlone {
    fn new() -> Result<Self, String> {
        // An element as the set's are, to see how large they are at last.
        let element = service().kmalloc(FRONT_PAD + size_of::<BioStorage<Guest>>(), Gfp::KERNEL);
        let bytes = service().ksize(element);
        // SAFETY: from kmalloc just now; null is ignored.
        unsafe { service().kfree(element) };
        check!(bytes > 0, "there is no memory for an element");
        let mut attributes = FaultAttributes { probability: 100, verbose: false, ..FaultAttributes::default() };
        attributes.filter.ignore_gfp_wait = false;
        (attributes.filter.min_bytes, attributes.filter.max_bytes) = (bytes, bytes);
        service().failslab(Some(attributes));
        Ok(Self)
    }
}

impl Drop for ReserveAlone {
    fn drop(&mut self) {
        service().failslab(None);
    }
}

/// Has pages go to the disk and come back: of all memory where that is little, and else of a little of it. Returns how
/// many bios the rescuer submitted.
fn flood(disk: &'static Disk, reserve_alone: bool) -> Result<u64, String> {
    let stack = Stack::new(disk)?;
    let room = stack.stripe.get().sectors() / PAGE_SECTORS;
    let (ram, whole) = (pages_of_ram(), (4 * pages_of_ram()).next_multiple_of(64));
    let all_memory = ram <= MOST_PAGES_OF_RAM && whole <= room;
    let pages = if all_memory { whole } else { FEW_PAGES };
    check!(pages <= room, "the disk is too small: it has room for {room} pages, and {pages} are wanted");
    let count = |event| service().event_count(event);
    let (laundered, paged_in) = (count(Event::VmLaundered), count(Event::VmPagedIn));
    let flood = Flood::new(stack.pager.get(), pages, seed())?;
    let faults = reserve_alone.then(ReserveAlone::new).transpose()?;
    // Where nothing but the reserve is left faults must not fail, so that a dead end is one.
    let gfp = if reserve_alone { NOFAIL } else { Gfp::KERNEL };
    if all_memory {
        flood.run(1, gfp)?;
    } else {
        with_little_memory(pages / 4, || flood.run(2, gfp))?;
    }
    drop(faults);
    let (laundered, paged_in) = (count(Event::VmLaundered) - laundered, count(Event::VmPagedIn) - paged_in);
    let rescued = stack.rescued();
    log::info!(
        "seed {}: {pages} pages, {laundered} laundered, {paged_in} asked of the pager, {rescued} bios rescued",
        seed()
    );
    // Three quarters are not in memory after each pass.
    check!(laundered >= pages / 2, "only {laundered} pages of {pages} were laundered");
    check_equal!(count(Event::VmLaunderFailed), 0, "pages that could not be written");
    flood.end()?;
    let laundering: u32 = (0..64).map(|node| service().vm_pages(NodeId(node)).laundering).sum();
    check_equal!(laundering, 0, "pages that pagers have still");
    stack.end()?;
    Ok(rescued)
}

fn drivers_end_and_leave_nothing_behind() -> Outcome {
    let Some(disk) = disk()? else { return Ok(()) };
    Stack::new(disk)?.end()
}

fn four_times_ram_goes_to_the_disk_and_comes_back_on_every_cpu() -> Outcome {
    let Some(disk) = disk()? else { return Ok(()) };
    flood(disk, false).map(drop)
}

fn with_one_bio_in_reserve_the_rescuer_keeps_writes_going() -> Outcome {
    let Some(disk) = disk()? else { return Ok(()) };
    let rescued = flood(disk, true)?;
    check!(rescued > 0, "the rescuer was not needed");
    Ok(())
}

tests! { "vm_on_disk":
    drivers_end_and_leave_nothing_behind,
    four_times_ram_goes_to_the_disk_and_comes_back_on_every_cpu,
    with_one_bio_in_reserve_the_rescuer_keeps_writes_going,
}
