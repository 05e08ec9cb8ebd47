//! The accounts of the memory service, against a ledger of the test's own and against a look at every object.
//!
//! Run last, when all other tests have left their traces.

use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use quarry_guest_records::reports;
use quarry_record::Report;
use quarry_suite::random::{Random, log_uniform};
use quarry_unikernel::memory::service;
use quarry_unikernel::memory_service::{Gfp, M_TEMP, MallocFlags, Order, ZERO_SIZE_PTR};
use quarry_unikernel::{cpus, topology};

use crate::harness::{Outcome, seed};
use crate::object::Object;
use crate::team::{InUse, another_cpu, eventually, on_cpu, on_every_cpu, spawn};
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
        let in_use = service().statistics().slab_in_use + service().pool_bytes().objects;
        check_equal!(in_use, counted, "bytes of objects in use {when}");
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

/// Objects of kmalloc's class of 64 bytes in use, as slabinfo counts them.
fn active_objects() -> Result<u64, &'static str> {
    let class = service().slabs().find(|slab| slab.name().to_string() == "kmalloc-64");
    Ok(class.ok_or("there is no such class")?.active_objects())
}

fn slabinfo_counts_the_objects_of_a_class() -> Outcome {
    let before = active_objects()?;
    let take = |objects| -> Option<Vec<Object>> { (0..objects).map(|_| Object::new(64, Gfp::KERNEL)).collect() };
    let mine = take(100).ok_or("no memory")?;
    let others = on_cpu(another_cpu(), move || take(50)).ok_or("no memory")?;
    check_equal!(active_objects()?, before + 150, "objects in use");
    on_cpu(another_cpu(), move || drop(mine));
    check_equal!(active_objects()?, before + 50, "objects in use after some were freed on another CPU");
    drop(others);
    check_equal!(active_objects()?, before, "objects in use in the end");
    Ok(())
}

/// A number of a report; `of` is empty for those of the whole machine.
fn number(reports: &[Report], report: &str, of: &str, name: &str) -> Result<u64, &'static str> {
    let report = reports.iter().find(|it| it.name == report).ok_or("a report is missing")?;
    let subject = report.subjects.iter().find(|it| it.name == of).ok_or("a subject is missing")?;
    let value = subject.values.iter().find(|(it, _)| it == name).ok_or("a value is missing")?;
    Ok(value.1)
}

fn what_pools_keep_back_is_a_row() -> Outcome {
    let before = InUse::now();
    let error = |error| alloc::format!("{error}");
    let order = Order::new(1).ok_or("there is such an order")?;
    let pools = Arc::new([
        (service().mempool_create_kmalloc_pool(10, 1000).map_err(error)?, 1024),
        (service().mempool_create_kmalloc_pool(3, 20_000).map_err(error)?, 32 << 10),
        (service().mempool_create_page_pool(4, order).map_err(error)?, 8 << 10),
    ]);
    let full = before.pool + 10 * 1024 + 3 * (32 << 10) + 4 * (8 << 10);
    check_equal!(InUse::now().pool, full, "kept back by new pools");
    let mut elements = [ptr::null_mut(); 3];
    let mut kept = full;
    for (element, (pool, bytes)) in elements.iter_mut().zip(&*pools) {
        let handed_out = service().statistics().in_use();
        *element = service().mempool_alloc_preallocated(pool);
        kept -= bytes;
        check_equal!(InUse::now().pool, kept, "kept back without an element");
        check_equal!(service().statistics().in_use(), handed_out, "handed out, whoever has it");
    }
    let (theirs, taken) = (Arc::clone(&pools), elements.map(<*mut u8>::expose_provenance));
    on_cpu(another_cpu(), move || {
        for (element, (pool, _)) in taken.into_iter().zip(&*theirs) {
            // SAFETY: each element was taken above and is freed once.
            unsafe { service().mempool_free(ptr::with_exposed_provenance_mut(element), pool) };
        }
    });
    check_equal!(InUse::now().pool, full, "kept back after another CPU freed the elements");
    let pools = Arc::into_inner(pools).ok_or("the other CPU is done with them")?;
    for (pool, _) in pools {
        service().mempool_destroy(pool).map_err(|error| alloc::format!("{error}"))?;
    }
    check_equal!(InUse::now(), before, "in use in the end");
    Ok(())
}

fn reports_of_one_moment_agree() -> Outcome {
    // So that a type of malloc has been used, for the report of these.
    let block = service().contigmalloc(4096, &M_TEMP, MallocFlags::WAITOK, 0, u64::MAX, 4096, 0);
    check!(!block.is_null(), "there is no memory for a block");
    let reports = reports();
    // SAFETY: it is freed once, here.
    unsafe { service().contigfree(block, 4096, &M_TEMP) };
    let row = |name| number(&reports, "rows", "", name);
    check_equal!(number(&reports, "meminfo", "", "MemFree")? * 1024, row("free")? + row("deferred")?, "MemFree");
    check_equal!(number(&reports, "meminfo", "", "MemTotal")? * 1024, row("total")? - row("reserved")?, "MemTotal");
    let mut in_use = 0;
    for slab in &reports.iter().find(|it| it.name == "slabinfo").ok_or("a report is missing")?.subjects {
        let column = |name| number(&reports, "slabinfo", &slab.name, name);
        in_use += column("active_objs")? * column("objsize")?;
    }
    // To a cache, what a pool keeps back is in use.
    let handed_out = row("slab_in_use")? + service().pool_bytes().objects;
    check_equal!(in_use, handed_out, "bytes of the objects in use");
    check_equal!(row("pool")?, service().pool_bytes().total(), "bytes that pools keep back");
    for report in &reports {
        check!(report.text.ends_with('\n') && !report.subjects.is_empty(), "{} says nothing", report.name);
    }
    Ok(())
}

fn a_look_while_another_cpu_works_says_so() -> Outcome {
    check!(!service().statistics().approximate, "nobody else is at work");
    if cpus::online().count() == 1 {
        return Ok(());
    }
    let done = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&done);
    let other = spawn(another_cpu(), move || {
        // Relaxed: the flag orders nothing.
        while !seen.load(Relaxed) {
            drop(Object::new(100_000, Gfp::KERNEL));
        }
    });
    let outcome = eventually("a look was disturbed", || service().statistics().approximate);
    done.store(true, Relaxed);
    other.join();
    outcome
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
    slabinfo_counts_the_objects_of_a_class,
    what_pools_keep_back_is_a_row,
    reports_of_one_moment_agree,
    a_look_while_another_cpu_works_says_so,
    what_cpus_cache_can_be_given_back,
}
