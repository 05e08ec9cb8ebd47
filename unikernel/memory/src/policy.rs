//! [`Policy`]: from which nodes a thread's `GFP_USER` allocations come.
//!
//! Users: threads, through [`Service::set_mempolicy`](crate::Service::set_mempolicy); the page and slab layers, which
//! ask on their slow paths where to look. Source: `set_mempolicy(2)`, `numactl(8)`.
//!
//! A policy is a wall: with [`Policy::Bind`] an allocation that its nodes cannot serve fails (or waits), whatever other
//! nodes have. It acts on pages and on refills of slab caches; an object that lies in this CPU's magazine already is
//! handed out wherever it is from.

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use quarry_topology::{MAX_NODES, NodeId};

use crate::task::Task;

/// A set of nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeMask(pub u64);

const _: () = assert!(MAX_NODES <= u64::BITS as usize, "a node is a bit of a mask");

impl NodeMask {
    /// Every node.
    pub const ALL: Self = Self(u64::MAX);

    /// One node alone.
    pub const fn only(node: NodeId) -> Self {
        Self(if node.index() < MAX_NODES { 1 << node.0 } else { 0 })
    }

    /// This set and one node more.
    #[must_use]
    pub const fn with(self, node: NodeId) -> Self {
        Self(self.0 | Self::only(node).0)
    }

    /// Whether the node is in it.
    pub const fn contains(self, node: NodeId) -> bool {
        self.0 & Self::only(node).0 != 0
    }

    /// Whether no node is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its nodes, ascending.
    pub fn nodes(self) -> impl Iterator<Item = NodeId> {
        (0..MAX_NODES as u8).map(NodeId).filter(move |&node| self.contains(node))
    }
}

impl fmt::Display for NodeMask {
    /// As Linux writes a node list: `0-1,3`; `none` for the empty set and `all` for the full one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self(0) => return f.write_str("none"),
            Self::ALL => return f.write_str("all"),
            Self(_) => {}
        }
        let (mut node, mut first) = (0, true);
        while node < MAX_NODES as u8 {
            if !self.contains(NodeId(node)) {
                node += 1;
                continue;
            }
            let start = node;
            while node < MAX_NODES as u8 && self.contains(NodeId(node)) {
                node += 1;
            }
            write!(f, "{}{start}", if first { "" } else { "," })?;
            if node - start > 1 {
                write!(f, "-{}", node - 1)?;
            }
            first = false;
        }
        Ok(())
    }
}

/// Where a thread's `GFP_USER` allocations come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// From the CPU's own node, then the nearest. Linux's `MPOL_LOCAL`.
    #[default]
    Local,
    /// From this node, then those nearest to it. Linux's `MPOL_PREFERRED`.
    Preferred(NodeId),
    /// From these nodes and no other, the nearest first. Linux's `MPOL_BIND`.
    Bind(NodeMask),
    /// From these nodes in turn, then from any. Linux's `MPOL_INTERLEAVE`.
    Interleave(NodeMask),
}

/// Why a policy cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyError {
    /// None of its nodes has memory.
    NoMemory(NodeMask),
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::NoMemory(nodes) = self;
        write!(f, "no node of the memory policy has memory (nodes: {nodes})")
    }
}

impl core::error::Error for PolicyError {}

impl fmt::Display for Policy {
    /// As `numactl --show` names it, with its nodes: `bind:0-1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Preferred(node) => write!(f, "preferred:{}", node.0),
            Self::Bind(nodes) => write!(f, "bind:{nodes}"),
            Self::Interleave(nodes) => write!(f, "interleave:{nodes}"),
        }
    }
}

impl Policy {
    /// The nodes it names; all for [`Policy::Local`].
    pub const fn nodes(self) -> NodeMask {
        match self {
            Self::Local => NodeMask::ALL,
            Self::Preferred(node) => NodeMask::only(node),
            Self::Bind(nodes) | Self::Interleave(nodes) => nodes,
        }
    }

    pub(crate) fn check(self, has_memory: impl Fn(NodeId) -> bool) -> Result<(), PolicyError> {
        let nodes = self.nodes();
        let usable = nodes.nodes().any(has_memory) || self == Self::Local;
        if usable { Ok(()) } else { Err(PolicyError::NoMemory(nodes)) }
    }

    pub(crate) fn store(self, task: &Task) {
        let kind = match self {
            Self::Local => 0,
            Self::Preferred(_) => 1,
            Self::Bind(_) => 2,
            Self::Interleave(_) => 3,
        };
        task.policy_nodes.store(self.nodes().0, Relaxed);
        task.policy_kind.store(kind, Relaxed);
    }

    pub(crate) fn load(task: &Task) -> Self {
        let nodes = NodeMask(task.policy_nodes.load(Relaxed));
        match task.policy_kind.load(Relaxed) {
            1 => Self::Preferred(NodeId(nodes.0.trailing_zeros() as u8)),
            2 => Self::Bind(nodes),
            3 => Self::Interleave(nodes),
            _ => Self::Local,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_node_list_reads_as_linux_writes_it() {
        let nodes = |list: &[u8]| list.iter().fold(NodeMask::default(), |mask, &node| mask.with(NodeId(node)));
        assert_eq!(nodes(&[0, 1, 3]).to_string(), "0-1,3");
        assert_eq!(nodes(&[2]).to_string(), "2");
        assert_eq!(nodes(&[62, 63]).to_string(), "62-63");
        assert_eq!(NodeMask::default().to_string(), "none");
        assert_eq!(NodeMask::ALL.to_string(), "all");
        assert!(NodeMask::only(NodeId(200)).is_empty());
    }

    #[test]
    fn a_task_gives_its_policy_back() {
        let task = Task::new();
        assert_eq!(Policy::load(&task), Policy::Local);
        for policy in [
            Policy::Preferred(NodeId(3)),
            Policy::Bind(NodeMask(0b101)),
            Policy::Interleave(NodeMask::ALL),
            Policy::Local,
        ] {
            policy.store(&task);
            assert_eq!(Policy::load(&task), policy);
        }
    }

    #[test]
    fn a_policy_without_memory_is_refused() {
        let has_memory = |node: NodeId| node.0 == 1;
        assert_eq!(Policy::Bind(NodeMask(0b11)).check(has_memory), Ok(()));
        assert_eq!(Policy::Preferred(NodeId(0)).check(has_memory), Err(PolicyError::NoMemory(NodeMask(1))));
        assert!(Policy::Interleave(NodeMask::default()).check(has_memory).is_err());
    }
}
