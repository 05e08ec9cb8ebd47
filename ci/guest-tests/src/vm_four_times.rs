//! VM objects on real CPUs: four times the memory there is goes through a pager while every CPU works.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use quarry_unikernel::memory::{Guest, service};
use quarry_unikernel::memory_service::events::Event;
use quarry_unikernel::memory_service::vm::{BusyPage, MAX_CLUSTER, PageIn, PageOut, PagedIn, Pager, VmObject};
use quarry_unikernel::memory_service::{CpuId, Gfp, Order, Pfn};
use quarry_unikernel::{cpus, interrupts, thread};

use crate::harness::Outcome;
use crate::hoard::{Hoard, nodes_with_memory};
use crate::team::check_on_every_cpu;
use crate::vm::{NOFAIL, has_label, write_label};
use crate::{check, check_equal, tests};

/// Pages of the object that is larger than memory, and of the memory left for it: a quarter.
const PAGES: u64 = 4096;
const BALLAST: u64 = PAGES / 4;

fn label_of(page: &[u8; 4096]) -> Option<u64> {
    let first = page.first_chunk().map(|bytes| u64::from_le_bytes(*bytes) >> 16)?;
    has_label(page, first).then_some(first)
}

/// Keeps of each page its label alone, from which it makes the page anew: so more data than memory fits into memory.
struct Labels {
    /// 0 where there is none.
    kept: Vec<AtomicU64>,
    /// Pages that had no one label.
    broken: AtomicU64,
    /// How often handlers could have come while an object was locked.
    disturbed: AtomicU64,
}

impl Pager<Guest> for Labels {
    fn page_in(&self, mut request: PageIn<Guest>) {
        let found = match self.kept[request.index() as usize].load(Ordering::Relaxed) {
            0 => PagedIn::Absent,
            label => {
                write_label(request.bytes_mut(), label);
                PagedIn::Filled
            }
        };
        request.complete(Ok(found));
    }

    /// Called with the object locked.
    fn cluster(&self) -> usize {
        self.disturbed.fetch_add(interrupts::are_enabled().into(), Ordering::Relaxed);
        MAX_CLUSTER
    }

    fn page_out(&self, request: PageOut<Guest>) {
        for (index, bytes) in request.indices().zip(request.bytes()) {
            match label_of(bytes) {
                Some(label) => self.kept[index as usize].store(label, Ordering::Relaxed),
                None => _ = self.broken.fetch_add(1, Ordering::Relaxed),
            }
        }
        // Others run, as while a disk writes.
        thread::yield_now();
        request.complete(Ok(()));
    }
}

/// The one pager of all runs.
fn labels() -> &'static Labels {
    static LABELS: spin::Once<Labels> = spin::Once::new();
    let labels = LABELS.call_once(|| Labels {
        kept: (0..PAGES).map(|_| AtomicU64::new(0)).collect(),
        broken: AtomicU64::new(0),
        disturbed: AtomicU64::new(0),
    });
    labels.kept.iter().for_each(|label| label.store(0, Ordering::Relaxed));
    labels
}

/// Takes all memory but a little; gives back what is taken.
fn with_little_memory(body: impl FnOnce() -> Outcome) -> Outcome {
    let order = Order::new(6).expect("it exists");
    let blocks = BALLAST / u64::from(order.frames());
    let ballast: Vec<Pfn> = (0..blocks).filter_map(|_| service().alloc_pages(Gfp::KERNEL, order)).collect();
    let hoards: Vec<_> = nodes_with_memory().map(|node| Hoard::of_pages(node, Gfp::NOWAIT | Gfp::NOWARN)).collect();
    for block in ballast {
        service().__free_pages(block, order);
    }
    let outcome = body();
    drop(hoards);
    outcome
}

fn fault(object: &VmObject<Guest>, index: u64) -> Result<BusyPage<'_, Guest>, String> {
    object.fault_with(index, NOFAIL).map_err(|error| format!("page {index}: {error}"))
}

fn four_times_the_memory_left_goes_through_a_pager_on_every_cpu() -> Outcome {
    let pager = labels();
    let before = service().event_count(Event::VmLaundered);
    let cpus = cpus::online().count();
    // One for each CPU's pages, which all others read.
    let objects: Result<Vec<_>, _> = (0..cpus).map(|_| service().vm_object(Some(pager))).collect();
    let objects = Arc::new(objects.map_err(|error| format!("{error}"))?);
    let (written, read) = (Arc::clone(&objects), Arc::clone(&objects));
    with_little_memory(move || {
        let object = move |index: u64| index as usize % cpus;
        let mine = move |cpu: CpuId| (u64::from(cpu.0)..PAGES).step_by(cpus);
        check_on_every_cpu(move |cpu| {
            for index in mine(cpu) {
                write_label(&mut *fault(&written[object(index)], index)?, index + 1);
            }
            Ok(())
        })?;
        check_on_every_cpu(move |cpu| {
            for index in mine(cpu) {
                // Another CPU's, and not in its order.
                let index = index ^ 0x155;
                let page = fault(&read[object(index)], index)?;
                check!(has_label(&page, index + 1), "page {index} is not as it was written");
            }
            Ok(())
        })
    })?;
    check_equal!(pager.broken.load(Ordering::Relaxed), 0, "pages that reached the pager broken");
    check_equal!(pager.disturbed.load(Ordering::Relaxed), 0, "times that interrupts were on with an object locked");
    let laundered = service().event_count(Event::VmLaundered) - before;
    check!(laundered >= PAGES / 2, "only {laundered} pages of {PAGES} were laundered");
    drop(Arc::into_inner(objects).ok_or("a thread has the objects still")?);
    service().validate().map_err(|broken| format!("{broken}"))
}

tests!("vm":
    four_times_the_memory_left_goes_through_a_pager_on_every_cpu,
);
