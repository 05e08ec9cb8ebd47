//! What flags do on a node whose memory is gone: how hard each tries, on whose behalf shrinkers are asked, what of the
//! reserve it gets, and whether it is told. The balancing threads run meanwhile, so what others may add to is only compared downward.

use alloc::format;
use core::sync::atomic::{AtomicU64, Ordering};

use quarry_unikernel::memory::service;
use quarry_unikernel::memory_service::events::Event;
use quarry_unikernel::memory_service::{Gfp, Mobility, NodeId, Order, ShrinkControl, Shrinker};
use quarry_unikernel::warnings;

use crate::harness::Outcome;
use crate::hoard::{Hoard, smallest_node};
use crate::team::{eventually, without_loss};
use crate::{check, check_equal, tests};

const QUIET: Gfp = Gfp::NOWARN.union(Gfp::THISNODE);

/// Larger than what is worth waiting for without being asked.
const COSTLY: u32 = 4;

/// Counts how often it is asked on behalf of requests with `THISNODE`, which the balancing threads' are not. Gives
/// nothing up.
struct Asked {
    times: AtomicU64,
    needs: Gfp,
}

impl Asked {
    const fn new(needs: Gfp) -> Self {
        Self { times: AtomicU64::new(0), needs }
    }

    fn times(&self) -> u64 {
        self.times.load(Ordering::Relaxed)
    }
}

impl Shrinker for Asked {
    fn count(&self, control: &ShrinkControl) -> usize {
        self.times.fetch_add(u64::from(control.gfp.contains(Gfp::THISNODE)), Ordering::Relaxed);
        0
    }

    fn scan(&self, _: &ShrinkControl, _: usize) -> Option<usize> {
        None
    }

    fn needs(&self) -> Gfp {
        self.needs
    }
}

fn order(order: u32) -> Order {
    Order::new(order).expect("there is such an order")
}

/// Whether a block is to be had; it is given back.
fn gives(node: NodeId, gfp: Gfp, order: Order) -> bool {
    let block = service().alloc_pages_node(node, gfp | QUIET, order);
    block.inspect(|&block| service().__free_pages(block, order)).is_some()
}

/// Runs `test` with a shrinker registered, and all of the smallest node taken but the reserve.
fn with_memory_gone(shrinker: &'static Asked, test: impl Fn(NodeId) -> Outcome) -> Outcome {
    let node = smallest_node();
    without_loss(|| {
        let id = service().register_shrinker(shrinker).map_err(|error| format!("{error}"))?;
        let hoard = Hoard::of_pages(node, Gfp::KERNEL | QUIET);
        let outcome = test(node);
        drop(hoard);
        service().unregister_shrinker(id).map_err(|error| format!("{error}"))?;
        outcome
    })
}

/// How often a shrinker is asked, and how often anybody sleeps, while a request is refused.
fn effort(shrinker: &Asked, node: NodeId, gfp: Gfp, order: Order) -> Result<(u64, u64), alloc::string::String> {
    let (asked, waits) = (shrinker.times(), service().event_count(Event::Wait));
    check!(!gives(node, gfp, order), "{order} with {gfp} is to be had though memory is gone");
    Ok((shrinker.times() - asked, service().event_count(Event::Wait) - waits))
}

fn each_flag_tries_as_hard_as_it_says() -> Outcome {
    static SHRINKER: Asked = Asked::new(Gfp::empty());
    with_memory_gone(&SHRINKER, |node| {
        let tries = |gfp, order| effort(&SHRINKER, node, gfp, order);
        check_equal!(tries(Gfp::NOWAIT, Order::ZERO)?, (0, 0), "effort of NOWAIT");
        check_equal!(tries(Gfp::KSWAPD_RECLAIM, Order::ZERO)?, (0, 0), "effort of KSWAPD_RECLAIM alone");
        check_equal!(tries(Gfp::KERNEL | Gfp::NORETRY, Order::ZERO)?, (1, 0), "effort of NORETRY");
        for gfp in [Gfp::KERNEL, Gfp::USER, Gfp::DIRECT_RECLAIM] {
            let (asked, waits) = tries(gfp, Order::ZERO)?;
            check!(asked >= 16 && waits >= 15, "{gfp} asked {asked} times and slept {waits} times");
        }
        check_equal!(tries(Gfp::KERNEL, order(COSTLY))?.0, 1, "rounds for a costly order");
        let (asked, _) = tries(Gfp::KERNEL | Gfp::RETRY_MAYFAIL, order(COSTLY))?;
        check!(asked >= 16, "RETRY_MAYFAIL asked {asked} times for a costly order");
        Ok(())
    })
}

fn the_old_gfp_thisnode_fails_at_once() -> Outcome {
    static SHRINKER: Asked = Asked::new(Gfp::empty());
    with_memory_gone(&SHRINKER, |node| {
        let efforts = || (SHRINKER.times(), service().event_count(Event::Wait));
        let before = efforts();
        let page = service().alloc_pages_node(node, Gfp::GFP_THISNODE, Order::ZERO);
        check_equal!(page, None, "what GFP_THISNODE gets of a node whose memory is gone");
        check_equal!(efforts(), before, "times a shrinker was asked, and sleeps");
        Ok(())
    })
}

fn nowarn_keeps_a_failure_from_being_told() -> Outcome {
    static SHRINKER: Asked = Asked::new(Gfp::empty());
    with_memory_gone(&SHRINKER, |node| {
        let is_told = |gfp| {
            let before = warnings();
            let page = service().alloc_pages_node(node, gfp, Order::ZERO);
            page.is_none() && warnings() > before
        };
        let loud = Gfp::NOWAIT | Gfp::THISNODE;
        // Of many failures only some are told, so those that must not be are tried between two that are.
        let mut silent_told = [true; 2];
        eventually("a failure without NOWARN is told", || {
            let first = is_told(loud);
            silent_told = [loud | Gfp::NOWARN, Gfp::GFP_THISNODE].map(is_told);
            first && is_told(loud)
        })?;
        check_equal!(silent_told, [false; 2], "whether failures are told with NOWARN, and with GFP_THISNODE");
        Ok(())
    })
}

fn nofs_asks_no_shrinker_that_calls_a_file_system() -> Outcome {
    static SHRINKER: Asked = Asked::new(Gfp::FS);
    with_memory_gone(&SHRINKER, |node| {
        let tries = |gfp: Gfp| effort(&SHRINKER, node, gfp | Gfp::NORETRY, Order::ZERO).map(|(asked, _)| asked);
        check_equal!(tries(Gfp::KERNEL)?, 1, "how often it is asked on behalf of KERNEL");
        check_equal!(tries(Gfp::NOFS)?, 0, "how often it is asked on behalf of NOFS");
        check_equal!(tries(Gfp::NOIO)?, 0, "how often it is asked on behalf of NOIO");
        let scope = service().memalloc_nofs();
        let inside = tries(Gfp::KERNEL);
        drop(scope);
        check_equal!(inside?, 0, "how often it is asked inside a scope without file systems");
        check_equal!(tries(Gfp::KERNEL)?, 1, "how often it is asked after the scope");
        Ok(())
    })
}

fn the_reserve_is_for_those_with_a_right_to_it() -> Outcome {
    static SHRINKER: Asked = Asked::new(Gfp::empty());
    with_memory_gone(&SHRINKER, |node| {
        let high = Gfp::KERNEL | Gfp::NORETRY | Gfp::HIGH;
        check!(gives(node, high, Order::ZERO), "HIGH gets nothing of the reserve");
        service().drain_local();
        check!(gives(node, Gfp::ATOMIC, Order::ZERO), "ATOMIC gets nothing of the reserve");
        service().drain_local();
        check!(!gives(node, Gfp::NOWAIT, Order::ZERO), "NOWAIT gets part of the reserve");
        Ok(())
    })
}

fn what_cannot_be_is_followed_as_far_as_it_can() -> Outcome {
    static SHRINKER: Asked = Asked::new(Gfp::empty());
    with_memory_gone(&SHRINKER, |node| {
        let asked = effort(&SHRINKER, node, Gfp::NOWAIT | Gfp::NOFAIL, Order::ZERO)?;
        check_equal!(asked, (0, 0), "effort of NOFAIL that may not wait");
        Ok(())
    })?;
    let object = service().kmalloc(64, Gfp::KERNEL | Gfp::DMA | Gfp::DMA32);
    let frame = service().virt_to_page(object).ok_or("no memory")?;
    // SAFETY: freed once.
    unsafe { service().kfree(object) };
    check!(frame.physical() < 16 << 20, "with two zones named, the lower one is not used: {frame}");
    Ok(())
}

fn pages_keep_to_pageblocks_of_their_mobility() -> Outcome {
    without_loss(|| {
        for (gfp, mobility) in [
            (Gfp::KERNEL, Mobility::Unmovable),
            (Gfp::HIGHUSER_MOVABLE, Mobility::Movable),
            (Gfp::KERNEL | Gfp::RECLAIMABLE, Mobility::Reclaimable),
        ] {
            let page = service().alloc_pages(gfp, Order::ZERO).ok_or("no memory")?;
            let place = service().mobility_of(page);
            service().__free_pages(page, Order::ZERO);
            check_equal!(place, Some(mobility), "mobility of the pageblock that {gfp} gets");
        }
        Ok(())
    })
}

fn a_block_is_one_from_any_of_its_frames() -> Outcome {
    without_loss(|| {
        let block = service().alloc_pages(Gfp::KERNEL | Gfp::COMP, order(3)).ok_or("no memory")?;
        let heads = (0..8).all(|frame| service().compound_head(block.offset(frame)) == Some(block));
        let found = service().compound_order(block);
        service().__free_pages(block, order(3));
        check!(heads, "a frame of a block does not lead to its head");
        check_equal!(found, order(3), "order of the block");
        Ok(())
    })
}

tests! { "flags_short":
    each_flag_tries_as_hard_as_it_says,
    the_old_gfp_thisnode_fails_at_once,
    nowarn_keeps_a_failure_from_being_told,
    nofs_asks_no_shrinker_that_calls_a_file_system,
    the_reserve_is_for_those_with_a_right_to_it,
    what_cannot_be_is_followed_as_far_as_it_can,
    pages_keep_to_pageblocks_of_their_mobility,
    a_block_is_one_from_any_of_its_frames,
}
