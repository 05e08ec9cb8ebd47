//! [`Vmstat`]: counters, as `/proc/vmstat`; and [`SlowPaths`], those the CPUs count for themselves.

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use super::Report;
use super::numastat::VMSTAT_NAMES;
use crate::events::Event;
use crate::machine::Machine;
use crate::service::Service;

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

impl SlowPaths {
    /// The counters by the names they have in [`Vmstat`]; Linux has none of them.
    pub fn rows(&self) -> [(&'static str, u64); 6] {
        [
            ("magazine_refill", self.refills),
            ("magazine_drain", self.drains),
            ("remote_magazine_refill", self.remote_refills),
            ("remote_magazine_drain", self.remote_drains),
            ("pcp_refill", self.page_refills),
            ("pcp_drain", self.page_drains),
        ]
    }
}

/// `/proc/vmstat`: a line for each counter. What is in pages there is in pages here.
pub struct Vmstat<'s, M: Machine>(pub &'s Service<M>);

impl<M: Machine> Service<M> {
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
}

impl<M: Machine> Vmstat<'_, M> {
    fn for_each_line(&self, mut line: impl FnMut(&'static str, u64)) {
        let (mut free, mut deferred) = (0, 0);
        for zone in self.0.zones() {
            free += u64::from(zone.available());
            deferred += u64::from(zone.deferred);
        }
        line("nr_free_pages", free);
        line("nr_deferred", deferred);
        for (name, frames) in self.0.all_slab_frames().rows() {
            line(name, frames);
        }
        for (row, name) in VMSTAT_NAMES.into_iter().enumerate() {
            let of_node = |(node, _)| self.0.numa_statistics(node).rows()[row].1;
            line(name, self.0.nodes().with_memory().map(of_node).sum());
        }
        for &event in Event::ALL {
            line(event.name(), self.0.events().get(event));
        }
        for (name, times) in self.0.slow_paths().rows() {
            line(name, times);
        }
    }
}

impl<M: Machine> Report for Vmstat<'_, M> {
    fn name(&self) -> &'static str {
        "vmstat"
    }

    fn for_each_value(&self, each: &mut dyn FnMut(&dyn fmt::Display, &dyn fmt::Display, u64)) {
        self.for_each_line(|name, value| each(&"", &name, value));
    }
}

impl<M: Machine> fmt::Display for Vmstat<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut result = Ok(());
        self.for_each_line(|name, value| {
            if result.is_ok() {
                result = writeln!(f, "{name} {value}");
            }
        });
        result
    }
}
