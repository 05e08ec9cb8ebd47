//! [`DiskPager`]: keeps the pages of a VM object on a device, each at a place of its own.
//!
//! Used by whoever has objects that are to be larger than memory. Page `index` is in the eight sectors from
//! `first + 8 * index` on. Which pages were written is noted in memory: what was not is zeroes, whatever the device holds.
//!
//! # Theory
//!
//! A request of the [VM](crate::vm) becomes one bio of the pager's own set, of as many pages as it has. The request lies
//! in the bio's front padding, so that for laundering nothing is needed but a bio, and the set has some when memory is
//! gone; who waits for one waits for others' to complete, which needs no memory if the device keeps to that. Nothing
//! waits for a bio: its completion, on whichever CPU and perhaps in a handler, completes the request.
//!
//! A page is the pager's from when it was written: its bit is set before the request is completed, and the page, busy
//! until then, cannot be asked for before. Bits are never cleared.

use core::fmt;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::device::BlockDevice;
use super::handle::Bio;
use super::set::{BioSet, BioSetError, BiosOut, BiosetFlags};
use super::vector::SECTOR_BYTES;
use super::{BioError, Operation};
use crate::frame::{FRAME_BYTES, Pfn};
use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::service::Service;
use crate::vm::{MAX_CLUSTER, PageIn, PageOut, PagedIn, Pager, PagerError};

/// Sectors of a page.
pub const PAGE_SECTORS: u64 = FRAME_BYTES as u64 / SECTOR_BYTES as u64;

/// Why there is no pager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskPagerError {
    /// Its set of bios could not be made.
    Bios(BioSetError),
    /// There is no memory for the note of what was written.
    OutOfMemory,
    /// The device has not as many sectors.
    OutOfRange,
}

impl fmt::Display for DiskPagerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bios(error) => error.fmt(f),
            Self::OutOfMemory => f.write_str("not enough free memory for a pager: make it before memory is short"),
            Self::OutOfRange => f.write_str("the pages reach beyond the end of the device: page fewer to it"),
        }
    }
}

impl core::error::Error for DiskPagerError {}

/// A pager to an area of a device.
#[must_use = "dropping it leaks its reserve: end it"]
pub struct DiskPager<M: Machine> {
    service: &'static Service<M>,
    set: BioSet<M>,
    device: &'static dyn BlockDevice<M>,
    first: u64,
    pages: u64,
    /// A bit for each page that the device has. From kvmalloc; gone after the last bio.
    written: &'static [AtomicU64],
}

/// What a bio is for, in its front padding.
#[derive(Clone, Copy)]
struct Job {
    written: &'static [AtomicU64],
    request: Parked,
}

/// A request while its bio is under way. As bytes, for what is in the padding is copied; it is taken out once.
#[derive(Clone, Copy)]
enum Parked {
    In([MaybeUninit<u64>; IN_WORDS]),
    Out([MaybeUninit<u64>; OUT_WORDS]),
}

// The types' sizes do not depend on the machine's; a const of a generic type cannot be an array's length.
const IN_WORDS: usize = 3;
const OUT_WORDS: usize = MAX_CLUSTER + 3;

impl<M: Machine> DiskPager<M> {
    /// Pages objects of up to so many pages to the device, from the sector `first` on, with `reserve` bios that can be
    /// under way when all other memory is gone; at least 1. The device has none of the pages. May sleep.
    ///
    /// # Errors
    ///
    /// [`DiskPagerError`]; nothing is kept then.
    pub fn new(
        service: &'static Service<M>,
        device: &'static dyn BlockDevice<M>,
        first: u64,
        pages: u64,
        reserve: usize,
    ) -> Result<Self, DiskPagerError> {
        let end = pages.checked_mul(PAGE_SECTORS).and_then(|sectors| sectors.checked_add(first));
        if end.is_none_or(|end| end > device.sectors()) {
            return Err(DiskPagerError::OutOfRange);
        }
        let words = pages.div_ceil(64) as usize;
        let memory = service.kvmalloc(words.max(1) * size_of::<AtomicU64>(), Gfp::KERNEL | Gfp::ZERO);
        if memory.is_null() {
            return Err(DiskPagerError::OutOfMemory);
        }
        match service.bioset_init("pager", reserve, size_of::<Job>(), BiosetFlags::NEED_BVECS) {
            Ok(set) => {
                // SAFETY: zeroed memory for so many words, aligned to 8, the pager's until `end`.
                let written = unsafe { core::slice::from_raw_parts(memory.cast::<AtomicU64>(), words) };
                Ok(Self { service, set, device, first, pages, written })
            }
            Err(error) => {
                // SAFETY: from kvmalloc, and nobody else's.
                unsafe { service.kvfree(memory) };
                Err(DiskPagerError::Bios(error))
            }
        }
    }

    /// Ends it and gives its memory back. Objects that have it are gone before. May sleep.
    ///
    /// # Errors
    ///
    /// [`BiosOut`] when bios are under way; then the note of what was written stays for good.
    pub fn end(self) -> Result<(), BiosOut<M>> {
        self.service.bioset_exit(self.set)?;
        // SAFETY: from kvmalloc; the bios that had it are back.
        unsafe { self.service.kvfree(self.written.as_ptr().cast_mut().cast()) };
        Ok(())
    }

    /// How many pages the device has.
    pub fn pages_written(&self) -> u64 {
        self.written.iter().map(|word| u64::from(word.load(Relaxed).count_ones())).sum()
    }

    fn is_written(&self, index: u64) -> bool {
        // Relaxed: who was the last to have the page busy set it, and gave the page back under its object's lock.
        self.written[(index / 64) as usize].load(Relaxed) >> (index % 64) & 1 == 1
    }

    /// Submits a bio for pages from `index` on.
    fn begin(&self, operation: Operation, index: u64, frames: impl Iterator<Item = Pfn>, request: Parked) {
        let bio = self.service.bio_alloc_bioset(Gfp::NOIO, MAX_CLUSTER, Some(&self.set));
        let Some(mut bio) = bio else { return request.complete::<M>(Err(BioError::OutOfMemory)) };
        bio.set_operation(operation);
        bio.set_device(self.device);
        bio.set_sector(self.first + index * PAGE_SECTORS);
        for frame in frames {
            // SAFETY: the frame is a busy page's, which stays busy until the request is completed, after the bio.
            let added = unsafe { bio.add_page(frame, FRAME_BYTES as u32, 0) };
            debug_assert_eq!(added, FRAME_BYTES as u32, "there is room for {MAX_CLUSTER} pages");
        }
        let fits = bio.set_front(Job { written: self.written, request });
        assert!(fits, "the set's front padding is for this");
        bio.set_end_io(end_io, core::ptr::null_mut());
        self.service.submit_bio(bio);
    }
}

/// A bio of a pager has completed.
fn end_io<M: Machine>(bio: Bio<M>) {
    let Job { written, request } = *bio.front::<Job>().expect("it was put there before the bio was submitted");
    let result = bio.status();
    if let (Ok(()), Operation::Write) = (result, bio.operation()) {
        request.note::<M>(written);
    }
    // Before the pages are free to go, and with them the object and the pager.
    drop(bio);
    request.complete::<M>(result);
}

impl Parked {
    fn of_in<M: Machine>(request: PageIn<M>) -> Self {
        const { assert!(size_of::<PageIn<M>>() == IN_WORDS * 8 && align_of::<PageIn<M>>() == 8) };
        // SAFETY: of the same size, and any bytes are such words.
        Self::In(unsafe { core::mem::transmute_copy(&core::mem::ManuallyDrop::new(request)) })
    }

    fn of_out<M: Machine>(request: PageOut<M>) -> Self {
        const { assert!(size_of::<PageOut<M>>() == OUT_WORDS * 8 && align_of::<PageOut<M>>() == 8) };
        // SAFETY: as above.
        Self::Out(unsafe { core::mem::transmute_copy(&core::mem::ManuallyDrop::new(request)) })
    }

    /// Notes that its pages were written.
    fn note<M: Machine>(&self, written: &[AtomicU64]) {
        let Self::Out(words) = self else { return };
        // SAFETY: the words are a request of this type, which has yet to be completed.
        let request = unsafe { &*words.as_ptr().cast::<PageOut<M>>() };
        for index in request.indices() {
            written[(index / 64) as usize].fetch_or(1 << (index % 64), Relaxed);
        }
    }

    /// Completes it; called once.
    fn complete<M: Machine>(self, result: Result<(), BioError>) {
        let result = result.map_err(|_| PagerError);
        match self {
            Self::In(words) => {
                // SAFETY: the words are a request of this type, and this is the one time it is made of them.
                let request: PageIn<M> = unsafe { core::mem::transmute_copy(&words) };
                request.complete(result.map(|()| PagedIn::Filled));
            }
            Self::Out(words) => {
                // SAFETY: as above.
                let request: PageOut<M> = unsafe { core::mem::transmute_copy(&words) };
                request.complete(result);
            }
        }
    }
}

impl<M: Machine> Pager<M> for DiskPager<M> {
    fn page_in(&self, request: PageIn<M>) {
        let index = request.index();
        if index >= self.pages {
            return request.complete(Err(PagerError));
        }
        if !self.is_written(index) {
            return request.complete(Ok(PagedIn::Absent));
        }
        let frame = request.frame();
        self.begin(Operation::Read, index, core::iter::once(frame), Parked::of_in(request));
    }

    fn page_out(&self, request: PageOut<M>) {
        let mut indices = request.indices();
        let first = indices.next().expect("there are pages to write");
        if indices.last().unwrap_or(first) >= self.pages {
            return request.complete(Err(PagerError));
        }
        let mut frames = [Pfn(0); MAX_CLUSTER];
        let count = request.count();
        frames.iter_mut().zip(request.frames()).for_each(|(place, frame)| *place = frame);
        self.begin(Operation::Write, first, frames.into_iter().take(count), Parked::of_out(request));
    }
}
