//! [`Meminfo`]: all memory in a few lines, as `/proc/meminfo`.

use core::fmt;

use super::Report;
use super::zoneinfo::SlabFrames;
use crate::frame::FRAME_BYTES;
use crate::machine::Machine;
use crate::service::Service;

/// `/proc/meminfo`. Of Linux's lines those that have a meaning here, and those that no reader does without: there are no
/// buffers and no swap, so these are truly 0. `Cached` is what VM objects have cached: clean, and free when it is wanted.
pub struct Meminfo<'s, M: Machine>(pub &'s Service<M>);

/// The numbers of [`Meminfo`], in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Frames {
    managed: u64,
    free: u64,
    /// What of the free frames is kept: the high watermark of each zone, and what it spares for requests that could use
    /// no other. Linux's `totalreserve_pages`.
    kept: u64,
    low_watermarks: u64,
    cached: u64,
    slab: SlabFrames,
}

impl<M: Machine> Meminfo<'_, M> {
    fn frames(&self) -> Frames {
        let mut sum = Frames::default();
        for zone in self.0.zones() {
            sum.managed += u64::from(zone.managed);
            sum.free += u64::from(zone.available());
            let spared = zone.lowmem_reserve.into_iter().max().unwrap_or(0);
            sum.low_watermarks += u64::from(zone.watermarks.low);
            sum.kept += u64::from((zone.watermarks.high + spared).min(zone.managed));
        }
        (_, sum.cached) = self.0.vm_page_frames();
        sum.slab = self.0.all_slab_frames();
        sum
    }
}

impl Frames {
    /// What can be had before memory is short: free and cached frames but those that are kept, and of what shrinkers can free all but
    /// half, or all but the low watermarks. Linux's `si_mem_available`.
    fn available(self) -> u64 {
        let reclaimable = self.slab.reclaimable;
        (self.free + self.cached + reclaimable - (reclaimable / 2).min(self.low_watermarks)).saturating_sub(self.kept)
    }

    /// The lines, in Linux's order, in KiB.
    fn lines(self) -> [(&'static str, u64); 10] {
        let kib = |frames: u64| frames * (FRAME_BYTES as u64 / 1024);
        [
            ("MemTotal", kib(self.managed)),
            ("MemFree", kib(self.free)),
            ("MemAvailable", kib(self.available())),
            ("Buffers", 0),
            ("Cached", kib(self.cached)),
            ("SwapTotal", 0),
            ("SwapFree", 0),
            ("Slab", kib(self.slab.reclaimable + self.slab.unreclaimable)),
            ("SReclaimable", kib(self.slab.reclaimable)),
            ("SUnreclaim", kib(self.slab.unreclaimable)),
        ]
    }
}

impl<M: Machine> Report for Meminfo<'_, M> {
    fn name(&self) -> &'static str {
        "meminfo"
    }

    fn for_each_value(&self, each: &mut dyn FnMut(&dyn fmt::Display, &dyn fmt::Display, u64)) {
        self.frames().lines().iter().for_each(|(name, value)| each(&"", name, *value));
    }
}

impl<M: Machine> fmt::Display for Meminfo<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.frames().fmt(f)
    }
}

impl fmt::Display for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines().iter().try_for_each(|(name, kib)| {
            let gap = 15 - name.len();
            writeln!(f, "{name}:{:gap$}{kib:>8} kB", "")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_are_linux_s_to_the_byte() {
        let slab = SlabFrames { reclaimable: 100, unreclaimable: 12 };
        let frames = Frames { managed: 521_191, free: 500_000, kept: 2167, low_watermarks: 40, cached: 25, slab };
        insta::assert_snapshot!(frames, @"
        MemTotal:        2084764 kB
        MemFree:         2000000 kB
        MemAvailable:    1991672 kB
        Buffers:               0 kB
        Cached:              100 kB
        SwapTotal:             0 kB
        SwapFree:              0 kB
        Slab:                448 kB
        SReclaimable:        400 kB
        SUnreclaim:           48 kB
        ");
    }

    #[test]
    fn of_what_is_kept_nothing_is_available() {
        let frames = Frames { free: 2, kept: 3, ..Frames::default() };
        assert_eq!(frames.lines()[2], ("MemAvailable", 0));
    }
}
