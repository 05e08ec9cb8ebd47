//! [`Stamps`]: what every call of an allocator takes by itself.
//!
//! A pass of its own runs a workload's loops over an allocator [watched](crate::watched) so. Two readings of the clock are in every figure; what they
//! take with nothing in between is measured as well ([`clock_cost`]).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint::black_box;

use crate::histogram::{Counts, Histogram};
use crate::platform::Platform;
use crate::watched::Watch;

/// Readings of the clock that [`clock_cost`] looks at.
const CLOCK_READINGS: u64 = 2001;

/// Times calls.
#[derive(Clone)]
pub(crate) struct Stamps<P> {
    platform: P,
    cpu: usize,
    /// Of each CPU.
    calls: Arc<Vec<Calls>>,
}

/// What the calls of one CPU took.
struct Calls {
    allocate: Counts,
    free: Counts,
}

impl<P: Platform> Stamps<P> {
    pub(crate) fn new(platform: P, cpus: usize) -> Self {
        let calls = (0..cpus).map(|_| Calls { allocate: Counts::new(), free: Counts::new() }).collect();
        Self { platform, cpu: 0, calls: Arc::new(calls) }
    }

    /// What allocations took, on all CPUs.
    pub(crate) fn allocations(&self) -> Histogram {
        self.sum(|calls| &calls.allocate)
    }

    /// What frees took, on all CPUs.
    pub(crate) fn frees(&self) -> Histogram {
        self.sum(|calls| &calls.free)
    }

    fn sum(&self, of: impl Fn(&Calls) -> &Counts) -> Histogram {
        let mut sum = Histogram::default();
        for calls in &*self.calls {
            sum.add(of(calls));
        }
        sum
    }

    #[inline(always)]
    fn timed<T>(&self, counts: impl Fn(&Calls) -> &Counts, call: impl FnOnce() -> T) -> T {
        let start = self.platform.ticks();
        let result = black_box(call());
        let end = self.platform.ticks();
        counts(&self.calls[self.cpu]).add(end.saturating_sub(start));
        result
    }
}

impl<P: Platform> Watch for Stamps<P> {
    #[inline(always)]
    fn allocation<T>(&self, call: impl FnOnce() -> T) -> T {
        self.timed(|calls| &calls.allocate, call)
    }

    #[inline(always)]
    fn release(&self, call: impl FnOnce()) {
        self.timed(|calls| &calls.free, call);
    }

    fn for_cpu(&self, cpu: usize) -> Self {
        Self { cpu, ..self.clone() }
    }
}

/// What [`Stamps`] measure of no call at all: the median.
pub(crate) fn clock_cost(platform: impl Platform) -> u64 {
    let counts = Counts::new();
    for _ in 0..CLOCK_READINGS {
        let start = platform.ticks();
        black_box(());
        let end = platform.ticks();
        counts.add(end.saturating_sub(start));
    }
    let mut histogram = Histogram::default();
    histogram.add(&counts);
    histogram.percentile(50, 100)
}
