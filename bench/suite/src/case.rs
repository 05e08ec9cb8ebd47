//! What is measured: [`Workload`], [`Case`] and the [`Settings`] a plan of cases is made from.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use quarry_trace::Trace;

use crate::shape::{Extents, Shape};
use crate::sizes::SIZES;
use crate::subject::Feature;

/// Orders `page` is measured at: 4 KiB to 2 MiB.
pub const ORDERS: core::ops::RangeInclusive<u32> = 0..=9;

macro_rules! workloads {
    ($($(#[$doc:meta])* $workload:ident = $name:literal,)*) => {
        /// The way memory is asked for and given back. [`quarry_record::catalogue`] says more of each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Workload {
            $($(#[$doc])* $workload,)*
        }

        impl Workload {
            /// All of them, in the order they run.
            pub const ALL: &'static [Self] = &[$(Self::$workload),*];

            /// Its name on command lines and in records.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$workload => $name,)*
                }
            }
        }
    };
}

workloads! {
    /// One allocation and its free, over and over; called, the size in a register.
    Pair = "pair",
    /// The same, inlined, the size known at compile time.
    PairInlined = "pair-inlined",
    /// Pairs of zeroed memory.
    PairZeroed = "pair-zeroed",
    /// Pairs of objects of a cache of their own.
    PairCache = "pair-cache",
    /// Many allocations, then their frees, first in, first out. Two rows.
    Batch = "batch",
    /// The same with objects of a cache of their own. Two rows.
    BatchCache = "batch-cache",
    /// Objects of a cache, many in one call.
    Bulk = "bulk",
    /// As `Batch`, but every batch is freed on the next CPU (on one CPU: the same). Two rows.
    Remote = "remote",
    /// As `Batch`, but CPU 0 frees what all allocated. Two rows.
    RemoteZero = "remote-zero",
    /// As `Batch`, but CPU 0 allocates what all free. Two rows.
    OneAllocates = "one-allocates",
    /// Random sizes over slots replaced at random.
    Mix = "mix",
    /// Pairs on a node that is asked for: the local one, a remote one, and both in turn.
    Node = "node",
    /// Pairs in interrupt handlers, alone and in turn with those of a thread.
    Interrupt = "interrupt",
    /// Pairs of page blocks, by order.
    Page = "page",
    /// Pages taken until many are out, and then given back.
    PageOutstanding = "page-outstanding",
    /// The same by small groups.
    PageBulk = "page-bulk",
    /// Many pages, freed on the next CPU (on one CPU: the same). Two rows.
    PageCross = "page-cross",
    /// Many page blocks, then their frees, first in, first out. Two rows.
    LlfreeBulk = "llfree-bulk",
    /// The same, but the blocks of all CPUs are shuffled before they are freed. Two rows.
    LlfreeRand = "llfree-rand",
    /// Pairs of page blocks while many are held.
    LlfreeRepeat = "llfree-repeat",
    /// Page blocks replaced at random in memory full of holes.
    LlfreeFrag = "llfree-frag",

    /// Sizes and slots at random; the slots pass from CPU to CPU.
    Larson = "larson",
    /// Pairs of CPUs: one allocates batches, the other frees them.
    Xmalloc = "xmalloc",
    /// All CPUs but one allocate batches; that one frees them all.
    Producers = "producers",
    /// Lifetimes at random, some long; blocks swapped between CPUs one by one.
    Mstress = "mstress",
    /// Many small sizes in runs; most are freed at once, from both ends.
    Sh6bench = "sh6bench",
    /// The same with few sizes, and blocks of one CPU freed by all others.
    Sh8bench = "sh8bench",
    /// As `Batch` in one row, many objects of one size.
    Threadtest = "threadtest",
    /// Pairs of objects that are written to; the first ones came from one CPU.
    CacheScratch = "cache-scratch",
    /// Pairs of objects that are written to.
    CacheThrash = "cache-thrash",
    /// Small sizes more often than large, some slots more often than others.
    AllocTest = "alloc-test",
    /// The events of a trace, by the CPUs that had them.
    Replay = "replay",

    /// A mix while most of memory is in use, and pages read into a cache that gives them up.
    Pressure = "pressure",
    /// Objects and blocks of pages, long-lived and short-lived, in little memory, and how free memory falls to pieces.
    Fragmentation = "fragmentation",
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No workload has that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownWorkload;

impl fmt::Display for UnknownWorkload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no such workload; choose from")?;
        for (index, workload) in Workload::ALL.iter().enumerate() {
            write!(f, "{} {workload}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl core::error::Error for UnknownWorkload {}

impl FromStr for Workload {
    type Err = UnknownWorkload;

    fn from_str(name: &str) -> Result<Self, UnknownWorkload> {
        Self::ALL.iter().copied().find(|workload| workload.name() == name).ok_or(UnknownWorkload)
    }
}

/// How large the blocks of a case are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of this many bytes.
    Size(usize),
    /// All of `1 << order` pages.
    Order(u32),
    /// The workload chooses for each block.
    Mixed,
}

/// What tells cases of a workload apart beside their extent and their CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Memory of the nearest node that has some.
    Local,
    /// Memory of the farthest.
    Remote,
    /// Local and remote in turn.
    Alternating,
    /// So many blocks a call, or a group.
    Bulk(usize),
    /// So many blocks are out at once.
    Outstanding(usize),
    /// Interrupt handlers allocate, many times each.
    InHandler,
    /// A thread and handlers that interrupt it allocate in turn.
    Interleaved,
    /// So many percent of memory are in use before it begins.
    Used(u8),
}

impl Variant {
    /// Blocks it says are had at once.
    const fn blocks(self) -> usize {
        match self {
            Self::Bulk(count) | Self::Outstanding(count) => count,
            _ => 0,
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Remote => f.write_str("remote"),
            Self::Alternating => f.write_str("alternating"),
            Self::Bulk(count) => write!(f, "bulk {count}"),
            Self::Outstanding(count) => write!(f, "{count} outstanding"),
            Self::InHandler => f.write_str("in handler"),
            Self::Interleaved => f.write_str("interleaved"),
            Self::Used(percent) => write!(f, "{percent} % used"),
        }
    }
}

/// One measurement: a workload on some CPUs. Has one row of results for each of its [phases](Self::phases).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// What is done.
    pub workload: Workload,
    /// To blocks of which size.
    pub extent: Extent,
    /// In which of its variants, where it has some.
    pub variant: Option<Variant>,
    /// On how many CPUs at once: the first so many.
    pub cpus: usize,
}

/// A part of a workload that is measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// All there is.
    Whole,
    /// Allocations.
    Allocate,
    /// Frees.
    Free,
}

impl Phase {
    /// Its name, unless the workload is measured as a whole.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::Whole => None,
            Self::Allocate => Some("allocate"),
            Self::Free => Some("free"),
        }
    }
}

impl Case {
    /// Its rows.
    pub fn phases(&self) -> &'static [Phase] {
        match self.workload {
            Workload::Batch
            | Workload::BatchCache
            | Workload::Remote
            | Workload::RemoteZero
            | Workload::OneAllocates
            | Workload::PageCross
            | Workload::LlfreeBulk
            | Workload::LlfreeRand => &[Phase::Allocate, Phase::Free],
            _ => &[Phase::Whole],
        }
    }

    /// Whether all its CPUs do the same in a phase: not CPU 0 for them, nor each what a trace has it do.
    pub(crate) fn all_work(&self, phase: Phase) -> bool {
        !matches!(
            (self.workload, phase),
            (Workload::RemoteZero, Phase::Free) | (Workload::OneAllocates, Phase::Allocate) | (Workload::Replay, _)
        )
    }

    /// Whether an allocator with these features has what it takes.
    pub(crate) fn is_possible(&self, features: &[Feature], interrupts: bool) -> bool {
        self.workload.shape().is_possible(features, interrupts)
    }

    /// Bytes that live at once by its variant's name.
    fn bytes(&self) -> u64 {
        let length = match self.extent {
            Extent::Size(size) => size as u64,
            Extent::Order(order) => 4096 << order,
            Extent::Mixed => 0,
        };
        (self.variant.map_or(0, Variant::blocks) * self.cpus) as u64 * length
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.workload)?;
        match self.extent {
            Extent::Size(size) => write!(f, ", size {size}")?,
            Extent::Order(order) => write!(f, ", order {order}")?,
            Extent::Mixed => {}
        }
        if let Some(variant) = self.variant {
            write!(f, ", {variant}")?;
        }
        write!(f, ", CPUs {}", self.cpus)
    }
}

/// How much work a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// As much as takes about this long, found out before each case.
    Microseconds(u64),
    /// A fixed number of operations, so that a run on one CPU under an instruction-counting clock repeats exactly.
    Fixed,
}

/// What to measure. Empty lists mean the default.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which workloads; by default all.
    pub workloads: Vec<Workload>,
    /// Which sizes; by default [`SIZES`]. `pair-inlined` leaves out what is not one of those.
    pub sizes: Vec<usize>,
    /// Which orders of `page`; by default [`ORDERS`].
    pub orders: Vec<u32>,
    /// On how many CPUs; by default powers of two and all there are. Counts beyond what there is are left out.
    pub cpus: Vec<usize>,
    /// Where no counts are asked for: on one CPU and on all, and on no number in between.
    pub only_ends: bool,
    /// Samples of each case, at least 1.
    pub samples: usize,
    /// How long a sample is.
    pub effort: Effort,
    /// Blocks a CPU may hold at once, where a workload would hold more.
    pub most_blocks: usize,
    /// Bytes a CPU holds at most, and about as many as it fills in a sample, in the pass that checks and weighs.
    pub checked_bytes: u64,
    /// Whether single calls are timed, in a pass of its own.
    pub latencies: bool,
    /// Where the random numbers start.
    pub seed: u64,
    /// What `replay` replays; by default a small trace of our own.
    pub trace: Option<Arc<Trace>>,
}

/// What cases can be, over an allocator on a machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Means {
    pub(crate) cpus: usize,
    /// Whether there is a second node with memory.
    pub(crate) several_nodes: bool,
    pub(crate) features: &'static [Feature],
    /// Whether there are interrupt handlers.
    pub(crate) interrupts: bool,
    /// Bytes all CPUs may hold together.
    pub(crate) memory: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workloads: Vec::new(),
            sizes: Vec::new(),
            orders: Vec::new(),
            cpus: Vec::new(),
            only_ends: false,
            samples: 101,
            effort: Effort::Microseconds(1000),
            most_blocks: usize::MAX,
            checked_bytes: 1 << 20,
            latencies: true,
            seed: 1,
            trace: None,
        }
    }
}

/// What [`Settings::quick`] measures: the fast path, refills, remote frees, a mix, other nodes, pages.
const QUICK: [Workload; 6] =
    [Workload::Pair, Workload::Batch, Workload::Remote, Workload::Mix, Workload::Node, Workload::Page];

impl Settings {
    /// A look at everything in some seconds: few workloads, sizes and samples, on one CPU and on all.
    pub fn quick() -> Self {
        Self {
            workloads: QUICK.into(),
            sizes: [64, 1024].into(),
            orders: [0, 4].into(),
            only_ends: true,
            samples: 15,
            effort: Effort::Microseconds(200),
            most_blocks: 512,
            ..Self::default()
        }
    }

    /// For figures to keep: three times the samples, each twice as long.
    pub fn full() -> Self {
        Self { samples: 301, effort: Effort::Microseconds(2000), ..Self::default() }
    }

    /// The cases, in the order they run.
    pub(crate) fn plan(&self, means: &Means) -> Vec<Case> {
        let workloads = if self.workloads.is_empty() { Workload::ALL } else { &self.workloads };
        let cpu_counts = self.cpu_counts(means.cpus);
        let mut cases = Vec::new();
        for &workload in workloads {
            let shape = workload.shape();
            if !shape.is_possible(means.features, means.interrupts) {
                continue;
            }
            let cpu_counts = cpu_counts.iter().filter(|cpus| **cpus >= shape.least_cpus);
            for (extent, variant) in self.variants(&shape, means) {
                let with_cpus = cpu_counts.clone().map(|&cpus| Case { workload, extent, variant, cpus });
                // What cannot be held would not be what the variant says.
                cases.extend(with_cpus.filter(|case| {
                    case.bytes() <= means.memory && case.variant.is_none_or(|it| it.blocks() <= self.most_blocks)
                }));
            }
        }
        cases
    }

    fn cpu_counts(&self, cpu_count: usize) -> Vec<usize> {
        if !self.cpus.is_empty() {
            return self.cpus.iter().copied().filter(|cpus| (1..=cpu_count).contains(cpus)).collect();
        }
        if self.only_ends {
            let all = Some(cpu_count).filter(|all| *all > 1);
            return [1].into_iter().chain(all).collect();
        }
        let mut counts: Vec<usize> =
            core::iter::successors(Some(1), |count| Some(count * 2)).take_while(|count| *count < cpu_count).collect();
        counts.push(cpu_count);
        counts
    }

    fn variants(&self, shape: &Shape, means: &Means) -> Vec<(Extent, Option<Variant>)> {
        let variants: Vec<Option<Variant>> = if shape.variants.is_empty() {
            [None].into()
        } else {
            let remote = |variant: &Variant| matches!(variant, Variant::Remote | Variant::Alternating);
            let possible = shape.variants.iter().filter(|variant| means.several_nodes || !remote(variant));
            possible.copied().map(Some).collect()
        };
        let with_variants = |extent| variants.iter().map(move |&variant| (extent, variant));
        self.extents(shape).into_iter().flat_map(with_variants).collect()
    }

    fn extents(&self, shape: &Shape) -> Vec<Extent> {
        match shape.extents {
            Extents::Mixed => [Extent::Mixed].into(),
            Extents::Page => [Extent::Order(0)].into(),
            Extents::Orders(default) => {
                let orders = if self.orders.is_empty() { default } else { &self.orders };
                orders.iter().copied().map(Extent::Order).collect()
            }
            Extents::Sizes(default) => {
                let sizes = if self.sizes.is_empty() { default } else { &self.sizes };
                let possible = |size: &&usize| (!shape.only_known || SIZES.contains(size)) && **size <= shape.most_size;
                let sizes = sizes.iter().filter(possible);
                sizes.copied().map(Extent::Size).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::{BULKS, MOST_OBJECT};
    use alloc::string::ToString;
    use alloc::{format, vec};
    use quarry_record::catalogue;

    #[test]
    fn every_workload_is_found_by_its_name() {
        for workload in Workload::ALL {
            assert_eq!(workload.name().parse(), Ok(*workload));
        }
    }

    #[test]
    fn the_catalogue_describes_every_workload() {
        let described: Vec<&str> = catalogue::WORKLOADS.iter().map(|workload| workload.name).collect();
        let names: Vec<&str> = Workload::ALL.iter().map(|workload| workload.name()).collect();
        assert_eq!(described, names);
    }

    #[test]
    fn an_unknown_workload_is_answered_with_the_known_ones() {
        let error = "pairs".parse::<Workload>().expect_err("there is none of that name");
        let names: Vec<&str> = Workload::ALL.iter().map(|workload| workload.name()).collect();
        assert_eq!(error.to_string(), format!("there is no such workload; choose from {}", names.join(", ")));
    }

    /// An allocator that can do everything, on a machine of so many CPUs.
    fn means(cpus: usize, several_nodes: bool) -> Means {
        Means { cpus, several_nodes, features: Feature::ALL, interrupts: true, memory: 1 << 30 }
    }

    fn cpu_counts(cpu_count: usize) -> Vec<usize> {
        let settings = Settings { workloads: vec![Workload::Mix], ..Settings::default() };
        settings.plan(&means(cpu_count, false)).iter().map(|case| case.cpus).collect()
    }

    #[test]
    fn cpu_counts_are_powers_of_two_and_all() {
        assert_eq!(cpu_counts(1), [1]);
        assert_eq!(cpu_counts(4), [1, 2, 4]);
        assert_eq!(cpu_counts(6), [1, 2, 4, 6]);
    }

    #[test]
    fn a_quick_look_is_at_one_cpu_and_at_all() {
        let counts = |cpu_count| -> Vec<usize> {
            let settings = Settings { workloads: vec![Workload::Mix], ..Settings::quick() };
            settings.plan(&means(cpu_count, false)).iter().map(|case| case.cpus).collect()
        };
        assert_eq!(counts(1), [1]);
        assert_eq!(counts(6), [1, 6]);
    }

    #[test]
    fn cpu_counts_beyond_the_machine_are_left_out() {
        let settings = Settings { workloads: vec![Workload::Mix], cpus: vec![2, 8, 0], ..Settings::default() };
        assert_eq!(settings.plan(&means(4, false)).len(), 1);
    }

    #[test]
    fn inlined_pairs_leave_out_sizes_without_code() {
        let settings = Settings { workloads: vec![Workload::PairInlined], sizes: vec![64, 100], ..Settings::default() };
        let extents: Vec<Extent> = settings.plan(&means(1, false)).iter().map(|case| case.extent).collect();
        assert_eq!(extents, [Extent::Size(64)]);
    }

    #[test]
    fn one_node_has_no_remote_rows() {
        let settings = Settings { workloads: vec![Workload::Node], sizes: vec![64], ..Settings::default() };
        let variants =
            |several| -> Vec<_> { settings.plan(&means(1, several)).iter().map(|case| case.variant).collect() };
        assert_eq!(variants(false), [Some(Variant::Local)]);
        assert_eq!(variants(true), [Some(Variant::Local), Some(Variant::Remote), Some(Variant::Alternating)]);
    }

    #[test]
    fn what_an_allocator_cannot_do_is_left_out() {
        let plan = Settings::default().plan(&Means { features: &[Feature::Sizes], ..means(1, true) });
        assert!(plan.iter().any(|case| case.workload == Workload::Pair));
        let more = [Workload::PairInlined, Workload::Node, Workload::Page];
        assert!(plan.iter().all(|case| !more.contains(&case.workload)));
    }

    fn plan_of(workload: Workload, means: &Means) -> Vec<Case> {
        Settings { workloads: vec![workload], ..Settings::default() }.plan(means)
    }

    #[test]
    fn bulk_calls_need_a_cache_as_well() {
        let of = |features| plan_of(Workload::Bulk, &Means { features, ..means(1, false) }).len();
        assert_eq!(of(&[Feature::Bulk, Feature::Caches]), BULKS.len());
        assert_eq!((of(&[Feature::Bulk]), of(&[Feature::Caches])), (0, 0));
    }

    #[test]
    fn handlers_need_a_machine_that_is_interrupted() {
        assert_eq!(plan_of(Workload::Interrupt, &Means { interrupts: false, ..means(1, false) }), []);
        assert_ne!(plan_of(Workload::Interrupt, &means(1, false)), []);
    }

    #[test]
    fn objects_are_no_larger_than_caches_have_them() {
        let workloads = vec![Workload::PairCache];
        let settings = Settings { workloads, sizes: vec![64, MOST_OBJECT, MOST_OBJECT + 1], ..Settings::default() };
        let extents: Vec<_> = settings.plan(&means(1, false)).iter().map(|case| case.extent).collect();
        assert_eq!(extents, [Extent::Size(64), Extent::Size(MOST_OBJECT)]);
    }

    #[test]
    fn more_than_memory_holds_is_not_outstanding() {
        let means = Means { memory: 2 * 512 * 4096, ..means(2, false) };
        let plan = plan_of(Workload::PageOutstanding, &means);
        let named = |variant, cpus| plan.iter().any(|case| case.variant == Some(variant) && case.cpus == cpus);
        assert!(named(Variant::Outstanding(512), 2) && !named(Variant::Outstanding(4096), 1));
        let few = Settings { workloads: vec![Workload::PageOutstanding], most_blocks: 64, ..Settings::default() };
        let most = few.plan(&self::means(1, false)).iter().filter_map(|case| case.variant).map(Variant::blocks).max();
        assert_eq!(most, Some(64));
    }

    #[test]
    fn what_one_cpu_does_for_another_needs_two() {
        for workload in [Workload::RemoteZero, Workload::OneAllocates] {
            assert!(plan_of(workload, &means(4, false)).iter().all(|case| case.cpus >= 2));
            assert_eq!(plan_of(workload, &means(1, false)), []);
        }
    }

    #[test]
    fn variants_are_told_in_words() {
        let variants =
            [Variant::Bulk(16), Variant::Outstanding(64), Variant::InHandler, Variant::Interleaved, Variant::Used(90)];
        let words: Vec<_> = variants.iter().map(ToString::to_string).collect();
        assert_eq!(words, ["bulk 16", "64 outstanding", "in handler", "interleaved", "90 % used"]);
    }

    #[test]
    fn a_plan_is_ordered_by_workload_then_extent_then_cpus() {
        let settings = Settings { workloads: vec![Workload::Pair], sizes: vec![8, 16], ..Settings::default() };
        let plan: Vec<_> = settings.plan(&means(2, true)).iter().map(ToString::to_string).collect();
        assert_eq!(
            plan,
            ["pair, size 8, CPUs 1", "pair, size 8, CPUs 2", "pair, size 16, CPUs 1", "pair, size 16, CPUs 2"]
        );
    }
}
