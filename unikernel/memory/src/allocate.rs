//! The slow path of a page allocation: from which zone of which node frames come.
//!
//! Used by [`page`](crate::page), whose per-CPU lists are empty or not for this request, and by the waiters.
//!
//! # Theory
//!
//! A [`Request`] is placed first: which node is wanted (the one named, the CPU's own, or as the thread's policy says),
//! which nodes may serve it, and its highest zone. Then the nodes are tried in order of distance from the wanted one,
//! and on each the zones from the highest downward; but DMA memory (below 16 MiB) is left to those who asked for it
//! until nothing else is left. Nodes equally near are tried in a different order from each node ([`Nodes`]).
//!
//! How far a zone may be emptied is the request's [`Floor`]: to the *low* watermark in the first attempt, after which
//! the balancing threads are woken; then to *min*; to half of that with `__GFP_HIGH`, to a quarter when it may not wait
//! either; to nothing for a thread that is making memory free. Every zone below the request's highest is spared a
//! *lowmem reserve* on top. A zone out of blocks grows by a deferred section first.
//!
//! What two attempts do not find is [`reclaim`](crate::reclaim)'s to make, for those who may wait.
//!
//! [`Nodes`]: crate::node::Nodes

use core::sync::atomic::Ordering::Relaxed;

use quarry_topology::NodeId;

use crate::events::Event;
use crate::frame::{Frames, Kind, Order, Pfn, State};
use crate::free_area::{Demand, Reach};
use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::mobility::Mobility;
use crate::node::{Node, NumaCounters};
use crate::page::list_batch;
use crate::policy::{NodeMask, Policy};
use crate::service::Service;
use crate::set::{LISTED_ORDERS, Set, bump};
use crate::task::Task;
use crate::zone::{Watermarks, Zone, ZoneKind};

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// With what the thread's scopes rule out taken away.
    pub(crate) gfp: Gfp,
    pub(crate) order: Order,
    pub(crate) placement: Placement,
    /// The cache that wants an object, and a slab of that order only if there is none.
    pub(crate) cache: Option<usize>,
}

/// Where it may come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    /// The node it is for, which may have no memory.
    pub(crate) wanted: NodeId,
    /// The nodes that may serve it.
    pub(crate) nodes: NodeMask,
    pub(crate) highest: ZoneKind,
    /// It was this node's turn.
    pub(crate) interleaved: bool,
}

impl Placement {
    /// Anywhere, the nearest to a node first, in zones that need not be low.
    pub(crate) const fn near(wanted: NodeId) -> Self {
        Self { wanted, nodes: NodeMask::ALL, highest: ZoneKind::Normal, interleaved: false }
    }
}

/// How far a zone may be emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Floor {
    Low,
    Min,
    /// Half of min.
    Half,
    /// A quarter of min.
    Quarter,
    Nothing,
}

impl Floor {
    /// As far as the flags and the thread allow.
    pub(crate) fn of(gfp: Gfp, task: &Task) -> Self {
        match gfp {
            _ if task.is_reclaiming() => Self::Nothing,
            gfp if gfp.contains(Gfp::HIGH) && !gfp.may_wait() => Self::Quarter,
            gfp if gfp.contains(Gfp::HIGH) => Self::Half,
            _ => Self::Min,
        }
    }

    /// As far as one who waits may have it.
    pub(crate) fn of_waiter(request: &Request, stalled: bool) -> Self {
        // Who must not fail gets part of the reserve only when waiting has not helped: else the others never had any.
        let urgent = request.gfp.contains(Gfp::HIGH) || stalled && request.gfp.contains(Gfp::NOFAIL);
        if urgent { Self::Half } else { Self::Min }
    }

    fn frames(self, watermarks: Watermarks) -> u32 {
        match self {
            Self::Low => watermarks.low,
            Self::Min => watermarks.min,
            Self::Half => watermarks.min / 2,
            Self::Quarter => watermarks.min / 4,
            Self::Nothing => 0,
        }
    }
}

/// The zones that a request may come from, by the highest of them: DMA memory in a second round, unless it was asked for.
pub(crate) const fn rounds(highest: ZoneKind) -> &'static [&'static [ZoneKind]] {
    match highest {
        ZoneKind::Dma => &[&[ZoneKind::Dma]],
        ZoneKind::Dma32 => &[&[ZoneKind::Dma32], &[ZoneKind::Dma]],
        ZoneKind::Normal => &[&[ZoneKind::Normal, ZoneKind::Dma32], &[ZoneKind::Dma]],
    }
}

impl Request {
    /// The same on one node alone.
    pub(crate) fn on(&self, node: NodeId) -> Self {
        Self { placement: Placement { nodes: NodeMask::only(node), ..self.placement }, ..*self }
    }

    /// Whether a zone may give up that many frames for it.
    pub(crate) fn allows(&self, zone: &Zone, floor: Floor, frames: u32) -> bool {
        let spared = if floor == Floor::Nothing { 0 } else { zone.lowmem_reserve(self.placement.highest) };
        zone.available_frames() >= floor.frames(zone.watermarks()) + spared + frames
    }
}

impl<M: Machine> Service<M> {
    #[cold]
    #[inline(never)]
    #[track_caller]
    pub(crate) fn alloc_pages_slow(&self, named: Option<NodeId>, gfp: Gfp, order: Order) -> Option<Pfn> {
        // SAFETY: `attach` returns a set as `set` does.
        let set = unsafe { &*self.attached_set() };
        if named.is_none()
            && let Some(block) = self.alloc_from_local_zone(set, gfp, order)
        {
            return Some(block);
        }
        let task = self.machine().task();
        let gfp = self.checked_flags(task.allowed(gfp), task);
        let placement = self.place(set, named, gfp, task)?;
        if self.page_fault_injected(gfp, order) {
            return None;
        }
        let request = Request { gfp, order, placement, cache: None };
        if gfp.contains(Gfp::ZERO) {
            self.alloc_zeroed(set, &request, task)
        } else {
            self.alloc_placed(set, &request, task)
        }
    }

    /// A block of zeroes: from the stock of those that are, or zeroed here.
    #[inline(never)]
    #[track_caller]
    fn alloc_zeroed(&self, set: &Set, request: &Request, task: &Task) -> Option<Pfn> {
        if let Some((block, state)) = self.take_zeroed(set, request) {
            self.note_frames(set, 1);
            return Some(self.hand_out(block, state));
        }
        let block = self.alloc_placed(set, request, task)?;
        // SAFETY: the block is this caller's alone since it left the free lists, and the direct map covers all of it.
        unsafe { self.page_address(block).write_bytes(0, request.order.bytes()) };
        Some(block)
    }

    /// A block with whatever contents, from a CPU's list or a zone, made free if need be. Inlined twice, so that a request
    /// without `__GFP_ZERO` pays nothing for those with it.
    #[inline(always)]
    #[track_caller]
    fn alloc_placed(&self, set: &Set, request: &Request, task: &Task) -> Option<Pfn> {
        let Request { gfp, order, placement, .. } = *request;
        let listed = self.alloc_from_lists(set, request);
        let block =
            listed.or_else(|| self.alloc_from_zones(request, task)).or_else(|| self.persist(request, |block| block));
        let Some((block, state)) = block else {
            self.note_failure(gfp);
            self.report_page_failure(placement.wanted, gfp, order);
            return None;
        };
        if listed.is_none() {
            self.note_frames(set, order.frames() as usize);
        }
        Some(self.hand_out(block, state))
    }

    /// A block that no list has, from the zone of the CPU's lists, where memory is plenty and the flags want nothing
    /// else: the usual case of a large block, and nothing else looked at. `None` while anybody waits or faults are
    /// injected, too.
    fn alloc_from_local_zone(&self, set: &Set, gfp: Gfp, order: Order) -> Option<Pfn> {
        let listed = order.index() < LISTED_ORDERS;
        if listed || gfp.intersects(Gfp::OFF_THE_PAGE_LISTS) || !set.attached || self.waiters().attention().is_raised()
        {
            return None;
        }
        let node = self.nodes().get(set.zone.node())?;
        let zone = node.zone(set.zone.kind());
        let spared = zone.lowmem_reserve(ZoneKind::Normal) + zone.watermarks().low;
        if zone.available_frames() < spared + order.frames() {
            return None;
        }
        let demand = Demand { order, mobility: Mobility::Unmovable, reach: Reach::WholePageblocks };
        let mut found = None;
        let (_, stolen) = zone.allocate(self.machine(), demand, 1, |block, _| found = Some(block));
        self.events().note_stolen(stolen);
        let block = found?;
        NumaCounters::add(&node.counters.hit, 1);
        NumaCounters::add(&node.counters.local, 1);
        set.add_frames(order.frames() as usize);
        Some(self.hand_out(block, State::new(Kind::Page, order, set.zone)))
    }

    /// Where a request may be served; `None` where it may be nowhere.
    pub(crate) fn place(&self, set: &Set, named: Option<NodeId>, gfp: Gfp, task: &Task) -> Option<Placement> {
        let highest = match gfp {
            gfp if gfp.contains(Gfp::DMA) => ZoneKind::Dma,
            gfp if gfp.contains(Gfp::DMA32) => ZoneKind::Dma32,
            _ => ZoneKind::Normal,
        };
        let anywhere = |wanted| Placement { highest, ..Placement::near(wanted) };
        let local = self.nodes().local(named.unwrap_or(set.node));
        let unknown = |node: NodeId| node.index() >= self.nodes().count();
        if named.is_some_and(|node| unknown(node) || gfp.contains(Gfp::THISNODE) && node != local) {
            return None;
        }
        if gfp.contains(Gfp::THISNODE) {
            return Some(Placement { nodes: NodeMask::only(local), ..anywhere(local) });
        }
        if named.is_some() || !gfp.contains(Gfp::HARDWALL) {
            return Some(anywhere(named.unwrap_or(set.node)));
        }
        Some(match Policy::load(task) {
            Policy::Local => anywhere(set.node),
            Policy::Preferred(node) => anywhere(node),
            Policy::Bind(nodes) => Placement { nodes, ..anywhere(set.node) },
            Policy::Interleave(nodes) => {
                let wanted = task.next_interleaved(nodes, |node| self.nodes().get(node).is_some())?;
                Placement { interleaved: true, ..anywhere(wanted) }
            }
        })
    }

    /// The nodes that may serve a request, nearest to the wanted one first.
    pub(crate) fn candidates(&self, placement: Placement) -> impl Iterator<Item = NodeId> + Clone {
        let order = self.nodes().fallback_order(placement.wanted);
        order.filter(move |&node| placement.nodes.contains(node))
    }

    /// From the CPU's page list, refilled if it is empty, where that is what the request wants. What is on a list, and
    /// so what comes from it, has been noted as handed out.
    pub(crate) fn alloc_from_lists(&self, set: &Set, request: &Request) -> Option<(Pfn, State)> {
        let Request { gfp, order, placement, .. } = *request;
        let listed = set.attached
            && order.index() < LISTED_ORDERS
            && !gfp.intersects(Gfp::DMA | Gfp::DMA32 | Gfp::MOBILITY)
            && self.candidates(placement).next() == Some(set.zone.node());
        if !listed {
            return None;
        }
        let list = &set.pages[order.index()];
        if list.count.load(Relaxed) == 0 {
            let zone = self.nodes().zone(set.zone)?;
            let capacity = self.waiters().attention().settle(&list.limit, self.capacities().list(order));
            let batch = if capacity == 0 { 0 } else { list_batch(capacity) };
            let frames = Frames::of(self.machine());
            if batch > 0 && request.allows(zone, Floor::Low, batch << order.get()) {
                bump(&set.counters.page_refills);
                let mut taken = 0;
                let listed = State::new(Kind::Listed, order, zone.id());
                self.take_blocks(zone, order, Mobility::Unmovable, batch, |first, blocks| {
                    let mut block = first;
                    for slot in &list.blocks[taken as usize..(taken + blocks) as usize] {
                        frames.set_state(block, listed);
                        // Whoever has the block has a reference, and leaves it where the block goes back to a list.
                        frames.frame(block).word.store(1, Relaxed);
                        slot.set(block.0);
                        block = block.offset(order.frames());
                    }
                    taken += blocks;
                });
                list.count.store(taken, Relaxed);
                self.note_frames(set, (taken << order.get()) as usize);
                self.count_numa(set, placement, set.zone.node(), taken.into());
            }
        }
        let block = if gfp.contains(Gfp::COLD) { list.pop_oldest() } else { list.pop() };
        block.map(|block| (block, State::new(Kind::Page, order, set.zone)))
    }

    /// From the zones: above the low watermark, or else as far down as the flags allow. Those who may wait take nothing
    /// past others who do already.
    fn alloc_from_zones(&self, request: &Request, task: &Task) -> Option<(Pfn, State)> {
        if self.must_queue(request.gfp, task) {
            return None;
        }
        let found = self.walk_zonelist(request, Floor::Low);
        if found.is_some() {
            return found;
        }
        self.note_shortage(request);
        self.walk_zonelist(request, Floor::of(request.gfp, task))
    }

    /// Whether others wait past whom this request must not take frames.
    pub(crate) fn must_queue(&self, gfp: Gfp, task: &Task) -> bool {
        self.waiters().has_any() && self.may_persist(gfp, task)
    }

    /// Notes that no zone is above its low watermark, gives zeroed pages back, and frees some of what is cached.
    pub(crate) fn note_shortage(&self, request: &Request) {
        self.return_zeroed_for(request);
        self.free_cached_for(request);
        self.events().count(Event::SlowAllocation);
        if request.gfp.contains(Gfp::KSWAPD_RECLAIM) {
            self.wake_balancers(request.placement);
        }
    }

    /// Takes a block from the first zone that may and can give one.
    pub(crate) fn walk_zonelist(&self, request: &Request, floor: Floor) -> Option<(Pfn, State)> {
        let Request { gfp, order, placement, .. } = *request;
        let mobility = Mobility::of(gfp);
        for kinds in rounds(placement.highest) {
            for node in self.candidates(placement) {
                let Some(state) = self.nodes().get(node) else { continue };
                for &kind in *kinds {
                    let zone = state.zone(kind);
                    if !request.allows(zone, floor, order.frames()) {
                        continue;
                    }
                    let mut found = None;
                    self.take_blocks(zone, order, mobility, 1, |block, _| found = Some(block));
                    if let Some(block) = found {
                        // SAFETY: as in `alloc_pages_slow`.
                        self.count_numa(unsafe { &*self.machine().set() }, placement, node, 1);
                        return Some((block, State::new(mobility.page_kind(), order, zone.id())));
                    }
                }
            }
        }
        None
    }

    /// Takes blocks from a zone: from whole pageblocks, else from sections never touched, which it fills, and only
    /// then from parts of pageblocks of another mobility. `take` gets the first of blocks that lie side by side, and
    /// how many they are.
    fn take_blocks(&self, zone: &Zone, order: Order, mobility: Mobility, wanted: u32, mut take: impl FnMut(Pfn, u32)) {
        let mut demand = Demand { order, mobility, reach: Reach::WholePageblocks };
        loop {
            let (taken, stolen) = zone.allocate(self.machine(), demand, wanted, &mut take);
            self.events().note_stolen(stolen);
            if taken > 0 {
                return;
            }
            if !self.grow(zone, demand) {
                if demand.reach == Reach::Anything {
                    return;
                }
                demand.reach = Reach::Anything;
            }
        }
    }

    /// Counts blocks that came from `from`, as Linux's `zone_statistics` does.
    pub(crate) fn count_numa(&self, set: &Set, placement: Placement, from: NodeId, blocks: u64) {
        let counters = |node| self.nodes().get(node).map(|node: &Node| &node.counters);
        let Some(source) = counters(from) else { return };
        let wanted = self.nodes().local(placement.wanted);
        if from == wanted {
            NumaCounters::add(&source.hit, blocks);
            if placement.interleaved {
                NumaCounters::add(&source.interleave, blocks);
            }
        } else {
            NumaCounters::add(&source.miss, blocks);
            if let Some(wanted) = counters(wanted) {
                NumaCounters::add(&wanted.foreign, blocks);
            }
        }
        let by_local = self.nodes().local(set.node) == from;
        NumaCounters::add(if by_local { &source.local } else { &source.other }, blocks);
    }

    /// Counts an allocation that failed.
    pub(crate) fn note_failure(&self, gfp: Gfp) {
        self.events().count(Event::AllocationFailed);
        if !gfp.may_wait() {
            self.events().count(Event::AtomicFailed);
        }
    }
}
