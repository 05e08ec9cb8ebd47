//! Machines, disks and memory for the tests.

use std::sync::atomic::{AtomicU32, Ordering};

use quarry_memory::bio::{Bio, BioError, BioSet, BiosetFlags, BlockDevice, Operation, RamDisk, SECTOR_BYTES};
use quarry_memory::hosted::{Hosted, HostedMachine};
use quarry_memory::{CpuId, Gfp, Order, Pfn, Service, Topology};

pub(crate) type TestService = Service<HostedMachine>;
pub(crate) type TestBio = Bio<HostedMachine>;
pub(crate) type TestSet = BioSet<HostedMachine>;
pub(crate) type TestDisk = RamDisk<HostedMachine>;
pub(crate) type Device = &'static dyn BlockDevice<HostedMachine>;

pub(crate) const SECTOR: usize = SECTOR_BYTES as usize;

pub(crate) fn hosted() -> &'static Hosted {
    let topology = Topology::builder().node(32 << 20, 4).node(32 << 20, 4).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    assert!(hosted.run_on(CpuId(0)));
    hosted
}

pub(crate) fn service() -> &'static TestService {
    hosted().service()
}

/// The machine of all cases of a property: there can only be so many.
pub(crate) fn shared_service() -> &'static TestService {
    std::thread_local! {
        static SERVICE: &'static TestService = service();
    }
    SERVICE.with(|service| *service)
}

pub(crate) fn set(service: &'static TestService, reserve: usize, flags: BiosetFlags) -> TestSet {
    service.bioset_init("test", reserve, 0, flags).expect("memory is free")
}

#[track_caller]
pub(crate) fn exit(service: &TestService, set: TestSet) {
    service.bioset_exit(set).unwrap_or_else(|error| panic!("{error}"));
}

#[track_caller]
pub(crate) fn assert_nothing_in_use(service: &TestService) {
    let rows = service.statistics();
    assert!(rows.adds_up(), "{rows:#?}");
    assert_eq!(rows.in_use(), 0, "{rows:#?}");
    service.validate().unwrap_or_else(|broken| panic!("{broken}"));
}

/// A value that lives until [`End::end`], and that devices and bios may know meanwhile.
pub(crate) struct End<T: 'static>(*mut T);

impl<T> End<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Box::into_raw(Box::new(value)))
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

pub(crate) fn disk(service: &'static TestService, sectors: u64) -> End<TestDisk> {
    End::new(RamDisk::new(service, sectors).expect("memory is free"))
}

pub(crate) fn end_disk(disk: End<TestDisk>) {
    // SAFETY: the tests end disks last.
    unsafe { disk.end() }.end();
}

/// Page blocks that bios read and write.
pub(crate) struct Buffer {
    service: &'static TestService,
    pub(crate) block: Pfn,
    order: Order,
}

impl Buffer {
    pub(crate) fn new(service: &'static TestService, order: u32) -> Self {
        let order = Order::new(order).expect("an order");
        let block = service.alloc_pages(Gfp::KERNEL | Gfp::ZERO, order).expect("memory is free");
        Self { service, block, order }
    }

    /// Its bytes, while no bio uses them.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the block is the buffer's, and the tests look at it between bios.
        unsafe { std::slice::from_raw_parts_mut(self.service.page_address(self.block), self.order.bytes()) }
    }

    /// Adds a part of it to a bio.
    #[track_caller]
    pub(crate) fn add_to(&self, bio: &mut TestBio, offset: usize, length: usize) {
        // SAFETY: the block lives as long as the test, which leaves it alone while the bio is under way.
        let added = unsafe { bio.add_page(self.block, length as u32, offset as u32) };
        assert_eq!(added, length as u32);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.service.__free_pages(self.block, self.order);
    }
}

/// What completions of bios wrote down.
#[derive(Default)]
pub(crate) struct Ends {
    count: AtomicU32,
    /// 0, or the number of the error.
    error: AtomicU32,
}

impl Ends {
    pub(crate) fn note(&self, bio: &mut TestBio) {
        bio.set_end_io(Self::end_io, std::ptr::from_ref(self).cast_mut().cast());
    }

    fn end_io(bio: TestBio) {
        // SAFETY: the tests keep their `Ends` until all bios have completed.
        let ends = unsafe { &*bio.private().cast::<Self>() };
        ends.error.store(bio.status().err().map_or(0, |error| error as u32), Ordering::Relaxed);
        drop(bio);
        ends.count.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    pub(crate) fn failed_with(&self, error: BioError) -> bool {
        self.error.load(Ordering::Relaxed) == error as u32
    }

    pub(crate) fn succeeded(&self) -> bool {
        self.error.load(Ordering::Relaxed) == 0
    }
}

/// A bio for a place on a device.
pub(crate) fn aim(mut bio: TestBio, operation: Operation, device: Device, sector: u64) -> TestBio {
    bio.set_operation(operation);
    bio.set_device(device);
    bio.set_sector(sector);
    bio
}

/// Takes all memory there is, and gives it back when dropped.
pub(crate) struct AllMemory {
    service: &'static TestService,
    blocks: Vec<(*mut u8, Order)>,
    objects: Vec<*mut u8>,
}

impl AllMemory {
    pub(crate) fn take(service: &'static TestService) -> Self {
        let quiet = Gfp::ATOMIC | Gfp::NOWARN;
        let mut blocks = Vec::new();
        for order in Order::all().rev() {
            let all =
                std::iter::from_fn(|| Some(service.get_free_pages(quiet, order)).filter(|block| !block.is_null()));
            blocks.extend(all.map(|block| (block, order)));
        }
        // What this CPU caches of the sizes bios and their vectors have.
        let mut objects = Vec::new();
        for size in (8..=4096).step_by(8) {
            let all = std::iter::from_fn(|| Some(service.kmalloc(size, quiet)).filter(|object| !object.is_null()));
            objects.extend(all);
        }
        Self { service, blocks, objects }
    }
}

impl Drop for AllMemory {
    fn drop(&mut self) {
        for &object in &self.objects {
            // SAFETY: freed once.
            unsafe { self.service.kfree(object) };
        }
        for &(block, order) in &self.blocks {
            self.service.free_pages(block, order);
        }
    }
}
