//! [`Failure`]: what is told of an allocation that failed, and [`RateLimit`], which keeps a storm of failures short.
//!
//! Users: the slow paths of pages and objects, where they give up, with no lock held.
//!
//! A report has Linux's lines (`warn_alloc`, `slab_out_of_memory`, `show_mem`): what was asked for, by whom, then each
//! zone's free memory against its watermarks, and its free blocks by order. It allocates nothing, writes one line at a
//! time through [`Machine::warn`], and takes the locks of depots and zones one after the other.
//!
//! # Theory
//!
//! A [`RateLimit`] is one word: when its window began, how many reports it let through since, and how many it did not.
//! Whoever asks changes all three in one compare-and-swap, so that a window never lets more through than its burst and
//! every suppressed report is told once. Relaxed: the word orders nothing else.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;

use quarry_topology::NodeId;

use crate::frame::{FRAME_BYTES, Order};
use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::mobility::Mobility;
use crate::policy::Policy;
use crate::registry::CacheView;
use crate::service::Service;
use crate::statistics::ZoneInfo;

/// Reports let through in each [`WINDOW`]. Linux's `DEFAULT_RATELIMIT_BURST`.
const BURST: u64 = 10;

/// Linux's `DEFAULT_RATELIMIT_INTERVAL`.
const WINDOW: Duration = Duration::from_secs(5);

/// The limits of both kinds of reports: objects that fail by the thousand do not hide that pages fail, too.
pub(crate) struct Reports {
    pages: RateLimit,
    objects: RateLimit,
}

impl Reports {
    pub(crate) const fn new() -> Self {
        Self { pages: RateLimit::new(), objects: RateLimit::new() }
    }
}

impl<M: Machine> Service<M> {
    /// Tells that there was no page block, unless `__GFP_NOWARN` or too many such reports forbid it. Called with no
    /// lock held; never sleeps.
    #[cold]
    pub(crate) fn report_page_failure(&self, node: NodeId, gfp: Gfp, order: Order) {
        self.report_failure(&self.reports().pages, &Failure { service: self, gfp, node, asked: Asked::Pages(order) });
    }

    /// As [`Self::report_page_failure`], for an object of a cache.
    #[cold]
    pub(crate) fn report_object_failure(&self, node: NodeId, gfp: Gfp, cache: &CacheView) {
        self.report_failure(
            &self.reports().objects,
            &Failure { service: self, gfp, node, asked: Asked::Object(*cache) },
        );
    }

    fn report_failure(&self, limit: &RateLimit, failure: &Failure<M>) {
        if failure.gfp.contains(Gfp::NOWARN) {
            return;
        }
        let Some(suppressed) = limit.admit(self.machine().now()) else { return };
        if suppressed > 0 {
            self.machine().warn(format_args!("allocation failures: {suppressed} reports suppressed"));
        }
        failure.for_each_line(&mut |line| self.machine().warn(line));
    }
}

/// An allocation that failed, as a report of many lines.
pub(crate) struct Failure<'a, M: Machine> {
    service: &'a Service<M>,
    gfp: Gfp,
    node: NodeId,
    asked: Asked,
}

/// What there was none of.
enum Asked {
    Pages(Order),
    /// Of that cache.
    Object(CacheView),
}

impl<M: Machine> Failure<'_, M> {
    fn for_each_line(&self, line: &mut dyn FnMut(fmt::Arguments<'_>)) {
        let machine = self.service.machine();
        let (mode, gfp, node, policy) = (self.gfp.bits(), self.gfp, self.node.0, Policy::load(machine.task()));
        match &self.asked {
            Asked::Pages(order) => line(format_args!(
                "page allocation failure: order:{}, mode:{mode:#x}({gfp}), node={node}, policy={policy}",
                order.get()
            )),
            Asked::Object(cache) => {
                line(format_args!(
                    "SLUB: Unable to allocate memory on node {node}, gfp={mode:#x}({gfp}), policy={policy}"
                ));
                self.describe_cache(cache, line);
            }
        }
        line(format_args!("CPU: {} Task: {}", machine.cpu().0, CurrentTask(machine)));
        for zone in self.service.zones() {
            line(format_args!("{}", ZoneState(&zone)));
            line(format_args!("lowmem_reserve[]:{}", Spared(&zone)));
            let Some(node) = self.service.nodes().get(zone.node) else { continue };
            let blocks = node.zone(zone.kind).free_blocks_by_mobility(machine);
            line(format_args!("Node {} {}:{}", zone.node.0, zone.kind, FreeBlocks(&blocks)));
        }
    }

    fn describe_cache(&self, cache: &CacheView, line: &mut dyn FnMut(fmt::Arguments<'_>)) {
        let geometry = &cache.geometry;
        line(format_args!(
            "  cache: {}, object size: {}, objects per slab: {}, order: {}",
            cache.name,
            geometry.usable(),
            geometry.objects,
            geometry.order.get()
        ));
        for (node, counts) in self.service.depot_counts(cache) {
            line(format_args!(
                "  node {}: slabs: {}, objs: {}, free: {}",
                node.0,
                counts.slabs,
                counts.slabs * geometry.objects,
                counts.stacked + counts.free_in_slabs
            ));
        }
    }
}

impl<M: Machine> fmt::Display for Failure<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut written = Ok(());
        self.for_each_line(&mut |line| written = written.and_then(|()| writeln!(f, "{line}")));
        written
    }
}

struct CurrentTask<'a, M>(&'a M);

impl<M: Machine> fmt::Display for CurrentTask<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.describe_task(self.0.task(), f)
    }
}

/// A zone's memory against its watermarks, on one line.
struct ZoneState<'a>(&'a ZoneInfo);

impl fmt::Display for ZoneState<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zone = self.0;
        write!(f, "Node {} {}", zone.node.0, zone.kind)?;
        for (name, frames) in [
            ("free", zone.free),
            ("min", zone.watermarks.min),
            ("low", zone.watermarks.low),
            ("high", zone.watermarks.high),
            ("free_pcp", zone.per_cpu_lists),
            ("deferred", zone.deferred),
            ("present", zone.present),
            ("managed", zone.managed),
        ] {
            write!(f, " {name}:{}kB", kib(frames))?;
        }
        Ok(())
    }
}

/// The frames a zone spares from requests that could use a higher zone, by the highest they could.
struct Spared<'a>(&'a ZoneInfo);

impl fmt::Display for Spared<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.lowmem_reserve.iter().try_for_each(|frames| write!(f, " {frames}"))
    }
}

/// A zone's free blocks by order, and which mobilities each order has: `3*4kB (UM) 0*8kB ... = 12kB`.
struct FreeBlocks<'a>(&'a [[u32; Order::COUNT]; Mobility::COUNT]);

impl fmt::Display for FreeBlocks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut total = 0;
        for order in Order::all() {
            let blocks: u32 = self.0.iter().map(|of_mobility| of_mobility[order.index()]).sum();
            write!(f, " {blocks}*{}kB", kib(order.frames()))?;
            total += kib(blocks) * u64::from(order.frames());
            if blocks > 0 {
                f.write_str(" (")?;
                for (mobility, of_mobility) in Mobility::ALL.into_iter().zip(self.0) {
                    if of_mobility[order.index()] > 0 {
                        f.write_str(letter(mobility))?;
                    }
                }
                f.write_str(")")?;
            }
        }
        write!(f, " = {total}kB")
    }
}

/// As Linux's `show_migration_types` writes it.
const fn letter(mobility: Mobility) -> &'static str {
    match mobility {
        Mobility::Unmovable => "U",
        Mobility::Movable => "M",
        Mobility::Reclaimable => "E",
    }
}

fn kib(frames: u32) -> u64 {
    u64::from(frames) * (FRAME_BYTES as u64 / 1024)
}

/// Lets [`BURST`] reports through in each [`WINDOW`]; see the module head.
pub(crate) struct RateLimit(AtomicU64);

/// A [`RateLimit`]'s word: from the top, 36 bits of milliseconds, 4 of reports let through, 24 of reports suppressed.
#[derive(Clone, Copy)]
struct Window {
    began: u64,
    reported: u64,
    suppressed: u64,
}

impl Window {
    const SUPPRESSED_BITS: u32 = 24;
    const REPORTED_BITS: u32 = 4;
    const MAX_SUPPRESSED: u64 = (1 << Self::SUPPRESSED_BITS) - 1;

    const fn unpack(word: u64) -> Self {
        Self {
            began: word >> (Self::SUPPRESSED_BITS + Self::REPORTED_BITS),
            reported: word >> Self::SUPPRESSED_BITS & ((1 << Self::REPORTED_BITS) - 1),
            suppressed: word & Self::MAX_SUPPRESSED,
        }
    }

    const fn pack(self) -> u64 {
        (self.began << Self::REPORTED_BITS | self.reported) << Self::SUPPRESSED_BITS | self.suppressed
    }
}

const _: () = assert!(BURST < 1 << Window::REPORTED_BITS, "the count of reports has room for a burst");

impl RateLimit {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Whether one more report may be made now; if so, how many were suppressed before it and not told yet.
    pub(crate) fn admit(&self, now: Duration) -> Option<u64> {
        let now = now.as_millis() as u64;
        let mut admitted = None;
        let decide = |word| {
            let window = Window::unpack(word);
            let opens = now.saturating_sub(window.began) >= WINDOW.as_millis() as u64;
            let next = if opens {
                admitted = Some(window.suppressed);
                Window { began: now, reported: 1, suppressed: 0 }
            } else if window.reported < BURST {
                admitted = Some(0);
                Window { reported: window.reported + 1, ..window }
            } else {
                admitted = None;
                Window { suppressed: (window.suppressed + 1).min(Window::MAX_SUPPRESSED), ..window }
            };
            Some(next.pack())
        };
        self.0.fetch_update(Relaxed, Relaxed, decide).expect("there is always a next state");
        admitted
    }
}

#[cfg(all(test, feature = "hosted"))]
mod tests {
    use super::*;
    use crate::hosted::{Hosted, HostedMachine};
    use crate::policy::NodeMask;
    use quarry_topology::Topology;
    use std::string::{String, ToString};
    use std::vec::Vec;

    fn service() -> &'static Service<HostedMachine> {
        let topology = Topology::builder().node(64 << 20, 1).node(5 << 30, 1).build().expect("a machine");
        let hosted = Hosted::leak(topology).expect("there is address space");
        assert!(hosted.run_on(quarry_topology::CpuId(1)));
        hosted.service()
    }

    /// The report with every amount of memory, and the address of the task, as `#`: these are the service's business.
    fn without_amounts(report: &str) -> String {
        let is_amount = |word: &str| word.chars().all(|letter| letter.is_ascii_hexdigit()) && !word.is_empty();
        let blur = |word: &str| {
            let amount = word.trim_end_matches("kB").rsplit([':', 'x']).next().unwrap_or_default();
            let blocks = word.split_once('*').filter(|(blocks, _)| is_amount(blocks));
            if word.starts_with('(') {
                return String::new();
            }
            if let Some((_, size)) = blocks {
                std::format!("#*{size}")
            } else if (word.ends_with("kB") || word.starts_with("0x")) && is_amount(amount) {
                word.replace(amount, "#")
            } else {
                word.to_string()
            }
        };
        let lines = report.lines().map(|line| match line.split_once(": ") {
            Some(("lowmem_reserve[]", spared)) => {
                std::format!("lowmem_reserve[]:{}", " #".repeat(spared.split(' ').count()))
            }
            _ => line.split(' ').map(blur).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" "),
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_report_of_a_page_failure_reads_as_linux_writes_it() {
        let service = service();
        service.set_mempolicy(Policy::Bind(NodeMask(0b11))).expect("both nodes have memory");
        let failure = Failure {
            service,
            gfp: Gfp::HIGHUSER_MOVABLE | Gfp::ZERO,
            node: NodeId(1),
            asked: Asked::Pages(Order::new(3).expect("an order")),
        };
        insta::assert_snapshot!(without_amounts(&failure.to_string()));
    }

    #[test]
    fn a_report_of_an_object_failure_names_the_cache() {
        let service = service();
        let object = service.kmalloc(64, Gfp::KERNEL);
        let cache = CacheView::kmalloc(crate::class::class_of(64));
        let failure = Failure { service, gfp: Gfp::ATOMIC, node: NodeId(1), asked: Asked::Object(cache) };
        insta::assert_snapshot!(without_amounts(&failure.to_string()));
        // SAFETY: freed once.
        unsafe { service.kfree(object) };
    }

    #[test]
    fn the_blocks_of_a_zone_add_up_to_its_free_memory() {
        let service = service();
        let block = service.alloc_pages(Gfp::KERNEL, Order::ZERO).expect("memory is free");
        let failure = Failure { service, gfp: Gfp::KERNEL, node: NodeId(0), asked: Asked::Pages(Order::ZERO) };
        let report = failure.to_string();
        let after = |line: &str, name: &str| {
            let (_, rest) = line.split_once(name).expect("the line has the row");
            rest.split("kB").next().and_then(|amount| amount.parse::<u64>().ok()).expect("an amount")
        };
        let mut lines = report.lines().filter(|line| line.starts_with("Node "));
        let mut zones = service.zones();
        while let (Some(state), Some(blocks)) = (lines.next(), lines.next()) {
            let zone = zones.next().expect("a zone for each pair of lines");
            assert_eq!(after(state, " free:"), kib(zone.free));
            assert_eq!(after(state, " low:"), kib(zone.watermarks.low));
            assert_eq!(after(blocks, " = "), kib(zone.free), "{blocks}");
        }
        assert!(zones.next().is_none());
        service.__free_pages(block, Order::ZERO);
    }

    #[test]
    fn blocks_are_marked_with_the_mobilities_they_have() {
        let mut blocks = [[0; Order::COUNT]; Mobility::COUNT];
        blocks[Mobility::Unmovable as usize][0] = 2;
        blocks[Mobility::Reclaimable as usize][0] = 1;
        blocks[Mobility::Movable as usize][10] = 3;
        assert_eq!(
            FreeBlocks(&blocks).to_string(),
            " 3*4kB (UE) 0*8kB 0*16kB 0*32kB 0*64kB 0*128kB 0*256kB 0*512kB 0*1024kB 0*2048kB 3*4096kB (M) = 12300kB"
        );
    }

    #[test]
    fn a_window_lets_a_burst_through_and_the_next_tells_how_many_it_did_not() {
        let limit = RateLimit::new();
        let at = |milliseconds| limit.admit(Duration::from_millis(milliseconds));
        assert_eq!(at(7000), Some(0), "the first window opens with the first report");
        assert_eq!((1..10).filter_map(|_| at(7001)).sum::<u64>(), 0);
        assert_eq!((0..25).find_map(|_| at(11_999)), None);
        assert_eq!(at(12_000), Some(25));
        assert_eq!((1..10).filter(|_| at(12_001) == Some(0)).count(), 9);
        assert_eq!(at(12_002), None);
        assert_eq!(at(60_000), Some(1));
    }

    #[test]
    fn threads_together_get_no_more_than_a_burst() {
        let limit = RateLimit::new();
        let admitted = || (0..1000).filter(|_| limit.admit(Duration::from_secs(61)).is_some()).count() as u64;
        let total: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(admitted)).collect();
            threads.into_iter().map(|thread| thread.join().expect("it does not panic")).sum()
        });
        assert_eq!(total, BURST);
        assert_eq!(limit.admit(Duration::from_secs(66)), Some(4000 - BURST));
    }
}
