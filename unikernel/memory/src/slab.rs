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
//! | cached     | in a magazine or remote magazine of a set      | the mark in the upper 32 bits, lower 32 stale| that set's CPU    |
//! | stacked    | on the stack behind a magazine of a set        | the same                                     | the set's lock    |
//! | in a depot | on the depot's stack                           | the same                                     | the depot's lock  |
//! | in a slab  | on the free list that starts in the slab's word| secret, lower 16 the next object of the list | the depot's lock  |
//!
//! The link word is an object's first, or, where a constructor owns the contents, the one behind them
//! ([`Geometry::link`](crate::class::Geometry::link)). What a depot does under its lock is in [`depot`](crate::depot),
//! what sets' stacks are for in [`cpu_stacks`](crate::cpu_stacks).
//!
//! The *secret* has 48 bits, and the upper 32 of them are the *mark*. A free finds the mark in an object's link word
//! when the object is free already, or, once in 2^32, by coincidence. Only then is it searched for (depot, slab, all
//! sets and their stacks): that is exact as far as it finds, for an object seen in a free state during the call was not
//! the caller's to free. What other CPUs move meanwhile is looked for twice.
//!
//! The usual cases of these paths, a batch that the stack or depot has or has room for, are
//! [`exchange`](crate::exchange)'s.
//!
//! Lock order: stacks, depot, growth, zone. No depot lock is held while the page layer is asked for frames.

use core::cell::Cell;
use core::fmt;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use quarry_topology::NodeId;

use crate::allocate::{Floor, Request};
use crate::class::{GEOMETRY, Geometry, LARGE, MAGAZINES, tag, tag_cache, tag_node};
use crate::cpu_stacks::Stacks;
use crate::depot::SlabView;
use crate::frame::{FRAME_BYTES, FRAME_SHIFT, FrameList, Frames, Kind, Order, Pfn, State};
use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::registry::{CacheShape, CacheView};
use crate::service::Service;
use crate::set::{EMPTY, Magazine, Places, REMOTE_SLOTS, Remote, Set, Stack, bump};
use crate::task::Task;

/// Why a pointer could not be freed. The memory it points to is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeError {
    /// It points to nothing kmalloc handed out.
    NotAnObject(usize),
    /// It points into an object, not to its start.
    Misaligned(usize),
    /// The object is free already.
    DoubleFree(usize),
    /// It is an object, but not of the cache it was to be given back to.
    WrongCache(usize),
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
            Self::WrongCache(address) => {
                write!(
                    f,
                    "kmem_cache_free of {address:#x}, which is of another cache: free it with that, or with kfree"
                )
            }
        }
    }
}

impl core::error::Error for FreeError {}

/// Flags that say which memory slabs are: of those the cache's own count, not the caller's.
const OF_THE_CACHE: Gfp = Gfp::MOBILITY.union(Gfp::DMA).union(Gfp::DMA32).union(Gfp::HIGHMEM);

/// Where an attempt to find an object may get frames for a slab.
pub(crate) struct SlabFrames<'a> {
    request: &'a Request,
    /// How far it may empty zones; `None` where it may take nothing from them.
    floor: Option<Floor>,
    /// A block that was handed over.
    given: Cell<Option<(Pfn, State)>>,
    /// Whether an injected fault refuses frames to the request; `None` until it needs any.
    refused: &'a Cell<Option<bool>>,
}

impl<'a> SlabFrames<'a> {
    fn none(request: &'a Request, refused: &'a Cell<Option<bool>>) -> Self {
        Self { request, floor: None, given: Cell::new(None), refused }
    }
}

impl<M: Machine> Service<M> {
    pub(crate) fn slab_view(&self, cache: &CacheShape) -> SlabView {
        SlabView {
            frames: Frames::of(self.machine()),
            geometry: cache.geometry,
            direct_map: self.machine().direct_map(),
            secret: self.secret(),
        }
    }

    /// One object of the cache, near the calling CPU or, with `node`, near that node: null when there is none. Where
    /// the fast path goes when its magazine is empty and [nothing](Self::object_from_stack) is at hand, and
    /// where caches without magazines and other nodes' begin.
    #[cold]
    #[inline(never)]
    #[track_caller]
    pub(crate) fn object_slow(&self, cache: &CacheView, node: Option<NodeId>, gfp: Gfp) -> *mut u8 {
        let found =
            self.on_some_node(cache, node, gfp, |set, candidate, frames| self.object_on(set, cache, candidate, frames));
        let Some(object) = found else { return ptr::null_mut() };
        // SAFETY: the object left the free state just now and is this caller's alone.
        unsafe { self.slab_view(cache).unmark(object) };
        object
    }

    /// What `attempt` finds on the first node that it finds anything on: the wanted one (`node`, else as the thread's
    /// policy says, else the CPU's own), then the others that may serve, nearest first. On each the depot is asked,
    /// then frames for a slab; what no node has is made, and waited for, as the flags say. A failure is reported.
    #[track_caller]
    pub(crate) fn on_some_node<R>(
        &self,
        cache: &CacheView,
        node: Option<NodeId>,
        gfp: Gfp,
        mut attempt: impl FnMut(&Set, NodeId, &SlabFrames) -> Option<R>,
    ) -> Option<R> {
        // SAFETY: `attached_set` returns a set as `Machine::set` does: valid and this context's alone.
        let set = unsafe { &*self.attached_set() };
        let task = self.machine().task();
        let gfp = self.checked_flags(task.allowed(gfp), task).difference(OF_THE_CACHE) | cache.gfp;
        let placement = self.place(set, node, gfp, task)?;
        if self.object_fault_injected(gfp, cache) {
            return None;
        }
        let refused = Cell::new(None);
        let request = Request { gfp, order: cache.geometry.order, placement, cache: Some(cache.id) };
        let mut search = |frames: &SlabFrames| {
            let mut nodes = self.candidates(placement);
            nodes.find_map(|node| attempt(set, node, frames))
        };
        let found = self.search_at_once(&request, &refused, task, &mut search).or_else(|| {
            if refused.get() == Some(true) {
                return None;
            }
            self.persist(&request, |block| {
                let frames = SlabFrames { given: Cell::new(block), ..SlabFrames::none(&request, &refused) };
                let found = search(&frames);
                if let Some((block, state)) = frames.given.take() {
                    self.give_back(block, state);
                }
                found
            })
        });
        if found.is_none() && refused.get() != Some(true) {
            self.note_failure(gfp);
            self.report_object_failure(placement.wanted, gfp, cache);
        }
        found
    }

    /// With what the zones allow at once: above their low watermarks, or else as far down as the flags say. Past others
    /// who wait, with what the depots have.
    fn search_at_once<R>(
        &self,
        request: &Request,
        refused: &Cell<Option<bool>>,
        task: &Task,
        search: &mut impl FnMut(&SlabFrames) -> Option<R>,
    ) -> Option<R> {
        let with = |floor| SlabFrames { floor, ..SlabFrames::none(request, refused) };
        if self.must_queue(request.gfp, task) {
            return search(&with(None));
        }
        let found = search(&with(Some(Floor::Low)));
        if found.is_some() || refused.get() == Some(true) {
            return found;
        }
        self.note_shortage(request);
        search(&with(Some(Floor::of(request.gfp, task))))
    }

    /// One object of that cache on exactly that node.
    fn object_on(&self, set: &Set, cache: &CacheView, node: NodeId, frames: &SlabFrames) -> Option<*mut u8> {
        let tag = tag(node.0, cache.id);
        let local = is_local(set, tag);
        if local && let Some(magazine) = self.magazine(set, cache) {
            return self.refill(set, magazine, cache, node, frames);
        }
        if local || !set.attached || !cache.has_magazines() {
            let (mut found, count) = ([ptr::null_mut()], AtomicU32::new(0));
            let taken = self.take_objects(set, cache, node, 1, frames, Places::of(&mut found, &count));
            self.note_objects(set, cache, taken);
            return (taken > 0).then_some(found[0]);
        }
        let remote = self.remote_magazine(set, cache, tag);
        if remote.count.load(Relaxed) == 0 {
            bump(&set.counters.remote_refills);
            let capacity = remote.capacity.get();
            let wanted = if self.waiters().attention().is_raised() { 1 } else { capacity / 2 };
            let taken = self.take_objects(set, cache, node, wanted, frames, remote.places());
            self.note_objects(set, cache, taken);
        }
        remote.pop()
    }

    fn refill(
        &self,
        set: &Set,
        magazine: &Magazine,
        cache: &CacheView,
        node: NodeId,
        frames: &SlabFrames,
    ) -> Option<*mut u8> {
        if magazine.count.load(Relaxed) == 0 {
            bump(&set.counters.refills);
            // Whoever set the limit to 0 wanted the magazine emptied, and it is.
            let capacity = self.waiters().attention().settle(&magazine.limit, magazine.capacity.get().into());
            let wanted = (capacity / 2).max(1);
            let taken = self.take_objects(set, cache, node, wanted, frames, magazine.places());
            self.note_objects(set, cache, taken);
        }
        magazine.pop()
    }

    /// Takes objects of a node from the CPU's own stack, else from the node's depot, else from a new slab, and where
    /// there is no memory for that from another CPU's stack; returns how many there were.
    pub(crate) fn take_objects(
        &self,
        set: &Set,
        cache: &CacheView,
        node: NodeId,
        wanted: u32,
        frames: &SlabFrames,
        places: Places,
    ) -> u32 {
        let Some(depot) = self.depot(node, cache.id) else { return 0 };
        let view = self.slab_view(cache);
        let taken = if set.stacks_objects_of(node) {
            self.take_local(&mut set.lock_stacks(self.machine()), cache, wanted, places)
        } else {
            depot.lock(self.machine()).take(view, wanted, places)
        };
        if taken > 0 {
            return taken;
        }
        let Some(slab) = self.new_slab(set, cache, node, frames) else {
            return self.take_anybodys(cache, node, wanted, places);
        };
        // Under one lock, so that no other CPU is quicker to take the new slab's objects.
        let mut depot = depot.lock(self.machine());
        depot.add_slab(view, slab);
        depot.take(view, wanted, places)
    }

    fn new_slab(&self, set: &Set, cache: &CacheView, node: NodeId, frames: &SlabFrames) -> Option<Pfn> {
        let view = self.slab_view(cache);
        let order = view.geometry.order;
        let given = frames.given.take();
        let (slab, state) = if let Some(block) = given.filter(|(_, state)| state.zone().node() == node) {
            block
        } else {
            frames.given.set(given);
            let (floor, request) = (frames.floor?, frames.request.on(node));
            let decide = || self.page_fault_injected(request.gfp, order);
            let refused = frames.refused.get().unwrap_or_else(decide);
            frames.refused.set(Some(refused));
            if refused {
                return None;
            }
            let listed = self.alloc_from_lists(set, &request);
            if listed.is_some() {
                self.claim_frames(order.frames());
            }
            listed.or_else(|| self.walk_zonelist(&request, floor))?
        };
        if let Some(constructor) = cache.constructor {
            (0..view.geometry.objects).for_each(|index| constructor(view.object(slab, index)));
        }
        view.format(slab);
        for frame in (0..order.frames()).map(|page| slab.offset(page)) {
            view.frames.set_tag(frame, tag(node.0, cache.id));
        }
        view.frames.set_state(slab, State::new(Kind::Slab, order, state.zone()));
        Some(slab)
    }

    /// Where the fast paths of frees go: no object, not local, no room, or suspect. `of`: which cache the object must
    /// be of.
    ///
    /// # Errors
    ///
    /// [`FreeError`] for what is no object; nothing was freed.
    #[cold]
    #[inline(never)]
    pub(crate) fn free_slow(&self, object: *mut u8, of: Option<usize>) -> Result<(), FreeError> {
        if object.addr() <= crate::kmalloc::ZERO_SIZE_PTR.addr() {
            return Ok(());
        }
        // SAFETY: as in `object_slow`.
        let set = unsafe { &*self.attached_set() };
        let tag = self.current_tag(object.addr());
        if tag == LARGE && of.is_none() {
            return self.free_large(object);
        }
        let Some(cache) = self.cache(tag_cache(tag)) else {
            return Err(FreeError::NotAnObject(object.addr()));
        };
        if of.is_some_and(|of| of != cache.id) {
            return Err(FreeError::WrongCache(object.addr()));
        }
        self.take_back(&cache, tag, object, &[])?;
        let size = cache.geometry.size as usize;
        let is_local = is_local(set, tag);
        let magazine = if is_local { self.magazine(set, &cache) } else { None };
        if let Some(magazine) = magazine
            && self.make_room(set, magazine, &cache, tag)
        {
            magazine.push(object);
        } else if is_local || !set.attached || !cache.has_magazines() {
            self.note_bytes(set, size.wrapping_neg());
            self.give_to_depot(&cache, tag, &[object], &|| ());
        } else {
            let remote = self.remote_magazine(set, &cache, tag);
            let capacity = remote.capacity.get();
            let raised = self.waiters().attention().is_raised();
            if raised || remote.count.load(Relaxed) >= capacity {
                bump(&set.counters.remote_drains);
                self.drain(set, &cache, tag, remote, false);
            }
            if raised {
                self.note_bytes(set, size.wrapping_neg());
                self.give_to_depot(&cache, tag, &[object], &|| ());
            } else {
                remote.push(object);
            }
        }
        Ok(())
    }

    /// Checks that a pointer is an object in use, and makes it a free one that is the caller's still. `earlier`: others
    /// of which that is true.
    ///
    /// # Errors
    ///
    /// [`FreeError`] for what is no object in use.
    pub(crate) fn take_back(
        &self,
        cache: &CacheShape,
        tag: u16,
        object: *mut u8,
        earlier: &[*mut u8],
    ) -> Result<(), FreeError> {
        if !cache.geometry.is_object(object.addr()) {
            return Err(FreeError::Misaligned(object.addr()));
        }
        let view = self.slab_view(cache);
        // SAFETY: the address is that of an object of a slab, which is readable as long as its tag says so.
        if unsafe { view.is_marked(object) } && (earlier.contains(&object) || self.is_free(cache, tag, object)) {
            return Err(FreeError::DoubleFree(object.addr()));
        }
        // SAFETY: the object is in use and its owner gives it up with this call.
        unsafe { view.mark(object) };
        Ok(())
    }

    /// The magazine for local objects of a cache in this set, made or fitted out if need be; `None` where the cache has
    /// none.
    pub(crate) fn magazine<'a>(&self, set: &'a Set, cache: &CacheShape) -> Option<&'a Magazine> {
        if !set.attached || !cache.has_magazines() {
            return None;
        }
        let magazine = set.magazine_of(cache);
        if cache.id < MAGAZINES || magazine.generation.get() == cache.generation {
            return Some(magazine);
        }
        let magazine = if ptr::eq(magazine, &raw const EMPTY) { self.new_magazine(set, cache)? } else { magazine };
        self.fit_out(set, magazine, cache);
        Some(magazine)
    }

    /// Makes an empty magazine of a set one for that cache.
    pub(crate) fn fit_out(&self, set: &Set, magazine: &Magazine, cache: &CacheShape) {
        let capacity = self.capacities().magazine(&cache.geometry, set.used_slots);
        magazine.fit_out(&cache.geometry, set.local_tag(cache.id), cache.generation, capacity);
        self.waiters().attention().settle(&magazine.limit, capacity);
    }

    fn new_magazine<'a>(&self, set: &'a Set, cache: &CacheShape) -> Option<&'a Magazine> {
        let mut left = set.spare_count.load(Relaxed);
        if left == 0 {
            let page = self.spare_block(set.zone.node(), Order::ZERO)?;
            self.claim_frames(1);
            self.registry().note_frame();
            let page = self.page_address(page);
            // SAFETY: the page is this set's alone. All-zero bytes are valid magazines.
            unsafe { page.write_bytes(0, FRAME_BYTES) };
            set.spare_magazines.store(page.cast(), Relaxed);
            left = (FRAME_BYTES / size_of::<Magazine>()) as u32;
        }
        // From the page's end, for its start is where the first objects of slabs are: a load from one address and a
        // store to another that differ by whole pages look alike to many processors, and the load waits.
        left -= 1;
        let magazine = set.spare_magazines.load(Relaxed).wrapping_add(left as usize);
        set.spare_count.store(left, Relaxed);
        set.install_magazine(self.machine(), cache.slot(), magazine);
        // SAFETY: a zeroed magazine of a page that is never freed.
        Some(unsafe { &*magazine })
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
        let block = self.managed_frame_at(object).ok_or(FreeError::NotAnObject(object.addr()))?;
        let frames = Frames::of(self.machine());
        let order = frames.state(block).order();
        frames.set_tag(block, 0);
        self.large_frames().fetch_sub(u64::from(order.frames()), Relaxed);
        self.return_frames(order.frames());
        self.try_free_pages(block, order).map_err(|_| FreeError::DoubleFree(object.addr()))
    }

    /// Makes room in a local magazine, by emptying it: one that is full to where its CPU finds its objects again first,
    /// one that somebody closed to the depot. `false` while nothing is to be cached.
    pub(crate) fn make_room(&self, set: &Set, magazine: &Magazine, cache: &CacheShape, tag: u16) -> bool {
        let capacity = magazine.capacity.get().into();
        let closed = magazine.limit.load(Relaxed) == 0;
        let open = self.waiters().attention().settle(&magazine.limit, capacity) > 0;
        let is_called_in = closed || !open;
        if is_called_in || magazine.count.load(Relaxed) >= capacity {
            bump(&set.counters.drains);
            self.drain(set, cache, tag, magazine, !is_called_in);
        }
        open
    }

    /// Gives what a set's magazine holds back: to where its CPU finds it again first, or else to its depot.
    fn drain(&self, set: &Set, cache: &CacheShape, tag: u16, magazine: &impl Stack, to_find_again: bool) {
        let objects = magazine.objects();
        if objects.is_empty() {
            return;
        }
        self.note_bytes(set, (objects.len() * cache.geometry.size as usize).wrapping_neg());
        if to_find_again {
            self.give_objects(set, cache, tag, objects, &|| magazine.clear());
        } else {
            self.give_to_depot(cache, tag, objects, &|| magazine.clear());
        }
    }

    /// Empties a magazine of objects of that tag, if any.
    pub(crate) fn drain_tag(&self, set: &Set, magazine: &impl Stack, tag: u16) {
        if magazine.count().load(Relaxed) > 0 {
            let cache = self.cache(tag_cache(tag)).expect("a cache lives while a set has objects of it");
            self.drain(set, &cache, tag, magazine, false);
        }
    }

    /// Notes that objects came into a set's care, for statistics.
    pub(crate) fn note_objects(&self, set: &Set, cache: &CacheShape, count: u32) {
        self.note_bytes(set, count as usize * cache.geometry.size as usize);
    }

    /// Gives free objects to the CPU's own stack or, where that has no room or is not for them, to their depot. `given`
    /// is called while the lock of whichever it is is held still: a host forks with all locks taken, and the child of a
    /// fork finds an object where it was or where it went, never in both.
    pub(crate) fn give_objects(&self, set: &Set, cache: &CacheShape, tag: u16, objects: &[*mut u8], given: &dyn Fn()) {
        // While anybody waits nothing is kept: frames and objects go where they can be had.
        if !set.stacks_objects_of(NodeId(tag_node(tag))) || self.waiters().attention().is_raised() {
            return self.give_to_depot(cache, tag, objects, given);
        }
        let (mut stacks, fits) = self.with_stack_room(set, cache, objects.len());
        if fits {
            stacks.put_all(cache, objects);
            given();
            drop(stacks);
            self.objects_freed(cache.id);
        } else {
            self.give_away(Some(stacks), cache, tag, objects, given);
        }
    }

    /// Gives free objects to their depot: its stack, then their slabs. `given` as for [`Self::give_objects`].
    pub(crate) fn give_to_depot(&self, cache: &CacheShape, tag: u16, objects: &[*mut u8], given: &dyn Fn()) {
        self.give_away(None, cache, tag, objects, given);
    }

    /// As [`Self::give_to_depot`]; with the full stacks of a set, these hand over older ones in their place.
    fn give_away(
        &self,
        mut full: Option<Stacks<'_, M>>,
        cache: &CacheShape,
        tag: u16,
        objects: &[*mut u8],
        given: &dyn Fn(),
    ) {
        let node = NodeId(tag_node(tag));
        let depot = self.depot(node, cache.id).expect("an object's tag names a node with memory");
        let (view, capacity) = (self.slab_view(cache), self.depot_stack_capacity(&cache.geometry));
        let mut surplus = FrameList::new();
        let keep = !self.waiters().attention().is_raised();
        let wanted_chunks = {
            let mut depot = depot.lock(self.machine());
            let kept = full
                .as_mut()
                .is_some_and(|stacks| stacks.hand_over(cache, &mut depot, capacity) && stacks.put_all(cache, objects));
            let wanted_chunks = if kept { 0 } else { depot.give(view, objects, keep, &mut surplus) };
            given();
            wanted_chunks
        };
        drop(full);
        if wanted_chunks > 0 {
            self.bring_chunks(node, wanted_chunks, &mut |chunk| {
                // SAFETY: the chunk is new, and comes back after the stack has given it up.
                unsafe { depot.lock(self.machine()).accept(chunk, capacity) }
            });
        }
        while let Some(slab) = surplus.pop(view.frames) {
            self.release_slab(slab);
        }
        self.objects_freed(cache.id);
    }

    /// Memory for the service itself that it can do without.
    #[inline(never)]
    pub(crate) fn spare_block(&self, node: NodeId, order: Order) -> Option<Pfn> {
        self.alloc_pages_node(node, Gfp::NOWAIT | Gfp::NOWARN | Gfp::THISNODE, order)
    }

    /// The remote magazine for a tag, emptied of another tag's objects.
    fn remote_magazine<'a>(&self, set: &'a Set, cache: &CacheShape, tag: u16) -> &'a Remote {
        let remote = set.remote(tag);
        let current = remote.tag.load(Relaxed) as u16;
        if current != tag {
            self.drain_tag(set, remote, current);
            let geometry = GEOMETRY.get(cache.id).unwrap_or(&Geometry::NONE);
            remote.fit_out(tag, geometry, self.capacities().magazine(&cache.geometry, REMOTE_SLOTS));
        }
        remote
    }

    /// Whether a free object's place can be found: depot, slab, any stack, or any set. See the module head.
    fn is_free(&self, cache: &CacheShape, tag: u16, object: *mut u8) -> bool {
        let Some(depot) = self.depot(NodeId(tag_node(tag)), cache.id) else { return false };
        let view = self.slab_view(cache);
        let cached =
            |set: &Set| set.magazine_of(cache).holds(object) || set.remote.iter().any(|remote| remote.holds(object));
        let in_depot = || {
            let depot = depot.lock(self.machine());
            depot.holds(view, object)
        };
        (0..2).any(|_| in_depot() || self.is_stacked(cache, object) || self.sets().any(cached))
    }
}

/// Whether objects of that tag are of the set's local node.
pub(crate) fn is_local(set: &Set, tag: u16) -> bool {
    u32::from(tag_node(tag)) == set.node_tag
}
