//! What is measured: [`Workload`], [`Case`] and the [`Settings`] a plan of cases is made from.

use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use crate::sizes::SIZES;
use crate::subject::Feature;

/// Orders `page` is measured at: 4 KiB to 2 MiB.
pub const ORDERS: core::ops::RangeInclusive<u32> = 0..=9;

/// Sizes `node` is measured at when none are asked for.
const NODE_SIZES: [usize; 3] = [64, 1024, 4096];

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
    /// Many allocations, then their frees, first in, first out. Two rows.
    Batch = "batch",
    /// As `Batch`, but every batch is freed on the next CPU (on one CPU: the same). Two rows.
    Remote = "remote",
    /// Random sizes over slots replaced at random.
    Mix = "mix",
    /// Pairs on a node that is asked for: the local one, a remote one, and both in turn.
    Node = "node",
    /// Pairs of page blocks, by order.
    Page = "page",
}

impl Workload {
    /// Its cases, and what they need.
    const fn shape(self) -> Shape {
        match self {
            Self::Pair | Self::Batch | Self::Remote => Shape::of_sizes(&SIZES),
            Self::PairInlined => Shape { only_known: true, ..Shape::of_sizes(&SIZES).needing(Feature::Inlined) },
            Self::Mix => Shape::MIXED,
            Self::Node => {
                let variants = &[Variant::Local, Variant::Remote, Variant::Alternating];
                Shape { variants, ..Shape::of_sizes(&NODE_SIZES).needing(Feature::Nodes) }
            }
            Self::Page => Shape::ORDERS.needing(Feature::Pages),
        }
    }
}

/// Over what the cases of a workload range, and what they need.
#[derive(Clone, Copy)]
struct Shape {
    extents: Extents,
    /// Sizes other than [`SIZES`] have no code.
    only_known: bool,
    /// One case for each; for none, one that has no variant.
    variants: &'static [Variant],
    needs: Option<Feature>,
    /// CPUs without which it has no meaning.
    least_cpus: usize,
}

/// How large blocks are by default.
#[derive(Clone, Copy)]
enum Extents {
    Sizes(&'static [usize]),
    Orders,
    Mixed,
}

impl Shape {
    const MIXED: Self =
        Self { extents: Extents::Mixed, only_known: false, variants: &[], needs: Some(Feature::Sizes), least_cpus: 1 };

    const ORDERS: Self = Self { extents: Extents::Orders, ..Self::MIXED };

    const fn of_sizes(sizes: &'static [usize]) -> Self {
        Self { extents: Extents::Sizes(sizes), ..Self::MIXED }
    }

    const fn needing(self, feature: Feature) -> Self {
        Self { needs: Some(feature), ..self }
    }
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
    /// Drawn for each block ([`crate::random::log_uniform_size`]).
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
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Remote => "remote",
            Self::Alternating => "alternating",
        })
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
            Workload::Batch | Workload::Remote => &[Phase::Allocate, Phase::Free],
            _ => &[Phase::Whole],
        }
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
    /// Whether single calls are timed, in a pass of its own.
    pub latencies: bool,
    /// Where the random numbers start.
    pub seed: u64,
}

/// What cases can be, over an allocator on a machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Means {
    pub(crate) cpus: usize,
    /// Whether there is a second node with memory.
    pub(crate) several_nodes: bool,
    pub(crate) features: &'static [Feature],
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
            latencies: true,
            seed: 1,
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
            if shape.needs.is_some_and(|feature| !means.features.contains(&feature)) {
                continue;
            }
            let cpu_counts = cpu_counts.iter().filter(|cpus| **cpus >= shape.least_cpus);
            for (extent, variant) in self.variants(&shape, means) {
                cases.extend(cpu_counts.clone().map(|&cpus| Case { workload, extent, variant, cpus }));
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
            Extents::Orders if self.orders.is_empty() => ORDERS.map(Extent::Order).collect(),
            Extents::Orders => self.orders.iter().copied().map(Extent::Order).collect(),
            Extents::Sizes(default) => {
                let sizes = if self.sizes.is_empty() { default } else { &self.sizes };
                let sizes = sizes.iter().filter(|size| !shape.only_known || SIZES.contains(size));
                sizes.copied().map(Extent::Size).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        Means { cpus, several_nodes, features: Feature::ALL }
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
