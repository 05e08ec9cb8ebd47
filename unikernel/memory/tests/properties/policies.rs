//! The model's memory policy: set at random, and what it says of a request.

use quarry_memory::{Gfp, NodeId, NodeMask, Policy};

use crate::model::Model;

impl Model {
    pub(crate) fn set_policy(&mut self, kind: u8, nodes: u64) {
        let nodes = NodeMask(nodes);
        let policy = match (kind, nodes.nodes().next()) {
            (1, Some(node)) => Policy::Preferred(node),
            (2, _) => Policy::Bind(nodes),
            (3, _) => Policy::Interleave(nodes),
            _ => Policy::Local,
        };
        let usable = policy == Policy::Local || self.nodes_with_memory().any(|node| policy.nodes().contains(node));
        assert_eq!(self.service().set_mempolicy(policy).is_ok(), usable, "{policy}");
        if usable {
            self.policy = policy;
        }
        assert_eq!(self.service().get_mempolicy(), self.policy);
    }

    /// The policy that places a request; `None` where nothing but its node and flags does.
    pub(crate) fn policy_of(&self, gfp: Gfp, named: Option<NodeId>) -> Option<Policy> {
        let free = named.is_none() && gfp.contains(Gfp::HARDWALL) && !gfp.contains(Gfp::THISNODE);
        (free && self.policy != Policy::Local).then_some(self.policy)
    }
}
