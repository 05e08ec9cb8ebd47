//! What a program that runs out of memory is told, and how often. In a file without other tests: a child inherits what
//! other threads of the process hold.

#[path = "support/child.rs"]
mod child;

use std::io::{PipeReader, Read};
use std::os::fd::AsRawFd;

use quarry_memory::hosted::{Hosted, HostedMachine};
use quarry_memory::{Gfp, NodeId, Order, Service, Topology};

/// What `run` writes to standard error, in a child that has used up all memory of node 0.
fn errors_of(run: impl FnOnce(&'static Service<HostedMachine>)) -> String {
    let topology = Topology::builder().node(64 << 20, 2).node(64 << 20, 2).build().expect("a machine");
    let service = Hosted::leak(topology).expect("there is address space").service();
    let (mut reader, writer): (PipeReader, _) = std::io::pipe().expect("a pipe");
    let status = child::in_a_fork(|| {
        // SAFETY: both are open; the child's standard error is the pipe from here on.
        assert_eq!(unsafe { libc::dup2(writer.as_raw_fd(), libc::STDERR_FILENO) }, libc::STDERR_FILENO);
        for order in [Order::MAX, Order::ZERO] {
            while service.alloc_pages_node(NodeId(0), QUIET, order).is_some() {}
        }
        run(service);
        true
    });
    assert_eq!(status, Ok(()));
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("the child wrote text");
    text
}

const QUIET: Gfp = Gfp::NOWAIT.union(Gfp::THISNODE).union(Gfp::NOWARN);
const LOUD: Gfp = Gfp::NOWAIT.union(Gfp::THISNODE);

#[test]
fn a_storm_of_failures_is_reported_ten_times_for_each_kind() {
    let text = errors_of(|service| {
        for _ in 0..1000 {
            assert!(service.alloc_pages_node(NodeId(0), LOUD, Order::ZERO).is_none());
            assert!(service.kmalloc_node(1000, LOUD, NodeId(0)).is_null());
        }
    });
    let reports = |start: &str| text.lines().filter(|line| line.contains(start)).count();
    assert_eq!(reports("page allocation failure: order:0, mode:0x200800(GFP_NOWAIT|__GFP_THISNODE), node=0"), 10);
    assert_eq!(reports("SLUB: Unable to allocate memory on node 0, gfp=0x200800(GFP_NOWAIT|__GFP_THISNODE)"), 10);
    assert_eq!(reports("Node 1 DMA32: "), 20, "{text}");
}

#[test]
fn nobody_is_told_of_a_failure_that_was_expected() {
    let text = errors_of(|service| {
        assert!(service.alloc_pages_node(NodeId(0), QUIET, Order::ZERO).is_none());
        assert!(service.kmalloc_node(1000, QUIET, NodeId(0)).is_null());
    });
    assert_eq!(text, "");
}
