//! `vmalloc` and `kvmalloc`: memory that is contiguous in addresses only, for what is too large or memory too
//! fragmented for kmalloc.
//!
//! Users: whoever needs a large table and no physical contiguity. Freeing makes every CPU forget the mapping, so none
//! of this may be called in an interrupt handler. Linux's functions of the same names.
//!
//! # Theory
//!
//! An *area* is 2^n pages of the host's mapping window: a header page, the pages asked for, and at least one page that
//! is never mapped, so that running off the end faults. Areas are cut from the window's unused end, and once freed kept
//! in a list of their size with their header, so finding one is a step and addresses do not run out. The lists are
//! guarded by the window's lock, which is held for those steps only; mapping and unmapping is done by the area's owner
//! without it.

use core::mem;
use core::ops::Range;
use core::ptr;

use crate::frame::{FRAME_BYTES, Order, Pfn};
use crate::gfp::Gfp;
use crate::kmalloc::MAX_SIZE;
use crate::machine::Machine;
use crate::service::Service;

/// log2 of the pages of the largest area, 64 GiB.
const LARGEST: u32 = 24;

/// What the first page of an area holds.
struct Header {
    /// [`LIVE`] while the area is allocated.
    mark: u64,
    /// log2 of its pages.
    size: u32,
    /// Pages mapped behind the header.
    mapped: u32,
    /// The next free area of this size.
    next: *mut Header,
}

/// `vmalloc` in ASCII: tells an area's header from other contents.
const LIVE: u64 = u64::from_be_bytes(*b"vmalloc!");

/// The mapping window: how much of it has been cut into areas, and the free ones by size.
pub(crate) struct Window {
    used: usize,
    free: [*mut Header; LARGEST as usize + 1],
}

// SAFETY: the pointers are to header pages, which are reached only under the window's lock or by the area's owner.
unsafe impl Send for Window {}

impl Window {
    pub(crate) const fn new() -> Self {
        Self { used: 0, free: [ptr::null_mut(); LARGEST as usize + 1] }
    }

    /// A free area of 2^size pages, or the address of a new one that has no header yet.
    fn take(&mut self, window: &Range<usize>, size: u32) -> Option<Result<*mut Header, usize>> {
        let free = &mut self.free[size as usize];
        if !free.is_null() {
            let header = *free;
            // SAFETY: a free area's header is mapped, and reached only under the lock.
            *free = unsafe { (*header).next };
            return Some(Ok(header));
        }
        let address = window.start + self.used;
        let end = address.checked_add(FRAME_BYTES << size).filter(|&end| end <= window.end)?;
        self.used = end - window.start;
        Some(Err(address))
    }

    fn give(&mut self, header: *mut Header) {
        // SAFETY: the caller owns the area and gives it up; its header is mapped.
        let area = unsafe { &mut *header };
        area.mark = 0;
        area.next = mem::replace(&mut self.free[area.size as usize], header);
    }
}

impl<M: Machine> Service<M> {
    /// Allocates `size` bytes, page-aligned and contiguous in addresses only; null on failure and for 0 bytes. Free it
    /// with [`Self::vfree`] or [`Self::kvfree`]. Not in an interrupt handler.
    pub fn vmalloc(&self, size: usize, gfp: Gfp) -> *mut u8 {
        let pages = size.div_ceil(FRAME_BYTES);
        let log2 = (pages + 2).next_power_of_two().trailing_zeros();
        if pages == 0 || log2 > LARGEST {
            return ptr::null_mut();
        }
        // Refused before anything is taken: the tables made for pages mapped so far would stay, and split all memory.
        if pages as u64 > self.available().map(|(_, _, bytes, _)| bytes / FRAME_BYTES as u64).sum() {
            return ptr::null_mut();
        }
        let Some(header) = self.area(log2) else { return ptr::null_mut() };
        let start = header.addr() + FRAME_BYTES;
        for page in 0..pages {
            if !self.map_new_page(start + page * FRAME_BYTES, gfp) {
                self.release_area(header);
                return ptr::null_mut();
            }
            // SAFETY: the area is this function's alone until it returns, and its header is mapped.
            unsafe { (*header).mapped += 1 };
        }
        // SAFETY: as above.
        unsafe { (*header).mark = LIVE };
        ptr::with_exposed_provenance_mut(start)
    }

    /// Frees what [`Self::vmalloc`] gave; null is ignored. Not in an interrupt handler.
    ///
    /// # Safety
    ///
    /// Nobody uses the memory any more.
    ///
    /// # Panics
    ///
    /// When it is not the start of such an allocation, or freed already.
    pub unsafe fn vfree(&self, address: *mut u8) {
        if address.is_null() {
            return;
        }
        let header = address.wrapping_sub(FRAME_BYTES).cast::<Header>();
        let plausible = address.addr().is_multiple_of(FRAME_BYTES)
            && self.machine().mapping_window().contains(&header.addr())
            && self.machine().translate(header.addr()).is_some();
        // SAFETY: the page is mapped, so its first bytes can be read whatever they are.
        let live = plausible && unsafe { (*header).mark } == LIVE;
        assert!(live, "vfree of {address:p}, which is not the start of a vmalloc allocation, or freed already");
        self.release_area(header);
    }

    /// As [`Self::kmalloc`](Service::kmalloc) if that can be had, else as [`Self::vmalloc`]. Free it with
    /// [`Self::kvfree`].
    pub fn kvmalloc(&self, size: usize, gfp: Gfp) -> *mut u8 {
        if size <= MAX_SIZE {
            let object = self.kmalloc(size, gfp | Gfp::NOWARN);
            if !object.is_null() || size <= FRAME_BYTES {
                return object;
            }
        }
        self.vmalloc(size, gfp)
    }

    /// Frees what [`Self::kvmalloc`] gave; null is ignored.
    ///
    /// # Safety
    ///
    /// Nobody uses the memory any more.
    ///
    /// # Panics
    ///
    /// As [`Self::vfree`] and [`Self::kfree`](Service::kfree).
    pub unsafe fn kvfree(&self, address: *mut u8) {
        if self.machine().mapping_window().contains(&address.addr()) {
            // SAFETY: the caller's promise.
            unsafe { self.vfree(address) };
        } else {
            // SAFETY: the caller's promise.
            unsafe { self.kfree(address) };
        }
    }

    /// An area with a mapped header and nothing else.
    fn area(&self, size: u32) -> Option<*mut Header> {
        let taken = self.window().lock(self.machine()).take(&self.machine().mapping_window(), size)?;
        match taken {
            Ok(header) => Some(header),
            Err(address) => {
                // On failure the addresses are lost, not the memory: the window has room for many more.
                if !self.map_new_page(address, Gfp::KERNEL | Gfp::NOWARN) {
                    return None;
                }
                self.claim_frames(1);
                self.note_mapping_frames(1);
                let header = ptr::with_exposed_provenance_mut::<Header>(address);
                // SAFETY: the page was mapped above, and is this function's alone.
                unsafe { header.write(Header { mark: 0, size, mapped: 0, next: ptr::null_mut() }) };
                Some(header)
            }
        }
    }

    fn map_new_page(&self, address: usize, gfp: Gfp) -> bool {
        let Some(frame) = self.alloc_pages(gfp.difference(Gfp::MOBILITY), Order::ZERO) else { return false };
        let mut table_frame = || {
            let frame = self.alloc_pages(Gfp::KERNEL | Gfp::NOWARN | Gfp::ZERO, Order::ZERO)?;
            self.claim_frames(1);
            self.note_mapping_frames(1);
            Some(frame)
        };
        let mapped = self.machine().map(address, frame, &mut table_frame).is_ok();
        if !mapped {
            self.__free_pages(frame, Order::ZERO);
        }
        mapped
    }

    /// Unmaps and frees an area's pages, then the area.
    fn release_area(&self, header: *mut Header) {
        // SAFETY: the caller owns the area; its header is mapped.
        let area = unsafe { &mut *header };
        let start = header.addr() + FRAME_BYTES;
        let pages = start..start + area.mapped as usize * FRAME_BYTES;
        // The frames are free for others only once no CPU remembers the mapping, so they wait on a list: each page that
        // is being unmapped holds the number of the frame before it.
        let mut waiting: Option<Pfn> = None;
        for page in pages.clone().step_by(FRAME_BYTES) {
            let frame = self.machine().unmap(page).expect("every page of the area was mapped");
            // SAFETY: the frame is the area's, which is being freed; the direct map reaches it.
            unsafe { self.page_address(frame).cast::<Option<Pfn>>().write(waiting) };
            waiting = Some(frame);
        }
        area.mapped = 0;
        self.machine().forget(pages);
        while let Some(frame) = waiting {
            // SAFETY: written above.
            waiting = unsafe { self.page_address(frame).cast::<Option<Pfn>>().read() };
            self.__free_pages(frame, Order::ZERO);
        }
        self.window().lock(self.machine()).give(header);
    }
}
