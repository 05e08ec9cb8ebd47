//! What a CPU's new [`Set`] starts with: empty magazines and lists, which know what they are for.
//!
//! Used by [`Service::new_set`], for a set that nobody else has yet.

use core::sync::atomic::Ordering::Relaxed;

use quarry_topology::{CpuId, NodeId};

use crate::class::tag;
use crate::depot::mark_of;
use crate::frame::{Kind, Order, State};
use crate::machine::Machine;
use crate::service::Service;
use crate::set::{EMPTY, SLOTS, Set};

impl<M: Machine> Service<M> {
    /// Makes a zeroed set a CPU's: for threads, or (`interrupt`) for its handlers.
    pub(crate) fn equip(&self, set: &mut Set, cpu: CpuId, node: NodeId, interrupt: bool) {
        let local = self.nodes().local(node);
        set.attached = true;
        set.cpu = cpu;
        set.node = node;
        set.node_tag = u32::from(tag(local.0, 0));
        set.mark = mark_of(self.secret());
        set.zone = self.nodes().get(local).expect("the local node has memory").highest_zone().id();
        for (order, list) in Order::all().zip(&set.pages) {
            list.handed_out.set(State::new(Kind::Page, order, set.zone).bits().into());
        }
        // Handlers allocate little: a quarter of the room keeps little from the others.
        set.used_slots = if interrupt { SLOTS / 4 } else { SLOTS };
        for (id, magazine) in set.magazines.iter().enumerate() {
            if let Some(cache) = self.cache(id) {
                self.fit_out(set, magazine, &cache);
            }
        }
        for place in &set.dynamic {
            place.store((&raw const EMPTY).cast_mut(), Relaxed);
        }
    }
}
