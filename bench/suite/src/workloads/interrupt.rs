//! Allocations in interrupt handlers.

use core::hint::black_box;

use super::Body;
use crate::case::{Extent, Variant};
use crate::measure::{Run, Samples};
use crate::platform::Platform;
use crate::subject::Subject;

/// Pairs of a handler: so many that getting there and back hardly counts.
const PAIRS: u64 = 256;

/// Measures a case of this workload.
pub(super) fn sample<P: Platform, S: Subject>(run: Run<P>, subject: &S) -> Option<Samples> {
    let Extent::Size(size) = run.case.extent else { return None };
    let platform = run.platform;
    match run.case.variant? {
        Variant::InHandler => Some(run.sample(subject, move |subject, _| InHandler { subject, platform, size })),
        Variant::Interleaved => Some(run.sample(subject, move |subject, _| Interleaved { subject, platform, size })),
        _ => None,
    }
}

/// [`Workload::Interrupt`](crate::Workload::Interrupt): all is done by handlers.
struct InHandler<S, P> {
    subject: S,
    platform: P,
    size: usize,
}

impl<S: Subject, P: Platform> Body for InHandler<S, P> {
    #[inline(never)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let mut failures = 0;
        let mut left = operations;
        while left > 0 {
            let pairs = left.min(PAIRS);
            self.platform.interrupt(&mut || failures += pairs_in_handler(&self.subject, self.size, pairs));
            left -= pairs;
        }
        failures
    }
}

#[inline(always)]
fn pairs_in_handler(subject: &impl Subject, size: usize, pairs: u64) -> u64 {
    let (subject, size) = (subject.clone(), black_box(size));
    let mut failures = 0;
    for _ in 0..pairs {
        match subject.allocate_atomic(size) {
            Some(block) => subject.free(black_box(block)),
            None => failures += 1,
        }
    }
    failures
}

/// [`Workload::Interrupt`](crate::Workload::Interrupt): a pair of the thread, a pair of a handler, and so on.
struct Interleaved<S, P> {
    subject: S,
    platform: P,
    size: usize,
}

impl<S: Subject, P: Platform> Body for Interleaved<S, P> {
    fn granule(&self) -> u64 {
        2
    }

    #[inline(never)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let (subject, size) = (self.subject.clone(), black_box(self.size));
        let mut failures = 0;
        for _ in 0..operations / 2 {
            match subject.allocate(size) {
                Some(block) => subject.free(black_box(block)),
                None => failures += 1,
            }
            self.platform.interrupt(&mut || failures += pairs_in_handler(&subject, size, 1));
        }
        failures
    }
}
