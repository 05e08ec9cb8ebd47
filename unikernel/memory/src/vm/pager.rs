//! [`Pager`]: who keeps an object's pages elsewhere; and what it is asked: [`PageIn`], [`PageOut`].
//!
//! Implemented by whoever has somewhere to keep pages: a disk, compressed memory. A request owns its pages, which are busy
//! until it is completed, then or later, by any thread or handler; one that is dropped counts as failed.

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::Relaxed;

use crate::events::Event;
use crate::frame::Pfn;
use crate::machine::Machine;
use crate::service::Service;

use super::core_ops::{Bytes, LockedQueues};
use super::object::Core;
use super::queues::{Descriptor, Queue, flag};

/// Most pages a pager is asked to write at once: 64 KiB, side by side in the object.
pub const MAX_CLUSTER: usize = 16;

/// Keeps the pages of one object, by index.
pub trait Pager<M: Machine>: Sync {
    /// Reads a page, if it has it. Called in the thread that wants the page, without locks; may sleep.
    fn page_in(&self, request: PageIn<M>);

    /// Writes pages, whose indices follow each other. Called in a thread that makes memory free, without locks: it may sleep
    /// for I/O, and what it allocates may use every reserve but never waits, so it must be able to go on with what it has set
    /// aside (a mempool).
    fn page_out(&self, request: PageOut<M>);

    /// Most pages it wants to be asked to write at once; at most [`MAX_CLUSTER`] are asked for.
    fn cluster(&self) -> usize {
        MAX_CLUSTER
    }
}

/// What came of reading a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagedIn {
    /// The frame has its contents.
    Filled,
    /// The pager does not have it: it is zeroes.
    Absent,
}

/// A pager could not read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagerError;

impl fmt::Display for PagerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the pager could not read or write a page")
    }
}

impl core::error::Error for PagerError {}

/// A page to be read.
#[must_use = "a request that is dropped has failed: complete it"]
pub struct PageIn<M: Machine> {
    core: NonNull<Core<M>>,
    page: &'static Descriptor,
    is_complete: bool,
}

// SAFETY: the object lives while its page is busy, and its state is reached under its lock.
unsafe impl<M: Machine> Send for PageIn<M> {}

impl<M: Machine> PageIn<M> {
    /// The caller has made the page busy for a pager (`PAGING`), under the object's lock.
    pub(super) fn new(core: &Core<M>, page: &'static Descriptor) -> Self {
        Self { core: NonNull::from(core), page, is_complete: false }
    }

    /// Which page.
    pub fn index(&self) -> u64 {
        self.page.index.load(Relaxed)
    }

    /// The frame to be filled: it stays.
    pub fn frame(&self) -> Pfn {
        self.page.change(0, flag::ZERO);
        self.page.frame()
    }

    /// The bytes to be filled. They are whatever the frame held last.
    pub fn bytes_mut(&mut self) -> &mut Bytes {
        // SAFETY: the page is busy for this request alone, so its frame is; any bytes are valid.
        unsafe { &mut *self.core().service.page_address(self.frame()).cast() }
    }

    /// Says what came of it. May be called in an interrupt handler.
    pub fn complete(mut self, result: Result<PagedIn, PagerError>) {
        self.finish(result);
    }

    fn core(&self) -> &Core<M> {
        // SAFETY: an object waits for its busy pages before it goes.
        unsafe { self.core.as_ref() }
    }

    fn finish(&mut self, result: Result<PagedIn, PagerError>) {
        self.is_complete = true;
        let core = self.core();
        let mut pages = core.lock.lock(core.machine());
        // The page stays busy: it is of the guard that the reading thread makes.
        let set = match result {
            Ok(PagedIn::Filled) => flag::VALID,
            Ok(PagedIn::Absent) => 0,
            Err(PagerError) => flag::FAILED,
        };
        self.page.change(set, flag::PAGING);
        core.service.events().count(Event::VmPagedIn);
        core.call(&mut pages, self.index());
    }
}

impl<M: Machine> Drop for PageIn<M> {
    fn drop(&mut self) {
        if !self.is_complete {
            self.finish(Err(PagerError));
        }
    }
}

/// Pages to be written, side by side in their object.
#[must_use = "a request that is dropped has failed: complete it"]
pub struct PageOut<M: Machine> {
    core: NonNull<Core<M>>,
    /// The first `count` are pages.
    pages: [Option<&'static Descriptor>; MAX_CLUSTER],
    count: usize,
    is_complete: bool,
}

// SAFETY: as for `PageIn`.
unsafe impl<M: Machine> Send for PageOut<M> {}

impl<M: Machine> PageOut<M> {
    /// The caller has made the pages busy for a pager, under the object's lock.
    pub(super) fn new(core: &Core<M>, pages: [Option<&'static Descriptor>; MAX_CLUSTER], count: usize) -> Self {
        Self { core: NonNull::from(core), pages, count, is_complete: false }
    }

    /// The pages' indices, each one more than the one before.
    pub fn indices(&self) -> impl Iterator<Item = u64> {
        self.descriptors().map(|page| page.index.load(Relaxed))
    }

    /// How many pages.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The pages' frames, in the order of their indices: they stay.
    pub fn frames(&self) -> impl Iterator<Item = Pfn> {
        self.descriptors().map(Descriptor::frame)
    }

    /// The pages' bytes, in the order of their indices.
    pub fn bytes(&self) -> impl Iterator<Item = &Bytes> {
        let service = self.core().service;
        // SAFETY: the pages are busy for this request alone, so nobody writes to their frames; any bytes are valid.
        self.frames().map(|frame| unsafe { &*service.page_address(frame).cast::<Bytes>() })
    }

    pub(super) fn pager(&self) -> &'static dyn Pager<M> {
        self.core().pager.expect("only pages of an object with a pager are written")
    }

    /// Says what came of it, for all pages together. May be called in an interrupt handler.
    pub fn complete(mut self, result: Result<(), PagerError>) {
        self.finish(result);
    }

    fn core(&self) -> &Core<M> {
        // SAFETY: as in `PageIn`.
        unsafe { self.core.as_ref() }
    }

    fn descriptors(&self) -> impl Iterator<Item = &'static Descriptor> {
        self.pages[..self.count].iter().copied().flatten()
    }

    fn finish(&mut self, result: Result<(), PagerError>) {
        self.is_complete = true;
        let core = self.core();
        // Of the service, for the object may go once its pages are not busy.
        let service: &'static Service<M> = core.service;
        let node = service.node_of_frame(self.frames().next().expect("there are pages to write"));
        {
            let mut pages = core.lock.lock(core.machine());
            let mut queues = LockedQueues::none();
            for page in self.descriptors() {
                let (node, queues) = queues.of(core, page);
                node.end_laundering(core.machine());
                page.change(0, flag::BUSY | flag::GUARDED);
                if result.is_ok() {
                    page.change(0, flag::DIRTY);
                }
                let queue = match result {
                    // It was wired meanwhile, and stays on no queue.
                    _ if page.is_wired() => Queue::None,
                    // What could not be written is not to be tried again at once.
                    Err(PagerError) => Queue::Active,
                    Ok(()) if page.has(flag::REFERENCED) => Queue::Active,
                    Ok(()) => Queue::Cache,
                };
                node.requeue(queues, page, queue);
            }
            drop(queues);
            for page in self.descriptors() {
                core.call(&mut pages, page.index.load(Relaxed));
            }
        }
        let event = if result.is_ok() { Event::VmLaundered } else { Event::VmLaunderFailed };
        service.events().add(event, self.count as u64);
        if service.is_short() {
            // Somebody waits for frames, not for what may become some.
            service.free_cached(node, self.count as u32);
        }
    }
}

impl<M: Machine> Drop for PageOut<M> {
    fn drop(&mut self) {
        if !self.is_complete {
            self.finish(Err(PagerError));
        }
    }
}
