//! [`Loop`]: which of the module's loops a case is, over how many slots, and how long a sample of it can be.
//!
//! The numbers are the suite's, so that rows of both stand side by side.

use quarry_suite::dimensions::{
    ALLOC_TEST_FEWEST_SLOTS, ALLOC_TEST_LARGEST, ALLOC_TEST_SLOTS, BATCH, HANDOFF_BATCH, HANDOFF_BATCHES, LARSON_END,
    LARSON_SLOTS, LLFREE_BATCH_BYTES, LLFREE_HELD_BYTES, MIX_SLOTS, MSTRESS_OTHERS, MSTRESS_RECKONED, MSTRESS_RETAINED,
    SH6_END, SH8_LARGEST_PART, SH8_RECKONED, SMARTHEAP_PARTS, SMARTHEAP_PLACES, THREADTEST_OBJECTS,
};
use quarry_suite::{Case, Extent, Variant, Workload, random};

/// The workloads the module has loops for. The others need a trace, or are about how Quarry's memory service gives
/// memory back and what it holds.
pub(crate) const MEASURED: &[Workload] = &[
    Workload::Pair,
    Workload::PairInlined,
    Workload::PairZeroed,
    Workload::PairCache,
    Workload::Batch,
    Workload::BatchCache,
    Workload::Bulk,
    Workload::Remote,
    Workload::RemoteZero,
    Workload::OneAllocates,
    Workload::Mix,
    Workload::Node,
    Workload::Interrupt,
    Workload::Page,
    Workload::PageOutstanding,
    Workload::PageBulk,
    Workload::PageCross,
    Workload::LlfreeBulk,
    Workload::LlfreeRand,
    Workload::LlfreeRepeat,
    Workload::LlfreeFrag,
    Workload::Larson,
    Workload::Xmalloc,
    Workload::Producers,
    Workload::Mstress,
    Workload::Sh6bench,
    Workload::Sh8bench,
    Workload::Threadtest,
    Workload::CacheScratch,
    Workload::CacheThrash,
    Workload::AllocTest,
];

/// The module's words for the nodes a pair asks for.
const LOCAL: usize = 0;
const REMOTE: usize = 1;
const ALTERNATING: usize = 2;

/// What a CPU may hold at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) bytes: u64,
    pub(crate) blocks: usize,
}

impl Limits {
    /// So many blocks of that size, or as many as a CPU may hold; at least 2.
    fn blocks(self, wanted: usize, size: usize) -> usize {
        wanted.min((self.bytes / size as u64) as usize).min(self.blocks).max(2)
    }
}

/// How many operations of a CPU a sample can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// These, always.
    Fixed(u64),
    /// Multiples of this.
    Granule(u64),
}

/// A loop of the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loop {
    /// The module's name of it.
    pub(crate) name: &'static str,
    /// Bytes of a block or of the largest there may be, and the order of a block of pages.
    pub(crate) size: usize,
    pub(crate) order: u32,
    /// Slots of a CPU, objects a call, or the node asked for.
    pub(crate) count: usize,
    pub(crate) length: Length,
}

impl Loop {
    /// The loop of a case; `None` where the module has none.
    pub(crate) fn of(case: Case, limits: Limits) -> Option<Self> {
        let (size, order) = match case.extent {
            Extent::Size(size) => (size, 0),
            Extent::Order(order) => (4096 << order, order),
            Extent::Mixed if case.workload == Workload::Sh8bench => ((limits.bytes / SH8_LARGEST_PART) as usize, 0),
            Extent::Mixed => (random::MIX_MAXIMUM + 1, 0),
        };
        let fixed = |count| (count, Length::Fixed(count as u64));
        let any = |count| (count, Length::Granule(1));
        let groups_of = |count| (count, Length::Granule(count as u64));
        let blocks = |wanted| limits.blocks(wanted, size);
        // Places in whole parts, all but one of which are filled in a sample.
        let parts_of = |places: usize| {
            let part = (places / SMARTHEAP_PARTS).max(1);
            (part * SMARTHEAP_PARTS, Length::Fixed((part * (SMARTHEAP_PARTS - 1)) as u64))
        };
        let (count, length) = match (case.workload, case.variant) {
            (
                Workload::Batch
                | Workload::BatchCache
                | Workload::Remote
                | Workload::RemoteZero
                | Workload::OneAllocates
                | Workload::PageCross,
                _,
            ) => fixed(blocks(BATCH)),
            (Workload::Bulk, Some(Variant::Bulk(count))) => groups_of(count),
            (
                Workload::PageBulk | Workload::PageOutstanding,
                Some(Variant::Bulk(count) | Variant::Outstanding(count)),
            ) => groups_of(blocks(count)),
            (Workload::Mix, _) => {
                let slots = blocks(MIX_SLOTS);
                any(if slots.is_power_of_two() { slots } else { slots.next_power_of_two() / 2 })
            }
            (Workload::Node, Some(Variant::Local)) => any(LOCAL),
            (Workload::Node, Some(Variant::Remote)) => any(REMOTE),
            (Workload::Node, Some(Variant::Alternating)) => any(ALTERNATING),
            (Workload::Interrupt, Some(Variant::Interleaved)) => (0, Length::Granule(2)),
            (Workload::LlfreeBulk | Workload::LlfreeRand, _) => fixed(blocks(LLFREE_BATCH_BYTES / size)),
            (Workload::LlfreeRepeat, _) => any(blocks(LLFREE_HELD_BYTES / size) - 1),
            (Workload::LlfreeFrag, _) => any(blocks(LLFREE_HELD_BYTES / size)),
            (Workload::Larson, _) => any(limits.blocks(LARSON_SLOTS, LARSON_END)),
            (Workload::Xmalloc | Workload::Producers, _) => {
                any(blocks(HANDOFF_BATCH * HANDOFF_BATCHES).next_multiple_of(HANDOFF_BATCHES))
            }
            (Workload::Mstress, _) => fixed(limits.blocks(MSTRESS_RETAINED, MSTRESS_RECKONED) * (1 + MSTRESS_OTHERS)),
            (Workload::Sh6bench, _) => parts_of(limits.blocks(SMARTHEAP_PLACES, SH6_END)),
            (Workload::Sh8bench, _) => parts_of(limits.blocks(SMARTHEAP_PLACES, SH8_RECKONED)),
            (Workload::Threadtest, _) => fixed(blocks(THREADTEST_OBJECTS / case.cpus)),
            // The block a CPU is given.
            (Workload::CacheScratch, _) => any(1),
            (Workload::AllocTest, _) => {
                let slots = limits.blocks(ALLOC_TEST_SLOTS / case.cpus, ALLOC_TEST_LARGEST);
                any(slots.max(ALLOC_TEST_FEWEST_SLOTS))
            }
            (workload, _) if MEASURED.contains(&workload) => any(0),
            _ => return None,
        };
        let name = match case.variant {
            Some(Variant::Interleaved) => "interrupt-interleaved",
            _ => case.workload.name(),
        };
        Some(Self { name, size, order, count, length })
    }
}

/// Of all frees of a case, those on another CPU than the one that allocated, where that does not hang on chance.
pub(crate) fn remote_frees(case: Case) -> Option<f64> {
    let cpus = case.cpus as f64;
    match case.workload {
        _ if case.cpus == 1 => Some(0.0),
        Workload::Remote | Workload::PageCross | Workload::Producers => Some(1.0),
        Workload::RemoteZero | Workload::OneAllocates => Some((cpus - 1.0) / cpus),
        // The odd CPU works alone.
        Workload::Xmalloc => Some((case.cpus - case.cpus % 2) as f64 / cpus),
        Workload::LlfreeRand
        | Workload::LlfreeFrag
        | Workload::Larson
        | Workload::Mstress
        | Workload::Sh8bench
        | Workload::CacheScratch => None,
        _ => Some(0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { bytes: 1 << 30, blocks: usize::MAX };

    fn case(workload: Workload, extent: Extent, variant: Option<Variant>, cpus: usize) -> Case {
        Case { workload, extent, variant, cpus }
    }

    fn found(case: Case) -> (&'static str, usize, Length) {
        let found = Loop::of(case, LIMITS).expect("the module has a loop for it");
        (found.name, found.count, found.length)
    }

    #[test]
    fn the_module_knows_every_loop_by_its_name() {
        let table = include_str!("../../module/workloads.c");
        let variants = [Variant::Local, Variant::InHandler, Variant::Interleaved, Variant::Bulk(4)].map(Some);
        for &workload in MEASURED {
            let loops =
                variants.iter().filter_map(|&variant| Loop::of(case(workload, Extent::Size(64), variant, 2), LIMITS));
            let names: Vec<_> = loops.map(|it| it.name).collect();
            assert!(!names.is_empty(), "{workload}");
            for name in names {
                assert!(table.contains(&format!(".name = \"{name}\"")), "{name}");
            }
        }
    }

    #[test]
    fn what_the_module_has_no_loop_for_is_none() {
        for workload in [Workload::Replay, Workload::Pressure, Workload::Fragmentation, Workload::Footprint] {
            assert_eq!(Loop::of(case(workload, Extent::Mixed, None, 1), LIMITS), None, "{workload}");
        }
    }

    #[test]
    fn shares_of_all_cpus_are_divided_among_them() {
        let threadtest = |cpus| found(case(Workload::Threadtest, Extent::Size(8), None, cpus));
        assert_eq!(threadtest(1), ("threadtest", 8192, Length::Fixed(8192)));
        assert_eq!(threadtest(4), ("threadtest", 2048, Length::Fixed(2048)));
        let alloc_test = |cpus| found(case(Workload::AllocTest, Extent::Mixed, None, cpus)).1;
        assert_eq!((alloc_test(2), alloc_test(1024)), (8192, 32));
    }

    #[test]
    fn a_round_fills_all_parts_but_one() {
        assert_eq!(found(case(Workload::Sh6bench, Extent::Mixed, None, 1)), ("sh6bench", 4095, Length::Fixed(3276)));
        let few = Limits { bytes: 1 << 20, blocks: 7 };
        let sh8 = Loop::of(case(Workload::Sh8bench, Extent::Mixed, None, 1), few).expect("the module has a loop");
        assert_eq!((sh8.count, sh8.length, sh8.size), (5, Length::Fixed(4), 64 << 10));
    }

    #[test]
    fn handlers_and_threads_take_turns_in_pairs() {
        let interrupt = |variant| found(case(Workload::Interrupt, Extent::Size(64), Some(variant), 1));
        assert_eq!(interrupt(Variant::InHandler), ("interrupt", 0, Length::Granule(1)));
        assert_eq!(interrupt(Variant::Interleaved), ("interrupt-interleaved", 0, Length::Granule(2)));
    }

    #[test]
    fn no_cpu_holds_more_than_it_may() {
        let little = Limits { bytes: 1 << 20, blocks: 100 };
        let count = |workload, extent| {
            Loop::of(case(workload, extent, None, 1), little).expect("the module has a loop for it").count
        };
        assert_eq!(count(Workload::Larson, Extent::Mixed), 100);
        assert_eq!(count(Workload::Mix, Extent::Mixed), 64);
        assert_eq!(count(Workload::LlfreeRepeat, Extent::Order(4)), 15);
        // Whole batches of equal length.
        assert_eq!(count(Workload::Xmalloc, Extent::Size(11_000)), 96);
    }

    #[test]
    fn remote_frees_are_told_where_they_are_certain() {
        let share = |workload, cpus| remote_frees(case(workload, Extent::Size(64), None, cpus));
        assert_eq!((share(Workload::Remote, 2), share(Workload::Remote, 1)), (Some(1.0), Some(0.0)));
        assert_eq!((share(Workload::RemoteZero, 4), share(Workload::Pair, 4)), (Some(0.75), Some(0.0)));
        assert_eq!((share(Workload::Xmalloc, 4), share(Workload::Xmalloc, 3)), (Some(1.0), Some(2.0 / 3.0)));
        assert_eq!((share(Workload::Larson, 2), share(Workload::Larson, 1)), (None, Some(0.0)));
    }
}
