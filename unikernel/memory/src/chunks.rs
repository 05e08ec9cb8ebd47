//! Chunks: the pieces of pages that the stacks of depots and CPUs are made of.
//!
//! Used by the slab layer, when a [stack](crate::chunk_stack) is too small, and by [`drain`](crate::drain). There are
//! some sixty stacks a node and a CPU, and most of them have few objects: a page for each would be most of what the
//! service takes for itself beside the tables of frames. So pages are cut up as slabs are, and a [`Depot`] without a
//! stack of its own keeps account of the pieces: one a node. Its pages have no tag, for a chunk is no object that
//! anybody could free.
//!
//! No lock is held while a chunk is got or given back but that of this depot.

use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use quarry_topology::NodeId;

use crate::chunk_stack::{CHUNK_BYTES, ChunkList};
use crate::class::Geometry;
use crate::depot::SlabView;
use crate::frame::{FrameList, Frames, Order};
use crate::machine::Machine;
use crate::service::Service;
use crate::set::Places;

/// How a page is cut up.
const CHUNKS: Geometry = Geometry::new(CHUNK_BYTES as u32);

const _: () = assert!(CHUNKS.order.get() == 0, "chunks are pieces of single pages");

/// Chunks of a page.
pub(crate) const CHUNKS_A_PAGE: usize = CHUNKS.objects as usize;

impl<M: Machine> Service<M> {
    /// A new page all of whose chunks are the caller's: for a CPU, so that no other one uses the lines next to its own,
    /// which processors fetch ahead. Each can be [taken back](Self::return_chunk) by itself.
    pub(crate) fn new_chunk_page(&self, node: NodeId) -> Option<impl Iterator<Item = *mut u8>> {
        let depot = &self.nodes().get(node)?.stack_chunks;
        let (page, view) = (self.spare_block(node, Order::ZERO)?, self.chunk_view());
        self.claim_frames(1);
        view.take_whole(page);
        depot.lock(self.machine()).add_whole_slabs(1);
        Some((0..CHUNKS_A_PAGE as u32).map(move |chunk| view.object(page, chunk)))
    }

    /// Brings up to so many new chunks, as far as there is memory to spare and `accept` takes them. No lock is held
    /// when it is called.
    #[cold]
    pub(crate) fn bring_chunks(&self, node: NodeId, chunks: u32, accept: &mut dyn FnMut(*mut u8) -> bool) {
        for _ in 0..chunks {
            let Some(chunk) = self.new_chunk(node) else { return };
            if !accept(chunk) {
                self.return_chunk(chunk);
                return;
            }
        }
    }

    fn new_chunk(&self, node: NodeId) -> Option<*mut u8> {
        let (depot, view) = (&self.nodes().get(node)?.stack_chunks, self.chunk_view());
        let (mut chunk, count) = ([ptr::null_mut()], AtomicU32::new(0));
        let places = Places::of(&mut chunk, &count);
        if depot.lock(self.machine()).take(view, 1, places) == 0 {
            let page = self.spare_block(node, Order::ZERO)?;
            self.claim_frames(1);
            view.format(page);
            let mut depot = depot.lock(self.machine());
            depot.add_slab(view, page);
            depot.take(view, 1, places);
        }
        (count.load(Relaxed) > 0).then_some(chunk[0])
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
            node.stack_chunks.shrink(self.machine(), view, &mut surplus, &mut ChunkList::new());
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
