//! [`VmObject::fault`]: the page at an index, whatever it takes, as a guard ([`BusyPage`]) through which its bytes are read and
//! written.
//!
//! Used by whoever works with an object's contents: in one address space there is no page fault to do this.

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::Ordering::Relaxed;

use crate::frame::{FRAME_BYTES, Order, Pfn};
use crate::gfp::Gfp;
use crate::lock::Guard;
use crate::machine::Machine;

use super::alloc::{AllocClass, PageRequest};
use super::core_ops::Bytes;
use super::object::{Core, LockedObject, Pages, VmObject};
use super::pager::PageIn;
use super::queues::{Descriptor, flag};

/// Why there is no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultError {
    /// No memory, after all that the flags allow to do about it.
    NoMemory,
    /// The pager has it and could not read it.
    Pager,
}

impl fmt::Display for FaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoMemory => "no memory for a page of a VM object: free some, or ask with __GFP_NOFAIL",
            Self::Pager => "the pager of a VM object could not read a page: see what it says",
        })
    }
}

impl core::error::Error for FaultError {}

/// A page that is busy for this guard: it stays in its frame and nobody else has it. Reading gives its bytes; what was written
/// to is dirty. When the guard is dropped the page has been used, and those who wait for it go on.
pub struct BusyPage<'o, M: Machine> {
    object: &'o VmObject<M>,
    page: &'static Descriptor,
}

// SAFETY: the page is this guard's alone, wherever it is; the object is shared between threads.
unsafe impl<M: Machine> Send for BusyPage<'_, M> {}
// SAFETY: shared, it only reads.
unsafe impl<M: Machine> Sync for BusyPage<'_, M> {}

impl<M: Machine> VmObject<M> {
    /// The page at an index: the one in memory, once it is not busy; else a new one, which the pager fills if it has the page,
    /// and which is zeroes if not. Sleeps for all of that, and for memory as `GFP_KERNEL` does. No lock of an object is held.
    ///
    /// # Errors
    ///
    /// [`FaultError`].
    pub fn fault(&self, index: u64) -> Result<BusyPage<'_, M>, FaultError> {
        self.fault_with(index, Gfp::KERNEL)
    }

    /// As [`Self::fault`], waiting for memory as the flags say: `GFP_KERNEL | __GFP_NOFAIL` for who has nothing to do without
    /// the page, `GFP_NOWAIT` for who rather does without.
    ///
    /// # Errors
    ///
    /// [`FaultError`].
    pub fn fault_with(&self, index: u64, gfp: Gfp) -> Result<BusyPage<'_, M>, FaultError> {
        let core = self.core();
        let mut spare = None;
        loop {
            let asleep = spare.is_some();
            if let Some(page) = self.busy_page(index, spare.take(), gfp) {
                return page.fill();
            }
            if asleep && !gfp.contains(Gfp::NOFAIL) {
                return Err(FaultError::NoMemory);
            }
            // As others who wait for memory: in their turn.
            let gfp = gfp.difference(Gfp::ZERO) | Gfp::MOVABLE;
            spare = Some(core.service.alloc_pages(gfp, Order::ZERO).ok_or(FaultError::NoMemory)?);
        }
    }

    /// Makes the page at an index busy for a guard: the one there is, or a new one, in `spare` if that is given. `None` when there is
    /// no memory that can be had without sleeping.
    fn busy_page(&self, index: u64, mut spare: Option<Pfn>, gfp: Gfp) -> Option<BusyPage<'_, M>> {
        let core = self.core();
        let mut locked = self.lock();
        let found = loop {
            if let Some(page) = Core::<M>::resident(&locked.pages, index) {
                if page.has(flag::BUSY) {
                    locked = locked.wait(index);
                    continue;
                }
                break Some(page);
            }
            if let Some(page) = Core::<M>::cached(&locked.pages, index) {
                if core.reactivate(page, PageRequest::normal()) {
                    break Some(page);
                }
                core.forget_ghosts(&mut locked.pages);
            }
            break core.new_page(&mut locked, index, &mut spare, gfp);
        };
        if let Some(page) = found {
            page.change(flag::BUSY | flag::GUARDED, 0);
        }
        drop(locked);
        if let Some(unused) = spare {
            core.service.__free_pages(unused, Order::ZERO);
        }
        found.map(|page| BusyPage { object: self, page })
    }
}

impl<M: Machine> Core<M> {
    fn new_page(
        &self,
        locked: &mut LockedObject<'_, M>,
        index: u64,
        spare: &mut Option<Pfn>,
        gfp: Gfp,
    ) -> Option<&'static Descriptor> {
        let service = self.service;
        let task = service.machine().task();
        if let Some(frame) = spare.take() {
            service.claim_frames(1);
            return self.adopt(&mut locked.pages, index, frame, 0, false, AllocClass::System);
        }
        // Not past those who wait.
        if service.must_queue(gfp, task) {
            return None;
        }
        let request = PageRequest::normal().zero().no_busy();
        service.vm_page_alloc(Some(locked), index, request).map(|page| page.descriptor())
    }
}

impl<'o, M: Machine> BusyPage<'o, M> {
    /// The caller has made the page busy for a guard, under the object's lock.
    pub(super) fn new(object: &'o VmObject<M>, page: &'static Descriptor) -> Self {
        Self { object, page }
    }

    /// Its index.
    pub fn index(&self) -> u64 {
        self.page.index.load(Relaxed)
    }

    /// The frame it is in, while it is busy or wired.
    pub fn frame(&self) -> Pfn {
        self.page.frame()
    }

    /// Keeps it in its frame and in memory beyond the guard; see [`VmPage::wire`](super::VmPage::wire).
    pub fn wire(&self) {
        let _pages = self.lock();
        self.object.core().wire(self.page);
    }

    /// Ends a wiring.
    ///
    /// # Panics
    ///
    /// When it is not wired.
    pub fn unwire(&self) {
        let _pages = self.lock();
        self.object.core().unwire(self.page);
    }

    /// Frees the page, whatever is in it; the pager is not told.
    pub fn free(self) {
        let object = self.object;
        let (index, page) = (self.index(), self.page);
        core::mem::forget(self);
        let mut locked = object.lock();
        page.change(0, flag::BUSY | flag::GUARDED);
        page.wired.store(0, Relaxed);
        object.core().free_page(&mut locked.pages, index);
    }

    fn lock(&self) -> Guard<'o, Pages, M> {
        let core = self.object.core();
        core.lock.lock(core.machine())
    }

    /// Sees to it that its contents are the object's.
    fn fill(self) -> Result<Self, FaultError> {
        if self.page.has(flag::VALID) {
            return Ok(self);
        }
        let core = self.object.core();
        if let Some(pager) = core.pager {
            self.page.change(flag::PAGING, flag::FAILED);
            pager.page_in(PageIn::new(core, self.page));
            self.wait_for_pager();
            if self.page.has(flag::FAILED) {
                self.free();
                return Err(FaultError::Pager);
            }
        }
        if !self.page.has(flag::VALID) {
            if !self.page.has(flag::ZERO) {
                // SAFETY: the page is this guard's alone.
                unsafe { core.service.page_address(self.page.frame()).write_bytes(0, FRAME_BYTES) };
            }
            self.page.change(flag::VALID, 0);
        }
        Ok(self)
    }

    fn wait_for_pager(&self) {
        let index = self.index();
        // Mostly the pager is done already, and the object's lock much in demand.
        while self.page.has(flag::PAGING) {
            let pages = self.lock();
            if !self.page.has(flag::PAGING) {
                return;
            }
            self.object.core().sleep_until_called(pages, index);
        }
    }

    fn address(&self) -> *mut Bytes {
        self.object.core().service.page_address(self.page.frame()).cast()
    }
}

impl<M: Machine> Deref for BusyPage<'_, M> {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        // SAFETY: the page is this guard's alone while it lives, in a frame that stays; any bytes are valid.
        unsafe { &*self.address() }
    }
}

impl<M: Machine> DerefMut for BusyPage<'_, M> {
    fn deref_mut(&mut self) -> &mut Bytes {
        // Nobody else changes the flags of a page that is a guard's.
        self.page.change(flag::DIRTY | flag::VALID, flag::ZERO);
        // SAFETY: as in `deref`, and the guard is borrowed exclusively.
        unsafe { &mut *self.address() }
    }
}

impl<M: Machine> Drop for BusyPage<'_, M> {
    fn drop(&mut self) {
        let mut pages = self.lock();
        self.object.core().end_busy(&mut pages, self.page);
    }
}

impl<M: Machine> fmt::Debug for BusyPage<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "busy page {} in {}", self.index(), self.frame())
    }
}
