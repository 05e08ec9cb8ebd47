//! Blocks of pages.

use core::hint::black_box;

use super::Body;
use crate::case::Extent;
use crate::measure::{Run, Samples};
use crate::platform::Platform;
use crate::subject::Subject;

/// Measures a case of one of these workloads.
pub(super) fn sample<P: Platform, S: Subject>(run: Run<P>, subject: &S) -> Option<Samples> {
    let Extent::Order(order) = run.case.extent else { return None };
    Some(run.sample(subject, move |subject, _| Page { subject, order }))
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
