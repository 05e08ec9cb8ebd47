//! Which caches there are: from the cache id of a tag to what the slow paths must know of it.
//!
//! Used by the slab layer, by `kmem_cache` and by statistics. The kmalloc family's caches are constants (see
//! [`class`](crate::class)); the others are made and destroyed while the service runs, and have a *descriptor* each.
//!
//! # Theory
//!
//! Descriptors lie in pages, found by id through a table; the depots of a cache lie in pages of each node's own memory,
//! found in the same way. Both kinds of pages come when the first id of theirs is given and stay. So what a tag leads
//! to is always memory of the right type, whoever destroys a cache meanwhile.
//!
//! An id is in one of these states, which change under the registry's lock:
//!
//! | state   | who has it                                             | may become                                  |
//! |---------|--------------------------------------------------------|---------------------------------------------|
//! | free    | nobody: its depots have no slab                        | live: `kmem_cache_create`                   |
//! | live    | as many handles as `references` says                   | dying: the last handle is given up          |
//! | dying   | nobody; some of its objects are not in its depots      | live again: objects are in use, the handle  |
//! |         |                                                        | is given back; or free: see below           |
//!
//! A dying id becomes free when each of its depots holds all objects of its slabs. Nobody takes objects of it out of a
//! depot any more, so then and from then on no set holds one and nobody has one. Sets still have magazines that were
//! fitted out for the cache, empty ones, whose owners do not write to them unless they are given an object. Their
//! limits are set to 0 before the id is free: the next cache with the id has another *generation*, its first object
//! that meets such a magazine goes the slow path, and there the CPU sees the generation and fits the magazine out anew.
//! (Whoever has an object of the new cache got it, by way of the handle, from whoever made the cache, so it sees the
//! limit of 0 too.)
//!
//! The geometry and the generation in a descriptor are atomics: a free of a pointer that is not the caller's to free may
//! read them while they change, and must be refused, not undefined. All else is under the lock.
//!
//! Lock order: registry, depot.

use core::cell::UnsafeCell;
use core::fmt;
use core::ops::Deref;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, Ordering::Relaxed};
use core::{mem, ptr};

use quarry_topology::NodeId;

use crate::class::{
    CACHES, DMA_BASE, DMA32_BASE, DYNAMIC_BASE, DYNAMIC_CACHES, DYNAMIC_MAGAZINES, GEOMETRY, Geometry, MAGAZINES,
};
use crate::depot::Depot;
use crate::frame::{FRAME_BYTES, Order};
use crate::gfp::Gfp;
use crate::lock::{Guard, Lock};
use crate::machine::Machine;
use crate::service::Service;

/// What a free must know of a cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheShape {
    /// Cache part of the tags of its objects.
    pub(crate) id: usize,
    /// Tells caches apart that have the same id one after the other.
    pub(crate) generation: u32,
    pub(crate) geometry: Geometry,
}

/// What an allocation must know of a cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheView {
    pub(crate) shape: CacheShape,
    /// Which memory its slabs are: flags that every request for a slab has.
    pub(crate) gfp: Gfp,
    pub(crate) constructor: Option<fn(*mut u8)>,
    pub(crate) name: CacheName,
}

impl Deref for CacheView {
    type Target = CacheShape;

    fn deref(&self) -> &CacheShape {
        &self.shape
    }
}

/// The name of a cache, as `/proc/slabinfo` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheName {
    /// Of a cache of the kmalloc family: what stands before the size, and the size in bytes.
    Kmalloc(&'static str, u32),
    /// As it was created.
    Given(&'static str),
}

impl fmt::Display for CacheName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Kmalloc(prefix, size) if size.is_multiple_of(1024) => write!(f, "{prefix}{}k", size / 1024),
            Self::Kmalloc(prefix, size) => write!(f, "{prefix}{size}"),
            Self::Given(name) => f.write_str(name),
        }
    }
}

impl CacheShape {
    /// Of a cache of the kmalloc family.
    #[inline]
    pub(crate) fn kmalloc(id: usize) -> Self {
        Self { id, generation: 0, geometry: GEOMETRY[id] }
    }

    /// Whether CPUs have magazines for its objects; else these go straight to the depots.
    pub(crate) fn has_magazines(&self) -> bool {
        self.id < MAGAZINES || self.slot() < DYNAMIC_MAGAZINES
    }

    /// Where in [`Set::dynamic`](crate::set::Set::dynamic) its magazine is.
    pub(crate) fn slot(&self) -> usize {
        self.id.wrapping_sub(DYNAMIC_BASE).min(DYNAMIC_MAGAZINES)
    }
}

impl CacheView {
    /// A cache of the kmalloc family.
    pub(crate) fn kmalloc(id: usize) -> Self {
        let (prefix, gfp) = match id {
            ..DMA_BASE => ("kmalloc-", Gfp::empty()),
            DMA_BASE..DMA32_BASE => ("dma-kmalloc-", Gfp::DMA),
            _ => ("dma32-kmalloc-", Gfp::DMA32),
        };
        let shape = CacheShape::kmalloc(id);
        Self { shape, gfp, constructor: None, name: CacheName::Kmalloc(prefix, shape.geometry.size) }
    }
}

/// What is told of a cache beside its shape, and who has it.
#[derive(Clone, Copy)]
pub(crate) struct Registration {
    pub(crate) name: &'static str,
    /// Bytes that were asked for.
    pub(crate) object_size: u32,
    pub(crate) gfp: Gfp,
    /// Whether `kmem_cache_create` may give further handles to it.
    pub(crate) mergeable: bool,
    /// Handles given; 0 for an id that is free or dying.
    pub(crate) references: u32,
    pub(crate) dying: bool,
}

impl Registration {
    const FREE: Self =
        Self { name: "", object_size: 0, gfp: Gfp::empty(), mergeable: false, references: 0, dying: false };

    fn is_free(&self) -> bool {
        self.references == 0 && !self.dying
    }
}

struct Descriptor {
    generation: AtomicU32,
    geometry: [AtomicU32; 6],
    /// Guarded by the registry's lock.
    registration: UnsafeCell<Registration>,
}

const DESCRIPTORS_A_PAGE: usize = FRAME_BYTES / size_of::<Descriptor>();

/// Depots in one page.
const DEPOTS_A_PAGE: usize = FRAME_BYTES / size_of::<Depot>();

/// A node's depots of caches made while the service runs.
pub(crate) struct DepotTable([AtomicPtr<Depot>; DYNAMIC_CACHES.div_ceil(DEPOTS_A_PAGE)]);

impl DepotTable {
    pub(crate) const fn new() -> Self {
        Self([const { AtomicPtr::new(ptr::null_mut()) }; DYNAMIC_CACHES.div_ceil(DEPOTS_A_PAGE)])
    }

    fn get(&self, number: usize) -> Option<&Depot> {
        // Acquire: pairs with the Release in `install`, so the depots are seen initialised.
        let page = self.0.get(number / DEPOTS_A_PAGE)?.load(Ordering::Acquire);
        // SAFETY: a page that is there has an initialised depot at each index below `DEPOTS_A_PAGE`, for ever.
        (!page.is_null()).then(|| unsafe { &*page.add(number % DEPOTS_A_PAGE) })
    }
}

/// The caches made while the service runs; see the module head.
pub(crate) struct Registry {
    lock: Lock<()>,
    pages: [AtomicPtr<Descriptor>; DYNAMIC_CACHES.div_ceil(DESCRIPTORS_A_PAGE)],
    /// Frames that hold descriptors, depots, and magazines that are not in their set.
    frames: AtomicU64,
    /// How many caches are dying; written under the lock.
    dying: AtomicU32,
}

impl Registry {
    pub(crate) const fn new() -> Self {
        Self {
            lock: Lock::new(()),
            pages: [const { AtomicPtr::new(ptr::null_mut()) }; DYNAMIC_CACHES.div_ceil(DESCRIPTORS_A_PAGE)],
            frames: AtomicU64::new(0),
            dying: AtomicU32::new(0),
        }
    }

    fn descriptor(&self, id: usize) -> Option<&Descriptor> {
        let number = id.checked_sub(DYNAMIC_BASE)?;
        // Acquire: pairs with the Release in `install`, so the descriptors are seen initialised.
        let page = self.pages.get(number / DESCRIPTORS_A_PAGE)?.load(Ordering::Acquire);
        // SAFETY: as in `DepotTable::get`.
        (!page.is_null()).then(|| unsafe { &*page.add(number % DESCRIPTORS_A_PAGE) })
    }

    pub(crate) fn frames(&self) -> u64 {
        self.frames.load(Relaxed)
    }

    pub(crate) fn note_frame(&self) {
        self.frames.fetch_add(1, Relaxed);
    }

    /// Whether any cache is dying, as far as can be told without the lock.
    pub(crate) fn has_dying(&self) -> bool {
        self.dying.load(Relaxed) > 0
    }

    #[cfg(feature = "hosted")]
    pub(crate) fn raw(&self) -> &crate::raw_lock::RawLock {
        self.lock.raw()
    }

    /// Takes the registry's lock.
    pub(crate) fn lock<'a, M: Machine>(&'a self, machine: &'a M) -> Locked<'a, M> {
        Locked { registry: self, _guard: self.lock.lock(machine) }
    }
}

/// The registry, locked.
pub(crate) struct Locked<'a, M: Machine> {
    registry: &'a Registry,
    _guard: Guard<'a, (), M>,
}

impl<M: Machine> Locked<'_, M> {
    /// What is registered of an id, if it has a descriptor.
    pub(crate) fn get(&self, id: usize) -> Option<Registration> {
        // SAFETY: the registry's lock is held.
        self.registry.descriptor(id).map(|descriptor| unsafe { *descriptor.registration.get() })
    }

    fn set(&mut self, id: usize, registration: Registration) {
        let descriptor = self.registry.descriptor(id).expect("only ids with a descriptor are registered");
        // SAFETY: the registry's lock is held, and `get` gives out copies alone.
        let before = unsafe { mem::replace(&mut *descriptor.registration.get(), registration) };
        let dying = self.registry.dying.load(Relaxed) + u32::from(registration.dying) - u32::from(before.dying);
        self.registry.dying.store(dying, Relaxed);
    }

    /// Changes what is registered of a cache, unless the id is another's by now.
    pub(crate) fn update(&mut self, shape: &CacheShape, change: impl FnOnce(&mut Registration)) -> bool {
        let Some(mut registration) = self.get(shape.id).filter(|_| self.generation(shape.id) == shape.generation)
        else {
            return false;
        };
        change(&mut registration);
        self.set(shape.id, registration);
        true
    }

    fn generation(&self, id: usize) -> u32 {
        self.registry.descriptor(id).map_or(0, |descriptor| descriptor.generation.load(Relaxed))
    }

    /// The lowest id that is free; `None` when all are taken.
    pub(crate) fn free_id(&self) -> Option<usize> {
        (DYNAMIC_BASE..DYNAMIC_BASE + DYNAMIC_CACHES).find(|&id| self.get(id).is_none_or(|entry| entry.is_free()))
    }

    /// Makes a free id live; `None` when it is not free.
    pub(crate) fn enter(&mut self, id: usize, geometry: Geometry, registration: Registration) -> Option<CacheShape> {
        if !self.get(id)?.is_free() {
            return None;
        }
        self.set(id, registration);
        let descriptor = self.registry.descriptor(id)?;
        let generation = descriptor.generation.load(Relaxed) + 1;
        descriptor.generation.store(generation, Relaxed);
        descriptor.set_geometry(geometry);
        Some(CacheShape { id, generation, geometry })
    }

    /// Makes a dying id free.
    pub(crate) fn forget(&mut self, shape: &CacheShape) {
        if let Some(descriptor) = self.registry.descriptor(shape.id) {
            descriptor.set_geometry(Geometry::NONE);
        }
        self.set(shape.id, Registration::FREE);
    }
}

impl Descriptor {
    const fn new() -> Self {
        Self {
            generation: AtomicU32::new(0),
            geometry: [const { AtomicU32::new(0) }; 6],
            registration: UnsafeCell::new(Registration::FREE),
        }
    }

    fn geometry(&self) -> Geometry {
        let [size, order, objects, mask, inverse, link] = &self.geometry;
        Geometry {
            size: size.load(Relaxed),
            order: Order::new(order.load(Relaxed)).expect("stored from an order"),
            objects: objects.load(Relaxed),
            mask: mask.load(Relaxed),
            inverse: inverse.load(Relaxed),
            link: link.load(Relaxed),
        }
    }

    fn set_geometry(&self, geometry: Geometry) {
        let Geometry { size, order, objects, mask, inverse, link } = geometry;
        for (cell, value) in self.geometry.iter().zip([size, order.get(), objects, mask, inverse, link]) {
            cell.store(value, Relaxed);
        }
    }
}

impl<M: Machine> Service<M> {
    /// The cache with that id; `None` when there is none.
    pub(crate) fn cache(&self, id: usize) -> Option<CacheShape> {
        let shape = if id < CACHES {
            CacheShape::kmalloc(id)
        } else {
            let descriptor = self.registry().descriptor(id)?;
            CacheShape { id, generation: descriptor.generation.load(Relaxed), geometry: descriptor.geometry() }
        };
        (shape.geometry.size > 0).then_some(shape)
    }

    /// Calls `each` for every cache, none of which goes away meanwhile. Locks of depots may be taken in it, no more.
    pub(crate) fn for_each_cache(&self, mut each: impl FnMut(&CacheShape)) {
        self.cache_ids().for_each(|id| {
            self.with_cache(id, |shape, _| each(shape));
        });
    }

    /// The ids that caches can have so far.
    pub(crate) fn cache_ids(&self) -> impl Iterator<Item = usize> {
        let pages = self.registry().pages.iter().take_while(|page| !page.load(Relaxed).is_null()).count();
        (1..CACHES).chain(DYNAMIC_BASE..DYNAMIC_BASE + (pages * DESCRIPTORS_A_PAGE).min(DYNAMIC_CACHES))
    }

    /// Calls `work` with a cache, which does not go away meanwhile, and its registration, if it was made while the
    /// service runs; `None` when there is no such cache. As for [`Self::for_each_cache`].
    pub(crate) fn with_cache<R>(
        &self,
        id: usize,
        work: impl FnOnce(&CacheShape, Option<Registration>) -> R,
    ) -> Option<R> {
        if id < CACHES {
            return Some(work(&self.cache(id)?, None));
        }
        let locked = self.registry().lock(self.machine());
        let registration = locked.get(id)?;
        Some(work(&self.cache(id)?, Some(registration)))
    }

    /// A cache's depot on a node; `None` for a node without memory.
    pub(crate) fn depot(&self, node: NodeId, id: usize) -> Option<&Depot> {
        let state = self.nodes().get(node)?;
        if id < CACHES { state.depots.get(id) } else { state.dynamic_depots.get(id.checked_sub(DYNAMIC_BASE)?) }
    }

    /// A cache's depots, on all nodes with memory.
    pub(crate) fn depots(&self, id: usize) -> impl Iterator<Item = (NodeId, &Depot)> {
        self.nodes().with_memory().filter_map(move |(node, _)| Some((node, self.depot(node, id)?)))
    }

    /// Makes sure that an id has a descriptor and depots; `false` when there is no memory for them. May sleep.
    pub(crate) fn prepare_cache(&self, id: usize) -> bool {
        let number = id - DYNAMIC_BASE;
        let local = self.nodes().local(self.cpu_to_node(self.machine().cpu()));
        let pages = &self.registry().pages[number / DESCRIPTORS_A_PAGE];
        // SAFETY: all-zero pointers are looked at by `Registry::descriptor` alone, which expects what is written here.
        let described = unsafe { self.install(pages, local, DESCRIPTORS_A_PAGE, Descriptor::new) };
        described
            && self.nodes().with_memory().all(|(node, state)| {
                let page = &state.dynamic_depots.0[number / DEPOTS_A_PAGE];
                // SAFETY: as above, for `DepotTable::get`.
                unsafe { self.install(page, node, DEPOTS_A_PAGE, Depot::new) }
            })
    }

    /// Puts a page of `count` new values at `place`, if none is there. That happens under the registry's lock, so that
    /// whoever holds it (a fork does) knows all descriptors and depots there are.
    ///
    /// # Safety
    ///
    /// `count` values of the type fit a page.
    unsafe fn install<T>(&self, place: &AtomicPtr<T>, node: NodeId, count: usize, new: impl Fn() -> T) -> bool {
        if !place.load(Relaxed).is_null() {
            return true;
        }
        let Some(frame) = self.alloc_pages_node(node, Gfp::KERNEL | Gfp::NOWARN, Order::ZERO) else { return false };
        let page = self.page_address(frame).cast::<T>();
        for index in 0..count {
            // SAFETY: the frame is this function's alone, page-aligned, and has room for the values.
            unsafe { page.add(index).write(new()) };
        }
        let locked = self.registry().lock(self.machine());
        let first = place.load(Relaxed).is_null();
        if first {
            // Release: pairs with the Acquire of whoever finds the page.
            place.store(page, Ordering::Release);
        }
        drop(locked);
        if first {
            self.claim_frames(1);
            self.registry().note_frame();
        } else {
            self.__free_pages(frame, Order::ZERO);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::class_of;
    use std::string::ToString;

    #[test]
    fn every_kmalloc_cache_has_the_name_linux_gives_it() {
        let name = |id| CacheView::kmalloc(id).name.to_string();
        assert_eq!(name(class_of(96)), "kmalloc-96");
        assert_eq!(name(class_of(8192)), "kmalloc-8k");
        assert_eq!(name(DMA_BASE), "dma-kmalloc-8");
        assert_eq!(name(DMA32_BASE + 1), "dma32-kmalloc-16");
    }

    #[test]
    fn a_slot_is_that_of_the_last_magazine_for_ids_that_have_none() {
        let slot = |id| CacheShape { id, generation: 1, geometry: Geometry::NONE }.slot();
        assert_eq!((slot(DYNAMIC_BASE), slot(DYNAMIC_BASE + DYNAMIC_MAGAZINES - 1)), (0, DYNAMIC_MAGAZINES - 1));
        for id in [1, DMA_BASE, DYNAMIC_BASE - 1, DYNAMIC_BASE + DYNAMIC_MAGAZINES, DYNAMIC_BASE + DYNAMIC_CACHES - 1] {
            assert_eq!(slot(id), DYNAMIC_MAGAZINES, "id {id}");
        }
    }
}
