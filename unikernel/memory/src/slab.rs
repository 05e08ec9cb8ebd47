//! The slow paths of object caches: between magazines, depots and the page layer.
//!
//! Used by kmalloc and `kmem_cache`, whose fast paths come here when a magazine is empty, full, or the wrong one.
//!
//! # Theory
//!
//! An object is, at any time, in exactly one of these states:
//!
//! | state      | where it is found                              | link word                                    | guarded by        |
//! |------------|------------------------------------------------|----------------------------------------------|-------------------|
//! | in use     | with its owner                                 | the owner's; 0 when handed out               | the owner         |
//! | cached     | in a magazine or remote magazine of a set      | secret in the upper 48 bits, lower 16 stale  | that set's CPU    |
//! | in a depot | on the depot's stack                           | the same                                     | the depot's lock  |
//! | in a slab  | on the free list that starts in the slab's word| secret, lower 16 the next object of the list | the depot's lock  |
//!
//! The link word is an object's first, or, where a constructor owns the contents, the one behind them
//! ([`Geometry::link`](crate::class::Geometry::link)). What a depot does under its lock is in [`depot`](crate::depot).
//!
//! A free finds the secret in an object's link word when the object is free already, or, once in 2^48, by coincidence.
//! Only then is it searched for (depot, slab, all sets): that is exact as far as it finds, for an object seen in a free
//! state during the call was not the caller's to free. What other CPUs move meanwhile is looked for twice.
//!
//! Lock order: depot, growth, zone. No depot lock is held while the page layer is asked for frames.

use core::fmt;
use core::ptr;
use core::sync::atomic::Ordering::Relaxed;

use quarry_topology::NodeId;

use crate::class::{CACHE_BITS, LARGE, tag, tag_cache, tag_node};
use crate::depot::{Depot, LINK_MASK, SlabView, magazine_capacity};
use crate::frame::{FRAME_BYTES, FRAME_SHIFT, FrameList, Frames, Kind, Order, Pfn, State};
use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::registry::CacheView;
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
    fn slab_view(&self, cache: &CacheView) -> SlabView {
        SlabView {
            frames: Frames::of(self.machine()),
            geometry: cache.geometry,
            direct_map: self.machine().direct_map(),
            secret: self.secret(),
        }
    }

    /// One object of the cache, near the calling CPU or, with `node`, near that node: null when there is none. Where
    /// the fast path goes when its magazine is empty, and where caches without magazines and other nodes' begin.
    #[cold]
    #[inline(never)]
    pub(crate) fn object_slow(&self, cache: &CacheView, node: Option<NodeId>, gfp: Gfp) -> *mut u8 {
        let found = self.on_some_node(cache, node, gfp, |set, candidate| self.object_on(set, cache, candidate, gfp));
        let Some(object) = found else { return ptr::null_mut() };
        // SAFETY: the object left the free state just now and is this caller's alone; its link word is part of it.
        unsafe { self.slab_view(cache).link(object).write(0) };
        object
    }

    /// What `attempt` finds on the first node that it finds anything on: the wanted one (`node`, else the CPU's own),
    /// then, without [`Gfp::THISNODE`], the others, nearest first. A failure is reported.
    pub(crate) fn on_some_node<R>(
        &self,
        cache: &CacheView,
        node: Option<NodeId>,
        gfp: Gfp,
        mut attempt: impl FnMut(&Set, NodeId) -> Option<R>,
    ) -> Option<R> {
        // SAFETY: `attached_set` returns a set as `Machine::set` does: valid and this context's alone.
        let set = unsafe { &*self.attached_set() };
        let wanted = node.unwrap_or(set.node);
        let home = self.nodes().local(wanted);
        if wanted.index() >= self.nodes().count()
            || gfp.contains(Gfp::THISNODE) && node.is_some_and(|node| node != home)
        {
            return None;
        }
        let state = self.nodes().get(home)?;
        let candidates = if gfp.contains(Gfp::THISNODE) { 1 } else { state.fallback_order().len() };
        let found = state.fallback_order()[..candidates].iter().find_map(|&candidate| attempt(set, candidate));
        if found.is_none() {
            self.report_object_failure(wanted, gfp, cache);
        }
        found
    }

    /// One object of that cache on exactly that node.
    fn object_on(&self, set: &Set, cache: &CacheView, node: NodeId, gfp: Gfp) -> Option<*mut u8> {
        if !set.attached || !cache.has_magazines() {
            let mut found = None;
            let taken = self.take_objects(cache, node, 1, gfp, |object| found = Some(object));
            self.note_objects(set, cache, taken);
            return found;
        }
        let tag = tag(node.0, cache.id);
        if is_local(set, tag) {
            return self.refill(set, set.magazine_of(cache), cache, node, gfp);
        }
        let remote = self.remote_magazine(set, tag);
        if remote.count.load(Relaxed) == 0 {
            bump(&set.counters.remote_refills);
            let wanted = remote_capacity(remote, cache) / 2;
            let taken = self.take_objects(cache, node, wanted, gfp, |object| remote.push(object));
            self.note_objects(set, cache, taken);
        }
        remote.pop()
    }

    fn refill(&self, set: &Set, magazine: &Magazine, cache: &CacheView, node: NodeId, gfp: Gfp) -> Option<*mut u8> {
        if magazine.count.load(Relaxed) == 0 {
            bump(&set.counters.refills);
            // Whoever set the limit to 0 wanted the magazine emptied, and it is.
            magazine.limit.store(magazine.capacity, Relaxed);
            let taken = self.take_objects(cache, node, magazine.capacity / 2, gfp, |object| magazine.push(object));
            self.note_objects(set, cache, taken);
        }
        magazine.pop()
    }

    /// Takes objects from a node's depot, with new slabs as needed; returns how many there were.
    fn take_objects(
        &self,
        cache: &CacheView,
        node: NodeId,
        wanted: u32,
        gfp: Gfp,
        mut take: impl FnMut(*mut u8),
    ) -> u32 {
        let Some(depot) = self.depot(node, cache.id) else { return 0 };
        let view = self.slab_view(cache);
        loop {
            let taken = depot.lock(self.machine()).take(view, wanted, &mut take);
            if taken > 0 {
                return taken;
            }
            // Another CPU may be quicker to take the new slab's objects: then a newer slab.
            let Some(slab) = self.new_slab(cache, node, gfp) else { return 0 };
            depot.lock(self.machine()).add_slab(view, slab);
        }
    }

    fn new_slab(&self, cache: &CacheView, node: NodeId, gfp: Gfp) -> Option<Pfn> {
        let view = self.slab_view(cache);
        let order = view.geometry.order;
        // The cache says which memory its slabs are, the caller how hard to try; that, and the node, is all.
        let gfp = cache.gfp | gfp & Gfp::HIGH | Gfp::THISNODE | Gfp::NOWARN;
        let slab = self.alloc_pages_node(node, gfp, order)?;
        view.format(slab);
        let zone = view.frames.state(slab).zone();
        for frame in (0..order.frames()).map(|page| slab.offset(page)) {
            view.frames.set_tag(frame, tag(node.0, cache.id));
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
        if tag == LARGE {
            return self.free_large(object);
        }
        let Some(cache) = self.cache(tag_cache(tag)) else {
            return Err(FreeError::NotAnObject(object.addr()));
        };
        if !cache.geometry.is_object(object.addr()) {
            return Err(FreeError::Misaligned(object.addr()));
        }
        let link = self.slab_view(&cache).link(object);
        // SAFETY: the address is that of an object of a slab, which is readable as long as its tag says so.
        let word = unsafe { link.read() };
        if word ^ self.secret() <= LINK_MASK && self.is_free(&cache, tag, object) {
            return Err(FreeError::DoubleFree(object.addr()));
        }
        // SAFETY: the object is in use and its owner gives it up with this call.
        unsafe { link.write(self.secret()) };
        if !set.attached || !cache.has_magazines() {
            self.note_bytes(set, (cache.geometry.size as usize).wrapping_neg());
            self.give_objects(&cache, tag, 1, |give| give(object));
        } else if is_local(set, tag) {
            let magazine = set.magazine_of(&cache);
            self.make_room(set, magazine, &cache, tag);
            magazine.push(object);
        } else {
            let remote = self.remote_magazine(set, tag);
            let capacity = remote_capacity(remote, &cache);
            if remote.count.load(Relaxed) >= capacity {
                bump(&set.counters.remote_drains);
                self.drain(set, remote, &cache, tag, (capacity / 2 + 1).max(1));
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
    fn make_room(&self, set: &Set, magazine: &Magazine, cache: &CacheView, tag: u16) {
        let drained = if magazine.limit.load(Relaxed) == 0 { magazine.capacity } else { magazine.capacity / 2 };
        magazine.limit.store(magazine.capacity, Relaxed);
        if magazine.count.load(Relaxed) >= magazine.capacity || drained == magazine.capacity {
            bump(&set.counters.drains);
            self.drain(set, magazine, cache, tag, drained);
        }
    }

    /// Gives the `count` coldest objects of a magazine back to their depot.
    fn drain(&self, set: &Set, magazine: &impl Stack, cache: &CacheView, tag: u16, count: u32) {
        let count = count.min(magazine.count().load(Relaxed));
        if count == 0 {
            return;
        }
        self.note_bytes(set, (count as usize * cache.geometry.size as usize).wrapping_neg());
        self.give_objects(cache, tag, count, |give| magazine.take_oldest(count as usize, give));
    }

    /// Empties a magazine of objects of that tag, if any.
    fn drain_tag(&self, set: &Set, magazine: &impl Stack, tag: u16) {
        if magazine.count().load(Relaxed) > 0 {
            let cache = self.cache(tag_cache(tag)).expect("a cache lives while a set has objects of it");
            self.drain(set, magazine, &cache, tag, u32::MAX);
        }
    }

    /// Notes that objects came into a set's care, for statistics.
    fn note_objects(&self, set: &Set, cache: &CacheView, count: u32) {
        self.note_bytes(set, count as usize * cache.geometry.size as usize);
    }

    /// Gives `count` free objects, produced by `each`, to their depot: its stack, then their slabs.
    fn give_objects(&self, cache: &CacheView, tag: u16, count: u32, each: impl FnOnce(&mut dyn FnMut(*mut u8))) {
        let node = NodeId(tag_node(tag));
        let depot = self.depot(node, cache.id).expect("an object's tag names a node with memory");
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
            self.drain_tag(set, remote, current);
            remote.tag.store(u32::from(tag), Relaxed);
        }
        remote
    }

    /// Whether a free object's place can be found: depot, slab, or any set. See the module head.
    fn is_free(&self, cache: &CacheView, tag: u16, object: *mut u8) -> bool {
        let Some(depot) = self.depot(NodeId(tag_node(tag)), cache.id) else { return false };
        let view = self.slab_view(cache);
        let cached = |set: &Set| {
            let magazine = cache.has_magazines() && set.magazine_of(cache).holds(object);
            magazine || set.remote.iter().any(|remote| remote.holds(object))
        };
        (0..2).any(|_| depot.lock(self.machine()).holds(view, object) || self.sets().any(cached))
    }

    /// Gives every object and page block this CPU's active set holds back to the shared layers.
    pub(crate) fn drain_set(&self, set: &Set) {
        if !set.attached {
            return;
        }
        for (cache, magazine) in set.magazines.iter().enumerate() {
            self.drain_tag(set, magazine, set.node_tag as u16 | cache as u16);
        }
        for remote in &set.remote {
            self.drain_tag(set, remote, remote.tag.load(Relaxed) as u16);
            remote.tag.store(0, Relaxed);
        }
        self.drain_page_lists(set);
    }

    /// Gives the stacks and empty slabs of every depot back to the page layer. Linux's `kmem_cache_shrink`, for all
    /// caches.
    pub(crate) fn drain_depots(&self) {
        for cache in self.caches() {
            for (node, _) in self.nodes().with_memory() {
                if let Some(depot) = self.depot(node, cache.id) {
                    self.shrink_depot(depot, self.slab_view(&cache));
                }
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

/// Whether objects of that tag are of the set's local node.
fn is_local(set: &Set, tag: u16) -> bool {
    (u32::from(tag) ^ set.node_tag) >> CACHE_BITS == 0
}

fn remote_capacity(remote: &Remote, cache: &CacheView) -> u32 {
    magazine_capacity(&cache.geometry, remote.slots().len())
}
