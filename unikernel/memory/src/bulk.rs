//! Many objects at a time: bulk allocation and free, and [`Sheaf`]s, objects set aside beforehand.
//!
//! Users: callers that know how many objects they will need, or that must not fail later. Source: Linux's
//! `kmem_cache_alloc_bulk`, `kmem_cache_free_bulk`, `kfree_bulk`, and the prefilled sheaves of 6.18.
//!
//! Pointers move in runs: what a magazine has, in one copy; what is missing, or has no room, between depot and caller
//! directly, under one lock acquisition for each slab's worth. All of it may be called in an interrupt handler.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering::Relaxed};
use core::{ptr, slice};

use crate::class::{LARGE, tag_cache};
use crate::depot::mark_at;
use crate::gfp::Gfp;
use crate::kmem_cache::KmemCache;
use crate::machine::Machine;
use crate::service::Service;
use crate::set::{Places, Set, Stack};
use crate::slab::{FreeError, is_local};

/// Objects that go between a sheaf and its cache at a time.
const SHEAF_BATCH: usize = 32;

/// Fewer objects of another node than these are sent home through a remote magazine, more than that at once.
const REMOTE_RUN: usize = 8;

/// Objects of one cache set aside: so many allocations that then cannot fail. Linux's `struct slab_sheaf`, of any size.
///
/// The objects are in use as far as statistics know (to count them would cost more than to take one), and chained through the words that are the service's while an
/// object is free, so a sheaf takes no memory. It is one owner's: nothing here is locked.
#[must_use = "dropping it leaks its objects: give it to kmem_cache_return_sheaf"]
#[derive(Debug)]
pub struct Sheaf<'c> {
    /// The cache cannot be destroyed meanwhile.
    cache: &'c KmemCache,
    first: *mut u8,
    size: usize,
    owned: PhantomData<*mut u8>,
}

// SAFETY: objects of the service are not bound to a thread, and a sheaf owns its objects.
unsafe impl Send for Sheaf<'_> {}

impl Sheaf<'_> {
    /// How many objects are left. Linux's `kmem_cache_sheaf_size`.
    pub fn size(&self) -> usize {
        self.size
    }

    fn link(&self, object: *mut u8) -> *mut *mut u8 {
        object.wrapping_add(self.cache.view.geometry.link as usize).cast()
    }

    /// # Safety
    ///
    /// The object is one of the cache, in use, and the caller's.
    unsafe fn push(&mut self, object: *mut u8) {
        // SAFETY: the link word of an object in use is its owner's to write, which the sheaf is now.
        unsafe { self.link(object).write(self.first) };
        self.first = object;
        self.size += 1;
    }

    fn pop(&mut self) -> Option<*mut u8> {
        let object = self.first;
        if object.is_null() {
            return None;
        }
        let link = self.link(object);
        // SAFETY: the object is the sheaf's, and its link word was written by `push`.
        self.first = unsafe { link.read() };
        // SAFETY: as above. A pointer must not stay where the next free looks for the mark.
        unsafe { link.write(ptr::null_mut()) };
        self.size -= 1;
        Some(object)
    }
}

impl<M: Machine> Service<M> {
    /// Allocates as many objects as there are places, or none: returns how many. Linux's `kmem_cache_alloc_bulk`.
    ///
    /// They come from the calling CPU's node first, then from others, and their contents are as those of
    /// [`Self::kmem_cache_alloc`].
    #[track_caller]
    pub fn kmem_cache_alloc_bulk(&self, cache: &KmemCache, gfp: Gfp, objects: &mut [*mut u8]) -> usize {
        let count = self.alloc_bulk(cache, gfp, objects);
        self.handed_out_all(objects, count, self.kmem_cache_size(cache), gfp);
        count
    }

    #[inline(always)]
    #[track_caller]
    fn alloc_bulk(&self, cache: &KmemCache, gfp: Gfp, objects: &mut [*mut u8]) -> usize {
        // SAFETY: `Machine::set` is valid and this context's alone until it returns to its scheduler.
        let set = unsafe { &*self.machine().set() };
        // SAFETY: a handle's slot is at most `DYNAMIC_MAGAZINES`.
        let magazine = unsafe { set.dynamic_magazine(cache.slot) };
        let count = magazine.count.load(Relaxed);
        let wanted = objects.len();
        if wanted > count as usize || gfp.contains(Gfp::ZERO) {
            return self.alloc_bulk_slow(set, cache, gfp, objects);
        }
        let left = count - wanted as u32;
        let link = magazine.link.get().into();
        // SAFETY: a magazine's count is at most the number of its slots, and these are the last of those.
        let slots = unsafe { slice::from_raw_parts(magazine.slots.as_ptr().add(left as usize), wanted) };
        for (place, slot) in objects.iter_mut().zip(slots) {
            let object = slot.load(Relaxed);
            // SAFETY: the object leaves the free state and is the caller's alone.
            unsafe { mark_at(object, link).write(0) };
            *place = object;
        }
        magazine.count.store(left, Relaxed);
        wanted
    }

    #[cold]
    #[inline(never)]
    #[track_caller]
    fn alloc_bulk_slow(&self, set: &Set, cache: &KmemCache, gfp: Gfp, objects: &mut [*mut u8]) -> usize {
        let filled = AtomicU32::new(set.magazine_of(&cache.view).pop_run(objects) as u32);
        let wanted = objects.len() as u32;
        let missing = || wanted - filled.load(Relaxed);
        if missing() > 0 {
            let places = Places::of(objects, &filled);
            let found = self.on_some_node(&cache.view, None, gfp, |set, node, frames| {
                while missing() > 0 {
                    let taken = self.take_objects(set, &cache.view, node, missing(), frames, places);
                    self.note_objects(set, &cache.view, taken);
                    if taken == 0 {
                        return None;
                    }
                }
                Some(())
            });
            if found.is_none() {
                let filled = filled.load(Relaxed) as usize;
                self.hand_out_objects(cache, Gfp::empty(), &objects[..filled]);
                // Nobody has seen them, so nobody is told.
                self.free_bulk_slow(cache, &objects[..filled]);
                return 0;
            }
        }
        self.hand_out_objects(cache, gfp, objects);
        objects.len()
    }

    /// Makes free objects that are the caller's objects in use.
    fn hand_out_objects(&self, cache: &KmemCache, gfp: Gfp, objects: &[*mut u8]) {
        let view = self.slab_view(&cache.view);
        for &object in objects {
            // SAFETY: the object left the free state and is the caller's alone.
            unsafe { view.unmark(object) };
            if gfp.contains(Gfp::ZERO) {
                // SAFETY: as above; it has that many bytes.
                unsafe { object.write_bytes(0, self.kmem_cache_size(cache)) };
            }
        }
    }

    /// Frees objects of one cache. Linux's `kmem_cache_free_bulk`. Null is ignored.
    ///
    /// # Safety
    ///
    /// Nobody uses the objects any more. That each *is* one, of this cache, and is not free already, is checked.
    ///
    /// # Panics
    ///
    /// At the first that is no object of this cache, points inside one, or is free already; in every build. Those
    /// before it have then been freed.
    pub unsafe fn kmem_cache_free_bulk(&self, cache: &KmemCache, objects: &[*mut u8]) {
        self.taking_back_all(objects);
        // SAFETY: as in `kmem_cache_alloc_bulk`.
        let set = unsafe { &*self.machine().set() };
        // SAFETY: as above.
        let magazine = unsafe { set.dynamic_magazine(cache.slot) };
        let count = magazine.count.load(Relaxed);
        let (free, link) = (set.mark, magazine.link.get().into());
        // The geometry stays in memory: it is compared from there, and there are not registers enough for all.
        let free_one = |object: *mut u8, slot: &AtomicPtr<u8>| {
            if self.machine().tag(object.addr()) != magazine.tag.get() {
                return false;
            }
            if !magazine.grid.is_object(object.addr()) {
                return false;
            }
            let place = mark_at(object, link);
            // SAFETY: the tag says that the frame is part of a slab, the check that the pointer is an object of it; the
            // caller gives it up.
            unsafe {
                if place.read() == free {
                    return false;
                }
                place.write(free);
            }
            slot.store(object, Relaxed);
            true
        };
        // As many as there is room for; none, if somebody set the limit to 0.
        let room = magazine.limit.load(Relaxed).saturating_sub(count) as usize;
        let taken = &objects[..room.min(objects.len())];
        // SAFETY: a magazine's limit is at most the number of its slots.
        let slots = unsafe { slice::from_raw_parts(magazine.slots.as_ptr().add(count as usize), taken.len()) };
        let ((fours, ones), (slot_fours, slot_ones)) = (taken.as_chunks::<4>(), slots.as_chunks::<4>());
        let mut freed = 0;
        let mut free_all = |objects: &[*mut u8], slots: &[AtomicPtr<u8>]| {
            objects.iter().zip(slots).all(|(&object, slot)| {
                let taken = free_one(object, slot);
                freed += u32::from(taken);
                taken
            })
        };
        // By fours where there are so many, which is not slower for less.
        let _all =
            fours.iter().zip(slot_fours).all(|(objects, slots)| free_all(objects, slots)) && free_all(ones, slot_ones);
        magazine.count.store(count + freed, Relaxed);
        if (freed as usize) < objects.len() {
            self.free_bulk_slow(cache, &objects[freed as usize..]);
        }
    }

    #[cold]
    #[inline(never)]
    fn free_bulk_slow(&self, cache: &KmemCache, objects: &[*mut u8]) {
        if let Err(error) = self.free_bulk(Some(cache.view.id), objects) {
            panic!("{error}");
        }
    }

    /// Frees what kmalloc and any caches gave. Linux's `kfree_bulk`. Null is ignored.
    ///
    /// # Safety
    ///
    /// As [`Self::kfree`], for each.
    ///
    /// # Panics
    ///
    /// As [`Self::kfree`], at the first that cannot be freed. Those before it have then been freed.
    pub unsafe fn kfree_bulk(&self, objects: &[*mut u8]) {
        self.taking_back_all(objects);
        if let Err(error) = self.free_bulk(None, objects) {
            panic!("{error}");
        }
    }

    fn free_bulk(&self, of: Option<usize>, objects: &[*mut u8]) -> Result<(), FreeError> {
        let mut rest = objects;
        while let Some(&first) = rest.first() {
            let tag = self.current_tag(first.addr());
            let run = rest.iter().take_while(|object| self.current_tag(object.addr()) == tag).count();
            let (now, later) = rest.split_at(run);
            self.free_run(of, tag, now)?;
            rest = later;
        }
        Ok(())
    }

    /// Frees objects of one cache and node.
    fn free_run(&self, of: Option<usize>, tag: u16, objects: &[*mut u8]) -> Result<(), FreeError> {
        // SAFETY: `attached_set` returns a set as `Machine::set` does: valid and this context's alone.
        let set = unsafe { &*self.attached_set() };
        let cache = self.cache(tag_cache(tag)).filter(|cache| tag != LARGE && of.is_none_or(|of| of == cache.id));
        let local = is_local(set, tag);
        let (Some(cache), true) = (cache, local || objects.len() >= REMOTE_RUN) else {
            return objects.iter().try_for_each(|&object| self.free_slow(object, of));
        };
        let mut freed = 0;
        let outcome = objects.iter().try_for_each(|&object| {
            self.take_back(&cache, tag, object, &objects[..freed])?;
            freed += 1;
            Ok(())
        });
        let mut homeless = &objects[..freed];
        if local && let Some(magazine) = self.magazine(set, &cache) {
            if magazine.limit.load(Relaxed) == 0 {
                // Somebody asked for what it holds.
                self.make_room(set, magazine, &cache, tag);
            }
            let room = magazine.limit.load(Relaxed).saturating_sub(magazine.count.load(Relaxed)) as usize;
            let (kept, given) = homeless.split_at(room.min(freed));
            magazine.places().push_run(kept);
            homeless = given;
        }
        if !homeless.is_empty() {
            let bytes = homeless.len() * cache.geometry.size as usize;
            self.note_bytes(set, bytes.wrapping_neg());
            self.give_objects(set, &cache, tag, homeless, &|| ());
        }
        outcome
    }

    /// Sets `count` objects aside; `None` when there are not so many. Linux's `kmem_cache_prefill_sheaf`.
    #[track_caller]
    pub fn kmem_cache_prefill_sheaf<'c>(&self, cache: &'c KmemCache, gfp: Gfp, count: usize) -> Option<Sheaf<'c>> {
        let mut sheaf = Sheaf { cache, first: ptr::null_mut(), size: 0, owned: PhantomData };
        if self.kmem_cache_refill_sheaf(gfp, &mut sheaf, count) {
            return Some(sheaf);
        }
        self.kmem_cache_return_sheaf(sheaf);
        None
    }

    /// Fills a sheaf up to `count` objects; `false` when there are not so many, and it has some of them then. Linux's
    /// `kmem_cache_refill_sheaf`.
    #[track_caller]
    pub fn kmem_cache_refill_sheaf(&self, gfp: Gfp, sheaf: &mut Sheaf, count: usize) -> bool {
        let mut objects = [ptr::null_mut(); SHEAF_BATCH];
        while sheaf.size < count {
            let batch = SHEAF_BATCH.min(count - sheaf.size);
            if self.kmem_cache_alloc_bulk(sheaf.cache, gfp.difference(Gfp::ZERO), &mut objects[..batch]) == 0 {
                return false;
            }
            for &object in &objects[..batch] {
                // SAFETY: the object was allocated from the sheaf's cache just now.
                unsafe { sheaf.push(object) };
            }
        }
        true
    }

    /// An object that was set aside: null when none is left, and never otherwise. Of the flags only [`Gfp::ZERO`] has a
    /// meaning. Linux's `kmem_cache_alloc_from_sheaf`.
    pub fn kmem_cache_alloc_from_sheaf(&self, gfp: Gfp, sheaf: &mut Sheaf) -> *mut u8 {
        let Some(object) = sheaf.pop() else { return ptr::null_mut() };
        if gfp.contains(Gfp::ZERO) {
            // SAFETY: the object has that many bytes and is new to the caller.
            unsafe { object.write_bytes(0, self.kmem_cache_size(sheaf.cache)) };
        }
        object
    }

    /// Frees what is left in a sheaf. Linux's `kmem_cache_return_sheaf`.
    pub fn kmem_cache_return_sheaf(&self, mut sheaf: Sheaf) {
        let mut objects = [ptr::null_mut(); SHEAF_BATCH];
        while sheaf.size > 0 {
            let mut count = 0;
            for (place, object) in objects.iter_mut().zip(core::iter::from_fn(|| sheaf.pop())) {
                *place = object;
                count += 1;
            }
            // SAFETY: the objects were the sheaf's alone.
            unsafe { self.kmem_cache_free_bulk(sheaf.cache, &objects[..count]) };
        }
    }
}
