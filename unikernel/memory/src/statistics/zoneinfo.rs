//! [`ZoneInfo`]: one zone in numbers; and [`Zoneinfo`]: all of them, as `/proc/zoneinfo`.

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use quarry_topology::{CpuId, NodeId};

use super::Report;
use crate::frame::{FRAME_BYTES, Order, Pfn};
use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::page::list_batch;
use crate::service::Service;
use crate::set::{LISTED_ORDERS, Set};
use crate::zone::{Watermarks, Zone, ZoneKind};

/// One zone. Amounts are in frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneInfo {
    /// Its node.
    pub node: NodeId,
    /// Its kind.
    pub kind: ZoneKind,
    /// Its first frame of RAM.
    pub start: Pfn,
    /// From there to its last frame of RAM, holes between them included.
    pub spanned: u32,
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
    /// What it spares, on top of a watermark, from requests that could use a higher zone, by the highest they could
    /// use. Linux's `protection`.
    pub lowmem_reserve: [u32; ZoneKind::COUNT],
    /// Free blocks of each order.
    pub free_blocks: [u32; Order::COUNT],
}

/// The page lists of one CPU for one zone. Amounts are in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pageset {
    /// Free frames on them.
    pub count: u32,
    /// Most they may hold.
    pub high: u32,
    /// How many single frames move between a list and the zone at once.
    pub batch: u32,
}

/// Frames of slabs, whatever is in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SlabFrames {
    /// Of caches made with `SLAB_RECLAIM_ACCOUNT`.
    pub(super) reclaimable: u64,
    /// Of all others; those of kmalloc are among them.
    pub(super) unreclaimable: u64,
}

impl SlabFrames {
    /// The amounts by the names they have in zoneinfo and vmstat.
    pub(super) fn rows(self) -> [(&'static str, u64); 2] {
        [("nr_slab_reclaimable", self.reclaimable), ("nr_slab_unreclaimable", self.unreclaimable)]
    }
}

/// `/proc/zoneinfo`: what each zone has, and what CPUs hold of it.
pub struct Zoneinfo<'s, M: Machine>(pub &'s Service<M>);

impl ZoneInfo {
    /// Frames still to be had: free ones and those of sections not filled yet. Watermarks are compared with this.
    pub const fn available(&self) -> u32 {
        self.free + self.deferred
    }

    /// `Node 0, zone DMA`.
    pub(super) fn title(&self) -> impl fmt::Display {
        let Self { node, kind, .. } = *self;
        fmt::from_fn(move |f| write!(f, "Node {}, zone {kind}", node.0))
    }

    /// The numbers below `pages free`.
    fn pages(&self) -> [(&'static str, u32); 6] {
        [
            ("min", self.watermarks.min),
            ("low", self.watermarks.low),
            ("high", self.watermarks.high),
            ("spanned", self.spanned),
            ("present", self.present),
            ("managed", self.managed),
        ]
    }

    /// The zone's counters.
    fn counters(&self) -> [(&'static str, u32); 2] {
        [("nr_free_pages", self.available()), ("nr_deferred", self.deferred)]
    }
}

impl Pageset {
    fn rows(&self) -> [(&'static str, u32); 3] {
        [("count", self.count), ("high", self.high), ("batch", self.batch)]
    }
}

impl<M: Machine> Service<M> {
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

    /// The page lists of every CPU that holds frames of this zone: it is the highest of the CPU's nearest node with
    /// memory, and the CPU was given its set.
    pub fn pagesets(&self, node: NodeId, kind: ZoneKind) -> impl Iterator<Item = (CpuId, Pageset)> {
        let zone = crate::frame::ZoneId::new(node, kind);
        (0..self.cpu_count()).map(|cpu| CpuId(cpu as u16)).filter_map(move |cpu| {
            let mut pageset = None;
            // A CPU has a set for threads and one for handlers.
            for set in self.sets().filter(|set| set.cpu() == cpu && set.zone == zone) {
                let Pageset { count, high, .. } = pageset.unwrap_or_default();
                pageset = Some(Pageset {
                    count: count + listed_frames(set),
                    high: high
                        + Order::all()
                            .take(LISTED_ORDERS)
                            .map(|it| self.capacities().list(it) << it.get())
                            .sum::<u32>(),
                    batch: list_batch(self.capacities().list(Order::ZERO)),
                });
            }
            Some((cpu, pageset?))
        })
    }

    /// Slabs on a node.
    pub(super) fn slab_frames(&self, node: NodeId) -> SlabFrames {
        let mut sum = SlabFrames::default();
        for id in self.cache_ids() {
            self.with_cache(id, |cache, registration| {
                let slabs = self.depot(node, id).map_or(0, |depot| depot.counts(self.machine()).slabs);
                let reclaimable = registration.is_some_and(|made| made.gfp.contains(Gfp::RECLAIMABLE));
                let kind = if reclaimable { &mut sum.reclaimable } else { &mut sum.unreclaimable };
                *kind += u64::from(slabs) << cache.geometry.order.get();
            });
        }
        sum
    }

    /// Slabs on all nodes.
    pub(super) fn all_slab_frames(&self) -> SlabFrames {
        self.nodes().with_memory().map(|(node, _)| self.slab_frames(node)).fold(
            SlabFrames::default(),
            |sum, of_node| SlabFrames {
                reclaimable: sum.reclaimable + of_node.reclaimable,
                unreclaimable: sum.unreclaimable + of_node.unreclaimable,
            },
        )
    }

    fn zone_info(&self, node: NodeId, zone: &Zone) -> ZoneInfo {
        let start = zone.start.load(Relaxed);
        ZoneInfo {
            node,
            kind: zone.id().kind(),
            start: Pfn(start),
            spanned: zone.end.load(Relaxed) - start,
            present: zone.present.load(Relaxed),
            managed: zone.managed.load(Relaxed),
            free: zone.free_frames(),
            deferred: zone.deferred.load(Relaxed),
            per_cpu_lists: self.sets().filter(|set| set.zone == zone.id()).map(listed_frames).sum(),
            watermarks: zone.watermarks(),
            lowmem_reserve: ZoneKind::ALL.map(|kind| zone.lowmem_reserve(kind)),
            free_blocks: zone.free_blocks(self.machine()),
        }
    }
}

/// Frames on a set's page lists.
pub(super) fn listed_frames(set: &Set) -> u32 {
    (0..LISTED_ORDERS).map(|order| set.pages[order].count.load(Relaxed) << order).sum()
}

impl<M: Machine> Report for Zoneinfo<'_, M> {
    fn name(&self) -> &'static str {
        "zoneinfo"
    }

    fn for_each_value(&self, each: &mut dyn FnMut(&dyn fmt::Display, &dyn fmt::Display, u64)) {
        let mut node = None;
        for zone in self.0.zones() {
            if node.replace(zone.node) != Some(zone.node) {
                for (name, value) in self.0.slab_frames(zone.node).rows() {
                    each(&format_args!("Node {}", zone.node.0), &name, value);
                }
            }
            each(&zone.title(), &"free", u64::from(zone.available()));
            for (name, value) in zone.pages().into_iter().chain(zone.counters()) {
                each(&zone.title(), &name, u64::from(value));
            }
            for (kind, spared) in ZoneKind::ALL.into_iter().zip(zone.lowmem_reserve) {
                each(&zone.title(), &format_args!("protection {kind}"), u64::from(spared));
            }
            for (cpu, pageset) in self.0.pagesets(zone.node, zone.kind) {
                for (name, value) in pageset.rows() {
                    each(&format_args!("{}, cpu {}", zone.title(), cpu.0), &name, u64::from(value));
                }
            }
            each(&zone.title(), &"start_pfn", u64::from(zone.start.0));
        }
    }
}

impl<M: Machine> fmt::Display for Zoneinfo<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut node = None;
        self.0.zones().try_for_each(|zone| {
            let first = node.replace(zone.node) != Some(zone.node);
            let slab_frames = first.then(|| self.0.slab_frames(zone.node));
            block(f, &zone, slab_frames, self.0.pagesets(zone.node, zone.kind))
        })
    }
}

/// The lines of one zone; those of its node before them when it is the node's first.
fn block(
    f: &mut impl fmt::Write,
    zone: &ZoneInfo,
    slab_frames: Option<SlabFrames>,
    pagesets: impl Iterator<Item = (CpuId, Pageset)>,
) -> fmt::Result {
    writeln!(f, "Node {}, zone {:>8}", zone.node.0, zone.kind)?;
    if let Some(slab_frames) = slab_frames {
        writeln!(f, "  per-node stats")?;
        slab_frames.rows().iter().try_for_each(|(name, value)| writeln!(f, "      {name:<12} {value}"))?;
    }
    writeln!(f, "  pages free     {}", zone.available())?;
    zone.pages().iter().try_for_each(|(name, value)| writeln!(f, "        {name:<8} {value}"))?;
    let [dma, dma32, normal] = zone.lowmem_reserve;
    writeln!(f, "        protection: ({dma}, {dma32}, {normal})")?;
    zone.counters().iter().try_for_each(|(name, value)| writeln!(f, "      {name:<12} {value}"))?;
    writeln!(f, "  pagesets")?;
    for (cpu, pageset) in pagesets {
        writeln!(f, "    cpu: {}", cpu.0)?;
        for (name, value) in pageset.rows() {
            writeln!(f, "              {name}:{:1$}{value}", "", 6 - name.len())?;
        }
    }
    writeln!(f, "  start_pfn:           {}", zone.start.0)
}

#[cfg(test)]
pub(super) mod tests {
    use std::string::String;

    use super::*;

    pub(in super::super) fn zone() -> ZoneInfo {
        ZoneInfo {
            node: NodeId(1),
            kind: ZoneKind::Dma32,
            start: Pfn(4096),
            spanned: 262_144,
            present: 258_048,
            managed: 257_791,
            free: 27_881,
            deferred: 200_000,
            per_cpu_lists: 92,
            watermarks: Watermarks { min: 712, low: 890, high: 1068 },
            lowmem_reserve: [0, 0, 0],
            free_blocks: [1, 0, 1, 0, 0, 0, 0, 1, 0, 1, 123_456],
        }
    }

    #[test]
    fn a_zone_s_lines_are_linux_s_to_the_byte() {
        let pagesets = [
            (CpuId(2), Pageset { count: 61, high: 320, batch: 32 }),
            (CpuId(13), Pageset { count: 0, high: 320, batch: 32 }),
        ];
        let mut text = String::new();
        block(&mut text, &zone(), Some(SlabFrames { reclaimable: 3, unreclaimable: 77 }), pagesets.into_iter())
            .expect("a string takes all");
        insta::assert_snapshot!(text, @"
        Node 1, zone    DMA32
          per-node stats
              nr_slab_reclaimable 3
              nr_slab_unreclaimable 77
          pages free     227881
                min      712
                low      890
                high     1068
                spanned  262144
                present  258048
                managed  257791
                protection: (0, 0, 0)
              nr_free_pages 227881
              nr_deferred  200000
          pagesets
            cpu: 2
                      count: 61
                      high:  320
                      batch: 32
            cpu: 13
                      count: 0
                      high:  320
                      batch: 32
          start_pfn:           4096
        ");
    }
}
