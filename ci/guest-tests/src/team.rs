//! Work on several CPUs at once, and waiting for it.
//!
//! Used by the tests. Nothing here measures time but [`eventually`], which gives up so that a hang becomes a message.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;

use quarry_unikernel::memory::service;
use quarry_unikernel::memory_service::CpuId;
use quarry_unikernel::thread::{self, JoinHandle};
use quarry_unikernel::{cpus, time};

use crate::harness::Outcome;

/// How long [`eventually`] waits: far longer than anything takes on a busy host.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts a thread that cannot fail to start.
pub(crate) fn spawn<T: Send + 'static>(cpu: CpuId, body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    thread::spawn_on(cpu, "test", body).unwrap_or_else(|error| panic!("a thread of a test cannot start: {error}"))
}

/// Runs `body` on one CPU.
pub(crate) fn on_cpu<T: Send + 'static>(cpu: CpuId, body: impl FnOnce() -> T + Send + 'static) -> T {
    spawn(cpu, body).join()
}

/// Runs `body` on every CPU at once; returns what came of it in the CPUs' order.
pub(crate) fn on_every_cpu<T: Send + 'static>(body: impl Fn(CpuId) -> T + Send + Sync + 'static) -> Vec<T> {
    let body = Arc::new(body);
    let start = |cpu| {
        let body = Arc::clone(&body);
        spawn(cpu, move || body(cpu))
    };
    let threads: Vec<_> = cpus::online().map(start).collect();
    threads.into_iter().map(JoinHandle::join).collect()
}

/// As [`on_every_cpu`]; fails where any CPU failed, and says which.
pub(crate) fn check_on_every_cpu(body: impl Fn(CpuId) -> Outcome + Send + Sync + 'static) -> Outcome {
    on_every_cpu(move |cpu| body(cpu).map_err(|message| format!("on {cpu}: {message}"))).into_iter().collect()
}

/// The CPU a test takes when it wants one that is not the first; the first where there is no other.
pub(crate) fn another_cpu() -> CpuId {
    cpus::online().last().unwrap_or(CpuId(0))
}

/// Lets other threads run until `condition` is true.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) -> Outcome {
    let end = time::uptime() + PATIENCE;
    while !condition() {
        if time::uptime() > end {
            return Err(format!("in vain waited until {what}"));
        }
        thread::yield_now();
    }
    Ok(())
}

/// Holds a number of threads until all have come. Once.
pub(crate) struct Gate {
    missing: AtomicUsize,
}

impl Gate {
    pub(crate) const fn new(threads: usize) -> Self {
        Self { missing: AtomicUsize::new(threads) }
    }

    pub(crate) fn pass(&self) {
        // Release and Acquire: who has passed sees what everybody wrote before.
        self.missing.fetch_sub(1, Ordering::AcqRel);
        while self.missing.load(Ordering::Acquire) > 0 {
            thread::yield_now();
        }
    }
}

/// Bytes in use, by kind. Exact while only the asking thread runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InUse {
    pub(crate) objects: u64,
    pub(crate) large: u64,
    pub(crate) pages: u64,
    /// What memory pools keep back.
    pub(crate) pool: u64,
}

impl InUse {
    pub(crate) fn now() -> Self {
        let statistics = service().statistics();
        Self {
            objects: statistics.slab_in_use,
            large: statistics.large,
            pages: statistics.pages_in_use,
            pool: statistics.pool,
        }
    }
}

/// Runs a test that must give back all it takes: twice, for the first time some things are made that stay (stacks).
pub(crate) fn without_loss(body: impl Fn() -> Outcome) -> Outcome {
    body()?;
    let before = InUse::now();
    body()?;
    let after = InUse::now();
    if before == after { Ok(()) } else { Err(format!("in use was {before:?}, then {after:?}")) }
}
