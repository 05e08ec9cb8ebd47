//! [`Stack`]: a thread's or a handler's stack, on the node of its CPU, with an unmapped page below it.
//!
//! Users: CPUs being prepared, threads. A stack lies in the stack window; overrunning it faults at the guard page, and
//! the panic says so. A stack given back is kept, mapped, for the next of its size on that CPU: unmapping would have to
//! stop every CPU, and one list for all would make threads that end on many CPUs at once wait for each other.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use quarry_memory::{Gfp, Order};
use quarry_topology::{CpuId, MAX_CPUS, NodeId};

use crate::layout::{PAGE_BYTES, STACK_WINDOW};
use crate::memory::{self, service};
use crate::paging::{self, Access};
use crate::sync::InterruptLock;

/// A mapped stack. Given back when dropped.
pub(crate) struct Stack {
    start: u64,
    bytes: u64,
    cpu: CpuId,
}

/// First address no stack has had.
static NEXT: AtomicU64 = AtomicU64::new(STACK_WINDOW.start);

/// Start and size of the stacks that were given back, for each CPU.
static KEPT: [InterruptLock<Kept>; MAX_CPUS] = [const { InterruptLock::new(None) }; MAX_CPUS];

/// Boxed, for then nothing but zeroes stands for it before it is used, and an image's file need not carry it: ten
/// kilobytes of pointers that dangle otherwise.
type Kept = Option<Box<Vec<(u64, u64)>>>;

impl Stack {
    /// A stack of `bytes` (a multiple of 4096) for a CPU, on its `node` or near it; `None` when memory or addresses are
    /// short.
    pub(crate) fn new(bytes: u64, cpu: CpuId, node: NodeId) -> Option<Self> {
        assert!(bytes.is_multiple_of(PAGE_BYTES) && bytes > 0, "stacks are made of pages");
        {
            let mut kept = KEPT[cpu.index()].lock();
            if let Some(kept) = &mut *kept
                && let Some(index) = kept.iter().position(|stack| stack.1 == bytes)
            {
                let (start, bytes) = kept.swap_remove(index);
                return Some(Self { start, bytes, cpu });
            }
        }
        // One that is larger than all free memory is refused before it takes any of it, or any addresses.
        if bytes > service().available().map(|(_, _, available, _)| available).sum() {
            return None;
        }
        let end_after = |guard: u64| guard.checked_add(PAGE_BYTES + bytes).filter(|&end| end <= STACK_WINDOW.end);
        let start = NEXT.fetch_update(Relaxed, Relaxed, end_after).ok()? + PAGE_BYTES;
        let pages = (start..start + bytes).step_by(PAGE_BYTES as usize);
        // What is mapped when memory runs out stays so, and the addresses are lost: the machine is about to fail
        // anyway.
        pages.into_iter().try_for_each(|page| {
            let frame = service().alloc_pages_node(node, Gfp::KERNEL | Gfp::ZERO, Order::ZERO)?;
            paging::map(page, memory::physical(frame), Access::ReadWrite, &mut memory::page_table_frames()).ok()
        })?;
        Some(Self { start, bytes, cpu })
    }

    /// One past its last byte; a multiple of 4096.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.bytes
    }

    /// Keeps it in use for ever and returns its end.
    pub(crate) fn leak(self) -> u64 {
        let end = self.end();
        core::mem::forget(self);
        end
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        KEPT[self.cpu.index()].lock().get_or_insert_default().push((self.start, self.bytes));
    }
}
