//! [`MovablePages`]: pages that move when memory is compacted, reached only through a pin guard.
//!
//! Users: whoever wants much memory, page by page, without being in the way of large blocks: caches, buffers. It is the
//! ready-made [`PageOwner`].
//!
//! # Theory
//!
//! A table of [cells](crate::pin), one for each page, in memory that is never given back, so that compaction may look
//! at a cell at any time. A page's cookie is its cell's index; a handle ([`MovablePage`]) is the right to that cell.
//! Guards borrow the handle, so nobody pins or holds a pin once the handle is dropped.

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::ptr;
use core::slice;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::frame::{FRAME_BYTES, Pfn};
use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::owner::{OwnerError, OwnerId, PageOwner};
use crate::pin::{CellStack, PinCell};
use crate::service::Service;

/// A page, as bytes.
type Page = [u8; FRAME_BYTES];

/// A set of pages that move when memory is compacted; made by [`Service::movable_pages`].
pub struct MovablePages<M: Machine> {
    service: &'static Service<M>,
    /// Its [`OwnerId`]; written once, before anybody else has the set.
    owner: AtomicU32,
    cells: &'static [PinCell],
    vacant: CellStack,
}

/// A movable page, freed when dropped. Its memory is reached through [`Self::pin`] and [`Self::pin_mut`].
pub struct MovablePage<M: Machine> {
    pages: &'static MovablePages<M>,
    index: u32,
}

/// Keeps a movable page where it is, to be read; any number at a time.
pub struct PinGuard<'a, M: Machine> {
    page: &'a MovablePage<M>,
    frame: Pfn,
}

/// Keeps a movable page where it is, to be read and written.
pub struct PinGuardMut<'a, M: Machine>(PinGuard<'a, M>);

impl<M: Machine> Service<M> {
    /// Makes room for up to `capacity` movable pages. The room (8 bytes a page) is never given back: make few and large
    /// ones. May sleep.
    ///
    /// # Errors
    ///
    /// [`OwnerError`].
    pub fn movable_pages(&'static self, capacity: u32) -> Result<&'static MovablePages<M>, OwnerError> {
        let bytes = capacity as usize * size_of::<PinCell>();
        let table = self.kvmalloc(bytes.max(1), Gfp::KERNEL).cast::<PinCell>();
        let place = self.kmalloc(size_of::<MovablePages<M>>(), Gfp::KERNEL).cast::<MovablePages<M>>();
        let give_back = || {
            // SAFETY: both are null or were allocated above, and nobody knows of them.
            unsafe {
                self.kvfree(table.cast());
                self.kfree(place.cast());
            }
        };
        if table.is_null() || place.is_null() {
            give_back();
            return Err(OwnerError::NoMemory);
        }
        for index in 0..capacity as usize {
            // SAFETY: the table has room for `capacity` cells.
            unsafe { table.add(index).write(PinCell::new(AtomicU64::new(0))) };
        }
        // SAFETY: the cells were written above, and are never given back once the set is registered; until then nobody
        // but this function has the slice.
        let cells = unsafe { slice::from_raw_parts(table, capacity as usize) };
        let vacant = CellStack::new(AtomicU64::new(CellStack::EMPTY));
        (0..capacity).rev().for_each(|index| vacant.push(cells, index));
        // SAFETY: the place is large and aligned enough, and this function's alone.
        unsafe { place.write(MovablePages { service: self, owner: AtomicU32::new(0), cells, vacant }) };
        // SAFETY: written just now; given back only when it could not be registered and nobody got it.
        let pages: &'static MovablePages<M> = unsafe { &*place };
        match self.register_page_owner(pages) {
            Ok(OwnerId(id)) => pages.owner.store(id, Relaxed),
            Err(error) => {
                give_back();
                return Err(error);
            }
        }
        Ok(pages)
    }
}

impl<M: Machine> MovablePages<M> {
    /// Allocates a page of zeroes; `None` when there is no memory for it or no room in the set. Waits where the flags
    /// say so.
    pub fn alloc(&'static self, gfp: Gfp) -> Option<MovablePage<M>> {
        let index = self.vacant.pop(self.cells)?;
        let owner = OwnerId(self.owner.load(Relaxed));
        let Some(frame) = self.service.alloc_movable_page(owner, u64::from(index), gfp | Gfp::ZERO) else {
            self.vacant.push(self.cells, index);
            return None;
        };
        self.cells[index as usize].occupy(frame.0);
        Some(MovablePage { pages: self, index })
    }

    /// How many pages it has room for.
    pub fn capacity(&self) -> usize {
        self.cells.len()
    }
}

impl<M: Machine> PageOwner for MovablePages<M> {
    fn move_page(&self, cookie: u64, from: Pfn, to: Pfn) -> bool {
        let Some(cell) = usize::try_from(cookie).ok().and_then(|index| self.cells.get(index)) else { return false };
        // A handler of this CPU that pinned the page would wait for what it interrupted.
        let interrupts = self.service.machine().disable_interrupts();
        let moved = cell.begin_move(from.0);
        if moved {
            // SAFETY: compaction gave the frames, and no guard exists or comes to exist before `end_move`.
            unsafe { self.service.copy_frame(from, to) };
            cell.end_move(to.0);
        }
        self.service.machine().restore_interrupts(interrupts);
        moved
    }
}

impl<M: Machine> MovablePage<M> {
    /// Keeps the page where it is until the guard is dropped. Waits while it is being moved, which is the time it takes
    /// to copy it; may be called in an interrupt handler.
    pub fn pin(&self) -> PinGuard<'_, M> {
        let frame = self.cell().pin(|rounds| self.pages.service.machine().relax(rounds));
        PinGuard { page: self, frame: Pfn(frame) }
    }

    /// As [`Self::pin`], to write to the page.
    pub fn pin_mut(&mut self) -> PinGuardMut<'_, M> {
        PinGuardMut(self.pin())
    }

    fn cell(&self) -> &PinCell {
        &self.pages.cells[self.index as usize]
    }
}

impl<M: Machine> Drop for MovablePage<M> {
    fn drop(&mut self) {
        let pages = self.pages;
        let frame = self.cell().vacate(|rounds| pages.service.machine().relax(rounds));
        pages.service.free_movable_page(Pfn(frame)).expect("the cell says where the page is");
        pages.vacant.push(pages.cells, self.index);
    }
}

impl<M: Machine> PinGuard<'_, M> {
    /// The frame the page stays in while it is pinned: for DMA, say.
    pub fn frame(&self) -> Pfn {
        self.frame
    }

    /// Address of the page.
    pub fn as_ptr(&self) -> *mut Page {
        self.page.pages.service.page_address(self.frame).cast()
    }
}

impl<M: Machine> Deref for PinGuard<'_, M> {
    type Target = Page;

    fn deref(&self) -> &Page {
        // SAFETY: the frame is the page's while it is pinned, its bytes were zeroed or copied before, and only a
        // `PinGuardMut` writes to them, which borrows the page exclusively.
        unsafe { &*self.as_ptr() }
    }
}

impl<M: Machine> Drop for PinGuard<'_, M> {
    fn drop(&mut self) {
        self.page.cell().unpin();
    }
}

impl<M: Machine> PinGuardMut<'_, M> {
    /// The frame the page stays in while it is pinned.
    pub fn frame(&self) -> Pfn {
        self.0.frame
    }

    /// Address of the page.
    pub fn as_ptr(&self) -> *mut Page {
        self.0.as_ptr()
    }
}

impl<M: Machine> Deref for PinGuardMut<'_, M> {
    type Target = Page;

    fn deref(&self) -> &Page {
        &self.0
    }
}

impl<M: Machine> DerefMut for PinGuardMut<'_, M> {
    fn deref_mut(&mut self) -> &mut Page {
        // SAFETY: as for `PinGuard`; the guard was made from the only handle, borrowed exclusively.
        unsafe { &mut *self.0.as_ptr() }
    }
}

impl<M: Machine> fmt::Debug for MovablePage<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "movable page {} of {:p}", self.index, ptr::from_ref(self.pages))
    }
}
