//! Memory of different mobility stays apart, and whole pageblocks are stolen before parts. (Which parts, the tests in
//! `free_area.rs` say.)

#[path = "support/cases.rs"]
mod cases;

use std::collections::BTreeMap;

use proptest::prelude::*;
use quarry_memory::events::Event;
use quarry_memory::hosted::Hosted;
use quarry_memory::{Gfp, Mobility, Order, Pfn, Topology};

const MIB: u64 = 1 << 20;
const MOVABLE: Gfp = Gfp::HIGHUSER_MOVABLE.union(Gfp::NOWARN);
const UNMOVABLE: Gfp = Gfp::KERNEL.union(Gfp::NOWARN);

/// Frames of a pageblock.
const PAGEBLOCK: u32 = 512;

fn machine() -> &'static Hosted {
    let topology = Topology::builder().node(128 * MIB, 2).build().expect("a machine");
    Hosted::leak(topology).expect("there is address space")
}

fn order(order: u32) -> Order {
    Order::new(order).expect("the tests use orders that exist")
}

fn flags(mobility: Mobility) -> Gfp {
    match mobility {
        Mobility::Unmovable => UNMOVABLE,
        Mobility::Movable => MOVABLE,
        Mobility::Reclaimable => UNMOVABLE | Gfp::RECLAIMABLE,
    }
}

#[track_caller]
fn assert_books_balance(hosted: &'static Hosted, frames_in_use: u64) {
    let service = hosted.service();
    service.validate().unwrap_or_else(|broken| panic!("{broken}"));
    let rows = service.statistics();
    assert!(rows.adds_up(), "{rows:#?}");
    assert_eq!(rows.pages_in_use, frames_in_use * 4096, "{rows:#?}");
}

/// Everything the zone of that memory gives, as movable pages. The DMA zone's is left out.
fn take_all_as_movable(hosted: &'static Hosted) -> Vec<Pfn> {
    let above_dma = |frame: &Pfn| frame.physical() >= 16 * MIB;
    std::iter::from_fn(|| hosted.service().alloc_pages(MOVABLE, Order::ZERO)).take_while(above_dma).collect()
}

/// The frames by pageblock, those of pageblocks that are wholly among them.
fn whole_pageblocks(frames: &[Pfn]) -> Vec<Vec<Pfn>> {
    let mut pageblocks = BTreeMap::<u32, Vec<Pfn>>::new();
    for &frame in frames {
        pageblocks.entry(frame.0 / PAGEBLOCK).or_default().push(frame);
    }
    let mut whole: Vec<_> = pageblocks.into_values().filter(|frames| frames.len() == PAGEBLOCK as usize).collect();
    for frames in &mut whole {
        frames.sort_unstable();
    }
    whole
}

fn free_all(hosted: &'static Hosted, frames: impl IntoIterator<Item = Pfn>) {
    frames.into_iter().for_each(|frame| hosted.service().__free_pages(frame, Order::ZERO));
}

#[test]
fn fresh_memory_is_movable_and_what_is_taken_of_it_becomes_what_it_is_taken_for() {
    let hosted = machine();
    let service = hosted.service();
    for mobility in [Mobility::Reclaimable, Mobility::Movable, Mobility::Unmovable] {
        let block = service.alloc_pages(flags(mobility), Order::ZERO).expect("memory is free");
        assert_eq!(service.mobility_of(block), Some(mobility));
        service.__free_pages(block, Order::ZERO);
        assert_eq!(service.mobility_of(block), Some(mobility), "a pageblock stays what it is");
    }
    let zones: Vec<_> = service.page_type_info().collect();
    let pageblocks: [u32; 3] = std::array::from_fn(|at| zones.iter().map(|zone| zone.pageblocks[at]).sum());
    assert!(pageblocks[Mobility::Reclaimable as usize] <= 2 && pageblocks[Mobility::Movable as usize] > 10);
    for (zone, info) in zones.iter().zip(service.zones()) {
        let sums: [u32; Order::COUNT] =
            std::array::from_fn(|order| zone.free_blocks.iter().map(|blocks| blocks[order]).sum());
        assert_eq!(sums, info.free_blocks);
    }
    assert_books_balance(hosted, 0);
}

#[test]
fn what_was_asked_for_by_mobility_never_rests_on_a_cpus_list() {
    let hosted = machine();
    let service = hosted.service();
    let listed = || service.zones().map(|zone| zone.per_cpu_lists).sum::<u32>();
    for mobility in [Mobility::Movable, Mobility::Reclaimable] {
        for size in Order::all() {
            let before = listed();
            let block = service.alloc_pages(flags(mobility), size).expect("memory is free");
            service.get_page(block);
            assert_eq!(service.page_count(block), 2);
            service.put_page(block);
            assert!(service.try_free_pages(block, order((size.get() + 1) % 11)).is_err());
            service.__free_pages(block, size);
            assert!(service.try_free_pages(block, size).is_err(), "it is free already");
            assert_eq!(listed(), before);
        }
    }
    assert_books_balance(hosted, 0);
}

#[test]
fn a_wholly_free_pageblock_is_stolen_before_parts_of_others() {
    let hosted = machine();
    let service = hosted.service();
    let taken = take_all_as_movable(hosted);
    let pageblocks = whole_pageblocks(&taken);
    let (whole, others) = pageblocks.split_first().expect("most pageblocks were taken whole");
    // Three quarters of every other pageblock are free: more than the whole one has.
    for other in others {
        free_all(hosted, other[128..].iter().copied());
    }
    free_all(hosted, whole.iter().copied());
    let stolen = service.event_count(Event::PageblockStolen);
    let block = service.alloc_pages(UNMOVABLE, order(4)).expect("memory is free");
    assert_eq!(block.0 / PAGEBLOCK, whole[0].0 / PAGEBLOCK);
    assert_eq!(service.event_count(Event::PageblockStolen), stolen + 1);
    assert_eq!(service.event_count(Event::PageblockMixed), 0);
    service.__free_pages(block, order(4));
    service.validate().unwrap_or_else(|broken| panic!("{broken}"));
}

#[test]
fn kmalloc_ignores_a_mobility() {
    let hosted = machine();
    let service = hosted.service();
    for size in [8, 5000, 100_000] {
        for gfp in [Gfp::KERNEL | Gfp::MOVABLE, Gfp::KERNEL | Gfp::RECLAIMABLE] {
            let object = service.kmalloc(size, gfp);
            let frame = service.virt_to_page(object).expect("an object is in RAM");
            assert_eq!(service.mobility_of(frame), Some(Mobility::Unmovable), "{size} bytes with {gfp}");
            // SAFETY: freed once.
            unsafe { service.kfree(object) };
        }
    }
}

#[test]
fn a_pageblock_in_which_two_nodes_meet_stays_unmovable() {
    let topology = Topology::builder().node(65 * MIB, 1).node(63 * MIB, 1).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    let service = hosted.service();
    let mut taken = Vec::new();
    for mobility in [Mobility::Movable, Mobility::Unmovable].into_iter().cycle() {
        let Some(block) = service.alloc_pages(flags(mobility), order(3)) else { break };
        taken.push(block);
    }
    let shared = Pfn::containing(64 * MIB);
    let inside = |block: &&Pfn| block.0 / PAGEBLOCK == shared.0 / PAGEBLOCK;
    let nodes: Vec<_> = taken.iter().filter(inside).filter_map(|&block| service.page_to_node(block)).collect();
    assert!(nodes.iter().any(|node| node.0 == 0) && nodes.iter().any(|node| node.0 == 1), "{nodes:?}");
    assert_eq!(service.mobility_of(shared), Some(Mobility::Unmovable));
    service.validate().unwrap_or_else(|broken| panic!("{broken}"));
    for block in taken {
        service.__free_pages(block, order(3));
    }
    assert_eq!(service.mobility_of(shared), Some(Mobility::Unmovable));
    assert_books_balance(hosted, 0);
}

/// One call of the random mix.
#[derive(Clone, Debug)]
enum Step {
    Allocate(Mobility, u32),
    /// Frees one of those held, counted from the start and around.
    Free(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let mobility = prop::sample::select(Mobility::ALL.to_vec());
    prop_oneof![
        3 => (mobility, 0u32..=5).prop_map(|(mobility, order)| Step::Allocate(mobility, order)),
        2 => any::<usize>().prop_map(Step::Free),
    ]
}

proptest! {
    #![proptest_config(cases::cases(32))]

    /// While whole pageblocks are left, no pageblock ever holds memory of two mobilities.
    #[test]
    fn a_random_mix_keeps_every_pageblock_of_one_mobility(steps in prop::collection::vec(step(), 1..600)) {
        let hosted = machine();
        let service = hosted.service();
        let mut held: Vec<(Pfn, Order, Mobility)> = Vec::new();
        for step in steps {
            match step {
                Step::Allocate(mobility, size) => {
                    let size = order(size);
                    let block = service.alloc_pages(flags(mobility), size).expect("memory is free");
                    held.push((block, size, mobility));
                }
                Step::Free(_) if held.is_empty() => {}
                Step::Free(which) => {
                    let (block, size, _) = held.swap_remove(which % held.len());
                    service.__free_pages(block, size);
                }
            }
        }
        for &(block, _, mobility) in &held {
            prop_assert_eq!(service.mobility_of(block), Some(mobility), "{}", block);
        }
        prop_assert_eq!(service.event_count(Event::PageblockMixed), 0);
        assert_books_balance(hosted, held.iter().map(|(_, size, _)| u64::from(size.frames())).sum());
        for (block, size, _) in held {
            service.__free_pages(block, size);
        }
        service.drain_local();
        assert_books_balance(hosted, 0);
    }
}
