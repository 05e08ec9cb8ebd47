//! The state of the memory service for people: in the shapes of `/proc/zoneinfo`, `/proc/buddyinfo` and `numastat`.
//!
//! Users: images that print it, and the panic report. Nothing here allocates.

use core::fmt;

use quarry_memory::frame::FRAME_BYTES;

use crate::memory::service;
use crate::topology;

/// Where all memory is: a row for each use.
pub struct MemoryReport;

impl fmt::Display for MemoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let statistics = service().statistics();
        for (name, bytes) in statistics.rows() {
            writeln!(f, "{name:<14} {:>12} KiB", bytes / 1024)?;
        }
        writeln!(f, "{:<14} {:>12} KiB", "total", statistics.total / 1024)
    }
}

/// Every zone in the manner of `/proc/zoneinfo`. Amounts are in pages.
pub struct ZoneReport;

impl fmt::Display for ZoneReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for zone in service().zones() {
            writeln!(f, "Node {}, zone {:>8}", zone.node.0, zone.kind)?;
            writeln!(f, "  pages free     {}", zone.free)?;
            let rows = [
                ("deferred", zone.deferred),
                ("min", zone.watermarks.min),
                ("low", zone.watermarks.low),
                ("high", zone.watermarks.high),
                ("present", zone.present),
                ("managed", zone.managed),
                ("per-cpu", zone.per_cpu_lists),
            ];
            for (name, pages) in rows {
                writeln!(f, "        {name:<8} {pages}")?;
            }
        }
        Ok(())
    }
}

/// Free blocks of each order in every zone, in the manner of `/proc/buddyinfo`.
pub struct BuddyReport;

impl fmt::Display for BuddyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for zone in service().zones() {
            write!(f, "Node {}, zone {:>8}", zone.node.0, zone.kind)?;
            for blocks in zone.free_blocks {
                write!(f, " {blocks:>6}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Free memory and page allocations by node, in the manner of `numastat`.
pub struct NodeReport;

impl fmt::Display for NodeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in topology().nodes() {
            let pages: u64 = service()
                .zones()
                .filter(|zone| zone.node == node)
                .map(|zone| u64::from(zone.free + zone.deferred + zone.per_cpu_lists))
                .sum();
            let counts = service().numa_statistics(node);
            writeln!(
                f,
                "node {}: free {} MiB, numa_hit {}, numa_miss {}, numa_foreign {}",
                node.0,
                (pages * FRAME_BYTES as u64) >> 20,
                counts.hit,
                counts.miss,
                counts.foreign
            )?;
        }
        Ok(())
    }
}
