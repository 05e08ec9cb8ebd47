//! The timed loops: a [`Body`] for each workload, and how each is made for a case ([`sample`]).
//!
//! Each `run` is what stands between two readings of the clock: nothing is checked there, nothing counted that need not
//! be, and no function of the suite is called. What the loop itself costs is measured by running it over
//! [`Empty`](crate::Empty), and the same loops run over [`Checked`](crate::checked) for correctness and
//! [`Watched`](crate::watched) for latencies. A block passes through `black_box` between allocation and free: C compilers cannot see
//! through a call of `kmalloc`, and here an inlined pair might otherwise cancel out.

mod cache;
mod footprint;
mod interrupt;
mod llfree;
mod one_sided;
mod page;
mod places;
mod pressure;
mod program;
mod replay;
mod slab;

use alloc::sync::Arc;
use alloc::vec::Vec;

use quarry_trace::Trace;

use crate::case::{Case, Workload};
use crate::measure::{Run, Samples};
use crate::platform::Platform;
use crate::series::Series;
use crate::settings::Settings;
use crate::subject::Subject;

/// The work of one CPU.
pub(crate) trait Body {
    /// How many operations a sample always has, for the workloads whose samples cannot be of any length.
    fn fixed_operations(&self) -> Option<u64> {
        None
    }

    /// Operations come in multiples of this.
    fn granule(&self) -> u64 {
        1
    }

    /// Timed. Does `operations` operations of a phase; returns how many allocations failed, as far as it knows.
    fn run(&mut self, phase: usize, operations: u64) -> u64;

    /// Not timed: after `phase` and before the next one. All CPUs of the case come here. Returns failures found now.
    fn after(&mut self, _phase: usize) -> u64 {
        0
    }

    /// Not timed: a look at what the workload is about, on CPU 0 after each sample, when all CPUs have done so many
    /// operations together.
    fn watch(&mut self, _operations: u64) {}

    /// What came of the looks.
    fn watched(&mut self) -> Vec<Series> {
        Vec::new()
    }

    /// Gives back what is still held.
    fn finish(&mut self) {}
}

/// Measures the case of `run` over `subject`. `None` when it cannot be: an inlined size without code, no cache.
/// `trace` is what [`trace_of`] says.
pub(crate) fn sample<P: Platform, S: Subject>(run: Run<P>, subject: &S, trace: &Trace) -> Option<Samples> {
    match run.case.workload {
        Workload::Pair
        | Workload::PairInlined
        | Workload::PairConstant
        | Workload::PairZeroed
        | Workload::Batch
        | Workload::BatchLifo
        | Workload::Remote
        | Workload::Mix
        | Workload::MixLarge
        | Workload::Node => slab::sample(run, subject),
        Workload::PairCache | Workload::BatchCache | Workload::Bulk => cache::sample(run, subject),
        Workload::RemoteZero | Workload::OneAllocates => one_sided::sample(run, subject),
        Workload::Interrupt => interrupt::sample(run, subject),
        Workload::Page | Workload::PageOutstanding | Workload::PageBulk | Workload::PageCross => {
            page::sample(run, subject)
        }
        Workload::LlfreeBulk | Workload::LlfreeRand | Workload::LlfreeRepeat | Workload::LlfreeFrag => {
            llfree::sample(run, subject)
        }
        Workload::Larson
        | Workload::Xmalloc
        | Workload::Producers
        | Workload::Mstress
        | Workload::Sh6bench
        | Workload::Sh8bench
        | Workload::Threadtest
        | Workload::CacheScratch
        | Workload::CacheThrash
        | Workload::AllocTest => program::sample(run, subject),
        Workload::Replay => Some(replay::sample(run, subject, trace)),
        Workload::Pressure | Workload::Fragmentation => pressure::sample(run, subject),
        Workload::Footprint => footprint::sample(run, subject),
    }
}

/// The trace that cases replay: the one of the settings, or else the small one there always is. Empty where none does.
pub(crate) fn trace_of(settings: &Settings, cases: &[Case]) -> Arc<Trace> {
    if !cases.iter().any(|case| case.workload == Workload::Replay) {
        return Arc::default();
    }
    settings.trace.clone().unwrap_or_else(|| Arc::new(replay::sample_trace()))
}
