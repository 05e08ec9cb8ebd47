//! Misuse of the allocator of a program ends the program, for `dealloc` must not unwind. In a file without other tests:
//! a child inherits what other threads of the process hold, and a panic takes locks of the standard library.

#[path = "support/child.rs"]
mod child;

use std::alloc::{GlobalAlloc, Layout};

use quarry_memory::Topology;
use quarry_memory::hosted::Hosted;

/// Asserts that `misuse` of a program's allocator aborts the program.
#[track_caller]
fn assert_aborts(misuse: impl FnOnce(&'static Hosted)) {
    let topology = Topology::builder().node(64 << 20, 2).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    let status = child::in_a_fork(|| {
        misuse(hosted);
        true
    });
    let signal = status.err().filter(|&status| libc::WIFSIGNALED(status)).map(|status| libc::WTERMSIG(status));
    assert_eq!(signal, Some(libc::SIGABRT), "{status:?}");
}

const SMALL: Layout = Layout::new::<[u8; 100]>();
const HUGE: Layout = Layout::new::<[u8; 5 << 20]>();

#[test]
fn a_double_dealloc_ends_the_program() {
    for layout in [SMALL, HUGE] {
        // SAFETY: the second free is what is tested; it frees nothing.
        assert_aborts(|hosted| unsafe {
            let block = hosted.alloc(layout);
            hosted.dealloc(block, layout);
            hosted.dealloc(block, layout);
        });
    }
}

#[test]
fn a_dealloc_inside_a_block_ends_the_program() {
    for (layout, offset) in [(SMALL, 8), (HUGE, 8), (HUGE, 4096)] {
        // SAFETY: the free is what is tested; it frees nothing.
        assert_aborts(|hosted| unsafe { hosted.dealloc(hosted.alloc(layout).add(offset), layout) });
    }
}

#[test]
fn a_dealloc_with_the_layout_of_another_kind_ends_the_program() {
    for (layout, wrong) in [(SMALL, HUGE), (HUGE, SMALL)] {
        // SAFETY: the free is what is tested; it frees nothing.
        assert_aborts(|hosted| unsafe { hosted.dealloc(hosted.alloc(layout), wrong) });
    }
}
