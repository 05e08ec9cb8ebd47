//! The peers that are heaps in memory they are given.

use alloc::sync::Arc;
use core::alloc::Layout;
use core::ptr::{self, NonNull};

use bitmap_allocator::{BitAlloc, BitAlloc64K};
use quarry_suite::{Feature, LARGE};
use slabmalloc::{AllocationError, Allocator as _, LargeObjectPage, ObjectPage, ZoneAllocator};
use spin::Mutex;

use super::heap::Heap;

const PAGE: usize = 4096;

/// `talc`: bins of free chunks, boundary tags. Kernels have it as their global allocator, behind its `TalcLock`.
pub(super) struct Talc {
    talc: talc::base::Talc<talc::source::Manual, talc::DefaultBinning>,
    /// The end of the heap, once there is one.
    end: Option<NonNull<u8>>,
}

// SAFETY: all it points to is its own memory.
unsafe impl Send for Talc {}

impl Heap for Talc {
    const NAME: &'static str = "talc";

    fn new() -> Self {
        Self { talc: talc::base::Talc::new(talc::source::Manual), end: None }
    }

    unsafe fn grow(&mut self, piece: NonNull<u8>, bytes: usize, _layout: Layout) {
        self.end = match self.end {
            // SAFETY: the caller's promise; the first piece is large enough for the bins.
            None => unsafe { self.talc.claim(piece.as_ptr(), bytes) },
            // SAFETY: the piece lies directly after the heap.
            Some(end) => Some(unsafe { self.talc.extend(end, piece.as_ptr().wrapping_add(bytes)) }),
        };
    }

    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the layout has a size.
        unsafe { self.talc.allocate(layout) }
    }

    #[inline]
    unsafe fn free(&mut self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.talc.deallocate(block.as_ptr(), layout) }
    }
}

/// `rlsf`: two-level segregated fit, in constant time.
pub(super) struct Tlsf {
    tlsf: rlsf::Tlsf<'static, u32, u32, 26, 32>,
    has_memory: bool,
}

impl Heap for Tlsf {
    const NAME: &'static str = "rlsf";

    fn new() -> Self {
        Self { tlsf: rlsf::Tlsf::new(), has_memory: false }
    }

    unsafe fn grow(&mut self, piece: NonNull<u8>, bytes: usize, _layout: Layout) {
        let piece = NonNull::slice_from_raw_parts(piece, bytes);
        if self.has_memory {
            // SAFETY: the caller's promise; the piece lies directly after the last one.
            unsafe { self.tlsf.append_free_block_ptr(piece) };
        } else {
            // SAFETY: the caller's promise.
            self.has_memory = unsafe { self.tlsf.insert_free_block_ptr(piece) }.is_some();
        }
    }

    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.tlsf.allocate(layout)
    }

    #[inline]
    unsafe fn free(&mut self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.tlsf.deallocate(block, layout.align()) }
    }
}

/// `dlmalloc`: Doug Lea's, as Rust's std has it on bare targets. It asks for its memory itself.
pub(super) struct Dlmalloc {
    dlmalloc: dlmalloc::Dlmalloc<Supply>,
    supply: Supply,
}

/// What lies ready for dlmalloc to ask for: address and bytes.
#[derive(Clone)]
struct Supply(Arc<Mutex<Option<(usize, usize)>>>);

// SAFETY: gives out every piece once, and takes none back.
unsafe impl dlmalloc::Allocator for Supply {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        let mut ready = self.0.lock();
        match *ready {
            Some((start, bytes)) if bytes >= size => {
                *ready = None;
                (ptr::with_exposed_provenance_mut(start), bytes, 0)
            }
            _ => (ptr::null_mut(), 0, 0),
        }
    }

    fn remap(&self, _start: *mut u8, _old: usize, _new: usize, _can_move: bool) -> *mut u8 {
        ptr::null_mut()
    }

    fn free_part(&self, _start: *mut u8, _old: usize, _new: usize) -> bool {
        false
    }

    fn free(&self, _start: *mut u8, _bytes: usize) -> bool {
        false
    }

    fn can_release_part(&self, _flags: u32) -> bool {
        false
    }

    fn allocates_zeros(&self) -> bool {
        false
    }

    fn page_size(&self) -> usize {
        PAGE
    }
}

impl Heap for Dlmalloc {
    const NAME: &'static str = "dlmalloc";

    fn new() -> Self {
        let supply = Supply(Arc::new(Mutex::new(None)));
        Self { dlmalloc: dlmalloc::Dlmalloc::new_with_allocator(supply.clone()), supply }
    }

    unsafe fn grow(&mut self, piece: NonNull<u8>, bytes: usize, _layout: Layout) {
        *self.supply.0.lock() = Some((piece.as_ptr().expose_provenance(), bytes));
    }

    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the alignment is a power of two.
        NonNull::new(unsafe { self.dlmalloc.malloc(layout.size(), layout.align()) })
    }

    #[inline]
    unsafe fn free(&mut self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.dlmalloc.free(block.as_ptr(), layout.size(), layout.align()) }
    }
}

/// `linked_list_allocator`: a list of holes, first fit. The one of every tutorial.
pub(super) struct LinkedList(linked_list_allocator::Heap);

impl Heap for LinkedList {
    const NAME: &'static str = "linked-list";

    fn new() -> Self {
        Self(linked_list_allocator::Heap::empty())
    }

    unsafe fn grow(&mut self, piece: NonNull<u8>, bytes: usize, _layout: Layout) {
        if self.0.bottom().is_null() {
            // SAFETY: the caller's promise.
            unsafe { self.0.init(piece.as_ptr(), bytes) }
        } else {
            // SAFETY: the piece lies directly after the heap.
            unsafe { self.0.extend(bytes) }
        }
    }

    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.0.allocate_first_fit(layout).ok()
    }

    #[inline]
    unsafe fn free(&mut self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.0.deallocate(block, layout) }
    }
}

/// `buddy_system_allocator`: a buddy for bytes and pages alike.
pub(super) struct BuddySystem(buddy_system_allocator::Heap<32>);

impl Heap for BuddySystem {
    const NAME: &'static str = "buddy-system";

    const FEATURES: &'static [Feature] = &[Feature::Sizes, Feature::Large, Feature::Pages, Feature::Held];

    fn new() -> Self {
        Self(buddy_system_allocator::Heap::new())
    }

    unsafe fn grow(&mut self, piece: NonNull<u8>, bytes: usize, _layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.0.init(piece.addr().get(), bytes) }
    }

    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.0.alloc(layout).ok()
    }

    #[inline]
    unsafe fn free(&mut self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.0.dealloc(block, layout) }
    }
}

/// `slabmalloc`: slabs of powers of two, in pages of 4 KiB and 2 MiB that it is handed when it has none.
pub(super) struct Slabmalloc {
    zone: ZoneAllocator<'static>,
    /// Small pages it was not handed yet: the next one's address, and the end.
    small: (usize, usize),
}

/// Bytes of the large pages.
const LARGE_PAGE: usize = 2 << 20;

impl Slabmalloc {
    /// Hands over one small page, if there is one.
    #[cold]
    fn refill(&mut self, layout: Layout) -> bool {
        let (page, end) = self.small;
        if page == end {
            return false;
        }
        self.small.0 += PAGE;
        let page = ptr::with_exposed_provenance_mut::<ObjectPage<'static>>(page);
        // SAFETY: the page is part of what `grow` was given, aligned, and nobody else's; any bytes will do.
        unsafe { self.zone.refill(layout, &mut *page) }.is_ok()
    }
}

impl Heap for Slabmalloc {
    const NAME: &'static str = "slabmalloc";

    const FEATURES: &'static [Feature] = if ZoneAllocator::MAX_ALLOC_SIZE > LARGE {
        &[Feature::Sizes, Feature::Large, Feature::Held]
    } else {
        &[Feature::Sizes, Feature::Held]
    };

    const GRANULE: usize = LARGE_PAGE;

    fn new() -> Self {
        Self { zone: ZoneAllocator::new(), small: (0, 0) }
    }

    unsafe fn grow(&mut self, piece: NonNull<u8>, bytes: usize, layout: Layout) {
        if layout.size() <= ZoneAllocator::MAX_BASE_ALLOC_SIZE {
            let start = piece.as_ptr().expose_provenance();
            self.small = (start, start + bytes);
            return;
        }
        for offset in (0..bytes).step_by(LARGE_PAGE) {
            // SAFETY: it lies in the piece, which is aligned to large pages and the caller's to give.
            let page = unsafe { &mut *piece.add(offset).as_ptr().cast::<LargeObjectPage<'static>>() };
            // SAFETY: as above; any bytes will do.
            let refilled = unsafe { self.zone.refill_large(layout, page) };
            debug_assert!(refilled.is_ok(), "it has slabs for all sizes the workloads ask for");
        }
    }

    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        loop {
            match self.zone.allocate(layout) {
                Ok(block) => return Some(block),
                Err(AllocationError::OutOfMemory) if layout.size() <= ZoneAllocator::MAX_BASE_ALLOC_SIZE => {
                    if !self.refill(layout) {
                        return None;
                    }
                }
                Err(_) => return None,
            }
        }
    }

    #[inline]
    unsafe fn free(&mut self, block: NonNull<u8>, layout: Layout) {
        self.zone.deallocate(block, layout).expect("it came from here with that layout");
    }
}

/// `bitmap-allocator`: page frames in a tree of bitmaps, as rCore has them.
pub(super) struct Bitmap {
    bits: BitAlloc64K,
    /// The first page's address, once there is one, and how many there are.
    start: Option<NonNull<u8>>,
    pages: usize,
}

// SAFETY: all it points to is its own memory.
unsafe impl Send for Bitmap {}

impl Heap for Bitmap {
    const NAME: &'static str = "bitmap";

    const FEATURES: &'static [Feature] = &[Feature::Pages];

    fn new() -> Self {
        Self { bits: BitAlloc64K::default(), start: None, pages: 0 }
    }

    unsafe fn grow(&mut self, piece: NonNull<u8>, bytes: usize, _layout: Layout) {
        self.start.get_or_insert(piece);
        let end = (self.pages + bytes / PAGE).min(BitAlloc64K::CAP);
        self.bits.insert(self.pages..end);
        self.pages = end;
    }

    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let pages = layout.size() / PAGE;
        let page = if pages == 1 {
            self.bits.alloc()
        } else {
            // Bits count from the first page, which is aligned to the largest block.
            self.bits.alloc_contiguous(None, pages, pages.trailing_zeros() as usize)
        }?;
        // SAFETY: bits stand for pages it was given.
        self.start.map(|start| unsafe { start.add(page * PAGE) })
    }

    #[inline]
    unsafe fn free(&mut self, block: NonNull<u8>, layout: Layout) {
        let start = self.start.expect("it had memory when it gave this out");
        let page = (block.addr().get() - start.addr().get()) / PAGE;
        self.bits.dealloc_contiguous(page, layout.size() / PAGE);
    }
}
