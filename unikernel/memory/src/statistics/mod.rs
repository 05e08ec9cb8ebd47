//! What the service holds: [`Statistics`], rows that add up to all RAM to the byte, and [`Report`]s in the formats
//! scripts already read.
//!
//! Users: the guest's reports, the `stats` of the benchmarks, and every test.
//!
//! | report           | as                                                     |
//! |------------------|--------------------------------------------------------|
//! | [`Rows`]         | nothing of Linux's: the rows                           |
//! | [`MetadataParts`] | nothing of Linux's: what the row `metadata` consists of |
//! | [`Slabinfo`]     | `/proc/slabinfo`                                       |
//! | [`Buddyinfo`]    | `/proc/buddyinfo`                                      |
//! | [`Pagetypeinfo`] | `/proc/pagetypeinfo`                                   |
//! | [`Zoneinfo`]     | `/proc/zoneinfo`                                       |
//! | [`Meminfo`]      | `/proc/meminfo`                                        |
//! | [`Vmstat`]       | `/proc/vmstat`                                         |
//! | [`Numastat`]     | the command `numastat`                                 |
//! | [`NodeNumastat`] | `/sys/devices/system/node/nodeN/numastat`              |
//! | [`Hardware`]     | the command `numactl -H`                               |
//! | [`Malloctypes`]  | FreeBSD's command `vmstat -m`                          |
//!
//! # Theory
//!
//! Nothing is inferred: what is in use is counted where it is handed out and taken back, so that rows which add up prove
//! something. A counter is written by its own CPU, or under the lock of what it counts, and read by anybody (relaxed). A
//! look at them while other CPUs work therefore sees each at a moment of its own; [`Statistics::approximate`] says so. While
//! the others are idle a look is exact, and [`Statistics::adds_up`] holds.
//!
//! What pools keep back was handed out to them, and is counted again where it is kept ([`kept`](crate::kept)). A look
//! reads that once, and takes it from what was handed out to tell what is in use: so a pool at work moves bytes from row
//! to row and never keeps them from adding up.

mod audit;
mod buddyinfo;
mod hardware;
mod locks;
mod malloctypes;
mod meminfo;
mod metadata;
mod numastat;
mod pagetypeinfo;
mod report;
mod slabinfo;
mod vmstat;
mod zoneinfo;

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use crate::frame::FRAME_BYTES;
use crate::machine::Machine;
use crate::service::Service;

pub use crate::kept::PoolBytes;
pub use buddyinfo::Buddyinfo;
pub use hardware::Hardware;
pub use locks::LockCounts;
pub use malloctypes::Malloctypes;
pub use meminfo::Meminfo;
pub use metadata::{Metadata, MetadataParts};
pub use numastat::{NodeNumastat, NumaStatistics, Numastat};
pub use pagetypeinfo::Pagetypeinfo;
pub use report::Report;
pub use slabinfo::{Slab, Slabinfo};
pub use vmstat::{SlowPaths, Vmstat};
pub use zoneinfo::{Pageset, ZoneInfo, Zoneinfo};

use zoneinfo::listed_frames;

/// Where all RAM is, in bytes. All rows but `total` add up to `total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// In the buddy's free areas.
    pub free: u64,
    /// In sections not filled yet: free, and never looked at.
    pub deferred: u64,
    /// On the CPUs' page lists.
    pub per_cpu_lists: u64,
    /// Free pages that idle CPUs have zeroed, or are zeroing.
    pub zeroed: u64,
    /// Page blocks callers of the page layer have.
    pub pages_in_use: u64,
    /// Pages of VM objects, without those that are cached.
    pub object_pages: u64,
    /// Pages that VM objects have cached: clean, used by nobody, and freed when memory is short.
    pub object_cache: u64,
    /// Objects in use.
    pub slab_in_use: u64,
    /// Free objects in magazines. Those of a CPU that is busy can be had only once it comes to a slow path: at most what
    /// its magazines hold, 64 KiB a cache; those of all CPUs together at most an eighth of RAM.
    pub per_cpu_magazines: u64,
    /// Free objects depots keep ready.
    pub depots: u64,
    /// Free objects in slabs.
    pub slab_free: u64,
    /// Parts of slabs too small for an object.
    pub slab_waste: u64,
    /// Large kmalloc allocations, whole blocks, and contiguous runs, whole pages.
    pub large: u64,
    /// Objects, large allocations and page blocks that memory pools keep back: nobody uses them, and nobody but the
    /// pools' users can have them. Not in the rows of what is in use. [`Service::pool_bytes`] parts them.
    pub pool: u64,
    /// Frame tables, nodes' state, sets, depots' stacks: the service's own. [`Service::metadata`] parts it.
    pub metadata: u64,
    /// RAM the service was not given: the image, firmware, the boot's own.
    pub reserved: u64,
    /// All RAM of the nodes.
    pub total: u64,
    /// Whether other CPUs were seen at work while the rows were read: two looks differed. The rows then need not add up.
    pub approximate: bool,
}

/// [`Statistics`] as a report.
pub struct Rows<'s, M: Machine>(pub &'s Service<M>);

impl Statistics {
    /// The rows by name, in the order of the fields, without the total.
    pub fn rows(&self) -> [(&'static str, u64); 16] {
        [
            ("free", self.free),
            ("deferred", self.deferred),
            ("per_cpu_lists", self.per_cpu_lists),
            ("zeroed", self.zeroed),
            ("pages_in_use", self.pages_in_use),
            ("object_pages", self.object_pages),
            ("object_cache", self.object_cache),
            ("slab_in_use", self.slab_in_use),
            ("per_cpu_magazines", self.per_cpu_magazines),
            ("depots", self.depots),
            ("slab_free", self.slab_free),
            ("slab_waste", self.slab_waste),
            ("large", self.large),
            ("pool", self.pool),
            ("metadata", self.metadata),
            ("reserved", self.reserved),
        ]
    }

    /// All that was handed out and has not come back: to callers, and to memory pools for their reserves.
    pub fn in_use(&self) -> u64 {
        self.pages_in_use + self.object_pages + self.slab_in_use + self.large + self.pool
    }

    /// Whether the rows account for every byte.
    pub fn adds_up(&self) -> bool {
        self.rows().iter().map(|(_, bytes)| bytes).sum::<u64>() == self.total
    }
}

impl Statistics {
    /// Bytes that were handed out, without those that pools keep back. That is less than nothing only if others took or
    /// gave back in between the looks at its parts: then it is nothing, and the rows are approximate.
    fn without(&mut self, handed_out: usize, kept: u64) -> u64 {
        let in_use = (handed_out as u64).wrapping_sub(kept);
        let is_torn = in_use.cast_signed() < 0;
        self.approximate |= is_torn;
        if is_torn { 0 } else { in_use }
    }
}

impl fmt::Display for Statistics {
    /// A line for each row and one for the total, in bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, bytes) in self.rows().into_iter().chain([("total", self.total)]) {
            writeln!(f, "{name:<17} {bytes:>15}")?;
        }
        if self.approximate { writeln!(f, "approximate: other CPUs were at work") } else { Ok(()) }
    }
}

impl<M: Machine> Report for Rows<'_, M> {
    fn name(&self) -> &'static str {
        "rows"
    }

    fn for_each_value(&self, each: &mut dyn FnMut(&dyn fmt::Display, &dyn fmt::Display, u64)) {
        let statistics = self.0.statistics();
        for (name, bytes) in statistics.rows().into_iter().chain([("total", statistics.total)]) {
            each(&"", &name, bytes);
        }
    }
}

impl<M: Machine> fmt::Display for Rows<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.statistics().fmt(f)
    }
}

impl<M: Machine> Service<M> {
    /// Where all RAM is. Looks twice, to tell whether others were at work meanwhile; what they took and gave back in
    /// between is not noticed, and does not matter.
    pub fn statistics(&self) -> Statistics {
        let look = || (self.slow_paths(), self.rows());
        let (before, after) = (look(), look());
        // What idle CPUs zero moves between two rows that are read as one.
        let without_zeroing = |rows: Statistics| Statistics { free: rows.free + rows.zeroed, zeroed: 0, ..rows };
        let differ = before.0 != after.0 || without_zeroing(before.1) != without_zeroing(after.1);
        Statistics { approximate: after.1.approximate || differ, ..after.1 }
    }

    fn rows(&self) -> Statistics {
        let bytes = |frames: u64| frames * FRAME_BYTES as u64;
        let mut rows = Statistics::default();
        let kept = self.pool_bytes();
        rows.pool = kept.total();
        let mut frames_out = 0usize;
        let mut bytes_out = 0usize;
        let (object_pages, object_cache) = self.vm_page_frames();
        rows.object_pages = bytes(object_pages);
        rows.object_cache = bytes(object_cache);
        for set in self.sets() {
            let listed = listed_frames(set);
            rows.per_cpu_lists += bytes(listed.into());
            frames_out = frames_out.wrapping_add(set.net_frames.load(Relaxed)).wrapping_sub(listed as usize);
            bytes_out = bytes_out.wrapping_add(set.net_bytes.load(Relaxed));
        }
        let detached = self.detached_net();
        let frames_out = frames_out.wrapping_add(detached.0);
        rows.pages_in_use = rows.without(frames_out.wrapping_mul(FRAME_BYTES), kept.pages);
        for (_, node) in self.nodes().with_memory() {
            node.zeroed.at_rest(self.machine(), |zeroed| {
                rows.zeroed += bytes(zeroed.into());
                rows.free += node.zones.iter().map(|zone| bytes(zone.free_frames().into())).sum::<u64>();
            });
            for zone in &node.zones {
                rows.deferred += bytes(u64::from(zone.deferred.load(Relaxed)));
                rows.total += bytes(u64::from(zone.present.load(Relaxed)));
                rows.reserved += bytes(u64::from(zone.present.load(Relaxed) - zone.managed.load(Relaxed)));
            }
        }
        self.for_each_cache(|cache| {
            let object = u64::from(cache.geometry.size);
            let cached = object * self.sets().map(|set| u64::from(set.cached(cache))).sum::<u64>();
            rows.per_cpu_magazines += cached;
            bytes_out = bytes_out.wrapping_sub(cached as usize);
            for (_, counts) in self.depot_counts(cache) {
                rows.depots += u64::from(counts.stacked) * object;
                rows.slab_free += u64::from(counts.free_in_slabs) * object;
                rows.slab_waste += u64::from(counts.slabs) * u64::from(cache.geometry.waste());
            }
        });
        rows.slab_in_use = rows.without(bytes_out.wrapping_add(detached.1), kept.objects);
        rows.large = rows.without(bytes(self.large_frames().load(Relaxed)) as usize, kept.large);
        rows.metadata = self.metadata().total();
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::Statistics;

    #[test]
    fn a_row_below_nothing_is_nothing_and_the_look_approximate() {
        let look = |handed_out: usize, kept| {
            let mut rows = Statistics::default();
            (rows.without(handed_out, kept), rows.approximate)
        };
        assert_eq!(look(4096, 0), (4096, false));
        assert_eq!(look(4096, 4096), (0, false));
        // A block was seen to come back, but not to go out; and an element to be kept back, but not to be allocated.
        assert_eq!(look(4096usize.wrapping_neg(), 0), (0, true));
        assert_eq!(look(0, 112), (0, true));
    }
}
