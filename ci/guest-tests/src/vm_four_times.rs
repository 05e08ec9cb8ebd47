//! VM objects on real CPUs: four times the memory there is goes through a pager while every CPU works.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use quarry_unikernel::memory::{Guest, service};
use quarry_unikernel::memory_service::Gfp;
use quarry_unikernel::memory_service::events::Event;
use quarry_unikernel::memory_service::vm::{MAX_CLUSTER, PageIn, PageOut, PagedIn, Pager};
use quarry_unikernel::{interrupts, thread};

use crate::flood::{Flood, with_little_memory};
use crate::harness::{Outcome, seed};
use crate::vm::{has_label, write_label};
use crate::{check, check_equal, tests};

/// Pages of the objects that are larger than the memory left for them: a quarter.
const PAGES: u64 = 4096;

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

fn four_times_the_memory_left_goes_through_a_pager_on_every_cpu() -> Outcome {
    let pager = labels();
    let before = service().event_count(Event::VmLaundered);
    let flood = Flood::new(pager, PAGES, seed())?;
    with_little_memory(PAGES / 4, || flood.run(2, Gfp::KERNEL))?;
    check_equal!(pager.broken.load(Ordering::Relaxed), 0, "pages that reached the pager broken");
    check_equal!(pager.disturbed.load(Ordering::Relaxed), 0, "times that interrupts were on with an object locked");
    let laundered = service().event_count(Event::VmLaundered) - before;
    check!(laundered >= PAGES / 2, "only {laundered} pages of {PAGES} were laundered");
    flood.end()
}

tests!("vm":
    four_times_the_memory_left_goes_through_a_pager_on_every_cpu,
);
