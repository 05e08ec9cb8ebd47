//! The usual slow paths of objects: a batch between a CPU's magazine and the stack behind it or its local depot, and
//! objects of other nodes that are at hand.
//!
//! Used by kmalloc and `kmem_cache` before the paths of [`slab`](crate::slab), which decide every case; these know one
//! each, look at nothing else, and say when it is another. What states objects have, and who guards them, is told
//! there. The limit of a magazine, its generation and [`Attention`](crate::attention) together say that nobody waits,
//! no fault is injected, and the magazine is this cache's.

use core::sync::atomic::Ordering::Relaxed;

use quarry_topology::NodeId;

use crate::allocate::{Placement, Request};
use crate::class::{GEOMETRY, tag, tag_cache, tag_node};
use crate::depot::mark_at;
use crate::frame::{Kind, Pfn, State};
use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::registry::CacheShape;
use crate::service::Service;
use crate::set::{Stack, bump};

impl<M: Machine> Service<M> {
    /// One object for an empty magazine, and the magazine filled by half, or whole where it gave nothing since it was
    /// last: with what the CPU's own stack or the local depot has at hand, the usual case, and nothing else looked at.
    /// `None` where they have nothing, where the flags obey a policy, and while anybody waits or faults are injected.
    #[inline]
    pub(crate) fn object_from_stack(&self, cache: &CacheShape, gfp: Gfp) -> Option<*mut u8> {
        if gfp.contains(Gfp::HARDWALL) {
            return None;
        }
        // SAFETY: `Machine::set` is valid and this context's alone until it returns to its scheduler.
        let set = unsafe { &*self.machine().set() };
        let magazine = set.magazine_of(cache);
        // One that is closed, not fitted out, or no magazine at all has the limit 0 or another generation.
        let closed = magazine.limit.load(Relaxed) == 0 || self.waiters().attention().is_raised();
        if closed || magazine.generation.get() != cache.generation || magazine.count.load(Relaxed) > 0 {
            return None;
        }
        // Half leaves as much room for frees. But whoever comes again, and gave nothing meanwhile, allocates only.
        let capacity = u32::from(magazine.capacity.get());
        let wanted = if magazine.filled.get() { capacity } else { (capacity / 2).max(1) };
        let count = {
            let mut stacks = set.lock_stacks(self.machine());
            self.take_local(&mut stacks, cache, wanted, magazine.places())
        };
        if count == 0 {
            return None;
        }
        magazine.filled.set(true);
        bump(&set.counters.refills);
        set.add_net((count * cache.geometry.size) as usize);
        let object = magazine.pop()?;
        // SAFETY: the object left the magazine just now and is this caller's alone.
        unsafe { mark_at(object, cache.geometry.link).write(0) };
        Some(object)
    }

    /// One object for an empty magazine where nothing is [at hand](Self::object_from_stack), and the magazine filled by
    /// half, with slabs made of blocks of the CPU's page list: the usual case where more and more is allocated, and
    /// nothing else looked at. What a slab has beyond the magazine goes on the CPU's stack, so that no other CPU uses
    /// the lines next to those used here, which processors fetch ahead. `None` where the list stays empty, and in the
    /// cases above. For classes of kmalloc alone: what else a new slab needs is not done.
    #[inline(never)]
    pub(crate) fn object_of_new_slabs(&self, cache: &CacheShape, gfp: Gfp) -> Option<*mut u8> {
        // The list's cold end is another function's.
        if gfp.intersects(Gfp::HARDWALL | Gfp::COLD) {
            return None;
        }
        // SAFETY: as in `object_from_stack`.
        let set = unsafe { &*self.machine().set() };
        let (magazine, geometry) = (set.magazine_of(cache), &cache.geometry);
        let (capacity, objects) = (u32::from(magazine.capacity.get()), geometry.objects);
        let closed = magazine.limit.load(Relaxed) == 0 || self.waiters().attention().is_raised();
        if closed || magazine.generation.get() != cache.generation {
            return None;
        }
        let beyond = objects.saturating_sub(capacity);
        let depot = self.depot(set.zone.node(), cache.id)?;
        let (view, list) = (self.slab_view(cache), &set.pages[geometry.order.index()]);
        let state = State::new(Kind::Slab, geometry.order, set.zone);
        let placement = Placement::near(set.node);
        let request = Request { gfp, order: geometry.order, placement, cache: Some(cache.id) };
        let before = magazine.count.load(Relaxed);
        let (mut count, mut slabs, mut newest) = (before, 0, Pfn(0));
        while count < (capacity / 2).max(1) && (count + objects <= capacity || beyond > 0) {
            let listed = list.pop().or_else(|| Some(self.alloc_from_lists(set, &request)?.0));
            let Some(slab) = listed else { break };
            for frame in 0..geometry.order.frames() {
                view.frames.set_tag(slab.offset(frame), magazine.tag.get() as u16);
            }
            view.frames.set_state(slab, state);
            view.hand_out_whole(slab, |object| {
                if count < capacity {
                    magazine.slots[count as usize].store(object, Relaxed);
                    count += 1;
                }
            });
            slabs += 1;
            newest = slab;
        }
        if slabs == 0 {
            return None;
        }
        {
            // Where there is no room for more than the magazine holds, the depot has it.
            let mut stacks = (beyond > 0).then(|| self.with_stack_room(set, cache, beyond as usize).0);
            let mut depot = depot.lock(self.machine());
            depot.add_whole_slabs(slabs);
            if let Some(stacks) = &mut stacks {
                stacks.put_slab(cache, &mut depot, view, newest, capacity);
            }
            // Under the lock; see `give_objects`.
            magazine.count.store(count, Relaxed);
        }
        bump(&set.counters.refills);
        self.claim_frames(slabs << geometry.order.get());
        set.add_net(((count - before) * geometry.size) as usize);
        let object = magazine.pop()?;
        // SAFETY: as in `object_from_stack`.
        unsafe { mark_at(object, 0).write(0) };
        Some(object)
    }

    /// Frees an object into the full magazine of its cache, all of which goes on the CPU's own stack, if that has room:
    /// the usual case, and nothing else looked at. Says whether it did; not while anybody waits, and for what is no
    /// object of the cache in use.
    #[inline]
    pub(crate) fn free_through_stack(&self, cache: &CacheShape, object: *mut u8) -> bool {
        // SAFETY: as in `object_from_stack`.
        let set = unsafe { &*self.machine().set() };
        let magazine = set.magazine_of(cache);
        let (count, limit) = (magazine.count.load(Relaxed), magazine.limit.load(Relaxed));
        // One that is closed, not fitted out, or no magazine at all has the limit 0 or another generation.
        let closed = limit == 0 || self.waiters().attention().is_raised();
        if closed
            || magazine.generation.get() != cache.generation
            || count < limit
            || self.machine().tag(object.addr()) != magazine.tag.get()
            || !cache.geometry.is_object(object.addr())
        {
            return false;
        }
        let place = mark_at(object, cache.geometry.link);
        // SAFETY: the tag says that the frame is part of a slab, the check that the pointer is an object of it.
        if unsafe { place.read() } == set.mark {
            return false;
        }
        let stacked = {
            let mut stacks = set.lock_stacks(self.machine());
            let stacked = stacks.put_all(cache, magazine.objects());
            if stacked {
                // Under the lock; see `give_objects`.
                magazine.clear();
            }
            stacked
        };
        if !stacked {
            self.give_objects(set, cache, magazine.tag.get() as u16, magazine.objects(), &|| magazine.clear());
        }
        // SAFETY: as for the read; the caller gives the object up.
        unsafe { place.write(set.mark) };
        magazine.push(object);
        bump(&set.counters.drains);
        set.add_net((count as usize * cache.geometry.size as usize).wrapping_neg());
        if stacked {
            self.objects_freed(cache.id);
        }
        true
    }

    /// An object of another node's, if it is in the magazine for these.
    #[inline]
    pub(crate) fn object_of_remote(&self, node: NodeId, class: usize) -> Option<*mut u8> {
        // SAFETY: as in `object_from_stack`.
        let set = unsafe { &*self.machine().set() };
        let tag = tag(node.0, class);
        let remote = set.remote(tag);
        if remote.tag.load(Relaxed) != u32::from(tag) {
            return None;
        }
        let object = remote.pop()?;
        // SAFETY: as in `object_from_stack`.
        unsafe { mark_at(object, 0).write(0) };
        Some(object)
    }

    /// Frees an object of another node's classes of kmalloc into the magazine for these, where that has room: the usual
    /// case, and nothing else looked at. Says whether it did. `key` is the object's tag as the set has it.
    #[inline(always)]
    pub(crate) fn free_to_remote(&self, object: *mut u8, key: u32) -> bool {
        // SAFETY: as in `object_from_stack`.
        let set = unsafe { &*self.machine().set() };
        let tag = key ^ set.node_tag;
        let remote = set.remote(tag as u16);
        // One that is nobody's has the tag 0 and takes no pointer. None is ever for the local node's objects.
        if remote.tag.load(Relaxed) != tag || !remote.is_object(object.addr()) || self.waiters().attention().is_raised()
        {
            return false;
        }
        let (place, count) = (mark_at(object, 0), remote.count.load(Relaxed));
        // SAFETY: the tag says that the frame is part of a slab, the check that the pointer is an object of it.
        if unsafe { place.read() } == set.mark || count >= remote.capacity.get() {
            return false;
        }
        // SAFETY: as for the read; the caller gives the object up.
        unsafe { place.write(set.mark) };
        // SAFETY: the count was looked at just now.
        unsafe { remote.put(count, object) };
        true
    }

    /// Gives all objects of the remote magazine for a tag to the stack of their depot, where the magazine is full and
    /// the stack has room; says whether it did. `key` is the tag as the set has it.
    pub(crate) fn send_home(&self, key: u32) -> bool {
        // SAFETY: as in `object_from_stack`.
        let set = unsafe { &*self.machine().set() };
        let tag = (key ^ set.node_tag) as u16;
        let (remote, cache) = (set.remote(tag), tag_cache(tag));
        let count = remote.count.load(Relaxed);
        if remote.tag.load(Relaxed) != u32::from(tag) || count < remote.capacity.get() {
            return false;
        }
        let Some(geometry) = GEOMETRY.get(cache) else { return false };
        let Some(depot) = self.depot(NodeId(tag_node(tag)), cache) else { return false };
        {
            let mut depot = depot.lock(self.machine());
            if !depot.stack(remote.objects()) {
                return false;
            }
            // Under the lock; see `give_objects`.
            remote.clear();
        }
        bump(&set.counters.remote_drains);
        set.add_net((count as usize * geometry.size as usize).wrapping_neg());
        self.objects_freed(cache);
        true
    }
}
