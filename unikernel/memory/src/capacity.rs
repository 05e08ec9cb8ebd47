//! [`Capacities`]: how much magazines, page lists and stacks may hold, so that what is kept at hand stays a small
//! part of the machine's memory.
//!
//! Used by the page and slab layers where they fit a cache out or find it full. Set once, when the service starts.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::chunk_stack::CHUNK_BYTES;
use crate::class::{CLASSES, DYNAMIC_MAGAZINES, Geometry};
use crate::frame::Order;
use crate::machine::Machine;
use crate::service::Service;
use crate::set::{LIST_BLOCKS, REMOTES, SLOTS, Set};

/// Objects the stack behind a magazine may hold.
const STACK_OBJECTS: u32 = 4096;

/// Bytes of objects it may hold at least, as far as that is more than two batches.
const STACK_BYTES: u64 = 256 << 10;

/// The part of a CPU's share of all RAM that it may hold, where that is more.
const STACK_PART: u64 = 1024;

/// The part of a CPU's share of all RAM that the chunks of its stacks may be.
const CHUNKS_PART: u64 = 40_000;

/// Chunks that they may be at least.
const LEAST_CHUNKS: u32 = 8;

/// Bytes of objects a magazine may hold: two of the largest.
const MAGAZINE_BYTES: u32 = 64 << 10;

/// See the module head. What is set is set before the first call that could need it.
pub(crate) struct Capacities {
    /// How much of their full size magazines and page lists have; see [`cache_share`].
    share: AtomicU32,
    /// What the stack behind a magazine may hold; see [`stack_bytes`].
    stack_bytes: AtomicU32,
    /// Chunks that all stacks of a CPU may be made of; see [`chunk_limit`].
    chunks: AtomicU32,
    /// CPUs for each node with memory.
    cpus_of_a_node: AtomicU32,
}

impl Capacities {
    pub(crate) const fn new() -> Self {
        Self {
            share: AtomicU32::new(0),
            stack_bytes: AtomicU32::new(0),
            chunks: AtomicU32::new(0),
            cpus_of_a_node: AtomicU32::new(0),
        }
    }

    pub(crate) fn set(&self, ram_bytes: u64, cpus: usize, nodes: usize) {
        self.share.store(cache_share(ram_bytes, cpus), Relaxed);
        self.stack_bytes.store(stack_bytes(ram_bytes, cpus), Relaxed);
        self.chunks.store(chunk_limit(ram_bytes, cpus), Relaxed);
        self.cpus_of_a_node.store(cpus.div_ceil(nodes.max(1)) as u32, Relaxed);
    }

    /// Objects of that geometry that a magazine with so many slots may hold on this machine.
    pub(crate) fn magazine(&self, geometry: &Geometry, slots: usize) -> u32 {
        scaled_capacity(magazine_capacity(geometry, slots), self.share.load(Relaxed))
    }

    /// Blocks of that order that a CPU's page list may hold on this machine.
    pub(crate) fn list(&self, order: Order) -> u32 {
        scaled_capacity(list_capacity(order), self.share.load(Relaxed))
    }

    /// Objects of that geometry that the stack behind a magazine may hold.
    fn stack(&self, geometry: &Geometry) -> u32 {
        scaled_capacity(stack_capacity(geometry, self.stack_bytes.load(Relaxed)), self.share.load(Relaxed))
    }
}

impl<M: Machine> Service<M> {
    /// Objects of that geometry that the stack behind a magazine of this set may hold on this machine: of a handlers'
    /// set, as of its magazines, fewer.
    pub(crate) fn cpu_stack_capacity(&self, set: &Set, geometry: &Geometry) -> u32 {
        (self.capacities().stack(geometry) as usize * set.used_slots / SLOTS) as u32
    }

    /// Chunks that the stacks of this set may be made of, all together.
    pub(crate) fn cpu_chunk_limit(&self, set: &Set) -> u32 {
        (self.capacities().chunks.load(Relaxed) as usize * set.used_slots / SLOTS) as u32
    }

    /// Objects of that geometry that the stack of a depot may hold on this machine: as many as the CPUs of a node may
    /// have on their own.
    pub(crate) fn depot_stack_capacity(&self, geometry: &Geometry) -> u32 {
        self.capacities().stack(geometry) * self.capacities().cpus_of_a_node.load(Relaxed)
    }
}

/// Objects a magazine of this geometry may hold where memory is plenty: bounded in number and in bytes.
fn magazine_capacity(geometry: &Geometry, slots: usize) -> u32 {
    let by_bytes = MAGAZINE_BYTES / geometry.size.max(1);
    let by_slots = slots as u32 - slots as u32 % 2;
    if by_bytes < by_slots { by_bytes } else { by_slots }
}

/// How much of its full size each magazine of a machine has, in 256ths: so much that all magazines of all sets, the
/// CPUs' for threads and for handlers, every cache in use and every magazine full, hold at most an eighth of RAM. Page
/// lists, which hold far less, take the same part. Either has room for two however small that is.
const fn cache_share(ram_bytes: u64, cpus: usize) -> u32 {
    let eighth_of_a_cpu = ram_bytes / 8 / if cpus == 0 { 1 } else { cpus as u64 };
    let share = eighth_of_a_cpu * FULL_SHARE as u64 / FULL_BYTES;
    if share < FULL_SHARE as u64 { share as u32 } else { FULL_SHARE }
}

/// The part of a capacity that a [`cache_share`] leaves: even, at least 2.
const fn scaled_capacity(capacity: u32, share: u32) -> u32 {
    let part = capacity * share / FULL_SHARE;
    if part < 2 { 2 } else { part - part % 2 }
}

/// A [`cache_share`] that leaves all.
const FULL_SHARE: u32 = 256;

/// What the magazines of a CPU hold at most at their full size, in bytes: in its set for threads, and in that for
/// handlers.
const FULL_BYTES: u64 = 2 * (CLASSES + DYNAMIC_MAGAZINES + REMOTES) as u64 * MAGAZINE_BYTES as u64;

/// Bytes of objects the stack behind a magazine may hold: a thousandth of what RAM there is for each CPU.
fn stack_bytes(ram_bytes: u64, cpus: usize) -> u32 {
    let part = ram_bytes / cpus.max(1) as u64 / STACK_PART;
    u32::try_from(part.max(STACK_BYTES)).unwrap_or(u32::MAX)
}

/// Chunks that the stacks of a CPU may be made of, all together.
fn chunk_limit(ram_bytes: u64, cpus: usize) -> u32 {
    let part = ram_bytes / cpus.max(1) as u64 / CHUNKS_PART / CHUNK_BYTES as u64;
    u32::try_from(part).unwrap_or(u32::MAX).max(LEAST_CHUNKS)
}

/// Objects of this geometry that the stack behind a magazine may hold, where it may hold so many bytes.
fn stack_capacity(geometry: &Geometry, bytes: u32) -> u32 {
    (bytes / geometry.size).clamp(2 * magazine_capacity(geometry, SLOTS), STACK_OBJECTS)
}

/// Blocks a CPU's list of that order may hold where memory is plenty: 240 KiB for order 0, 256 KiB at most for others.
fn list_capacity(order: Order) -> u32 {
    (LIST_BLOCKS as u32 >> order.get()).max(8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::MAX_STRIDE;

    #[test]
    fn all_magazines_together_hold_at_most_an_eighth_of_ram_but_two_objects_each() {
        for (mib, cpus) in [(64, 4), (128, 1), (1024, 8), (2048, 4), (4096, 255), (1 << 20, 64)] {
            let ram = mib << 20;
            let share = cache_share(ram, cpus);
            let magazines = 2 * (CLASSES + DYNAMIC_MAGAZINES + REMOTES) as u64 * cpus as u64;
            for size in (8..=MAX_STRIDE).step_by(8) {
                let capacity = scaled_capacity(magazine_capacity(&Geometry::new(size), SLOTS), share);
                let all = u64::from(capacity) * u64::from(size) * magazines;
                assert!(capacity.is_multiple_of(2) && capacity <= SLOTS as u32);
                assert!(capacity == 2 || all <= ram / 8, "{capacity} of {size} bytes with {mib} MiB, {cpus} CPUs");
            }
        }
    }

    #[test]
    fn a_stack_holds_at_most_a_thousandth_of_the_memory_of_each_cpu_or_a_quarter_of_a_mebibyte_or_two_magazines() {
        for (mib, cpus) in [(64, 4), (1024, 1), (2048, 4), (65536, 64), (1 << 20, 1)] {
            let ram = mib << 20;
            for size in (8..=MAX_STRIDE).step_by(8) {
                let geometry = Geometry::new(size);
                let capacity = stack_capacity(&geometry, stack_bytes(ram, cpus));
                let bytes = u64::from(capacity) * u64::from(size);
                let two = 2 * magazine_capacity(&geometry, SLOTS);
                let bound = (ram / cpus as u64 / 1024).max(256 << 10);
                assert!(capacity == two || (capacity > two && bytes <= bound), "{size} bytes, {mib} MiB, {cpus} CPUs");
            }
        }
    }

    #[test]
    fn with_half_a_gibibyte_a_cpu_magazines_have_their_full_size() {
        for cpus in [1, 4, 64] {
            let share = cache_share((cpus as u64) << 29, cpus);
            for size in [8, 64, 1024, 8192] {
                let full = magazine_capacity(&Geometry::new(size), SLOTS);
                assert_eq!(scaled_capacity(full, share), full, "{size} bytes on {cpus} CPUs");
            }
        }
    }
}
