//! [`Ballast`]: memory taken so that little is left, and [`occupy`], which takes it.
//!
//! Used by the workloads under pressure, through [`Subject::occupy`](crate::Subject::occupy), which allocators that can
//! be asked for memory of a node implement with [`occupy`].

use alloc::sync::Arc;
use alloc::vec::Vec;

use quarry_topology::NodeId;
use spin::Mutex;

use crate::cache::Cache;
use crate::subject::{Pressed, Way};

/// Bytes of a page.
const PAGE: u64 = 4096;

/// Largest order ballast is taken in: 4 MiB, so that filling all of memory is a matter of milliseconds.
const LARGEST: u32 = 10;

/// Memory taken so that little is left. Its drop gives all of it back.
pub trait Ballast: Send + Sync {
    /// Takes a page near the calling CPU that nobody needs, for its contents can be had again, and keeps it until memory
    /// is short or there are as many as there were at first; then the oldest goes. So does a page of a file that is read.
    fn cache_page(&self);
}

/// Of those who have no memory.
impl Ballast for () {
    fn cache_page(&self) {}
}

/// Memory of a node. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeMemory {
    /// All there is.
    pub total: u64,
    /// Of that, what is free.
    pub free: u64,
}

/// Takes memory of every node until `leave` bytes are free, each node having its part by its size. `nodes` are all there
/// are, by number. The last `cached` bytes are put into `cache`, which the allocator is to ask for memory when it has
/// none, and which is empty when the ballast is gone. There is to be one ballast at a time.
pub fn occupy<S: Pressed + Copy>(
    subject: S,
    nodes: &[NodeMemory],
    leave: u64,
    cached: u64,
    cache: &'static Cache<S>,
) -> Arc<dyn Ballast> {
    let total: u64 = nodes.iter().map(|node| node.total).sum();
    let part =
        |bytes: u64, node: &NodeMemory| (u128::from(bytes) * u128::from(node.total) / u128::from(total.max(1))) as u64;
    let mut blocks = Vec::new();
    let mut most_cached = Vec::new();
    for (node, memory) in nodes.iter().enumerate() {
        let id = NodeId(node as u8);
        let pages = part(cached, memory) / PAGE;
        let mut missing = memory.free.saturating_sub(part(leave, memory) + pages * PAGE);
        for order in (0..=LARGEST).rev() {
            while missing >= PAGE << order
                && let Some(block) = subject.allocate_pages_near(order, id)
            {
                blocks.push((block, order));
                missing -= PAGE << order;
            }
        }
        most_cached.push(pages as usize);
        (0..pages).map_while(|_| subject.allocate_pages_near(0, id)).for_each(|page| cache.keep(page, pages as usize));
    }
    Arc::new(Occupied { subject, blocks: Mutex::new(blocks), most_cached, cache })
}

struct Occupied<S: Pressed + Copy> {
    subject: S,
    /// With their orders. The lock is never taken: it makes what may be sent what may be shared.
    blocks: Mutex<Vec<(S::Block, u32)>>,
    /// Most pages of each node in the cache.
    most_cached: Vec<usize>,
    cache: &'static Cache<S>,
}

impl<S: Pressed + Copy> Ballast for Occupied<S> {
    fn cache_page(&self) {
        if let Some(page) = self.subject.allocate_pages_with(Way::Optional, 0) {
            let node = self.subject.node_of(&page).map_or(0, NodeId::index);
            self.cache.keep(page, self.most_cached.get(node).copied().unwrap_or_default());
        }
    }
}

impl<S: Pressed + Copy> Drop for Occupied<S> {
    fn drop(&mut self) {
        self.cache.clear();
        for (block, order) in self.blocks.get_mut().drain(..) {
            self.subject.free_pages(block, order);
        }
    }
}
