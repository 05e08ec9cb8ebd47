//! Flags and policies that say where memory comes from: zones, nodes, the cold end of a list, mobility.

use quarry_memory::hosted::Hosted;
use quarry_memory::zone::ZoneKind;
use quarry_memory::{Gfp, Machine, Mobility, NodeId, NodeMask, Order, Pfn, Policy, SlabFlags, Topology};

use crate::support::{
    CPU_OF_NODE_1, Counted, Hoard, KERNEL, MIB, NODE_1, NOWAIT, TestService, assert_books_balance, free, free_blocks,
    highest_zone, three_zones, two_nodes,
};

const NODE_0: NodeId = NodeId(0);
const USER: Gfp = Gfp::USER.union(Gfp::NOWARN);

fn node_of_object(service: &TestService, object: *mut u8) -> Option<NodeId> {
    service.page_to_node(service.virt_to_page(object)?)
}

/// The node one page comes from.
fn node_of_page(service: &TestService, gfp: Gfp) -> Option<NodeId> {
    let page = service.alloc_pages(gfp, Order::ZERO)?;
    let node = service.page_to_node(page);
    service.__free_pages(page, Order::ZERO);
    node
}

/// The node a small object comes from, when this CPU has none at hand.
fn node_of_refill(service: &TestService, gfp: Gfp) -> Option<NodeId> {
    service.drain_local();
    let object = service.kmalloc(1000, gfp);
    let node = node_of_object(service, object);
    free(service, object);
    node
}

/// The node a large allocation comes from.
fn node_of_large(service: &TestService, gfp: Gfp) -> Option<NodeId> {
    let object = service.kmalloc(100_000, gfp);
    let node = node_of_object(service, object);
    free(service, object);
    node
}

#[test]
fn highuser_comes_from_the_highest_zone_first() {
    let service = three_zones().service();
    let blocks: Vec<_> = std::iter::from_fn(|| service.alloc_pages(Gfp::HIGHUSER | Gfp::NOWARN, Order::MAX)).collect();
    let zones: Vec<_> = blocks.iter().map(|&block| ZoneKind::of(block)).collect();
    assert_eq!(zones[0], ZoneKind::Normal);
    assert!(zones.is_sorted_by(|earlier, later| earlier >= later), "a zone was gone back to: {zones:?}");
    assert!(zones.contains(&ZoneKind::Dma32));
    for zone in service.zones().filter(|zone| zone.kind != ZoneKind::Normal) {
        let kept = zone.watermarks.min + zone.lowmem_reserve[ZoneKind::Normal as usize];
        assert!(zone.available() >= kept.min(zone.managed), "the lower zones are spared: {zone:?}");
    }
    let low = service.alloc_pages(Gfp::KERNEL | Gfp::DMA32, Order::ZERO).expect("it was spared for this");
    service.__free_pages(low, Order::ZERO);
    free_blocks(service, &blocks, Order::MAX);
    assert_books_balance(service);
}

/// Where the memory of each kind of call with these flags ends, at most.
fn highest_end(service: &TestService, gfp: Gfp) -> u64 {
    let objects = [service.kmalloc(100, gfp), service.kzalloc(5000, gfp), service.kmalloc(100_000, gfp)];
    let page = service.alloc_pages(gfp, Order::ZERO).expect("memory is free");
    let ends = objects.map(|object| {
        let frame = service.virt_to_page(object).expect("memory is free");
        frame.physical() + service.ksize(object) as u64
    });
    for object in objects {
        free(service, object);
    }
    service.__free_pages(page, Order::ZERO);
    ends.into_iter().max().expect("there are three").max(page.physical() + 4096)
}

#[test]
fn dma_is_below_16_mib_or_not_at_all() {
    let service = two_nodes().service();
    assert!(highest_end(service, Gfp::KERNEL | Gfp::DMA) <= 16 * MIB);
    assert!(highest_end(service, Gfp::KERNEL) > 16 * MIB, "others leave it alone");
    service.drain_local();
    service.shrink_depots();
    let hoard = Hoard::of(service, |service| service.alloc_pages(NOWAIT | Gfp::DMA, Order::ZERO));
    assert!(service.kmalloc(100_000, NOWAIT | Gfp::DMA).is_null(), "other zones have memory, which is no DMA memory");
    let other = service.alloc_pages(NOWAIT, Order::ZERO).expect("other zones have memory");
    service.__free_pages(other, Order::ZERO);
    drop(hoard);
    assert_books_balance(service);
}

#[test]
fn dma32_is_below_4_gib() {
    let service = three_zones().service();
    assert!(highest_end(service, Gfp::KERNEL | Gfp::DMA32) <= 4 << 30);
    assert!(highest_end(service, Gfp::KERNEL) > 4 << 30, "others leave it alone");
    assert_books_balance(service);
}

#[test]
fn dma32_takes_dma_memory_when_there_is_no_other() {
    let service = two_nodes().service();
    let blocks: Vec<_> = std::iter::from_fn(|| service.alloc_pages(NOWAIT | Gfp::DMA32, Order::MAX)).collect();
    let zones: Vec<_> = blocks.iter().map(|&block| ZoneKind::of(block)).collect();
    assert!(zones.is_sorted_by(|earlier, later| earlier >= later), "a zone was gone back to: {zones:?}");
    assert_eq!((zones[0], zones[zones.len() - 1]), (ZoneKind::Dma32, ZoneKind::Dma));
    free_blocks(service, &blocks, Order::MAX);
    assert_books_balance(service);
}

#[test]
fn thisnode_takes_from_its_node_or_not_at_all() {
    let hosted = two_nodes();
    assert!(hosted.run_on(CPU_OF_NODE_1));
    let service = hosted.service();
    let hoard = Hoard::of_node(service, NODE_1);
    for gfp in [NOWAIT | Gfp::THISNODE, KERNEL | Gfp::THISNODE] {
        assert!(service.alloc_pages_node(NODE_1, gfp, Order::ZERO).is_none(), "{gfp}");
        assert!(service.kmalloc_node(1000, gfp, NODE_1).is_null(), "{gfp}");
        assert!(service.kzalloc_node(100_000, gfp, NODE_1).is_null(), "{gfp}");
        assert!(service.alloc_pages(gfp, Order::ZERO).is_none(), "the CPU's own node, if none is named");
        assert!(service.kmalloc(1000, gfp).is_null());
    }
    let page = service.alloc_pages_node(NODE_1, NOWAIT, Order::ZERO).expect("node 0 has memory");
    assert_eq!(service.page_to_node(page), Some(NODE_0));
    let object = service.kmalloc_node(1000, NOWAIT, NODE_1);
    assert_eq!(node_of_object(service, object), Some(NODE_0));
    free(service, object);
    service.__free_pages(page, Order::ZERO);
    drop(hoard);
    assert_books_balance(service);
}

#[test]
fn the_old_gfp_thisnode_does_not_wait_either() {
    let hosted = two_nodes();
    let service = hosted.service();
    let heard = crate::combinations::hear(hosted);
    let _hoard = Hoard::of_node(service, NODE_1);
    let counted = Counted::from_here(service);
    assert!(service.kmalloc_node(1000, Gfp::GFP_THISNODE, NODE_1).is_null());
    counted.assert_nobody_waited();
    assert_eq!(heard.lines(), [""; 0], "nor is it reported");
}

#[test]
fn cold_takes_from_the_cold_end_of_the_cpus_list() {
    // On a small machine a list is as good as empty.
    let service = three_zones().service();
    let page = |gfp: Gfp| service.alloc_pages(KERNEL | gfp, Order::ZERO).expect("memory is free");
    let pages: [Pfn; 4] = std::array::from_fn(|_| page(Gfp::empty()));
    service.drain_local();
    free_blocks(service, &pages, Order::ZERO);
    assert_eq!(page(Gfp::COLD), pages[0], "the one freed first");
    assert_eq!(page(Gfp::empty()), pages[3], "the one freed last");
    // A slab is made of the same pages.
    let object = service.kmalloc(64, KERNEL | Gfp::COLD);
    assert_eq!(service.virt_to_page(object), Some(pages[1]));
    assert_eq!(page(Gfp::empty()), pages[2]);
    free(service, object);
    free_blocks(service, &[pages[0], pages[2], pages[3]], Order::ZERO);
    assert_books_balance(service);
}

#[test]
fn movable_and_reclaimable_pages_keep_to_pageblocks_of_their_own() {
    let service = two_nodes().service();
    let kinds = [
        (Gfp::KERNEL, Mobility::Unmovable),
        (Gfp::HIGHUSER_MOVABLE, Mobility::Movable),
        (Gfp::KERNEL | Gfp::RECLAIMABLE, Mobility::Reclaimable),
        (Gfp::TEMPORARY, Mobility::Reclaimable),
    ];
    let pages = kinds.map(|(gfp, _)| service.alloc_pages(gfp, Order::ZERO).expect("memory is free"));
    for (page, (gfp, mobility)) in pages.iter().zip(kinds) {
        assert_eq!(service.mobility_of(*page), Some(mobility), "{gfp}");
    }
    free_blocks(service, &pages, Order::ZERO);
    assert_books_balance(service);
}

#[test]
fn the_slabs_of_a_reclaimable_cache_are_among_reclaimable_memory() {
    let service = two_nodes().service();
    for (flags, mobility) in
        [(SlabFlags::RECLAIM_ACCOUNT, Mobility::Reclaimable), (SlabFlags::empty(), Mobility::Unmovable)]
    {
        let cache = service.kmem_cache_create("kept", 200, 0, flags, None).expect("memory is free");
        let object = service.kmem_cache_alloc(&cache, Gfp::KERNEL);
        let frame = service.virt_to_page(object).expect("objects are in RAM");
        assert_eq!(service.mobility_of(frame), Some(mobility), "{flags:?}");
        // SAFETY: freed once.
        unsafe { service.kmem_cache_free(&cache, object) };
        service.kmem_cache_destroy(cache).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// The calling thread's policy, until it is dropped: the thread may go on to other tests.
struct Under(&'static TestService);

impl Under {
    fn policy(service: &'static TestService, policy: Policy) -> Self {
        service.set_mempolicy(policy).expect("the nodes have memory");
        Self(service)
    }
}

impl Drop for Under {
    fn drop(&mut self) {
        self.0.set_mempolicy(Policy::Local).expect("there is always local memory");
    }
}

#[test]
fn under_the_local_policy_user_memory_is_the_cpus_own() {
    let hosted = two_nodes();
    let service = hosted.service();
    let _policy = Under::policy(service, Policy::Local);
    for (cpu, node) in [(CPU_OF_NODE_1, NODE_1), (quarry_memory::CpuId(0), NODE_0)] {
        assert!(hosted.run_on(cpu));
        assert_eq!(service.cpu_to_node(service.machine().cpu()), node);
        assert_eq!(node_of_page(service, USER), Some(node));
        assert_eq!(node_of_refill(service, USER), Some(node));
        assert_eq!(node_of_large(service, USER), Some(node));
    }
}

#[test]
fn under_the_preferred_policy_user_memory_is_of_one_node_while_it_has_some() {
    let service = two_nodes().service();
    let _policy = Under::policy(service, Policy::Preferred(NODE_1));
    for node_of in [node_of_page, node_of_refill, node_of_large] {
        assert_eq!(node_of(service, USER), Some(NODE_1));
        assert_eq!(node_of(service, KERNEL), Some(NODE_0), "a policy is for user memory");
    }
    service.shrink_depots();
    let _hoard = Hoard::of_node(service, NODE_1);
    for node_of in [node_of_page, node_of_refill, node_of_large] {
        assert_eq!(node_of(service, USER), Some(NODE_0));
    }
}

#[test]
fn the_bind_policy_is_a_wall() {
    let service = two_nodes().service();
    let _policy = Under::policy(service, Policy::Bind(NodeMask::only(NODE_1)));
    for node_of in [node_of_page, node_of_refill, node_of_large] {
        assert_eq!(node_of(service, USER), Some(NODE_1));
        assert_eq!(node_of(service, Gfp::HIGHUSER), Some(NODE_1));
    }
    service.shrink_depots();
    let hoard = Hoard::of_node(service, NODE_1);
    for node_of in [node_of_page, node_of_refill, node_of_large] {
        assert_eq!(node_of(service, USER), None, "node 0 has memory, which is behind the wall");
        assert_eq!(node_of(service, KERNEL), Some(NODE_0));
    }
    let named = service.alloc_pages_node(NODE_0, USER, Order::ZERO).expect("who names a node has no policy");
    assert_eq!(service.page_to_node(named), Some(NODE_0));
    service.__free_pages(named, Order::ZERO);
    drop(hoard);
    service.drain_local();
    assert_books_balance(service);
}

#[test]
fn the_interleave_policy_goes_round_its_nodes() {
    let topology =
        Topology::builder().node(32 * MIB, 1).node(32 * MIB, 1).node(32 * MIB, 1).build().expect("a machine");
    let service = Hosted::leak(topology).expect("there is address space").service();
    let nodes = [NODE_1, NodeId(2)];
    let _policy = Under::policy(service, Policy::Interleave(NodeMask::only(nodes[0]).with(nodes[1])));
    let interleaved = || nodes.map(|node| service.numa_statistics(node).interleave);
    let before = interleaved();
    for _ in 0..10 {
        for node in nodes {
            assert_eq!(node_of_page(service, USER), Some(node));
        }
    }
    assert_eq!(interleaved(), before.map(|count| count + 10));
    for _ in 0..10 {
        for node in nodes {
            assert_eq!(node_of_refill(service, USER), Some(node));
        }
    }
    // A node that is full is passed over, not waited for.
    service.shrink_depots();
    let _hoard = Hoard::of_node(service, NODE_1);
    assert_ne!(node_of_page(service, USER), Some(NODE_1));
    assert_eq!(highest_zone(service, NODE_1).available(), 0);
    assert_eq!(node_of_page(service, USER), Some(NodeId(2)));
}
