//! What each call promises: the manual's example, flags, errors, frees, types.

use std::panic::{AssertUnwindSafe, catch_unwind};

use quarry_memory::hosted::Hosted;
use quarry_memory::malloc_type::MAX_MALLOC_TYPES;
use quarry_memory::statistics::Malloctypes;
use quarry_memory::{
    ContigBlock, ContigError, ContigFreeError, ContigRequest, CpuId, Gfp, M_DEVBUF, M_TEMP, Machine, MallocFlags,
    MallocType, MallocTypeUse, NodeId, NodeMask, Order, Topology,
};

use crate::support::{MIB, TYPE, assert_books_balance, one_node, physical};

const ANYWHERE: u64 = u64::MAX;

fn message_of(call: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(call)).expect_err("it panics");
    panic.downcast_ref::<String>().expect("a panic with a sentence").clone()
}

fn bytes(address: *mut u8, size: usize) -> &'static mut [u8] {
    // SAFETY: the tests call it with memory they have, which is written, and drop the slice before it goes.
    unsafe { std::slice::from_raw_parts_mut(address, size) }
}

#[test]
fn the_manuals_example_is_served_as_the_manual_says() {
    let service = one_node(64 * MIB);
    // So that nothing is zero by itself.
    let pages: Vec<_> = std::iter::from_fn(|| service.alloc_pages(Gfp::NOWAIT | Gfp::NOWARN, Order::ZERO)).collect();
    for &page in &pages {
        bytes(service.page_address(page), 4096).fill(0xa5);
        service.__free_pages(page, Order::ZERO);
    }
    let p = service.contigmalloc(8192, &M_DEVBUF, MallocFlags::ZERO, 0, 1 << 22, 32 * 1024, 1024 * 1024);
    assert!(!p.is_null());
    let first = physical(service, p);
    let last = first + 8191;
    assert!(last <= 4_194_303, "{first:#x}");
    assert_eq!(first % (32 * 1024), 0);
    assert_eq!(first >> 20, last >> 20, "it crosses no boundary of 1 MiB");
    assert!(bytes(p, 8192).iter().all(|&byte| byte == 0));
    assert_books_balance(service, 8192);
    // SAFETY: nobody uses it any more.
    unsafe { service.contigfree(p, 8192, &M_DEVBUF) };
    assert_books_balance(service, 0);
}

#[test]
fn the_highest_address_is_inclusive_and_pages_are_whole() {
    let service = one_node(64 * MIB);
    let place = 8 * MIB;
    let at = |size, low, high| {
        let request = ContigRequest { low, high, ..ContigRequest::new(size) };
        service.contig_block(&TYPE, &request).map(|block| block.physical())
    };
    // Of two pages from there: the last byte may be at `high`, and one less is too little, however few bytes are used.
    assert_eq!(at(8192, place, place + 8191), Ok(place));
    assert_eq!(at(8192, place, place + 8190), Err(ContigError::NoSuchPlace));
    assert_eq!(at(4097, place, place + 8191), Ok(place));
    assert_eq!(at(4097, place, place + 4097), Err(ContigError::NoSuchPlace));
    // The byte behind a page is in no page that would fit: as the manual has it, both mean the same.
    assert_eq!(at(8192, place, place + 8192), Ok(place));
    assert_eq!(at(12288, place, place + 8192), Err(ContigError::NoSuchPlace));
    // The lowest address is inclusive as well.
    assert_eq!(at(4096, place + 1, place + 8191), Ok(place + 4096));
    assert_eq!(at(8192, place + 1, place + 8191), Err(ContigError::NoSuchPlace));
}

#[test]
fn what_no_address_can_be_is_told_from_what_is_not_free() {
    let service = one_node(64 * MIB);
    let error = |request| service.contig_block(&TYPE, &request).expect_err("it cannot be");
    let any = ContigRequest::new(8192);
    assert_eq!(error(ContigRequest { low: 8192, high: 4096, ..any }), ContigError::NoSuchPlace);
    assert_eq!(error(ContigRequest { boundary: 4096, ..any }), ContigError::NoSuchPlace);
    assert_eq!(error(ContigRequest::new(usize::MAX)), ContigError::NoSuchPlace);
    assert_eq!(error(ContigRequest { alignment: 1 << 63, low: 1, ..any }), ContigError::NoSuchPlace);
    assert_eq!(error(ContigRequest { low: 64 * MIB, ..any }), ContigError::NoMemory, "there is no such RAM");
    assert_eq!(error(ContigRequest { alignment: 64 << 20, ..any }), ContigError::NoMemory);
    assert_eq!(error(ContigRequest::new(64 << 20)), ContigError::NoMemory);
    assert_eq!(error(ContigRequest { nodes: NodeMask::default(), ..any }), ContigError::NoMemory);
    assert_books_balance(service, 0);
}

#[test]
fn misuse_panics_as_the_manual_says_and_is_an_error_where_errors_are_returned() {
    let service = one_node(64 * MIB);
    let none = MallocFlags::empty();
    for (request, error) in [
        (ContigRequest::new(0), ContigError::ZeroSize),
        (ContigRequest { alignment: 0, ..ContigRequest::new(1) }, ContigError::Alignment(0)),
        (ContigRequest { alignment: 4097, ..ContigRequest::new(1) }, ContigError::Alignment(4097)),
        (ContigRequest { boundary: 12288, ..ContigRequest::new(1) }, ContigError::Boundary(12288)),
    ] {
        assert_eq!(service.contig_block(&TYPE, &request).expect_err("misuse"), error);
        let ContigRequest { size, alignment, boundary, .. } = request;
        let call = || assert!(service.contigmalloc(size, &TYPE, none, 0, ANYWHERE, alignment, boundary).is_null());
        assert_eq!(message_of(call), error.to_string());
    }
    assert_eq!(service.malloc_types().count(), 0, "none of them was a request");
}

#[test]
fn the_rest_of_a_power_of_two_is_not_wasted() {
    let service = one_node(64 * MIB);
    drop(service.contig_block(&TYPE, &ContigRequest::new(1)).expect("memory is free"));
    let (before, frames) = (service.statistics(), service.count_page_frames());
    for (size, pages) in [(1, 1), (4097, 2), (5 * 4096 + 1, 6), ((4 << 20) + 4096, 1025), ((32 << 20) - 5000, 8191)] {
        let block = service.contig_block(&TYPE, &ContigRequest::new(size)).expect("memory is free");
        let after = service.statistics();
        assert_eq!((after.large, before.free - after.free), (pages * 4096, pages * 4096), "{size} bytes");
        assert_eq!(service.count_page_frames() - frames, pages, "{size} bytes");
        assert!(after.adds_up(), "{after:#?}");
        drop(block);
    }
    assert_books_balance(service, 0);
}

#[test]
fn zeroed_memory_is_zero_also_when_it_was_used_before() {
    let service = one_node(64 * MIB);
    let request = ContigRequest::new(3 << 20);
    for _ in 0..20 {
        let block = service.contig_block(&TYPE, &request).expect("memory is free");
        bytes(block.as_ptr(), block.size()).fill(0x5a);
        drop(block);
        let zeroed = ContigRequest { flags: MallocFlags::ZERO, ..request };
        let block = service.contig_block(&TYPE, &zeroed).expect("memory is free");
        assert!(bytes(block.as_ptr(), block.size()).iter().all(|&byte| byte == 0));
    }
}

#[test]
fn flags_that_are_not_known_are_ignored() {
    let service = one_node(64 * MIB);
    let flags = MallocFlags::from_bits_retain(0x8000_4000) | MallocFlags::WAITOK;
    let p = service.contigmalloc(4096, &TYPE, flags, 0, ANYWHERE, 1, 0);
    assert!(!p.is_null());
    // SAFETY: nobody uses it any more.
    unsafe { service.contigfree(p, 4096, &TYPE) };
}

#[test]
fn a_wrong_free_is_told_and_frees_nothing() {
    static OTHER: MallocType = MallocType::new("other", "another type");
    let service = one_node(64 * MIB);
    let address = service.contig_block(&TYPE, &ContigRequest::new(10_000)).expect("memory is free").into_raw().as_ptr();
    let start = address.addr();
    // SAFETY: none of these frees anything, which is what is tested.
    unsafe {
        let free = |address, size, kind| service.try_contigfree(address, size, kind).expect_err("it is wrong");
        let wrong_size = |freed| ContigFreeError::WrongSize { address: start, allocated: 10_000, freed };
        for size in [0, 1, 9_999, 10_001, 12_288, 1 << 40] {
            assert_eq!(free(address, size, &TYPE), wrong_size(size));
        }
        let wrong_type = ContigFreeError::WrongType { address: start, allocated: "test", freed: "other" };
        assert_eq!(free(address, 10_000, &OTHER), wrong_type);
        for inside in [1, 4096, 8192, 12_288] {
            let inside = address.wrapping_add(inside);
            assert_eq!(free(inside, 10_000, &TYPE), ContigFreeError::NotAllocated { address: inside.addr() });
        }
        for foreign in [std::ptr::null_mut(), std::ptr::dangling_mut(), (&raw const OTHER).cast_mut().cast()] {
            assert!(matches!(free(foreign, 10_000, &TYPE), ContigFreeError::NotAllocated { .. }));
        }
        let object = service.kmalloc(8192, Gfp::KERNEL);
        assert!(matches!(free(object, 8192, &TYPE), ContigFreeError::NotAllocated { .. }));
        service.kfree(object);
        assert_eq!(
            message_of(|| service.contigfree(address, 1, &TYPE)),
            format!("contigfree of {start:#x} with 1 bytes, but it was allocated with 10000")
        );
        assert_eq!(
            message_of(|| service.contigfree(address, 10_000, &OTHER)),
            format!("contigfree of {start:#x} as \"other\", but it was allocated as \"test\"")
        );
        service.contigfree(address, 10_000, &TYPE);
        assert_eq!(
            message_of(|| service.contigfree(address, 10_000, &TYPE)),
            format!("contigfree of {start:#x}, where no run begins: a double free, or not from contigmalloc")
        );
    }
    service.drain_local();
    service.shrink_depots();
    assert_books_balance(service, 0);
}

#[test]
fn no_other_free_takes_any_of_it() {
    let service = one_node(64 * MIB);
    let address = service.contig_block(&TYPE, &ContigRequest::new(16 * 4096)).expect("memory is free").into_raw();
    for at in 0..16 {
        let page = address.as_ptr().wrapping_add(at * 4096);
        // SAFETY: none of these frees anything, which is what is tested.
        unsafe {
            assert!(service.try_kfree(page).is_err());
            assert!(catch_unwind(AssertUnwindSafe(|| service.kfree(page))).is_err());
            assert!(catch_unwind(AssertUnwindSafe(|| service.kvfree(page))).is_err());
        }
        let frame = service.virt_to_page(page).expect("it is memory of the service");
        for order in [Order::ZERO, Order::new(4).expect("an order")] {
            assert!(service.try_free_pages(frame, order).is_err());
            assert!(catch_unwind(AssertUnwindSafe(|| service.free_pages(page, order))).is_err());
        }
        assert!(service.free_movable_page(frame).is_err());
        assert!(catch_unwind(AssertUnwindSafe(|| service.get_page(frame))).is_err());
        assert_eq!((service.page_count(frame), service.compound_head(frame)), (0, None));
        assert!(catch_unwind(AssertUnwindSafe(|| service.ksize(page))).is_err());
    }
    assert_books_balance(service, 16 * 4096);
    // SAFETY: nobody uses it any more.
    unsafe { service.contigfree(address.as_ptr(), 16 * 4096, &TYPE) };
    assert_books_balance(service, 0);
}

#[test]
fn types_count_what_is_allocated_of_them() {
    static FIRST: MallocType = MallocType::new("first", "the one used first");
    let service = one_node(64 * MIB);
    assert_eq!(service.malloc_types().count(), 0, "a type is noted when it is first used");
    let small = service.contig_block(&FIRST, &ContigRequest::new(100)).expect("memory is free");
    let large = service.contig_block(&M_TEMP, &ContigRequest::new(5 << 20)).expect("memory is free");
    drop(service.contig_block(&FIRST, &ContigRequest::new(4097)).expect("memory is free"));
    let types: Vec<_> = service.malloc_types().map(|(kind, numbers)| (kind.name(), numbers)).collect();
    let first = MallocTypeUse { in_use: 1, bytes: 4096, requests: 2, sizes: 1 << 7 | 1 << 13 };
    let temp = MallocTypeUse { in_use: 1, bytes: 5 << 20, requests: 1, sizes: 1 << 23 };
    assert_eq!(types, [("first", first), ("temp", temp)]);
    assert_eq!(FIRST.description(), "the one used first");
    let report = "         Type InUse MemUse HighUse Requests  Size(s)\n        \
                  first     1     4K       -        2  128,8192\n         \
                  temp     1  5120K       -        1  8388608\n";
    assert_eq!(Malloctypes(service).to_string(), report);
    let other = one_node(64 * MIB);
    assert_eq!(other.malloc_types().count(), 0, "each service counts for itself");
    drop((small, large));
    let in_use: Vec<_> = service.malloc_types().map(|(_, numbers)| (numbers.in_use, numbers.bytes)).collect();
    assert_eq!(in_use, [(0, 0), (0, 0)]);
}

#[test]
fn there_is_room_for_so_many_types() {
    let service = one_node(64 * MIB);
    let types: Vec<&'static MallocType> =
        (0..=MAX_MALLOC_TYPES).map(|_| &*Box::leak(Box::new(MallocType::new("leaked", "one of many")))).collect();
    let request = ContigRequest::new(1);
    let made = |kind: &&'static MallocType| service.contig_block(kind, &request).map(drop);
    let results: Vec<_> = types.iter().map(made).collect();
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), MAX_MALLOC_TYPES);
    assert_eq!(results.last(), Some(&Err(ContigError::TooManyTypes)));
    let last = types.last().expect("there are some");
    assert!(service.contigmalloc(1, last, MallocFlags::empty(), 0, ANYWHERE, 1, 0).is_null());
    assert_eq!(types.iter().flat_map(made).count(), MAX_MALLOC_TYPES, "those that are noted stay");
}

#[test]
fn a_block_says_where_it_is_and_frees_itself() {
    let service = one_node(64 * MIB);
    let block = service.contig_block(&TYPE, &ContigRequest::new(5000)).expect("memory is free");
    assert_eq!(block.physical(), physical(service, block.as_ptr()));
    assert_eq!((block.size(), block.as_ptr().addr() % 4096), (5000, 0));
    assert_eq!(service.machine().direct_map() as u64 + block.physical(), block.as_ptr().addr() as u64);
    assert!(format!("{block:?}").starts_with("5000 bytes of test at 0x"), "{block:?}");
    // It can be used and freed by another thread.
    let write = |block: ContigBlock<_>| bytes(block.as_ptr(), 5000).fill(1);
    std::thread::scope(|scope| scope.spawn(move || write(block)).join().expect("it does not panic"));
    assert_books_balance(service, 0);
}

#[test]
fn it_comes_from_the_nearest_of_the_nodes_named() {
    let topology = Topology::builder().node(64 * MIB, 1).node(64 * MIB, 1).node(64 * MIB, 1);
    let topology = topology.distance(NodeId(0), NodeId(1), 30).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    assert!(hosted.run_on(CpuId(0)));
    let service = hosted.service();
    let node_of = |block: &ContigBlock<_>| {
        service.page_to_node(service.virt_to_page(block.as_ptr()).expect("it is memory")).expect("it is managed")
    };
    let block = |size, nodes| {
        let request = ContigRequest { nodes, flags: MallocFlags::NOWAIT, ..ContigRequest::new(size) };
        service.contig_block(&TYPE, &request).ok()
    };
    let from = |nodes| block(8192, nodes).as_ref().map(node_of);
    assert_eq!(from(NodeMask::ALL), Some(NodeId(0)));
    assert_eq!(from(NodeMask::only(NodeId(1))), Some(NodeId(1)));
    assert_eq!(from(NodeMask::only(NodeId(1)).with(NodeId(2))), Some(NodeId(2)));
    assert_eq!(from(NodeMask::only(NodeId(7))), None);
    let p =
        service.contigmalloc_domainset(9, &TYPE, NodeMask::only(NodeId(1)), MallocFlags::empty(), 0, ANYWHERE, 1, 0);
    assert_eq!(physical(service, p) >> 26, 1, "node 1 has the second 64 MiB");
    // SAFETY: nobody uses it any more.
    unsafe { service.contigfree(p, 9, &TYPE) };
    // The nearest that has such a run, and no other than those named.
    let most = block(40 << 20, NodeMask::ALL).expect("node 0 has it");
    let next = block(40 << 20, NodeMask::ALL).expect("node 2 has it");
    assert_eq!((node_of(&most), node_of(&next)), (NodeId(0), NodeId(2)));
    assert!(block(40 << 20, NodeMask::only(NodeId(0)).with(NodeId(2))).is_none());
}
