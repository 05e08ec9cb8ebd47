//! Objects of a cache made for the case: pairs, batches, many in one call.
//!
//! Pairs and batches are [the loops of objects of any size](super::slab), over the cache.

use core::hint::black_box;

use super::{Body, slab};
use crate::case::{Extent, Variant, Workload};
use crate::measure::{Run, Samples};
use crate::places::Places;
use crate::platform::Platform;
use crate::subject::Subject;

/// Measures a case of one of these workloads.
pub(super) fn sample<P: Platform, S: Subject>(run: Run<P>, subject: &S) -> Option<Samples> {
    let Extent::Size(size) = run.case.extent else { return None };
    let objects = subject.objects(size)?;
    match (run.case.workload, run.case.variant) {
        (Workload::PairCache, _) => Some(slab::pair(run, &objects, size)),
        (Workload::BatchCache, _) => Some(slab::batch(run, &objects, size)),
        (Workload::Bulk, Some(Variant::Bulk(count))) => {
            Some(run.sample(&objects, move |subject, _| Bulk::new(subject, size, count)))
        }
        _ => None,
    }
}

/// [`Workload::Bulk`](crate::Workload::Bulk): the places of one call.
struct Bulk<S: Subject> {
    subject: S,
    size: usize,
    places: Places<S::Block>,
}

impl<S: Subject> Bulk<S> {
    fn new(subject: S, size: usize, count: usize) -> Self {
        Self { subject, size, places: Places::new(count) }
    }
}

impl<S: Subject> Body for Bulk<S> {
    fn granule(&self) -> u64 {
        self.places.len() as u64
    }

    #[inline(never)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let (subject, size) = (self.subject.clone(), black_box(self.size));
        let places = &mut self.places;
        let mut failures = 0;
        for _ in 0..operations / places.len() as u64 {
            if subject.allocate_bulk(size, places) {
                subject.free_bulk(black_box(&mut *places));
            } else {
                failures += places.len() as u64;
            }
        }
        failures
    }
}
