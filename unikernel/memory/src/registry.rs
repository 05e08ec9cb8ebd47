//! Which caches there are: from the cache id of a tag to what the slow paths must know of it.
//!
//! Used by the slab layer and by statistics. The kmalloc family's caches are constants; see [`class`](crate::class).

use core::fmt;

use quarry_topology::NodeId;

use crate::class::{CACHES, DMA_BASE, DMA32_BASE, GEOMETRY, Geometry, MAGAZINES};
use crate::depot::Depot;
use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::service::Service;

/// A cache, as the slow paths see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheView {
    /// Cache part of the tags of its objects.
    pub(crate) id: usize,
    pub(crate) geometry: Geometry,
    /// Which memory its slabs are: flags that every request for a slab has.
    pub(crate) gfp: Gfp,
    pub(crate) name: CacheName,
}

/// The name of a cache, as `/proc/slabinfo` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheName {
    /// Of a cache of the kmalloc family: what stands before the size, and the size in bytes.
    Kmalloc(&'static str, u32),
}

impl fmt::Display for CacheName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Kmalloc(prefix, size) if size.is_multiple_of(1024) => write!(f, "{prefix}{}k", size / 1024),
            Self::Kmalloc(prefix, size) => write!(f, "{prefix}{size}"),
        }
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
        let geometry = GEOMETRY[id];
        Self { id, geometry, gfp, name: CacheName::Kmalloc(prefix, geometry.size) }
    }

    /// Whether CPUs have magazines for its objects; else these go straight to the depots.
    pub(crate) fn has_magazines(&self) -> bool {
        self.id < MAGAZINES
    }
}

impl<M: Machine> Service<M> {
    /// The cache with that id; `None` when there is none.
    #[expect(clippy::unused_self, reason = "caches made while it runs are the service's")]
    pub(crate) fn cache(&self, id: usize) -> Option<CacheView> {
        (id < CACHES && GEOMETRY[id].size > 0).then(|| CacheView::kmalloc(id))
    }

    /// All caches.
    pub(crate) fn caches(&self) -> impl Iterator<Item = CacheView> {
        (0..CACHES).filter_map(|id| self.cache(id))
    }

    /// A cache's depot on a node; `None` for a node without memory.
    pub(crate) fn depot(&self, node: NodeId, id: usize) -> Option<&Depot> {
        self.nodes().get(node)?.depots.get(id)
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
}
