//! [`PeerSubject`]: a peer as the workloads see it.

use alloc::sync::Arc;
use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::slice;

use quarry_suite::{Empty, Feature, Subject, pattern};
use quarry_topology::NodeId;

const PAGE: usize = 4096;

/// Most memory a peer gets, where there is as much in one piece.
pub(crate) const MOST_BYTES: usize = 1 << 30;

/// An allocator beside ours, usable from all CPUs.
pub(crate) trait Peer: Send + Sync + 'static {
    /// Its name.
    const NAME: &'static str;

    /// What it can do.
    const FEATURES: &'static [Feature];

    /// A new one, which takes no memory before it is asked for some.
    fn start() -> Self;

    /// Memory of that layout; `None` when it has none.
    fn allocate(&self, layout: Layout) -> Option<NonNull<u8>>;

    /// Takes memory back.
    ///
    /// # Safety
    ///
    /// It came from [`Self::allocate`] with that layout, and nobody uses it.
    unsafe fn free(&self, block: NonNull<u8>, layout: Layout);

    /// The same for blocks of pages, aligned to their size.
    fn allocate_pages(&self, order: u32) -> Option<NonNull<u8>> {
        self.allocate(pages(order))
    }

    /// # Safety
    ///
    /// As for [`Self::free`], of a block from [`Self::allocate_pages`].
    unsafe fn free_pages(&self, block: NonNull<u8>, order: u32) {
        // SAFETY: the caller's promise.
        unsafe { self.free(block, pages(order)) }
    }

    /// Bytes it has been given so far.
    fn held(&self) -> u64;
}

/// A handle on a peer. One type for all of them: the workloads' code is there once, not once for each, for one
/// instruction an operation more than a call of the peer itself would take: the call goes by way of a table.
#[derive(Clone)]
pub(crate) struct PeerSubject {
    peer: Arc<dyn AnyPeer>,
    start: fn() -> Self,
    features: &'static [Feature],
}

impl PeerSubject {
    /// A handle on a new peer.
    pub(crate) fn start<P: Peer>() -> Self {
        Self { peer: Arc::new(P::start()), start: Self::start::<P>, features: P::FEATURES }
    }
}

/// What a [`Peer`] does, whatever its type.
trait AnyPeer: Send + Sync {
    fn allocate(&self, size: usize) -> Option<NonNull<u8>>;

    unsafe fn free(&self, block: NonNull<u8>, size: usize);

    fn allocate_pages(&self, order: u32) -> Option<NonNull<u8>>;

    unsafe fn free_pages(&self, block: NonNull<u8>, order: u32);

    fn held(&self) -> u64;
}

impl<P: Peer> AnyPeer for P {
    fn allocate(&self, size: usize) -> Option<NonNull<u8>> {
        Peer::allocate(self, layout(size))
    }

    unsafe fn free(&self, block: NonNull<u8>, size: usize) {
        // SAFETY: the caller's promise.
        unsafe { Peer::free(self, block, layout(size)) }
    }

    fn allocate_pages(&self, order: u32) -> Option<NonNull<u8>> {
        Peer::allocate_pages(self, order)
    }

    unsafe fn free_pages(&self, block: NonNull<u8>, order: u32) {
        // SAFETY: the caller's promise.
        unsafe { Peer::free_pages(self, block, order) }
    }

    fn held(&self) -> u64 {
        Peer::held(self)
    }
}

/// A live allocation, with the size its free has to name.
pub(crate) struct Memory {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: the token owns its memory, and any CPU may use and free what any peer hands out.
unsafe impl Send for Memory {}

/// The alignment of C's `max_align_t`, and 8 for what is smaller: that of a Rust value of that size, at most.
const fn alignment(size: usize) -> usize {
    if size < 16 { 8 } else { 16 }
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, alignment(size)).expect("the suite's sizes are far below the limit")
}

fn pages(order: u32) -> Layout {
    Layout::from_size_align(PAGE << order, PAGE << order).expect("orders are small")
}

impl Subject for PeerSubject {
    type Block = Memory;
    type Objects = Empty;

    const NAME: &'static str = "peer";

    /// Of some of them.
    const FEATURES: &'static [Feature] = &[Feature::Sizes, Feature::Large, Feature::Pages, Feature::Held];

    fn features(&self) -> &'static [Feature] {
        self.features
    }

    fn fresh(&self) -> Self {
        (self.start)()
    }

    #[inline(always)]
    fn allocate(&self, size: usize) -> Option<Memory> {
        self.peer.allocate(size).map(|start| Memory { start, size })
    }

    #[inline(always)]
    fn free(&self, block: Memory) {
        // SAFETY: the token is used up, and carries the size it was allocated with.
        unsafe { self.peer.free(block.start, block.size) }
    }

    fn allocate_inlined<const SIZE: usize>(&self) -> Option<Memory> {
        self.allocate(SIZE)
    }

    fn free_inlined(&self, block: Memory) {
        self.free(block);
    }

    fn allocate_on(&self, size: usize, _node: NodeId) -> Option<Memory> {
        self.allocate(size)
    }

    #[inline(always)]
    fn allocate_pages(&self, order: u32) -> Option<Memory> {
        self.peer.allocate_pages(order).map(|start| Memory { start, size: PAGE << order })
    }

    #[inline(always)]
    fn free_pages(&self, block: Memory, order: u32) {
        // SAFETY: the token is used up; the suite names the order it was allocated with.
        unsafe { self.peer.free_pages(block.start, order) }
    }

    fn address(&self, block: &Memory) -> usize {
        block.start.addr().get()
    }

    fn fill(&self, block: &mut Memory, length: usize, seed: u64) {
        assert!(length <= block.size, "the suite asks for no more than it asked the allocator for");
        // SAFETY: asserted, and the token is borrowed exclusively.
        let bytes = unsafe { slice::from_raw_parts_mut(block.start.as_ptr().cast::<MaybeUninit<u8>>(), length) };
        pattern::fill(bytes, seed);
    }

    fn check(&self, block: &Memory, length: usize, seed: u64) -> bool {
        assert!(length <= block.size, "the suite asks for no more than it asked the allocator for");
        // SAFETY: asserted, and the suite filled the bytes before it checks them.
        pattern::check(unsafe { slice::from_raw_parts(block.start.as_ptr(), length) }, seed)
    }

    fn is_zero(&self, block: &Memory, length: usize) -> bool {
        assert!(length <= block.size, "the suite asks for no more than it asked the allocator for");
        // SAFETY: asserted, and whoever asks has had the bytes initialised.
        pattern::is_zero(unsafe { slice::from_raw_parts(block.start.as_ptr(), length) })
    }

    #[inline(always)]
    fn touch(&self, block: &mut Memory, writes: u32) {
        // SAFETY: every block has a byte, and the token is borrowed exclusively.
        pattern::touch(unsafe { block.start.cast::<MaybeUninit<u8>>().as_mut() }, writes);
    }

    fn alignment(&self, size: usize) -> usize {
        alignment(size)
    }

    fn held(&self) -> Option<u64> {
        Some(self.peer.held())
    }
}
