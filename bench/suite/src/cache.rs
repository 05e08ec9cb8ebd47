//! [`Cache`]: blocks that nobody needs but somebody may use again, kept until memory is short.
//!
//! Used by the [edge](mod@crate::edge) run, which fills it, and by the allocator under test, which has it give up its
//! oldest blocks through whatever it calls a shrinker. A shelf for each node, so that it can be asked for memory of one.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use quarry_topology::NodeId;
use spin::Mutex;

use crate::checked::Held;
use crate::stress::Owned;
use crate::subject::Subject;

/// Blocks in the order they were used, on shelves by node. Takes no memory after it is made.
///
/// A shelf's lock guards it; nothing is allocated, freed or waited for under it.
pub struct Cache<S: Subject + Copy> {
    subject: S,
    shelves: Vec<Mutex<VecDeque<Owned<S::Block>>>>,
    given_up: AtomicU64,
    errors: AtomicU64,
}

impl<S: Subject + Copy> Cache<S> {
    /// An empty one for that many nodes, each with room for `capacity` blocks.
    pub fn new(subject: S, nodes: usize, capacity: usize) -> Self {
        let shelf = || Mutex::new(VecDeque::with_capacity(capacity));
        let shelves = core::iter::repeat_with(shelf).take(nodes).collect();
        Self { subject, shelves, given_up: AtomicU64::new(0), errors: AtomicU64::new(0) }
    }

    /// How many blocks of a node there are.
    pub fn count(&self, node: NodeId) -> usize {
        self.shelves.get(node.index()).map_or(0, |shelf| shelf.lock().len())
    }

    /// Gives up to `count` of a node's blocks back, the oldest first; returns how many.
    pub fn give_up(&self, node: NodeId, count: usize) -> usize {
        let given_up = (0..count).take_while(|_| self.free_oldest(node.index())).count();
        self.given_up.fetch_add(given_up as u64, Relaxed);
        given_up
    }

    /// How many blocks it has given up when it was asked to.
    pub(crate) fn given_up(&self) -> u64 {
        self.given_up.load(Relaxed)
    }

    /// Puts a block in as the newest; where there is no room the oldest goes.
    pub(crate) fn put(&self, owned: Owned<S::Block>) {
        let node = self.subject.node_of(&owned.held.block).map_or(0, NodeId::index);
        let mut owned = Some(owned);
        loop {
            {
                let mut blocks = self.shelves[node].lock();
                if blocks.len() < blocks.capacity() {
                    blocks.extend(owned.take());
                    return;
                }
            }
            self.free_oldest(node);
        }
    }

    /// Puts a page in as the newest, and looks at it never; beyond `most` of its node the oldest goes.
    pub(crate) fn keep(&self, page: S::Block, most: usize) {
        let node = self.subject.node_of(&page).unwrap_or(NodeId(0));
        self.put(Owned { held: Held { block: page, length: 0, seed: 0 }, order: Some(0) });
        if self.count(node) > most {
            self.free_oldest(node.index());
        }
    }

    /// Uses a block, so that it is the newest.
    pub(crate) fn touch(&self, which: u64) {
        let mut blocks = self.shelves[which as usize % self.shelves.len()].lock();
        if let Some(last) = blocks.len().checked_sub(1) {
            let place = (which >> 32) as usize % (last + 1);
            blocks.swap(place, last);
        }
    }

    /// Gives all back; returns how many blocks were not as they were put in, now or before.
    pub(crate) fn clear(&self) -> u64 {
        for node in 0..self.shelves.len() {
            while self.free_oldest(node) {}
        }
        self.errors.load(Relaxed)
    }

    fn free_oldest(&self, node: usize) -> bool {
        let Some(owned) = self.shelves.get(node).and_then(|shelf| shelf.lock().pop_front()) else { return false };
        let mut errors = 0;
        owned.give_back(&self.subject, &mut errors);
        self.errors.fetch_add(errors, Relaxed);
        true
    }
}
