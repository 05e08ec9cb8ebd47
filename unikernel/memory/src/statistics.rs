//! What the service holds, in rows that add up to all RAM, and in the shapes of `/proc/zoneinfo` and `/proc/buddyinfo`.
//!
//! Users: the guest's reports and every test. A snapshot taken while other CPUs work is approximate: each row is true
//! of a moment, not all of the same one. When they are idle it is exact and [`Statistics::adds_up`] holds.

use core::sync::atomic::Ordering::Relaxed;

use quarry_topology::NodeId;

use crate::class::tag_cache;
use crate::depot::LINK_MASK;
use crate::frame::{FRAME_BYTES, Frames, Kind, Order, Pfn, State};
use crate::machine::Machine;
use crate::registry::CacheView;
use crate::service::Service;
use crate::set::{LISTED_ORDERS, Set};
use crate::zone::{Broken, Watermarks, Zone, ZoneKind};

/// Where all RAM is, in bytes. All rows but `total` add up to `total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// In the buddy's free areas.
    pub free: u64,
    /// In sections not filled yet: free, and never looked at.
    pub deferred: u64,
    /// On the CPUs' page lists.
    pub per_cpu_lists: u64,
    /// Page blocks callers of the page layer have.
    pub pages_in_use: u64,
    /// Objects in use.
    pub slab_in_use: u64,
    /// Free objects in magazines and depots.
    pub slab_cached: u64,
    /// Free objects in slabs.
    pub slab_free: u64,
    /// Parts of slabs too small for an object.
    pub slab_waste: u64,
    /// Large kmalloc allocations, whole blocks.
    pub large: u64,
    /// Frame tables, nodes' state, sets, depots' stacks.
    pub metadata: u64,
    /// RAM the service was not given: the image, firmware, the boot's own.
    pub reserved: u64,
    /// All RAM of the nodes.
    pub total: u64,
}

impl Statistics {
    /// The rows by name, in the order of the fields, without the total.
    pub fn rows(&self) -> [(&'static str, u64); 11] {
        [
            ("free", self.free),
            ("deferred", self.deferred),
            ("per_cpu_lists", self.per_cpu_lists),
            ("pages_in_use", self.pages_in_use),
            ("slab_in_use", self.slab_in_use),
            ("slab_cached", self.slab_cached),
            ("slab_free", self.slab_free),
            ("slab_waste", self.slab_waste),
            ("large", self.large),
            ("metadata", self.metadata),
            ("reserved", self.reserved),
        ]
    }

    /// Whether the rows account for every byte.
    pub fn adds_up(&self) -> bool {
        self.rows().iter().map(|(_, bytes)| bytes).sum::<u64>() == self.total
    }
}

/// One zone, as `/proc/zoneinfo` and `/proc/buddyinfo` show it. Amounts are in frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneInfo {
    /// Its node.
    pub node: NodeId,
    /// Its kind.
    pub kind: ZoneKind,
    /// RAM in it, whoever uses it.
    pub present: u32,
    /// Of that, what the service manages.
    pub managed: u32,
    /// Free in the buddy.
    pub free: u32,
    /// Free in sections not filled yet.
    pub deferred: u32,
    /// On the CPUs' page lists.
    pub per_cpu_lists: u32,
    /// Its watermarks.
    pub watermarks: Watermarks,
    /// Free blocks of each order.
    pub free_blocks: [u32; Order::COUNT],
}

/// How often the slow paths were taken, over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlowPaths {
    /// An empty magazine was refilled from its depot.
    pub refills: u64,
    /// A full magazine gave half to its depot.
    pub drains: u64,
    /// A magazine for another node's objects was refilled from there.
    pub remote_refills: u64,
    /// A magazine of another node's objects was sent home.
    pub remote_drains: u64,
    /// A CPU's page list was refilled from its zone.
    pub page_refills: u64,
    /// A CPU's page list gave blocks to its zone.
    pub page_drains: u64,
}

/// Page blocks by where they came from, of one node; as `numastat` counts them, at the slow paths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NumaStatistics {
    /// Wanted here and got here.
    pub hit: u64,
    /// Got here though wanted elsewhere.
    pub miss: u64,
    /// Wanted here and got elsewhere.
    pub foreign: u64,
}

impl<M: Machine> Service<M> {
    /// Where all RAM is.
    pub fn statistics(&self) -> Statistics {
        let bytes = |frames: u64| frames * FRAME_BYTES as u64;
        let mut rows = Statistics::default();
        let mut frames_out = 0usize;
        let mut bytes_out = 0usize;
        let mut metadata = self.set_frames() + self.node_frames() + self.mapping_frames();
        for set in self.sets() {
            let listed: u64 =
                (0..LISTED_ORDERS).map(|order| u64::from(set.pages[order].count.load(Relaxed)) << order).sum();
            let cached = self.cached_bytes(set);
            rows.per_cpu_lists += bytes(listed);
            rows.slab_cached += cached as u64;
            frames_out = frames_out.wrapping_add(set.net_frames.load(Relaxed));
            bytes_out = bytes_out.wrapping_add(set.net_bytes.load(Relaxed)).wrapping_sub(cached);
        }
        let detached = self.detached_net();
        rows.pages_in_use = bytes(frames_out.wrapping_add(detached.0) as u64);
        rows.slab_in_use = bytes_out.wrapping_add(detached.1) as u64;
        for (_, node) in self.nodes().with_memory() {
            for zone in &node.zones {
                rows.free += bytes(u64::from(zone.free_frames()));
                rows.deferred += bytes(u64::from(zone.deferred.load(Relaxed)));
                rows.total += bytes(u64::from(zone.present.load(Relaxed)));
                rows.reserved += bytes(u64::from(zone.present.load(Relaxed) - zone.managed.load(Relaxed)));
                metadata += u64::from(zone.metadata.load(Relaxed));
            }
        }
        for cache in self.caches() {
            let object = u64::from(cache.geometry.size);
            let depots = self.nodes().with_memory().filter_map(|(node, _)| self.depot(node, cache.id));
            for counts in depots.map(|depot| depot.counts(self.machine())) {
                rows.slab_cached += u64::from(counts.stacked) * object;
                rows.slab_free += u64::from(counts.free_in_slabs) * object;
                rows.slab_waste += u64::from(counts.slabs) * u64::from(cache.geometry.waste());
                metadata += u64::from(counts.has_stack);
            }
        }
        rows.large = bytes(self.large_frames().load(Relaxed));
        rows.metadata = bytes(metadata);
        rows
    }

    /// Every zone that has RAM, by node and address.
    pub fn zones(&self) -> impl Iterator<Item = ZoneInfo> {
        self.nodes().with_memory().flat_map(move |(node, state)| {
            state.zones.iter().filter(|zone| zone.present.load(Relaxed) > 0).map(move |zone| self.zone_info(node, zone))
        })
    }

    /// Bytes to be had in each zone, and bytes of RAM in it. Takes no lock, so a panic may ask.
    pub fn available(&self) -> impl Iterator<Item = (NodeId, ZoneKind, u64, u64)> {
        let bytes = |frames: u32| u64::from(frames) * FRAME_BYTES as u64;
        self.nodes().with_memory().flat_map(move |(node, state)| {
            let zones = state.zones.iter().filter(|zone| zone.present.load(Relaxed) > 0);
            zones.map(move |zone| {
                (node, zone.id().kind(), bytes(zone.available_frames()), bytes(zone.present.load(Relaxed)))
            })
        })
    }

    fn zone_info(&self, node: NodeId, zone: &Zone) -> ZoneInfo {
        let listed =
            |set: &Set| -> u32 { (0..LISTED_ORDERS).map(|order| set.pages[order].count.load(Relaxed) << order).sum() };
        ZoneInfo {
            node,
            kind: zone.id().kind(),
            present: zone.present.load(Relaxed),
            managed: zone.managed.load(Relaxed),
            free: zone.free_frames(),
            deferred: zone.deferred.load(Relaxed),
            per_cpu_lists: self.sets().filter(|set| set.zone == zone.id()).map(listed).sum(),
            watermarks: zone.watermarks(),
            free_blocks: zone.free_blocks(self.machine()),
        }
    }

    /// How often the slow paths were taken.
    pub fn slow_paths(&self) -> SlowPaths {
        let mut sum = SlowPaths::default();
        for counters in self.sets().map(|set| &set.counters) {
            sum.refills += counters.refills.load(Relaxed) as u64;
            sum.drains += counters.drains.load(Relaxed) as u64;
            sum.remote_refills += counters.remote_refills.load(Relaxed) as u64;
            sum.remote_drains += counters.remote_drains.load(Relaxed) as u64;
            sum.page_refills += counters.page_refills.load(Relaxed) as u64;
            sum.page_drains += counters.page_drains.load(Relaxed) as u64;
        }
        sum
    }

    /// `numastat` of one node; zeroes for a node without memory.
    pub fn numa_statistics(&self, node: NodeId) -> NumaStatistics {
        self.nodes().get(node).map_or_else(NumaStatistics::default, |node| NumaStatistics {
            hit: node.counters.hit.load(Relaxed),
            miss: node.counters.miss.load(Relaxed),
            foreign: node.counters.foreign.load(Relaxed),
        })
    }

    /// Bytes of objects in use, found by looking at every object of every slab: slow, and the witness that
    /// [`Statistics::slab_in_use`] tells the truth. Only while nobody else uses the service.
    pub fn count_objects_in_use(&self) -> u64 {
        let mut bytes = 0;
        self.for_each_head(Kind::Slab, |slab, _| {
            let cache = self.cache(tag_cache(Frames::of(self.machine()).tag(slab)));
            let geometry = cache.expect("a cache lives while it has slabs").geometry;
            let in_use = (0..geometry.objects).filter(|&index| {
                let link = geometry.offset(index) + geometry.link;
                let word = self.page_address(slab).wrapping_add(link as usize).cast::<u64>();
                // SAFETY: the slab's frames are mapped and stay a slab, for nobody else uses the service meanwhile.
                unsafe { word.read_volatile() ^ self.secret() > LINK_MASK }
            });
            bytes += in_use.count() as u64 * u64::from(geometry.size);
        });
        bytes
    }

    /// Frames of blocks callers or the service itself took from the page layer, slabs aside, found by looking at every
    /// frame. Only while nobody else uses the service.
    pub fn count_page_frames(&self) -> u64 {
        let mut frames = 0;
        self.for_each_head(Kind::Page, |_, state| frames += u64::from(state.order().frames()));
        frames
    }

    fn for_each_head(&self, kind: Kind, mut each: impl FnMut(Pfn, State)) {
        let frames = Frames::of(self.machine());
        for frame in (0..self.machine().frame_limit()).map(Pfn) {
            let state = frames.state(frame);
            if state.kind() == kind {
                each(frame, state);
            }
        }
    }

    /// Checks every zone's free lists.
    ///
    /// # Errors
    ///
    /// The first broken invariant found.
    pub fn validate(&self) -> Result<(), Broken> {
        self.nodes().with_memory().flat_map(|(_, node)| &node.zones).try_for_each(|zone| zone.validate(self.machine()))
    }

    /// Bytes of the free objects in a set.
    fn cached_bytes(&self, set: &Set) -> usize {
        let local: usize = self
            .caches()
            .filter(CacheView::has_magazines)
            .map(|cache| cache.geometry.size as usize * set.magazine_of(&cache).count.load(Relaxed) as usize)
            .sum();
        let remote = set.remote.iter().map(|remote| {
            let cache = self.cache(tag_cache(remote.tag.load(Relaxed) as u16));
            cache.map_or(0, |cache| cache.geometry.size as usize) * remote.count.load(Relaxed) as usize
        });
        local + remote.sum::<usize>()
    }
}
