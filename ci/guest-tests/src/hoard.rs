//! [`Hoard`]: everything a node gives, so that a test sees what happens when memory is gone.

use core::ptr::{self, NonNull};

use quarry_unikernel::memory::service;
use quarry_unikernel::memory_service::{Gfp, NodeId, Order};
use quarry_unikernel::topology;

/// Everything a node gives, in memory of its own: each object's first word leads to the one before. Freed when dropped.
pub(crate) struct Hoard {
    last: *mut Link,
    objects: u64,
    free: fn(*mut u8),
}

struct Link {
    before: *mut Link,
}

impl Hoard {
    /// An empty one, of objects that `free` frees.
    pub(crate) fn new(free: fn(*mut u8)) -> Self {
        Self { last: ptr::null_mut(), objects: 0, free }
    }

    /// All pages of one node that an allocation with these flags may have.
    pub(crate) fn of_pages(node: NodeId, gfp: Gfp) -> Self {
        fn free_block(address: *mut u8) {
            let block = service().virt_to_page(address).expect("it came from the page layer");
            service().put_page(block);
        }
        let mut hoard = Self::new(free_block);
        for order in Order::all().rev() {
            hoard.fill(|| {
                let block = service().alloc_pages_node(node, gfp | Gfp::THISNODE, order);
                block.map_or(ptr::null_mut(), |block| service().page_address(block))
            });
        }
        hoard
    }

    /// How many objects it has.
    pub(crate) fn objects(&self) -> u64 {
        self.objects
    }

    /// Takes all that `allocate` gives until it gives null.
    pub(crate) fn fill(&mut self, allocate: impl Fn() -> *mut u8) {
        while let Some(object) = NonNull::new(allocate().cast::<Link>()) {
            // SAFETY: an object just allocated has at least a word and is this owner's alone.
            unsafe { object.write(Link { before: self.last }) };
            self.last = object.as_ptr();
            self.objects += 1;
        }
    }
}

impl Drop for Hoard {
    fn drop(&mut self) {
        while let Some(last) = NonNull::new(self.last) {
            // SAFETY: the word was written by `fill`, and the object has not been freed yet.
            self.last = unsafe { last.read() }.before;
            (self.free)(last.as_ptr().cast());
        }
    }
}

/// The nodes that have memory.
pub(crate) fn nodes_with_memory() -> impl Iterator<Item = NodeId> {
    topology().nodes().filter(|&node| topology().has_memory(node))
}

/// The node with the least memory, so that filling it takes no time.
pub(crate) fn smallest_node() -> NodeId {
    nodes_with_memory().min_by_key(|&node| topology().memory_bytes(node)).unwrap_or(NodeId(0))
}
