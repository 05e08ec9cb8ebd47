//! What the calls promise, hosted: edges as Linux defines them, NUMA, checks at the call, and books that balance.

use std::sync::Barrier;

use quarry_memory::hosted::Hosted;
use quarry_memory::{CpuId, FreeError, Gfp, MAX_SIZE, Machine, NodeId, Order, PageError, Topology, ZERO_SIZE_PTR};

const MIB: u64 = 1 << 20;

fn two_nodes() -> &'static Hosted {
    let topology = Topology::builder().node(512 * MIB, 2).node(512 * MIB, 2).build().expect("a machine");
    Hosted::leak(topology).expect("there is address space")
}

fn is_filled(object: *const u8, size: usize, with: u8) -> bool {
    // SAFETY: the tests pass objects of theirs with at least that many bytes.
    unsafe { std::slice::from_raw_parts(object, size) }.iter().all(|&byte| byte == with)
}

#[track_caller]
fn assert_books_balance(hosted: &'static Hosted) {
    let service = hosted.service();
    let rows = service.statistics();
    assert!(rows.adds_up(), "{rows:#?}\nsum {}", rows.rows().iter().map(|row| row.1).sum::<u64>());
    assert_eq!(rows.slab_in_use, service.count_objects_in_use(), "{rows:#?}");
    service.validate().unwrap_or_else(|broken| panic!("{broken}"));
}

#[test]
fn a_magazine_is_filled_by_half_and_whole_where_nothing_was_given_back_since() {
    let topology = Topology::builder().node(2048 * MIB, 1).build().expect("a machine");
    let service = Hosted::leak(topology).expect("there is address space").service();
    let allocate = || service.kmalloc(64, Gfp::KERNEL);
    // SAFETY: the test frees what it allocated, once.
    let free = |object| unsafe { service.kfree(object) };
    let cached = || service.statistics().per_cpu_magazines / 64;
    // Puts objects on the CPU's stack, and the last that was freed into the magazine.
    let fill_stack = || {
        let objects: Vec<_> = (0..1000).map(|_| allocate()).collect();
        objects.into_iter().for_each(free);
    };
    let empty_magazine = || (0..cached()).map(|_| allocate()).collect::<Vec<_>>();
    fill_stack();
    fill_stack();
    let mut taken = empty_magazine();
    taken.push(allocate());
    assert_eq!(cached(), 28, "half of 58, and one handed out");
    taken.extend(empty_magazine());
    taken.push(allocate());
    assert_eq!(cached(), 57, "whole");
    // Two frees make it overflow, and give all.
    (0..2).for_each(|_| free(taken.pop().expect("there are more")));
    assert_eq!(cached(), 1);
    taken.extend(empty_magazine());
    taken.push(allocate());
    assert_eq!(cached(), 28, "half again");
    taken.into_iter().for_each(free);
}

#[test]
fn every_size_is_served_aligned_and_given_back() {
    let hosted = two_nodes();
    let service = hosted.service();
    let mut objects = Vec::new();
    let mut in_use = 0;
    for size in (1..=9000).step_by(7).chain([16 << 10, 100_000, MAX_SIZE]) {
        let object = service.kmalloc(size, Gfp::KERNEL);
        assert!(!object.is_null(), "{size}");
        assert!(object.addr().is_multiple_of(8));
        assert!(!size.is_power_of_two() || size > 4096 || object.addr().is_multiple_of(size), "{size} at {object:p}");
        assert!(service.ksize(object) >= size);
        // SAFETY: the object has `size` bytes.
        unsafe { object.write_bytes(size as u8, size) };
        in_use += service.ksize(object) as u64;
        objects.push((object, size));
    }
    let rows = service.statistics();
    assert_eq!(rows.slab_in_use + rows.large, in_use);
    assert_books_balance(hosted);
    for (object, size) in objects {
        assert!(is_filled(object, size, size as u8), "{size} bytes at {object:p} were overwritten");
        // SAFETY: nobody uses the object any more.
        unsafe { service.kfree(object) };
    }
    assert_books_balance(hosted);
    let rows = service.statistics();
    assert_eq!((rows.slab_in_use, rows.large, rows.pages_in_use), (0, 0, 0));
}

#[test]
fn edges_are_as_linux_defines_them() {
    let hosted = two_nodes();
    let service = hosted.service();
    assert_eq!(service.kmalloc(0, Gfp::KERNEL), ZERO_SIZE_PTR);
    assert_eq!(service.kzalloc(0, Gfp::KERNEL), ZERO_SIZE_PTR);
    assert_eq!(service.kmalloc_array(0, 8, Gfp::KERNEL), ZERO_SIZE_PTR);
    assert_eq!(service.ksize(ZERO_SIZE_PTR), 0);
    // SAFETY: null and the zero-size pointer may be freed.
    unsafe {
        service.kfree(std::ptr::null_mut());
        service.kfree(ZERO_SIZE_PTR);
        service.kfree_sensitive(std::ptr::null_mut());
    }
    assert!(service.kmalloc(MAX_SIZE + 1, Gfp::KERNEL | Gfp::NOWARN).is_null());
    assert!(service.kmalloc(usize::MAX, Gfp::KERNEL | Gfp::NOWARN).is_null());
    assert!(service.kmalloc_array(usize::MAX / 2, 3, Gfp::KERNEL).is_null());
    assert!(service.kcalloc(1 << 33, 1 << 33, Gfp::KERNEL).is_null());
    assert!(service.kmalloc_node(64, Gfp::KERNEL, NodeId(2)).is_null());
    assert!(service.kmalloc_node(64, Gfp::KERNEL, NodeId(200)).is_null());
    assert!(service.kmalloc_node(1 << 20, Gfp::KERNEL, NodeId(2)).is_null());
    assert!(service.alloc_pages_node(NodeId(2), Gfp::KERNEL, Order::ZERO).is_none());
    assert_books_balance(hosted);
}

#[test]
fn zeroed_memory_is_zero_also_when_it_was_used_before() {
    let hosted = two_nodes();
    let service = hosted.service();
    for size in [8, 24, 100, 4096, 8192, 50_000] {
        for _ in 0..100 {
            let object = service.kzalloc(size, Gfp::KERNEL);
            assert!(is_filled(object, size, 0), "{size}");
            // SAFETY: the object has `size` bytes and is freed once.
            unsafe {
                object.write_bytes(0xff, size);
                service.kfree(object);
            }
        }
        let array = service.kcalloc(2, size, Gfp::KERNEL);
        assert!(is_filled(array, 2 * size, 0));
        let flagged = service.kmalloc_node(size, Gfp::KERNEL | Gfp::ZERO, NodeId(1));
        assert!(is_filled(flagged, size, 0));
        // SAFETY: freed once.
        unsafe {
            service.kfree(array);
            service.kfree(flagged);
        }
    }
}

#[test]
fn krealloc_keeps_the_contents_and_moves_only_when_it_must() {
    let hosted = two_nodes();
    let service = hosted.service();
    // SAFETY: one object, passed on from call to call.
    unsafe {
        let first = service.krealloc(std::ptr::null_mut(), 20, Gfp::KERNEL);
        first.write_bytes(7, 20);
        let same = service.krealloc(first, 24, Gfp::KERNEL);
        assert_eq!(same, first);
        let moved = service.krealloc(same, 10_000, Gfp::KERNEL);
        assert_ne!(moved, first);
        assert!(is_filled(moved, 20, 7));
        let kept = service.krealloc(moved, MAX_SIZE + 1, Gfp::KERNEL | Gfp::NOWARN);
        assert!(kept.is_null() && is_filled(moved, 20, 7));
        assert_eq!(service.krealloc(moved, 0, Gfp::KERNEL), ZERO_SIZE_PTR);
    }
    assert_eq!(service.statistics().slab_in_use + service.statistics().large, 0);
}

#[test]
fn kmemdup_copies() {
    let service = two_nodes().service();
    let copy = service.kmemdup(b"quarry", Gfp::KERNEL);
    // SAFETY: the copy has six bytes.
    assert_eq!(unsafe { std::slice::from_raw_parts(copy, 6) }, b"quarry");
    // SAFETY: freed once.
    unsafe { service.kfree(copy) };
}

#[test]
fn a_free_of_what_is_no_object_is_caught_at_the_call() {
    let hosted = two_nodes();
    let service = hosted.service();
    let on_stack = 0u64;
    let page = service.get_free_pages(Gfp::KERNEL, Order::ZERO);
    let object = service.kmalloc(96, Gfp::KERNEL);
    let large = service.kmalloc(100_000, Gfp::KERNEL);
    // SAFETY: none of these may be freed, which is what is tested; nothing is.
    unsafe {
        let foreign = (&raw const on_stack).cast_mut().cast();
        assert!(matches!(service.try_kfree(foreign), Err(FreeError::NotAnObject(_))));
        assert!(matches!(service.try_kfree(page), Err(FreeError::NotAnObject(_))));
        assert!(matches!(
            service.try_kfree(std::ptr::without_provenance_mut(0xdead_beef_0000_0000)),
            Err(FreeError::NotAnObject(_))
        ));
        assert!(matches!(service.try_kfree(large.add(4096)), Err(FreeError::NotAnObject(_))));
        for offset in [1, 8, 48, 95] {
            assert_eq!(service.try_kfree(object.add(offset)), Err(FreeError::Misaligned(object.addr() + offset)));
        }
        assert!(matches!(service.try_kfree(large.add(8)), Err(FreeError::Misaligned(_))));
        service.kfree(object);
        service.kfree(large);
        service.free_pages(page, Order::ZERO);
    }
    assert_books_balance(hosted);
}

#[test]
fn a_double_free_is_caught_wherever_the_object_is() {
    let hosted = two_nodes();
    let service = hosted.service();
    for size in [8, 64, 1000, 8192] {
        // SAFETY: each object is freed twice on purpose; the second time nothing happens but the error.
        unsafe {
            let object = service.kmalloc(size, Gfp::KERNEL);
            // Of the same slab, which is not given back then.
            let beside = service.kmalloc(size, Gfp::KERNEL);
            service.kfree(object);
            assert_eq!(service.try_kfree(object), Err(FreeError::DoubleFree(object.addr())), "in a magazine");
            service.drain_local();
            assert_eq!(service.try_kfree(object), Err(FreeError::DoubleFree(object.addr())), "in a depot");
            service.kfree(beside);
            let keeper = service.kmalloc(size, Gfp::KERNEL);
            service.drain_local();
            service.shrink_depots();
            let neighbour = service.kmalloc(size, Gfp::KERNEL);
            service.kfree(neighbour);
            service.drain_local();
            service.shrink_depots();
            let error = service.try_kfree(neighbour);
            assert!(matches!(error, Err(FreeError::DoubleFree(_) | FreeError::NotAnObject(_))), "in a slab: {error:?}");
            service.kfree(keeper);
            let far = service.kmalloc_node(size, Gfp::KERNEL, NodeId(1));
            service.kfree(far);
            assert_eq!(service.try_kfree(far), Err(FreeError::DoubleFree(far.addr())), "on its way home");
        }
    }
    let large = service.kmalloc(20_000, Gfp::KERNEL);
    // SAFETY: as above.
    unsafe {
        service.kfree(large);
        assert!(service.try_kfree(large).is_err());
    }
    assert_books_balance(hosted);
}

#[test]
fn an_object_whose_first_word_happens_to_be_the_secret_can_be_freed() {
    let service = two_nodes().service();
    let (first, second) = (service.kmalloc(64, Gfp::KERNEL), service.kmalloc(64, Gfp::KERNEL));
    // SAFETY: `first` is read after its free to learn the secret, which only a test would do; nobody else has it.
    unsafe {
        service.kfree(first);
        let secret = first.cast::<u64>().read();
        second.cast::<u64>().write(secret);
        assert_eq!(service.try_kfree(second), Ok(()));
        assert_eq!(service.try_kfree(second), Err(FreeError::DoubleFree(second.addr())));
    }
}

#[test]
fn pages_are_counted_and_misuse_is_caught() {
    let hosted = two_nodes();
    let service = hosted.service();
    for order in Order::all() {
        let block = hosted.alloc_pages(order).expect("memory is free");
        assert_eq!(block.0 % order.frames(), 0);
        service.get_page(block);
        assert_eq!(service.page_count(block), 2);
        service.put_page(block);
        assert_eq!(service.page_count(block), 1);
        let other = Order::new((order.get() + 1) % 11).expect("at most 10");
        assert!(matches!(service.try_free_pages(block, other), Err(PageError::WrongOrder { .. })));
        assert_eq!(service.virt_to_page(service.page_address(block)), Some(block));
        assert_eq!(service.try_free_pages(block, order), Ok(()));
        assert!(matches!(service.try_free_pages(block, order), Err(PageError::NotAllocated { .. })));
        assert_eq!(service.page_count(block), 0);
    }
    assert_eq!(service.statistics().pages_in_use, 0);
    assert_books_balance(hosted);
}

#[test]
fn objects_come_from_the_node_they_are_asked_of_and_from_the_callers_own_otherwise() {
    let hosted = two_nodes();
    let service = hosted.service();
    let node_of = |object: *mut u8| service.page_to_node(service.virt_to_page(object).expect("an object is in RAM"));
    for cpu in [CpuId(0), CpuId(2)] {
        assert!(hosted.run_on(cpu));
        let own = hosted.topology().cpus()[cpu.index()].node;
        for size in [8, 200, 8192, 30_000] {
            let mut objects = Vec::new();
            for _ in 0..300 {
                for (object, node) in [
                    (service.kmalloc(size, Gfp::KERNEL), own),
                    (service.kmalloc_node(size, Gfp::KERNEL, NodeId(0)), NodeId(0)),
                    (service.kmalloc_node(size, Gfp::KERNEL | Gfp::THISNODE, NodeId(1)), NodeId(1)),
                ] {
                    assert_eq!(node_of(object), Some(node), "{size} bytes on {cpu}");
                    objects.push(object);
                }
            }
            for object in objects {
                // SAFETY: each is freed once.
                unsafe { service.kfree(object) };
            }
        }
    }
    hosted.leave();
    assert_books_balance(hosted);
}

#[test]
fn a_cpu_without_memory_of_its_own_is_served_by_the_nearest_node() {
    let topology = Topology::builder()
        .node(256 * MIB, 1)
        .node(0, 1)
        .node(256 * MIB, 1)
        .distance(NodeId(0), NodeId(1), 30)
        .build()
        .expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    let service = hosted.service();
    assert!(hosted.run_on(CpuId(1)));
    let node_of = |frame| service.page_to_node(frame);
    for flags in [Gfp::KERNEL, Gfp::KERNEL | Gfp::THISNODE] {
        for size in [8, 152, 4096, 8192, 100_000] {
            for _ in 0..200 {
                for object in [service.kmalloc(size, flags), service.kmalloc_node(size, flags, NodeId(2))] {
                    assert!(!object.is_null(), "{size} bytes with {flags}");
                    assert_eq!(node_of(service.virt_to_page(object).expect("in RAM")), Some(NodeId(2)), "{size} bytes");
                    // SAFETY: freed once.
                    unsafe { service.kfree(object) };
                }
            }
        }
        for order in Order::all() {
            for block in [service.alloc_pages(flags, order), service.alloc_pages_node(NodeId(2), flags, order)] {
                let block = block.expect("memory is free");
                assert_eq!(node_of(block), Some(NodeId(2)), "{order}");
                service.__free_pages(block, order);
            }
        }
    }
    let only_there = Gfp::KERNEL | Gfp::THISNODE | Gfp::NOWARN;
    assert!(service.kmalloc_node(64, only_there, NodeId(1)).is_null(), "node 1 has no memory");
    assert!(service.alloc_pages_node(NodeId(1), only_there, Order::ZERO).is_none());
    assert_books_balance(hosted);
}

#[test]
fn a_threads_first_pages_are_of_its_own_node() {
    let hosted = two_nodes();
    let together = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let block = hosted.alloc_pages(Order::MAX).expect("memory is free");
                // A thread that ends early would hand its CPU to the next.
                together.wait();
                let cpu = hosted.service().machine().cpu();
                let own = hosted.topology().cpus()[cpu.index()].node;
                assert_eq!(hosted.service().page_to_node(block), Some(own), "on {cpu}");
                hosted.free_pages(block, Order::MAX);
            });
        }
    });
}

#[test]
fn per_cpu_memory_is_zeroed_on_the_cpus_node_and_of_its_own_cache_lines() {
    let hosted = two_nodes();
    let service = hosted.service();
    let percpu = service.alloc_percpu(24, 8, Gfp::KERNEL).expect("memory is free");
    let pieces: Vec<_> = (0..4).map(|cpu| service.per_cpu_ptr(&percpu, CpuId(cpu))).collect();
    for (piece, cpu) in pieces.iter().zip(hosted.topology().cpus()) {
        assert!(is_filled(*piece, 24, 0));
        assert_eq!(service.page_to_node(service.virt_to_page(*piece).expect("in RAM")), Some(cpu.node));
        assert!(piece.addr().is_multiple_of(64));
        assert_eq!(pieces.iter().filter(|other| other.addr() / 64 == piece.addr() / 64).count(), 1);
    }
    hosted.run_on(CpuId(2));
    assert_eq!(service.this_cpu_ptr(&percpu), pieces[2]);
    service.free_percpu(percpu);
    assert_books_balance(hosted);
}

#[test]
fn large_memory_need_not_be_contiguous() {
    let hosted = two_nodes();
    let service = hosted.service();
    let before = service.statistics();
    for size in [1, 5000, 100 << 20] {
        let memory = service.vmalloc(size, Gfp::KERNEL);
        assert!(!memory.is_null() && memory.addr().is_multiple_of(4096));
        // SAFETY: the memory has `size` bytes and is freed once.
        unsafe {
            memory.write_bytes(3, size);
            assert!(is_filled(memory, size, 3));
            assert!(service.statistics().pages_in_use >= size as u64);
            service.vfree(memory);
        }
        assert_eq!(service.statistics().pages_in_use, before.pages_in_use);
        let again = service.vmalloc(size, Gfp::KERNEL);
        assert_eq!(again, memory, "addresses are used again");
        // SAFETY: freed once.
        unsafe { service.kvfree(again) };
    }
    assert!(service.vmalloc(0, Gfp::KERNEL).is_null());
    assert!(service.vmalloc(2 << 30, Gfp::KERNEL | Gfp::NOWARN).is_null(), "more than there is");
    assert!(service.vmalloc(usize::MAX, Gfp::KERNEL).is_null());
    assert_eq!(service.statistics().pages_in_use, before.pages_in_use);
    for size in [0, 100, 1 << 20, 50 << 20] {
        let memory = service.kvmalloc(size, Gfp::KERNEL);
        assert!(!memory.is_null());
        // SAFETY: freed once.
        unsafe { service.kvfree(memory) };
    }
    assert_books_balance(hosted);
}

#[test]
#[should_panic(expected = "freed already")]
fn a_second_vfree_is_caught() {
    let service = two_nodes().service();
    let memory = service.vmalloc(10_000, Gfp::KERNEL);
    // SAFETY: the second free is what is tested.
    unsafe {
        service.vfree(memory);
        service.vfree(memory);
    }
}

#[test]
fn low_memory_is_low_and_small_zones_end() {
    let hosted = two_nodes();
    let service = hosted.service();
    for (gfp, limit) in [(Gfp::DMA, 16 * MIB), (Gfp::DMA32, 4096 * MIB)] {
        for size in [8, 100, 4000, 8192, 40_000] {
            let object = service.kmalloc(size, Gfp::KERNEL | gfp);
            let frame = service.virt_to_page(object).expect("an object is in RAM");
            assert!(frame.physical() < limit, "{size} bytes at {frame} with {gfp}");
            // SAFETY: freed once.
            unsafe { service.kfree(object) };
        }
    }
    let mut taken = Vec::new();
    while let Some(block) = service.alloc_pages(Gfp::DMA | Gfp::NOWARN, Order::MAX) {
        assert!(block.physical() < 16 * MIB);
        taken.push(block);
    }
    assert!(taken.len() <= 4);
    for block in taken {
        service.__free_pages(block, Order::MAX);
    }
    assert_books_balance(hosted);
}

#[test]
fn a_full_node_falls_back_to_the_next_and_thisnode_does_not() {
    let hosted = two_nodes();
    let service = hosted.service();
    hosted.run_on(CpuId(0));
    let this_node = Gfp::KERNEL | Gfp::THISNODE | Gfp::NOWARN;
    let mut blocks = Vec::new();
    while let Some(block) = service.alloc_pages_node(NodeId(0), this_node, Order::MAX) {
        blocks.push((block, Order::MAX));
    }
    while let Some(block) = service.alloc_pages_node(NodeId(0), this_node, Order::ZERO) {
        blocks.push((block, Order::ZERO));
    }
    let fallback = service.alloc_pages(Gfp::KERNEL, Order::ZERO).expect("node 1 has memory");
    assert_eq!(service.page_to_node(fallback), Some(NodeId(1)));
    let objects: Vec<_> = (0..2000).map(|_| service.kmalloc(512, Gfp::KERNEL)).collect();
    assert!(objects.iter().all(|object| !object.is_null()));
    assert_books_balance(hosted);
    for object in objects {
        // SAFETY: each is freed once.
        unsafe { service.kfree(object) };
    }
    service.__free_pages(fallback, Order::ZERO);
    for (block, order) in blocks {
        service.__free_pages(block, order);
    }
    assert!(service.numa_statistics(NodeId(0)).foreign > 0);
    assert_books_balance(hosted);
}

#[test]
fn all_memory_comes_back_when_caches_are_drained() {
    let hosted = two_nodes();
    let service = hosted.service();
    hosted.run_on(CpuId(0));
    // So that every section is filled and the frame tables are paid for.
    let all: Vec<_> = std::iter::from_fn(|| service.alloc_pages(Gfp::KERNEL | Gfp::NOWARN, Order::MAX)).collect();
    for block in all {
        service.__free_pages(block, Order::MAX);
    }
    service.drain_local();
    let before = service.statistics();
    let objects: Vec<_> = (0..200_000).map(|index| service.kmalloc(index % 3000 + 1, Gfp::KERNEL)).collect();
    objects.into_iter().filter(|object| !object.is_null()).for_each(|object| {
        // SAFETY: each is freed once.
        unsafe { service.kfree(object) };
    });
    service.drain_local();
    service.shrink_depots();
    service.drain_local();
    let after = service.statistics();
    assert_eq!(
        (after.free, after.per_cpu_magazines + after.depots, after.slab_free),
        (before.free + before.per_cpu_magazines + before.depots + before.slab_free, 0, 0),
        "{before:#?} {after:#?}"
    );
    assert_books_balance(hosted);
}

#[test]
fn what_the_page_lists_of_all_cpus_may_hold_is_bounded_by_ram() {
    for (ram, cpus) in [(64 * MIB, 64), (256 * MIB, 4), (2048 * MIB, 4)] {
        let topology = Topology::builder().node(ram, cpus).build().expect("a machine");
        let hosted = Hosted::leak(topology).expect("there is address space");
        for cpu in 0..cpus {
            assert!(hosted.run_on(CpuId(cpu as u16)));
        }
        let service = hosted.service();
        let most: u64 = service
            .zones()
            .flat_map(|zone| service.pagesets(zone.node, zone.kind))
            .map(|(_, pageset)| u64::from(pageset.high) * 4096)
            .sum();
        // Each list has room for two blocks at least: 30 frames a CPU.
        let floor = cpus as u64 * 30 * 4096;
        assert!(most > 0 && most <= (ram / 32).max(floor), "{most} bytes of {ram} on {cpus} CPUs");
        hosted.leave();
    }
}

/// The first node has a single page: too little for its own state, and enough for the table of pageblocks.
#[test]
fn a_node_too_small_for_itself_is_not_asked_for_tables() {
    let topology = Topology::builder().node(4096, 1).node(4100 << 10, 1).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("the second node is large enough");
    let object = hosted.service().kmalloc(64, Gfp::KERNEL);
    assert!(!object.is_null());
    // SAFETY: it was allocated above.
    unsafe { hosted.service().kfree(object) };
}

#[test]
fn a_node_that_does_not_exist_has_no_objects_though_others_nodes_objects_are_at_hand() {
    let hosted = two_nodes();
    assert!(hosted.run_on(CpuId(0)));
    let service = hosted.service();
    for size in [8, 16, 24, 32, 48, 64, 1000, 8192] {
        // One of the other node's, which this CPU keeps when it is freed.
        let other = service.kmalloc_node(size, Gfp::KERNEL, NodeId(1));
        // SAFETY: it was allocated above.
        unsafe { service.kfree(other) };
        for (node, asked) in (2..=u8::MAX).flat_map(|node| [8, 16, 24, 32, 48, 64, 1000, 8192].map(|size| (node, size)))
        {
            let object = service.kmalloc_node(asked, Gfp::KERNEL, NodeId(node));
            assert!(object.is_null(), "{asked} bytes on node {node}, {size} at hand");
        }
    }
}
