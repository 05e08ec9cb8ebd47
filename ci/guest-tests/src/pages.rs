//! The page layer: blocks of pages of every order, from the right node and zone, counted, exhausted and back again.

use alloc::vec::Vec;
use core::time::Duration;

use quarry_unikernel::memory::service;
use quarry_unikernel::memory_service::events::Event;
use quarry_unikernel::memory_service::zone::ZoneKind;
use quarry_unikernel::memory_service::{Gfp, NodeId, Order, PageError, Pfn};
use quarry_unikernel::{option, println, thread, time, topology};

use crate::harness::Outcome;
use crate::hoard::{Hoard, nodes_with_memory, smallest_node};
use crate::team::{InUse, another_cpu, check_on_every_cpu, on_cpu, without_loss};
use crate::{check, check_equal, tests};

const QUIET: Gfp = Gfp::KERNEL.union(Gfp::NOWARN);
const THIS_NODE: Gfp = QUIET.union(Gfp::THISNODE);

/// A block of pages, freed when dropped.
struct Block {
    first: Pfn,
    order: Order,
}

impl Block {
    fn new(gfp: Gfp, order: Order) -> Option<Self> {
        service().alloc_pages(gfp, order).map(|first| Self { first, order })
    }

    fn on_node(node: NodeId, gfp: Gfp, order: Order) -> Option<Self> {
        service().alloc_pages_node(node, gfp, order).map(|first| Self { first, order })
    }

    fn node(&self) -> Option<NodeId> {
        service().page_to_node(self.first)
    }

    fn words(&mut self) -> &mut [u64] {
        let start = service().page_address(self.first).cast::<u64>();
        // SAFETY: the block is this owner's alone, in the direct map; nothing but zeroes and words was ever written
        // there since it was given out, and whatever bytes it has make valid words.
        unsafe {
            start.write_volatile(start.read_volatile());
            core::slice::from_raw_parts_mut(start, self.order.bytes() / 8)
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        service().__free_pages(self.first, self.order);
    }
}

fn blocks_of_every_order_are_aligned_and_usable() -> Outcome {
    check_on_every_cpu(|cpu| {
        for order in Order::all() {
            let mut block = Block::new(Gfp::KERNEL, order).ok_or("no memory")?;
            check!(block.first.0.is_multiple_of(order.frames()), "a block of {order} starts at {}", block.first);
            check_equal!(service().page_count(block.first), 1, "references of a new block");
            let seed = u64::from(cpu.0) << 32;
            for (index, word) in block.words().iter_mut().enumerate() {
                *word = seed + index as u64;
            }
            let right = block.words().iter().enumerate().all(|(index, &word)| word == seed + index as u64);
            check!(right, "a block of {order} does not keep what was written");
        }
        Ok(())
    })
}

fn zeroed_blocks_are_zero() -> Outcome {
    without_loss(|| {
        for order in Order::all() {
            let mut dirty = Block::new(Gfp::KERNEL, order).ok_or("no memory")?;
            dirty.words().fill(u64::MAX);
            drop(dirty);
            let mut block = Block::new(Gfp::KERNEL | Gfp::ZERO, order).ok_or("no memory")?;
            check!(block.words().iter().all(|&word| word == 0), "a block of {order} is not zero");
        }
        Ok(())
    })
}

fn blocks_come_from_the_node_asked_for() -> Outcome {
    check_on_every_cpu(|_| {
        for node in topology().nodes() {
            for order in Order::all() {
                let block = Block::on_node(node, THIS_NODE, order);
                if topology().has_memory(node) {
                    check_equal!(block.ok_or("no memory")?.node(), Some(node), "node of a block of {order}");
                } else {
                    check!(block.is_none(), "{node} has no memory and gave a block of {order}");
                    let other = Block::on_node(node, Gfp::KERNEL, order).ok_or("no memory")?;
                    check!(other.node().is_some_and(|other| other != node), "a block of a node without memory");
                }
            }
        }
        let missing = NodeId(topology().node_count() as u8);
        check!(Block::on_node(missing, QUIET, Order::ZERO).is_none(), "{missing} does not exist and gave a block");
        Ok(())
    })
}

fn low_blocks_are_low() -> Outcome {
    without_loss(|| {
        for order in Order::all() {
            for (flag, limit) in [(Gfp::DMA, 16_u64 << 20), (Gfp::DMA32, 4 << 30)] {
                let block = Block::new(Gfp::KERNEL | flag, order).ok_or("no memory")?;
                let end = block.first.physical() + order.bytes() as u64;
                check!(end <= limit, "a block of {order} with {flag} ends at {end:#x}");
            }
        }
        Ok(())
    })
}

fn the_last_reference_frees() -> Outcome {
    let memory = service();
    let before = InUse::now();
    let order = Order::new(2).ok_or("there is such an order")?;
    let block = memory.alloc_pages(Gfp::KERNEL, order).ok_or("no memory")?;
    memory.get_page(block);
    memory.get_page(block);
    check_equal!(memory.page_count(block), 3, "references");
    memory.put_page(block);
    memory.__free_pages(block, order);
    check_equal!(memory.page_count(block), 1, "references");
    check_equal!(InUse::now().pages, before.pages + order.bytes() as u64, "bytes of pages in use");
    on_cpu(another_cpu(), move || service().put_page(block));
    check_equal!(memory.page_count(block), 0, "references of a free block");
    check_equal!(InUse::now(), before, "in use");
    Ok(())
}

fn a_wrong_free_of_pages_is_told() -> Outcome {
    let memory = service();
    let before = InUse::now();
    let (one, two) = (Order::ZERO, Order::new(1).ok_or("there is such an order")?);
    for order in Order::all() {
        let block = memory.alloc_pages(Gfp::KERNEL, order).ok_or("no memory")?;
        let wrong = if order == one { two } else { one };
        let expected = Err(PageError::WrongOrder { frame: block, allocated: order, freed: wrong });
        check_equal!(memory.try_free_pages(block, wrong), expected, "a free with the wrong order");
        if order > one {
            let inner = memory.try_free_pages(block.offset(1), one);
            check!(matches!(inner, Err(PageError::NotAllocated { .. })), "a free inside a block gave {inner:?}");
        }
        memory.__free_pages(block, order);
        let again = memory.try_free_pages(block, order);
        check!(matches!(again, Err(PageError::NotAllocated { .. })), "a second free of {order} gave {again:?}");
    }
    let nowhere = memory.try_free_pages(Pfn(u32::MAX), one);
    check!(matches!(nowhere, Err(PageError::NotAllocated { .. })), "a free of no frame gave {nowhere:?}");
    let object = memory.kmalloc(64, Gfp::KERNEL);
    let slab = memory.virt_to_page(object).ok_or("an object is nowhere")?;
    let of_slab = memory.try_free_pages(slab, one);
    // SAFETY: nobody uses it any more.
    unsafe { memory.kfree(object) };
    check!(matches!(of_slab, Err(PageError::NotAllocated { .. })), "a free of a slab's page gave {of_slab:?}");
    check_equal!(InUse::now(), before, "in use");
    Ok(())
}

fn exact_blocks_take_no_more_than_they_need() -> Outcome {
    without_loss(|| {
        for node in nodes_with_memory() {
            for pages in [1, 3, 5, 100, 1000] {
                let before = InUse::now();
                let bytes = pages * 4096 - 1;
                let first = service().alloc_pages_exact_node(node, bytes, QUIET).ok_or("no memory")?;
                check_equal!(service().page_to_node(first), Some(node), "node of the block");
                check_equal!(InUse::now().pages - before.pages, pages as u64 * 4096, "bytes that {pages} pages take");
                service().free_pages_exact(first, bytes);
                check_equal!(InUse::now(), before, "in use");
            }
        }
        Ok(())
    })
}

fn a_node_can_be_emptied_and_recovers() -> Outcome {
    let node = smallest_node();
    without_loss(|| {
        let hoard = Hoard::of_pages(node, QUIET);
        check!(hoard.objects() > 0, "{node} gave nothing");
        for zone in service().zones().filter(|zone| zone.node == node) {
            let left = zone.free + zone.deferred;
            let kept = zone.watermarks.min + zone.lowmem_reserve[ZoneKind::Normal as usize];
            check!(left <= kept, "a zone has more left than its reserve: {zone:?}");
        }
        check!(Block::on_node(node, THIS_NODE, Order::ZERO).is_none(), "an empty node gives a page");
        if nodes_with_memory().count() > 1 {
            let misses = || nodes_with_memory().map(|node| service().numa_statistics(node).miss).sum::<u64>();
            let before = misses();
            let elsewhere = Block::on_node(node, QUIET, Order::ZERO).ok_or("no other node helps out")?;
            check!(elsewhere.node() != Some(node), "an empty node gives a page");
            check_equal!(misses(), before + 1, "pages from another node than wanted");
        }
        // Last, for it may bring more of the reserve within the CPU's reach than the one page.
        let urgent = Block::on_node(node, Gfp::ATOMIC | Gfp::THISNODE | Gfp::NOWARN, Order::ZERO);
        check!(urgent.is_some(), "the reserve gives no page to an urgent request");
        drop((hoard, urgent));
        let largest = Block::on_node(node, THIS_NODE, Order::MAX);
        check!(largest.is_some(), "free pages do not grow together again");
        Ok(())
    })
}

fn objects_can_exhaust_a_node_and_come_back() -> Outcome {
    fn free_object(object: *mut u8) {
        // SAFETY: the hoard's, who gives it up.
        unsafe { service().kfree(object) };
    }
    let node = smallest_node();
    without_loss(|| {
        let mut hoard = Hoard::new(free_object);
        for size in [4 << 20, 64 << 10, 8192, 1024] {
            hoard.fill(|| service().kmalloc_node(size, THIS_NODE, node));
            check!(service().kmalloc_node(size, THIS_NODE, node).is_null(), "an exhausted node gives {size} bytes");
        }
        let objects = hoard.objects();
        drop(hoard);
        check!(objects > 0, "{node} gave nothing");
        service().shrink_depots();
        let again: Vec<_> = (0..8).map(|_| service().kmalloc_node(4 << 20, THIS_NODE, node)).collect();
        for &object in again.iter().filter(|object| !object.is_null()) {
            free_object(object);
        }
        check!(again.iter().all(|object| !object.is_null()), "{node} does not recover");
        Ok(())
    })
}

/// Whether the node that serves this CPU has so much free memory, above 16 MiB, that idle CPUs keep zeroed pages of it.
fn keeps_zeroed_pages(node: NodeId) -> bool {
    let highest = service().zones().filter(|zone| zone.node == node && zone.managed > 0).last();
    highest.is_some_and(|zone| {
        let kept = zone.watermarks.high + zone.lowmem_reserve[ZoneKind::Normal as usize];
        zone.kind != ZoneKind::Dma && zone.present >= 1 << 13 && zone.available() > kept + 256
    })
}

fn idle_cpus_zero_the_pages_that_requests_then_get() -> Outcome {
    let node = service().page_to_node(Block::new(Gfp::KERNEL, Order::ZERO).ok_or("no memory")?.first);
    if !node.is_some_and(keeps_zeroed_pages) {
        return Ok(());
    }
    let events = |event| service().event_count(event);
    // Nobody has zeroed what is dirty now.
    let mut dirty: Vec<_> = (0..256).map_while(|_| Block::new(QUIET, Order::ZERO)).collect();
    for block in &mut dirty {
        block.words().fill(u64::MAX);
    }
    service().shrink_depots();
    drop(dirty);
    service().drain_local();
    let zeroed = events(Event::ZeroedIdle);
    let end = time::uptime() + Duration::from_secs(10);
    loop {
        let hits = events(Event::ZeroedHit);
        let mut block = Block::new(Gfp::KERNEL | Gfp::ZERO, Order::ZERO).ok_or("no memory")?;
        check!(block.words().iter().all(|&word| word == 0), "{} is not zero", block.first);
        if events(Event::ZeroedHit) > hits {
            break;
        }
        check!(time::uptime() < end, "no idle CPU has a page ready");
        // This CPU idles meanwhile.
        thread::sleep(Duration::from_millis(1));
    }
    check!(events(Event::ZeroedIdle) > zeroed, "a page was ready that nobody zeroed");
    tell_what_a_hit_saves()
}

/// Instructions of a pair of one page, where the clock counts them: zeroed by an idle CPU before, zeroed when asked for, and
/// not zeroed.
fn tell_what_a_hit_saves() -> Outcome {
    if option("icount") != Some("1") {
        return Ok(());
    }
    let pairs = |gfp: Gfp| {
        let hits = service().event_count(Event::ZeroedHit);
        let mut pairs = Vec::with_capacity(6);
        for _ in 0..6 {
            let start = time::ticks();
            let block = service().alloc_pages(gfp, Order::ZERO).ok_or("no memory")?;
            service().__free_pages(block, Order::ZERO);
            pairs.push(time::ticks() - start);
        }
        pairs.sort_unstable();
        Ok::<_, &str>((pairs[3], service().event_count(Event::ZeroedHit) - hits))
    };
    thread::sleep(Duration::from_millis(1));
    let (hit, hits) = pairs(Gfp::KERNEL | Gfp::ZERO)?;
    check_equal!(hits, 6, "requests that hit");
    service().shrink_depots();
    let (miss, hits) = pairs(Gfp::KERNEL | Gfp::ZERO)?;
    check_equal!(hits, 0, "requests that hit nothing");
    let (plain, _) = pairs(Gfp::KERNEL)?;
    println!("instructions for a page: {hit} zeroed before, {miss} zeroed at the call, {plain} not zeroed");
    check!(hit < miss, "a page zeroed before takes {hit} instructions, one zeroed at the call {miss}");
    Ok(())
}

tests! { "pages":
    blocks_of_every_order_are_aligned_and_usable,
    zeroed_blocks_are_zero,
    idle_cpus_zero_the_pages_that_requests_then_get,
    blocks_come_from_the_node_asked_for,
    low_blocks_are_low,
    the_last_reference_frees,
    a_wrong_free_of_pages_is_told,
    exact_blocks_take_no_more_than_they_need,
    a_node_can_be_emptied_and_recovers,
    objects_can_exhaust_a_node_and_come_back,
}
