//! Pages zeroed by idle CPUs: what is in them, how many there are, who gets them, and that they are given back.

use quarry_memory::events::Event;
use quarry_memory::hosted::{Hosted, HostedMachine};
use quarry_memory::vm::PageRequest;
use quarry_memory::{CpuId, FRAME_BYTES, Gfp, NodeId, Order, Pfn, Service, Topology};

type TestService = Service<HostedMachine>;

const MIB: u64 = 1 << 20;
const PAGE: u64 = FRAME_BYTES as u64;
const ZERO: Gfp = Gfp::KERNEL.union(Gfp::ZERO);
const QUICK: Gfp = Gfp::NOWAIT.union(Gfp::NOWARN);

fn start(topology: Topology) -> &'static TestService {
    let hosted = Hosted::leak(topology).expect("there is address space");
    assert!(hosted.run_on(CpuId(0)));
    hosted.service()
}

/// A machine of one node, the pages of which were all written to.
fn dirty(mib: u64) -> &'static TestService {
    let service = start(Topology::builder().node(mib * MIB, 1).build().expect("a machine"));
    let pages: Vec<_> = std::iter::from_fn(|| service.alloc_pages(QUICK, Order::ZERO)).collect();
    for &page in &pages {
        fill(service, page);
    }
    free(service, pages);
    service.drain_local();
    service
}

fn fill(service: &TestService, page: Pfn) {
    // SAFETY: the tests pass pages of theirs.
    unsafe { service.page_address(page).write_bytes(0xa5, FRAME_BYTES) };
}

fn is_zero(service: &TestService, page: Pfn) -> bool {
    // SAFETY: as above; every byte of a page has a value.
    let bytes = unsafe { std::slice::from_raw_parts(service.page_address(page), FRAME_BYTES) };
    bytes.iter().all(|&byte| byte == 0)
}

fn free(service: &TestService, pages: impl IntoIterator<Item = Pfn>) {
    pages.into_iter().for_each(|page| service.__free_pages(page, Order::ZERO));
}

/// What an idle CPU does; how many pages that made.
fn idle(service: &TestService) -> u64 {
    std::iter::repeat_with(|| service.zero_idle()).take_while(|&more| more).count() as u64
}

/// How many pages are in stock.
#[track_caller]
fn stock(service: &TestService) -> u64 {
    service.validate().unwrap_or_else(|broken| panic!("{broken}"));
    let rows = service.statistics();
    assert!(rows.adds_up() && !rows.approximate, "{rows:#?}");
    rows.zeroed / PAGE
}

/// Requests that found a page zeroed, and those that did not.
fn found_and_not(service: &TestService) -> (u64, u64) {
    (service.event_count(Event::ZeroedHit), service.event_count(Event::ZeroedMiss))
}

#[test]
fn a_page_from_the_stock_is_zero_whatever_it_held() {
    let service = dirty(64);
    let made = idle(service);
    assert!(made > 0);
    let pages: Vec<_> =
        (0..2 * made).map(|_| service.alloc_pages(ZERO, Order::ZERO).expect("memory is free")).collect();
    assert_eq!(found_and_not(service), (made, made));
    assert!(pages.iter().all(|&page| is_zero(service, page)));
    // Used, freed, zeroed again, and given out again.
    for &page in &pages {
        fill(service, page);
    }
    free(service, pages);
    service.drain_local();
    assert_eq!(idle(service), made);
    let again: Vec<_> = (0..made).map(|_| service.alloc_pages(ZERO, Order::ZERO).expect("memory is free")).collect();
    assert_eq!(found_and_not(service), (2 * made, made));
    assert!(again.iter().all(|&page| is_zero(service, page)));
    free(service, again);
    assert_eq!((stock(service), service.statistics().in_use()), (0, 0));
}

#[test]
fn a_stock_is_bounded_by_the_node_and_by_a_number() {
    for (mib, most) in [(32, 4), (64, 8), (1024, 32)] {
        let service = start(Topology::builder().node(mib * MIB, 1).build().expect("a machine"));
        assert_eq!(idle(service), most, "unmovable pages on a node of {mib} MiB");
        assert_eq!(stock(service), most);
        assert!(!service.zero_idle(), "there is nothing left to do");
        // Movable pages are kept from the first request for one on, which is served from what there is.
        let page = service.alloc_pages(ZERO | Gfp::MOVABLE, Order::ZERO).expect("memory is free");
        assert_eq!(found_and_not(service), (1, 0));
        assert_eq!(idle(service), most + 1, "and a movable one for each of them");
        assert_eq!(stock(service), 2 * most);
        free(service, [page]);
    }
}

#[test]
fn pages_are_kept_in_pageblocks_of_their_mobility() {
    let service = dirty(64);
    let first = service.alloc_pages(ZERO | Gfp::MOVABLE, Order::ZERO).expect("memory is free");
    let made = idle(service);
    let take = |gfp| (0..made / 2).map(|_| service.alloc_pages(gfp, Order::ZERO).expect("memory is free")).collect();
    let (movable, unmovable): (Vec<_>, Vec<_>) = (take(ZERO | Gfp::MOVABLE), take(ZERO));
    assert_eq!(found_and_not(service), (made, 1));
    for (pages, mobility) in
        [(&movable, quarry_memory::Mobility::Movable), (&unmovable, quarry_memory::Mobility::Unmovable)]
    {
        assert!(pages.iter().all(|&page| service.mobility_of(page) == Some(mobility)), "{mobility:?}");
    }
    free(service, [first].into_iter().chain(movable).chain(unmovable));
    assert_eq!(service.statistics().in_use(), 0);
}

#[test]
fn only_single_pages_of_zeroes_come_from_the_stock() {
    let service = dirty(64);
    let made = idle(service);
    let two = Order::new(1).expect("it exists");
    let blocks = [(Gfp::KERNEL, Order::ZERO), (ZERO, two), (ZERO | Gfp::DMA, Order::ZERO)];
    for (gfp, order) in blocks {
        let block = service.alloc_pages(gfp, order).expect("memory is free");
        assert_eq!(stock(service), made, "{gfp} of {order}");
        service.__free_pages(block, order);
    }
    assert_eq!(found_and_not(service), (0, 1), "the one below 16 MiB found none");
    let page = service.get_free_pages(ZERO, Order::ZERO);
    assert_eq!((stock(service), found_and_not(service)), (made - 1, (1, 1)));
    service.free_pages(page, Order::ZERO);
}

#[test]
fn a_freed_page_of_the_stock_is_no_page() {
    let service = dirty(64);
    let page = service.alloc_pages(ZERO, Order::ZERO).expect("memory is free");
    service.__free_pages(page, Order::ZERO);
    service.drain_local();
    assert!(idle(service) > 0);
    let taken = service.alloc_pages(ZERO, Order::ZERO).expect("memory is free");
    service.__free_pages(taken, Order::ZERO);
    service.drain_local();
    // Zeroed last, so taken first.
    assert_eq!(idle(service), 1);
    for page in [page, taken] {
        assert_eq!(service.page_count(page), 0);
        assert!(service.try_free_pages(page, Order::ZERO).is_err());
    }
}

#[test]
fn the_stock_is_used_before_the_reserve_is_touched() {
    let service = dirty(64);
    assert!(idle(service) > 0);
    let low: u32 = service.zones().map(|zone| zone.watermarks.low).sum();
    let mut pages = Vec::new();
    while stock(service) > 0 {
        let available: u32 = service.zones().map(|zone| zone.available() + zone.per_cpu_lists).sum();
        assert!(available >= low, "{available} frames left, and the stock is full");
        pages.push(service.alloc_pages(QUICK, Order::ZERO).expect("the stock is not used up"));
    }
    pages.extend(std::iter::from_fn(|| service.alloc_pages(QUICK, Order::ZERO)));
    assert!(!service.zero_idle(), "memory is short");
    assert_eq!(stock(service), 0);
    free(service, pages);
    service.drain_local();
    assert!(idle(service) > 0, "memory is plenty again");
}

#[test]
fn a_request_that_finds_no_block_and_a_drain_get_the_stock_back() {
    let service = dirty(64);
    let made = idle(service);
    assert!(made > 0);
    let large = Order::MAX;
    let blocks: Vec<_> =
        std::iter::from_fn(|| service.alloc_pages(Gfp::KERNEL | Gfp::NORETRY | Gfp::NOWARN, large)).collect();
    assert_eq!(stock(service), 0, "given back when there was no block");
    for block in blocks {
        service.__free_pages(block, large);
    }
    assert_eq!(idle(service), made);
    service.shrink_depots();
    assert_eq!(stock(service), 0);
}

#[test]
fn a_node_s_stock_serves_who_is_nearest() {
    let topology = Topology::builder().node(256 * MIB, 1).node(256 * MIB, 1).build().expect("a machine");
    let service = start(topology);
    let made = idle(service);
    let there = service.alloc_pages_node(NodeId(1), ZERO, Order::ZERO).expect("memory is free");
    assert_eq!(stock(service), made, "that is the other node's");
    let here = service.alloc_pages_node(NodeId(0), ZERO, Order::ZERO).expect("memory is free");
    assert_eq!((stock(service), found_and_not(service)), (made - 1, (1, 1)));
    assert_eq!(service.page_to_node(here), Some(NodeId(0)));
    assert_eq!(service.page_to_node(there), Some(NodeId(1)));
    free(service, [here, there]);
}

#[test]
fn cpus_with_nothing_left_to_do_at_home_fill_the_stocks_of_nodes_without_cpus() {
    let topology = Topology::builder().node(256 * MIB, 1).node(256 * MIB, 0).node(256 * MIB, 1);
    let service = start(topology.build().expect("a machine"));
    // Memory that nobody asked for yet is not taken in for this.
    let used = [1, 2].map(|node| service.alloc_pages_node(NodeId(node), Gfp::KERNEL, Order::ZERO));
    free(service, used.map(|page| page.expect("memory is free")));
    let made = idle(service);
    let take = |node| service.alloc_pages_node(NodeId(node), ZERO, Order::ZERO).expect("memory is free");
    let pages = [take(0), take(1)];
    assert_eq!((stock(service), found_and_not(service)), (made - 2, (2, 0)), "both had some");
    let there = take(2);
    assert_eq!((stock(service), found_and_not(service)), (made - 2, (2, 1)), "that node has a CPU of its own");
    assert_eq!(idle(service), 2, "one for each node");
    free(service, pages.into_iter().chain([there]));
}

#[test]
fn an_object_s_zeroed_page_counts_as_an_object_page() {
    let service = dirty(64);
    let made = idle(service);
    let object = service.vm_object(None).expect("there is memory");
    let before = service.statistics();
    {
        let mut locked = object.lock();
        let page = service.vm_page_alloc(Some(&mut locked), 0, PageRequest::normal().zero()).expect("memory is free");
        assert!(page.is_zeroed());
    }
    let after = service.statistics();
    assert_eq!((before.zeroed - after.zeroed, after.object_pages), (PAGE, PAGE));
    assert_eq!(stock(service), made - 1);
}

#[test]
fn cpus_that_zero_and_take_lose_no_page_and_hand_none_out_twice() {
    let topology = Topology::builder().node(64 * MIB, 4).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    std::thread::scope(|scope| {
        for cpu in 0..4 {
            scope.spawn(move || {
                assert!(hosted.run_on(CpuId(cpu)));
                let service = hosted.service();
                for round in 0..2000 {
                    if cpu % 2 == 0 {
                        service.zero_idle();
                    }
                    if round % 100 == 0 {
                        service.shrink_depots();
                    }
                    let page = service.alloc_pages(ZERO, Order::ZERO).expect("memory is free");
                    assert!(is_zero(service, page));
                    fill(service, page);
                    service.__free_pages(page, Order::ZERO);
                    if round % 10 == 0 {
                        service.drain_local();
                    }
                }
            });
        }
    });
    assert!(hosted.run_on(CpuId(0)));
    let service = hosted.service();
    service.shrink_depots();
    assert_eq!((stock(service), service.statistics().in_use()), (0, 0));
}
