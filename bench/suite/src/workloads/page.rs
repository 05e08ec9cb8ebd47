//! Blocks of pages: pairs, groups, and pages that another CPU frees.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint::black_box;

use super::slab::ALLOCATE;
use super::{Body, places};
use crate::case::{Extent, Variant, Workload};
use crate::dimensions::BATCH;
use crate::exchange::Exchange;
use crate::measure::{Run, Samples};
use crate::platform::Platform;
use crate::subject::Subject;

/// Measures a case of one of these workloads.
pub(super) fn sample<P: Platform, S: Subject>(run: Run<P>, subject: &S) -> Option<Samples> {
    let Extent::Order(order) = run.case.extent else { return None };
    let slots = move |count| (0..run.blocks(count, 4096 << order)).map(|_| None);
    match (run.case.workload, run.case.variant) {
        (Workload::Page, _) => Some(run.sample(subject, move |subject, _| Page { subject, order })),
        (Workload::PageOutstanding | Workload::PageBulk, Some(Variant::Outstanding(count) | Variant::Bulk(count))) => {
            Some(run.sample(subject, move |subject, _| Group { subject, order, slots: slots(count).collect() }))
        }
        (Workload::PageCross, _) => {
            let platform = run.platform;
            let exchange = Arc::new(Exchange::new(run.case.cpus));
            Some(run.sample(subject, move |subject, cpu| Cross {
                group: Group { subject, order, slots: slots(BATCH).collect() },
                platform,
                cpu,
                exchange: exchange.clone(),
            }))
        }
        _ => None,
    }
}

/// [`Workload::Page`](crate::Workload::Page).
struct Page<S> {
    subject: S,
    order: u32,
}

impl<S: Subject> Body for Page<S> {
    #[inline(never)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let (subject, order) = (self.subject.clone(), black_box(self.order));
        let mut failures = 0;
        for _ in 0..operations {
            match subject.allocate_pages(order) {
                Some(block) => subject.free_pages(black_box(block), order),
                None => failures += 1,
            }
        }
        failures
    }
}

/// [`Workload::PageOutstanding`](crate::Workload::PageOutstanding) and
/// [`Workload::PageBulk`](crate::Workload::PageBulk): all slots filled, all slots emptied.
struct Group<S: Subject> {
    subject: S,
    order: u32,
    slots: Vec<Option<S::Block>>,
}

impl<S: Subject> Group<S> {
    #[inline(always)]
    fn allocate(&mut self, order: u32) {
        places::fill(&mut self.slots, || self.subject.allocate_pages(order));
    }

    /// Returns how many slots were empty.
    #[inline(always)]
    fn free(&mut self, order: u32) -> u64 {
        let mut empty = 0;
        for slot in &mut self.slots {
            match slot.take() {
                Some(block) => self.subject.free_pages(block, order),
                None => empty += 1,
            }
        }
        empty
    }
}

impl<S: Subject> Body for Group<S> {
    fn granule(&self) -> u64 {
        self.slots.len() as u64
    }

    #[inline(never)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let order = black_box(self.order);
        let mut failures = 0;
        for _ in 0..operations / self.slots.len() as u64 {
            self.allocate(order);
            failures += self.free(order);
        }
        failures
    }
}

/// [`Workload::PageCross`](crate::Workload::PageCross): a group that the next CPU frees.
struct Cross<S: Subject, P> {
    group: Group<S>,
    platform: P,
    cpu: usize,
    exchange: Arc<Exchange<Option<S::Block>>>,
}

impl<S: Subject, P: Platform> Body for Cross<S, P> {
    fn fixed_operations(&self) -> Option<u64> {
        Some(self.group.slots.len() as u64)
    }

    #[inline(never)]
    fn run(&mut self, phase: usize, _operations: u64) -> u64 {
        let order = black_box(self.group.order);
        if phase == ALLOCATE {
            self.group.allocate(order);
            return 0;
        }
        self.group.free(order)
    }

    fn after(&mut self, phase: usize) -> u64 {
        if phase == ALLOCATE {
            self.exchange.pass_on(self.platform, self.cpu, &mut self.group.slots);
        }
        0
    }
}
