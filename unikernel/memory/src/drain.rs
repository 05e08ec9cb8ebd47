//! Giving back: what sets hold to the depots, what stacks and depots keep in reserve to the page layer.
//!
//! Used by reclaim, by hosts whose CPUs idle or go, and by `kmem_cache`. Depots and CPUs give up slabs and stacks under
//! their locks, and the page layer gets them after these are released; see the lock order in [`slab`](crate::slab).

use core::sync::atomic::Ordering::Relaxed;

use crate::chunk_stack::ChunkList;
use crate::class::tag_cache;
use crate::cpu_stacks::{Stacks, TURNS};
use crate::depot::{DepotState, SlabView};
use crate::frame::{FrameList, Frames, Pfn};
use crate::machine::Machine;
use crate::registry::CacheShape;
use crate::service::Service;
use crate::set::Set;

/// What depots and CPUs gave up under their locks.
pub(crate) struct Released {
    slabs: FrameList,
    chunks: ChunkList,
}

impl Released {
    pub(crate) const fn new() -> Self {
        Self { slabs: FrameList::new(), chunks: ChunkList::new() }
    }

    /// Takes a depot's stack and empty slabs.
    pub(crate) fn shrink(&mut self, view: SlabView, depot: &mut DepotState) {
        depot.shrink(view, &mut self.slabs, &mut self.chunks);
    }

    /// The same of all depots of a cache that were used since that was done last.
    #[inline(never)]
    fn shrink_all<M: Machine>(&mut self, service: &Service<M>, cache: &CacheShape) {
        let view = service.slab_view(cache);
        for (_, depot) in service.depots(cache.id) {
            depot.shrink(service.machine(), view, &mut self.slabs, &mut self.chunks);
        }
    }
}

impl<M: Machine> Service<M> {
    /// Gives every object and page block this CPU's active set holds back to the shared layers.
    pub(crate) fn drain_set(&self, set: &Set) {
        if !set.attached {
            return;
        }
        for (cache, magazine) in set.each_magazine() {
            self.drain_tag(set, magazine, set.local_tag(cache));
        }
        self.empty_set(set, true);
        for remote in &set.remote {
            self.drain_tag(set, remote, remote.tag.load(Relaxed) as u16);
            remote.vacate();
        }
        self.drain_page_lists(set);
    }

    /// Gives every object of a cache that this CPU's active set holds back to the depots.
    pub(crate) fn drain_cache(&self, set: &Set, cache: &CacheShape) {
        if set.attached {
            self.drain_tag(set, set.magazine_of(cache), set.local_tag(cache.id));
            let mut released = Released::new();
            self.empty_stack(set, cache, true, &mut released);
            self.release(released);
            for remote in &set.remote {
                let tag = remote.tag.load(Relaxed) as u16;
                if tag_cache(tag) == cache.id {
                    self.drain_tag(set, remote, tag);
                }
            }
        }
    }

    /// Has the stacks of a set give up chunks until so many are spare or may be had, of which there may be `most` in
    /// all: those of other caches than this, in turn. What was on them goes to the depots.
    #[cold]
    pub(crate) fn give_up_others_chunks(&self, set: &Set, cache: &CacheShape, chunks: u32, most: u32) {
        let mut released = Released::new();
        for _ in 0..TURNS {
            let mut stacks = set.lock_stacks(self.machine());
            if stacks.has_chunks(chunks, most) {
                break;
            }
            let id = stacks.next_in_turn();
            if id != cache.id
                && let Some(other) = self.cache(id)
            {
                self.give_stack(set, &mut stacks, &other, true, &mut released);
            }
        }
        self.release(released);
    }

    /// Gives what a set has on its stacks to the depots, to be kept there or not, and what these are made of to the
    /// page layer.
    fn empty_set(&self, set: &Set, keep: bool) {
        let mut released = Released::new();
        for (id, _) in set.each_magazine().take_while(|_| set.has_stacks()) {
            self.with_cache(id, |cache, _| self.empty_stack(set, cache, keep, &mut released));
        }
        self.release(released);
    }

    /// Gives what a set has on its stack for a cache to the depot, to be kept there or not, and the chunks that are
    /// spare then to the page layer.
    fn empty_stack(&self, set: &Set, cache: &CacheShape, keep: bool, released: &mut Released) {
        let mut stacks = set.lock_stacks(self.machine());
        self.give_stack(set, &mut stacks, cache, keep, released);
        stacks.release(&mut released.chunks);
    }

    fn give_stack(
        &self,
        set: &Set,
        stacks: &mut Stacks<'_, M>,
        cache: &CacheShape,
        keep: bool,
        released: &mut Released,
    ) {
        if stacks.count(cache) > 0 {
            let depot = self.depot(set.zone.node(), cache.id).expect("a set's local node has memory");
            let depot = &mut depot.lock(self.machine());
            while keep && stacks.hand_over(cache, depot, self.depot_stack_capacity(&cache.geometry)) {}
            stacks.give_up(cache, |objects| {
                depot.give(self.slab_view(cache), objects, keep, &mut released.slabs);
            });
        }
    }

    /// Gives what all sets have on their stacks for a cache to its slabs.
    pub(crate) fn empty_stacks(&self, cache: &CacheShape, released: &mut Released) {
        self.sets().filter(|set| set.has_stacks()).for_each(|set| self.empty_stack(set, cache, false, released));
    }

    /// Gives what stacks and depots keep in reserve (free objects at hand, empty slabs) back to the page layer, and zeroed
    /// pages to the zones. Linux's `kmem_cache_shrink`, for all caches. May be called in any context.
    pub fn shrink_depots(&self) {
        self.reap_dying();
        self.sets().for_each(|set| self.empty_set(set, false));
        for id in self.cache_ids().filter(|&id| self.depots(id).any(|(_, depot)| depot.is_used())) {
            let mut released = Released::new();
            self.with_cache(id, |cache, _| released.shrink_all(self, cache));
            self.release(released);
        }
        self.shrink_chunks();
        self.return_all_zeroed();
    }

    /// Gives the stacks of a cache and the empty slabs of its depots back to the page layer.
    pub(crate) fn shrink_cache(&self, id: usize) {
        let mut released = Released::new();
        self.with_cache(id, |cache, _| {
            self.empty_stacks(cache, &mut released);
            released.shrink_all(self, cache);
        });
        self.release(released);
    }

    /// Gives what depots gave up back to the page layer, with no lock held.
    #[inline(never)]
    pub(crate) fn release(&self, mut released: Released) {
        let frames = Frames::of(self.machine());
        while let Some(slab) = released.slabs.pop(frames) {
            self.release_slab(slab);
        }
        while let Some(chunk) = released.chunks.pop() {
            self.return_chunk(chunk);
        }
    }

    /// Gives the frames of a slab without objects in use back.
    pub(crate) fn release_slab(&self, slab: Pfn) {
        let frames = Frames::of(self.machine());
        let state = frames.state(slab);
        let order = state.order();
        for frame in (0..order.frames()).map(|page| slab.offset(page)) {
            frames.set_tag(frame, 0);
        }
        frames.frame(slab).word.store(1, Relaxed);
        // One from a pageblock of reclaimable memory is not for the lists of CPUs, whence anybody might get it.
        let mobility = self.mobility_of(slab).expect("a slab is in a zone");
        frames.set_state(slab, state.with_kind(mobility.page_kind()));
        self.return_frames(order.frames());
        self.__free_pages(slab, order);
    }
}
