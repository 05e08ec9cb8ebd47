//! VM objects on real CPUs: pages that move while every CPU works, guards that wait for each other, and handlers that
//! allocate.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use quarry_unikernel::memory::{Guest, service};
use quarry_unikernel::memory_service::vm::{BusyPage, PageRequest, VmObject};
use quarry_unikernel::memory_service::{CpuId, Gfp};
use quarry_unikernel::{TrapFrame, cpus, thread};

use crate::harness::Outcome;
use crate::interrupts::{raise_and_wait, register};
use crate::team::check_on_every_cpu;
use crate::{check, check_equal, tests};

const ALLOCATING: u8 = 0x65;

pub(crate) const NOFAIL: Gfp = Gfp::KERNEL.union(Gfp::NOFAIL);

/// All words of a page are its label and their place.
fn word(label: u64, at: usize) -> u64 {
    label << 16 | at as u64
}

pub(crate) fn write_label(page: &mut [u8; 4096], label: u64) {
    for (at, bytes) in page.chunks_exact_mut(8).enumerate() {
        bytes.copy_from_slice(&word(label, at).to_le_bytes());
    }
}

pub(crate) fn has_label(page: &[u8; 4096], label: u64) -> bool {
    page.chunks_exact(8).enumerate().all(|(at, bytes)| bytes == word(label, at).to_le_bytes())
}

fn fault(object: &VmObject<Guest>, index: u64) -> Result<BusyPage<'_, Guest>, String> {
    object.fault_with(index, NOFAIL).map_err(|error| format!("page {index}: {error}"))
}

fn pages_keep_their_contents_while_other_cpus_move_them() -> Outcome {
    let object = Arc::new(service().vm_object(None).map_err(|error| format!("{error}"))?);
    check_on_every_cpu(move |cpu| {
        let first = u64::from(cpu.0) << 32;
        for round in 0..6 {
            for at in 0..200 {
                write_label(&mut *fault(&object, first + at)?, at + round);
            }
            if cpu == CpuId(0) {
                service().compact_memory();
            }
            thread::yield_now();
            for at in 0..200 {
                check!(has_label(&*fault(&object, first + at)?, at + round), "page {at} of {cpu} lost its contents");
            }
            for at in (0..200).filter(|at| (at + round) % 3 == 0) {
                let mut locked = object.lock();
                if let Some(page) = locked.page(first + at) {
                    page.free().map_err(|error| format!("{error}"))?;
                }
            }
        }
        Ok(())
    })
}

fn who_wants_a_busy_page_sleeps_until_it_is_not() -> Outcome {
    let object = Arc::new(service().vm_object(None).map_err(|error| format!("{error}"))?);
    let counted = Arc::clone(&object);
    check_on_every_cpu(move |_| {
        for _ in 0..100 {
            let mut page = fault(&counted, 0)?;
            let count = page[0];
            // Others come meanwhile, and sleep.
            thread::yield_now();
            page[0] = count.wrapping_add(1);
        }
        Ok(())
    })?;
    let count = fault(&object, 0)?[0];
    check_equal!(count, (100 * cpus::online().count()) as u8, "guards that had the page alone");
    Ok(())
}

/// What handlers allocate from, and how often they found something wrong.
static OBJECT: spin::Once<VmObject<Guest>> = spin::Once::new();
static HANDLED: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);

fn allocate_and_free(_: &mut TrapFrame) {
    let index = HANDLED.fetch_add(1, Ordering::Relaxed);
    let is_right = OBJECT.get().is_some_and(|object| {
        let mut locked = object.lock();
        let of_object = service().vm_page_alloc(Some(&mut locked), index, PageRequest::interrupt());
        let of_object = of_object.is_some_and(|page| page.index() == index && page.free().is_ok());
        let of_none = service().vm_page_alloc(None, index, PageRequest::interrupt().wired());
        of_object
            && of_none.is_some_and(|mut page| {
                page.unwire();
                page.free().is_ok()
            })
    });
    WRONG.fetch_add(u64::from(!is_right), Ordering::Relaxed);
}

fn handlers_allocate_pages_without_sleeping() -> Outcome {
    if OBJECT.get().is_none() {
        let object = service().vm_object(None).map_err(|error| format!("{error}"))?;
        OBJECT.call_once(|| object);
        // Once, for the handler stays when the test is run again.
        register(ALLOCATING, allocate_and_free)?;
    }
    check_on_every_cpu(|cpu| {
        for round in 0..100 {
            let object = OBJECT.get().ok_or("it was made")?;
            let index = 1 << 40 | u64::from(cpu.0) << 20 | round;
            drop(fault(object, index)?);
            raise_and_wait(ALLOCATING, &HANDLED)?;
            let mut locked = object.lock();
            locked.page(index).ok_or("it is there")?.free().map_err(|error| format!("{error}"))?;
        }
        Ok(())
    })?;
    check!(HANDLED.load(Ordering::Relaxed) > 0, "no handler ran");
    check_equal!(WRONG.load(Ordering::Relaxed), 0, "handlers that did not get their pages");
    Ok(())
}

tests!("vm":
    pages_keep_their_contents_while_other_cpus_move_them,
    who_wants_a_busy_page_sleeps_until_it_is_not,
    handlers_allocate_pages_without_sleeping,
);
