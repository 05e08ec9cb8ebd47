//! The model: what is held, where, and with which contents; and what the service owes for it.

use std::collections::BTreeMap;

use quarry_memory::events::Event;
use quarry_memory::hosted::{Hosted, HostedMachine};
use quarry_memory::movable_pages::MovablePages;
use quarry_memory::statistics::{Slab, Statistics, ZoneInfo};
use quarry_memory::zone::ZoneKind;
use quarry_memory::{
    CpuId, Gfp, MAX_SIZE, Machine, NodeId, Order, PerCpu, Pfn, Policy, Service, Topology, ZERO_SIZE_PTR,
};

use crate::caches::ModelCache;
use crate::movables::ModelMovable;
use crate::pools::ModelPool;
use crate::step::{Flags, Step};

const PAGE: usize = 4096;

/// How an allocation is given back.
pub(crate) enum Kind {
    Object,
    /// Of the cache with that number.
    CacheObject(usize),
    Pages(Order),
    /// From `kvmalloc`, of so many bytes.
    Virtual,
    PerCpu(PerCpu),
}

/// An allocation: one piece of memory, or one for each CPU, filled with one byte.
pub(crate) struct Held {
    pub(crate) kind: Kind,
    pieces: Vec<*mut u8>,
    /// Bytes of a piece.
    size: usize,
    fill: u8,
    /// Bytes it adds to objects in use (with large ones), and to pages in use.
    objects: u64,
    pages: u64,
}

/// Everything held, on one machine.
pub(crate) struct Model {
    hosted: &'static Hosted,
    pub(crate) held: Vec<Held>,
    pub(crate) caches: Vec<ModelCache>,
    /// How many caches were made.
    pub(crate) caches_made: usize,
    /// Start and end of every piece.
    ranges: BTreeMap<usize, usize>,
    next_fill: u8,
    /// Allocations that had to reclaim, before this one.
    reclaims: u64,
    pub(crate) pools: Vec<ModelPool>,
    /// Bytes of objects and of pages that the pools have.
    pub(crate) pool_objects: u64,
    pub(crate) pool_pages: u64,
    pub(crate) movable_set: Option<&'static MovablePages<HostedMachine>>,
    /// Bytes of objects and of pages that the set of movable pages itself is, for good.
    pub(crate) set_objects: u64,
    pub(crate) set_pages: u64,
    pub(crate) movables: Vec<ModelMovable>,
    pub(crate) labels: u64,
    pub(crate) policy: Policy,
}

impl Drop for Model {
    fn drop(&mut self) {
        // While their memory is there.
        self.movables.clear();
        // The thread goes on to other cases.
        self.service().set_mempolicy(Policy::Local).expect("always possible");
        self.hosted.leave();
        // SAFETY: the model is gone and with it all pointers into the instance.
        unsafe { self.hosted.retire() };
    }
}

impl Model {
    pub(crate) fn new(machine: &crate::machine::Machine) -> Self {
        let hosted = Hosted::leak(machine.build()).expect("there is address space");
        Self {
            hosted,
            held: Vec::new(),
            caches: Vec::new(),
            caches_made: 0,
            ranges: BTreeMap::new(),
            next_fill: 0,
            reclaims: 0,
            pools: Vec::new(),
            pool_objects: 0,
            pool_pages: 0,
            movable_set: None,
            set_objects: 0,
            set_pages: 0,
            movables: Vec::new(),
            labels: 0,
            policy: Policy::Local,
        }
    }

    pub(crate) fn service(&self) -> &'static Service<HostedMachine> {
        self.hosted.service()
    }

    fn topology(&self) -> &'static Topology {
        self.hosted.topology()
    }

    pub(crate) fn take(&mut self, step: Step) {
        match step {
            Step::Kmalloc { size, flags, node, times } => {
                for _ in 0..times {
                    if !self.kmalloc(size, flags, self.node(node)) {
                        break;
                    }
                }
            }
            Step::Kmemdup { size } => self.kmemdup(size),
            Step::Krealloc { held, size } => self.krealloc(held, size),
            Step::AllocPages { order, flags, node, times } => {
                for _ in 0..times {
                    if !self.alloc_pages(order, flags, self.node(node)) {
                        break;
                    }
                }
            }
            Step::Kvmalloc { size } => self.kvmalloc(size),
            Step::Percpu { size, align } => self.percpu(size, align),
            Step::CreateCache { size, align, constructed } => self.create_cache(size, align, constructed),
            Step::UseCache { cache, node, count, bulk } => self.use_cache(cache, node, count, bulk),
            Step::DestroyCache { cache } => self.destroy_cache(cache),
            Step::CreatePool { minimum, size, pages } => self.create_pool(minimum, size, pages),
            Step::UsePool { pool, count } => self.use_pool(pool, count),
            Step::FreeToPool { pool, count } => self.free_to_pool(pool, count),
            Step::DestroyPool { pool } => self.destroy_pool(pool),
            Step::AllocMovables { count } => self.alloc_movables(count),
            Step::FreeMovables { stride } => self.free_movables(stride),
            Step::Compact { stride } => self.compact(stride),
            Step::SetPolicy { kind, nodes } => self.set_policy(kind, nodes),
            Step::Free { held } => {
                if !self.held.is_empty() {
                    let held = self.held.swap_remove(held % self.held.len());
                    self.free(held);
                }
            }
            Step::FreeSome { stride } => {
                let mut number = 0;
                let (freed, kept) = std::mem::take(&mut self.held).into_iter().partition(|_| {
                    number += 1;
                    number % stride == 0
                });
                self.held = kept;
                Vec::into_iter(freed).for_each(|held| self.free(held));
            }
            Step::RunOn { cpu } => {
                // May fail for want of memory for the CPU's set: the thread then is the CPU it finds.
                self.hosted.run_on(CpuId((cpu % self.topology().cpus().len()) as u16));
            }
            Step::Shrink => {
                self.service().drain_local();
                self.service().shrink_depots();
            }
        }
    }

    /// One of the machine's nodes, or one more that does not exist.
    pub(crate) fn node(&self, number: Option<usize>) -> Option<NodeId> {
        number.map(|number| NodeId((number % (self.topology().node_count() + 1)) as u8))
    }

    /// Returns whether there was memory.
    fn kmalloc(&mut self, size: usize, flags: Flags, node: Option<NodeId>) -> bool {
        let (service, gfp) = (self.service(), flags.gfp());
        self.reclaims = service.event_count(Event::DirectReclaim);
        let object = match (node, flags.zero) {
            (None, false) => service.kmalloc(size, gfp),
            (None, true) => service.kzalloc(size, gfp),
            (Some(node), false) => service.kmalloc_node(size, gfp, node),
            (Some(node), true) => service.kzalloc_node(size, gfp, node),
        };
        if object.is_null() {
            let order = if size <= 8192 { Order::new(3) } else { Order::for_bytes(size) };
            assert!(
                size > MAX_SIZE || self.failure_is_justified(order.expect("at most the largest"), gfp, node),
                "{size} bytes, {gfp}, {node:?}: no memory"
            );
            return false;
        }
        assert!(size <= MAX_SIZE && node.is_none_or(|node| node.index() < self.topology().node_count()));
        if size == 0 {
            assert_eq!(object, ZERO_SIZE_PTR);
            // SAFETY: it may be freed.
            unsafe { service.kfree(object) };
            return true;
        }
        let frames = if size > 8192 { size.div_ceil(PAGE).next_power_of_two() as u32 } else { 8 };
        // Without reclaim, which comes only after all nodes were asked.
        let there = gfp.difference(Gfp::DIRECT_RECLAIM) | Gfp::THISNODE;
        self.check_place(object, gfp, node, size > 8192, frames, |candidate| {
            let other = service.kmalloc_node(size, there, candidate);
            let place = (!other.is_null()).then(|| self.physical(other));
            // SAFETY: freed once, or null.
            unsafe { service.kfree(other) };
            place
        });
        let align = if size.is_power_of_two() { size.max(8) } else { 8 };
        assert!(object.addr().is_multiple_of(align), "{size} bytes at {object:p}");
        if flags.zero {
            assert!(is_filled(object, size, 0), "{size} bytes at {object:p} are not zero");
        }
        self.hold_object(object, size);
        true
    }

    fn kmemdup(&mut self, size: usize) {
        let original: Vec<u8> = (0..size).map(|index| index as u8).collect();
        let copy = self.service().kmemdup(&original, Gfp::KERNEL | Gfp::NOWARN);
        if size > 0 && !copy.is_null() {
            // SAFETY: the copy has that many bytes.
            assert_eq!(unsafe { std::slice::from_raw_parts(copy, size) }, original);
            self.hold_object(copy, size);
        }
    }

    fn krealloc(&mut self, number: usize, size: usize) {
        let objects: Vec<usize> =
            (0..self.held.len()).filter(|&at| matches!(self.held[at].kind, Kind::Object)).collect();
        let old = (!objects.is_empty()).then(|| self.held.swap_remove(objects[number % objects.len()]));
        let address = old.as_ref().map_or(std::ptr::null_mut(), |old| old.pieces[0]);
        // SAFETY: the object is the model's and replaced by the result.
        let new = unsafe { self.service().krealloc(address, size, Gfp::KERNEL | Gfp::NOWARN) };
        if new.is_null() {
            let order = if size <= 8192 { Order::new(3) } else { Order::for_bytes(size) };
            assert!(order.is_none_or(|order| self.failure_is_justified(order, Gfp::KERNEL, None)), "{size}: no memory");
            self.held.extend(old);
            return;
        }
        if let Some(old) = &old {
            self.ranges.remove(&address.addr());
            assert!(
                size == 0 || is_filled(new, old.size.min(size), old.fill),
                "contents were lost from {} to {size}",
                old.size
            );
        }
        if size == 0 {
            assert_eq!(new, ZERO_SIZE_PTR);
        } else {
            self.hold_object(new, size);
        }
    }

    /// Returns whether there was memory.
    fn alloc_pages(&mut self, order: Order, flags: Flags, node: Option<NodeId>) -> bool {
        let service = self.service();
        let gfp = flags.gfp() | if flags.zero { Gfp::ZERO } else { Gfp::empty() };
        self.reclaims = service.event_count(Event::DirectReclaim);
        let block = match node {
            None => service.alloc_pages(gfp, order),
            Some(node) => service.alloc_pages_node(node, gfp, order),
        };
        let Some(block) = block else {
            assert!(self.failure_is_justified(order, gfp, node), "{order}, {gfp}, {node:?}: no memory");
            return false;
        };
        let address = service.page_address(block);
        assert_eq!(block.block(order), block, "{order} is not aligned");
        assert_eq!(service.page_count(block), 1);
        let there = gfp.difference(Gfp::DIRECT_RECLAIM) | Gfp::THISNODE;
        self.check_place(address, gfp, node, true, order.frames(), |candidate| {
            let other = service.alloc_pages_node(candidate, there, order)?;
            service.__free_pages(other, order);
            Some(other.physical())
        });
        if flags.zero {
            assert!(is_filled(address, order.bytes(), 0), "{block} is not zero");
        }
        self.hold(Kind::Pages(order), vec![address], order.bytes(), 0, order.bytes() as u64);
        true
    }

    fn kvmalloc(&mut self, size: usize) {
        let memory = self.service().kvmalloc(size, Gfp::KERNEL | Gfp::NOWARN);
        if memory.is_null() {
            // Page by page, and one for the area's head.
            let above_min = |zone: ZoneInfo| {
                let kept = zone.watermarks.min + zone.lowmem_reserve[ZoneKind::Normal as usize];
                (zone.free + zone.deferred).saturating_sub(kept) as usize
            };
            let available = self.service().zones().map(above_min).sum::<usize>();
            assert!(available < size.div_ceil(PAGE) + 2, "{size} bytes: no memory in {available} pages");
        } else if size > 0 {
            if self.hosted.service().machine().mapping_window().contains(&memory.addr()) {
                let bytes = size.next_multiple_of(PAGE);
                self.hold(Kind::Virtual, vec![memory], bytes, 0, bytes as u64);
            } else {
                self.hold_object(memory, size);
            }
        }
    }

    fn percpu(&mut self, size: usize, align: usize) {
        let before = self.objects_in_use();
        let Some(percpu) = self.service().alloc_percpu(size, align, Gfp::KERNEL | Gfp::NOWARN) else {
            assert_eq!(self.objects_in_use(), before, "a failed allocation leaves nothing behind");
            return;
        };
        let cpus = 0..self.topology().cpus().len();
        let pieces: Vec<_> = cpus.map(|cpu| self.service().per_cpu_ptr(&percpu, CpuId(cpu as u16))).collect();
        for &piece in &pieces {
            assert!(piece.addr().is_multiple_of(align.max(64)) && is_filled(piece, size, 0));
        }
        self.hold(Kind::PerCpu(percpu), pieces, size, self.objects_in_use() - before, 0);
    }

    fn hold_object(&mut self, object: *mut u8, size: usize) {
        let usable = self.service().ksize(object);
        assert!(usable >= size);
        assert!(object.addr().is_multiple_of(8));
        self.hold(Kind::Object, vec![object], usable, usable as u64, 0);
    }

    /// Fills the pieces, having seen that they overlap nothing.
    pub(crate) fn hold(&mut self, kind: Kind, pieces: Vec<*mut u8>, size: usize, objects: u64, pages: u64) {
        self.next_fill = self.next_fill.wrapping_add(1);
        for &piece in &pieces {
            let (start, end) = (piece.addr(), piece.addr() + size);
            let below = self.ranges.range(..end).next_back();
            assert!(below.is_none_or(|(_, &other_end)| other_end <= start), "{piece:p} overlaps {below:x?}");
            self.ranges.insert(start, end);
            // SAFETY: the piece has that many bytes and nobody else has them.
            unsafe { piece.write_bytes(self.next_fill, size) };
        }
        self.held.push(Held { kind, pieces, size, fill: self.next_fill, objects, pages });
    }

    fn free(&mut self, held: Held) {
        for piece in &held.pieces {
            assert!(is_filled(*piece, held.size, held.fill), "{} bytes at {piece:p} were overwritten", held.size);
            self.ranges.remove(&piece.addr());
        }
        let (service, first) = (self.service(), held.pieces[0]);
        match held.kind {
            // SAFETY: the object is freed once.
            Kind::Object => unsafe { service.kfree(first) },
            Kind::CacheObject(number) => self.free_to_cache(number, first),
            Kind::Pages(order) => service.free_pages(first, order),
            // SAFETY: as above.
            Kind::Virtual => unsafe { service.kvfree(first) },
            Kind::PerCpu(percpu) => service.free_percpu(percpu),
        }
    }

    fn physical(&self, address: *const u8) -> u64 {
        self.service().virt_to_page(address).expect("objects and pages are in RAM").physical()
    }

    pub(crate) fn objects_in_use(&self) -> u64 {
        let rows = self.service().statistics();
        rows.slab_in_use + rows.large
    }

    /// Bytes of objects and of pages in use.
    pub(crate) fn in_use(&self) -> (u64, u64) {
        (self.objects_in_use(), self.service().statistics().pages_in_use)
    }

    /// Nodes the service has memory on.
    pub(crate) fn nodes_with_memory(&self) -> impl Iterator<Item = NodeId> {
        let service = self.service();
        self.topology().nodes().filter(|&node| service.zones().any(|zone| zone.node == node))
    }

    /// A node a request is for: the named one, else the CPU's, and where that has no memory one of the nearest. `None` while
    /// the thread is no CPU, and for a node that does not exist.
    fn wanted(&self, named: Option<NodeId>) -> Option<NodeId> {
        let node = self.origin(named)?;
        let distance = |other: &NodeId| (*other != node, self.topology().distance(node, *other));
        self.nodes_with_memory().min_by_key(distance)
    }

    /// The node that distances count from: the one named, or the CPU's own.
    fn origin(&self, named: Option<NodeId>) -> Option<NodeId> {
        let machine = self.service().machine();
        // SAFETY: a thread's set is valid.
        let attached = unsafe { (*machine.set()).is_attached() };
        let own = attached.then(|| self.service().cpu_to_node(machine.cpu()));
        named.or(own).filter(|node| node.index() < self.topology().node_count())
    }

    /// Asserts that memory is of the zone and node asked for, or of the nearest node that has any: `try_on` tells where
    /// on a node the same request would be served.
    fn check_place(
        &self,
        address: *mut u8,
        gfp: Gfp,
        named: Option<NodeId>,
        blocks: bool,
        frames: u32,
        try_on: impl Fn(NodeId) -> Option<u64>,
    ) {
        let physical = self.physical(address);
        let kind = ZoneKind::of(Pfn::containing(physical));
        assert!(!gfp.contains(Gfp::DMA) || kind == ZoneKind::Dma, "{physical:#x} with {gfp}");
        assert!(!gfp.contains(Gfp::DMA32) || kind <= ZoneKind::Dma32, "{physical:#x} with {gfp}");
        let node = self.topology().node_of_address(physical).expect("all memory is on some node");
        let frame = self.service().virt_to_page(address).expect("it is in RAM");
        assert_eq!(self.service().page_to_node(frame), Some(node));
        if let Some(policy) = self.policy_of(gfp, named) {
            // Objects of this CPU's magazines are handed out wherever they are from.
            let walled = blocks && matches!(policy, Policy::Bind(_));
            assert!(!walled || policy.nodes().contains(node), "{gfp} with {policy} from {node}");
            return;
        }
        let Some(wanted) = self.wanted(named) else { return };
        // Who had to reclaim is handed the first frames that come free, wherever they are.
        let reclaimed = self.service().event_count(Event::DirectReclaim) != self.reclaims;
        let origin = self.origin(named).expect("a node was wanted");
        let distance = |other| (other != origin, self.topology().distance(origin, other));
        if distance(node) == distance(wanted) || reclaimed && !gfp.contains(Gfp::THISNODE) {
            return;
        }
        // The nodes are asked twice: first for what is above their low watermarks.
        let highest = highest_zone(gfp);
        let is_scarce = |place: ZoneInfo| {
            let kept = place.watermarks.low + place.lowmem_reserve[highest as usize];
            place.free + place.deferred < kept + frames
        };
        assert!(!gfp.contains(Gfp::THISNODE), "from {node} instead of {wanted} with {gfp}");
        for nearer in self.nodes_with_memory().filter(|&other| distance(other) < distance(node)) {
            // Blocks on a CPU's lists are for requests to its own node.
            if blocks && self.service().zones().any(|zone| zone.node == nearer && zone.per_cpu_lists > 0) {
                continue;
            }
            // Blocks are taken from below 16 MiB only when nothing else is left anywhere.
            let spared =
                |place| blocks && !gfp.contains(Gfp::DMA) && ZoneKind::of(Pfn::containing(place)) == ZoneKind::Dma;
            let scarce: Vec<_> =
                self.service().zones().filter(|&zone| zone.node == nearer && is_scarce(zone)).collect();
            let passed_over =
                |place| spared(place) || scarce.iter().any(|zone| zone.kind == ZoneKind::of(Pfn::containing(place)));
            let place = try_on(nearer);
            assert!(
                place.is_none_or(passed_over),
                "{gfp} from {node} though {nearer} is nearer to {wanted}: {place:x?}"
            );
        }
    }

    /// Whether no zone that may serve the request has that much to give.
    fn failure_is_justified(&self, order: Order, gfp: Gfp, named: Option<NodeId>) -> bool {
        let wanted = self.wanted(named);
        if named.is_some() && (wanted.is_none() || gfp.contains(Gfp::THISNODE) && wanted != named) {
            return true;
        }
        let highest = highest_zone(gfp);
        let is_empty = |zone: ZoneInfo| {
            let min = zone.watermarks.min;
            let floor = if gfp.contains(Gfp::HIGH) { min / 4 } else { min } + zone.lowmem_reserve[highest as usize];
            let too_few = zone.free + zone.deferred < floor + order.frames();
            let in_pieces = zone.deferred == 0 && zone.free_blocks[order.index()..].iter().all(|&blocks| blocks == 0);
            too_few || in_pieces
        };
        let has_nothing = |node| {
            let mut zones = self.service().zones().filter(|zone| zone.node == node && zone.kind <= highest);
            zones.all(is_empty)
        };
        if let Some(Policy::Bind(nodes)) = self.policy_of(gfp, named) {
            return self.nodes_with_memory().filter(|&node| nodes.contains(node)).all(has_nothing);
        }
        let (Some(wanted), Some(origin)) = (wanted, self.origin(named)) else {
            return self.nodes_with_memory().all(has_nothing);
        };
        if gfp.contains(Gfp::THISNODE) {
            // Among equally near nodes the service has its choice.
            let distance = |node| (node != origin, self.topology().distance(origin, node));
            return self.nodes_with_memory().any(|node| distance(node) == distance(wanted) && has_nothing(node));
        }
        self.nodes_with_memory().all(has_nothing)
    }

    /// The service's books agree with the model's.
    pub(crate) fn check(&self) {
        let service = self.service();
        let rows = service.statistics();
        assert!(rows.adds_up(), "{rows:#?}");
        service.validate().unwrap_or_else(|broken| panic!("{broken}"));
        let held = |of: fn(&Held) -> u64| self.held.iter().map(of).sum::<u64>();
        let objects = held(|held| held.objects) + self.pool_objects + self.set_objects;
        let (kept_objects, kept_pages) = self.kept();
        assert_eq!(rows.pool, kept_objects + kept_pages, "{rows:#?}");
        assert_eq!(rows.slab_in_use + rows.large + kept_objects, objects, "{rows:#?}");
        let pages = held(|held| held.pages) + self.pool_pages + self.set_pages + self.check_movables();
        assert_eq!(rows.pages_in_use + kept_pages, pages, "{rows:#?}");
    }

    /// The reports count what the rows count.
    fn check_reports(&self) {
        let service = self.service();
        let rows = service.statistics();
        let objects = |of: fn(&Slab) -> u64| service.slabs().map(|slab| of(&slab) * slab.object_size).sum::<u64>();
        assert_eq!(objects(Slab::active_objects), rows.slab_in_use + service.pool_bytes().objects, "{rows:#?}");
        assert_eq!(objects(|slab| slab.in_magazines), rows.per_cpu_magazines, "{rows:#?}");
        assert_eq!(objects(|slab| slab.in_depots), rows.depots, "{rows:#?}");
        for (zone, types) in service.zones().zip(service.page_type_info()) {
            let of_order = |order: Order| types.free_blocks.iter().map(|blocks| blocks[order.index()]).sum::<u32>();
            assert!(Order::all().all(|order| of_order(order) == zone.free_blocks[order.index()]), "{zone:?} {types:?}");
            let listed: u32 = service.pagesets(zone.node, zone.kind).map(|(_, pageset)| pageset.count).sum();
            assert_eq!(listed, zone.per_cpu_lists, "{zone:?}");
        }
    }

    /// Frees everything and sees that all memory can be had again.
    pub(crate) fn finish(mut self) {
        self.check();
        self.check_reports();
        // Slow, for it looks at every frame: once a case.
        let service = self.service();
        let in_use = service.statistics().slab_in_use + service.pool_bytes().objects;
        assert_eq!(in_use, service.count_objects_in_use());
        for held in std::mem::take(&mut self.held) {
            self.free(held);
        }
        while !self.caches.is_empty() {
            self.destroy_cache(0);
        }
        while !self.pools.is_empty() {
            self.destroy_pool(0);
        }
        assert_eq!((self.pool_objects, self.pool_pages), (0, 0), "pools left something behind");
        self.movables.clear();
        self.set_policy(0, 0);
        self.check();
        let service = self.service();
        for cpu in 0..self.topology().cpus().len() {
            self.hosted.run_on(CpuId(cpu as u16));
            service.drain_local();
        }
        service.shrink_depots();
        service.drain_local();
        let rows = service.statistics();
        assert!(rows.adds_up(), "{rows:#?}");
        if self.movable_set.is_none() {
            assert_eq!(rows.free + rows.deferred + rows.metadata + rows.reserved, rows.total, "{rows:#?}");
        }
        let mut taken: Vec<_> = Order::all()
            .rev()
            .collect::<Vec<_>>()
            .into_iter()
            .flat_map(|order| {
                std::iter::from_fn(move || Some((service.alloc_pages(Gfp::KERNEL | Gfp::NOWARN, order)?, order)))
            })
            .collect();
        for zone in service.zones() {
            let kept = zone.watermarks.min + zone.lowmem_reserve[ZoneKind::Normal as usize];
            assert!(zone.free + zone.deferred <= kept, "{zone:#?}");
        }
        taken.drain(..).for_each(|(block, order)| service.__free_pages(block, order));
        service.drain_local();
        self.check();
        let after = service.statistics();
        let unused = |rows: Statistics| rows.free + rows.deferred + rows.metadata;
        assert_eq!(unused(after), unused(rows), "{after:#?}");
    }
}

/// The highest zone a request may be served from.
fn highest_zone(gfp: Gfp) -> ZoneKind {
    match gfp {
        gfp if gfp.contains(Gfp::DMA) => ZoneKind::Dma,
        gfp if gfp.contains(Gfp::DMA32) => ZoneKind::Dma32,
        _ => ZoneKind::Normal,
    }
}

/// Whether every byte is `with`.
fn is_filled(start: *const u8, size: usize, with: u8) -> bool {
    // SAFETY: the model passes memory of its own with at least that many bytes.
    let bytes = unsafe { std::slice::from_raw_parts(start, size) };
    // Each byte equals the next: one call of memcmp.
    size == 0 || bytes[0] == with && bytes[1..] == bytes[..size - 1]
}
