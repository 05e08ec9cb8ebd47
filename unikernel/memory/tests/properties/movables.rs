//! The model's movable pages: their contents follow them wherever compaction moves them.

use std::collections::BTreeSet;

use quarry_memory::hosted::HostedMachine;
use quarry_memory::movable_pages::PinGuard;
use quarry_memory::{Gfp, MovablePage, MovablePages};

use crate::model::Model;

/// A movable page and the number all its words hold.
pub(crate) struct ModelMovable {
    page: MovablePage<HostedMachine>,
    label: u64,
}

impl Model {
    pub(crate) fn alloc_movables(&mut self, count: usize) {
        let Some(set) = self.movable_set.or_else(|| self.make_movable_set()) else { return };
        for _ in 0..count {
            let Some(mut page) = set.alloc(Gfp::KERNEL | Gfp::NOWARN) else { return };
            self.labels += 1;
            let label = self.labels;
            for word in page.pin_mut().chunks_exact_mut(8) {
                word.copy_from_slice(&label.to_le_bytes());
            }
            self.movables.push(ModelMovable { page, label });
        }
    }

    fn make_movable_set(&mut self) -> Option<&'static MovablePages<HostedMachine>> {
        let before = self.in_use();
        self.movable_set = self.service().movable_pages(1024).ok();
        let after = self.in_use();
        (self.set_objects, self.set_pages) = (after.0 - before.0, after.1 - before.1);
        self.movable_set
    }

    pub(crate) fn free_movables(&mut self, stride: usize) {
        let mut number = 0;
        self.movables.retain(|_| {
            number += 1;
            number % stride != 0
        });
    }

    /// Compacts all memory, with every `stride`th movable page pinned.
    pub(crate) fn compact(&self, stride: usize) {
        let pinned: Vec<_> = self.movables.iter().step_by(stride).map(|movable| movable.page.pin()).collect();
        let places: Vec<_> = pinned.iter().map(PinGuard::frame).collect();
        self.service().compact_memory();
        assert!(pinned.iter().map(PinGuard::frame).eq(places), "a pinned page moved");
    }

    /// Bytes of pages in use that are movable, having seen that each holds what it should and no two are one.
    pub(crate) fn check_movables(&self) -> u64 {
        let mut frames = BTreeSet::new();
        for ModelMovable { page, label } in &self.movables {
            let guard = page.pin();
            assert!(guard.chunks_exact(8).all(|word| word == label.to_le_bytes()), "page {label} lost its contents");
            assert!(frames.insert(guard.frame()), "page {label} shares its frame");
        }
        self.movables.len() as u64 * 4096
    }
}
