//! Memory contiguous in addresses only, and memory for each CPU.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use quarry_suite::random::{Random, log_uniform};
use quarry_unikernel::memory::service;
use quarry_unikernel::memory_service::{CpuId, Gfp, MAX_SIZE, Machine, Order};
use quarry_unikernel::probe::{can_read, can_write};
use quarry_unikernel::{cpus, rights, thread, topology};

use crate::harness::{Outcome, seed};
use crate::object::Object;
use crate::team::{InUse, check_on_every_cpu, on_every_cpu, without_loss};
use crate::{check, check_equal, tests};

/// Larger than any block of contiguous pages.
const LARGE: usize = 3 * MAX_SIZE;

fn mapped_memory_is_usable_to_its_last_page_and_no_further() -> Outcome {
    without_loss(|| {
        for size in [1, 4096, 4097, 100_000, 1 << 20, LARGE] {
            let mut object = Object::mapped(size).ok_or("no memory")?;
            let start = object.address();
            check!(start.is_multiple_of(4096), "{size} bytes start at {start:#x}");
            object.fill(size as u64);
            check!(object.holds(size as u64), "{size} bytes do not keep what was written");
            let pages = start..start + size.next_multiple_of(4096);
            for page in pages.clone().step_by(4096) {
                check_equal!(rights(page as u64), Some((true, false)), "a page may be (written, executed)");
            }
            check!(!can_read(pages.end as u64) && !can_write(pages.end as u64), "the page after {size} bytes is there");
            drop(object);
            check!(
                pages.step_by(4096).all(|page| !can_read(page as u64)),
                "a page of {size} bytes is there after vfree"
            );
        }
        Ok(())
    })
}

fn what_cannot_be_mapped_is_null() -> Outcome {
    let before = InUse::now();
    for size in [0, 1 << 40, 1 << 46, usize::MAX / 2, usize::MAX] {
        check!(service().vmalloc(size, Gfp::KERNEL | Gfp::NOWARN).is_null(), "vmalloc({size:#x}) is not null");
    }
    check_equal!(InUse::now(), before, "in use");
    Ok(())
}

fn a_refusal_for_want_of_memory_leaves_the_largest_blocks_whole() -> Outcome {
    let nodes = || topology().nodes().filter(|&node| topology().has_memory(node));
    let largest = |node| service().alloc_pages_node(node, Gfp::KERNEL | Gfp::THISNODE | Gfp::NOWARN, Order::MAX);
    let all = service().statistics().total as usize;
    check!(service().vmalloc(all, Gfp::KERNEL | Gfp::NOWARN).is_null(), "{all} bytes are more than is free");
    for node in nodes() {
        let block = largest(node).ok_or_else(|| format!("no block of {} is left on {node}", Order::MAX))?;
        service().__free_pages(block, Order::MAX);
    }
    Ok(())
}

fn kvmalloc_takes_what_fits() -> Outcome {
    without_loss(|| {
        let window = service().machine().mapping_window();
        for (size, mapped) in [(1, false), (4096, false), (100_000, false), (MAX_SIZE + 1, true), (LARGE, true)] {
            let start = service().kvmalloc(size, Gfp::KERNEL);
            // SAFETY: just allocated.
            let mut object = unsafe { Object::adopt(start, size) }.ok_or("no memory")?;
            check_equal!(window.contains(&start.addr()), mapped, "whether {size} bytes are mapped page by page");
            object.fill(1);
            check!(object.holds(1), "{size} bytes do not keep what was written");
        }
        Ok(())
    })
}

fn no_cpu_remembers_a_mapping_that_is_gone() -> Outcome {
    const BYTES: usize = 4 * 4096;
    const ROUNDS: u64 = 20;
    /// An allocation that all CPUs may look at.
    struct Shared(Object);
    // SAFETY: the object is only read while it is shared.
    unsafe impl Sync for Shared {}

    without_loss(|| {
        let mut addresses = BTreeSet::new();
        for round in 0..ROUNDS {
            let mut object = Object::mapped(BYTES).ok_or("no memory")?;
            object.fill(round);
            let address = object.address() as u64;
            addresses.insert(address);
            let shared = Arc::new(Shared(object));
            let seen = Arc::clone(&shared);
            check_on_every_cpu(move |_| {
                check!(seen.0.holds(round), "the contents are not those of round {round}");
                Ok(())
            })?;
            drop(shared);
            check_on_every_cpu(move |_| {
                check!(!can_read(address), "round {round}'s mapping is remembered");
                Ok(())
            })?;
        }
        check_equal!(addresses.len(), 1, "addresses used");
        Ok(())
    })
}

fn all_cpus_map_and_unmap_at_once() -> Outcome {
    /// Of all CPUs together.
    const ROUNDS: usize = 80;
    without_loss(|| {
        check_on_every_cpu(|cpu| {
            let mut random = Random::new(seed(), u64::from(cpu.0));
            let mut kept = Vec::new();
            for round in 0..ROUNDS / cpus::online().count() + 5 {
                let label = u64::from(cpu.0) << 32 | round as u64;
                let mut object = Object::mapped(log_uniform(&mut random, 0, 16)).ok_or("no memory")?;
                object.fill(label);
                kept.push((label, object));
                if kept.len() > 4 {
                    let (label, object) = kept.swap_remove(random.below(kept.len() as u64) as usize);
                    check!(object.holds(label), "somebody wrote to {object:?}");
                }
                thread::yield_now();
            }
            let all_right = kept.iter().all(|(label, object)| object.holds(*label));
            check!(all_right, "somebody wrote to memory of this CPU");
            Ok(())
        })
    })
}

fn every_cpu_has_a_piece_on_its_own_node() -> Outcome {
    without_loss(|| {
        let memory = service();
        for (size, align) in [(8, 8), (64, 64), (100, 16), (4096, 4096)] {
            let percpu = memory.alloc_percpu(size, align, Gfp::KERNEL).ok_or("no memory")?;
            let mut lines = BTreeSet::new();
            for cpu in (0..memory.cpu_count()).map(|cpu| CpuId(cpu as u16)) {
                let piece = memory.per_cpu_ptr(&percpu, cpu);
                // SAFETY: the piece has `size` bytes, which are initialised with zeroes; the handle keeps it.
                let bytes = unsafe { core::slice::from_raw_parts(piece, size) };
                check!(bytes.iter().all(|&byte| byte == 0), "the piece of {cpu} is not zero");
                check!(piece.addr().is_multiple_of(align), "the piece of {cpu} is at {piece:p}");
                check!(lines.insert(piece.addr() / 64), "two CPUs share a cache line");
                let node = memory.cpu_to_node(cpu);
                let found = memory.virt_to_page(piece).and_then(|frame| memory.page_to_node(frame));
                check!(found == Some(node) || !topology().has_memory(node), "the piece of {cpu} is on {found:?}");
            }
            memory.free_percpu(percpu);
        }
        Ok(())
    })
}

fn counters_of_cpus_do_not_disturb_each_other() -> Outcome {
    const STEPS: u64 = 1000;
    without_loss(|| {
        let percpu = Arc::new(service().alloc_percpu(8, 8, Gfp::KERNEL).ok_or("no memory")?);
        let shared = Arc::clone(&percpu);
        on_every_cpu(move |cpu| {
            for _ in 0..STEPS + u64::from(cpu.0) {
                let counter = service().this_cpu_ptr(&shared).cast::<u64>();
                // SAFETY: the piece is this CPU's until the thread yields, and holds a word.
                unsafe { *counter += 1 };
            }
        });
        let percpu = Arc::into_inner(percpu).ok_or("somebody still has the handle")?;
        let count = |cpu: CpuId| {
            let counter = service().per_cpu_ptr(&percpu, cpu).cast::<u64>();
            // SAFETY: all threads that wrote have ended.
            (cpu, unsafe { counter.read() })
        };
        let counts: Vec<_> = cpus::online().map(count).collect();
        service().free_percpu(percpu);
        for (cpu, count) in counts {
            check_equal!(count, STEPS + u64::from(cpu.0), "the counter of {cpu}");
        }
        Ok(())
    })
}

tests! { "vmalloc":
    mapped_memory_is_usable_to_its_last_page_and_no_further,
    what_cannot_be_mapped_is_null,
    a_refusal_for_want_of_memory_leaves_the_largest_blocks_whole,
    kvmalloc_takes_what_fits,
    no_cpu_remembers_a_mapping_that_is_gone,
    all_cpus_map_and_unmap_at_once,
    every_cpu_has_a_piece_on_its_own_node,
    counters_of_cpus_do_not_disturb_each_other,
}
