//! [`Metadata`]: what the service's own memory consists of.

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use super::Report;
use crate::frame::FRAME_BYTES;
use crate::machine::Machine;
use crate::service::Service;

/// What the row `metadata` of [`Statistics`](super::Statistics) consists of, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Tables of frames, 16 bytes a frame, as far as they are filled, and page tables of theirs.
    pub frame_tables: u64,
    /// The nodes' state with the depots of kmalloc, and the table of pageblocks.
    pub nodes: u64,
    /// What CPUs have for themselves: two sets each.
    pub sets: u64,
    /// Stacks of depots: pointers to free objects.
    pub stacks: u64,
    /// Descriptors, depots and magazines of caches made while the service runs.
    pub caches: u64,
    /// Headers and page tables of `vmalloc`.
    pub mappings: u64,
    /// Descriptors and trees of VM objects.
    pub vm_objects: u64,
}

impl Metadata {
    /// The parts by name, in the order of the fields.
    pub fn parts(&self) -> [(&'static str, u64); 7] {
        [
            ("frame_tables", self.frame_tables),
            ("nodes", self.nodes),
            ("sets", self.sets),
            ("stacks", self.stacks),
            ("caches", self.caches),
            ("mappings", self.mappings),
            ("vm_objects", self.vm_objects),
        ]
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.parts().iter().map(|(_, bytes)| bytes).sum()
    }
}

impl fmt::Display for Metadata {
    /// A line for each part and one for the total, in bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = self.parts().into_iter().chain([("total", self.total())]);
        lines.try_for_each(|(name, bytes)| writeln!(f, "{name:<17} {bytes:>15}"))
    }
}

/// [`Metadata`] as a report.
pub struct MetadataParts<'s, M: Machine>(pub &'s Service<M>);

impl<M: Machine> Report for MetadataParts<'_, M> {
    fn name(&self) -> &'static str {
        "metadata"
    }

    fn for_each_value(&self, each: &mut dyn FnMut(&dyn fmt::Display, &dyn fmt::Display, u64)) {
        let metadata = self.0.metadata();
        metadata
            .parts()
            .into_iter()
            .chain([("total", metadata.total())])
            .for_each(|(name, bytes)| each(&"", &name, bytes));
    }
}

impl<M: Machine> fmt::Display for MetadataParts<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.metadata().fmt(f)
    }
}

impl<M: Machine> Service<M> {
    /// What the service's own memory consists of: the row `metadata` of [`Self::statistics`] in its parts.
    pub fn metadata(&self) -> Metadata {
        let bytes = |frames: u64| frames * FRAME_BYTES as u64;
        let nodes = || self.nodes().with_memory().map(|(_, node)| node);
        let tables = nodes().flat_map(|node| &node.zones).map(|zone| u64::from(zone.metadata.load(Relaxed))).sum();
        let stacks = nodes().map(|node| u64::from(node.stack_chunks.counts(self.machine()).slabs)).sum();
        Metadata {
            frame_tables: bytes(tables),
            nodes: bytes(self.node_frames()),
            sets: bytes(self.set_frames()),
            stacks: bytes(stacks),
            caches: bytes(self.registry().frames()),
            mappings: bytes(self.mapping_frames()),
            vm_objects: bytes(self.vm_store_frames()),
        }
    }
}
