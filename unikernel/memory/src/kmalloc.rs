//! The kmalloc family, as methods of [`Service`].
//!
//! Users: everybody in the guest, and the global allocators. Source: the kernel's `kmalloc(9)`, `kcalloc(9)`,
//! `kzalloc(9)`.
//!
//! What a request does when memory is short is up to its flags: `GFP_KERNEL` and all others with `__GFP_DIRECT_RECLAIM`
//! may reclaim and sleep, `GFP_ATOMIC` and `GFP_NOWAIT` fail at once. All of it may be called in an interrupt handler,
//! with those two: nothing waits there, and what was asked for with another flag fails instead. A free never sleeps.
//! docs/kmalloc.md has every call and every flag, with the tests that show what they do.
//!
//! What Linux defines at the edges holds here: a request of 0 bytes returns [`ZERO_SIZE_PTR`], which is not null, must
//! not be dereferenced, and may be freed; freeing null does nothing; a product that overflows, a size beyond
//! [`MAX_SIZE`] and an unknown node fail.
//!
//! # The fast paths
//!
//! `kmalloc` takes the top object off the magazine of its class, `kfree` finds the class in the tag of the object's
//! frame, checks that the pointer is an object and not free already, and puts it on top. Both touch only the CPU's
//! active [`Set`], the tag and the object, execute no locked instruction and mask no interrupt: an interrupt handler
//! has a set of its own. See [`set`](crate::set) for the theory.

use core::ptr;
use core::sync::atomic::Ordering::Relaxed;

use quarry_topology::NodeId;

use crate::class::{
    DMA_BASE, DMA32_BASE, LARGE, MAX_SLAB_SIZE, NOT_A_KEY, POWERS, class_of, key_cache, key_of, tag_cache,
};
use crate::depot::mark_at;
use crate::frame::{FRAME_BYTES, Frames, Order};
use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::registry::{CacheShape, CacheView};
use crate::service::Service;
use crate::slab::FreeError;

/// What a request of 0 bytes gets: not null, not to be dereferenced, may be freed.
pub const ZERO_SIZE_PTR: *mut u8 = ptr::without_provenance_mut(16);

/// The largest kmalloc request in bytes: 4 MiB. Linux's `KMALLOC_MAX_SIZE`.
pub const MAX_SIZE: usize = Order::MAX.bytes();

impl<M: Machine> Service<M> {
    /// Allocates at least `size` bytes, aligned to 8 bytes; to `size` where that is a power of two. Null on failure,
    /// [`ZERO_SIZE_PTR`] for 0 bytes. The contents are undefined unless [`Gfp::ZERO`] is given.
    #[inline(always)]
    #[track_caller]
    pub fn kmalloc(&self, size: usize, gfp: Gfp) -> *mut u8 {
        self.handed_out(self.kmalloc_untold(size, gfp), size, None, gfp)
    }

    #[inline(always)]
    #[track_caller]
    fn kmalloc_untold(&self, size: usize, gfp: Gfp) -> *mut u8 {
        if size > MAX_SLAB_SIZE || gfp.intersects(Gfp::OFF_THE_FAST_PATH) {
            return self.kmalloc_special(size, gfp);
        }
        self.object(key_of(size), gfp)
    }

    /// An object of the class with that key.
    #[inline(always)]
    #[track_caller]
    fn object(&self, key: u32, gfp: Gfp) -> *mut u8 {
        let Some(object) = self.cached_object(key) else { return self.kmalloc_slow(key, gfp) };
        // SAFETY: a cached object is at least eight bytes, aligned to eight, and this caller's alone since it left the
        // magazine. The word must not keep the mark, or its first free would look like the second.
        unsafe { mark_at(object, 0).write(0) };
        object
    }

    /// What is on top of the magazine with that key, marked as free still.
    #[inline(always)]
    fn cached_object(&self, key: u32) -> Option<*mut u8> {
        // SAFETY: `Machine::set` is valid and this context's alone until it returns to its scheduler.
        let set = unsafe { &*self.machine().set() };
        // Class 0, for requests of nothing, has an empty magazine.
        // SAFETY: classes are below `MAGAZINES`.
        let magazine = unsafe { set.magazine(key) };
        let count = magazine.count.load(Relaxed);
        if count == 0 {
            return None;
        }
        // SAFETY: looked at just now.
        Some(unsafe { magazine.take(count) })
    }

    #[cold]
    #[inline(never)]
    #[track_caller]
    fn kmalloc_slow(&self, key: u32, gfp: Gfp) -> *mut u8 {
        if key == 0 {
            return ZERO_SIZE_PTR;
        }
        let class = key_cache(key);
        let shape = CacheShape::kmalloc(class);
        match self.object_from_stack(&shape, gfp).or_else(|| self.object_of_new_slabs(&shape, gfp)) {
            Some(object) => object,
            None => self.object_slow(&CacheView::kmalloc(class), None, gfp),
        }
    }

    /// Requests that are large, want a low zone or want zeroes.
    #[inline(never)]
    #[track_caller]
    fn kmalloc_special(&self, size: usize, gfp: Gfp) -> *mut u8 {
        let address = if size == 0 {
            ZERO_SIZE_PTR
        } else if size > MAX_SLAB_SIZE {
            return self.kmalloc_large(size, None, gfp);
        } else if let Some(cache) = low_zone_cache(size, gfp) {
            self.object_slow(&CacheView::kmalloc(cache), None, gfp)
        } else {
            self.object(key_of(size), gfp)
        };
        // SAFETY: a non-null result for `size` > 0 is the start of at least `size` bytes nobody else has.
        unsafe { zeroed(address, size, gfp) }
    }

    #[cold]
    #[track_caller]
    fn kmalloc_large(&self, size: usize, node: Option<NodeId>, gfp: Gfp) -> *mut u8 {
        let Some(order) = Order::for_bytes(size) else { return ptr::null_mut() };
        let unmovable = gfp.difference(Gfp::MOBILITY);
        let block = match node {
            Some(node) => self.alloc_pages_node(node, unmovable, order),
            None => self.alloc_pages(unmovable, order),
        };
        let Some(block) = block else { return ptr::null_mut() };
        Frames::of(self.machine()).set_tag(block, LARGE);
        self.claim_frames(order.frames());
        self.large_frames().fetch_add(u64::from(order.frames()), Relaxed);
        self.page_address(block)
    }

    /// As [`Self::kmalloc`], the memory set to zero.
    #[inline(always)]
    #[track_caller]
    pub fn kzalloc(&self, size: usize, gfp: Gfp) -> *mut u8 {
        self.handed_out(self.kzalloc_untold(size, gfp), size, None, gfp | Gfp::ZERO)
    }

    #[inline(always)]
    #[track_caller]
    fn kzalloc_untold(&self, size: usize, gfp: Gfp) -> *mut u8 {
        if size > MAX_SLAB_SIZE || gfp.intersects(Gfp::OFF_THE_FAST_PATH) {
            return self.kmalloc_special(size, gfp | Gfp::ZERO);
        }
        let Some(object) = self.cached_object(key_of(size)) else { return self.kmalloc_special(size, gfp | Gfp::ZERO) };
        // SAFETY: an object of a class is a whole number of words, at least as many as that; it is this caller's alone
        // since it left the magazine. The mark, which is in the first, goes with it.
        unsafe { zero_words(object, size.div_ceil(8)) };
        object
    }

    /// Allocates an array of `count` elements of `size` bytes; null also when the product overflows.
    #[inline(always)]
    #[track_caller]
    pub fn kmalloc_array(&self, count: usize, size: usize, gfp: Gfp) -> *mut u8 {
        match count.checked_mul(size) {
            Some(bytes) => self.kmalloc(bytes, gfp),
            None => ptr::null_mut(),
        }
    }

    /// As [`Self::kmalloc_array`], the memory set to zero.
    #[inline(always)]
    #[track_caller]
    pub fn kcalloc(&self, count: usize, size: usize, gfp: Gfp) -> *mut u8 {
        match count.checked_mul(size) {
            Some(bytes) => self.kzalloc(bytes, gfp),
            None => ptr::null_mut(),
        }
    }

    /// As [`Self::kmalloc`], from the given node if it has memory to spare, else (without [`Gfp::THISNODE`]) from the
    /// nearest that has. Null for a node that does not exist.
    #[track_caller]
    pub fn kmalloc_node(&self, size: usize, gfp: Gfp, node: NodeId) -> *mut u8 {
        self.handed_out(self.kmalloc_node_untold(size, gfp, node), size, Some(node), gfp)
    }

    #[inline(always)]
    #[track_caller]
    fn kmalloc_node_untold(&self, size: usize, gfp: Gfp, node: NodeId) -> *mut u8 {
        // SAFETY: as in `object`.
        let set = unsafe { &*self.machine().set() };
        // A node that is named goes before the thread's policy.
        let by_policy = gfp.contains(Gfp::HARDWALL);
        if node == set.zone.node() && node == set.node && set.attached && !by_policy {
            return self.kmalloc_untold(size, gfp);
        }
        if node.index() >= self.nodes().count() {
            return ptr::null_mut();
        }
        if size <= MAX_SLAB_SIZE
            && !gfp.intersects(Gfp::OFF_THE_FAST_PATH)
            && let Some(object) = self.object_of_remote(node, class_of(size))
        {
            return object;
        }
        if size > MAX_SLAB_SIZE {
            return self.kmalloc_large(size, Some(node), gfp);
        }
        let address = if size == 0 {
            ZERO_SIZE_PTR
        } else {
            let cache = low_zone_cache(size, gfp).unwrap_or_else(|| class_of(size));
            self.object_slow(&CacheView::kmalloc(cache), Some(node), gfp)
        };
        // SAFETY: as in `kmalloc_special`.
        unsafe { zeroed(address, size, gfp) }
    }

    /// As [`Self::kmalloc_node`], the memory set to zero.
    #[track_caller]
    pub fn kzalloc_node(&self, size: usize, gfp: Gfp, node: NodeId) -> *mut u8 {
        self.kmalloc_node(size, gfp | Gfp::ZERO, node)
    }

    /// Frees what any of the family allocated; null and [`ZERO_SIZE_PTR`] are ignored.
    ///
    /// # Safety
    ///
    /// Nobody uses the object any more. That it *is* one, and is not free already, is checked.
    ///
    /// # Panics
    ///
    /// When it is no object, points inside one, or is free already; in every build.
    #[inline(always)]
    pub unsafe fn kfree(&self, object: *mut u8) {
        self.taking_back(object);
        // SAFETY: the caller's promise.
        unsafe { self.kfree_untold(object) };
    }

    /// # Safety
    ///
    /// As [`Self::kfree`].
    #[inline(always)]
    unsafe fn kfree_untold(&self, object: *mut u8) {
        let tag = self.machine().tag(object.addr());
        // SAFETY: as in `object`.
        let set = unsafe { &*self.machine().set() };
        let key = if M::ONE_NODE { tag } else { tag ^ set.node_tag };
        if key & NOT_A_KEY != 0 {
            return self.kfree_remote(object, key);
        }
        // SAFETY: it is the key of a cache below `MAGAZINES`, as was looked at just now.
        let magazine = unsafe { set.magazine(key) };
        if magazine.grid.is_object(object.addr()) {
            let place = mark_at(object, 0);
            let mark = set.mark;
            let count = magazine.count.load(Relaxed);
            // SAFETY: the tag says that the frame is part of a slab, the check that the pointer is an object of it.
            if unsafe { place.read() } != mark && count < magazine.limit.load(Relaxed) {
                // SAFETY: as for the read; the caller gives the object up.
                unsafe { place.write(mark) };
                // SAFETY: looked at just now.
                unsafe { magazine.put(count, object) };
                return;
            }
        }
        self.kfree_slow(object);
    }

    /// What the local magazine does not take as it is. Functions of their own here, so that each saves as many
    /// registers as it needs.
    #[cold]
    #[inline(never)]
    fn kfree_slow(&self, object: *mut u8) {
        // SAFETY: as in `cached_object`.
        let key = self.machine().tag(object.addr()) ^ unsafe { &*self.machine().set() }.node_tag;
        // Class 0, of what is no object, has no objects either.
        if !self.free_through_stack(&CacheShape::kmalloc(key_cache(key)), object) {
            self.kfree_any(object);
        }
    }

    /// What is no local object of a cache with a magazine.
    #[cold]
    #[inline(never)]
    fn kfree_remote(&self, object: *mut u8, key: u32) {
        if !self.free_to_remote(object, key) {
            self.kfree_remote_full(object, key);
        }
    }

    #[cold]
    #[inline(never)]
    fn kfree_remote_full(&self, object: *mut u8, key: u32) {
        if !(self.send_home(key) && self.free_to_remote(object, key)) {
            self.kfree_any(object);
        }
    }

    #[cold]
    #[inline(never)]
    fn kfree_any(&self, object: *mut u8) {
        if let Err(error) = self.free_slow(object, None) {
            panic!("{error}");
        }
    }

    /// As [`Self::kfree`], telling what was wrong instead of panicking.
    ///
    /// # Errors
    ///
    /// [`FreeError`] when it is no object, points inside one, or is free already; nothing was freed.
    ///
    /// # Safety
    ///
    /// As [`Self::kfree`].
    pub unsafe fn try_kfree(&self, object: *mut u8) -> Result<(), FreeError> {
        self.taking_back(object);
        self.free_slow(object, None)
    }

    /// Sets the object's memory to zero, then frees it: for what held secrets. Null is ignored.
    ///
    /// # Safety
    ///
    /// As [`Self::kfree`].
    ///
    /// # Panics
    ///
    /// As [`Self::kfree`].
    pub unsafe fn kfree_sensitive(&self, object: *mut u8) {
        let size = self.ksize(object);
        if size > 0 {
            // SAFETY: the object has `size` bytes and is the caller's to write.
            unsafe { object.write_bytes(0, size) };
            core::hint::black_box(object);
        }
        // SAFETY: the caller's promise.
        unsafe { self.kfree(object) };
    }

    /// How many bytes an object really has: at least what was asked for. 0 for null and [`ZERO_SIZE_PTR`].
    ///
    /// # Panics
    ///
    /// When the pointer is not the start of an object.
    pub fn ksize(&self, object: *const u8) -> usize {
        if object.addr() <= ZERO_SIZE_PTR.addr() {
            return 0;
        }
        match self.find_size(object) {
            Some(bytes) => bytes,
            None => panic!("ksize of {object:p}, which is not the start of an object"),
        }
    }

    /// [`Self::ksize`] of what may be no object: `None` then. Takes no lock.
    pub(crate) fn find_size(&self, object: *const u8) -> Option<usize> {
        let tag = self.current_tag(object.addr());
        if tag == LARGE && object.addr().is_multiple_of(FRAME_BYTES) {
            let block = self.managed_frame_at(object).expect("a tagged frame is managed");
            return Some(Frames::of(self.machine()).state(block).order().bytes());
        }
        let geometry = self.cache(tag_cache(tag))?.geometry;
        geometry.is_object(object.addr()).then(|| geometry.usable())
    }

    /// Makes an object at least `size` bytes large, moving it if need be; the contents up to the smaller of the two
    /// sizes are kept. Null allocates; 0 bytes frees and returns [`ZERO_SIZE_PTR`]. On failure null is returned and the
    /// object is as it was. Linux's `krealloc`.
    ///
    /// # Safety
    ///
    /// `object` is null or an object of the family that nobody else uses; after success only the result may be used.
    ///
    /// # Panics
    ///
    /// As [`Self::kfree`].
    #[track_caller]
    pub unsafe fn krealloc(&self, object: *mut u8, size: usize, gfp: Gfp) -> *mut u8 {
        if size == 0 {
            // SAFETY: the caller's promise.
            unsafe { self.kfree(object) };
            return ZERO_SIZE_PTR;
        }
        let old = self.ksize(object);
        if old >= size {
            self.resized(object, object, size);
            return object;
        }
        if old == 0 {
            return self.kmalloc(size, gfp);
        }
        let new = self.kmalloc_untold(size, gfp);
        if !new.is_null() {
            self.resized(object, new, size);
            // SAFETY: both objects have at least `old` bytes, and a new object overlaps no other.
            unsafe { ptr::copy_nonoverlapping(object, new, old) };
            // SAFETY: the caller's promise.
            unsafe { self.kfree_untold(object) };
        }
        new
    }

    /// A copy of `bytes` in memory of its own; null on failure. Linux's `kmemdup`.
    #[track_caller]
    pub fn kmemdup(&self, bytes: &[u8], gfp: Gfp) -> *mut u8 {
        let copy = self.kmalloc(bytes.len(), gfp);
        if !copy.is_null() {
            // SAFETY: the object has at least that many bytes and is new. For no bytes nothing is copied.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len()) };
        }
        copy
    }

    /// Allocates `size` bytes aligned to `align`, a power of two of at most [`MAX_SIZE`]; null on failure. What the
    /// global allocators use: free it with [`Self::kfree`].
    #[inline(always)]
    #[track_caller]
    pub fn kmalloc_aligned(&self, size: usize, align: usize, gfp: Gfp) -> *mut u8 {
        self.kmalloc(aligned_size(size, align), gfp)
    }
}

/// A size whose natural alignment is at least `align`.
#[inline(always)]
pub(crate) const fn aligned_size(size: usize, align: usize) -> usize {
    if align <= 8 {
        return size;
    }
    // Every class is a multiple of each power of two that its requests are; page blocks are aligned to their size.
    match size.checked_add(align - 1) {
        Some(sum) => sum & !(align - 1),
        None => usize::MAX,
    }
}

/// The cache for a small request that must come from a low zone.
fn low_zone_cache(size: usize, gfp: Gfp) -> Option<usize> {
    let base = if gfp.contains(Gfp::DMA) {
        DMA_BASE
    } else if gfp.contains(Gfp::DMA32) {
        DMA32_BASE
    } else {
        return None;
    };
    let power = size.next_power_of_two().max(8).trailing_zeros() as usize - 3;
    (power < POWERS).then_some(base + power)
}

/// Sets words to zero: in a kernel by a string instruction, as Linux does; a process has a library that knows its processor.
///
/// # Safety
///
/// `object` is the start of as many words, which are the caller's alone.
#[inline(always)]
unsafe fn zero_words(object: *mut u8, words: usize) {
    #[cfg(feature = "hosted")]
    // SAFETY: the caller's promise.
    unsafe {
        object.write_bytes(0, 8 * words);
    }
    #[cfg(not(feature = "hosted"))]
    // SAFETY: the caller's promise; the direction flag is clear by every calling convention.
    unsafe {
        core::arch::asm!(
            "rep stosq",
            inout("rdi") object => _,
            inout("rcx") words => _,
            in("rax") 0,
            options(nostack, preserves_flags),
        );
    }
}

/// # Safety
///
/// `address` is null, or the start of `size` bytes that are the caller's alone; with `size` 0 it may be anything.
#[inline(always)]
unsafe fn zeroed(address: *mut u8, size: usize, gfp: Gfp) -> *mut u8 {
    if gfp.contains(Gfp::ZERO) && !address.is_null() {
        // SAFETY: the caller's promise.
        unsafe { address.write_bytes(0, size) };
    }
    address
}
