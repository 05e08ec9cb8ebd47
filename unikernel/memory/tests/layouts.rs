//! `Hosted` as a `GlobalAlloc`, called directly: every layout is served, aligned, zeroed where asked for, and kept by
//! `realloc`, across the borders between slabs, page blocks and huge allocations.

#[path = "support/cases.rs"]
mod cases;

use std::alloc::{GlobalAlloc, Layout};

use proptest::prelude::*;
use quarry_memory::hosted::Hosted;
use quarry_memory::{MAX_SIZE, MAX_SLAB_SIZE};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("the tests ask for layouts that exist")
}

/// Marks both ends and some of the middle of a block; touching every byte of a GiB would take longer than it tells.
fn marks(size: usize) -> impl Iterator<Item = usize> {
    let step = (size / 64).max(1);
    (0..size).step_by(step).chain([size - 1])
}

fn mark(block: *mut u8, size: usize) {
    for at in marks(size) {
        // SAFETY: the tests pass blocks of theirs with at least `size` bytes.
        unsafe { block.add(at).write((at % 251) as u8) };
    }
}

/// Whether the marks up to `size` of a block that was marked for `marked` bytes are there.
fn is_marked(block: *const u8, marked: usize, size: usize) -> bool {
    // SAFETY: as for `mark`.
    marks(marked).filter(|&at| at < size).all(|at| unsafe { block.add(at).read() } == (at % 251) as u8)
}

#[track_caller]
fn assert_nothing_in_use(hosted: &'static Hosted) {
    let rows = hosted.service().statistics();
    assert!(rows.adds_up(), "{rows:#?}");
    assert_eq!((rows.slab_in_use, rows.large, rows.pages_in_use), (0, 0, 0), "{rows:#?}");
    hosted.service().validate().unwrap_or_else(|broken| panic!("{broken}"));
}

#[test]
fn every_size_is_served_at_every_alignment() {
    static HOSTED: Hosted = Hosted::new();
    let borders = [1, 8, 100, MAX_SLAB_SIZE, MAX_SIZE - 1, MAX_SIZE, MAX_SIZE + 1, 5 * MIB, 8 * MIB, 33 * MIB];
    let mut blocks = Vec::new();
    for size in borders {
        for align in (0..=24).map(|shift| 1 << shift) {
            let layout = layout(size, align);
            // SAFETY: no layout is of size 0.
            let block = unsafe { HOSTED.alloc(layout) };
            assert!(!block.is_null(), "{layout:?}");
            assert!(block.addr().is_multiple_of(align), "{layout:?} at {block:p}");
            mark(block, size);
            blocks.push((block, layout));
        }
    }
    assert!(HOSTED.service().statistics().adds_up());
    for (block, layout) in blocks {
        assert!(is_marked(block, layout.size(), layout.size()), "{layout:?} at {block:p} was overwritten");
        // SAFETY: each is freed once, with its layout.
        unsafe { HOSTED.dealloc(block, layout) };
    }
    assert_nothing_in_use(&HOSTED);
}

#[test]
fn zeroed_memory_is_zero_also_when_it_was_used_before() {
    static HOSTED: Hosted = Hosted::new();
    for size in [24, 8 * KIB, 100 * KIB, MAX_SIZE, MAX_SIZE + 1, 9 * MIB] {
        for align in [1, 4 * KIB, 2 * MIB] {
            let layout = layout(size, align);
            for _ in 0..3 {
                // SAFETY: the block has `size` bytes and is freed once, with its layout.
                unsafe {
                    let block = HOSTED.alloc_zeroed(layout);
                    assert!(std::slice::from_raw_parts(block, size).iter().all(|&byte| byte == 0), "{layout:?}");
                    block.write_bytes(0xff, size);
                    HOSTED.dealloc(block, layout);
                }
            }
        }
    }
    assert_nothing_in_use(&HOSTED);
}

#[test]
fn realloc_keeps_the_contents_from_any_size_to_any_other() {
    static HOSTED: Hosted = Hosted::new();
    let sizes = [10, MAX_SLAB_SIZE + 1, MAX_SIZE, MAX_SIZE + 1, 6 * MIB, 21 * MIB];
    for align in [1, 64, 4 * KIB, 8 * KIB, 2 * MIB] {
        for from in sizes {
            for to in sizes {
                // SAFETY: the block is passed on from call to call with its layout and freed once.
                unsafe {
                    let block = HOSTED.alloc(layout(from, align));
                    mark(block, from);
                    let block = HOSTED.realloc(block, layout(from, align), to);
                    assert!(block.addr().is_multiple_of(align) && !block.is_null(), "{from} to {to} at {block:p}");
                    assert!(is_marked(block, from, from.min(to)), "{from} to {to} aligned to {align}");
                    mark(block, to);
                    HOSTED.dealloc(block, layout(to, align));
                }
            }
        }
    }
    assert_nothing_in_use(&HOSTED);
}

#[test]
fn a_gibibyte_costs_its_frames_and_grows_without_copying() {
    static HOSTED: Hosted = Hosted::new();
    let (gib, align) = (1 << 30, 8);
    // SAFETY: the block is passed on from call to call with its layout and freed once.
    unsafe {
        let block = HOSTED.alloc(layout(gib, align));
        mark(block, gib);
        let charged = HOSTED.service().statistics().large as usize;
        assert!((gib..gib + 2 * MAX_SIZE).contains(&charged), "{charged}");
        let grown = HOSTED.realloc(block, layout(gib, align), 40 * gib);
        assert!(!grown.is_null() && is_marked(grown, gib, gib));
        assert!(HOSTED.service().statistics().large as usize >= 40 * gib);
        let failed = HOSTED.realloc(grown, layout(40 * gib, align), 70 * gib);
        assert!(failed.is_null(), "more than the machine has");
        assert!(HOSTED.alloc(layout(30 * gib, align)).is_null(), "more than is left");
        assert!(is_marked(grown, gib, gib));
        let shrunk = HOSTED.realloc(grown, layout(40 * gib, align), 100 * MIB);
        assert!(is_marked(shrunk, gib, 100 * MIB));
        let charged = HOSTED.service().statistics().large as usize;
        assert!((100 * MIB..100 * MIB + 2 * MAX_SIZE).contains(&charged), "{charged}");
        HOSTED.dealloc(shrunk, layout(100 * MIB, align));
        assert!(HOSTED.alloc(layout(isize::MAX as usize - 7, align)).is_null());
        assert!(HOSTED.alloc(layout(gib, 1 << 62)).is_null());
    }
    assert_nothing_in_use(&HOSTED);
}

proptest! {
    #![proptest_config(cases::cases(16))]

    /// A few blocks at a time, each reallocated again and again, sizes spread evenly over the orders of magnitude.
    #[test]
    fn any_sequence_of_reallocs_keeps_what_it_must(
        steps in prop::collection::vec((0usize..4, 0u32..25, any::<u32>(), 0u32..22), 1..60),
    ) {
        static HOSTED: Hosted = Hosted::new();
        let mut blocks: [Option<(*mut u8, Layout)>; 4] = [None; 4];
        for (slot, magnitude, fraction, align) in steps {
            let size = ((1u64 << magnitude) + ((u64::from(fraction) << magnitude) >> 32)) as usize;
            let (block, layout) = match blocks[slot] {
                None => {
                    let layout = layout(size, 1 << align);
                    // SAFETY: the size is at least 1.
                    (unsafe { HOSTED.alloc(layout) }, layout)
                }
                Some((block, old)) => {
                    prop_assert!(is_marked(block, old.size(), old.size()));
                    let new = layout(size, old.align());
                    // SAFETY: the block is this slot's, with this layout, and replaced by the result.
                    let moved = unsafe { HOSTED.realloc(block, old, size) };
                    prop_assert!(is_marked(moved, old.size(), old.size().min(size)));
                    (moved, new)
                }
            };
            prop_assert!(!block.is_null() && block.addr().is_multiple_of(layout.align()));
            mark(block, size);
            blocks[slot] = Some((block, layout));
        }
        for (block, layout) in blocks.into_iter().flatten() {
            // SAFETY: each is freed once, with its layout.
            unsafe { HOSTED.dealloc(block, layout) };
        }
        assert_nothing_in_use(&HOSTED);
    }
}
