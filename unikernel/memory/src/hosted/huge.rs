//! Allocations of a program that no page block can hold: larger than 4 MiB, or aligned to more.
//!
//! Used by the [`GlobalAlloc`](core::alloc::GlobalAlloc) of [`Hosted`](super::Hosted) alone, which tells them from
//! others by their layout. Each is a mapping of its own: a page with a [`Header`], then the memory. So it grows without
//! copying (`mremap`), is zero when new, and goes back to the kernel when freed.
//!
//! As for the [mapping window](super::mapping), that memory is other memory than the simulated RAM, but as many frames
//! are taken from the page layer and kept until the free: nobody gets more than the machine has, and the books balance
//! (row `large`). The frames' own memory is given back to the kernel meanwhile, so nothing is paid for twice. They are
//! in blocks of any order, chained by their links.
//!
//! Theory: an allocation and its header are its owner's alone; nothing is shared but what the page layer guards.

use core::ptr;
use core::sync::atomic::Ordering::Relaxed;

use super::arena;
use crate::frame::{FRAME_BYTES, FrameList, Frames, Order};
use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::service::Service;

/// What the page in front of the memory holds.
struct Header {
    /// [`LIVE`] while the allocation is.
    mark: u64,
    /// Pages of the mapping, this one included.
    pages: u32,
    /// Frames taken for it: at least as many, and fewer than 4 MiB more.
    charged: u32,
    /// Their blocks.
    blocks: FrameList,
}

/// `huge one` in ASCII: tells a header from other contents.
const LIVE: u64 = u64::from_be_bytes(*b"huge one");

/// Allocates `size` zeroed bytes aligned to `align`, a power of two; null on failure.
#[cold]
pub(super) fn allocate(service: &Service<impl Machine>, size: usize, align: usize) -> *mut u8 {
    // The first allocation of all may be a huge one.
    service.attached_set();
    let Some(pages) = pages_for(service, size) else { return ptr::null_mut() };
    let mut blocks = FrameList::new();
    let Some(charged) = charge(service, &mut blocks, pages) else { return ptr::null_mut() };
    let Some(header) = map(pages, align) else {
        release(service, &mut blocks, charged, 0);
        return ptr::null_mut();
    };
    // SAFETY: the page was mapped just now, and is nobody else's.
    unsafe { header.write(Header { mark: LIVE, pages, charged, blocks }) };
    header.cast::<u8>().wrapping_add(FRAME_BYTES)
}

/// Frees what [`allocate`] gave.
///
/// # Safety
///
/// Nobody uses the memory any more.
///
/// # Panics
///
/// When it is not the start of such an allocation, or freed already.
#[cold]
pub(super) unsafe fn free(service: &Service<impl Machine>, memory: *mut u8) {
    let header = header_of(memory);
    // SAFETY: `header_of` found it to be the header of a live allocation, which its owner gives up.
    let Header { pages, charged, mut blocks, .. } = unsafe { header.read() };
    // SAFETY: as above. Of a second free the page is gone or another's: it must not find the mark.
    unsafe { (*header).mark = 0 };
    unmap(header.addr(), pages);
    release(service, &mut blocks, charged, 0);
}

/// Makes the memory `size` bytes large, keeping the contents up to the smaller size, by moving pages and not bytes.
/// Null when there are no frames, or, with an `align` above a page, no addresses behind it: all is as it was then.
///
/// # Safety
///
/// `memory` is of [`allocate`] with the same `align` and the caller's alone; after success only the result may be used.
///
/// # Panics
///
/// As [`free`].
pub(super) unsafe fn resize(service: &Service<impl Machine>, memory: *mut u8, size: usize, align: usize) -> *mut u8 {
    let header = header_of(memory);
    // SAFETY: `header_of` found it to be the header of a live allocation, and the caller owns it.
    let allocation = unsafe { &mut *header };
    let Some(pages) = pages_for(service, size) else { return ptr::null_mut() };
    if pages > allocation.charged {
        let Some(more) = charge(service, &mut allocation.blocks, pages - allocation.charged) else {
            return ptr::null_mut();
        };
        allocation.charged += more;
    }
    let old = allocation.pages;
    let moved = remap(header, old, pages, align);
    // SAFETY: the mapping, and with it the header, is now at `moved`, or where it was if that is `None`.
    let allocation = unsafe { &mut *moved.unwrap_or(header) };
    if moved.is_some() {
        allocation.pages = pages;
    }
    let kept = allocation.pages;
    allocation.charged = release(service, &mut allocation.blocks, allocation.charged, kept);
    moved.map_or(ptr::null_mut(), |header| header.cast::<u8>().wrapping_add(FRAME_BYTES))
}

/// Pages of an allocation with its header; `None` for more than there can be.
fn pages_for(service: &Service<impl Machine>, size: usize) -> Option<u32> {
    let pages = size.div_ceil(FRAME_BYTES) + 1;
    (pages <= service.machine().frame_limit() as usize).then_some(pages as u32)
}

/// The header of a live allocation.
fn header_of(memory: *mut u8) -> *mut Header {
    let header = memory.wrapping_sub(FRAME_BYTES).cast::<Header>();
    let plausible = memory.addr().is_multiple_of(FRAME_BYTES) && arena::is_mapped(header.addr());
    // SAFETY: the page is mapped; its first word can be read whatever it is. (Where it may not be read, the process
    // ends, as it must.)
    let live = plausible && unsafe { (*header).mark } == LIVE;
    assert!(live, "free of {memory:p}, which is not the start of a huge allocation, or freed already");
    header
}

/// Takes blocks of at least `frames` frames in all, the largest first, and returns how many frames they are. `None`,
/// and nothing taken, when there are too few.
fn charge(service: &Service<impl Machine>, blocks: &mut FrameList, frames: u32) -> Option<u32> {
    let table = Frames::of(service.machine());
    let mut taken = FrameList::new();
    let mut charged = 0;
    let mut order = Order::MAX;
    while charged < frames {
        let block = (order.frames() <= frames - charged)
            .then(|| service.alloc_pages(Gfp::KERNEL | Gfp::NOWARN, order))
            .flatten();
        if let Some(block) = block {
            arena::discard_pages(service.page_address(block).addr(), order.bytes());
            taken.push(table, block);
            charged += order.frames();
        } else if let Some(smaller) = order.get().checked_sub(1).and_then(Order::new) {
            order = smaller;
        } else {
            note(service, charged);
            release(service, &mut taken, charged, 0);
            return None;
        }
    }
    note(service, charged);
    while let Some(block) = taken.pop(table) {
        blocks.push(table, block);
    }
    Some(charged)
}

fn note(service: &Service<impl Machine>, charged: u32) {
    service.claim_frames(charged);
    service.large_frames().fetch_add(u64::from(charged), Relaxed);
}

/// Frees blocks until one more would leave fewer than `kept` frames; returns how many frames are left.
fn release(service: &Service<impl Machine>, blocks: &mut FrameList, charged: u32, kept: u32) -> u32 {
    let table = Frames::of(service.machine());
    let mut left = charged;
    while let Some(block) = blocks.first() {
        let order = table.state(block).order();
        if left - order.frames() < kept {
            break;
        }
        blocks.pop(table);
        left -= order.frames();
        service.large_frames().fetch_sub(u64::from(order.frames()), Relaxed);
        service.return_frames(order.frames());
        service.__free_pages(block, order);
    }
    left
}

/// Maps pages so that the second is aligned to `align`.
fn map(pages: u32, align: usize) -> Option<*mut Header> {
    let align = align.max(FRAME_BYTES);
    arena::reserve_aligned(pages as usize * FRAME_BYTES, align, FRAME_BYTES).map(ptr::with_exposed_provenance_mut)
}

fn unmap(start: usize, pages: u32) {
    arena::unreserve(start..start + pages as usize * FRAME_BYTES);
}

/// Changes the size of a mapping, moving it where the alignment allows that.
fn remap(header: *mut Header, old: u32, new: u32, align: usize) -> Option<*mut Header> {
    let flags = if align <= FRAME_BYTES { libc::MREMAP_MAYMOVE } else { 0 };
    let bytes = |pages: u32| pages as usize * FRAME_BYTES;
    // SAFETY: the range is a mapping of an allocation whose owner asked for this.
    let moved = unsafe { libc::mremap(header.cast(), bytes(old), bytes(new), flags) };
    (moved != libc::MAP_FAILED).then(|| ptr::with_exposed_provenance_mut(moved.expose_provenance()))
}
