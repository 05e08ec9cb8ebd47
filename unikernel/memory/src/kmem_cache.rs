//! Caches of objects of one kind: `kmem_cache_create` and its family, as methods of [`Service`].
//!
//! Users: whoever allocates many objects of one size, wants them aligned, constructed once, from a low zone, or counted
//! under a name; [`Cache`](crate::Cache) makes a typed cache of one. Many objects at a time, and objects set aside
//! beforehand: [`bulk`](crate::Sheaf). Source: the kernel's `mm/slab_common.c`, `mm/slub.c` and `linux/slab.h` (6.18).
//!
//! A cache stands on the same layers as kmalloc: a magazine on every CPU that uses it, a depot on each node, slabs from
//! the page layer. Allocating and freeing may be done in an interrupt handler. Making and destroying may sleep.
//!
//! "The flags are only relevant if the cache has no available objects" (the manual): with an object in the CPU's
//! magazine, or in a depot of a node the request may be served from, no flag has any effect but `__GFP_ZERO`. A flag for
//! a zone has none at all: a cache's slabs come from the zone it was made for.
//!
//! # Merging
//!
//! Caches of equal shape are one cache with several handles, unless one was made with [`SlabFlags::NO_MERGE`] or has a
//! constructor. The shape is the distance from an object to the next, and which memory the slabs are from. (The
//! alignment is in it, for that distance is a multiple of it.)

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use quarry_topology::NodeId;

use crate::class::{Geometry, MAX_STRIDE, tag_cache};
use crate::depot::{DepotCounts, mark_at};
use crate::drain::Released;
use crate::frame::{FRAME_BYTES, Frames, Kind};
use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::registry::{CacheName, CacheShape, CacheView, Registration};
use crate::service::Service;
use crate::slab::FreeError;

/// Bytes of a cache line, to which [`SlabFlags::HWCACHE_ALIGN`] aligns.
const CACHE_LINE: usize = 64;

/// Leaked objects that are told by address; of more, the number is.
const REPORTED_OBJECTS: u64 = 16;

bitflags::bitflags! {
    /// What a cache is to be like: Linux's `SLAB_*` flags.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct SlabFlags: u32 {
        /// `SLAB_HWCACHE_ALIGN`: objects do not straddle cache lines needlessly: they are aligned to 64 bytes, or to
        /// the half, the quarter ... that still holds one.
        const HWCACHE_ALIGN = 1 << 0;
        /// `SLAB_PANIC`: a cache that cannot be made is a panic.
        const PANIC = 1 << 1;
        /// `SLAB_RECLAIM_ACCOUNT`: a shrinker can give the objects back. Slabs are asked for with `__GFP_RECLAIMABLE`.
        const RECLAIM_ACCOUNT = 1 << 2;
        /// `SLAB_NO_MERGE`: a cache of its own, whatever others are like.
        const NO_MERGE = 1 << 3;
        /// `SLAB_CACHE_DMA`: objects below 16 MiB.
        const CACHE_DMA = 1 << 4;
        /// `SLAB_CACHE_DMA32`: objects below 4 GiB.
        const CACHE_DMA32 = 1 << 5;
    }
}

impl SlabFlags {
    /// Flags of every request for a slab.
    fn gfp(self) -> Gfp {
        let mut gfp = Gfp::empty();
        gfp.set(Gfp::DMA, self.contains(Self::CACHE_DMA));
        gfp.set(Gfp::DMA32, self.contains(Self::CACHE_DMA32));
        gfp.set(Gfp::RECLAIMABLE, self.contains(Self::RECLAIM_ACCOUNT));
        gfp
    }
}

/// Why a cache could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheError {
    /// Objects of no bytes.
    NoSize,
    /// An object, with its alignment and what a constructor costs, is larger than the largest slab.
    TooLarge {
        /// Bytes of it, as asked for.
        size: usize,
    },
    /// The alignment is no power of two, or larger than a page.
    BadAlignment {
        /// As asked for.
        align: usize,
    },
    /// Both [`SlabFlags::CACHE_DMA`] and [`SlabFlags::CACHE_DMA32`].
    TwoZones,
    /// There are as many caches as tags can tell apart.
    TooManyCaches,
    /// There is no memory for the cache's own state.
    NoMemory,
}

impl fmt::Display for CacheError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSize => f.write_str("objects of a cache must have a size"),
            Self::TooLarge { size } => {
                write!(f, "objects of {size} bytes do not fit a slab of {MAX_STRIDE}: take pages, with alloc_pages")
            }
            Self::BadAlignment { align } => {
                write!(f, "an alignment of {align} is no power of two up to {FRAME_BYTES}; 0 asks for none")
            }
            Self::TwoZones => f.write_str("a cache is made for CACHE_DMA or for CACHE_DMA32, not for both"),
            Self::TooManyCaches => f.write_str("there are too many caches: destroy one, or let them merge"),
            Self::NoMemory => f.write_str("there is no memory for a cache's descriptor and depots"),
        }
    }
}

impl core::error::Error for CacheError {}

/// A handle to a cache; [`Service::kmem_cache_create`] gives it, [`Service::kmem_cache_destroy`] takes it. Linux's
/// `struct kmem_cache *`.
///
/// It is of the service that gave it, and of no use with another.
#[must_use = "a handle that is dropped leaks its cache: give it to kmem_cache_destroy"]
#[derive(Debug)]
pub struct KmemCache {
    pub(crate) view: CacheView,
    /// Where in [`Set::dynamic`](crate::set::Set::dynamic) the cache's magazine is.
    pub(crate) slot: usize,
    object_size: u32,
}

impl KmemCache {
    /// What the cache was first created as; a merged cache keeps its first name.
    pub fn name(&self) -> CacheName {
        self.view.name
    }
}

/// A cache that was to be destroyed still has objects in use; nothing was destroyed.
#[derive(Debug)]
#[must_use = "it has the handle, and so the cache"]
pub struct ObjectsRemain {
    /// The handle, as good as before.
    pub cache: KmemCache,
    /// How many objects are in use.
    pub objects: u64,
}

impl fmt::Display for ObjectsRemain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, objects) = (self.cache.name(), self.objects);
        write!(f, "kmem_cache_destroy {name}: {objects} objects are still in use: free them, then destroy it")
    }
}

impl core::error::Error for ObjectsRemain {}

/// A cache as it will be.
struct Plan {
    geometry: Geometry,
    registration: Registration,
    constructor: Option<fn(*mut u8)>,
}

impl Plan {
    fn new(
        name: &'static str,
        size: usize,
        align: usize,
        flags: SlabFlags,
        constructor: Option<fn(*mut u8)>,
    ) -> Result<Self, CacheError> {
        if size == 0 {
            return Err(CacheError::NoSize);
        }
        if align > FRAME_BYTES || align != 0 && !align.is_power_of_two() {
            return Err(CacheError::BadAlignment { align });
        }
        if flags.contains(SlabFlags::CACHE_DMA | SlabFlags::CACHE_DMA32) {
            return Err(CacheError::TwoZones);
        }
        if size > MAX_STRIDE as usize {
            return Err(CacheError::TooLarge { size });
        }
        let align = align.max(line_alignment(size, flags)).max(size_of::<u64>());
        let link = if constructor.is_some() { size.next_multiple_of(size_of::<u64>()) } else { 0 };
        let word = if constructor.is_some() { size_of::<u64>() } else { 0 };
        let stride = (size.max(link) + word).next_multiple_of(align);
        if stride > MAX_STRIDE as usize {
            return Err(CacheError::TooLarge { size });
        }
        Ok(Self {
            geometry: Geometry::with_link(stride as u32, link as u32),
            registration: Registration {
                name,
                object_size: size as u32,
                gfp: flags.gfp(),
                mergeable: constructor.is_none() && !flags.contains(SlabFlags::NO_MERGE),
                references: 1,
                dying: false,
            },
            constructor,
        })
    }

    fn merges_with(&self, other: &Registration, shape: &CacheShape) -> bool {
        self.registration.mergeable
            && other.mergeable
            && other.references > 0
            && shape.geometry.size == self.geometry.size
            && other.gfp == self.registration.gfp
    }

    fn handle(&self, shape: CacheShape, name: &'static str) -> KmemCache {
        KmemCache {
            view: CacheView {
                shape,
                gfp: self.registration.gfp,
                constructor: self.constructor,
                name: CacheName::Given(name),
            },
            slot: shape.slot(),
            object_size: self.registration.object_size,
        }
    }
}

/// The alignment that [`SlabFlags::HWCACHE_ALIGN`] asks for. Linux's `calculate_alignment`.
fn line_alignment(size: usize, flags: SlabFlags) -> usize {
    if !flags.contains(SlabFlags::HWCACHE_ALIGN) {
        return 1;
    }
    let mut align = CACHE_LINE;
    while size <= align / 2 {
        align /= 2;
    }
    align
}

impl<M: Machine> Service<M> {
    /// Makes a cache of objects of `size` bytes, or gives another handle to one of the same shape. Linux's
    /// `kmem_cache_create`.
    ///
    /// `align`: a power of two up to 4096, or 0 for eight bytes. `name`: for reports and `/proc/slabinfo`.
    /// `constructor` is called once for each object when its slab is made, by whoever allocates then, and must not
    /// allocate from this cache; the object keeps its contents from one free to the next allocation, so whoever frees
    /// one leaves it as constructed. May sleep.
    ///
    /// # Errors
    ///
    /// [`CacheError`].
    ///
    /// # Panics
    ///
    /// With [`SlabFlags::PANIC`], instead of an error.
    pub fn kmem_cache_create(
        &self,
        name: &'static str,
        size: usize,
        align: usize,
        flags: SlabFlags,
        constructor: Option<fn(*mut u8)>,
    ) -> Result<KmemCache, CacheError> {
        let cache = Plan::new(name, size, align, flags, constructor).and_then(|plan| self.create(&plan));
        match cache {
            Err(error) if flags.contains(SlabFlags::PANIC) => panic!("kmem_cache_create of {name:?}: {error}"),
            cache => cache,
        }
    }

    fn create(&self, plan: &Plan) -> Result<KmemCache, CacheError> {
        // Before the first allocation of all there are no nodes yet.
        self.attached_set();
        self.reap_dying();
        loop {
            if let Some(merged) = self.merge(plan) {
                return Ok(merged);
            }
            let free = self.registry().lock(self.machine()).free_id();
            let id = free.ok_or(CacheError::TooManyCaches)?;
            if !self.prepare_cache(id) {
                return Err(CacheError::NoMemory);
            }
            let entered = self.registry().lock(self.machine()).enter(id, plan.geometry, plan.registration);
            // Else another CPU took the id meanwhile.
            if let Some(shape) = entered {
                return Ok(plan.handle(shape, plan.registration.name));
            }
        }
    }

    fn merge(&self, plan: &Plan) -> Option<KmemCache> {
        let mut locked = self.registry().lock(self.machine());
        self.cache_ids().find_map(|id| {
            let (other, shape) = (locked.get(id)?, self.cache(id)?);
            if !plan.merges_with(&other, &shape) {
                return None;
            }
            locked.update(&shape, |entry| entry.references += 1);
            Some(plan.handle(shape, other.name))
        })
    }

    /// Gives up a handle; the last one of a cache destroys it. Linux's `kmem_cache_destroy`.
    ///
    /// What CPUs cache of it is called in: on idle CPUs at once; on a CPU that works, at its next slow path or wait,
    /// and only then the cache's memory is given back. May sleep; where it must not, what other CPUs cache stays
    /// with them.
    ///
    /// # Errors
    ///
    /// [`ObjectsRemain`] with the handle, when objects are in use. Up to 16 of them were then reported by address.
    /// They can still be freed, and then the cache can be destroyed.
    pub fn kmem_cache_destroy(&self, cache: KmemCache) -> Result<(), ObjectsRemain> {
        let mut last = false;
        self.registry().lock(self.machine()).update(&cache.view, |entry| {
            entry.references -= 1;
            last = entry.references == 0;
            entry.dying = last;
        });
        if !last {
            return Ok(());
        }
        self.call_in(&cache.view);
        if self.reap(&cache.view) || self.objects_out(&cache.view) == 0 {
            return Ok(());
        }
        // What is in use now cannot be told from the counts alone while CPUs work.
        let objects = self.report_objects(&cache);
        if objects == 0 || !self.revive(&cache) {
            return Ok(());
        }
        Err(ObjectsRemain { cache, objects })
    }

    /// Makes a dying cache live again; `false` when it has gone meanwhile.
    fn revive(&self, cache: &KmemCache) -> bool {
        let mut revived = false;
        self.registry().lock(self.machine()).update(&cache.view, |entry| {
            revived = entry.dying;
            entry.dying = false;
            entry.references = u32::from(revived);
        });
        revived
    }

    /// Gives the cache's free objects and their slabs back to the page layer, as far as they can be reached: those of
    /// the depots, of this CPU and of idle ones. Linux's `kmem_cache_shrink`. May sleep; where it must not, as for
    /// [`Self::kmem_cache_destroy`].
    pub fn kmem_cache_shrink(&self, cache: &KmemCache) {
        self.call_in(&cache.view);
        self.shrink_cache(cache.view.id);
    }

    /// Bytes of an object, as the cache was created with. Linux's `kmem_cache_size`.
    pub fn kmem_cache_size(&self, cache: &KmemCache) -> usize {
        cache.object_size as usize
    }

    /// Has CPUs give back what they cache of a cache.
    fn call_in(&self, cache: &CacheShape) {
        self.sets().for_each(|set| set.ask_back(cache));
        // SAFETY: `attached_set` returns a set as `Machine::set` does: valid and this context's alone.
        let set = unsafe { &*self.attached_set() };
        self.drain_cache(set, cache);
        if self.machine().may_sleep() {
            M::drain_others(self);
        }
    }

    /// Ends the caches that nobody has any more, as far as all their objects have come home.
    pub(crate) fn reap_dying(&self) {
        if !self.registry().has_dying() {
            return;
        }
        for id in self.cache_ids() {
            let dying = self.with_cache(id, |shape, entry| entry.filter(|entry| entry.dying).map(|_| *shape));
            if let Some(shape) = dying.flatten() {
                self.reap(&shape);
            }
        }
    }

    /// Makes the id of a dying cache free if all its objects are in its depots; see [`registry`](crate::registry).
    fn reap(&self, cache: &CacheShape) -> bool {
        let mut released = Released::new();
        let mut complete = false;
        let mut locked = self.registry().lock(self.machine());
        locked.update(cache, |entry| complete = entry.dying);
        if complete {
            self.empty_stacks(cache, &mut released);
            let view = self.slab_view(cache);
            for (_, depot) in self.depots(cache.id) {
                let mut depot = depot.lock(self.machine());
                if depot.is_complete(view) {
                    released.shrink(view, &mut depot);
                } else {
                    complete = false;
                }
            }
        }
        if complete {
            self.sets().for_each(|set| set.ask_back(cache));
            locked.forget(cache);
        }
        drop(locked);
        self.release(released);
        complete
    }

    /// Objects that are neither in depots nor in sets. Exact while nobody uses the cache.
    fn objects_out(&self, cache: &CacheShape) -> u64 {
        let cached: u64 = self.sets().map(|set| u64::from(set.cached(cache))).sum();
        let absent = |counts: DepotCounts| {
            let objects = u64::from(counts.slabs) * u64::from(cache.geometry.objects);
            objects.saturating_sub(u64::from(counts.stacked) + u64::from(counts.free_in_slabs))
        };
        let absent: u64 = self.depot_counts(cache).map(|(_, counts)| absent(counts)).sum();
        absent.saturating_sub(cached)
    }

    /// Reports the objects of a cache that are in use, and returns how many there are. Looks at every frame.
    #[cold]
    fn report_objects(&self, cache: &KmemCache) -> u64 {
        let view = self.slab_view(&cache.view);
        let mut objects = 0;
        self.for_each_head(Kind::is_slab, |slab, _| {
            if tag_cache(Frames::of(self.machine()).tag(slab)) != cache.view.id {
                return;
            }
            for index in 0..cache.view.geometry.objects {
                let object = view.object(slab, index);
                // SAFETY: the slab has objects out, so it stays a slab.
                if unsafe { view.is_marked(object) } {
                    continue;
                }
                if objects == 0 {
                    let name = cache.name();
                    self.machine().warn(format_args!("kmem_cache_destroy {name}: Slab cache still has objects"));
                }
                if objects < REPORTED_OBJECTS {
                    let offset = cache.view.geometry.offset(index);
                    self.machine().warn(format_args!("  Object {:#x} @offset={offset}", object.addr()));
                }
                objects += 1;
            }
        });
        if objects > REPORTED_OBJECTS {
            self.machine().warn(format_args!("  and {} more", objects - REPORTED_OBJECTS));
        }
        objects
    }

    /// Allocates an object; null when there is none. Its contents are as the constructor or its last user left them, or
    /// without a constructor undefined, unless [`Gfp::ZERO`] is given. Linux's `kmem_cache_alloc`.
    ///
    /// May be called in an interrupt handler.
    #[inline(always)]
    #[track_caller]
    pub fn kmem_cache_alloc(&self, cache: &KmemCache, gfp: Gfp) -> *mut u8 {
        if gfp.contains(Gfp::ZERO) {
            return self.kmem_cache_zalloc(cache, gfp);
        }
        self.handed_out(self.object_of(cache, gfp), cache.object_size as usize, None, gfp)
    }

    #[inline(always)]
    #[track_caller]
    fn object_of(&self, cache: &KmemCache, gfp: Gfp) -> *mut u8 {
        // SAFETY: `Machine::set` is valid and this context's alone until it returns to its scheduler.
        let set = unsafe { &*self.machine().set() };
        // SAFETY: a handle's slot is at most `DYNAMIC_MAGAZINES`.
        let magazine = unsafe { set.dynamic_magazine(cache.slot) };
        let count = magazine.count.load(Relaxed);
        if count == 0 {
            return self.object_of_slow(cache, gfp);
        }
        // SAFETY: looked at just now.
        let object = unsafe { magazine.take(count) };
        // SAFETY: the object is this caller's alone since it left the magazine, and the word is part of it. It must not
        // keep the mark, or its first free would look like the second.
        unsafe { mark_at(object, magazine.link.get().into()).write(0) };
        object
    }

    #[cold]
    #[inline(never)]
    #[track_caller]
    fn object_of_slow(&self, cache: &KmemCache, gfp: Gfp) -> *mut u8 {
        match self.object_from_stack(&cache.view, gfp) {
            Some(object) => object,
            None => self.object_slow(&cache.view, None, gfp),
        }
    }

    /// As [`Self::kmem_cache_alloc`], the object set to zero (also over what a constructor made). Linux's
    /// `kmem_cache_zalloc`.
    #[inline(always)]
    #[track_caller]
    pub fn kmem_cache_zalloc(&self, cache: &KmemCache, gfp: Gfp) -> *mut u8 {
        let object = self.object_of(cache, gfp);
        if !object.is_null() {
            // SAFETY: the object has that many bytes and is new.
            unsafe { object.write_bytes(0, cache.object_size as usize) };
        }
        self.handed_out(object, cache.object_size as usize, None, gfp | Gfp::ZERO)
    }

    /// As [`Self::kmem_cache_alloc`], from the given node if it has memory to spare, else (without [`Gfp::THISNODE`])
    /// from the nearest that has. Null for a node that does not exist. Linux's `kmem_cache_alloc_node`.
    #[track_caller]
    pub fn kmem_cache_alloc_node(&self, cache: &KmemCache, gfp: Gfp, node: NodeId) -> *mut u8 {
        // SAFETY: as in `object_of`.
        let set = unsafe { &*self.machine().set() };
        if node == set.zone.node() && node == set.node && set.attached {
            return self.kmem_cache_alloc(cache, gfp);
        }
        let object = self.object_slow(&cache.view, Some(node), gfp);
        if gfp.contains(Gfp::ZERO) && !object.is_null() {
            // SAFETY: as in `kmem_cache_zalloc`.
            unsafe { object.write_bytes(0, cache.object_size as usize) };
        }
        self.handed_out(object, cache.object_size as usize, Some(node), gfp)
    }

    /// Frees an object of the cache; null is ignored. Linux's `kmem_cache_free`. ([`Self::kfree`] does it too, more
    /// slowly.) May be called in an interrupt handler.
    ///
    /// # Safety
    ///
    /// Nobody uses the object any more. That it *is* one, of this cache, and is not free already, is checked.
    ///
    /// # Panics
    ///
    /// When it is no object of this cache, points inside one, or is free already; in every build.
    #[inline(always)]
    pub unsafe fn kmem_cache_free(&self, cache: &KmemCache, object: *mut u8) {
        self.taking_back(object);
        let tag = self.machine().tag(object.addr());
        // SAFETY: as in `object_of`.
        let set = unsafe { &*self.machine().set() };
        // SAFETY: as in `object_of`.
        let magazine = unsafe { set.dynamic_magazine(cache.slot) };
        if tag == magazine.tag.get() && magazine.grid.is_object(object.addr()) {
            let place = mark_at(object, magazine.link.get().into());
            let mark = set.mark;
            let count = magazine.count.load(Relaxed);
            // SAFETY: the tag says that the frame is part of a slab, the check that the pointer is an object of it. The
            // limit is looked at first: it is 0 where the magazine was fitted out for an earlier cache.
            if count < magazine.limit.load(Relaxed) && unsafe { place.read() } != mark {
                // SAFETY: as for the read; the caller gives the object up.
                unsafe { place.write(mark) };
                // SAFETY: looked at just now.
                unsafe { magazine.put(count, object) };
                return;
            }
        }
        self.kmem_cache_free_slow(cache, object);
    }

    #[cold]
    #[inline(never)]
    fn kmem_cache_free_slow(&self, cache: &KmemCache, object: *mut u8) {
        if self.free_through_stack(&cache.view, object) {
            return;
        }
        if let Err(error) = self.free_slow(object, Some(cache.view.id)) {
            panic!("{error}");
        }
    }

    /// As [`Self::kmem_cache_free`], telling what was wrong instead of panicking.
    ///
    /// # Errors
    ///
    /// [`FreeError`] when it is no object of this cache, points inside one, or is free already; nothing was freed.
    ///
    /// # Safety
    ///
    /// As [`Self::kmem_cache_free`].
    pub unsafe fn try_kmem_cache_free(&self, cache: &KmemCache, object: *mut u8) -> Result<(), FreeError> {
        self.taking_back(object);
        self.free_slow(object, Some(cache.view.id))
    }
}
