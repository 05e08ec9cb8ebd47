//! `threadtest`, `cache-scratch` and `cache-thrash`: what Hoard was shown with.
//!
//! Berger, `McKinley`, Blumofe and Wilson, "Hoard: A Scalable Memory Allocator for Multithreaded Applications", ASPLOS
//! 2000.
//!
//! `threadtest`: every thread allocates its share of 30,000 objects of 8 bytes, then frees them in the same order, over
//! and over. Here the share is of 8192 objects.
//!
//! `cache-thrash` (active false sharing): every thread allocates a small object, writes to it many times and frees it,
//! over and over; an allocator that gives parts of one cache line to several threads makes the writes slow.
//! `cache-scratch` (passive false sharing): the same, but first every thread frees an object it was given by the thread
//! that allocated those of all; an allocator that keeps these for the freeing threads makes them share lines from then
//! on.
//! The originals write to an object of one byte, about as often as there is time; here it is 8 bytes (the smallest that
//! can be checked well), and 100 writes to the first. The objects given are allocated anew for each sample.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint::black_box;

use super::allocate_and_touch;
use crate::dimensions::THREADTEST_OBJECTS as OBJECTS;
use crate::exchange::Swap;
use crate::measure::{Run, Samples};
use crate::platform::Platform;
use crate::subject::Subject;
use crate::workloads::Body;

/// Writes to an object.
const WRITES: u32 = 100;

pub(super) fn sample_threadtest<P: Platform, S: Subject>(run: Run<P>, subject: &S, size: usize) -> Samples {
    let objects = run.blocks(OBJECTS / run.case.cpus, size);
    run.sample(subject, move |subject, _| Threadtest { subject, size, blocks: (0..objects).map(|_| None).collect() })
}

struct Threadtest<S: Subject> {
    subject: S,
    size: usize,
    blocks: Vec<Option<S::Block>>,
}

impl<S: Subject> Body for Threadtest<S> {
    fn fixed_operations(&self) -> Option<u64> {
        Some(self.blocks.len() as u64)
    }

    #[inline(never)]
    fn run(&mut self, _phase: usize, _operations: u64) -> u64 {
        let (subject, size) = (self.subject.clone(), black_box(self.size));
        for place in &mut self.blocks {
            *place = subject.allocate(size);
        }
        let mut failures = 0;
        for place in &mut self.blocks {
            match place.take() {
                Some(block) => subject.free(block),
                None => failures += 1,
            }
        }
        failures
    }
}

/// With objects given beforehand, or without.
pub(super) fn sample_cache<P: Platform, S: Subject>(run: Run<P>, subject: &S, size: usize, given: bool) -> Samples {
    let (platform, cpus) = (run.platform, run.case.cpus);
    let given = given.then(|| Arc::new(Swap::new(cpus, cpus)));
    run.sample(subject, move |subject, cpu| {
        let body = Cache { subject, platform, size, cpu, given: given.clone() };
        body.give();
        body
    })
}

struct Cache<S: Subject, P> {
    subject: S,
    platform: P,
    size: usize,
    cpu: usize,
    /// An object for each CPU.
    given: Option<Arc<Swap<S::Block>>>,
}

impl<S: Subject, P: Platform> Cache<S, P> {
    /// CPU 0 allocates an object for each CPU, one after the other. All CPUs come here. Returns failures.
    fn give(&self) -> u64 {
        let Some(given) = &self.given else { return 0 };
        // All have freed what they were given last.
        given.meet(self.platform);
        let mut failures = 0;
        if self.cpu == 0 {
            for cpu in 0..given.len() {
                let mut block = self.subject.allocate(self.size);
                failures += u64::from(block.is_none());
                given.swap(cpu, &mut block);
            }
        }
        given.meet(self.platform);
        failures
    }
}

impl<S: Subject, P: Platform> Body for Cache<S, P> {
    #[inline(never)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let (subject, size) = (self.subject.clone(), black_box(self.size));
        if let Some(block) = self.given.as_ref().and_then(|given| given.take(self.cpu)) {
            subject.free(block);
        }
        let mut failures = 0;
        for _ in 0..operations {
            match allocate_and_touch(&subject, size, WRITES) {
                Some(block) => subject.free(black_box(block)),
                None => failures += 1,
            }
        }
        failures
    }

    fn after(&mut self, _phase: usize) -> u64 {
        self.give()
    }

    fn finish(&mut self) {
        if let Some(block) = self.given.as_ref().and_then(|given| given.take(self.cpu)) {
            self.subject.free(block);
        }
    }
}
