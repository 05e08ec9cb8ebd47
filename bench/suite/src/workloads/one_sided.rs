//! Batches that one CPU frees, or allocates, for all: `remote-zero` and `one-allocates`.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint::black_box;

use super::slab::ALLOCATE;
use super::{Body, places};
use crate::case::{Extent, Workload};
use crate::dimensions::BATCH;
use crate::exchange::Exchange;
use crate::measure::{Run, Samples};
use crate::platform::Platform;
use crate::subject::Subject;

/// Measures a case of one of these workloads.
pub(super) fn sample<P: Platform, S: Subject>(run: Run<P>, subject: &S) -> Option<Samples> {
    let Extent::Size(size) = run.case.extent else { return None };
    let (platform, cpus) = (run.platform, run.case.cpus);
    let length = run.blocks(BATCH, size);
    let exchange = Arc::new(Exchange::new(cpus));
    let role = match run.case.workload {
        Workload::RemoteZero => Role::Frees,
        Workload::OneAllocates => Role::Allocates,
        _ => return None,
    };
    Some(run.sample(subject, move |subject, cpu| {
        let list = |is_here| (0..if is_here { length } else { 0 }).map(|_| None).collect();
        let lists_of_zero = if cpu == 0 { cpus } else { 0 };
        OneRoled {
            subject,
            platform,
            size,
            cpu,
            length,
            role,
            own: list(role == Role::Frees),
            all: (0..lists_of_zero).map(|_| list(role == Role::Allocates)).collect(),
            exchange: exchange.clone(),
        }
    }))
}

/// What CPU 0 does for all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Allocates,
    Frees,
}

/// [`Workload::RemoteZero`](crate::Workload::RemoteZero) and
/// [`Workload::OneAllocates`](crate::Workload::OneAllocates).
///
/// There is a list of blocks for each CPU. It is with that CPU, in `own`, or with CPU 0, in `all`, and whoever has
/// lists fills or empties them.
struct OneRoled<S: Subject, P> {
    subject: S,
    platform: P,
    size: usize,
    cpu: usize,
    length: usize,
    role: Role,
    own: Vec<Option<S::Block>>,
    all: Vec<Vec<Option<S::Block>>>,
    exchange: Arc<Exchange<Option<S::Block>>>,
}

impl<S: Subject, P> OneRoled<S, P> {
    #[inline(never)]
    fn allocate(&mut self) {
        let (subject, size) = (self.subject.clone(), black_box(self.size));
        for list in self.all.iter_mut().chain([&mut self.own]) {
            places::fill(list, || subject.allocate(size));
        }
    }

    #[inline(never)]
    fn free(&mut self) {
        let subject = self.subject.clone();
        for list in self.all.iter_mut().chain([&mut self.own]) {
            places::empty(list, |block| subject.free(block));
        }
    }
}

impl<S: Subject, P: Platform> Body for OneRoled<S, P> {
    fn fixed_operations(&self) -> Option<u64> {
        Some(self.length as u64)
    }

    #[inline(always)]
    fn run(&mut self, phase: usize, _operations: u64) -> u64 {
        if phase == ALLOCATE {
            self.allocate();
        } else {
            self.free();
        }
        0
    }

    fn after(&mut self, phase: usize) -> u64 {
        let slots = self.all.iter().flatten().chain(&self.own);
        let failures = if phase == ALLOCATE { slots.filter(|slot| slot.is_none()).count() } else { 0 };
        // What CPU 0 has allocated is now everyone's to free, and the other way round.
        if (phase == ALLOCATE) == (self.role == Role::Allocates) {
            self.exchange.scatter(self.platform, self.cpu, &mut self.own, &mut self.all);
        } else {
            self.exchange.gather(self.platform, self.cpu, &mut self.own, &mut self.all);
        }
        failures as u64
    }
}
