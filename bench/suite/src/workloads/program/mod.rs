//! Programs that papers on allocators compare, each by the shape of its allocations: sizes, lifetimes, and which CPU
//! frees what which other one allocated.
//!
//! A file for each family says at its head what the original does and how this differs. Common to all: an original runs
//! for a time or a number of rounds, these for samples of a number of operations; an original fills its memory, these
//! write a byte or two ([`Subject::touch`]); an original's own data structures come from the allocator it measures,
//! those here do not.

mod alloc_test;
mod handoff;
mod hoard;
mod larson;
mod mstress;
mod smartheap;

use crate::case::{Extent, Workload};
use crate::measure::{Run, Samples};
use crate::platform::Platform;
use crate::subject::Subject;

/// Measures a case of one of these workloads.
pub(super) fn sample<P: Platform, S: Subject>(run: Run<P>, subject: &S) -> Option<Samples> {
    match (run.case.workload, run.case.extent) {
        (Workload::Larson, Extent::Mixed) => Some(larson::sample(run, subject)),
        (Workload::Mstress, Extent::Mixed) => Some(mstress::sample(run, subject)),
        (Workload::Sh6bench, Extent::Mixed) => Some(smartheap::sample_sh6(run, subject)),
        (Workload::Sh8bench, Extent::Mixed) => Some(smartheap::sample_sh8(run, subject)),
        (Workload::AllocTest, Extent::Mixed) => Some(alloc_test::sample(run, subject)),
        (Workload::Xmalloc, Extent::Size(size)) => Some(handoff::sample(run, subject, size, 1)),
        (Workload::Producers, Extent::Size(size)) => {
            Some(handoff::sample(run, subject, size, run.case.cpus.saturating_sub(1).max(1)))
        }
        (Workload::Threadtest, Extent::Size(size)) => Some(hoard::sample_threadtest(run, subject, size)),
        (Workload::CacheScratch, Extent::Size(size)) => Some(hoard::sample_cache(run, subject, size, true)),
        (Workload::CacheThrash, Extent::Size(size)) => Some(hoard::sample_cache(run, subject, size, false)),
        _ => None,
    }
}

/// A fresh block, written to so often.
#[inline(always)]
fn allocate_and_touch<S: Subject>(subject: &S, size: usize, writes: u32) -> Option<S::Block> {
    let mut block = subject.allocate(size)?;
    subject.touch(&mut block, writes);
    Some(block)
}
