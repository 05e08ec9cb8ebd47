//! [`VmPage`]: a page of a locked object, or of none, and what can be done to it.
//!
//! Used by whoever locked the object. The names are FreeBSD's without `vm_page_`; the states are told at the head of
//! [`vm`](super).

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::Relaxed;

use crate::frame::{FRAME_BYTES, Order, Pfn};
use crate::machine::Machine;
use crate::service::Service;

use super::fault::BusyPage;
use super::object::LockedObject;
use super::queues::{Descriptor, Queue, flag};

/// A page, as long as its object stays locked. One of no object is its holder's, who must [free](Self::free) it.
#[must_use = "a page of no object leaks when this is dropped: free it"]
pub struct VmPage<'l, 'o, M: Machine> {
    page: &'static Descriptor,
    /// `None`: it is of no object.
    locked: Option<&'l mut LockedObject<'o, M>>,
    service: &'static Service<M>,
    /// Of one thread at a time, as the locked object is.
    _thread: PhantomData<*const ()>,
}

/// Why something cannot be done to a page now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageInUse {
    /// A guard or a pager has it.
    Guarded,
    /// It is wired.
    Wired,
}

impl fmt::Display for PageInUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Guarded => "a guard or a pager has the page: wait until it is not busy",
            Self::Wired => "the page is wired: unwire it first",
        })
    }
}

impl core::error::Error for PageInUse {}

impl<'l, 'o, M: Machine> VmPage<'l, 'o, M> {
    pub(super) fn of(locked: &'l mut LockedObject<'o, M>, page: &'static Descriptor) -> Self {
        let service = locked.object.core().service;
        Self { page, locked: Some(locked), service, _thread: PhantomData }
    }

    pub(super) fn of_no_object(service: &'static Service<M>, page: &'static Descriptor) -> Self {
        Self { page, locked: None, service, _thread: PhantomData }
    }

    pub(super) fn descriptor(&self) -> &'static Descriptor {
        self.page
    }

    /// Its index in the object; for one of no object the index it was allocated with.
    pub fn index(&self) -> u64 {
        self.page.index.load(Relaxed)
    }

    /// The frame it is in: for as long as the object stays locked, or the page is busy or wired.
    pub fn frame(&self) -> Pfn {
        self.page.frame()
    }

    /// Whether its contents were zeroes when it was allocated, and nobody is known to have written to it. `PG_ZERO`.
    pub fn is_zeroed(&self) -> bool {
        self.page.has(flag::ZERO)
    }

    /// Whether it is busy. `VPO_BUSY`.
    pub fn is_busy(&self) -> bool {
        self.page.has(flag::BUSY)
    }

    /// Whether it is busy for a guard or a pager, which alone ends that.
    pub fn is_guarded(&self) -> bool {
        self.page.has(flag::GUARDED)
    }

    /// How often it is wired.
    pub fn wirings(&self) -> u32 {
        self.page.wired.load(Relaxed)
    }

    /// Whether its contents are the object's.
    pub fn is_valid(&self) -> bool {
        self.page.has(flag::VALID)
    }

    /// Whether the pager has yet to get its contents.
    pub fn is_dirty(&self) -> bool {
        self.page.has(flag::DIRTY)
    }

    /// The queue it is on.
    pub fn queue(&self) -> Queue {
        self.page.queue()
    }

    /// Makes it busy: neither moved nor laundered, and nobody else's. `false` when it is busy already. FreeBSD's
    /// `vm_page_busy`.
    pub fn busy(&mut self) -> bool {
        let was_busy = self.is_busy();
        self.page.change(flag::BUSY, 0);
        !was_busy
    }

    /// Ends that it is busy, and wakes those who wait for it. FreeBSD's `vm_page_wakeup`.
    ///
    /// # Errors
    ///
    /// [`PageInUse::Guarded`]: its guard or pager ends that.
    pub fn unbusy(&mut self) -> Result<(), PageInUse> {
        self.not_guarded()?;
        self.page.change(0, flag::BUSY);
        if let Some(locked) = &mut self.locked {
            locked.object.core().call(&mut locked.pages, self.page.index.load(Relaxed));
        }
        Ok(())
    }

    /// Keeps it in its frame, and in memory, until it was unwired as often. FreeBSD's `vm_page_wire`.
    pub fn wire(&mut self) {
        match &self.locked {
            Some(locked) => locked.object.core().wire(self.page),
            None => drop(self.page.wired.fetch_add(1, Relaxed)),
        }
    }

    /// Ends a wiring; after the last the page is active. FreeBSD's `vm_page_unwire`.
    ///
    /// # Panics
    ///
    /// When it is not wired.
    pub fn unwire(&mut self) {
        let Some(locked) = &self.locked else {
            assert!(self.page.is_wired(), "unwire of a page that is not wired");
            self.page.wired.fetch_sub(1, Relaxed);
            return;
        };
        locked.object.core().unwire(self.page);
    }

    /// Puts it on the active queue, unless it is wired or of no object. FreeBSD's `vm_page_activate`.
    pub fn activate(&mut self) {
        self.put_on(Queue::Active);
    }

    /// Puts it on the inactive queue, unless it is wired or of no object: it is freed or laundered next. FreeBSD's
    /// `vm_page_deactivate`.
    pub fn deactivate(&mut self) {
        self.page.change(0, flag::REFERENCED);
        self.put_on(Queue::Inactive);
    }

    /// Has it count as available memory that still has its contents, until the object has it back ([`Service::vm_page_alloc`]) or
    /// the page layer takes it: a look-up does not find it any more. `false` for one that is dirty, not valid, busy, wired
    /// or of no object, which stays as it is. FreeBSD's `vm_page_cache`.
    pub fn cache(self) -> bool {
        self.locked.as_ref().is_some_and(|locked| locked.object.core().cache(self.page))
    }

    /// Notes that the pager does not have its contents, which are the object's. FreeBSD's `vm_page_dirty`.
    pub fn set_dirty(&mut self) {
        self.page.change(flag::DIRTY | flag::VALID, flag::ZERO);
    }

    /// Notes that its contents are the pager's too, or not worth keeping. FreeBSD's `vm_page_undirty`.
    pub fn set_clean(&mut self) {
        self.page.change(0, flag::DIRTY);
    }

    /// Notes that its contents are the object's.
    pub fn set_valid(&mut self) {
        self.page.change(flag::VALID, 0);
    }

    /// Frees it, whatever is in it. FreeBSD's `vm_page_free`.
    ///
    /// # Errors
    ///
    /// [`PageInUse`]; the page stays as it is (and one of no object, which can only be wired, leaks).
    pub fn free(self) -> Result<(), PageInUse> {
        self.not_guarded()?;
        if self.page.is_wired() {
            return Err(PageInUse::Wired);
        }
        if let Some(locked) = self.locked {
            locked.object.core().free_page(&mut locked.pages, self.page.index.load(Relaxed));
        } else {
            let frame = self.page.frame();
            self.service.give_back_descriptor(NonNull::from(self.page));
            self.service.__free_pages(frame, Order::ZERO);
        }
        Ok(())
    }

    /// A guard through which its bytes are read and written, which outlives the lock. The page, if it was not busy before, is
    /// busy until that is dropped.
    ///
    /// # Errors
    ///
    /// [`PageInUse::Guarded`]. For a page of no object, [`PageInUse::Wired`]: it is nobody else's anyway.
    pub fn guard(mut self) -> Result<BusyPage<'o, M>, PageInUse> {
        self.not_guarded()?;
        let Some(locked) = self.locked.take() else { return Err(PageInUse::Wired) };
        self.page.change(flag::BUSY | flag::GUARDED, 0);
        Ok(BusyPage::new(locked.object, self.page))
    }

    /// The bytes of a page of no object; `None` for others, whose guard has them.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8; FRAME_BYTES]> {
        if self.locked.is_some() {
            return None;
        }
        self.page.change(0, flag::ZERO);
        // SAFETY: the frame is this page's, which is its holder's alone, and any bytes are valid.
        Some(unsafe { &mut *self.service.page_address(self.page.frame()).cast() })
    }

    fn not_guarded(&self) -> Result<(), PageInUse> {
        if self.is_guarded() { Err(PageInUse::Guarded) } else { Ok(()) }
    }

    fn put_on(&mut self, queue: Queue) {
        if let Some(locked) = &self.locked
            && !self.page.is_wired()
        {
            locked.object.core().set_queue(self.page, queue);
        }
    }
}

impl<M: Machine> fmt::Debug for VmPage<'_, '_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {} in {}, {:?}", self.index(), self.frame(), self.queue())
    }
}
