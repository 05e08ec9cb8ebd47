//! How often the locks of the shared layers were taken: what tells, beside time, whether CPUs work for themselves.
//!
//! Used by benchmarks. Counting costs an instruction, under the lock.

use crate::machine::Machine;
use crate::service::Service;

/// How often locks were taken, modulo 2^32. Only differences mean anything: see [`Self::since`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockCounts {
    /// The locks of all zones: by refills and drains of page lists, and by larger blocks.
    pub zones: u32,
    /// The locks of all depots: by what a CPU's own stacks do not have or do not hold, and by objects that go past
    /// these.
    pub depots: u32,
    /// The locks of the stacks of all CPUs, each its CPU's own: by refills and drains of magazines.
    pub stacks: u32,
}

impl LockCounts {
    /// How often they were taken after `earlier`, if less than 2^32 times.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            zones: self.zones.wrapping_sub(earlier.zones),
            depots: self.depots.wrapping_sub(earlier.depots),
            stacks: self.stacks.wrapping_sub(earlier.stacks),
        }
    }
}

impl<M: Machine> Service<M> {
    /// How often the locks of zones, depots and stacks were taken so far. Takes none itself. (A cache that is created
    /// later brings depots of its own, a CPU that starts later stacks, whose locks were not taken yet.)
    pub fn lock_counts(&self) -> LockCounts {
        let zones = self.nodes().with_memory().flat_map(|(_, node)| &node.zones);
        let depots = self.cache_ids().flat_map(|id| self.depots(id));
        LockCounts {
            zones: zones.map(|zone| zone.raw().times_taken()).fold(0, u32::wrapping_add),
            depots: depots.map(|(_, depot)| depot.raw().times_taken()).fold(0, u32::wrapping_add),
            stacks: self.sets().map(|set| set.stacks.raw().times_taken()).fold(0, u32::wrapping_add),
        }
    }
}
