//! Witnesses of the statistics: what is in use, counted by looking at every object and every frame; and whether the free
//! lists are as they must be.
//!
//! Used by tests. Slow, and only while nobody else uses the service.

use crate::class::tag_cache;
use crate::frame::{Frames, Kind, Pfn, State};
use crate::machine::Machine;
use crate::service::Service;
use crate::zone::Broken;

impl<M: Machine> Service<M> {
    /// Bytes of objects in use, found by looking at every object of every slab: slow, and the witness that
    /// [`Statistics::slab_in_use`](super::Statistics::slab_in_use) tells the truth: that and the
    /// [objects](super::PoolBytes::objects) in pools' reserves, which look no different. An object in use whose owner has
    /// the mark of free ones in its first word, as padding can by accident, is not found. Only while nobody else uses
    /// the service.
    pub fn count_objects_in_use(&self) -> u64 {
        let mut bytes = 0;
        self.for_each_head(Kind::is_slab, |slab, _| {
            let cache = self.cache(tag_cache(Frames::of(self.machine()).tag(slab)));
            let view = self.slab_view(&cache.expect("a cache lives while it has slabs"));
            let in_use = (0..view.geometry.objects).filter(|&index| {
                // SAFETY: the slab's frames are mapped and stay a slab, for nobody else uses the service meanwhile.
                unsafe { !view.is_marked(view.object(slab, index)) }
            });
            bytes += in_use.count() as u64 * u64::from(view.geometry.size);
        });
        bytes
    }

    /// Frames of blocks callers, memory pools or the service itself took from the page layer, slabs aside, found by looking at every
    /// frame. Only while nobody else uses the service.
    pub fn count_page_frames(&self) -> u64 {
        let mut frames = 0;
        self.for_each_head(Kind::is_in_use, |_, state| frames += u64::from(state.order().frames()));
        self.for_each_head(|kind| kind == Kind::Contig, |head, _| frames += u64::from(self.run_frames(head)));
        frames
    }

    pub(crate) fn for_each_head(&self, is_wanted: impl Fn(Kind) -> bool, mut each: impl FnMut(Pfn, State)) {
        let frames = Frames::of(self.machine());
        for frame in (0..self.machine().frame_limit()).map(Pfn) {
            let state = frames.state(frame);
            if is_wanted(state.kind()) {
                each(frame, state);
            }
        }
    }

    /// Checks every zone's free lists.
    ///
    /// # Errors
    ///
    /// The first broken invariant found.
    pub fn validate(&self) -> Result<(), Broken> {
        self.nodes().with_memory().flat_map(|(_, node)| &node.zones).try_for_each(|zone| zone.validate(self.machine()))
    }
}
