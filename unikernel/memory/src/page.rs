//! The page layer: `alloc_pages` and `free_pages`, per-CPU page lists, zonelists, reference counts.
//!
//! Users: the slab layer, large kmalloc requests, and callers who want pages.
//!
//! # Theory
//!
//! A CPU's set keeps a stack of free blocks for each order up to 3, all from the highest zone of its local node and for
//! unmovable memory; other requests go to a zone. A block on a stack is `Listed`, one handed out is `Page`, and the
//! change between the two is a plain store by the CPU that owns the set. A block comes back to its stack on the fast path
//! where its state is what that stack hands out (which says at once that it is allocated, of that order and of the right
//! zone) and it has one reference, which it keeps on the stack. Blocks move between stack and zone in batches, one lock
//! acquisition a batch; those that lie side by side are taken from the buddy, and given to it, as one.
//!
//! Where blocks come from when the lists have none is [`allocate`](crate::allocate); what is done when there are none at
//! all, where the caller may sleep, is [`reclaim`](crate::reclaim). While anybody waits there, the lists keep nothing.
//!
//! Every block is *compound*: it has one reference count, its head's, and its order is known from any of its frames
//! ([`Service::compound_head`]). So `__GFP_COMP`, with which Linux asks for that, changes nothing.

use core::fmt;
use core::ptr;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use quarry_topology::NodeId;

use crate::frame::{FRAME_BYTES, FRAME_SHIFT, Frames, Kind, Order, Pfn, State, for_each_block};
use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::service::Service;
use crate::set::{LIST_BLOCKS, LISTED_ORDERS, PageList, Set, bump};
use crate::zone::Zone;

/// Why a block could not be freed. The frame is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageError {
    /// The frame heads no block that the page layer handed out: it is free already, part of a slab, or inside a block.
    NotAllocated {
        /// Which frame.
        frame: Pfn,
        /// What it is.
        kind: Kind,
    },
    /// The block has another order.
    WrongOrder {
        /// Which frame.
        frame: Pfn,
        /// The order it was allocated with.
        allocated: Order,
        /// The order it was freed with.
        freed: Order,
    },
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllocated { frame, kind } => {
                write!(
                    f,
                    "free_pages of {frame}, which heads no allocated block (it is {kind:?}): a double free, or not from alloc_pages"
                )
            }
            Self::WrongOrder { frame, allocated, freed } => {
                write!(f, "free_pages of {frame} with {freed}, but it was allocated with {allocated}")
            }
        }
    }
}

impl core::error::Error for PageError {}

impl<M: Machine> Service<M> {
    /// Allocates 2^`order` contiguous, naturally aligned frames near the calling CPU; `None` when there are none.
    ///
    /// The block has one reference. Waits where the flags say so; may be called in an interrupt handler with flags that
    /// do not. Linux's `alloc_pages`.
    #[inline]
    #[track_caller]
    pub fn alloc_pages(&self, gfp: Gfp, order: Order) -> Option<Pfn> {
        // SAFETY: `Machine::set` is valid and this context's alone until it returns to its scheduler.
        let set = unsafe { &*self.machine().set() };
        match self.alloc_listed(set, gfp, order) {
            None => self.alloc_pages_slow(None, gfp, order),
            block => block,
        }
    }

    /// The block put on the CPU's list of that order last, where that is what these flags want.
    #[inline]
    fn alloc_listed(&self, set: &Set, gfp: Gfp, order: Order) -> Option<Pfn> {
        if order.index() >= LISTED_ORDERS || gfp.intersects(Gfp::OFF_THE_PAGE_LISTS) {
            return None;
        }
        let list = &set.pages[order.index()];
        let block = list.pop()?;
        Frames::of(self.machine()).set_state(block, list.state());
        Some(block)
    }

    /// Puts a block on the CPU's list of that order, if it is one that was handed out from such a list, its last
    /// reference is given up, and there is room; says whether it did. `block` may be any frame whose state can be
    /// read.
    #[inline]
    fn free_listed(&self, block: Pfn, order: Order) -> bool {
        // SAFETY: as in `alloc_pages`.
        let set = unsafe { &*self.machine().set() };
        let Some(list) = set.pages.get(order.index()) else { return false };
        let frames = Frames::of(self.machine());
        let state = frames.state(block);
        if u32::from(state.bits()) != list.handed_out.get()
            // Acquire: pairs with the Release of whoever gave up a reference before. The one left is the caller's own,
            // so nobody can add another.
            || frames.frame(block).word.load(Acquire) != 1
            || list.count.load(Relaxed) >= list.limit.load(Relaxed)
        {
            return false;
        }
        frames.set_state(block, state.with_kind(Kind::Listed));
        list.push(block);
        true
    }

    /// As [`Self::alloc_pages`], near (with [`Gfp::THISNODE`]: on) the given node, whatever the thread's policy. `None`
    /// also for a node that does not exist. Linux's `alloc_pages_node`.
    #[track_caller]
    pub fn alloc_pages_node(&self, node: NodeId, gfp: Gfp, order: Order) -> Option<Pfn> {
        // SAFETY: as in `alloc_pages`.
        let set = unsafe { &*self.machine().set() };
        let local = (node == set.zone.node() && set.attached).then_some(set);
        match local.and_then(|set| self.alloc_listed(set, gfp, order)) {
            None => self.alloc_pages_slow(Some(node), gfp, order),
            block => block,
        }
    }

    /// Gives up one reference to a block; the last frees it. Linux's `__free_pages`.
    ///
    /// May be called in an interrupt handler; never sleeps.
    ///
    /// # Panics
    ///
    /// When the frame heads no allocated block of that order: see [`Self::try_free_pages`].
    #[inline]
    pub fn __free_pages(&self, block: Pfn, order: Order) {
        if let Err(error) = self.try_free_pages(block, order) {
            page_fault(error);
        }
    }

    /// As [`Self::__free_pages`], telling what was wrong instead of panicking.
    ///
    /// # Errors
    ///
    /// [`PageError`] when the frame heads no allocated block of that order; nothing was freed.
    #[inline]
    pub fn try_free_pages(&self, block: Pfn, order: Order) -> Result<(), PageError> {
        if block.0 < self.machine().frame_limit() && self.free_listed(block, order) {
            return Ok(());
        }
        self.free_pages_slow(block, order)
    }

    /// Adds a reference to an allocated block. Linux's `get_page`.
    ///
    /// # Panics
    ///
    /// When the frame heads no allocated block.
    pub fn get_page(&self, block: Pfn) {
        self.expect_page(block);
        // Relaxed: the caller has a reference already, so the block cannot go away.
        Frames::of(self.machine()).frame(block).word.fetch_add(1, Relaxed);
    }

    /// Gives up a reference, whatever the block's order. Linux's `put_page`.
    ///
    /// # Panics
    ///
    /// When the frame heads no allocated block.
    pub fn put_page(&self, block: Pfn) {
        let state = self.expect_page(block);
        self.__free_pages(block, state.order());
    }

    /// How many references a block has; 0 when it heads no allocated block. Linux's `page_count`.
    pub fn page_count(&self, block: Pfn) -> u32 {
        let frames = Frames::of(self.machine());
        let allocated = self.manages(block) && frames.state(block).kind().is_page();
        if allocated { frames.frame(block).word.load(Relaxed) } else { 0 }
    }

    /// The head of the allocated block that a frame lies in, slabs included; `None` where the frame is of no such block.
    /// The caller has a reference to the block, or an object of the slab. Linux's `compound_head`.
    pub fn compound_head(&self, frame: Pfn) -> Option<Pfn> {
        if !self.manages(frame) {
            return None;
        }
        let frames = Frames::of(self.machine());
        let mut heads = Order::all().map(|order| (frame.block(order), order));
        heads.find_map(|(head, order)| {
            let state = if self.manages(head) { frames.state(head) } else { return None };
            let allocated = state.kind().is_page() || state.kind().is_slab();
            // Blocks are aligned to their size, so the one that holds the frame starts here if it is of this order.
            (allocated && state.order() == order).then_some(head)
        })
    }

    /// Order of the allocated block or slab that a frame heads; order 0 for any other frame. Linux's `compound_order`.
    pub fn compound_order(&self, head: Pfn) -> Order {
        let is_head = self.compound_head(head) == Some(head);
        if is_head { Frames::of(self.machine()).state(head).order() } else { Order::ZERO }
    }

    /// The head of the block or slab that an address lies in; `None` where there is none. Linux's `virt_to_head_page`.
    pub fn virt_to_head_page(&self, address: *const u8) -> Option<Pfn> {
        self.compound_head(self.managed_frame_at(address)?)
    }

    /// [`Self::alloc_pages`], as an address; null when there is none. Linux's `__get_free_pages`.
    #[inline]
    #[track_caller]
    pub fn get_free_pages(&self, gfp: Gfp, order: Order) -> *mut u8 {
        // SAFETY: as in `alloc_pages`.
        let set = unsafe { &*self.machine().set() };
        match self.alloc_listed(set, gfp, order) {
            Some(block) => self.page_address(block),
            None => self.get_free_pages_slow(gfp, order),
        }
    }

    #[cold]
    #[inline(never)]
    #[track_caller]
    fn get_free_pages_slow(&self, gfp: Gfp, order: Order) -> *mut u8 {
        self.alloc_pages_slow(None, gfp, order).map_or(core::ptr::null_mut(), |block| self.page_address(block))
    }

    /// Frees what [`Self::get_free_pages`] gave; null is ignored. Linux's `free_pages`.
    ///
    /// # Panics
    ///
    /// As [`Self::__free_pages`], and when the address is not that of a frame.
    #[inline]
    pub fn free_pages(&self, address: *mut u8, order: Order) {
        // Rotated, so that what is no multiple of a page is beyond all frames.
        let frame = address.addr().wrapping_sub(self.machine().direct_map()).rotate_right(FRAME_SHIFT);
        let is_frame = frame < self.machine().readable_states();
        if !is_frame || !self.free_listed(Pfn(frame as u32), order) {
            self.free_pages_at(address, order);
        }
    }

    #[cold]
    #[inline(never)]
    fn free_pages_at(&self, address: *mut u8, order: Order) {
        if address.is_null() {
            return;
        }
        let Some(block) = self.managed_frame_at(address).filter(|_| address.addr().is_multiple_of(FRAME_BYTES)) else {
            panic!("free_pages of {address:p}, which is not the address of a frame the service manages");
        };
        if let Err(error) = self.free_pages_slow(block, order) {
            page_fault(error);
        }
    }

    /// Allocates the frames that `bytes` need and no more, contiguous; free each with order 0, or all with
    /// [`Self::free_pages_exact`]. Linux's `alloc_pages_exact`.
    #[track_caller]
    pub fn alloc_pages_exact_node(&self, node: NodeId, bytes: usize, gfp: Gfp) -> Option<Pfn> {
        let order = Order::for_bytes(bytes)?;
        let block = self.alloc_pages_node(node, gfp, order)?;
        let frames = Frames::of(self.machine());
        let kept = block.offset(bytes.div_ceil(FRAME_BYTES).max(1) as u32);
        let end = block.offset(order.frames());
        let zone = frames.state(block).zone();
        for frame in block.0..kept.0 {
            frames.frame(Pfn(frame)).word.store(1, Relaxed);
            frames.set_state(Pfn(frame), State::new(Kind::Page, Order::ZERO, zone));
        }
        let zone = self.nodes().zone(zone).expect("an allocated frame is of a zone that exists");
        self.claim_frames(end.0 - kept.0);
        for_each_block(kept, end, |tail, order| zone.free(self.machine(), tail, order));
        self.frames_freed();
        Some(block)
    }

    /// Frees what [`Self::alloc_pages_exact_node`] gave for as many bytes.
    pub fn free_pages_exact(&self, first: Pfn, bytes: usize) {
        for frame in 0..bytes.div_ceil(FRAME_BYTES).max(1) as u32 {
            self.__free_pages(first.offset(frame), Order::ZERO);
        }
    }

    /// Address of a frame in the direct map. Linux's `page_address`.
    #[inline]
    pub fn page_address(&self, frame: Pfn) -> *mut u8 {
        core::ptr::with_exposed_provenance_mut(self.machine().direct_map() + (frame.index() << FRAME_SHIFT))
    }

    /// Frame an address of the direct map lies in; `None` when the service does not manage it. Linux's `virt_to_page`.
    pub fn virt_to_page(&self, address: *const u8) -> Option<Pfn> {
        let frame = self.frame_at(address)?;
        (self.manages(frame) || self.unfilled_run_with(frame).is_some()).then_some(frame)
    }

    /// The frame at an address, if the service has looked at it: not one inside of a run that was never filled.
    #[inline]
    pub(crate) fn managed_frame_at(&self, address: *const u8) -> Option<Pfn> {
        let physical = address.addr().checked_sub(self.machine().direct_map())?;
        let frame = Pfn(u32::try_from(physical >> FRAME_SHIFT).ok()?);
        self.manages(frame).then_some(frame)
    }

    #[inline]
    fn frame_at(&self, address: *const u8) -> Option<Pfn> {
        let physical = address.addr().checked_sub(self.machine().direct_map())?;
        u32::try_from(physical >> FRAME_SHIFT).ok().map(Pfn)
    }

    /// Node a frame belongs to; `None` when the service does not manage it. Linux's `page_to_nid`.
    pub fn page_to_node(&self, frame: Pfn) -> Option<NodeId> {
        let known = if self.manages(frame) { frame } else { self.unfilled_run_with(frame)? };
        Some(Frames::of(self.machine()).state(known).zone().node())
    }

    /// Notes that frames just handed out are not a caller's but became part of the service: a slab, a stack, a large
    /// allocation.
    pub(crate) fn claim_frames(&self, frames: u32) {
        // SAFETY: as in `alloc_pages`.
        self.note_frames(unsafe { &*self.machine().set() }, (frames as usize).wrapping_neg());
    }

    /// Notes that frames of the service are about to be given back.
    #[inline(never)]
    pub(crate) fn return_frames(&self, frames: u32) {
        // SAFETY: as in `alloc_pages`.
        self.note_frames(unsafe { &*self.machine().set() }, frames as usize);
    }

    #[inline]
    pub(crate) fn hand_out(&self, block: Pfn, state: State) -> Pfn {
        let frames = Frames::of(self.machine());
        frames.set_state(block, state);
        frames.frame(block).word.store(1, Relaxed);
        block
    }

    /// Frees a block that does not go onto a list as it is, or did not look allocated because this CPU saw an old table
    /// page.
    #[cold]
    #[inline(never)]
    fn free_pages_slow(&self, block: Pfn, order: Order) -> Result<(), PageError> {
        let managed = self.manages(block);
        let frames = Frames::of(self.machine());
        let state = frames.state(block);
        if !managed || !state.kind().is_page() {
            return Err(PageError::NotAllocated { frame: block, kind: state.kind() });
        }
        if state.order() != order {
            return Err(PageError::WrongOrder { frame: block, allocated: state.order(), freed: order });
        }
        if give_up_reference(frames, block) {
            self.free_block(block, state);
        }
        Ok(())
    }

    fn free_block(&self, block: Pfn, state: State) {
        // SAFETY: as in `alloc_pages`.
        let set = unsafe { &*self.machine().set() };
        let zone = self.nodes().zone(state.zone()).expect("an allocated frame is of a zone that exists");
        let list = set.pages.get(state.order().index());
        if let Some(list) = list.filter(|list| u32::from(state.bits()) == list.handed_out.get())
            && self.make_room_on_list(set, list, zone, state.order())
        {
            let frames = Frames::of(self.machine());
            frames.set_state(block, state.with_kind(Kind::Listed));
            frames.frame(block).word.store(1, Relaxed);
            list.push(block);
            return;
        }
        self.note_frames(set, (state.order().frames() as usize).wrapping_neg());
        Frames::of(self.machine()).set_state(block, state.with_kind(Kind::Inner));
        zone.free(self.machine(), block, state.order());
        self.frames_freed();
    }

    /// Makes room on a list: for half of it, or all when somebody set its limit to 0. `false` while nothing is to be
    /// listed.
    fn make_room_on_list(&self, set: &Set, list: &PageList, zone: &Zone, order: Order) -> bool {
        let closed = list.limit.load(Relaxed) == 0;
        let capacity = self.waiters().attention().settle(&list.limit, self.capacities().list(order));
        if closed || list.count.load(Relaxed) >= capacity {
            let drained = if closed || capacity == 0 { LIST_BLOCKS as u32 } else { list_batch(capacity) };
            self.drain_list(set, list, zone, order, drained);
        }
        capacity > 0
    }

    /// Gives the blocks put on a list first back to the zone.
    fn drain_list(&self, set: &Set, list: &PageList, zone: &Zone, order: Order, blocks: u32) {
        let count = list.count.load(Relaxed);
        let wanted = blocks.min(count) as usize;
        if wanted == 0 {
            return;
        }
        bump(&set.counters.page_drains);
        // Half of it will do, where that keeps blocks together that may come back together.
        let enough = if blocks < count { wanted.div_ceil(2) } else { wanted };
        let mut drained = wanted;
        let inner = State::new(Kind::Inner, Order::ZERO, zone.id());
        zone.locked(self.machine(), |frames, areas| {
            let mut give = |start, end| for_each_block(start, end, |block, order| areas.give(frames, block, order));
            // What lies side by side, upwards or downwards, is given as one.
            let (mut start, mut end) = (Pfn(0), Pfn(0));
            for (index, slot) in list.blocks[..wanted].iter().enumerate() {
                let block = Pfn(slot.get());
                let behind = block.offset(order.frames());
                if block == end {
                    end = behind;
                } else if behind == start {
                    start = block;
                } else {
                    give(start, end);
                    (start, end) = (block, behind);
                    if index >= enough {
                        (drained, end) = (index, start);
                        break;
                    }
                }
                frames.set_state(block, inner);
            }
            give(start, end);
            // The zone's lock is held still, and a host forks with all locks taken: the child of a fork finds the blocks
            // on the list or in the zone, never in both.
            list.forget_oldest(drained);
        });
        self.note_frames(set, (drained << order.get()).wrapping_neg());
        self.frames_freed();
    }

    /// Empties this set's page lists.
    pub(crate) fn drain_page_lists(&self, set: &Set) {
        if let Some(zone) = self.nodes().zone(set.zone).filter(|_| set.attached) {
            for order in Order::all().take(LISTED_ORDERS) {
                self.drain_list(set, &set.pages[order.index()], zone, order, LIST_BLOCKS as u32);
            }
        }
    }

    fn expect_page(&self, block: Pfn) -> State {
        let kind = |kind| PageError::NotAllocated { frame: block, kind };
        if !self.manages(block) {
            page_fault(kind(Kind::Absent));
        }
        let state = Frames::of(self.machine()).state(block);
        if !state.kind().is_page() {
            page_fault(kind(state.kind()));
        }
        state
    }
}

impl PageList {
    /// The state of a block from this list while it is handed out.
    #[inline]
    fn state(&self) -> State {
        State::from_bits(self.handed_out.get() as u16)
    }

    /// Puts a block on top; there must be room.
    #[inline]
    pub(crate) fn push(&self, block: Pfn) {
        let count = self.count.load(Relaxed);
        debug_assert!((count as usize) < LIST_BLOCKS, "whoever pushes has made room");
        // SAFETY: `count` is below the limit, which is at most the list's length.
        unsafe { self.blocks.get_unchecked(count as usize) }.set(block.0);
        self.count.store(count + 1, Relaxed);
    }

    #[inline]
    pub(crate) fn pop(&self) -> Option<Pfn> {
        let count = self.count.load(Relaxed);
        if count == 0 {
            return None;
        }
        self.count.store(count - 1, Relaxed);
        // SAFETY: `count` is at most the list's length.
        Some(Pfn(unsafe { self.blocks.get_unchecked(count as usize - 1) }.get()))
    }

    /// Takes the block put on first, the one most likely to have left the CPU's caches.
    pub(crate) fn pop_oldest(&self) -> Option<Pfn> {
        let oldest = (self.count.load(Relaxed) > 0).then(|| Pfn(self.blocks[0].get()))?;
        self.forget_oldest(1);
        Some(oldest)
    }

    /// Closes the list up after the blocks put on it first were taken.
    fn forget_oldest(&self, taken: usize) {
        let left = &self.blocks[..self.count.load(Relaxed) as usize][taken..];
        // SAFETY: both are in the array, which is this CPU's; that they overlap is allowed.
        unsafe { ptr::copy(left.as_ptr(), self.blocks.as_ptr().cast_mut(), left.len()) };
        self.count.store(left.len() as u32, Relaxed);
    }
}

/// Blocks that go between a list of that capacity and its zone at a time: about half of it, and as many as a block of the
/// buddy has.
pub(crate) const fn list_batch(capacity: u32) -> u32 {
    (capacity / 2).next_power_of_two()
}

/// Gives up a reference of the caller's to an allocated block; whether it was the last.
#[inline]
fn give_up_reference(frames: Frames, block: Pfn) -> bool {
    let references = &frames.frame(block).word;
    // One reference is the caller's own, so nobody can add another: no locked instruction then. The Acquire pairs with
    // the Release of whoever gave up a reference before.
    references.load(Acquire) == 1 || references.fetch_sub(1, Release) == 1
}

#[cold]
#[inline(never)]
fn page_fault(error: PageError) -> ! {
    panic!("{error}");
}
