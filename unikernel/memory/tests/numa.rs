//! Where memory comes from: nodes by distance, nodes without memory, second choices, and how numastat counts it.

use std::collections::BTreeSet;

use quarry_memory::hosted::Hosted;
use quarry_memory::{CpuId, Gfp, NodeId, NodeMask, Order, Pfn, Policy, Topology};

const MIB: u64 = 1 << 20;
/// Beyond the lists of CPUs, so that each block is asked of a zone and counted once.
const ORDER: u32 = 4;

fn order() -> Order {
    Order::new(ORDER).expect("there is such an order")
}

/// Runs `test` on a machine, as its CPU 0.
fn on(topology: Topology, test: impl FnOnce(&'static Hosted)) {
    let hosted = Hosted::leak(topology).expect("there is address space");
    assert!(hosted.run_on(CpuId(0)));
    test(hosted);
    hosted.leave();
}

/// Four nodes, a CPU each, all equally far from each other.
fn four_equal_nodes() -> Topology {
    let builder = (0..4).fold(Topology::builder(), |builder, _| builder.node(64 * MIB, 1));
    builder.build().expect("a machine")
}

/// Everything a node has, so that the next request goes elsewhere.
fn fill(hosted: &'static Hosted, node: NodeId) -> Vec<Pfn> {
    let gfp = Gfp::NOWAIT | Gfp::NOWARN | Gfp::THISNODE;
    std::iter::from_fn(|| hosted.service().alloc_pages_node(node, gfp, order())).collect()
}

fn node_of(hosted: &'static Hosted, block: Pfn) -> NodeId {
    hosted.service().page_to_node(block).expect("the service's")
}

fn allocate(hosted: &'static Hosted, node: NodeId) -> Pfn {
    hosted.service().alloc_pages_node(node, Gfp::KERNEL, order()).expect("there is memory")
}

#[test]
fn among_equally_near_nodes_the_second_choice_is_not_everyones() {
    on(four_equal_nodes(), |hosted| {
        let nodes = || (0..4).map(NodeId);
        let mut second_choices = BTreeSet::new();
        for node in nodes() {
            let held = fill(hosted, node);
            second_choices.insert(node_of(hosted, allocate(hosted, node)).0);
            for block in held {
                hosted.service().__free_pages(block, order());
            }
        }
        assert_eq!(second_choices.len(), 4, "each node's second choice is another: {second_choices:?}");
    });
}

#[test]
fn a_node_without_memory_is_served_by_its_own_distances() {
    // Node 0 has a CPU and no memory; 1 is its nearest; 2 is nearer to it than 3, though 3 is nearer to 1.
    let distances = [(0, 1, 11), (0, 2, 12), (0, 3, 30), (1, 2, 40), (1, 3, 11), (2, 3, 40)];
    let builder = Topology::builder().node(0, 1).node(64 * MIB, 1).node(64 * MIB, 1).node(64 * MIB, 1);
    let builder = distances
        .into_iter()
        .fold(builder, |builder, (from, to, distance)| builder.distance(NodeId(from), NodeId(to), distance));
    on(builder.build().expect("a machine"), |hosted| {
        assert_eq!(node_of(hosted, allocate(hosted, NodeId(0))), NodeId(1));
        let object = hosted.service().kmalloc(100, Gfp::KERNEL);
        let frame = hosted.service().virt_to_page(object).expect("an object is in RAM");
        assert_eq!(node_of(hosted, frame), NodeId(1));
        let _held = fill(hosted, NodeId(1));
        assert_eq!(node_of(hosted, allocate(hosted, NodeId(0))), NodeId(2));
        assert_eq!(node_of(hosted, allocate(hosted, NodeId(1))), NodeId(3));
    });
}

#[test]
fn numastat_counts_where_blocks_were_wanted_and_where_they_came_from() {
    on(four_equal_nodes(), |hosted| {
        let service = hosted.service();
        let count = |node: u8| service.numa_statistics(NodeId(node));
        let before: Vec<_> = (0..4).map(count).collect();
        for _ in 0..5 {
            allocate(hosted, NodeId(0));
            allocate(hosted, NodeId(2));
        }
        assert_eq!(count(0).hit - before[0].hit, 5);
        assert_eq!(count(0).local - before[0].local, 5, "the CPU is node 0's");
        assert_eq!(count(2).hit - before[2].hit, 5);
        assert_eq!((count(2).other - before[2].other, count(2).local), (5, before[2].local));
        let _held = fill(hosted, NodeId(0));
        let before: Vec<_> = (0..4).map(count).collect();
        let from = node_of(hosted, allocate(hosted, NodeId(0))).0;
        assert_ne!(from, 0);
        assert_eq!(count(0).foreign - before[0].foreign, 1);
        assert_eq!(count(from).miss - before[usize::from(from)].miss, 1);
        assert_eq!(count(from).hit, before[usize::from(from)].hit);
    });
}

#[test]
fn interleaving_goes_round_the_nodes_and_is_counted() {
    on(four_equal_nodes(), |hosted| {
        let service = hosted.service();
        let nodes = NodeMask::only(NodeId(1)).with(NodeId(3));
        service.set_mempolicy(Policy::Interleave(nodes)).expect("both have memory");
        let from: Vec<_> = (0..6)
            .map(|_| service.alloc_pages(Gfp::USER, order()).expect("there is memory"))
            .map(|block| node_of(hosted, block).0)
            .collect();
        service.set_mempolicy(Policy::Local).expect("always possible");
        assert_eq!(from, [1, 3, 1, 3, 1, 3]);
        assert_eq!(service.numa_statistics(NodeId(1)).interleave, 3);
        assert_eq!(service.numa_statistics(NodeId(3)).interleave, 3);
    });
}

#[test]
fn a_zone_spares_a_share_for_those_who_cannot_go_higher() {
    // 4 GiB and more below a large Normal zone.
    let topology = Topology::builder().node(8 << 30, 1).build().expect("a machine");
    on(topology, |hosted| {
        let service = hosted.service();
        let mut held = Vec::new();
        while let Some(block) = service.alloc_pages(Gfp::NOWAIT | Gfp::NOWARN, Order::MAX) {
            held.push(block);
        }
        for zone in service.zones() {
            // A small zone below a large one is spared whole.
            let spared = (zone.lowmem_reserve[2] + zone.watermarks.min).min(zone.managed);
            assert!(zone.free + zone.deferred >= spared, "{zone:#?}");
        }
        let gfp = Gfp::NOWAIT | Gfp::NOWARN;
        assert!(service.alloc_pages(gfp | Gfp::DMA32, Order::MAX).is_some(), "what was spared is there for DMA32");
        assert!(service.alloc_pages(gfp | Gfp::DMA, order()).is_some(), "and for DMA");
    });
}
