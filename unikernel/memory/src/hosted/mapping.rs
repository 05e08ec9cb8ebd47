//! The mapping window of the process: addresses where `vmalloc` puts pages.
//!
//! A process cannot map simulated RAM a second time, so a page mapped here is other memory than the frame's; the frame
//! is charged and kept out of use all the same, which is all the service can tell.

use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::arena::{reserve, unreserve};
use crate::frame::{FRAME_BYTES, Pfn};

/// Bytes of addresses an instance may map pages at.
const WINDOW_BYTES: usize = 64 << 30;

/// The window: its addresses, and a table of the frame charged for each page, plus one; 0 where nothing is mapped.
pub(super) struct Mapping {
    pub(super) start: usize,
    pub(super) frames: *mut AtomicU32,
}

impl Mapping {
    pub(super) fn reserve() -> Option<Self> {
        let entries = WINDOW_BYTES / FRAME_BYTES;
        Some(Self {
            start: reserve(WINDOW_BYTES, libc::PROT_NONE)?,
            frames: ptr::with_exposed_provenance_mut(reserve(
                entries * size_of::<AtomicU32>(),
                libc::PROT_READ | libc::PROT_WRITE,
            )?),
        })
    }

    /// Gives the addresses and the table back.
    pub(super) fn discard(self) {
        let table = self.frames.addr();
        unreserve(self.window());
        unreserve(table..table + WINDOW_BYTES / FRAME_BYTES * size_of::<AtomicU32>());
    }

    pub(super) fn window(&self) -> Range<usize> {
        self.start..self.start + WINDOW_BYTES
    }

    /// Makes the page usable; `false` when the kernel will not.
    pub(super) fn map(&self, page: usize, frame: Pfn) -> bool {
        let done = protect(page, libc::PROT_READ | libc::PROT_WRITE);
        if done {
            self.entry(page).store(frame.0 + 1, Relaxed);
        }
        done
    }

    pub(super) fn unmap(&self, page: usize) -> Option<Pfn> {
        let frame = self.entry(page).swap(0, Relaxed).checked_sub(1)?;
        // SAFETY: the page is of the window, and its owner gives it up.
        unsafe { libc::madvise(ptr::with_exposed_provenance_mut(page), FRAME_BYTES, libc::MADV_DONTNEED) };
        let done = protect(page, libc::PROT_NONE);
        debug_assert!(done, "taking rights away from a mapping of ours");
        Some(Pfn(frame))
    }

    pub(super) fn translate(&self, page: usize) -> Option<Pfn> {
        self.entry(page).load(Relaxed).checked_sub(1).map(Pfn)
    }

    fn entry(&self, page: usize) -> &AtomicU32 {
        let index = (page - self.start) / FRAME_BYTES;
        assert!(index < WINDOW_BYTES / FRAME_BYTES, "the page is of the window");
        // SAFETY: the table has an entry for each page of the window, is never unmapped, and only accessed atomically.
        unsafe { &*self.frames.add(index) }
    }
}

fn protect(page: usize, rights: libc::c_int) -> bool {
    // SAFETY: the page is of a window reserved by `reserve`, where only the service puts anything.
    unsafe { libc::mprotect(ptr::with_exposed_provenance_mut(page), FRAME_BYTES, rights) == 0 }
}
