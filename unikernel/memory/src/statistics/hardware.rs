//! [`Hardware`]: the nodes, their memory and how far they are from each other, as `numactl -H`.

use core::fmt;

use quarry_topology::{NodeId, Topology};

use super::Report;
use crate::frame::FRAME_BYTES;
use crate::machine::Machine;
use crate::service::Service;

/// `numactl -H`.
pub struct Hardware<'s, M: Machine> {
    /// The service that knows how much is free.
    pub service: &'s Service<M>,
    /// The machine it runs on.
    pub topology: &'s Topology,
}

impl<M: Machine> Hardware<'_, M> {
    fn free_bytes(&self, node: NodeId) -> u64 {
        let zones = self.service.zones().filter(|zone| zone.node == node);
        zones.map(|zone| u64::from(zone.available()) * FRAME_BYTES as u64).sum()
    }
}

impl<M: Machine> Report for Hardware<'_, M> {
    fn name(&self) -> &'static str {
        "numactl"
    }

    fn for_each_value(&self, each: &mut dyn FnMut(&dyn fmt::Display, &dyn fmt::Display, u64)) {
        let topology = self.topology;
        for node in topology.nodes() {
            each(&node, &"cpus", topology.cpus_of(node).count() as u64);
            each(&node, &"size", topology.memory_bytes(node) >> 20);
            each(&node, &"free", self.free_bytes(node) >> 20);
            for to in topology.nodes() {
                each(&node, &format_args!("distance to {to}"), topology.distance(node, to).into());
            }
        }
    }
}

impl<M: Machine> fmt::Display for Hardware<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.topology.hardware(|node| self.free_bytes(node)).fmt(f)
    }
}
