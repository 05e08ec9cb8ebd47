//! Flags about what a caller gets: zeroes, and a block that is one.

use quarry_memory::hosted::Hosted;
use quarry_memory::{Gfp, MAX_SIZE, Order};

use crate::support::{KERNEL, NODE_1, TestService, assert_books_balance, free, order, two_nodes};

/// Whether the memory is zero; afterwards it is not, so that whoever gets it next must zero it.
fn was_zero(start: *mut u8, size: usize) -> bool {
    // SAFETY: the tests pass memory of theirs with at least that many bytes.
    let bytes = unsafe { std::slice::from_raw_parts_mut(start, size) };
    let zero = bytes.iter().all(|&byte| byte == 0);
    bytes.fill(0xa5);
    zero
}

fn dirty(start: *mut u8, size: usize) {
    // SAFETY: as above.
    unsafe { start.write_bytes(0xa5, size) };
}

/// Writes to every object and page that the next calls will get.
fn dirty_all(service: &TestService) {
    let objects: Vec<_> = [8, 100, 1000, 8192, 100_000, MAX_SIZE]
        .into_iter()
        .flat_map(|size| std::iter::repeat_n(size, 20))
        .flat_map(|size| [(service.kmalloc(size, KERNEL), size), (service.kmalloc_node(size, KERNEL, NODE_1), size)])
        .filter(|(object, _)| !object.is_null())
        .collect();
    for &(object, size) in &objects {
        dirty(object, size);
        free(service, object);
    }
}

#[test]
fn zero_is_obeyed_on_every_way_to_an_object() {
    let service = two_nodes().service();
    let zero = KERNEL | Gfp::ZERO;
    for size in [8, 100, 1000, 8192, 100_000] {
        let object = |gfp: Gfp| [service.kmalloc(size, gfp), service.kmalloc_node(size, gfp, NODE_1)];
        let zeroed = || {
            let calls = [
                service.kzalloc(size, KERNEL),
                service.kcalloc(1, size, KERNEL),
                service.kzalloc_node(size, KERNEL, NODE_1),
            ];
            object(zero).into_iter().chain(object(zero | Gfp::DMA32)).chain(calls)
        };
        // From the magazines, from the depots, from slabs made anew.
        let drains: [fn(&TestService); 3] = [
            |_| {},
            |service| service.drain_local(),
            |service| {
                service.drain_local();
                service.shrink_depots();
            },
        ];
        for drain in drains {
            dirty_all(service);
            drain(service);
            for object in zeroed() {
                assert!(was_zero(object, size), "{size} bytes");
                free(service, object);
            }
        }
    }
    service.drain_local();
    assert_books_balance(service);
}

#[test]
fn zero_is_obeyed_on_every_way_to_a_page() {
    let service = two_nodes().service();
    for size in Order::all() {
        // The block just freed, from this CPU's list or the zone; the cold one; one of another node; a movable one.
        for gfp in [Gfp::empty(), Gfp::COLD, Gfp::DMA, Gfp::MOVABLE, Gfp::RECLAIMABLE] {
            for _ in 0..3 {
                let block = service.alloc_pages(KERNEL | Gfp::ZERO | gfp, size).expect("memory is free");
                assert!(was_zero(service.page_address(block), size.bytes()), "{size} with {gfp}");
                service.__free_pages(block, size);
                let other = service.alloc_pages_node(NODE_1, KERNEL | Gfp::ZERO | gfp, size).expect("memory is free");
                assert!(was_zero(service.page_address(other), size.bytes()), "{size} with {gfp}");
                service.__free_pages(other, size);
            }
        }
    }
    assert_books_balance(service);
}

fn one_of(hosted: &'static Hosted, size: Order, gfp: Gfp) -> quarry_memory::Pfn {
    hosted.service().alloc_pages(gfp, size).expect("memory is free")
}

#[test]
fn a_compound_block_is_one_from_any_of_its_frames() {
    let hosted = two_nodes();
    let service = hosted.service();
    for size in Order::all() {
        // A neighbour before and behind, of other sizes.
        let [before, block, behind] =
            [order(0), size, order(1)].map(|size| one_of(hosted, size, Gfp::KERNEL | Gfp::COMP));
        assert_eq!(service.compound_order(block), size);
        for frame in (0..size.frames()).map(|at| block.offset(at)) {
            assert_eq!(service.compound_head(frame), Some(block));
            assert_eq!(service.virt_to_head_page(service.page_address(frame).wrapping_add(77)), Some(block));
        }
        let inside = block.offset(size.frames() - 1);
        assert_eq!(service.compound_order(inside), if inside == block { size } else { Order::ZERO });
        service.__free_pages(before, order(0));
        service.__free_pages(behind, order(1));
        assert_eq!(service.compound_head(inside), Some(block));
        service.__free_pages(block, size);
        assert_eq!(service.compound_head(inside), None, "a free block is nobody's");
        service.drain_local();
        assert_eq!(service.compound_head(inside), None);
    }
}

#[test]
fn a_compound_block_has_one_count_of_references() {
    let hosted = two_nodes();
    let service = hosted.service();
    let block = one_of(hosted, order(3), Gfp::KERNEL | Gfp::COMP);
    let head = service.compound_head(block.offset(5)).expect("it is allocated");
    service.get_page(head);
    assert_eq!(service.page_count(block), 2);
    service.put_page(head);
    assert_eq!(service.statistics().pages_in_use, 8 * 4096, "the last reference is the one that frees");
    // Whoever puts the last one need not know the order.
    service.put_page(head);
    assert_eq!(service.compound_head(block.offset(5)), None);
    assert_books_balance(service);
}

#[test]
fn the_head_of_an_objects_slab_is_found_from_its_address() {
    let service = two_nodes().service();
    for size in [8, 1000, 8192, 100_000] {
        let object = service.kmalloc(size, Gfp::KERNEL);
        let head = service.virt_to_head_page(object.wrapping_add(size - 1)).expect("it is allocated");
        let frames = service.compound_order(head).frames();
        let frame = service.virt_to_page(object).expect("it is memory of the service");
        assert!(head <= frame && frame < head.offset(frames));
        free(service, object);
    }
    assert_eq!(service.virt_to_head_page(std::ptr::null()), None);
}
