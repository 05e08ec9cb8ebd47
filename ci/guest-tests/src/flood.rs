//! [`Flood`]: more data than memory, in pages of VM objects that every CPU writes and every other CPU checks.
//!
//! Used by the tests of objects with a pager, whatever that pager is.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use quarry_suite::random::Random;
use quarry_unikernel::memory::{Guest, service};
use quarry_unikernel::memory_service::vm::{BusyPage, Pager, VmObject};
use quarry_unikernel::memory_service::{Gfp, Order, Pfn};
use quarry_unikernel::thread::JoinHandle;
use quarry_unikernel::{cpus, topology};

use crate::check;
use crate::harness::Outcome;
use crate::hoard::{Hoard, nodes_with_memory};
use crate::team::spawn;
use crate::vm::{has_label, write_label};

/// Threads of a CPU at once, so that some work while others wait for the pager.
const WORKERS: usize = 4;

/// Pages side by side that one thread works with, one after the other.
const RUN: u64 = 16;

/// Objects, one for each CPU, whose pages share one numbering: each has a share of it, and its pages those indices.
pub(crate) struct Flood {
    objects: Vec<VmObject<Guest>>,
    pages: u64,
    seed: u64,
}

impl Flood {
    /// Of so many pages, or a few less; in what order they are written and read depends on the seed.
    pub(crate) fn new(pager: &'static dyn Pager<Guest>, most: u64, seed: u64) -> Result<Arc<Self>, String> {
        let objects: Result<Vec<_>, _> = cpus::online().map(|_| service().vm_object(Some(pager))).collect();
        let objects = objects.map_err(|error| format!("{error}"))?;
        let runs_of_each = most / RUN / objects.len() as u64;
        check!(runs_of_each >= WORKERS as u64, "{most} pages are too few for {} CPUs", objects.len());
        let count = runs_of_each * RUN * objects.len() as u64;
        Ok(Arc::new(Self { objects, pages: count, seed }))
    }

    /// Has all CPUs dirty all pages, then check them all, as often as said: all times but the last with about half of them
    /// written anew. Waits for memory as the flags say.
    pub(crate) fn run(self: &Arc<Self>, checks: u64, gfp: Gfp) -> Outcome {
        for pass in 0..=checks {
            self.pass(pass, pass == checks, gfp)?;
        }
        Ok(())
    }

    fn pass(self: &Arc<Self>, pass: u64, is_last: bool, gfp: Gfp) -> Outcome {
        let start = |worker| {
            let flood = Arc::clone(self);
            let cpu = cpus::online().nth(worker / WORKERS).expect("there are so many for each CPU");
            spawn(cpu, move || flood.work(worker as u64, pass, is_last, gfp))
        };
        let threads: Vec<_> = (0..self.objects.len() * WORKERS).map(start).collect();
        // All of them, before the first that failed is told.
        let outcomes: Vec<Outcome> = threads.into_iter().map(JoinHandle::join).collect();
        outcomes.into_iter().collect()
    }

    /// What one thread does in a pass.
    fn work(&self, worker: u64, pass: u64, is_last: bool, gfp: Gfp) -> Outcome {
        for index in self.indices(worker, pass) {
            let mut page = self.fault(index, gfp)?;
            let (before, after) = (self.label(index, pass.saturating_sub(1)), self.label(index, pass));
            if pass > 0 {
                check!(has_label(&page, before), "page {index} is not as it was written before pass {pass}");
            }
            if pass == 0 || !is_last && after != before {
                write_label(&mut page, after);
            }
        }
        Ok(())
    }

    /// Whether a page is in memory, and its pager does not have it as it is.
    pub(crate) fn is_dirty(&self, index: u64) -> bool {
        self.object(index).lock().page(index).is_some_and(|page| page.is_dirty())
    }

    /// Ends the objects.
    pub(crate) fn end(self: Arc<Self>) -> Outcome {
        drop(Arc::into_inner(self).ok_or("a thread has the objects still")?);
        service().validate().map_err(|broken| format!("{broken}"))
    }

    /// What a page's words say after a pass: its number, and how often chance had it written anew.
    fn label(&self, index: u64, pass: u64) -> u64 {
        let writings = (1..=pass).filter(|pass| Random::new(self.seed ^ pass << 32, index).next_u64() & 1 == 1).count();
        1 + index + self.pages * writings as u64
    }

    /// The pages of a thread in a pass, which are another CPU's in the next: part of an object's, runs in an order that
    /// leaps. Nothing is allocated for it: memory is short.
    fn indices(&self, worker: u64, pass: u64) -> impl Iterator<Item = u64> + use<> {
        let (objects, workers) = (self.objects.len() as u64, WORKERS as u64);
        let object = (worker / workers + pass) % objects;
        let of_each = self.pages / RUN / objects;
        let first = object * of_each + worker % workers;
        let count = (of_each - worker % workers).div_ceil(workers);
        let mut random = Random::new(self.seed ^ pass << 32, worker);
        let start = random.below(count);
        // A step that shares no divisor with the count, so that each comes once.
        let mut step = 1 + random.below(count);
        while greatest_common_divisor(step, count) > 1 {
            step += 1;
        }
        let runs = (0..count).map(move |at| first + (start + at * step) % count * workers);
        runs.flat_map(|run| run * RUN..(run + 1) * RUN)
    }

    fn fault(&self, index: u64, gfp: Gfp) -> Result<BusyPage<'_, Guest>, String> {
        self.object(index).fault_with(index, gfp).map_err(|error| format!("page {index}: {error}"))
    }

    /// Whose page that is.
    fn object(&self, index: u64) -> &VmObject<Guest> {
        &self.objects[(index / (self.pages / self.objects.len() as u64)) as usize]
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// Pages of memory there are.
pub(crate) fn pages_of_ram() -> u64 {
    nodes_with_memory().map(|node| topology().memory_bytes(node) / 4096).sum()
}

/// Takes all memory but so many pages; gives back what is taken.
pub(crate) fn with_little_memory(pages: u64, body: impl FnOnce() -> Outcome) -> Outcome {
    let order = Order::new(6).expect("it exists");
    let blocks = pages / u64::from(order.frames());
    let ballast: Vec<Pfn> = (0..blocks).filter_map(|_| service().alloc_pages(Gfp::KERNEL, order)).collect();
    let hoards: Vec<_> = nodes_with_memory().map(|node| Hoard::of_pages(node, Gfp::NOWAIT | Gfp::NOWARN)).collect();
    for block in ballast {
        service().__free_pages(block, order);
    }
    let outcome = body();
    drop(hoards);
    outcome
}
