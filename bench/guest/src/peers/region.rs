//! [`Region`]: memory from the page layer, in one piece, for an allocator that is measured.

use alloc::vec::Vec;
use core::ptr::NonNull;

use quarry_memory::{Gfp, Order};
use quarry_unikernel::memory::service;

/// Blocks it is made of: the largest there are, 4 MiB.
const BLOCK: Order = Order::MAX;

/// Bytes of a block.
const BLOCK_BYTES: usize = 4096 << BLOCK.get();

/// Contiguous memory that is handed out from its start on. Goes back to the page layer when dropped.
pub(crate) struct Region {
    start: NonNull<u8>,
    bytes: usize,
    used: usize,
}

// SAFETY: the region owns its memory, which is bound to no CPU.
unsafe impl Send for Region {}

impl Region {
    /// The longest piece there is of about so many bytes; of whole blocks.
    pub(crate) fn take(bytes: usize) -> Self {
        let wanted = bytes.div_ceil(BLOCK_BYTES);
        let mut blocks: Vec<NonNull<u8>> = Vec::with_capacity(wanted);
        while blocks.len() < wanted {
            let gfp = Gfp::KERNEL | Gfp::NOWARN | Gfp::NORETRY;
            let Some(block) = NonNull::new(service().get_free_pages(gfp, BLOCK)) else { break };
            blocks.push(block);
        }
        blocks.sort_unstable();
        let run = longest_run(&blocks);
        for (index, block) in blocks.iter().enumerate() {
            if !run.contains(&index) {
                service().free_pages(block.as_ptr(), BLOCK);
            }
        }
        let start = *blocks.get(run.start).expect("a guest that measures has a block of 4 MiB");
        Self { start, bytes: run.len() * BLOCK_BYTES, used: 0 }
    }

    /// The next so many bytes, directly after those before; `None` when there are not so many left.
    pub(crate) fn next(&mut self, bytes: usize) -> Option<NonNull<u8>> {
        if bytes > self.bytes - self.used {
            return None;
        }
        // SAFETY: it lies in the region, as was just seen.
        let piece = unsafe { self.start.add(self.used) };
        self.used += bytes;
        Some(piece)
    }

    /// Bytes handed out.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Bytes not handed out yet.
    pub(crate) fn left(&self) -> usize {
        self.bytes - self.used
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        for offset in (0..self.bytes).step_by(BLOCK_BYTES) {
            // SAFETY: it lies in the region.
            service().free_pages(unsafe { self.start.add(offset) }.as_ptr(), BLOCK);
        }
    }
}

/// The longest run of blocks that lie side by side; `blocks` are in order.
fn longest_run(blocks: &[NonNull<u8>]) -> core::ops::Range<usize> {
    let mut longest = 0..0;
    let mut start = 0;
    for index in 0..blocks.len() {
        if index > 0 && blocks[index].addr().get() != blocks[index - 1].addr().get() + BLOCK_BYTES {
            start = index;
        }
        if index + 1 - start > longest.len() {
            longest = start..index + 1;
        }
    }
    longest
}
