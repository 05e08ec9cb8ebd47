//! Per-CPU allocation: one zeroed piece of memory for each CPU, on the CPU's own node. Linux's `alloc_percpu`.
//!
//! Users: counters and caches that every CPU updates without disturbing the others. Pieces start on a cache line of
//! their own. Allocating and freeing may be done in an interrupt handler, and never sleeps.

use core::fmt;
use core::ptr::NonNull;

use quarry_topology::CpuId;

use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::service::Service;

/// Bytes of a cache line: pieces of two CPUs never share one.
const CACHE_LINE: usize = 64;

/// A piece of memory for each CPU. Not a pointer: [`Service::per_cpu_ptr`] gives a CPU's.
#[must_use = "dropping it leaks the memory: give it to free_percpu"]
pub struct PerCpu {
    /// One pointer a CPU.
    pieces: NonNull<[*mut u8]>,
}

// SAFETY: it only names memory; what the pieces hold is reached by unsafe code, which answers for it.
unsafe impl Send for PerCpu {}
// SAFETY: as above.
unsafe impl Sync for PerCpu {}

impl fmt::Debug for PerCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PerCpu({} pieces)", self.pieces.len())
    }
}

impl<M: Machine> Service<M> {
    /// Allocates `size` zeroed bytes, aligned to `align` (a power of two), for each CPU on its own node, or on the
    /// nearest with memory. `None` when there is not enough memory.
    pub fn alloc_percpu(&self, size: usize, align: usize, gfp: Gfp) -> Option<PerCpu> {
        let cpus = self.cpu_count();
        let piece = size.max(1).checked_next_multiple_of(align.max(CACHE_LINE))?;
        let table =
            NonNull::new(self.kcalloc(cpus, size_of::<*mut u8>(), gfp).cast::<*mut u8>()).filter(|_| cpus > 0)?;
        let percpu = PerCpu { pieces: NonNull::slice_from_raw_parts(table, cpus) };
        for cpu in 0..cpus {
            let memory = self.kzalloc_node(piece, gfp, self.cpu_to_node(CpuId(cpu as u16)));
            if memory.is_null() {
                self.free_percpu(percpu);
                return None;
            }
            // SAFETY: the table has an entry for each CPU and is this function's alone.
            unsafe { table.add(cpu).write(memory) };
        }
        Some(percpu)
    }

    /// The piece of one CPU.
    ///
    /// # Panics
    ///
    /// When there is no such CPU.
    pub fn per_cpu_ptr(&self, percpu: &PerCpu, cpu: CpuId) -> *mut u8 {
        // SAFETY: the table was written by `alloc_percpu`, lives until `free_percpu` takes the handle, and never
        // changes.
        let pieces = unsafe { percpu.pieces.as_ref() };
        pieces[cpu.index()]
    }

    /// The calling CPU's piece. It stays this CPU's only until the caller yields.
    pub fn this_cpu_ptr(&self, percpu: &PerCpu) -> *mut u8 {
        self.per_cpu_ptr(percpu, self.machine().cpu())
    }

    /// Frees every CPU's piece.
    pub fn free_percpu(&self, PerCpu { pieces }: PerCpu) {
        // SAFETY: as in `per_cpu_ptr`; the handle is given up, so nobody uses the pieces any more.
        for &piece in unsafe { pieces.as_ref() } {
            // SAFETY: each piece came from `kzalloc_node`, or is null where an allocation failed.
            unsafe { self.kfree(piece) };
        }
        // SAFETY: the table came from `kcalloc`.
        unsafe { self.kfree(pieces.cast().as_ptr()) };
    }
}
