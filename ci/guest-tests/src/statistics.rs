//! The accounts of the memory service, against a ledger of the test's own and against a look at every object.
//!
//! Run last, when all other tests have left their traces.

use alloc::vec::Vec;

use quarry_suite::random::{Random, log_uniform};
use quarry_unikernel::memory::service;
use quarry_unikernel::memory_service::{Gfp, Order, ZERO_SIZE_PTR};
use quarry_unikernel::{cpus, topology};

use crate::harness::{Outcome, seed};
use crate::object::Object;
use crate::team::{InUse, on_cpu, on_every_cpu};
use crate::{check, check_equal, tests};

fn rows_add_up_to_all_ram() -> Outcome {
    let statistics = service().statistics();
    check!(statistics.adds_up(), "they do not: {statistics:?}");
    let ram: u64 = topology().nodes().map(|node| topology().memory_bytes(node)).sum();
    check_equal!(statistics.total, ram, "total RAM");
    let present: u64 = service().zones().map(|zone| u64::from(zone.present) * 4096).sum();
    check_equal!(present, ram, "RAM of all zones");
    for zone in service().zones() {
        let in_blocks: u32 = Order::all().map(|order| zone.free_blocks[order.index()] * order.frames()).sum();
        check_equal!(in_blocks, zone.free, "frames in the free blocks of {} of {}", zone.kind, zone.node);
        let ordered = zone.watermarks.min <= zone.watermarks.low && zone.watermarks.low <= zone.watermarks.high;
        check!(ordered && zone.managed <= zone.present, "a zone that makes no sense: {zone:?}");
    }
    Ok(())
}

fn objects_in_use_are_those_a_look_finds() -> Outcome {
    let compare = |when: &str| -> Outcome {
        let counted = service().count_objects_in_use();
        check_equal!(service().statistics().slab_in_use, counted, "bytes of objects in use {when}");
        Ok(())
    };
    compare("before")?;
    // The list of objects is itself an object: it is not to grow while they are counted.
    let mut random = Random::new(seed(), 0);
    let mut objects = Vec::with_capacity(1000);
    for _ in 0..1000 {
        objects.push(Object::new(log_uniform(&mut random, 0, 13), Gfp::KERNEL).ok_or("no memory")?);
    }
    compare("with objects")?;
    let other = cpus::online().last().ok_or("a CPU runs")?;
    objects.truncate(500);
    on_cpu(other, move || drop(objects));
    compare("after some were freed on another CPU")
}

fn the_ledger_of_a_caller_agrees() -> Outcome {
    let mut random = Random::new(seed(), 1);
    let mut objects = Vec::with_capacity(2000);
    let before = InUse::now();
    let mut ledger = before;
    for _ in 0..2000 {
        let object = Object::new(log_uniform(&mut random, 0, 16), Gfp::KERNEL).ok_or("no memory")?;
        let size = service().ksize(object.as_ptr()) as u64;
        *(if size > 8192 { &mut ledger.large } else { &mut ledger.objects }) += size;
        objects.push(object);
    }
    check_equal!(InUse::now(), ledger, "in use after two thousand allocations");
    let frames = service().count_page_frames();
    let mut blocks = [None; Order::COUNT];
    for order in Order::all() {
        let block = service().alloc_pages(Gfp::KERNEL, order).ok_or("no memory")?;
        blocks[order.index()] = Some(block);
        ledger.pages += order.bytes() as u64;
    }
    let held: u64 = Order::all().map(|order| u64::from(order.frames())).sum();
    check_equal!(service().count_page_frames(), frames + held, "frames of blocks in use");
    check_equal!(InUse::now(), ledger, "in use with blocks of pages");
    for (order, block) in Order::all().zip(blocks.into_iter().flatten()) {
        service().__free_pages(block, order);
    }
    objects.clear();
    check_equal!(InUse::now(), before, "in use in the end");
    // What is no memory does not count.
    check_equal!(service().kmalloc(0, Gfp::KERNEL), ZERO_SIZE_PTR, "kmalloc(0)");
    check_equal!(InUse::now(), before, "in use with nothing allocated");
    Ok(())
}

fn what_cpus_cache_can_be_given_back() -> Outcome {
    let before = InUse::now();
    on_every_cpu(|_| service().drain_local());
    service().shrink_depots();
    // Depots may have got pages of their own while they were shrunk for others.
    service().shrink_depots();
    let statistics = service().statistics();
    check_equal!(InUse::now(), before, "in use");
    check!(statistics.adds_up(), "they do not add up: {statistics:?}");
    service().validate().map_err(|broken| alloc::format!("a zone's free lists are broken: {broken:?}"))
}

tests! { "statistics":
    rows_add_up_to_all_ram,
    objects_in_use_are_those_a_look_finds,
    the_ledger_of_a_caller_agrees,
    what_cpus_cache_can_be_given_back,
}
