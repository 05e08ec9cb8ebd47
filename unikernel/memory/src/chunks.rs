//! Chunks: the pieces of pages that depots' stacks are made of.
//!
//! Used by the slab layer, when a [depot's stack](crate::chunk_stack) is too small, and by [`drain`](crate::drain). There are
//! some sixty depots a node, and most of them have few objects at hand: a page for each would be most of what the service
//! takes for itself beside the tables of frames. So pages are cut up as slabs are, and a [`Depot`] without a stack of its
//! own keeps account of the pieces: one a node. Its pages have no tag, for a chunk is no object that anybody could free.
//!
//! No lock is held while a chunk is got or given back but that of this depot.

use core::sync::atomic::Ordering::Relaxed;

use quarry_topology::NodeId;

use crate::class::Geometry;
use crate::depot::{Depot, SlabView};
use crate::chunk_stack::{CHUNK_BYTES, ChunkList};
use crate::frame::{FrameList, Frames, Order};
use crate::machine::Machine;
use crate::registry::CacheShape;
use crate::service::Service;

/// How a page is cut up.
const CHUNKS: Geometry = Geometry::new(CHUNK_BYTES as u32);

const _: () = assert!(CHUNKS.order.get() == 0, "chunks are pieces of single pages");

impl<M: Machine> Service<M> {
    /// Gives a depot's stack so many chunks more, as far as there is memory to spare.
    #[cold]
    pub(crate) fn grow_stack(&self, depot: &Depot, cache: &CacheShape, node: NodeId, chunks: u32) {
        let capacity = self.stack_capacity(&cache.geometry);
        for _ in 0..chunks {
            let Some(chunk) = self.new_chunk(node) else { return };
            // SAFETY: the chunk was taken just now, and comes back after the stack has given it up.
            let taken = unsafe { depot.lock(self.machine()).add_stack_chunk(chunk, capacity) };
            if !taken {
                self.return_chunk(chunk);
                return;
            }
        }
    }

    fn new_chunk(&self, node: NodeId) -> Option<*mut u8> {
        let (depot, view) = (&self.nodes().get(node)?.stack_chunks, self.chunk_view());
        let mut chunk = None;
        depot.lock(self.machine()).take(view, 1, |taken| chunk = taken.first().copied());
        if chunk.is_none() {
            let page = self.spare_block(node, Order::ZERO)?;
            self.claim_frames(1);
            view.format(page);
            let mut depot = depot.lock(self.machine());
            depot.add_slab(view, page);
            depot.take(view, 1, |taken| chunk = taken.first().copied());
        }
        chunk
    }

    /// Takes back a chunk that a stack gave up.
    pub(crate) fn return_chunk(&self, chunk: *mut u8) {
        let (view, mut surplus) = (self.chunk_view(), FrameList::new());
        let node = view.frames.state(view.frame_of(chunk)).zone().node();
        let depot = &self.nodes().get(node).expect("a chunk is of a node with memory").stack_chunks;
        depot.lock(self.machine()).give(view, &[chunk], false, &mut surplus);
        self.release_chunk_pages(surplus);
    }

    /// Gives pages of which no chunk is used back to the page layer.
    pub(crate) fn shrink_chunks(&self) {
        let (view, mut surplus) = (self.chunk_view(), FrameList::new());
        for (_, node) in self.nodes().with_memory() {
            node.stack_chunks.lock(self.machine()).shrink(view, &mut surplus, &mut ChunkList::new());
        }
        self.release_chunk_pages(surplus);
    }

    fn release_chunk_pages(&self, mut pages: FrameList) {
        let frames = Frames::of(self.machine());
        while let Some(page) = pages.pop(frames) {
            // What was a slab's word is the reference count of a page.
            frames.frame(page).word.store(1, Relaxed);
            self.return_frames(1);
            self.__free_pages(page, Order::ZERO);
        }
    }

    fn chunk_view(&self) -> SlabView {
        SlabView {
            frames: Frames::of(self.machine()),
            geometry: CHUNKS,
            direct_map: self.machine().direct_map(),
            secret: self.secret(),
        }
    }
}
