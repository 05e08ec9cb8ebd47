//! [`Node`]: the part of the service that lives on one NUMA node: its zones, its depots, and whom it asks when it is
//! short.
//!
//! Used by every layer above zones. A node's `Node` lies in the node's own memory, so CPUs that work locally share no
//! cache line with others. Nodes without memory have none; [`Nodes`] says which node serves them.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering};

use quarry_topology::{MAX_NODES, NodeId, Topology};

use crate::class::CACHES;
use crate::depot::Depot;
use crate::frame::ZoneId;
use crate::mobility::Pageblocks;
use crate::zone::{Zone, ZoneKind};

/// The service's state on one node.
#[repr(align(64))]
pub(crate) struct Node {
    pub(crate) zones: [Zone; ZoneKind::COUNT],
    /// Depots of the kmalloc family's caches, by id.
    pub(crate) depots: [Depot; CACHES],
    /// Nodes with memory, nearest first, this one leading; the first `reachable` entries.
    order: [NodeId; MAX_NODES],
    reachable: usize,
    pub(crate) counters: NumaCounters,
}

/// Page blocks by whether they came from where they were wanted; Linux's `numastat`. Counted at slow paths, in blocks.
#[derive(Default)]
pub(crate) struct NumaCounters {
    /// Wanted here and got here.
    pub(crate) hit: AtomicU64,
    /// Got here though wanted elsewhere.
    pub(crate) miss: AtomicU64,
    /// Wanted here and got elsewhere.
    pub(crate) foreign: AtomicU64,
}

impl Node {
    pub(crate) fn new(
        id: NodeId,
        topology: &Topology,
        has_memory: impl Fn(NodeId) -> bool,
        pageblocks: Pageblocks,
    ) -> Self {
        let mut order = [NodeId(0); MAX_NODES];
        let mut reachable = 0;
        for node in topology.nodes().filter(|&node| has_memory(node)) {
            order[reachable] = node;
            reachable += 1;
        }
        let count = topology.node_count();
        // Among equally near nodes each node starts with its successor, so that the second choice is not everyone's.
        order[..reachable].sort_unstable_by_key(|&other| {
            let rotation = (other.index() + count - id.index()) % count;
            (other != id, topology.distance(id, other), rotation)
        });
        Self {
            zones: ZoneKind::ALL.map(|kind| Zone::new(ZoneId::new(id, kind), pageblocks)),
            depots: [const { Depot::new() }; CACHES],
            order,
            reachable,
            counters: NumaCounters::default(),
        }
    }

    /// Nodes with memory, nearest first.
    pub(crate) fn fallback_order(&self) -> &[NodeId] {
        &self.order[..self.reachable]
    }

    pub(crate) fn zone(&self, kind: ZoneKind) -> &Zone {
        &self.zones[kind as usize]
    }

    /// The highest zone that has memory.
    pub(crate) fn highest_zone(&self) -> &Zone {
        let managed = |zone: &&Zone| zone.managed.load(Ordering::Relaxed) > 0;
        self.zones.iter().rev().find(managed).unwrap_or(&self.zones[ZoneKind::Normal as usize])
    }
}

/// All nodes. Filled at start, before any other CPU runs; the `Release` stores there pair with the `Acquire` loads here
/// for a host whose threads learn of the service through nothing else.
pub(crate) struct Nodes {
    count: AtomicU8,
    states: [AtomicPtr<Node>; MAX_NODES],
    /// The nearest node with memory, by node.
    local: [AtomicU8; MAX_NODES],
}

impl Nodes {
    pub(crate) const fn new() -> Self {
        Self {
            count: AtomicU8::new(0),
            states: [const { AtomicPtr::new(ptr::null_mut()) }; MAX_NODES],
            local: [const { AtomicU8::new(0) }; MAX_NODES],
        }
    }

    /// How many nodes the topology has, with memory or without; 0 before the start.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire) as usize
    }

    pub(crate) fn set_count(&self, count: usize) {
        self.count.store(count as u8, Ordering::Release);
    }

    /// A node's state; `None` for one without memory or one that does not exist.
    #[inline]
    pub(crate) fn get(&self, node: NodeId) -> Option<&Node> {
        let pointer = self.states.get(node.index())?.load(Ordering::Acquire);
        // SAFETY: the pointer is null or was stored by `install`, which is given a node that lives as long as the
        // service.
        unsafe { pointer.as_ref() }
    }

    /// # Safety
    ///
    /// `state` points to an initialised `Node` that is never moved or freed while the service lives.
    pub(crate) unsafe fn install(&self, node: NodeId, state: *mut Node) {
        self.states[node.index()].store(state, Ordering::Release);
    }

    /// The nearest node with memory.
    #[inline]
    pub(crate) fn local(&self, node: NodeId) -> NodeId {
        NodeId(self.local.get(node.index()).map_or(0, |local| local.load(Ordering::Relaxed)))
    }

    pub(crate) fn set_local(&self, node: NodeId, local: NodeId) {
        self.local[node.index()].store(local.0, Ordering::Relaxed);
    }

    /// The nodes that have memory.
    pub(crate) fn with_memory(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        (0..self.count()).map(|node| NodeId(node as u8)).filter_map(|node| Some((node, self.get(node)?)))
    }

    /// The zone with that id; `None` when its node has no memory.
    pub(crate) fn zone(&self, zone: ZoneId) -> Option<&Zone> {
        Some(self.get(zone.node())?.zone(zone.kind()))
    }
}
