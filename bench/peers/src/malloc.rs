//! Peers with `malloc` and `free`: [`Malloc`] is what they are asked for, [`MallocSubject`] makes a subject of one.

use std::marker::PhantomData;

use quarry_subjects::{Memory, contents_of_memory};
use quarry_suite::{Empty, Feature, Subject};
use quarry_topology::NodeId;

/// An allocator with the interface of C's.
pub trait Malloc: Copy + Send + Sync + 'static {
    /// Its name in the results.
    const NAME: &'static str;

    /// At least `size` bytes, or null.
    fn malloc(size: usize) -> *mut u8;

    /// At least `bytes` bytes aligned to `bytes`, a power of two of at least a page; or null.
    fn malloc_aligned(bytes: usize) -> *mut u8;

    /// Frees what either of the others returned.
    ///
    /// # Safety
    ///
    /// It did, and nobody uses the memory any more.
    unsafe fn free(block: *mut u8);
}

/// The system's own: glibc's, or what is preloaded in its place.
#[derive(Clone, Copy, Debug)]
pub struct System;

impl Malloc for System {
    const NAME: &'static str = "system";

    #[inline(always)]
    fn malloc(size: usize) -> *mut u8 {
        // SAFETY: may be called with any size.
        unsafe { libc::malloc(size) }.cast()
    }

    #[inline(always)]
    fn malloc_aligned(bytes: usize) -> *mut u8 {
        // SAFETY: the alignment is a power of two.
        unsafe { libc::aligned_alloc(bytes, bytes) }.cast()
    }

    #[inline(always)]
    unsafe fn free(block: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { libc::free(block.cast()) }
    }
}

/// microsoft/mimalloc.
#[derive(Clone, Copy, Debug)]
pub struct Mimalloc;

impl Malloc for Mimalloc {
    const NAME: &'static str = "mimalloc";

    #[inline(always)]
    fn malloc(size: usize) -> *mut u8 {
        // SAFETY: may be called with any size.
        unsafe { libmimalloc_sys::mi_malloc(size) }.cast()
    }

    #[inline(always)]
    fn malloc_aligned(bytes: usize) -> *mut u8 {
        // SAFETY: the alignment is a power of two.
        unsafe { libmimalloc_sys::mi_malloc_aligned(bytes, bytes) }.cast()
    }

    #[inline(always)]
    unsafe fn free(block: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { libmimalloc_sys::mi_free(block.cast()) }
    }
}

/// jemalloc/jemalloc, as packaged by `TiKV`.
#[derive(Clone, Copy, Debug)]
pub struct Jemalloc;

impl Malloc for Jemalloc {
    const NAME: &'static str = "jemalloc";

    #[inline(always)]
    fn malloc(size: usize) -> *mut u8 {
        // SAFETY: may be called with any size.
        unsafe { tikv_jemalloc_sys::malloc(size) }.cast()
    }

    #[inline(always)]
    fn malloc_aligned(bytes: usize) -> *mut u8 {
        // SAFETY: the alignment is a power of two.
        unsafe { tikv_jemalloc_sys::aligned_alloc(bytes, bytes) }.cast()
    }

    #[inline(always)]
    unsafe fn free(block: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { tikv_jemalloc_sys::free(block.cast()) }
    }
}

/// microsoft/snmalloc.
#[cfg(feature = "snmalloc")]
#[derive(Clone, Copy, Debug)]
pub struct Snmalloc;

#[cfg(feature = "snmalloc")]
impl Malloc for Snmalloc {
    const NAME: &'static str = "snmalloc";

    #[inline(always)]
    fn malloc(size: usize) -> *mut u8 {
        // SAFETY: may be called with any size.
        unsafe { snmalloc_sys::sn_malloc(size) }.cast()
    }

    #[inline(always)]
    fn malloc_aligned(bytes: usize) -> *mut u8 {
        // SAFETY: the alignment is a power of two.
        unsafe { snmalloc_sys::sn_rust_alloc(bytes, bytes) }.cast()
    }

    #[inline(always)]
    unsafe fn free(block: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { snmalloc_sys::sn_free(block.cast()) }
    }
}

/// The alignment the peers promise: that of C's `max_align_t`, and 8 for what is smaller.
pub(crate) fn malloc_alignment(size: usize) -> usize {
    if size < 16 { 8 } else { 16 }
}

/// What the workloads see of a [`Malloc`]. Its functions stand in other objects, so that a call of them stays a call.
#[derive(Clone, Copy, Debug)]
pub struct MallocSubject<M>(PhantomData<M>);

impl<M> MallocSubject<M> {
    /// The subject of that allocator.
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<M> Default for MallocSubject<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: Malloc> Subject for MallocSubject<M> {
    type Block = Memory;
    type Objects = Empty;

    const NAME: &'static str = M::NAME;

    const FEATURES: &'static [Feature] =
        &[Feature::Sizes, Feature::Large, Feature::Inlined, Feature::Nodes, Feature::Pages];

    #[inline(always)]
    fn allocate(&self, size: usize) -> Option<Memory> {
        // SAFETY: malloc hands out memory nobody else has.
        unsafe { Memory::new(M::malloc(size)) }
    }

    #[inline(always)]
    fn free(&self, block: Memory) {
        // SAFETY: the token came from this allocator and is used up.
        unsafe { M::free(block.into_raw()) }
    }

    #[inline(always)]
    fn allocate_inlined<const SIZE: usize>(&self) -> Option<Memory> {
        self.allocate(SIZE)
    }

    #[inline(always)]
    fn free_inlined(&self, block: Memory) {
        self.free(block);
    }

    fn allocate_on(&self, size: usize, _node: NodeId) -> Option<Memory> {
        self.allocate(size)
    }

    #[inline(always)]
    fn allocate_pages(&self, order: u32) -> Option<Memory> {
        // SAFETY: as in `allocate`.
        unsafe { Memory::new(M::malloc_aligned(4096 << order)) }
    }

    #[inline(always)]
    fn free_pages(&self, block: Memory, _order: u32) {
        self.free(block);
    }

    contents_of_memory!();

    fn alignment(&self, size: usize) -> usize {
        // Page blocks promise more: that has a test of its own.
        malloc_alignment(size)
    }
}
