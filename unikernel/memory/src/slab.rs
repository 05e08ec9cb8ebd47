//! The slow paths of object caches: between magazines, depots and the page layer.
//!
//! Used by kmalloc. The fast paths are in [`kmalloc`](crate::kmalloc); this is where they go when a magazine is empty,
//! full, or the wrong one.
//!
//! # Theory
//!
//! An object is, at any time, in exactly one of these states:
//!
//! | state      | where it is found                              | first word                                   | guarded by        |
//! |------------|------------------------------------------------|----------------------------------------------|-------------------|
//! | in use     | with its owner                                 | the owner's; 0 when handed out               | the owner         |
//! | cached     | in a magazine or remote magazine of a set      | secret in the upper 48 bits, lower 16 stale  | that set's CPU    |
//! | in a depot | on the depot's stack                           | the same                                     | the depot's lock  |
//! | in a slab  | on the free list that starts in the slab's word| secret, lower 16 the next object of the list | the depot's lock  |
//!
//! What a depot does under its lock is in [`depot`](crate::depot).
//!
//! A free finds the secret in an object's first word when the object is free already, or, once in 2^48, by coincidence.
//! Only then is it searched for (depot, slab, all sets): that is exact as far as it finds, for an object seen in a free
//! state during the call was not the caller's to free. What other CPUs move meanwhile is looked for twice.
//!
//! Lock order: depot, growth, zone. No depot lock is held while the page layer is asked for frames.

use core::fmt;
use core::ptr;
use core::sync::atomic::Ordering::Relaxed;

use quarry_topology::NodeId;

use crate::class::{CACHES, GEOMETRY, LARGE, MAGAZINES, tag, tag_cache, tag_node};
use crate::depot::{Depot, LINK_MASK, SlabView, magazine_capacity};
use crate::frame::{FRAME_BYTES, FRAME_SHIFT, FrameList, Frames, Kind, Order, Pfn, State};
use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::service::Service;
use crate::set::{Magazine, Remote, Set, Stack, bump};

/// Why a pointer could not be freed. The memory it points to is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeError {
    /// It points to nothing kmalloc handed out.
    NotAnObject(usize),
    /// It points into an object, not to its start.
    Misaligned(usize),
    /// The object is free already.
    DoubleFree(usize),
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject(address) => write!(
                f,
                "kfree of {address:#x}, which is no object: kmalloc never returned it, or its memory has been given back"
            ),
            Self::Misaligned(address) => {
                write!(f, "kfree of {address:#x}, which lies inside an object: free the pointer that kmalloc returned")
            }
            Self::DoubleFree(address) => write!(f, "kfree of {address:#x}, which is free already: a double free"),
        }
    }
}

impl core::error::Error for FreeError {}

impl<M: Machine> Service<M> {
    fn slab_view(&self, cache: usize) -> SlabView {
        SlabView {
            frames: Frames::of(self.machine()),
            geometry: &GEOMETRY[cache],
            direct_map: self.machine().direct_map(),
            secret: self.secret(),
        }
    }

    /// One object of the cache, near the calling CPU or, with `node`, near that node: null when there is none. Where
    /// the fast path goes when its magazine is empty, and where caches without magazines and other nodes' begin.
    #[cold]
    #[inline(never)]
    pub(crate) fn object_slow(&self, cache: usize, node: Option<NodeId>, gfp: Gfp) -> *mut u8 {
        // SAFETY: `attached_set` returns a set as `Machine::set` does: valid and this context's alone.
        let set = unsafe { &*self.attached_set() };
        let wanted = node.unwrap_or(set.node);
        let home = self.nodes().local(wanted);
        if wanted.index() >= self.nodes().count()
            || gfp.contains(Gfp::THISNODE) && node.is_some_and(|node| node != home)
        {
            return ptr::null_mut();
        }
        let Some(state) = self.nodes().get(home) else { return ptr::null_mut() };
        let candidates = if gfp.contains(Gfp::THISNODE) { 1 } else { state.fallback_order().len() };
        for &candidate in &state.fallback_order()[..candidates] {
            let object = self.object_on(set, cache, candidate, gfp);
            if !object.is_null() {
                // SAFETY: the object left the free state above and is this caller's alone; it is at least eight bytes.
                unsafe { object.cast::<u64>().write(0) };
                return object;
            }
        }
        self.report_object_failure(wanted, gfp, cache);
        ptr::null_mut()
    }

    /// One object of that cache on exactly that node.
    fn object_on(&self, set: &Set, cache: usize, node: NodeId, gfp: Gfp) -> *mut u8 {
        let tag = tag(node.0, cache);
        if !set.attached || cache >= MAGAZINES {
            let mut found = ptr::null_mut();
            let taken = self.take_objects(tag, 1, gfp, |object| found = object);
            self.note_bytes(set, taken as usize * GEOMETRY[cache].size as usize);
            return found;
        }
        if u32::from(tag) ^ set.node_tag < MAGAZINES as u32 {
            return self.refill(set, &set.magazines[cache], cache, tag, gfp).unwrap_or(ptr::null_mut());
        }
        let remote = self.remote_magazine(set, tag);
        if remote.count.load(Relaxed) == 0 {
            bump(&set.counters.remote_refills);
            let taken = self.take_objects(tag, remote_capacity(remote, cache) / 2, gfp, |object| remote.push(object));
            self.note_bytes(set, taken as usize * GEOMETRY[cache].size as usize);
        }
        remote.pop().unwrap_or(ptr::null_mut())
    }

    fn refill(&self, set: &Set, magazine: &Magazine, cache: usize, tag: u16, gfp: Gfp) -> Option<*mut u8> {
        if magazine.count.load(Relaxed) == 0 {
            bump(&set.counters.refills);
            // Whoever set the limit to 0 wanted the magazine emptied, and it is.
            magazine.limit.store(magazine.capacity, Relaxed);
            let taken = self.take_objects(tag, magazine.capacity / 2, gfp, |object| magazine.push(object));
            self.note_bytes(set, taken as usize * GEOMETRY[cache].size as usize);
        }
        magazine.pop()
    }

    /// Takes objects of a tag from its depot, with new slabs as needed; returns how many there were.
    fn take_objects(&self, tag: u16, wanted: u32, gfp: Gfp, mut take: impl FnMut(*mut u8)) -> u32 {
        let (cache, node) = (tag_cache(tag), NodeId(tag_node(tag)));
        let Some(state) = self.nodes().get(node) else { return 0 };
        let depot = &state.depots[cache];
        let view = self.slab_view(cache);
        loop {
            let taken = depot.lock(self.machine()).take(view, wanted, &mut take);
            if taken > 0 {
                return taken;
            }
            // Another CPU may be quicker to take the new slab's objects: then a newer slab.
            let Some(slab) = self.new_slab(tag, gfp) else { return 0 };
            depot.lock(self.machine()).add_slab(view, slab);
        }
    }

    fn new_slab(&self, tag: u16, gfp: Gfp) -> Option<Pfn> {
        let view = self.slab_view(tag_cache(tag));
        let order = view.geometry.order;
        let zone = gfp & (Gfp::DMA | Gfp::DMA32 | Gfp::HIGH);
        let slab = self.alloc_pages_node(NodeId(tag_node(tag)), zone | Gfp::THISNODE | Gfp::NOWARN, order)?;
        view.format(slab);
        let zone = view.frames.state(slab).zone();
        for frame in (0..order.frames()).map(|page| slab.offset(page)) {
            view.frames.set_tag(frame, tag);
        }
        view.frames.set_state(slab, State::new(Kind::Slab, order, zone));
        self.claim_frames(order.frames());
        Some(slab)
    }

    /// Where the fast path of `kfree` goes: no object, not local, no room, or suspect.
    ///
    /// # Errors
    ///
    /// [`FreeError`] for what is no object; nothing was freed.
    #[cold]
    #[inline(never)]
    pub(crate) fn free_slow(&self, object: *mut u8) -> Result<(), FreeError> {
        if object.addr() <= crate::kmalloc::ZERO_SIZE_PTR.addr() {
            return Ok(());
        }
        // SAFETY: as in `object_slow`.
        let set = unsafe { &*self.attached_set() };
        let tag = self.current_tag(object.addr());
        let cache = tag_cache(tag);
        if tag == LARGE {
            return self.free_large(object);
        }
        let known = cache != 0 && cache < CACHES && GEOMETRY[cache].size != 0;
        if !known {
            return Err(FreeError::NotAnObject(object.addr()));
        }
        let geometry = &GEOMETRY[cache];
        if !geometry.is_object(object.addr()) {
            return Err(FreeError::Misaligned(object.addr()));
        }
        // SAFETY: the address is that of an object of a slab, which is readable as long as its tag says so.
        let word = unsafe { object.cast::<u64>().read() };
        if word ^ self.secret() <= LINK_MASK && self.is_free(tag, object) {
            return Err(FreeError::DoubleFree(object.addr()));
        }
        // SAFETY: the object is in use and its owner gives it up with this call.
        unsafe { object.cast::<u64>().write(self.secret()) };
        if !set.attached || cache >= MAGAZINES {
            self.note_bytes(set, (geometry.size as usize).wrapping_neg());
            self.give_objects(tag, 1, |give| give(object));
        } else if u32::from(tag) ^ set.node_tag < MAGAZINES as u32 {
            let magazine = &set.magazines[cache];
            self.make_room(set, magazine, tag);
            magazine.push(object);
        } else {
            let remote = self.remote_magazine(set, tag);
            let capacity = remote_capacity(remote, cache);
            if remote.count.load(Relaxed) >= capacity {
                bump(&set.counters.remote_drains);
                self.drain(set, remote, tag, (capacity / 2 + 1).max(1));
            }
            remote.push(object);
        }
        Ok(())
    }

    /// The tag of an address, looking twice before it is believed to be 0.
    pub(crate) fn current_tag(&self, address: usize) -> u16 {
        let tag = self.machine().tag(address) as u16;
        if tag != 0 {
            return tag;
        }
        let physical = address.wrapping_sub(self.machine().direct_map());
        if physical >> FRAME_SHIFT >= self.machine().frame_limit() as usize {
            return 0;
        }
        let entry = self.machine().tables().tags.wrapping_add(physical >> FRAME_SHIFT);
        self.machine().refresh(entry.addr());
        self.machine().tag(address) as u16
    }

    fn free_large(&self, object: *mut u8) -> Result<(), FreeError> {
        if !object.addr().is_multiple_of(FRAME_BYTES) {
            return Err(FreeError::Misaligned(object.addr()));
        }
        let block = self.virt_to_page(object).ok_or(FreeError::NotAnObject(object.addr()))?;
        let frames = Frames::of(self.machine());
        let order = frames.state(block).order();
        frames.set_tag(block, 0);
        self.large_frames().fetch_sub(u64::from(order.frames()), Relaxed);
        self.return_frames(order.frames());
        self.try_free_pages(block, order).map_err(|_| FreeError::DoubleFree(object.addr()))
    }

    /// Makes room in a local magazine: for half of it, or all when somebody set its limit to 0.
    fn make_room(&self, set: &Set, magazine: &Magazine, tag: u16) {
        let drained = if magazine.limit.load(Relaxed) == 0 { magazine.capacity } else { magazine.capacity / 2 };
        magazine.limit.store(magazine.capacity, Relaxed);
        if magazine.count.load(Relaxed) >= magazine.capacity || drained == magazine.capacity {
            bump(&set.counters.drains);
            self.drain(set, magazine, tag, drained);
        }
    }

    /// Gives the `count` coldest objects of a magazine back to their depot.
    fn drain(&self, set: &Set, magazine: &impl Stack, tag: u16, count: u32) {
        let count = count.min(magazine.count().load(Relaxed));
        if count == 0 {
            return;
        }
        self.note_bytes(set, (count as usize * GEOMETRY[tag_cache(tag)].size as usize).wrapping_neg());
        self.give_objects(tag, count, |give| magazine.take_oldest(count as usize, give));
    }

    /// Gives `count` free objects, produced by `each`, to their depot: its stack, then their slabs.
    fn give_objects(&self, tag: u16, count: u32, each: impl FnOnce(&mut dyn FnMut(*mut u8))) {
        let (cache, node) = (tag_cache(tag), NodeId(tag_node(tag)));
        let depot = &self.nodes().get(node).expect("an object's tag names a node with memory").depots[cache];
        let view = self.slab_view(cache);
        let mut surplus = FrameList::new();
        let mut stack_page =
            if count > 1 && !depot.counts(self.machine()).has_stack { self.stack_page(node) } else { None };
        {
            let mut depot = depot.lock(self.machine());
            if !depot.has_stack()
                && let Some(page) = stack_page.take()
            {
                depot.set_stack(self.page_address(page).cast());
                self.claim_frames(1);
            }
            each(&mut |object| depot.give(view, object, &mut surplus));
        }
        if let Some(page) = stack_page {
            self.__free_pages(page, Order::ZERO);
        }
        while let Some(slab) = surplus.pop(view.frames) {
            self.release_slab(view, slab);
        }
    }

    fn stack_page(&self, node: NodeId) -> Option<Pfn> {
        self.alloc_pages_node(node, Gfp::NOWAIT | Gfp::NOWARN | Gfp::THISNODE, Order::ZERO)
    }

    fn release_slab(&self, view: SlabView, slab: Pfn) {
        let order = view.geometry.order;
        for frame in (0..order.frames()).map(|page| slab.offset(page)) {
            view.frames.set_tag(frame, 0);
        }
        view.frames.frame(slab).word.store(1, Relaxed);
        view.frames.set_state(slab, view.frames.state(slab).with_kind(Kind::Page));
        self.return_frames(order.frames());
        self.__free_pages(slab, order);
    }

    /// The remote magazine for a tag, emptied of another tag's objects.
    fn remote_magazine<'a>(&self, set: &'a Set, tag: u16) -> &'a Remote {
        let remote = &set.remote[Set::remote_index(tag)];
        let current = remote.tag.load(Relaxed) as u16;
        if current != tag {
            if current != 0 {
                self.drain(set, remote, current, u32::MAX);
            }
            remote.tag.store(u32::from(tag), Relaxed);
        }
        remote
    }

    /// Whether a free object's place can be found: depot, slab, or any set. See the module head.
    fn is_free(&self, tag: u16, object: *mut u8) -> bool {
        let Some(state) = self.nodes().get(NodeId(tag_node(tag))) else { return false };
        let cache = tag_cache(tag);
        let view = self.slab_view(cache);
        let cached = |set: &Set| {
            let magazine = cache < MAGAZINES && set.magazines[cache].holds(object);
            magazine || set.remote.iter().any(|remote| remote.holds(object))
        };
        (0..2).any(|_| state.depots[cache].lock(self.machine()).holds(view, object) || self.sets().any(cached))
    }

    /// Gives every object and page block this CPU's active set holds back to the shared layers.
    pub(crate) fn drain_set(&self, set: &Set) {
        if !set.attached {
            return;
        }
        for (cache, magazine) in set.magazines.iter().enumerate() {
            self.drain(set, magazine, set.node_tag as u16 | cache as u16, u32::MAX);
        }
        for remote in &set.remote {
            self.drain(set, remote, remote.tag.load(Relaxed) as u16, u32::MAX);
            remote.tag.store(0, Relaxed);
        }
        self.drain_page_lists(set);
    }

    /// Gives the stacks and empty slabs of every depot back to the page layer. Linux's `kmem_cache_shrink`, for all
    /// caches.
    pub(crate) fn drain_depots(&self) {
        for (_, node) in self.nodes().with_memory() {
            for (cache, depot) in node.depots.iter().enumerate().filter(|(cache, _)| GEOMETRY[*cache].size > 0) {
                self.shrink_depot(depot, self.slab_view(cache));
            }
        }
    }

    fn shrink_depot(&self, depot: &Depot, view: SlabView) {
        let mut surplus = FrameList::new();
        let stack = depot.lock(self.machine()).shrink(view, &mut surplus);
        while let Some(slab) = surplus.pop(view.frames) {
            self.release_slab(view, slab);
        }
        if !stack.is_null() {
            self.return_frames(1);
            self.free_pages(stack.cast(), Order::ZERO);
        }
    }
}

fn remote_capacity(remote: &Remote, cache: usize) -> u32 {
    magazine_capacity(&GEOMETRY[cache], remote.slots().len())
}
