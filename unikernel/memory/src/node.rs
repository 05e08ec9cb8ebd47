//! [`Node`]: the part of the service that lives on one NUMA node: its zones and its depots; and [`Nodes`],
//! all of them, with whom each asks when it is short.
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
use crate::registry::DepotTable;
use crate::vm::NodeVm;
use crate::zeroed::Stock;
use crate::zone::{Zone, ZoneKind};

/// The service's state on one node.
#[repr(align(64))]
pub(crate) struct Node {
    pub(crate) zones: [Zone; ZoneKind::COUNT],
    /// Depots of the kmalloc family's caches, by id.
    pub(crate) depots: [Depot; CACHES],
    pub(crate) dynamic_depots: DepotTable,
    pub(crate) counters: NumaCounters,
    pub(crate) zeroed: Stock,
    pub(crate) vm: NodeVm,
    /// What the stacks of all depots are made of; see [`chunks`](crate::chunks).
    pub(crate) stack_chunks: Depot,
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
    /// Got here because it was this node's turn.
    pub(crate) interleave: AtomicU64,
    /// Got here by a CPU whose nearest memory this is.
    pub(crate) local: AtomicU64,
    /// Got here by a CPU of another node.
    pub(crate) other: AtomicU64,
}

impl NumaCounters {
    pub(crate) fn add(counter: &AtomicU64, blocks: u64) {
        counter.fetch_add(blocks, Ordering::Relaxed);
    }
}

impl Node {
    pub(crate) fn new(id: NodeId, pageblocks: Pageblocks) -> Self {
        Self {
            zones: ZoneKind::ALL.map(|kind| Zone::new(ZoneId::new(id, kind), pageblocks)),
            depots: [const { Depot::new() }; CACHES],
            dynamic_depots: DepotTable::new(),
            counters: NumaCounters::default(),
            zeroed: Stock::new(),
            vm: NodeVm::new(),
            stack_chunks: Depot::new(),
        }
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
    /// For each node, with memory or without, the nodes with memory, nearest first.
    fallback: [[AtomicU8; MAX_NODES]; MAX_NODES],
    /// How many nodes have memory.
    reachable: AtomicU8,
    /// Those of them that are the nearest of no CPU, by bit.
    nobodys: AtomicU64,
}

impl Nodes {
    pub(crate) const fn new() -> Self {
        Self {
            count: AtomicU8::new(0),
            states: [const { AtomicPtr::new(ptr::null_mut()) }; MAX_NODES],
            fallback: [const { [const { AtomicU8::new(0) }; MAX_NODES] }; MAX_NODES],
            reachable: AtomicU8::new(0),
            nobodys: AtomicU64::new(0),
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

    /// Notes whom each node asks when it is short, nearest first, itself leading where it has memory. Among equally near
    /// nodes each starts with its successor, so that the second choice is not everyone's.
    pub(crate) fn set_fallback(&self, topology: &Topology, has_memory: impl Fn(NodeId) -> bool) {
        let count = topology.node_count();
        for node in topology.nodes() {
            let nearness = |other: NodeId| {
                let rotation = (other.index() + count - node.index()) % count;
                (other != node, topology.distance(node, other), rotation)
            };
            let mut order = [NodeId(0); MAX_NODES];
            let mut reachable = 0;
            // Each to its place. The standard library's sorting would be two percent of an image, for this alone.
            for other in topology.nodes().filter(|&other| has_memory(other)) {
                let place = order[..reachable].partition_point(|&nearer| nearness(nearer) < nearness(other));
                order.copy_within(place..reachable, place + 1);
                order[place] = other;
                reachable += 1;
            }
            for (cell, other) in self.fallback[node.index()].iter().zip(&order[..reachable]) {
                cell.store(other.0, Ordering::Relaxed);
            }
            self.reachable.store(reachable as u8, Ordering::Relaxed);
        }
        let bit = |node: NodeId| 1u64 << node.index();
        let all = topology.nodes().filter(|&node| has_memory(node)).fold(0, |bits, node| bits | bit(node));
        let with_cpus = topology.nodes().filter(|&node| topology.has_cpus(node));
        let nearest = with_cpus.fold(0, |bits, node| bits | bit(self.local(node)));
        self.nobodys.store(all & !nearest, Ordering::Relaxed);
    }

    /// Whether a node with memory is the nearest of no CPU.
    pub(crate) fn is_nobodys(&self, node: NodeId) -> bool {
        self.nobodys.load(Ordering::Relaxed) >> node.index() & 1 == 1
    }

    /// The nodes with memory, nearest to `node` first, itself leading where it has memory; none for a node that does
    /// not exist.
    pub(crate) fn fallback_order(&self, node: NodeId) -> impl Iterator<Item = NodeId> + Clone {
        let reachable = usize::from(self.reachable.load(Ordering::Relaxed));
        let order = self.fallback.get(node.index()).map_or(&[][..], |order| &order[..reachable]);
        order.iter().map(|node| NodeId(node.load(Ordering::Relaxed)))
    }

    /// The nearest node with memory.
    #[inline]
    pub(crate) fn local(&self, node: NodeId) -> NodeId {
        NodeId(self.fallback.get(node.index()).map_or(0, |order| order[0].load(Ordering::Relaxed)))
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
