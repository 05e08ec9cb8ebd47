//! [`Heap`]: an allocator that lies in memory it is given and has no lock; [`Locked`] puts it behind one.

use core::alloc::Layout;
use core::ptr::NonNull;

use quarry_suite::Feature;
use spin::Mutex;

use super::region::Region;
use super::subject::{MOST_BYTES, Peer};

/// Bytes a heap is given at a time, at least.
const PIECE: usize = 64 << 10;

/// A heap as its crate has it.
pub(crate) trait Heap: Send + 'static {
    /// Its crate's name.
    const NAME: &'static str;

    /// What it can do.
    const FEATURES: &'static [Feature] = &[Feature::Sizes, Feature::Large, Feature::Held];

    /// What it is given at a time is a multiple of this, and aligned to it.
    const GRANULE: usize = PIECE;

    /// One that has no memory.
    fn new() -> Self;

    /// Gives it memory, which lies directly after what it was given before.
    ///
    /// # Safety
    ///
    /// So many bytes are the heap's alone as long as it lives.
    unsafe fn grow(&mut self, piece: NonNull<u8>, bytes: usize, layout: Layout);

    /// Memory of that layout; `None` when it has none.
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>>;

    /// Takes memory back.
    ///
    /// # Safety
    ///
    /// It came from [`Self::allocate`] with that layout, and nobody uses it.
    unsafe fn free(&mut self, block: NonNull<u8>, layout: Layout);
}

/// A heap behind a spin lock, as kernels have it for their global allocator.
pub(crate) struct Locked<H> {
    state: Mutex<State<H>>,
}

struct State<H> {
    // First, so that it goes before the memory it lies in.
    heap: H,
    /// Taken when there is need for it.
    region: Option<Region>,
}

impl<H: Heap> State<H> {
    /// Gives the heap enough for an allocation; whether there was enough.
    #[cold]
    fn grow(&mut self, layout: Layout) -> bool {
        // Twice, for headers and alignment.
        let wanted = (2 * layout.size()).next_multiple_of(PIECE.max(H::GRANULE));
        let region = self.region.get_or_insert_with(|| Region::take(MOST_BYTES));
        let Some(piece) = region.next(wanted) else { return false };
        // SAFETY: the piece is part of the region, which goes after the heap and gives each piece out once.
        unsafe { self.heap.grow(piece, wanted, layout) };
        true
    }
}

impl<H: Heap> Peer for Locked<H> {
    const NAME: &'static str = H::NAME;

    const FEATURES: &'static [Feature] = H::FEATURES;

    fn start() -> Self {
        Self { state: Mutex::new(State { heap: H::new(), region: None }) }
    }

    fn allocate(&self, layout: Layout) -> Option<NonNull<u8>> {
        let mut state = self.state.lock();
        loop {
            if let Some(block) = state.heap.allocate(layout) {
                return Some(block);
            }
            if !state.grow(layout) {
                return None;
            }
        }
    }

    unsafe fn free(&self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.state.lock().heap.free(block, layout) }
    }

    fn held(&self) -> u64 {
        self.state.lock().region.as_ref().map_or(0, Region::used) as u64
    }
}
