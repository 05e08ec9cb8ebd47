//! Runs larger than any block, up to gigabytes: of blocks side by side, and of sections that were never filled.

use quarry_memory::hosted::Hosted;
use quarry_memory::{
    ContigBlock, ContigError, ContigRequest, Gfp, MallocFlags, NodeId, NodeMask, Order, Pfn, Topology,
};

use crate::support::{MIB, TYPE, TestService, assert_books_balance, one_node};

const GIB: u64 = 1 << 30;

fn block(
    service: &'static TestService,
    request: ContigRequest,
) -> ContigBlock<'static, quarry_memory::hosted::HostedMachine> {
    service.contig_block(&TYPE, &request).unwrap_or_else(|error| panic!("{request:?}: {error}"))
}

/// Has all of a machine's memory filled, and leaves it free.
fn fill_all(service: &TestService) {
    let gfp = Gfp::NOWAIT | Gfp::NOWARN;
    let all = {
        let _all = service.memalloc_noreclaim();
        std::iter::from_fn(|| service.alloc_pages(gfp, Order::MAX)).collect::<Vec<_>>()
    };
    assert_eq!(service.statistics().deferred, 0);
    for block in all {
        service.__free_pages(block, Order::MAX);
    }
}

#[test]
fn a_gigabyte_of_sections_never_filled_is_cut_out_and_comes_back() {
    let service = one_node(8 * GIB);
    drop(block(service, ContigRequest::new(4096)));
    let before = service.statistics();
    assert!(before.deferred > 7 * GIB);
    let one = block(service, ContigRequest::new(1 << 30));
    let used = service.statistics();
    assert_eq!(used.large, GIB);
    // Nothing was filled but the entries of its first frame.
    assert!(used.metadata - before.metadata <= 16 * 4096, "{used:#?}");
    let unfilled = before.deferred - used.deferred;
    assert!(unfilled - GIB <= 16 * 4096, "{unfilled}");
    assert!(used.adds_up());
    // SAFETY: the block is this test's, as large as that.
    unsafe {
        one.as_ptr().write(1);
        one.as_ptr().add((1 << 30) - 1).write(2);
    }
    assert_eq!(one.physical() % (128 * MIB), 0, "a whole number of sections is left");
    let others: Vec<_> = (0..5).map(|_| block(service, ContigRequest::new(1 << 30))).collect();
    let places: Vec<_> = others.iter().chain([&one]).map(|block| block.physical() / GIB).collect();
    assert_eq!(service.count_page_frames() * 4096 / GIB, 6, "{places:?}");
    drop(one);
    drop(others);
    let after = service.statistics();
    assert_eq!(after.deferred + after.metadata + after.free, before.deferred + before.metadata + before.free);
    assert_books_balance(service, 0);
    // All of it can be had for other things.
    fill_all(service);
    assert_books_balance(service, 0);
}

#[test]
fn the_frames_of_a_run_that_was_not_filled_belong_to_no_other_call() {
    let service = one_node(2 * GIB);
    let size = 256 << 20;
    let block = block(service, ContigRequest::new(size));
    for at in (0..size).step_by(5 << 20) {
        let page = block.as_ptr().wrapping_add(at);
        // SAFETY: none of these frees anything, which is what is tested.
        unsafe {
            assert!(service.try_kfree(page).is_err());
            assert!(at == 0 || service.try_contigfree(page, size, &TYPE).is_err());
        }
        let frame = Pfn::containing(block.physical() + at as u64);
        assert_eq!(service.virt_to_page(page), Some(frame));
        assert_eq!(service.page_to_node(frame), Some(NodeId(0)));
        assert!(service.try_free_pages(frame, Order::ZERO).is_err());
    }
    // What is filled beside it merges with none of it.
    fill_all(service);
    assert_books_balance(service, size as u64);
    assert_eq!(service.compact_memory(), 0);
    drop(block);
    assert_books_balance(service, 0);
    fill_all(service);
}

#[test]
fn every_frame_of_a_run_that_was_not_filled_is_found_by_its_address_as_long_as_it_is_one() {
    let topology = Topology::builder().node(4 * GIB, 1).node(4 * GIB, 1).build().expect("a machine");
    let service = Hosted::leak(topology).expect("there is address space").service();
    let size = 256 << 20;
    let request = |node: usize| ContigRequest {
        nodes: NodeMask::only(NodeId(node as u8)),
        flags: MallocFlags::NOWAIT,
        ..ContigRequest::new(size)
    };
    let ends = |start: *mut u8| [start, start.wrapping_add(size / 2 + 5), start.wrapping_add(size - 1)];
    let mut runs: Vec<_> = (0..10).map(|at| Some((at % 2, block(service, request(at % 2))))).collect();
    for gone in [0, 9, 4, 5, 1, 8, 2, 3, 7, 6] {
        for (node, run) in runs.iter().flatten() {
            for address in ends(run.as_ptr()) {
                let frame = service.virt_to_page(address).expect("it is the service's");
                assert_eq!(service.page_address(frame), address.map_addr(|address| address & !4095));
                assert_eq!(service.page_to_node(frame), Some(NodeId(*node as u8)));
            }
        }
        let (_, run) = runs[gone].take().expect("each goes once");
        let start = run.as_ptr();
        drop(run);
        assert!(ends(start).into_iter().all(|address| service.virt_to_page(address).is_none()), "of run {gone}");
    }
    assert_books_balance(service, 0);
}

#[test]
fn a_gigabyte_is_found_in_memory_that_was_filled_and_used() {
    let service = one_node(4 * GIB);
    fill_all(service);
    for alignment in [1, 1 << 21, 1 << 28] {
        let request = ContigRequest { alignment, flags: MallocFlags::NOWAIT, ..ContigRequest::new(1 << 30) };
        let one = block(service, request);
        assert_eq!(one.physical() % alignment as u64, 0);
        assert_eq!(service.statistics().large, GIB);
        drop(one);
        assert_books_balance(service, 0);
    }
    // All three that are there; then one frame is in the way.
    let odd = |size| ContigRequest { flags: MallocFlags::NOWAIT, ..ContigRequest::new(size) };
    let runs: Vec<_> = (0..3).map(|_| block(service, odd((1 << 30) - 4096))).collect();
    assert_eq!(service.contig_block(&TYPE, &odd(1 << 30)).expect_err("no more"), ContigError::NoMemory);
    drop(runs);
    let page = ContigRequest { low: 2 * GIB, high: 2 * GIB + 4095, ..odd(4096) };
    let obstacle = block(service, page);
    let (below, above) = (block(service, odd(3 << 29)), block(service, odd(3 << 29)));
    assert_eq!(service.contig_block(&TYPE, &odd(3 << 29)).expect_err("no more"), ContigError::NoMemory);
    assert!(below.physical() + 3 * GIB / 2 <= obstacle.physical() || below.physical() > obstacle.physical());
    drop((below, above, obstacle));
    assert_books_balance(service, 0);
}

#[test]
fn a_run_may_begin_in_filled_memory_and_end_in_what_is_not() {
    let service = one_node(2 * GIB);
    // A section or two are filled, and all of the rest is wanted but for what the reserve and the tables take.
    drop(block(service, ContigRequest::new(4096)));
    let request = ContigRequest { flags: MallocFlags::NOWAIT, ..ContigRequest::new(3 << 29) };
    let request = ContigRequest { low: 20 * MIB, ..request };
    let before = service.statistics();
    assert!(before.deferred < 2 * GIB && before.free > 0);
    let one = block(service, ContigRequest { size: 1900 << 20, ..request });
    assert_eq!(service.statistics().large, 1900 * MIB);
    drop(one);
    assert_books_balance(service, 0);
}

#[test]
fn a_small_run_of_a_far_part_has_that_part_filled_and_no_other() {
    let service = one_node(16 * GIB);
    let before = service.statistics();
    let place = 12 * GIB + 5 * MIB;
    let near = ContigRequest { low: place, high: place + 2 * MIB - 1, ..ContigRequest::new(2 << 20) };
    let one = block(service, near);
    assert_eq!(one.physical(), place);
    let after = service.statistics();
    assert!(before.deferred - after.deferred <= 260 * MIB, "two sections at most are filled");
    let two = block(service, ContigRequest { low: place - 2 * MIB, high: place - 1, ..near });
    assert_eq!(two.physical(), place - 2 * MIB);
    assert_eq!(service.statistics().deferred, after.deferred, "it was filled already");
    drop((one, two));
    assert_books_balance(service, 0);
    fill_all(service);
    assert_books_balance(service, 0);
}

#[test]
fn runs_of_every_length_and_place_leave_the_machine_whole() {
    let topology = Topology::builder().node(3 * GIB, 1).node(3 * GIB, 1).build().expect("a machine");
    let service = Hosted::leak(topology).expect("there is address space").service();
    let total = service.statistics().total;
    let mut number = 0x9e37_79b9_7f4a_7c15u64;
    println!("seed: {number:#x}");
    let mut held = Vec::new();
    let mut served = 0;
    for step in 0..400 {
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        let size = 1 + (number % (1 << [14, 22, 27, 30][step % 4])) as usize;
        let low = (number >> 8) % (6 * GIB);
        let alignment = 1 << ((number >> 50) % 29);
        let request = ContigRequest { low, alignment, flags: MallocFlags::NOWAIT, ..ContigRequest::new(size) };
        held.extend(service.contig_block(&TYPE, &request));
        served = served.max(held.len());
        if held.len() > 12 {
            held.swap_remove((number >> 20) as usize % 12);
        }
        let rows = service.statistics();
        assert!(rows.adds_up() && rows.total == total, "{rows:#?}");
        let memory: u64 = held.iter().map(|block| block.size().next_multiple_of(4096) as u64).sum();
        assert_eq!(rows.large, memory);
        let mut places: Vec<_> = held.iter().map(|block| (block.physical(), block.size() as u64)).collect();
        places.sort_unstable();
        assert!(places.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{places:x?}");
    }
    assert!(served > 10, "{served} at most");
    drop(held);
    assert_books_balance(service, 0);
    fill_all(service);
    assert_books_balance(service, 0);
}
