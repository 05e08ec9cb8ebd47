//! The whole suite over the system's allocator: every planned row arrives, in order, with figures that can be.

mod support;

use std::alloc::{Layout, alloc, dealloc};
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use quarry_suite::{Effort, Empty, Feature, Limit, Settings, Stress, Subject, pattern, plan, row_count, run, stress};
use quarry_topology::NodeId;
use support::Threads;

/// malloc, by way of std.
#[derive(Clone, Copy)]
struct System;

/// A live allocation and what it was asked with.
struct Memory {
    address: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the token owns its memory; nothing about malloc's memory is bound to a thread.
unsafe impl Send for Memory {}

impl System {
    fn take(self, size: usize) -> Option<Memory> {
        let layout = Layout::from_size_align(size, self.alignment(size)).ok()?;
        // SAFETY: the workloads ask for no block of size 0.
        let address = NonNull::new(unsafe { alloc(layout) })?;
        Some(Memory { address, layout })
    }
}

impl Subject for System {
    type Block = Memory;
    type Objects = Empty;

    const NAME: &'static str = "system";

    const FEATURES: &'static [Feature] =
        &[Feature::Sizes, Feature::Large, Feature::Inlined, Feature::Nodes, Feature::Pages];

    fn allocate(&self, size: usize) -> Option<Memory> {
        self.take(size)
    }

    fn free(&self, block: Memory) {
        // SAFETY: the token came from `take` with this layout and is used up here.
        unsafe { dealloc(block.address.as_ptr(), block.layout) }
    }

    fn allocate_inlined<const SIZE: usize>(&self) -> Option<Memory> {
        self.take(SIZE)
    }

    fn free_inlined(&self, block: Memory) {
        self.free(block);
    }

    fn allocate_on(&self, size: usize, _node: NodeId) -> Option<Memory> {
        self.take(size)
    }

    fn allocate_pages(&self, order: u32) -> Option<Memory> {
        self.take(4096 << order)
    }

    fn free_pages(&self, block: Memory, _order: u32) {
        self.free(block);
    }

    fn address(&self, block: &Memory) -> usize {
        block.address.as_ptr() as usize
    }

    fn fill(&self, block: &mut Memory, length: usize, seed: u64) {
        assert!(length <= block.layout.size());
        // SAFETY: the block has that many bytes, and the token is borrowed exclusively.
        let bytes = unsafe { std::slice::from_raw_parts_mut(block.address.as_ptr().cast::<MaybeUninit<u8>>(), length) };
        pattern::fill(bytes, seed);
    }

    fn check(&self, block: &Memory, length: usize, seed: u64) -> bool {
        assert!(length <= block.layout.size());
        // SAFETY: the block has that many bytes, and the suite filled them before it checks them.
        let bytes = unsafe { std::slice::from_raw_parts(block.address.as_ptr(), length) };
        pattern::check(bytes, seed)
    }

    fn is_zero(&self, block: &Memory, length: usize) -> bool {
        assert!(length <= block.layout.size());
        // SAFETY: the block has that many bytes, and whoever asks has had them initialised.
        pattern::is_zero(unsafe { std::slice::from_raw_parts(block.address.as_ptr(), length) })
    }

    fn touch(&self, block: &mut Memory, writes: u32) {
        // SAFETY: every block has a byte, and the token is borrowed exclusively.
        pattern::touch(unsafe { block.address.cast::<MaybeUninit<u8>>().as_mut() }, writes);
    }
}

#[test]
fn every_planned_row_arrives_in_order() {
    let settings = Settings {
        sizes: vec![8, 4096, 100],
        orders: vec![0, 3],
        samples: 3,
        effort: Effort::Microseconds(20),
        checked_bytes: 64 << 10,
        ..Settings::default()
    };
    let planned = plan(Threads(3), System::FEATURES, &settings);
    let mut rows = Vec::new();
    run(Threads(3), &System, &settings, &mut |row| rows.push(row.clone()));

    assert_eq!(rows.len(), row_count(&planned));
    let expected: Vec<_> = planned.iter().flat_map(|case| case.phases().iter().map(|phase| (*case, *phase))).collect();
    let arrived: Vec<_> = rows.iter().map(|row| (row.case, row.phase)).collect();
    assert_eq!(arrived, expected);
    for row in rows {
        assert_eq!(row.errors, 0, "{}", row.case);
        assert_eq!(row.samples.len(), 3);
        assert!(row.ticks.min > 0.0 && row.ticks.min <= row.ticks.median && row.ticks.median <= row.ticks.p99);
        assert!(row.empty_ticks >= 0.0);
        assert!(row.operations >= (3 * row.case.cpus) as u64);
    }
}

#[test]
fn a_fixed_effort_does_the_same_number_of_operations_every_time() {
    let settings = Settings {
        sizes: vec![64],
        orders: vec![0],
        cpus: vec![1],
        samples: 2,
        effort: Effort::Fixed,
        checked_bytes: 64 << 10,
        ..Settings::default()
    };
    let operations = || {
        let mut operations = Vec::new();
        run(Threads(1), &System, &settings, &mut |row| operations.push(row.operations));
        operations
    };
    assert_eq!(operations(), operations());
}

#[test]
fn the_stress_passes() {
    let report = stress(Threads(4), &System, Stress { cpus: 4, seed: 2, limit: Limit::Operations(5_000) });
    assert!(report.passed(), "{report:?}");
}

#[test]
fn filling_a_block_writes_every_byte_of_its_pattern() {
    let mut bytes = [MaybeUninit::new(0_u8); 21];
    pattern::fill(&mut bytes, 5);
    // SAFETY: all were initialised with 0 before they were filled.
    let bytes = bytes.map(|byte| unsafe { byte.assume_init() });
    assert!(pattern::check(&bytes, 5));
    assert!(!pattern::check(&[0; 21], 5));
}
