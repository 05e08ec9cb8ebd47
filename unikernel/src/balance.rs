//! The balancing threads: one for each node with memory, which keep it above its low watermark. Linux's `kswapd`.
//!
//! Used by the boot. What such a thread does is the memory service's; here it gets a CPU: one of its node, or, where
//! that has none, of the nearest node that has.

use alloc::format;

use quarry_memory::{CpuId, NodeId};

use crate::memory::service;
use crate::{cpus, thread, topology};

/// Starts them. Called once, when all CPUs run and before the image's `main`.
pub(crate) fn start() {
    for node in topology().nodes().filter(|&node| topology().has_memory(node)) {
        // Thread names are static, and so is this thread.
        let name = format!("kswapd{}", node.0).leak();
        if let Err(error) = thread::spawn_on(nearest_cpu(node), name, move || balance(node)) {
            // Allocations then reclaim for themselves.
            log::warn!("{node} will not be balanced: {error}");
        }
    }
}

fn balance(node: NodeId) {
    loop {
        service().wait_for_imbalance(node);
        service().balance(node);
    }
}

/// Of the CPUs that run, the first that is nearest to a node.
fn nearest_cpu(node: NodeId) -> CpuId {
    let distance = |cpu: &CpuId| topology().distance(service().cpu_to_node(*cpu), node);
    cpus::online().min_by_key(distance).expect("the calling CPU runs")
}
